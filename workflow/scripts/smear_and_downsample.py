from pathlib import Path

from nuvlm.detector.readout import Readout
from nuvlm.detector.geometry import Detector, Diffusion
from nuvlm.detector.displays import smear_and_downsample
from nuvlm.base.logs import setup_logging
from nuvlm.sources.voxel_shards import check_voxel_shard

setup_logging(snakemake.log[0])
shard, detector = Path(snakemake.input.shard), Detector(**snakemake.params.detector)
foreign = snakemake.params.foreign
smear_and_downsample(
    shard,
    Path(snakemake.output[0]).parent,
    detector=detector,
    conclusions=check_voxel_shard(shard, detector, snakemake.params.on_bad_event) if foreign else None,
    diffusion=Diffusion(**snakemake.params.display["diffusion"]),
    readout=Readout(**snakemake.params.display["readout"]),
    on_bad_event=snakemake.params.on_bad_event,
    pixel_mm=snakemake.params.display["pixel_mm"],
)
