from pathlib import Path

from nuvlm.base.logs import setup_logging

setup_logging(snakemake.log[0])  # first: the imports below write to standard error

from nuvlm.models.vlm.graft import build_grafted_base
from nuvlm.models.vlm.settings import GraftSettings

build_grafted_base(
    Path(snakemake.output[0]).parent,
    GraftSettings(**snakemake.params.settings),
    prompts=Path(snakemake.input.prompts),
    chat_template=Path(snakemake.input.chat_template),
    tensorboard=Path(snakemake.params.tensorboard),
    pixel_maps=Path(snakemake.input.pixelmaps).parent if snakemake.input.pixelmaps else None,
    checkpoint=Path(snakemake.params.checkpoint),
)
