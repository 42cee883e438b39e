from pathlib import Path

from nuvlm.models.cnn.classify import classify_cnn
from nuvlm.base.logs import setup_logging

setup_logging(snakemake.log[0])
classify_cnn(
    Path(snakemake.input.model).parent,
    Path(snakemake.input.events),
    {name: Path(path) for name, path in snakemake.params.stores.items()},
    Path(snakemake.output[0]),
    condition=snakemake.wildcards.condition,
    part=int(snakemake.wildcards.part),
    batch_size=snakemake.params.batch_size,
    threads=snakemake.threads,
    export=Path(snakemake.input.export).parent if snakemake.input.export else None,
)
