"""Reader of reconstructed charge in LArCV and SPINE files: it was read out, and is not drifted again."""

from pathlib import Path

from nuvlm.sources.larcv_files import open_images, recognise
from nuvlm.sources.shard_writer import DriftedShardWriter
from nuvlm.sources.voxel_images import write_images


def convert_larcv_charge(path: Path, out: DriftedShardWriter) -> None:
    """Write the events of a LArCV 2 ROOT, LArCV 3 HDF5 or SPINE HDF5 file to a voxel shard of drifted charge.

    Raises:
        InputError: as :func:`nuvlm.sources.larcv.convert_larcv`.
    """
    with open_images(path, out.product, drifted=True) as images:
        write_images(path, out, images)


def recognise_larcv_charge(path: Path) -> str | None:
    """Describe a file with charge that was read out."""
    return recognise(path, drifted=True)
