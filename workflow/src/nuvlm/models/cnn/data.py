"""The pixel maps that a CNN learns from: in memory, or read as they are needed, and made into batches ahead of it."""

import logging
import math
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from mmap import mmap
from pathlib import Path
from typing import Any, Protocol
from weakref import finalize

import numba
import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nuvlm.base.logs import track
from nuvlm.base.stores import EventFile
from nuvlm.dataset.pixelmaps import open_shards

logger = logging.getLogger(__name__)

SAMPLE = 256
"""Events that are looked at to tell how much memory all will take."""
OPEN_FILES = 256
"""Stores whose files are open at once; a process may often have no more than 1,024."""
LONGEST = 2**16 - 1
"""Pixels from one coordinate to the next that its type can hold."""


class Images(Protocol):
    """Pixel maps of the rows of an event table, in their order."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(views, size, size) of one event."""

    def __len__(self) -> int: ...

    def dense(self, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Images of the events `rows`, which may repeat: uint8 (rows, views, size, size).

        Args:
            out: written to and returned, if given: C-contiguous, of that type and shape. To write to the same memory
                again saves the system the work of handing out more.

        Raises:
            IndexError: there is no such event.
            InputError: a store is damaged.
        """


@dataclass(frozen=True)
class SparseImages:
    """Pixel maps in memory as the pixels that are not black.

    Attributes:
        shape: see :class:`Images`.
        span: (events, 2) int64, where each event's coordinates begin and end.
        gap: (coordinates,) uint16, how far a pixel is from the one before, or from pixel 0, in the flattened event.
        value: (coordinates,) uint8; 0 where a pixel is so far that a coordinate has to lie on the way.
    """

    shape: tuple[int, int, int]
    span: np.ndarray
    gap: np.ndarray
    value: np.ndarray

    def __len__(self) -> int:
        return len(self.span)

    @property
    def nbytes(self) -> int:
        return self.span.nbytes + self.gap.nbytes + self.value.nbytes

    def dense(self, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """See :meth:`Images.dense`."""
        rows, images = _prepare(self, rows, out)
        _fill(images.reshape(len(rows), math.prod(self.shape)), self.span[rows], self.gap, self.value)
        return images


class StoredImages:
    """Pixel maps that are read from their stores each time.

    Args:
        stores: shard name -> pixel-map store.
        table: with the columns shard, row and event_id.

    Raises:
        InputError: a damaged store, or one that does not hold the events.
    """

    def __init__(self, stores: Mapping[str, Path], table: pd.DataFrame) -> None:
        self.shape: tuple[int, int, int] = (0, 0, 0)
        self._row = np.zeros(len(table), dtype=np.int64)
        self._array = np.zeros(len(table), dtype=np.int64)
        arrays: list[tuple[Path, Any]] = []
        for store, positions, images, rows in open_shards(stores, table):
            self.shape = images.shape[1:]
            self._row[positions], self._array[positions] = rows, len(arrays)
            arrays.append((store, images))
        self._file = lru_cache(OPEN_FILES)(lambda array: EventFile(*arrays[array]))

    def __len__(self) -> int:
        return len(self._row)

    def dense(self, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """See :meth:`Images.dense`."""
        rows, images = _prepare(self, rows, out)
        for row, image in zip(rows, images, strict=True):
            self._file(self._array[row]).read(self._row[row], image)
        return images

    def in_order_of_storage(self) -> np.ndarray:
        """All rows of the table, so that files are read from begin to end."""
        return np.lexsort((self._row, self._array))


def open_images(stores: Mapping[str, Path], table: pd.DataFrame, memory_mb: int) -> Images:
    """Pixel maps of the rows of an event table: in memory where they fit, else read as they are needed.

    Args:
        stores: shard name -> pixel-map store. Each is checked here, and not again.
        table: with the columns shard, row and event_id.
        memory_mb: most that they may take in memory, MB (10^6 bytes).

    Raises:
        InputError: a damaged store, one that does not hold the events, or stores of different sizes.
    """
    stored = StoredImages(stores, table)
    megabytes = sparse_bytes(stored) / 1e6
    if megabytes > memory_mb:
        logger.info(
            "%d pixel maps would take up to %.1f MB in memory, and may take %d: they are read from disk for each batch",
            len(stored), megabytes, memory_mb,
        )  # fmt: skip
        return stored
    sparse = read_sparse(stored)
    logger.info(
        "%d pixel maps in memory: %.1f MB, and %d may be taken",
        len(sparse), sparse.nbytes / 1e6, memory_mb,
    )  # fmt: skip
    return sparse


def sparse_bytes(images: Images) -> float:
    """What `images` will take as :class:`SparseImages`, by a sample of them, plus three standard errors."""
    n = len(images)
    looked_at = np.unique(np.linspace(0, n - 1, min(n, SAMPLE), dtype=np.int64))
    sizes = np.array([3 * len(_encode(images.dense(row)[0])[0]) for row in looked_at[:, None]], dtype=np.float64)
    if n == 0:
        return 0.0
    error = sizes.std() / math.sqrt(len(sizes)) * math.sqrt(1 - len(sizes) / n)
    return n * float(16 + sizes.mean() + 3 * error)


def read_sparse(stored: StoredImages) -> SparseImages:
    """All of `stored` in memory, with no more than one event dense at any time."""
    span = np.zeros((len(stored), 2), dtype=np.int64)
    # They grow in place: arrays that are put together in the end would take twice the memory.
    gaps, values = bytearray(), bytearray()
    image = np.empty((1, *stored.shape), dtype=np.uint8)
    for row in track(stored.in_order_of_storage(), "pixel maps"):
        gap, value = _encode(stored.dense(row[None], image))
        gaps += gap.data
        values += value.data
        span[row] = len(values) - len(value), len(values)
    return SparseImages(stored.shape, span, np.frombuffer(gaps, np.uint16), np.frombuffer(values, np.uint8))


def batches(images: Images, order: Iterable[np.ndarray], workers: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the rows of each batch and its images, uint8 (rows, views, size, size), in the given order.

    Args:
        order: rows of each batch. All are asked for before the first batch is made, so that what they are drawn with
            does not depend on how far ahead batches are made.
        workers: processes that make batches while those before are used, two each. They are forked, so that they share
            the memory of `images`, which nobody writes to; they use no GPU. 0: made in this process, when asked for.

    Raises:
        InputError: a store is damaged.
    """
    order = list(order)
    images.dense(np.empty(0, dtype=np.int64))  # compiles here what each worker would have to
    # Batches are written to memory that all processes share, and that is used again once nobody holds the batch: to get
    # new pages for each, and to send them by torch's queues, takes several times as long as to make it. Two for each
    # worker are under way, and two in the caller's hands: the one that it asks for, and the one that it has.
    slot_bytes = math.prod(images.shape) * max(map(len, order), default=0)
    free = list(range(2 * workers + 2))
    memory = mmap(-1, max(1, slot_bytes * len(free)))

    def tasks() -> Iterator[tuple[int, int | None]]:
        """Which batch to make, and the place for it, if the caller has not kept them all."""
        for batch in range(len(order)):
            yield batch, free.pop() if free else None

    def place(slot: int, events: int) -> np.ndarray:
        view = np.frombuffer(memory, np.uint8, events * math.prod(images.shape), slot * slot_bytes)
        return view.reshape(events, *images.shape)

    loader = DataLoader(
        _Work(images, order, place),
        batch_size=None,
        sampler=tasks(),
        num_workers=workers,
        multiprocessing_context="fork" if workers else None,
        generator=torch.Generator(),  # not the one that training draws from
    )
    iterator = iter(loader)
    try:
        for rows in order:
            made = next(iterator)
            if isinstance(made, Exception):
                raise made
            if isinstance(made, int):
                batch = place(made, len(rows))
                finalize(batch.base, free.append, made)  # of the view, which all that is made from the batch holds
            else:
                batch = made.numpy()
            yield rows, batch
            del batch
    finally:
        del iterator  # ends the workers, also where somebody keeps the error and with it this frame


class _Work(Dataset[int | Tensor | Exception]):
    """What a worker does: the slot that a batch is in; without a slot, the batch; or what went wrong.

    An error that torch handed on would have the worker's traceback for a message.
    """

    def __init__(self, images: Images, order: list[np.ndarray], place: Callable[[int, int], np.ndarray]) -> None:
        self._images, self._order, self._place = images, order, place

    def __getitem__(self, task: tuple[int, int | None]) -> int | Tensor | Exception:
        batch, slot = task
        rows = self._order[batch]
        try:
            if slot is None:
                return torch.from_numpy(self._images.dense(rows))
            self._images.dense(rows, self._place(slot, len(rows)))
            return slot
        except Exception as error:
            error.add_note(traceback.format_exc())
            return error


def _prepare(images: Images, rows: np.ndarray, out: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The rows and the array for their images, checked: the kernel does not."""
    rows = np.asarray(rows, dtype=np.int64)
    if len(rows) and not 0 <= rows.min() <= rows.max() < len(images):
        raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(images)} events")
    shape = (len(rows), *images.shape)
    if out is None:
        out = np.empty(shape, dtype=np.uint8)
    elif out.shape != shape or out.dtype != np.uint8 or not out.flags.c_contiguous:
        raise ValueError(f"an array of {out.dtype} {out.shape} for images of uint8 {shape}, C-contiguous")
    return rows, out


def _encode(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gaps and values of one event, see :class:`SparseImages`."""
    flat = image.reshape(-1)
    lit = np.flatnonzero(flat != 0)  # ten times as fast as of the bytes themselves
    gap = np.diff(lit, prepend=0)
    on_the_way = np.maximum(gap - 1, 0) // LONGEST
    at = np.cumsum(on_the_way + 1) - 1
    gaps = np.full(len(lit) + on_the_way.sum(), LONGEST, dtype=np.uint16)
    values = np.zeros(len(gaps), dtype=np.uint8)
    gaps[at], values[at] = gap - LONGEST * on_the_way, flat[lit]
    return gaps, values


@numba.njit(cache=True, nogil=True)
def _fill(images, span, gap, value):  # type: ignore[no-untyped-def]
    """Write events with coordinates in `span` (events, 2) to `images` (events, pixels)."""
    for event in range(len(images)):
        image = images[event]
        image[:] = 0
        # Unsigned, as numba would check a signed index for a count from the end.
        pixel = np.uint64(0)
        for i in range(span[event, 0], span[event, 1]):
            pixel += np.uint64(gap[i])
            image[pixel] = value[i]
