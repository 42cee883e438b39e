from pathlib import Path

from nuvlm.logs import setup_logging
from nuvlm.tree.settings import TreeSettings
from nuvlm.tree.training import train_tree

setup_logging(snakemake.log[0])
train_tree(
    Path(snakemake.input.events),
    {name: Path(path) for name, path in snakemake.params.stores.items()},
    Path(snakemake.output.training).parent,
    settings=TreeSettings(**snakemake.params.settings),
)
