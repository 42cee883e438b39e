from pathlib import Path

from nuvlm.dataset.store_list import read_store_list
from nuvlm.report.collect_events import collect_events
from nuvlm.base.logs import setup_logging

setup_logging(snakemake.log[0])
pixel_maps = read_store_list(Path(snakemake.input.pixelmaps))
displays = snakemake.params.displays
collect_events(
    Path(snakemake.input.events),
    snakemake.params.predictions,
    {shard: Path(displays, store.name) for shard, store in pixel_maps.items()} if displays else pixel_maps,
    snakemake.params.events,
    Path(snakemake.output[0]),
    seed=snakemake.params.seed,
    displays=displays is not None,
    explanations=snakemake.params.explanations,
    saliency=snakemake.params.saliency,
    pixel_maps=pixel_maps,
)
