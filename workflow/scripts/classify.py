from pathlib import Path
from pkgutil import resolve_name

from nuvlm.base.logs import setup_logging
from nuvlm.dataset.store_list import read_store_list
from nuvlm.models.jobs import ClassificationJob

setup_logging(snakemake.log[0])
tables = [Path(path) for path in snakemake.output if path.endswith(".parquet")]
resolve_name(snakemake.params.run)(
    ClassificationJob(
        model=snakemake.wildcards.model,
        events=Path(snakemake.input.events),
        stores=read_store_list(Path(snakemake.input.pixelmaps)),
        inputs={name: Path(path) for name, path in snakemake.params.inputs.items()},
        settings=snakemake.params.settings,
        threads=snakemake.threads,
        zoom=snakemake.params.zoom,
        folder=Path(snakemake.input.model).parent,
        outputs={path.parent.name: path for path in tables},  # predictions/{model}/{condition}/{part}.parquet
        part=int(snakemake.wildcards.part),
    )
)
