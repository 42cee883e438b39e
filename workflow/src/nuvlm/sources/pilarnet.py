"""Reader of PILArNet-M HDF5 files: voxels of simulated particles, without neutrinos.

Datasets of variable-length float rows, one an event (DATASET.md of PoLAr-MAE and of Panda): ``point``, 8 numbers a
voxel (x, y, z, energy in MeV, then time, charge and others); ``cluster``, 5 or 6 numbers a cluster, first its number of
voxels; ``cluster_extra``. Coordinates are in voxels of 3 mm, in a cube of 768 (arXiv 2006.01993).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from nuvlm.base.errors import InputError
from nuvlm.base.hdf5 import open_hdf5
from nuvlm.detector.voxels import MOST_VOXELS
from nuvlm.sources.hdf5_rows import explained
from nuvlm.sources.shard_writer import VoxelShardWriter
from nuvlm.sources.voxel_images import ImageFile, VoxelImage, write_images

LAYOUT = "PILArNet-M HDF5"
VOXEL_MM = 3.0
N_VOXELS = 768
POINT = 8  # numbers a voxel
CLUSTER = (6, 5)  # numbers a cluster, newest first
AT_ONCE = 50  # events


def convert_pilarnet(path: Path, out: VoxelShardWriter) -> None:
    """Write the events of a PILArNet-M file to a voxel shard. They have no truth of a neutrino.

    Memory holds some events at a time, whatever the length of the file.

    Raises:
        InputError: the file cannot be read or is not of this kind; its values are not MeV; an event cannot be used, or
            none can.
    """
    with open_hdf5(path) as file:
        with explained(path, "its datasets"):
            points, clusters = file.get("point"), file.get("cluster")
            good = _is_rows(points) and (clusters is None or (_is_rows(clusters) and len(clusters) == len(points)))
        if not good:
            raise InputError(
                f"{path}: no dataset 'point' of variable-length rows of floats, or 'cluster' does not match it: this "
                "is not PILArNet-M."
            )
        out.conclude(path, "positions", f"voxels of {VOXEL_MM:g} mm from the origin", f"{LAYOUT}, arXiv 2006.01993")
        write_images(path, out, ImageFile(LAYOUT, "point", None, len(points), _images(path, points, clusters)))


def recognise_pilarnet(path: Path) -> str | None:
    """Describe a PILArNet-M file."""
    try:
        with open_hdf5(path) as file:
            return f"{LAYOUT}: {len(file['point'])} events" if _is_rows(file.get("point")) else None
    except Exception:  # of another kind, or damaged: described by no one
        return None


def _is_rows(dataset: Any) -> bool:
    if not isinstance(dataset, h5py.Dataset) or dataset.ndim != 1:
        return False
    base = h5py.check_vlen_dtype(dataset.dtype)
    return base is not None and base is not str and np.dtype(base).kind in "fiu"


def _images(path: Path, points: h5py.Dataset, clusters: h5py.Dataset | None) -> Iterator[VoxelImage]:
    for start in range(0, len(points), AT_ONCE):
        stop = min(start + AT_ONCE, len(points))
        with explained(path, f"events {start} to {stop - 1}"):
            rows = points[start:stop]
            groups = clusters[start:stop] if clusters is not None else [None] * len(rows)
        for i, (row, group) in enumerate(zip(rows, groups, strict=True), start=start):
            yield _image(f"entry {i}", row, group)


def _image(name: str, row: np.ndarray, group: np.ndarray | None) -> VoxelImage:
    defect = _defect(row, group)
    voxels = row.reshape(-1, POINT) if defect is None else np.zeros((1, POINT), dtype=np.float32)
    centre = VOXEL_MM * (np.floor(voxels[:, :3].astype(np.float64)) + 0.5)
    return VoxelImage(name, centre, (VOXEL_MM,) * 3, voxels[:, 3], defect=defect)


def _defect(row: np.ndarray, group: np.ndarray | None) -> str | None:
    n, left = divmod(len(row), POINT)
    if left or n > MOST_VOXELS:
        return f"has {len(row)} numbers for its voxels, not {POINT} each"
    position = row.reshape(-1, POINT)[:, :3]
    if not ((position >= 0) & (position < N_VOXELS)).all():
        return f"has a voxel outside the cube of {N_VOXELS} voxels"
    if group is None:
        return None
    for width in CLUSTER:
        if len(group) % width == 0 and group.reshape(-1, width)[:, 0].sum() == n:
            return None
    return f"has clusters that do not add up to its {n} voxels"
