from pathlib import Path

from nuvlm.detector.geometry import Detector
from nuvlm.dataset.list_events import list_events
from nuvlm.base.logs import setup_logging

setup_logging(snakemake.log[0])
list_events(
    {name: Path(path) for name, path in zip(snakemake.params.shards, snakemake.input.shards, strict=True)},
    {name: Path(path) for name, path in snakemake.params.stores.items()},
    Path(snakemake.output[0]),
    detector=Detector(**snakemake.params.detector),
    train=snakemake.params.train,
    on_bad_event=snakemake.params.on_bad_event,
    **snakemake.params.dataset,
)
