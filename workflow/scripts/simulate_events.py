from pathlib import Path

from nuvlm.detector.readout import Recombination
from nuvlm.detector.geometry import Detector
from nuvlm.base.logs import setup_logging
from nuvlm.simulation.cosmics import Cosmics
from nuvlm.simulation.events import simulate_shard

setup_logging(snakemake.log[0])
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
    cosmics=snakemake.params.cosmics and Cosmics(**snakemake.params.cosmics),
    **snakemake.params.settings,
)
