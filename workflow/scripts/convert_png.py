from pathlib import Path

from nuvlm.base.logs import setup_logging
from nuvlm.sources.png import convert_png

setup_logging(snakemake.log[0])
convert_png(
    Path(snakemake.input.file),
    Path(snakemake.output[0]).parent,
    Path(snakemake.output.truth),
    views=snakemake.params.views,
    on_bad_event=snakemake.params.on_bad_event,
)
