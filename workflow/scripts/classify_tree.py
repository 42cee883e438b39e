from pathlib import Path

from nuvlm.logs import setup_logging
from nuvlm.tree.classify import classify_tree

setup_logging(snakemake.log[0])
classify_tree(
    Path(snakemake.input.model).parent,
    Path(snakemake.input.events),
    {name: Path(path) for name, path in snakemake.params.stores.items()},
    Path(snakemake.output[0]),
    condition=snakemake.wildcards.condition,
    part=int(snakemake.wildcards.part),
    batch_size=snakemake.params.batch_size,
)
