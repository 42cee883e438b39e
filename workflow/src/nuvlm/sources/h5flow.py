"""Files of h5flow: tables at ``<name>/data`` and the references between their rows.

Layout: https://github.com/lbl-neutrino/h5flow (``H5FlowDataManager``). The references of two tables are pairs of row
numbers, an (n, 2) dataset at ``<parent>/ref/<child>/ref``, parent first; they lie in either of the two tables. The
lookup tables beside them (``ref_region``) only speed up reading, and are not needed here.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401  registers filters that such files may use
import numpy as np

from nuvlm.base.errors import InputError
from nuvlm.base.hdf5 import check_dataset
from nuvlm.detector.voxels import MOST_EVENTS

ROWS = 2**16
"""Rows read at a time."""
LONG_ROW = 256
"""Size of rows, bytes, from which only their columns that are used are read."""
MOST_CHILDREN = 10**7
"""Rows that belong to one row of the parent. A file with more is damaged or malicious."""


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turn what h5py raises for damaged metadata into an :class:`InputError`."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path}: cannot be read ({error}). It is damaged: copy or create it again.") from error


def find_table(file: h5py.File, name: str) -> h5py.Dataset | None:
    """The table ``<name>/data`` with named columns, if the file has one."""
    table = file.get(f"{name}/data")
    is_table = isinstance(table, h5py.Dataset) and table.ndim == 1 and table.dtype.names is not None
    return table if is_table else None


class References:
    """The rows of a child table that belong to each row of a parent table, such as the hits of each event.

    Attributes:
        counts: (parents,), number of children of each row of the parent.
        n_lost: rows of the child that belong to no parent.
        n_repeated: references that say the same as an earlier one, which count once.
    """

    def __init__(self, path: Path, file: h5py.File, parents: Sequence[str], child: str) -> None:
        """Read and check all references, block by block.

        Args:
            parents: names of parent tables, of which the first with references is used.
            child: name of the child table.

        Raises:
            InputError: there are no references; one leads to a row that is not there; a child has several parents.
        """
        self._path, self._child = path, file[f"{child}/data"]
        tables = [parent for parent in parents if find_table(file, parent)]
        found = next(((parent, pairs) for parent in tables if (pairs := find_references(file, parent, child))), None)
        if found is None:
            raise InputError(
                f"{path}: there are no references between {parents[0]} and {child} ({parents[0]}/ref/{child}/ref), so "
                "that it is unknown which hits belong together. Make the file again with all stages of the program."
            )
        self.parent, (self._pairs, self._column) = found
        check_dataset(path, self._pairs)
        n_parents, n_children = len(file[f"{self.parent}/data"]), len(self._child)
        if n_parents > MOST_EVENTS:
            raise InputError(f"{path}: more than {MOST_EVENTS} rows in {self.parent}. Split the file.")
        self.counts = np.zeros(n_parents, dtype=np.int64)
        self._first = np.full(n_parents, len(self._pairs), dtype=np.int64)
        self._stop = np.zeros(n_parents, dtype=np.int64)
        in_order, last = True, -1
        for begin in range(0, len(self._pairs), ROWS):
            parent, children = self._read(begin, begin + ROWS)
            for name, rows, n in ((self.parent, parent, n_parents), (child, children, n_children)):
                if (rows >= n).any():
                    raise InputError(
                        f"{path}: {self._pairs.name[1:]} refers to row {int(rows.max())} of {name}, which has {n}. The "
                        "file is incomplete, or was put together from several: make it again."
                    )
            runs = np.flatnonzero(np.r_[True, parent[1:] != parent[:-1]])
            np.minimum.at(self._first, parent[runs], begin + runs)
            np.maximum.at(self._stop, parent[runs], begin + np.append(runs[1:], len(parent)))
            self.counts += np.bincount(parent, minlength=n_parents)
            steps = np.diff(children, prepend=last)
            in_order, last = in_order and bool((steps > 0).all()), int(children[-1])
        self.n_repeated = 0
        if not in_order:
            self._check_parents(n_children)
        self.n_lost = n_children - int(self.counts.sum())
        if n_parents and self.counts.max() > MOST_CHILDREN:
            raise InputError(
                f"{path}: row {int(self.counts.argmax())} of {self.parent} has more than {MOST_CHILDREN} rows of "
                f"{child}. If this is intended, split the file."
            )

    def blocks(self, columns: Sequence[str]) -> Iterator[tuple[range, np.ndarray, np.ndarray]]:
        """Read the children of all parents, block by block.

        The children of one parent are nearly always contiguous, and in the order of the parents; if not, all rows
        between the first and the last of a block are read.

        Args:
            columns: of the child table. There may be more in what is read.

        Yields:
            The rows of the parents; (parents + 1,), the first child of each and the end of the last one; the children.
        """
        total = np.concatenate([[0], np.cumsum(self.counts)])
        low = 0
        while low < len(self.counts):
            high = max(low + 1, int(np.searchsorted(total, total[low] + ROWS, side="right")) - 1)
            parent, children = self._of(low, high)
            if (np.diff(children) > 0).all():
                rows = self._children(children, columns)
            else:
                order = np.argsort(children, kind="stable")
                read = self._children(children[order], columns)
                rows = np.empty_like(read)
                rows[order] = read
            yield range(low, high), np.searchsorted(parent, np.arange(low, high + 1)), rows
            low = high

    def _of(self, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
        """Parents `low` to `high` - 1, repeated, and their children: sorted, each pair once."""
        pieces = [np.zeros((0, 2), dtype=np.int64)]
        stop = int(self._stop[low:high].max())
        for begin in range(int(self._first[low:high].min()), stop, ROWS):
            parent, children = self._read(begin, min(begin + ROWS, stop))
            chosen = (parent >= low) & (parent < high)
            pieces.append(np.stack([parent[chosen], children[chosen]], axis=1))
        pairs = np.concatenate(pieces)
        parent, children = pairs.T
        if not ((np.diff(parent) >= 0) & (np.diff(children) > 0)).all():
            order = np.lexsort((children, parent))
            parent, children = parent[order], children[order]
            once = np.r_[True, (np.diff(parent) != 0) | (np.diff(children) != 0)][: len(parent)]
            parent, children = parent[once], children[once]
        return parent, children

    def _children(self, rows: np.ndarray, columns: Sequence[str]) -> np.ndarray:
        """Rows of the child table, which are sorted."""
        # Whole rows are read several times as fast as some of their columns, unless they are long.
        narrow = self._child.dtype.itemsize <= LONG_ROW
        pieces = [np.zeros(0, dtype=self._child.dtype if narrow else self._columns(columns))]
        for begin in range(int(rows[0]), int(rows[-1]) + 1, ROWS) if len(rows) else ():
            chosen = rows[np.searchsorted(rows, begin) : np.searchsorted(rows, begin + ROWS)]
            if len(chosen):
                first, stop = int(chosen[0]), int(chosen[-1]) + 1
                try:
                    block = self._child[first:stop] if narrow else self._child.fields(list(columns))[first:stop]
                except OSError as error:
                    raise InputError(
                        f"{self._path}: rows {first} to {stop} of {self._child.name[1:]} cannot be read ({error}). The "
                        "file is damaged: copy or create it again."
                    ) from error
                pieces.append(block if len(block) == len(chosen) else block[chosen - first])
        return pieces[1] if len(pieces) == 2 else np.concatenate(pieces)

    def _columns(self, columns: Sequence[str]) -> np.dtype:
        return np.dtype([(name, self._child.dtype[name]) for name in columns])

    def _check_parents(self, n_children: int) -> None:
        """Count repeated references, and refuse a child with two parents. Needs 4 bytes of memory a child."""
        owner = np.full(n_children, -1, dtype=np.int32)
        for begin in range(0, len(self._pairs), ROWS):
            parent, children = self._read(begin, begin + ROWS)
            order = np.lexsort((parent, children))
            parent, children = parent[order], children[order]
            before = owner[children]
            owner[children] = parent
            twice = np.r_[False, children[1:] == children[:-1]]
            before[twice] = parent[:-1][twice[1:]]
            repeated = before >= 0
            if (wrong := repeated & (before != parent)).any():
                i = int(np.argmax(wrong))
                raise InputError(
                    f"{self._path}: row {children[i]} of {self._child.name[1:]} belongs to two rows of {self.parent}, "
                    f"{before[i]} and {parent[i]}. Correct the references."
                )
            self.counts -= np.bincount(parent[repeated], minlength=len(self.counts))
            self.n_repeated += int(repeated.sum())

    def _read(self, begin: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Parents and children of references."""
        try:
            pairs = self._pairs[begin:stop].astype(np.int64)
        except OSError as error:
            raise InputError(
                f"{self._path}: references in {self._pairs.name[1:]} cannot be read ({error}). The file is damaged: "
                "copy or create it again."
            ) from error
        return pairs[:, self._column], pairs[:, 1 - self._column]


def find_references(file: h5py.File, parent: str, child: str) -> tuple[h5py.Dataset, int] | None:
    """The references between two tables, (n, 2) row numbers, and the column of the parent; None without them."""
    for column, (holder, other) in enumerate(((parent, child), (child, parent))):
        pairs = file.get(f"{holder}/ref/{other}/ref")
        if isinstance(pairs, h5py.Dataset) and pairs.ndim == 2 and pairs.shape[1] == 2 and pairs.dtype.kind in "iu":
            return pairs, column
    return None
