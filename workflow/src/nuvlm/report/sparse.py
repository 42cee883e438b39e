"""Compact text encoding of sparse images: position and level of each filled pixel."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVELS = 255
"""Number of levels above zero."""


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
    """Pixels of `image` (rows, columns) with a value of at least `threshold`."""
    index = np.flatnonzero(image >= threshold)
    rows, columns = image.shape
    return Sparse((rows, columns), index, image.reshape(-1)[index])


def coarsen(image: Sparse, *, total: bool) -> Sparse:
    """Merge blocks of 2 x 2 pixels: sum, or maximum, which keeps thin tracks of grey values.

    Args:
        image: of any shape; odd sides are padded with empty pixels.
        total: sum (energies) or maximum (grey values).
    """
    rows, columns = (-(-side // 2) for side in image.shape)
    of_each = (image.index // image.shape[1]) // 2 * columns + (image.index % image.shape[1]) // 2
    index, group = np.unique(of_each, return_inverse=True)
    values = np.zeros(len(index), dtype=image.values.dtype)
    (np.add if total else np.maximum).at(values, group, image.values)
    return Sparse((rows, columns), index, values)


def log_levels(values: np.ndarray, lowest: float, highest: float) -> np.ndarray:
    """Logarithmic levels 1 to 255 of values from `lowest` to `highest`."""
    position = np.log(np.asarray(values, dtype=np.float64) / lowest) / np.log(highest / lowest)
    return np.clip(1 + np.rint(position * (LEVELS - 1)), 1, LEVELS).astype(np.uint8)


def log_values(lowest: float, highest: float) -> np.ndarray:
    """(255,) value of each level of :func:`log_levels`, from level 1."""
    return np.geomspace(lowest, highest, LEVELS)


def encode(image: Sparse, levels: np.ndarray) -> str:
    """Base64 of, for each pixel, the number of empty pixels before it (LEB128) and its level (one byte).

    Args:
        image: n filled pixels.
        levels: uint8 (n,), 1 to 255.
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
    """Decode :func:`encode`: uint8 (rows, columns), 0 in empty pixels."""
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
    """Base64 of a smooth map averaged in coarse cells, row by row.

    Args:
        image: uint8 (size, size).
        side: maximum number of cells along a side.

    Returns:
        The text, and the width of a cell in pixels.
    """
    width = -(-len(image) // side)
    n = -(-len(image) // width)
    padded = np.pad(image, (0, n * width - len(image)), mode="edge").astype(np.float64)
    cells = padded.reshape(n, width, n, width).mean(axis=(1, 3))
    return base64.b64encode(np.rint(cells).astype(np.uint8).tobytes()).decode(), width


def size_of(texts: Sequence[Sequence[str]]) -> int:
    """Total size of all texts in bytes."""
    return sum(len(text) for of_event in texts for text in of_event)
