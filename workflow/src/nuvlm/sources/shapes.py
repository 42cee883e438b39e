"""Whether points have the shape of tracks and showers: most have another one beside them."""

import itertools
from typing import NamedTuple

import numpy as np

BITS = 21
"""Of each coordinate in the key of a cell."""
NEIGHBOURS = [
    (x << 2 * BITS) + (y << BITS) + z for x, y, z in itertools.product((-1, 0, 1), repeat=3) if (x, y, z) > (0, 0, 0)
]
"""Steps to half of the 26 neighbours of a cell: each pair is found from one of both."""


class Cells(NamedTuple):
    """The cells of a grid that hold points."""

    n: int
    repeated: int
    """Points in a cell that another point is in."""
    connected: int
    """Cells with a point in one of the 26 neighbours."""


def count_cells(index: np.ndarray) -> Cells:
    """Count cells.

    Args:
        index: (points, 3), the cell of each point, as numbers that are finite or not.
    """
    if not len(index):
        return Cells(0, 0, 0)
    limit = 2 ** (BITS - 2)
    cell = np.nan_to_num(index, nan=limit).clip(-limit, limit).astype(np.int64)
    cell += 1 - cell.min(axis=0)
    key = np.unique((cell[:, 0] << 2 * BITS) | (cell[:, 1] << BITS) | cell[:, 2])
    connected = np.zeros(len(key), dtype=bool)
    for step in NEIGHBOURS:
        at = np.minimum(np.searchsorted(key, key + step), len(key) - 1)
        found = key[at] == key + step
        connected |= found
        connected[at[found]] = True
    return Cells(len(key), len(index) - len(key), int(connected.sum()))
