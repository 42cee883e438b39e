from pathlib import Path

from nuvlm.detector.readout import Recombination
from nuvlm.detector.geometry import Detector
from nuvlm.base.logs import setup_logging
from nuvlm.sources.larndsim import convert_larndsim

setup_logging(snakemake.log[0])
convert_larndsim(
    Path(snakemake.input.file),
    Path(snakemake.output[0]),
    detector=Detector(**snakemake.params.detector),
    offset_mm=tuple(snakemake.params.offset_mm),
    on_bad_event=snakemake.params.on_bad_event,
    recombination=Recombination(**snakemake.params.recombination),
)
