from pathlib import Path

from nuvlm.base.logs import setup_logging
from nuvlm.dataset.event_table import read_test_events
from nuvlm.detector.geometry import Detector
from nuvlm.detector.readout import Recombination
from nuvlm.simulation.cosmics import Cosmics
from nuvlm.simulation.events import simulate_shard

setup_logging(snakemake.log[0])
only = None
if snakemake.params.shards:
    tested = read_test_events(Path(snakemake.input.chosen))
    only = sorted(event for shard in snakemake.params.shards for event in tested[shard])
first_event, n_events = snakemake.params.events or (only[0], only[-1] - only[0] + 1)
simulate_shard(
    Path(snakemake.output[0]),
    Detector(**snakemake.params.detector),
    first_event=first_event,
    n_events=n_events,
    files=list(snakemake.input.get("files", [])),
    offset_mm=tuple(snakemake.params.offset_mm),
    on_bad_event=snakemake.params.on_bad_event,
    recombination=Recombination(**snakemake.params.recombination),
    only=only,
    with_counterfactuals=snakemake.params.with_counterfactuals,
    cosmics=snakemake.params.cosmics and Cosmics(**snakemake.params.cosmics),
    **snakemake.params.settings,
)
