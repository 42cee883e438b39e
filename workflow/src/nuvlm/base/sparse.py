"""Two-dimensional events that are mostly zero: without the zeros in memory, and as chunks of a Zarr array.

A chunk is a zstd frame that is composed directly from the pixels that are not zero: runs of them are raw blocks, and
the zeros between are RLE blocks, four bytes each. Every zstd decoder unpacks it to the dense event, so the array is an
ordinary one. :class:`SparseFile` reads the pixels without unpacking the zeros. Displays with pixels of 5 mm have 0.6
million pixels a view, of which some 10,000 hold charge: to compress and unpack the zeros took most of the time.

Format of a frame: RFC 8878, section 3.1.1. Its checksum would be of the dense event; a CRC-32C of the frame follows
instead (Zarr's codec ``crc32c``).
"""

import os
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import google_crc32c
import numpy as np

from nuvlm.base.errors import InputError, remake
from nuvlm.base.kernels import cached_njit
from nuvlm.base.stores import EventFile

HEADER = np.frombuffer(b"\x28\xb5\x2f\xfd\xa0", dtype=np.uint8)
"""Magic number, and the descriptor: a single segment, four bytes of content size, no checksum, no dictionary."""
LARGEST_BLOCK = 2**17
"""Largest block of a frame, bytes of its content."""
RAW, RLE = 0, 1
"""Types of block: bytes as they are, and one byte repeated."""
CRC_BYTES = 4


@dataclass(frozen=True)
class SparseEvents:
    """The pixels of events (rows, columns) that are not zero.

    Attributes:
        shape: rows and columns of an event.
        begins: (events + 1,) int64, the first pixel of each event, and the end of the last one.
        index: (pixels,) uint32, row * columns + column, increasing within an event.
        value: (pixels,), float32 in a store.
    """

    shape: tuple[int, int]
    begins: np.ndarray
    index: np.ndarray
    value: np.ndarray

    def __len__(self) -> int:
        return len(self.begins) - 1

    def __getitem__(self, event: int) -> np.ndarray:
        """One event, dense: (rows, columns); negative positions count from the end.

        Raises:
            IndexError: there is none.
        """
        return self.select(np.array([range(len(self))[event]])).dense()[0]

    @classmethod
    def of(cls, dense: np.ndarray) -> Self:
        """The pixels that are not zero of dense events (events, rows, columns)."""
        events, rows, columns = dense.shape
        flat = dense.reshape(events, rows * columns)
        event, index = np.nonzero(flat)
        begins = np.searchsorted(event, np.arange(events + 1))
        return cls((rows, columns), begins, index.astype(np.uint32), flat[event, index])

    def dense(self) -> np.ndarray:
        """(events, rows, columns)."""
        flat = np.zeros((len(self), self.shape[0] * self.shape[1]), dtype=self.value.dtype)
        flat[np.repeat(np.arange(len(self)), self.counts), self.index] = self.value
        return flat.reshape(len(self), *self.shape)

    @cached_property
    def counts(self) -> np.ndarray:
        """(events,) number of pixels that are not zero."""
        return np.diff(self.begins)

    def values_of(self, event: int) -> np.ndarray:
        """The values of one event."""
        return self.value[self.begins[event] : self.begins[event + 1]]

    def select(self, events: np.ndarray) -> "SparseEvents":
        """The events with these positions, increasing, none twice.

        Raises:
            ValueError: they are not, or there is no such event.
        """
        if len(events) and (events[0] < 0 or events[-1] >= len(self) or (events[1:] <= events[:-1]).any()):
            raise ValueError(f"positions of events must increase from 0 to at most {len(self) - 1}: {events}")
        if len(events) == len(self):
            return self
        kept = np.isin(np.repeat(np.arange(len(self)), self.counts), events)
        begins = np.concatenate([[0], np.cumsum(self.counts[events])])
        return SparseEvents(self.shape, begins, self.index[kept], self.value[kept])

    def chunks(self) -> list[bytes]:
        """Each event as a chunk of a Zarr array with the codecs ``zstd`` and ``crc32c``."""
        out, ends = _encode(self.begins, self.index, self.value.view(np.uint8), self.shape[0] * self.shape[1])
        whole = out.tobytes()
        frames = [whole[begin:end] for begin, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)]
        return [frame + google_crc32c.value(frame).to_bytes(CRC_BYTES, "little") for frame in frames]


def as_sparse(events: SparseEvents | np.ndarray) -> SparseEvents:
    """The events without their zeros, if they are dense (events, rows, columns)."""
    return events if isinstance(events, SparseEvents) else SparseEvents.of(events)


class SparseFile(EventFile):
    """Reads consecutive events of a Zarr array as :class:`SparseEvents`.

    Other arrays, such as those of older stores, are read as well, more slowly.

    Args:
        store: folder that :func:`nuvlm.base.stores.open_store` has opened.
        array: zarr.Array in it, float32 (events, rows, columns).
    """

    def __init__(self, store: Any, array: Any) -> None:
        super().__init__(store, array)
        self._array = array
        self._shape = array.shape[1], array.shape[2]
        self.pixels = array.shape[1] * array.shape[2]
        """Number of pixels of an event."""

    def events(self, begin: int, end: int) -> SparseEvents:
        """Events `begin` to `end` - 1.

        Raises:
            InputError: the file has changed since its store was opened.
        """
        places = self._places[begin:end].astype(np.int64)
        first = int(places[0, 0])
        try:
            if (places[1:, 0] == places[:-1].sum(axis=1)).all():
                whole = os.pread(self._file.fileno(), int(places[-1].sum()) - first, first)
                ends = np.append(places[:, 0] - first, len(whole))
                if _are_whole(whole, ends):
                    content = np.frombuffer(whole, dtype=np.uint8)
                    known, begins, index, bits = _decode(content, ends, self.pixels)
                    if known:
                        return SparseEvents(self._shape, begins, index, bits.view(np.float32))
            return SparseEvents.of(self._array[begin:end])
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(
                f"{self._store}: events {begin} to {end - 1} are no longer readable ({error}). {remake(self._store)}"
            ) from error


def _are_whole(chunks: bytes, ends: np.ndarray) -> bool:
    """Whether each chunk ends with the CRC-32C of what precedes it."""
    for begin, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        frame, crc = chunks[begin : end - CRC_BYTES], chunks[end - CRC_BYTES : end]
        if google_crc32c.value(frame) != int.from_bytes(crc, "little"):
            return False
    return True


@cached_njit()
def _encode(begins, index, value, pixels):  # type: ignore[no-untyped-def]
    """Frames of all events, one after the other, and (events + 1,) where they begin and end.

    `value` has four bytes a pixel. Positions are unsigned because numba would test signed ones for negative indices.
    """
    size = np.uint64(4 * pixels)
    largest = min(size, np.uint64(LARGEST_BLOCK))
    # Bytes of all frames at most: two block headers, a zero and a value for a pixel, and the longest blocks of zeros.
    out = np.empty(11 * len(index) + len(begins) * (32 + 8 * (size // largest + 1)), dtype=np.uint8)
    ends = np.zeros(len(begins), dtype=np.int64)
    one, four = np.uint64(1), np.uint64(4)
    n = np.uint64(0)
    for event in range(len(begins) - 1):
        for b in HEADER:
            out[n] = b
            n += one
        for shift in range(4):
            out[n] = (size >> np.uint64(8 * shift)) & np.uint64(255)
            n += one
        last = n  # header of the last block
        at = np.uint64(0)  # byte of the content that is next
        p, end = np.uint64(begins[event]), np.uint64(begins[event + 1])
        while at < size:
            start = four * np.uint64(index[p]) if p < end else size
            while at < start:
                length = min(start - at, largest)
                last = n
                n = _put_header(out, n, RLE, length)
                out[n] = 0
                n += one
                at += length
            if p == end:
                break
            # A single zero between two pixels is shorter as it is than as a block.
            q = p + one
            while q < end and index[q] - index[q - one] <= 2 and four * np.uint64(index[q] - index[p]) < largest:
                q += one
            last = n
            n = _put_header(out, n, RAW, four * (np.uint64(index[q - one] - index[p]) + one))
            while p < q:
                if at < four * np.uint64(index[p]):
                    for b in range(4):
                        out[n + np.uint64(b)] = 0
                    n += four
                    at += four
                for b in range(4):
                    out[n + np.uint64(b)] = value[four * p + np.uint64(b)]
                n += four
                at += four
                p += one
        out[last] |= np.uint8(1)
        ends[event + 1] = n
    return out[:n], ends


@cached_njit(inline="always")
def _put_header(out, n, kind, length):  # type: ignore[no-untyped-def]
    """Write the header of a block, not the last one, at `n`; return its end."""
    header = (length << np.uint64(3)) | np.uint64(kind << 1)
    for b in range(3):
        out[n + np.uint64(b)] = (header >> np.uint64(8 * b)) & np.uint64(255)
    return n + np.uint64(3)


@cached_njit()
def _decode(content, ends, pixels):  # type: ignore[no-untyped-def]
    """Whether all frames are such as `_encode` writes; and if so, begins, index, and values as uint32."""
    begins = np.zeros(len(ends), dtype=np.int64)
    index = np.empty(len(content) // 4, dtype=np.uint32)
    bits = np.empty(len(content) // 4, dtype=np.uint32)
    one, four, all_pixels = np.uint64(1), np.uint64(4), np.uint64(pixels)
    n = np.uint64(0)
    for event in range(len(ends) - 1):
        at, end = np.uint64(ends[event]), np.uint64(ends[event + 1] - CRC_BYTES)
        if ends[event + 1] - ends[event] < len(HEADER) + 4 + 4 + CRC_BYTES:
            return False, begins, index, bits
        for b in HEADER:
            if content[at] != b:
                return False, begins, index, bits
            at += one
        if _word(content, at) != four * all_pixels:
            return False, begins, index, bits
        at += four
        pixel, last = np.uint64(0), np.uint64(0)
        while not last:
            if at + four > end:
                return False, begins, index, bits
            header = _word(content, at) & np.uint64(0xFFFFFF)
            last, kind, length = header & one, (header >> one) & np.uint64(3), header >> np.uint64(3)
            at += np.uint64(3)
            if length % four or pixel + length // four > all_pixels:
                return False, begins, index, bits
            if kind == RLE and content[at] == 0:
                at += one
                pixel += length // four
            elif kind == RAW and at + length <= end:
                for _ in range(length // four):
                    value = _word(content, at)
                    index[n], bits[n] = pixel, value
                    n += np.uint64((value & np.uint64(0x7FFFFFFF)) != 0)  # neither 0 nor -0
                    at += four
                    pixel += one
            else:
                return False, begins, index, bits
        if at != end or pixel != all_pixels:
            return False, begins, index, bits
        begins[event + 1] = n
    return True, begins, index[:n], bits[:n]


@cached_njit(inline="always")
def _word(content, at):  # type: ignore[no-untyped-def]
    """Four bytes, little-endian."""
    word = np.uint64(0)
    for b in range(4):
        word |= np.uint64(content[at + np.uint64(b)]) << np.uint64(8 * b)
    return word
