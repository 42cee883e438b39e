"""The visible energy of events: in total, and close to the walls of the detector."""

import numpy as np

from nuvlm.detector.geometry import Detector
from nuvlm.detector.voxels import Voxels

EDGE_MM = 50.0
"""A voxel whose centre is closer than this to a wall counts as edge energy, mm: one published pixel."""


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
