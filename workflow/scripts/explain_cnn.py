from pathlib import Path

from nuvlm.models.cnn.saliency import explain_cnn
from nuvlm.base.logs import setup_logging

setup_logging(snakemake.log[0])
explain_cnn(
    Path(snakemake.input.model).parent,
    Path(snakemake.input.events),
    {shard: Path(path) for shard, path in snakemake.params.stores.items()},
    {model: Path(path) for model, path in snakemake.params.predictions.items()},
    Path(snakemake.params.store),
    name=snakemake.wildcards.cnn,
    part=int(snakemake.wildcards.part),
    count=snakemake.params.events,
    seed=snakemake.params.seed,
    threads=snakemake.threads,
)
