from pathlib import Path

from nuvlm.base.logs import setup_logging
from nuvlm.dataset.event_table import read_test_events
from nuvlm.detector.geometry import Detector
from nuvlm.detector.voxels import select_events

setup_logging(snakemake.log[0])
tested = read_test_events(Path(snakemake.input.chosen))
files = [snakemake.input.voxels] if isinstance(snakemake.input.voxels, str) else snakemake.input.voxels
select_events(
    {Path(file): tested[shard] for file, shard in zip(files, snakemake.params.shards, strict=True)},
    Path(snakemake.output[0]),
    Detector(**snakemake.params.detector),
    snakemake.params.on_bad_event,
    snakemake.params.on_missing_event,
)
