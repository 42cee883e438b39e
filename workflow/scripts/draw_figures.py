from pathlib import Path

from nuvlm.report.figures import draw_figures
from nuvlm.base.logs import setup_logging

setup_logging(snakemake.log[0])
training = {model: Path(path) for model, path in snakemake.params.training.items()}
draw_figures(Path(snakemake.input.scores), training, Path(snakemake.output[0]).parent)
