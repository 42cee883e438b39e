from pathlib import Path

from nuvlm.base.logs import setup_logging
from nuvlm.detector.geometry import Detector
from nuvlm.report.systematics import write_systematics

setup_logging(snakemake.log[0])
write_systematics(
    Path(snakemake.input.events),
    {model: list(map(Path, parts)) for model, parts in snakemake.params.predictions.items()},
    list(map(Path, snakemake.input.voxels)),
    Detector(**snakemake.params.detector),
    snakemake.params.config,
    frozenset(snakemake.params.with_own_voxels),
    page=Path(snakemake.output.page),
    data=Path(snakemake.output.data),
    shifts=Path(snakemake.output.shifts),
    covariance=Path(snakemake.output.covariance),
)
