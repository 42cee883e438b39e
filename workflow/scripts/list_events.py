from pathlib import Path

from nuvlm.detector.geometry import Detector
from nuvlm.dataset.list_events import list_events
from nuvlm.dataset.store_list import write_store_list
from nuvlm.base.logs import setup_logging

setup_logging(snakemake.log[0])
stores = {
    name: Path(manifest).parent
    for name, manifest in zip(snakemake.params.shards, snakemake.input.manifests, strict=True)
}
list_events(
    {name: Path(path) for name, path in zip(snakemake.params.shards, snakemake.input.shards, strict=True)},
    stores,
    Path(snakemake.output.events),
    detector=Detector(**snakemake.params.detector),
    train=snakemake.params.train,
    on_bad_event=snakemake.params.on_bad_event,
    **snakemake.params.dataset,
)
write_store_list(Path(snakemake.output.pixelmaps), stores, snakemake.params.made_with)
