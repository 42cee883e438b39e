from pathlib import Path

from nuvlm.base.logs import setup_logging
from nuvlm.detector.crop import crop_displays

setup_logging(snakemake.log[0])
crop_displays(
    Path(snakemake.input.manifest).parent,
    Path(snakemake.output[0]).parent,
    on_bad_event=snakemake.params.on_bad_event,
    **snakemake.params.pixelmap,
)
