"""Images of events with few filled pixels, as few bytes of text: each pixel by where it is and how bright."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVELS = 255
"""Steps of brightness above nothing."""


@dataclass(frozen=True)
class Sparse:
    """The filled pixels of one image."""

    shape: tuple[int, int]
    """Rows and columns."""
    index: np.ndarray
    """(n,) int64, row * columns + column, ascending."""
    values: np.ndarray
    """(n,), above 0."""


def find_filled(image: np.ndarray, threshold: float) -> Sparse:
    """The pixels of `image` (rows, columns) with `threshold` or more."""
    index = np.flatnonzero(image >= threshold)
    rows, columns = image.shape
    return Sparse((rows, columns), index, image.reshape(-1)[index])


def coarsen(image: Sparse, *, total: bool) -> Sparse:
    """Two by two pixels made one: their sum, or the brightest of them, which keeps a thin track of grey values.

    Args:
        image: of any shape; beyond an odd edge nothing is assumed.
        total: whether values add up.
    """
    rows, columns = (-(-side // 2) for side in image.shape)
    of_each = (image.index // image.shape[1]) // 2 * columns + (image.index % image.shape[1]) // 2
    index, group = np.unique(of_each, return_inverse=True)
    values = np.zeros(len(index), dtype=image.values.dtype)
    (np.add if total else np.maximum).at(values, group, image.values)
    return Sparse((rows, columns), index, values)


def log_levels(values: np.ndarray, lowest: float, highest: float) -> np.ndarray:
    """Levels 1 to 255 of values from `lowest` to `highest`, the same ratio between every two (:func:`log_values`)."""
    position = np.log(np.asarray(values, dtype=np.float64) / lowest) / np.log(highest / lowest)
    return np.clip(1 + np.rint(position * (LEVELS - 1)), 1, LEVELS).astype(np.uint8)


def log_values(lowest: float, highest: float) -> np.ndarray:
    """(255,) the value that each level of :func:`log_levels` stands for, from level 1 on."""
    return np.geomspace(lowest, highest, LEVELS)


def encode(image: Sparse, levels: np.ndarray) -> str:
    """Base64 of, for each pixel: how many empty ones come before it, as LEB128, then its level, a byte.

    Args:
        image: the pixels.
        levels: uint8 (n,), of each pixel, 1 to 255.
    """
    gaps = np.diff(image.index, prepend=-1) - 1
    size = 4  # 7 bits each: an image has at most 4096 x 4096 pixels, 2^24
    parts = (gaps[:, None] >> (7 * np.arange(size))) & 0x7F
    length = 1 + (gaps[:, None] >= (1 << (7 * np.arange(1, size)))).sum(axis=1)
    more = np.arange(size) < length[:, None] - 1
    coded = np.column_stack([parts | more << 7, levels]).astype(np.uint8)
    used = np.column_stack([np.arange(size) < length[:, None], np.ones(len(levels), dtype=bool)])
    return base64.b64encode(coded[used].tobytes()).decode()


def decode(text: str, shape: tuple[int, int]) -> np.ndarray:
    """The image that :func:`encode` wrote: uint8 (rows, columns), 0 where nothing is."""
    image = np.zeros(shape[0] * shape[1], dtype=np.uint8)
    at, gap, shift = -1, 0, 0
    data = iter(base64.b64decode(text))
    for byte in data:
        gap |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            at += gap + 1
            image[at] = next(data)
            gap = shift = 0
    return image.reshape(shape)


def encode_map(image: np.ndarray, side: int) -> tuple[str, int]:
    """Base64 of a smooth map in coarse cells, the mean of the pixels in each, row by row.

    Args:
        image: uint8 (size, size).
        side: cells along a side, at most.

    Returns:
        The text, and how many pixels wide a cell is.
    """
    width = -(-len(image) // side)
    n = -(-len(image) // width)
    padded = np.pad(image, (0, n * width - len(image)), mode="edge").astype(np.float64)
    cells = padded.reshape(n, width, n, width).mean(axis=(1, 3))
    return base64.b64encode(np.rint(cells).astype(np.uint8).tobytes()).decode(), width


def size_of(texts: Sequence[Sequence[str]]) -> int:
    """Bytes of all texts together."""
    return sum(len(text) for of_event in texts for text in of_event)
