from pathlib import Path

from nuvlm.base.logs import setup_logging
from nuvlm.models.vlm.hub import fetch_base_model
from nuvlm.models.vlm.settings import HubSettings

setup_logging(snakemake.log[0])
fetch_base_model(
    Path(snakemake.output[0]).parent,
    HubSettings(**snakemake.params.settings),
    chat_templates=Path(snakemake.input.chat_templates[0]).parent,
)
