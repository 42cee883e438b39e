from pathlib import Path

from nuvlm.base.logs import setup_logging

setup_logging(snakemake.log[0])  # first: the imports below write to standard error

from nuvlm.models.vlm.pretraining import build_base_model
from nuvlm.models.vlm.settings import ScratchSettings

build_base_model(
    Path(snakemake.output[0]).parent,
    ScratchSettings(**snakemake.params.settings),
    prompts=Path(snakemake.input.prompts),
    vocabulary=Path(snakemake.input.vocabulary),
    chat_template=Path(snakemake.input.chat_template),
    tensorboard=Path(snakemake.params.tensorboard),
    pixel_maps=Path(snakemake.input.pixelmaps).parent if snakemake.input.pixelmaps else None,
    checkpoint=Path(snakemake.params.checkpoint),
)
