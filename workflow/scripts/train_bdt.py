from pathlib import Path

from nuvlm.base.logs import setup_logging
from nuvlm.models.bdt.settings import BdtSettings
from nuvlm.models.bdt.training import train_bdt

setup_logging(snakemake.log[0])
train_bdt(
    Path(snakemake.input.events),
    {name: Path(path) for name, path in snakemake.params.stores.items()},
    Path(snakemake.output.training).parent,
    settings=BdtSettings(**snakemake.params.settings),
)
