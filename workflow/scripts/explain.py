from pathlib import Path
from pkgutil import resolve_name

from nuvlm.base.logs import setup_logging
from nuvlm.dataset.store_list import read_store_list
from nuvlm.models.jobs import ExplanationJob

setup_logging(snakemake.log[0])
resolve_name(snakemake.params.run)(
    ExplanationJob(
        model=snakemake.wildcards.model,
        events=Path(snakemake.input.events),
        stores=read_store_list(Path(snakemake.input.pixelmaps)),
        inputs={name: Path(path) for name, path in snakemake.params.inputs.items()},
        settings=snakemake.params.settings,
        threads=snakemake.threads,
        zoom=snakemake.params.zoom,
        folder=Path(snakemake.input.model).parent,
        out=Path(snakemake.params.out),
        part=int(snakemake.wildcards.part),
        predictions={model: Path(path) for model, path in snakemake.params.predictions.items()},
        condition=snakemake.params.condition,
        count=snakemake.params.n_events,
        seed=snakemake.params.seed,
    )
)
