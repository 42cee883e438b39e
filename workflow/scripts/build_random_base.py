from pathlib import Path

from nuvlm.base.logs import setup_logging

setup_logging(snakemake.log[0])  # first: the imports below write to standard error

from nuvlm.models.vlm.random_base import build_random_base
from nuvlm.models.vlm.settings import HubSettings

build_random_base(
    Path(snakemake.output[0]).parent,
    HubSettings(**snakemake.params.settings),
    shapes=Path(snakemake.input.shape).parents[1],
    chat_templates=Path(snakemake.input.chat_templates[0]).parent,
    prompts=Path(snakemake.input.prompts),
    vocabulary=Path(snakemake.input.vocabulary),
    quantization=snakemake.params.quantization,
    bf16=snakemake.params.bf16,
)
