from pathlib import Path

from nuvlm.dataset.list_events import take_events
from nuvlm.base.logs import setup_logging

setup_logging(snakemake.log[0])
take_events(
    Path(snakemake.input.events),
    Path(snakemake.input.pixelmaps),
    Path(snakemake.output.events),
    Path(snakemake.output.pixelmaps),
    images=snakemake.params.images,
    made_with=snakemake.params.made_with,
    **snakemake.params.dataset,
)
