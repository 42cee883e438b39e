"""Training pixel maps: sparse in memory or read from disk, and batches prepared in advance."""

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

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nuvlm.base.kernels import cached_njit
from nuvlm.base.logs import track
from nuvlm.base.stores import EventFile
from nuvlm.dataset.pixelmaps import open_shards

logger = logging.getLogger(__name__)

SAMPLE = 256
"""Events sampled to estimate the memory of all."""
OPEN_FILES = 256
"""Stores whose files are open at once; a common limit is 1,024 files per process."""
LONGEST = 2**16 - 1
"""Largest gap, in pixels, that its type can hold."""


class Images(Protocol):
    """Pixel maps of an event table, in the order of its rows."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(views, size, size) of one event."""

    def __len__(self) -> int: ...

    def dense(self, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Images of the events `rows`, which may repeat: uint8 (rows, views, size, size).

        Args:
            out: C-contiguous array of this type and shape, overwritten and returned. Reusing one saves allocations.

        Raises:
            IndexError: a row is out of range.
            InputError: a store is damaged.
        """


@dataclass(frozen=True)
class SparseImages:
    """Pixel maps in memory, storing only the pixels that are not black.

    Attributes:
        shape: see :class:`Images`.
        span: (events, 2) int64, first and end index of each event in `gap` and `value`.
        gap: (coordinates,) uint16, distance from the previous pixel, or from pixel 0, in the flattened event.
        value: (coordinates,) uint8, grey value; 0 for the extra coordinates that split a gap above :data:`LONGEST`.
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
    """Pixel maps that are read from their stores for each batch.

    Args:
        stores: shard name -> pixel-map store.
        table: with the columns shard, row and event_id.

    Raises:
        InputError: a store is damaged, or lacks events of the table.
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
        """All rows of the table, ordered so that each file is read from start to end."""
        return np.lexsort((self._row, self._array))


def open_images(stores: Mapping[str, Path], table: pd.DataFrame, memory_mb: int) -> Images:
    """Pixel maps of an event table: in memory if they fit, otherwise read for each batch.

    Args:
        stores: shard name -> pixel-map store. Each is verified once, here.
        table: with the columns shard, row and event_id.
        memory_mb: memory limit, MB (10^6 bytes).

    Raises:
        InputError: a store is damaged or lacks events of the table, or stores have different image sizes.
    """
    stored = StoredImages(stores, table)
    megabytes = sparse_bytes(stored) / 1e6
    if megabytes > memory_mb:
        logger.info(
            "%d pixel maps need up to %.1f MB of memory, the limit is %d MB: they are read from disk for each batch",
            len(stored), megabytes, memory_mb,
        )  # fmt: skip
        return stored
    sparse = read_sparse(stored)
    logger.info(
        "%d pixel maps in memory: %.1f MB of at most %d MB",
        len(sparse), sparse.nbytes / 1e6, memory_mb,
    )  # fmt: skip
    return sparse


def sparse_bytes(images: Images) -> float:
    """Estimated bytes of `images` as :class:`SparseImages`: from a sample, plus three standard errors."""
    n = len(images)
    sample = np.unique(np.linspace(0, n - 1, min(n, SAMPLE), dtype=np.int64))
    sizes = np.array([3 * len(_encode(images.dense(row)[0])[0]) for row in sample[:, None]], dtype=np.float64)
    if n == 0:
        return 0.0
    error = sizes.std() / math.sqrt(len(sizes)) * math.sqrt(1 - len(sizes) / n)
    return n * float(16 + sizes.mean() + 3 * error)


def read_sparse(stored: StoredImages) -> SparseImages:
    """Read all of `stored` into memory, with one dense event at a time."""
    span = np.zeros((len(stored), 2), dtype=np.int64)
    # They grow in place: concatenating arrays at the end would need twice the memory.
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
        order: rows of each batch; consumed before the first batch is made, so that its random numbers do not depend
            on how far in advance batches are made.
        workers: processes that each prepare two batches in advance. They are forked and share the memory of `images`,
            which is read-only; they do not use the GPU. 0: each batch is made in this process, on demand.

    Raises:
        InputError: a store is damaged.
    """
    order = list(order)
    images.dense(np.empty(0, dtype=np.int64))  # compile the kernel before forking
    # Batches are written to shared memory, which is reused once a batch is released: allocating new pages and sending
    # them through torch's queues takes several times as long as making the batch. Two slots per worker, and two for the
    # caller: the batch in use and the next one.
    slot_bytes = math.prod(images.shape) * max(map(len, order), default=0)
    free = list(range(2 * workers + 2))
    memory = mmap(-1, max(1, slot_bytes * len(free)))

    def tasks() -> Iterator[tuple[int, int | None]]:
        """Index of each batch and a free slot for it; None if the caller holds all slots."""
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
        generator=torch.Generator(),  # leaves the training's generator alone
    )
    iterator = iter(loader)
    try:
        for rows in order:
            made = next(iterator)
            if isinstance(made, Exception):
                raise made
            if isinstance(made, int):
                batch = place(made, len(rows))
                # Frees the slot once no array or tensor uses it: they all refer to the base view.
                finalize(batch.base, free.append, made)
            else:
                batch = made.numpy()
            yield rows, batch
            del batch
    finally:
        del iterator  # stops the workers even if a caught error keeps this frame alive


class _Work(Dataset[int | Tensor | Exception]):
    """Makes a batch in a worker. Returns its slot, the batch if there was no free slot, or the error.

    An error raised here would reach the caller with the worker's traceback as its message.
    """

    def __init__(self, images: Images, order: list[np.ndarray], view: Callable[[int, int], np.ndarray]) -> None:
        self._images, self._order, self._view = images, order, view

    def __getitem__(self, task: tuple[int, int | None]) -> int | Tensor | Exception:
        batch, slot = task
        rows = self._order[batch]
        try:
            if slot is None:
                return torch.from_numpy(self._images.dense(rows))
            self._images.dense(rows, self._view(slot, len(rows)))
            return slot
        except Exception as error:
            error.add_note(traceback.format_exc())
            return error


def _prepare(images: Images, rows: np.ndarray, out: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Check `rows` and `out`, which the compiled kernel does not, and allocate `out` if it is None."""
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
    lit = np.flatnonzero(flat != 0)  # ten times faster on booleans than on bytes
    gap = np.diff(lit, prepend=0)
    splits = np.maximum(gap - 1, 0) // LONGEST
    at = np.cumsum(splits + 1) - 1
    gaps = np.full(len(lit) + splits.sum(), LONGEST, dtype=np.uint16)
    values = np.zeros(len(gaps), dtype=np.uint8)
    gaps[at], values[at] = gap - LONGEST * splits, flat[lit]
    return gaps, values


@cached_njit(nogil=True)
def _fill(images, span, gap, value):  # type: ignore[no-untyped-def]
    """Write the events of `span` (events, 2) to `images` (events, pixels)."""
    for event in range(len(images)):
        image = images[event]
        image[:] = 0
        # Unsigned: numba tests signed indices for negative values.
        pixel = np.uint64(0)
        for i in range(span[event, 0], span[event, 1]):
            pixel += np.uint64(gap[i])
            image[pixel] = value[i]
