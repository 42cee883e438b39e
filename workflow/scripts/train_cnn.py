from pathlib import Path

from nuvlm.models.cnn.settings import TrainSettings
from nuvlm.models.cnn.training import train_cnn
from nuvlm.base.logs import setup_logging

setup_logging(snakemake.log[0])
train_cnn(
    Path(snakemake.input.events),
    {name: Path(path) for name, path in snakemake.params.stores.items()},
    Path(snakemake.output.training).parent,
    Path(snakemake.params.checkpoint),
    Path(snakemake.params.tensorboard),
    settings=TrainSettings.model_validate(snakemake.params.settings | snakemake.params.reading),
    threads=snakemake.threads,
    log=Path(snakemake.log[0]),
)
