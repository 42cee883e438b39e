from pathlib import Path

from nuvlm.base.logs import setup_logging

setup_logging(snakemake.log[0])  # first: the imports below write to standard error

import nuvlm.models.vlm.offline  # noqa: F401
from nuvlm.models.vlm.settings import FinetuneSettings
from nuvlm.models.vlm.training import Job, launch

launch(
    Job(
        base=Path(snakemake.input.base).parent,
        events=Path(snakemake.input.events),
        stores=snakemake.params.stores,
        out=Path(snakemake.output.training).parent,
        checkpoints=Path(snakemake.params.checkpoints),
        tensorboard=Path(snakemake.params.tensorboard),
        prompts=Path(snakemake.input.prompts),
        vocabulary=snakemake.input.vocabulary or None,
        deepspeed=snakemake.input.deepspeed or None,
        log=Path(snakemake.log[0]),
        settings=FinetuneSettings(**snakemake.params.settings),
    )
)
