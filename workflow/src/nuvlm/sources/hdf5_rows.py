"""Reading rows of HDF5 tables that belong to events, in blocks; damaged bytes become errors that name the file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  registers filters that such files may use
import numpy as np

from nuvlm.base.errors import InputError
from nuvlm.base.hdf5 import check_dataset

ROWS_AT_ONCE = 2**19
SCATTERED = 8
"""Rows read for each that is wanted, at most; files have the rows of events in the order of the events."""


@contextmanager
def explained(path: Path, what: str) -> Iterator[None]:
    """Turn what h5py raises for damaged bytes into an InputError."""
    try:
        yield
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
        raise InputError(
            f"{path}: {what} cannot be read ({error}). The file is damaged: copy or create it again."
        ) from error


class Rows:
    """A dataset of which spans of rows are read."""

    def __init__(
        self,
        path: Path,
        group: Any,
        name: str,
        columns: tuple[str, ...] = (),
        width: int = 0,
        whole: tuple[str, ...] = (),
    ) -> None:
        """Find `name` in `group`.

        Args:
            columns: that the dataset must have, numbers.
            width: its second dimension; 0 for none.
            whole: those of `columns` that hold integers.

        Raises:
            InputError: there is no such dataset, or it is unsafe.
        """
        self.name = f"{group.name.rstrip('/')}/{name}"
        self._path = path
        with explained(path, self.name):
            dataset = group.get(name)
            dtype = dataset.dtype if isinstance(dataset, h5py.Dataset) else None
        shape = (width,) if width else ()
        if dtype is None or dataset.shape[1:] != shape:
            raise InputError(
                f"{path}: there is no table {self.name} of {width or 1} columns: another version, not read."
            )
        missing = [column for column in columns if column not in (dtype.names or ())]
        if missing:
            raise InputError(f"{path}: {self.name} has no column {', '.join(missing)}: another version, not read.")
        wrong = [column or name for column in columns or ("",) if not _is_numbers(dtype[column] if column else dtype)]
        wrong += [column for column in whole if dtype[column].kind not in "iu"]
        if wrong:
            raise InputError(f"{path}: {self.name} has no numbers in {', '.join(wrong)}. Create the file again.")
        check_dataset(path, dataset)
        self._dataset = dataset
        self.columns = dtype.names or ()

    def __len__(self) -> int:
        return len(self._dataset)

    def all(self, column: str | None = None) -> np.ndarray:
        """All rows, or one column of them.

        Raises:
            InputError: they cannot be read, or are too large to be in memory.
        """
        check_dataset(self._path, self._dataset, at_once=True)
        with explained(self._path, self.name):
            return self._dataset[column] if column else self._dataset[:]

    def spans(self, first: np.ndarray, count: np.ndarray) -> list[np.ndarray]:
        """The rows of each event of a block.

        Args:
            first: (events,), first row of each.
            count: (events,), number of rows of each.

        Raises:
            InputError: the rows cannot be read, are not in the file, or are scattered.
        """
        begin, n = first.astype(np.int64), count.astype(np.int64)
        used = n > 0
        if not used.any():
            return [self._read(0, 0)] * len(n)
        low, high = int(begin[used].min()), int((begin + n)[used].max())
        if low < 0 or high > len(self) or (n < 0).any():
            raise InputError(
                f"{self._path}: rows {low} to {high} of {self.name} are wanted; it has {len(self)}. The file is "
                "incomplete: copy or create it again."
            )
        if high - low > SCATTERED * int(n.sum()) + ROWS_AT_ONCE:
            raise InputError(
                f"{self._path}: the rows of events are scattered over {self.name}: such files are not read."
            )
        rows = self._read(low, high)
        return [rows[a : a + m] if m else rows[:0] for a, m in zip((begin - low).tolist(), n.tolist(), strict=True)]

    def _read(self, low: int, high: int) -> np.ndarray:
        with explained(self._path, f"rows {low} to {high} of {self.name}"):
            return self._dataset[low:high]


def _is_numbers(dtype: np.dtype) -> bool:
    """Whether a column holds numbers, or a table or list of them."""
    if dtype.names:
        return all(_is_numbers(dtype[name]) for name in dtype.names if dtype[name].kind != "S")
    return dtype.base.kind in "iufb"


def blocks(count: np.ndarray, events: int = 1000) -> Iterator[slice]:
    """Consecutive events of about :data:`ROWS_AT_ONCE` rows together, or one event of more."""
    total = np.concatenate([[0], np.cumsum(count, dtype=np.int64)])
    start = 0
    while start < len(count):
        stop = int(np.searchsorted(total, total[start] + ROWS_AT_ONCE, side="right")) - 1
        stop = min(max(stop, start + 1), start + events)
        yield slice(start, stop)
        start = stop
