from pathlib import Path

from nuvlm.base.logs import setup_logging

setup_logging(snakemake.log[0])  # first: the imports below write to standard error

import nuvlm.models.vlm.jobs  # noqa: F401  # offline
from nuvlm.models.vlm.export import export_vlm
from nuvlm.models.vlm.settings import FinetuneSettings

export_vlm(
    Path(snakemake.input.base).parent,
    Path(snakemake.input.training).parent,
    Path(snakemake.input.scores),
    Path(snakemake.output.card).parents[1],
    prompts=Path(snakemake.input.prompts),
    card=Path(snakemake.input.card),
    run=snakemake.params.run,
    data=snakemake.params.data,
    settings=FinetuneSettings(**snakemake.params.settings),
)
