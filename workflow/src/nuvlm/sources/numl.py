"""Reading the HDF5 tables of numl: groups of columns, one row per event or hit, with the event's numbers in each row.

A column is a data set of shape (rows, width); `event_id` holds run, subrun and event. After files were merged with
ph5concat each table also says which rows belong to the n-th event: `event_id.seq` in every row, or `event_id.seq_cnt`,
pairs of n and a number of consecutive rows.

Sources: github.com/vhewes/numl (HDF5Maker), github.com/NU-CUCIS/ph5concat (README, utils/add_key) and
github.com/nugraph/pynuml (io/file.py).
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401  registers filters that such files may use
import numpy as np

from nuvlm.base.errors import InputError
from nuvlm.base.hdf5 import check_dataset, hdf5_file
from nuvlm.base.kernels import cached_njit
from nuvlm.detector.voxels import MOST_EVENTS

MOST_HITS = 10**7
"""Maximum number of rows of an event."""
BLOCK_ROWS = 2**19
"""Rows that are in memory at the same time, unless one event has more."""
CHUNK_CACHE = 2**23
"""Bytes of decompressed chunks that are kept per column: chunks at the limits of a block are read once."""
KEY, SEQUENCE, COUNTS = "event_id", "event_id.seq", "event_id.seq_cnt"


@contextmanager
def open_numl(path: Path) -> Iterator[h5py.File]:
    """Open a file for reading.

    Raises:
        InputError: it is missing, no HDF5, or truncated.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file. Check the path in input.files.")
    with _reading(path):
        file = hdf5_file(path, rdcc_nbytes=CHUNK_CACHE)
    with file:
        yield file


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path}: not HDF5, or truncated ({error}). Copy or create it again.") from error


class Table:
    """A table of an open file: its columns are checked when they are first asked for.

    Raises:
        InputError: the file has no such table, or it has no `event_id`.
    """

    def __init__(self, path: Path, file: h5py.File, name: str) -> None:
        self.path, self.name = path, name
        with _reading(path):
            group = file.get(name)
            if not isinstance(group, h5py.Group):
                raise InputError(
                    f"{path}: there is no table '{name}' (found: {', '.join(file) or 'nothing'}). Is this a file of "
                    "another kind, or did a program leave the table out?"
                )
            self._group = group
            key = group.get(KEY)
        if not isinstance(key, h5py.Dataset) or key.ndim != 2 or key.shape[1] != 3 or key.dtype.kind not in "iu":
            raise InputError(
                f"{path}: '{name}/{KEY}' must hold three integers in each row: run, subrun and event. Create the file "
                "again."
            )
        check_dataset(path, key)
        self.rows: int = key.shape[0]
        self._columns: dict[str, h5py.Dataset] = {KEY: key}

    def has(self, column: str) -> bool:
        """Whether there is such a column."""
        with _reading(self.path):
            return isinstance(self._group.get(column), h5py.Dataset)

    def require(self, columns: Sequence[str], *, width: int = 1) -> None:
        """Check that columns exist and hold numbers, one of them (or `width`) for each row of the table.

        Raises:
            InputError: names the column, and those that there are.
        """
        missing = [column for column in columns if not self.has(column)]
        if missing:
            with _reading(self.path):
                found = ", ".join(self._group)
            raise InputError(f"{self.path}: '{self.name}' has no column {', '.join(missing)} (found: {found}).")
        for name in columns:
            with _reading(self.path):
                dataset = self._group[name]
            shapes = [(self.rows, width)] + ([(self.rows,)] if width == 1 else [])
            if dataset.shape not in shapes or dataset.dtype.kind not in "iufb":
                raise InputError(
                    f"{self.path}: '{self.name}/{name}' is {dataset.dtype} {dataset.shape}; expected are numbers of "
                    f"shape {shapes[0]}. Create the file again."
                )
            check_dataset(self.path, dataset)
            self._columns[name] = dataset

    def read(self, column: str, begin: int = 0, end: int | None = None) -> np.ndarray:
        """Rows `begin` to `end` (by default all) of a required column: (rows,), or (rows, width).

        Raises:
            InputError: they cannot be read.
        """
        dataset = self._columns[column]
        if end is None:
            check_dataset(self.path, dataset, at_once=True)
        with _reading(self.path):
            values: np.ndarray = dataset[begin:end]
        return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values

    def sequence(self) -> np.ndarray | None:
        """(rows, 2) `event_id.seq_cnt`, where the table has one.

        Raises:
            InputError: it does not cover the rows of the table.
        """
        if not self.has(COUNTS):
            return None
        with _reading(self.path):
            dataset = self._group[COUNTS]
        if dataset.ndim != 2 or dataset.shape[1] != 2 or dataset.dtype.kind not in "iu":
            raise InputError(
                f"{self.path}: '{self.name}/{COUNTS}' must hold two integers in each row. Run add_key again."
            )
        check_dataset(self.path, dataset, at_once=True)
        with _reading(self.path):
            counts: np.ndarray = dataset[:].astype(np.int64)
        if (counts[:, 1] < 1).any() or counts[:, 1].sum() != self.rows:
            raise InputError(
                f"{self.path}: '{self.name}/{COUNTS}' counts {counts[:, 1].sum()} rows, but the table has {self.rows}. "
                "Run add_key again."
            )
        return counts


@dataclass(frozen=True)
class Places:
    """Where the rows of each event are in a table."""

    begin: np.ndarray
    """(events,), first row."""
    count: np.ndarray
    """(events,), number of rows; 0 for an event without any."""
    evidence: str
    """What says so."""

    def blocks(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """Events in the order of their rows, in blocks: first row, last row + 1, and the events within."""
        order = np.flatnonzero(self.count)
        order = order[np.argsort(self.begin[order], kind="stable")]
        first = 0
        while first < len(order):
            begin = self.begin[order[first]]
            ends = self.begin[order[first:]] + self.count[order[first:]]
            after = first + max(1, int(np.searchsorted(ends, begin + BLOCK_ROWS, side="right")))
            last = order[after - 1]
            yield int(begin), int(self.begin[last] + self.count[last]), order[first:after]
            first = after


def read_keys(table: Table) -> np.ndarray:
    """(events, 3) run, subrun and event of the table of events, int64.

    Raises:
        InputError: there is none, there are too many, or a number is negative.
    """
    if not 0 < table.rows <= MOST_EVENTS:
        raise InputError(
            f"{table.path}: '{table.name}' has {table.rows} events; 1 to {MOST_EVENTS} can be used. "
            "Split the file, or remove it from input.files."
        )
    keys = table.read(KEY).astype(np.int64)
    if (keys < 0).any():
        event = keys[(keys < 0).any(axis=1)][0]
        raise InputError(f"{table.path}: '{table.name}/{KEY}' has {event.tolist()}: numbers cannot be negative.")
    return keys


def find_rows(events: Table, keys: np.ndarray, table: Table) -> Places:
    """Find the rows of each event in a table, and check that all that says where they are agrees.

    Events with the same run, subrun and event, as in merged files, are distinguished by their order.

    Args:
        events: the table of events.
        keys: (events, 3), what :func:`read_keys` returns for it.
        table: the table whose rows belong to events.

    Raises:
        InputError: rows of an event that is not in `events`, in several places, or which `event_id.seq_cnt` and
            `event_id` give to different events; or too many of one event.
    """
    path, name = table.path, table.name
    counts = table.sequence()
    in_rows = counts is None and table.has(SEQUENCE)
    if in_rows:
        table.require([SEQUENCE])
    starts, run_keys, sequence = _runs(table, in_rows)
    if counts is not None:
        begins = np.concatenate(([0], np.cumsum(counts[:, 1])[:-1])).astype(np.int64)
        if not np.isin(starts, begins).all():
            row = starts[~np.isin(starts, begins)][0]
            raise InputError(
                f"{path}: '{name}/{COUNTS}' has no new event in row {row}, '{name}/{KEY}' has. They are of different "
                "files, or rows were moved: run add_key again."
            )
        run_keys = run_keys[np.searchsorted(starts, begins, side="right") - 1]
        starts, sequence = begins, counts[:, 0]
    rows = _match(path, name, keys, run_keys)
    numbers = _numbers(events)
    if sequence is not None and numbers is not None and not np.array_equal(numbers[rows], sequence):
        run = int(np.flatnonzero(numbers[rows] != sequence)[0])
        raise InputError(
            f"{path}: '{name}' has event {sequence[run]} in row {starts[run]} by its {KEY}.seq or seq_cnt, and run, "
            f"subrun and event {run_keys[run].tolist()} by its {KEY}, which is event {numbers[rows[run]]} of "
            f"'{events.name}'. Run add_key again."
        )
    begin, count = np.zeros(len(keys), np.int64), np.zeros(len(keys), np.int64)
    begin[rows], count[rows] = starts, np.diff(np.append(starts, table.rows))
    if count.max(initial=0) > MOST_HITS:
        event = keys[count.argmax()].tolist()
        raise InputError(f"{path}: event {event} has {count.max()} rows in '{name}'; the maximum is {MOST_HITS}.")
    agreeing = f"{KEY} and {COUNTS if counts is not None else SEQUENCE}" if sequence is not None else KEY
    return Places(begin, count, f"{agreeing} of '{name}'")


def _runs(table: Table, in_rows: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Rows where another event begins, its numbers (runs, 3), and its `event_id.seq` if the rows have one."""
    starts, keys, sequences = [], [], []
    before: np.ndarray | None = None
    total = 0
    for begin in range(0, table.rows, BLOCK_ROWS):
        end = min(begin + BLOCK_ROWS, table.rows)
        block = np.ascontiguousarray(table.read(KEY, begin, end))
        if in_rows:
            block = np.column_stack([block, table.read(SEQUENCE, begin, end)])
        changes = _changes(block, block[0] if before is None else before)
        if before is None:
            changes = np.concatenate(([0], changes))
        starts.append(begin + changes)
        keys.append(block[changes, :3].astype(np.int64))
        sequences.append(block[changes, 3:].astype(np.int64))
        before = block[-1].copy()
        total += len(changes)
        if total > 2 * MOST_EVENTS:
            raise InputError(
                f"{table.path}: the rows of '{table.name}' change from event to event {total} times. Sort them by "
                "event."
            )
    if not starts:
        return np.zeros(0, np.int64), np.zeros((0, 3), np.int64), None
    return np.concatenate(starts), np.concatenate(keys), np.concatenate(sequences)[:, 0] if in_rows else None


@cached_njit()
def _changes(block, before):  # type: ignore[no-untyped-def]
    """Rows of a block that differ from the row before; `before` is the row before the block."""
    rows, width = block.shape
    found = np.empty(rows, dtype=np.int64)
    n = 0
    for i in range(rows):
        for j in range(width):
            if block[i, j] != (block[i - 1, j] if i else before[j]):
                found[n] = i
                n += 1
                break
    return found[:n].copy()


def _match(path: Path, name: str, keys: np.ndarray, run_keys: np.ndarray) -> np.ndarray:
    """(runs,) event of each run of rows: events of the same numbers are in the order of their rows."""
    events: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    for row, key in enumerate(map(tuple, keys.tolist())):
        events[key].append(row)
    runs: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    for run, key in enumerate(map(tuple, run_keys.tolist())):
        runs[key].append(run)
    unknown = [key for key in runs if key not in events]
    if unknown:
        raise InputError(
            f"{path}: '{name}' has rows of {len(unknown)} of {len(runs)} events that the table of events does not have "
            f"(first: run, subrun and event {list(unknown[0])}). The tables are of different files, or one was "
            "renumbered."
        )
    rows = np.zeros(len(run_keys), np.int64)
    for key, of_key in runs.items():
        if len(of_key) != len(events[key]) and (len(of_key) > 1 or len(events[key]) > 1):
            raise InputError(
                f"{path}: run, subrun and event {list(key)} occur {len(events[key])} times in the table of events, and "
                f"its rows in '{name}' are in {len(of_key)} places. Sort the rows by event, and give merged files "
                "different run numbers."
            )
        rows[of_key] = events[key]
    return rows


def _numbers(events: Table) -> np.ndarray | None:
    """(events,) number of each event in `event_id.seq` and `seq_cnt`; None if the table of events does not say."""
    counts = events.sequence()
    if counts is not None:
        return counts[:, 0] if (counts[:, 1] == 1).all() else None
    if events.has(SEQUENCE):
        events.require([SEQUENCE])
        return events.read(SEQUENCE).astype(np.int64)
    return None
