from pathlib import Path

from nuvlm.base.logs import setup_logging

setup_logging(snakemake.log[0])  # first: the imports below write to standard error

import nuvlm.models.vlm.offline  # noqa: F401
from nuvlm.models.vlm.classify import classify_vlm
from nuvlm.models.vlm.settings import ClassifySettings

classify_vlm(
    Path(snakemake.input.base).parent,
    Path(snakemake.input.training).parent,
    Path(snakemake.input.events),
    {name: Path(path) for name, path in snakemake.params.stores.items()},
    Path(snakemake.output[0]),
    part=int(snakemake.wildcards.part),
    condition=snakemake.wildcards.condition,
    prompts=Path(snakemake.input.prompts),
    settings=ClassifySettings(**snakemake.params.settings),
    quantization=snakemake.params.quantization,
    bf16=snakemake.params.bf16,
)
