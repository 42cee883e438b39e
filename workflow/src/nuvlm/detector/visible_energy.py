"""The visible energy of events: in total, and close to the walls of the detector; without that of cosmic muons."""

import numpy as np

from nuvlm.base.errors import InputError
from nuvlm.detector.geometry import Detector
from nuvlm.detector.voxels import Voxels, VoxelShard

EDGE_MM = 50.0
"""A voxel whose centre is closer than this to a wall counts as edge energy, mm: one published pixel."""

COSMIC_DTYPE = np.dtype(
    [
        ("event_id", "u8"),
        ("pdg", "i4"),
        ("kinetic_mev", "f4"),
        ("momentum_mev", "f4", (3,)),
        ("entry_mm", "f4", (3,)),
        ("time_us", "f4"),
        ("visible_mev", "f8"),
        ("edge_mev", "f8"),
    ]
)
"""Table /truth/cosmics: the muons of cosmic rays in an event, one row each (docs/simulation.md)."""


class VisibleEnergy:
    """Sums the energy of voxels before electronics and diffusion.

    Args:
        detector: geometry of the voxels.
    """

    def __init__(self, detector: Detector) -> None:
        self._inner: list[tuple[int, int]] = []  # along each axis, first and end of the voxels not close to a wall
        for (low, high), size, n in zip(detector.box_mm, detector.voxel_mm, detector.shape, strict=True):
            centre = low + (np.arange(n) + 0.5) * size
            inner = np.flatnonzero(np.minimum(centre - low, high - centre) >= EDGE_MM)
            self._inner.append((int(inner[0]), int(inner[-1]) + 1) if len(inner) else (n, n))

    def __call__(self, voxels: Voxels, begins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Visible energy of each event, and the part of it in voxels closer than EDGE_MM to a wall.

        Args:
            voxels: of all the events, one after the other; no event is empty.
            begins: (events + 1,), the first voxel of each event, and the end of the last one.

        Returns:
            Two float64 arrays (events,), MeV.
        """
        at_edge = np.zeros(len(voxels), dtype=bool)
        for index, (first, end) in zip((voxels.x, voxels.y, voxels.z), self._inner, strict=True):
            at_edge |= (index < first) | (index >= end)
        energy = voxels.energy.astype(np.float64)
        return np.add.reduceat(energy, begins[:-1]), np.add.reduceat(energy * at_edge, begins[:-1])


def cosmic_energy(shard: VoxelShard) -> np.ndarray:
    """Visible energy of the cosmic muons in each event of a shard, and the part of it close to a wall.

    Returns:
        (events, 2), MeV; zeros for a shard without the table /truth/cosmics.

    Raises:
        InputError: the table has no such columns, events that are not in the shard, or energies that cannot be.
    """
    ids = shard.events["event_id"]
    energy = np.zeros((len(ids), 2))
    table = shard.truth("cosmics")
    if table is None:
        return energy
    columns = ("event_id", "visible_mev", "edge_mev")
    if missing := set(columns) - set(table.dtype.names or ()):
        raise InputError(
            f"{shard.path}: /truth/cosmics has no column {', '.join(sorted(missing))}. Correct the program that wrote "
            "the file (docs/simulation.md), or leave out the table."
        )
    order = np.argsort(ids)
    row = order[np.minimum(np.searchsorted(ids, table["event_id"], sorter=order), len(ids) - 1)]
    parts = np.column_stack([table[name] for name in columns[1:]]).astype(np.float64)
    wrong = (ids[row] != table["event_id"]) | ~(np.isfinite(parts) & (parts >= 0)).all(axis=1)
    if wrong.any():
        event = table["event_id"][wrong][0]
        raise InputError(
            f"{shard.path}: a row of event {event} in /truth/cosmics has no such event, or an energy that is negative "
            "or not a number. Make the shard again, or leave out the table."
        )
    np.add.at(energy, row, parts)
    return energy
