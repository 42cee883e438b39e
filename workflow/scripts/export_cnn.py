from pathlib import Path

from nuvlm.models.cnn.export import export_cnn
from nuvlm.base.logs import setup_logging

setup_logging(snakemake.log[0])
export_cnn(Path(snakemake.input.training).parent, Path(snakemake.output[0]).parent)
