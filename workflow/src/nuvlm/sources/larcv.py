"""Reader of true energy deposits in LArCV and SPINE files, which have yet to drift."""

from pathlib import Path

from nuvlm.sources.larcv_files import open_images, recognise
from nuvlm.sources.shard_writer import VoxelShardWriter
from nuvlm.sources.voxel_images import write_images


def convert_larcv(path: Path, out: VoxelShardWriter) -> None:
    """Write the events of a LArCV 2 ROOT, LArCV 3 HDF5 or SPINE HDF5 file to a voxel shard.

    Memory holds one block of voxels, and a row an event.

    Raises:
        InputError: the file cannot be read, is not of this kind, or has no product of deposits; its values are not MeV;
            truth that contradicts itself or the charge; an event cannot be used, or none can.
    """
    with open_images(path, out.product, drifted=False) as images:
        write_images(path, out, images)


def recognise_larcv(path: Path) -> str | None:
    """Describe a file with true deposits, or of LArCV without any image that is read."""
    return recognise(path, drifted=False)
