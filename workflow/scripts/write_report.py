from pathlib import Path

import nuvlm
from nuvlm.base.logs import setup_logging
from nuvlm.report.page import write_report

setup_logging(snakemake.log[0])
write_report(
    scores=Path(snakemake.input.scores),
    figures=Path(snakemake.input.browser).parent,
    browser=Path(snakemake.input.browser),
    predictions=snakemake.params.predictions,
    training={model: Path(path) for model, path in snakemake.params.training.items()},
    published=Path(snakemake.input.published),
    config=snakemake.params.config,
    repository=Path(nuvlm.__file__).parents[3],
    page=Path(snakemake.output.page),
    data=Path(snakemake.output.data),
    tables=Path(snakemake.output.tables),
)
