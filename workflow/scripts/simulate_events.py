from pathlib import Path

from nuvlm.base.logs import setup_logging
from nuvlm.dataset.event_table import read_test_events
from nuvlm.detector.geometry import Detector
from nuvlm.detector.readout import Recombination
from nuvlm.evaluation.nuisances import split_variation
from nuvlm.simulation.events import simulate_shard

setup_logging(snakemake.log[0])
chosen = snakemake.input.get("chosen")
shard = split_variation(snakemake.wildcards.shard)[1]
first_event, n_events = snakemake.params.events
simulate_shard(
    Path(snakemake.output[0]),
    Detector(**snakemake.params.detector),
    first_event=first_event,
    n_events=n_events,
    files=list(snakemake.input.get("files", [])),
    offset_mm=tuple(snakemake.params.offset_mm),
    on_bad_event=snakemake.params.on_bad_event,
    recombination=Recombination(**snakemake.params.recombination),
    only=read_test_events(Path(chosen), shard) if chosen else None,
    **snakemake.params.settings,
)
