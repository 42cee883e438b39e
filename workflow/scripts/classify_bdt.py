from pathlib import Path

from nuvlm.base.logs import setup_logging
from nuvlm.models.bdt.classify import classify_bdt

setup_logging(snakemake.log[0])
classify_bdt(
    Path(snakemake.input.model).parent,
    Path(snakemake.input.events),
    {name: Path(path) for name, path in snakemake.params.stores.items()},
    Path(snakemake.output[0]),
    condition=snakemake.wildcards.condition,
    part=int(snakemake.wildcards.part),
    batch_size=snakemake.params.batch_size,
)
