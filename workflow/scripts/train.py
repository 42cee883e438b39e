from pathlib import Path
from pkgutil import resolve_name

from nuvlm.base.logs import setup_logging
from nuvlm.dataset.store_list import read_store_list
from nuvlm.models.jobs import TrainingJob

setup_logging(snakemake.log[0])
resolve_name(snakemake.params.run)(
    TrainingJob(
        model=snakemake.wildcards.model,
        events=Path(snakemake.input.events),
        stores=read_store_list(Path(snakemake.input.pixelmaps)),
        inputs={name: Path(path) for name, path in snakemake.params.inputs.items()},
        settings={**snakemake.params.settings, **snakemake.params.untracked},
        threads=snakemake.threads,
        zoom=snakemake.params.zoom,
        out=Path(snakemake.output.training).parent,
        checkpoints=Path(snakemake.params.checkpoints),
        tensorboard=Path(snakemake.params.tensorboard),
        log=Path(snakemake.log[0]),
    )
)
