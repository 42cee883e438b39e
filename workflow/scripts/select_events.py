from pathlib import Path

from nuvlm.base.logs import setup_logging
from nuvlm.dataset.event_table import read_test_events
from nuvlm.detector.geometry import Detector
from nuvlm.detector.voxels import select_events
from nuvlm.evaluation.nuisances import split_variation

setup_logging(snakemake.log[0])
shard = split_variation(snakemake.wildcards.shard)[1]
select_events(
    Path(snakemake.input.shard),
    Path(snakemake.output[0]),
    Detector(**snakemake.params.detector),
    read_test_events(Path(snakemake.input.chosen), shard),
    snakemake.params.on_bad_event,
)
