from pathlib import Path

from nuvlm.dataset.store_list import read_store_list
from nuvlm.evaluation.metrics import evaluate
from nuvlm.base.logs import setup_logging

setup_logging(snakemake.log[0])
evaluate(
    Path(snakemake.input.events),
    snakemake.params.predictions,
    Path(snakemake.output[0]),
    repeats=snakemake.params.repeats,
    level=snakemake.params.level,
    explanations=snakemake.params.explanations,
    saliency=snakemake.params.saliency,
    stores=read_store_list(Path(snakemake.input.pixelmaps)) if snakemake.input.pixelmaps else {},
    spectrum=Path(snakemake.input.spectrum) if snakemake.input.spectrum else None,
)
