"""Cells of a grid that are connected: the fast count against a slow one."""

import numpy as np
import pytest

from nuvlm.sources.shapes import count_cells


def counted_slowly(index):
    cells = {tuple(cell) for cell in index.tolist()}
    beside = sum(
        any(
            (x + i, y + j, z + k) in cells
            for i in (-1, 0, 1)
            for j in (-1, 0, 1)
            for k in (-1, 0, 1)
            if (i, j, k) != (0, 0, 0)
        )
        for x, y, z in cells
    )
    return len(cells), len(index) - len(cells), beside


@pytest.mark.parametrize("side", [3, 12, 60])
def test_cells_are_counted_as_one_by_one(rng, side):
    index = rng.integers(-side, side, (200, 3)).astype(float)
    assert tuple(count_cells(index)) == counted_slowly(index.astype(int))


def test_a_track_is_connected_and_what_is_no_number_is_not():
    track = np.arange(20)[:, None] * [1, 1, 0]
    assert count_cells(track) == (20, 0, 20)
    assert count_cells(3.0 * track) == (20, 0, 0)
    assert count_cells(np.zeros((0, 3))) == (0, 0, 0)
    assert count_cells(np.array([[np.nan] * 3, [0, 0, 0], [1e30, 0, 0]])).connected == 0
