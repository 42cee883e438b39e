"""HDF5: files that are written whole or not at all without keeping them in memory, and those of others read safely."""

import errno
import io
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import hdf5plugin
import numpy as np

from nuvlm.base.errors import InputError
from nuvlm.base.files import atomic_path

ZSTD_LEVEL = 3
LARGEST_ROW, LARGEST_CHUNK, LARGEST_TABLE = 2**20, 2**28, 2**31
"""Maximum size in bytes, unpacked, of a row, a chunk and a table read at once: a few kB can unpack to terabytes."""
LOCKED = {errno.EAGAIN, errno.EACCES}
"""Error numbers of a lock that another process holds. All others are of file systems without locks, which answer
ENOLCK, EOPNOTSUPP, ENOSYS, EINVAL or the Linux kernel's own ENOTSUPP, 524."""


def hdf5_file(path: str | Path, **options: Any) -> h5py.File:
    """An HDF5 file, open for reading, without a lock where the file system has none.

    Args:
        path: the file.
        options: further ones of h5py.File.

    Raises:
        OSError: it cannot be opened; another process may be writing it.
    """
    try:
        return h5py.File(path, "r", **options)
    except OSError as error:
        refused = re.search(r"unable to lock file, errno = (\d+)", str(error))
        if refused is None or int(refused[1]) in LOCKED:
            raise
        return h5py.File(path, "r", locking=False, **options)


class Disk(io.RawIOBase):
    """A file object for h5py that stores the first write error and ignores all later writes.

    If HDF5 cannot write its buffers, as on a full disk, it crashes the process at exit. This object hides the error
    from HDF5, so that the file is closed normally; :meth:`check` raises it in Python.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._error: OSError | None = None

    def check(self) -> None:
        """Raise the first write error, if there was one."""
        if self._error:
            raise self._error

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any, /) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        buffer[len(data) :] = bytes(len(buffer) - len(data))  # data that could not be written reads as zeros
        return len(buffer)

    def write(self, data: Any, /) -> int:
        left = memoryview(data)
        while len(left) and not self._error:
            try:
                left = left[self._file.write(left) :]
            except OSError as error:
                self._error = error
        return len(data)

    def truncate(self, size: int | None = None, /) -> int:
        try:
            return self._file.truncate(size)
        except OSError as error:
            self._error = self._error or error
            return self._file.tell() if size is None else size


class Table:
    """A growing one-dimensional dataset, zstd with checksum. Rows are buffered and written many at a time."""

    def __init__(self, file: h5py.File, name: str, dtype: Any, chunk: int) -> None:
        self._dataset = file.create_dataset(
            name, (0,), dtype, maxshape=(None,), chunks=(chunk,), fletcher32=True, **hdf5plugin.Zstd(clevel=ZSTD_LEVEL)
        )
        self._chunk = chunk
        self._pieces: list[np.ndarray] = []
        self._waiting = 0

    def append(self, rows: np.ndarray) -> None:
        self._pieces.append(rows)
        self._waiting += len(rows)
        if self._waiting >= 4 * self._chunk:
            self.flush()

    def flush(self) -> None:
        """Write the buffered rows."""
        if self._waiting:
            end = len(self._dataset) + self._waiting
            self._dataset.resize((end,))
            self._dataset[end - self._waiting :] = np.concatenate(self._pieces)
        self._pieces, self._waiting = [], 0


@contextmanager
def create_hdf5(path: str | Path) -> Iterator[tuple[h5py.File, Disk]]:
    """Open a new HDF5 file at `path`, which appears whole when the block succeeds.

    A long loop in the block should call ``disk.check()`` regularly, so that it stops soon after the disk is full.

    Raises:
        InputError: the disk is full or the folder is not writable; the message gives the remedy.
    """
    with atomic_path(path) as partial, open(partial, "w+b", buffering=0) as file:
        disk = Disk(file)
        # The format of HDF5 1.10 has checksums on its metadata too. In older formats a flipped bit may hide a chunk,
        # which then reads as zeros.
        with h5py.File(disk, "w", libver=("v110", "v110")) as hdf5:
            yield hdf5, disk
        disk.check()


@contextmanager
def open_hdf5(path: Path, setting: str = "input.files") -> Iterator[h5py.File]:
    """Open a user's HDF5 file for reading; `setting` names it in the configuration.

    Raises:
        InputError: the file is missing, not HDF5 or truncated.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file. Check the path in {setting}.")
    try:
        file = hdf5_file(path)
    except OSError as error:
        raise InputError(f"{path}: not HDF5, empty or truncated ({error}). Copy or create it again.") from error
    with file:
        yield file


def check_dataset(path: str | Path, dataset: h5py.Dataset, *, at_once: bool = False) -> None:
    """Refuse a dataset that is not completely in its file, or that unpacks to an implausible size.

    HDF5 silently reads zeros for data that was never written or that is in an external file that is missing.

    Args:
        path: the file, for the message.
        dataset: an open dataset.
        at_once: whether the whole dataset will be in memory.

    Raises:
        InputError: naming the dataset and what is wrong with it.
    """
    row = dataset.dtype.itemsize * math.prod(dataset.shape[1:])
    chunk = dataset.dtype.itemsize * math.prod(dataset.chunks or (0,))
    for what, size, most in (
        # The planes of a grid are no rows of a table.
        ("rows", 0 if at_once and dataset.ndim > 2 else row, LARGEST_ROW),
        ("chunks", chunk, LARGEST_CHUNK),
        ("all its rows", row * len(dataset) if at_once else 0, LARGEST_TABLE),
    ):
        if size > most:
            raise InputError(
                f"{path}: {what} of {dataset.name} unpack to {size:.3g} bytes; the maximum is {most:.3g}. "
                "If this is intended, split the file, or use smaller chunks (h5repack)."
            )
    if dataset.is_virtual or dataset.external:
        raise InputError(f"{path}: {dataset.name} is stored in other files. Copy it into this one (h5repack).")
    try:
        complete = not dataset.size or dataset.id.get_space_status() == h5py.h5d.SPACE_STATUS_ALLOCATED
    except (OSError, RuntimeError):  # an address that is damaged
        complete = False
    if not complete:
        raise InputError(f"{path}: {dataset.name} is incomplete or damaged. Copy or make the file again.")
