from pathlib import Path

from nuvlm.base.logs import setup_logging

setup_logging(snakemake.log[0])  # first: the imports below write to standard error

import nuvlm.models.vlm.offline  # noqa: F401
from nuvlm.models.vlm.explain import explain_vlm
from nuvlm.models.vlm.settings import ExplainSettings

explain_vlm(
    Path(snakemake.input.base).parent,
    Path(snakemake.input.training).parent,
    Path(snakemake.input.events),
    {name: Path(path) for name, path in snakemake.params.stores.items()},
    {model: Path(path) for model, path in snakemake.params.predictions.items()},
    Path(snakemake.output[0]),
    part=int(snakemake.wildcards.part),
    count=snakemake.params.events,
    seed=snakemake.params.seed,
    condition=snakemake.params.condition,
    prompts=Path(snakemake.input.prompts),
    vocabulary=Path(snakemake.input.vocabulary),
    settings=ExplainSettings(**snakemake.params.settings),
    merge_adapter=snakemake.params.merge_adapter,
    quantization=snakemake.params.quantization,
    bf16=snakemake.params.bf16,
)
