from pathlib import Path

from nuvlm.base.logs import setup_logging

setup_logging(snakemake.log[0])

from nuvlm.workflow.config import parse_config
from nuvlm.workflow.rehearse import rehearse_run

print(
    rehearse_run(
        parse_config(snakemake.params.config),
        Path(snakemake.output[0]).parent,
        prompts=Path(snakemake.input.prompts),
        vocabulary=Path(snakemake.input.vocabulary),
        resources=Path(snakemake.params.resources),
    )
)
