"""Pixels as text: nothing is lost but what is said to be."""

import base64

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import array_shapes, arrays

from nuvlm.report.sparse import coarsen, decode, encode, encode_map, find_filled, log_levels, log_values


@settings(max_examples=100, deadline=None)
@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=40)))
def test_every_image_comes_back(image: np.ndarray) -> None:
    filled = find_filled(image, 1)
    assert (decode(encode(filled, filled.values), filled.shape) == image).all()


@pytest.mark.parametrize("gap", [0, 1, 126, 127, 128, 16383, 16384, 2097151, 2097152, 4096 * 4096 - 1])
def test_gaps_of_every_length_come_back(gap: int) -> None:
    image = np.zeros((4096, 4096), np.uint8)
    image.flat[gap] = 9
    filled = find_filled(image, 1)
    text = encode(filled, filled.values)
    assert np.flatnonzero(decode(text, filled.shape)).tolist() == [gap]
    assert len(text) <= 8


def test_levels_are_as_close_as_they_are_said_to_be() -> None:
    values = np.geomspace(0.05, 400, 10_000)
    steps = log_values(0.05, 400)
    back = steps[log_levels(values, 0.05, 400).astype(int) - 1]
    assert np.abs(back / values - 1).max() <= (steps[1] / steps[0]) ** 0.5 - 1 + 1e-9
    assert back[[0, -1]] == pytest.approx([0.05, 400])


def test_coarse_pixels_hold_the_sum_or_the_brightest() -> None:
    image = np.zeros((5, 7))
    image[0, 0], image[1, 1], image[4, 6] = 1.5, 2.0, 7.0
    total, brightest = (coarsen(find_filled(image, 0.1), total=total) for total in (True, False))
    assert total.shape == brightest.shape == (3, 4)
    assert total.index.tolist() == brightest.index.tolist() == [0, 11]
    assert total.values.tolist() == [3.5, 7.0]
    assert brightest.values.tolist() == [2.0, 7.0]


def test_a_map_keeps_its_place_in_coarse_cells() -> None:
    image = np.zeros((50, 50), np.uint8)
    image[30:32, 20:22] = 200
    text, width = encode_map(image, 32)
    assert width == 2
    cells = np.frombuffer(base64.b64decode(text), np.uint8).reshape(25, 25)
    assert np.argwhere(cells).tolist() == [[15, 10]]
    assert cells[15, 10] == 200
