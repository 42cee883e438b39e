from pathlib import Path

from nuvlm.report.collect_events import collect_events
from nuvlm.base.logs import setup_logging

setup_logging(snakemake.log[0])
collect_events(
    Path(snakemake.input.events),
    snakemake.params.predictions,
    {shard: Path(path) for shard, path in snakemake.params.stores.items()},
    snakemake.params.events,
    Path(snakemake.output[0]),
    seed=snakemake.params.seed,
    displays=snakemake.params.displays,
    explanations=snakemake.params.explanations,
    saliency=snakemake.params.saliency,
    pixel_maps={shard: Path(path) for shard, path in snakemake.params.pixelmaps.items()},
)
