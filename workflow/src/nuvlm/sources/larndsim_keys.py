"""Keys of larnd-sim / 2x2_sim tables: names of columns, numbers of events and vertices, and how tables meet."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import h5py
import numpy as np

from nuvlm.base.errors import InputError

Key = tuple[int, int, int]
"""Event, vertex, and place: one neutrino. The place is 0, unless merged files number their events anew: then it counts
the files."""

# Names of columns, newest first.
EVENT = ("event_id", "eventID", "spillID", "spill_id")
VERTEX = ("vertex_id", "vertexID")
MOST_EXACT = 2.0**53


def column(path: Path, table: h5py.Dataset, names: Sequence[str]) -> str | None:
    """The first of `names` that is a column of `table`.

    Raises:
        InputError: the table has no named columns.
    """
    if table.dtype.names is None:
        raise InputError(f"{path}: {table.name} has no named columns. Is this a larnd-sim file?")
    return next((name for name in names if name in table.dtype.names), None)


def find_table(path: Path, file: h5py.File, names: Sequence[str]) -> h5py.Dataset | None:
    """The first of `names` that is a table of `file`.

    Raises:
        InputError: the description of the tables is damaged.
    """
    try:
        items = [file[name] for name in names if name in file]
        # Decodes the column types now, so that damage to them raises here.
        tables = [(item, item.dtype) for item in items if isinstance(item, h5py.Dataset)]
        return tables[0][0] if tables else None
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise InputError(f"{path}: damaged ({error}). Copy or create it again.") from error


def integers(path: Path, table: str, name: str, rows: np.ndarray) -> np.ndarray:
    """A column of numbers of events, vertices or segments, u8; negative ones wrap, as in the u8 columns of 2x2_sim.

    Raises:
        InputError: they are not whole numbers, or floats too large to be exact.
    """
    values = rows[name]
    if values.ndim == 1 and values.dtype.kind in "iu":
        return values.astype(np.uint64)
    if values.ndim == 1 and values.dtype.kind == "f" and np.isfinite(values).all():
        most = min(MOST_EXACT, 2.0 ** (np.finfo(values.dtype).nmant + 1))
        if (values == np.floor(values)).all() and (np.abs(values) < most).all():
            return values.astype(np.int64).astype(np.uint64)
    raise InputError(
        f"{path}: column {name} of '{table}' is {rows.dtype[name]}, with values that are not exact whole numbers. "
        "Write it as integers."
    )


def meetings(segments: Sequence[Key], table: Iterable[Key]) -> list[tuple[str, dict[Key, Key]]]:
    """Other ways in which a table may number the neutrinos of the segments than with the same numbers.

    Returns:
        A description and the key in the table of each key of the segments, the likely first.
    """
    by_event, rows_of = _by_event(segments), _by_event(table)
    found = []
    same = {event: (keys, rows_of[event]) for event, keys in by_event.items() if event in rows_of}
    if same and all(len(keys) == len(rows) == 1 for keys, rows in same.values()):
        found.append(("by event, which has one vertex each", _pairs(same.values())))
    elif same and all(len(keys) == len(rows) for keys, rows in same.values()):
        found.append(("by event and the order of its vertices", _pairs(same.values())))
    table = [key for rows in rows_of.values() for key in rows]
    if len(table) == len(segments):
        found.append(
            ("by place", dict(zip(sorted(segments, key=_by_place), sorted(table, key=_by_place), strict=True)))
        )
    return found


def _by_event(keys: Iterable[Key]) -> dict[tuple[int, int], list[Key]]:
    grouped: dict[tuple[int, int], list[Key]] = {}
    for key in sorted(keys):
        grouped.setdefault((key[0], key[2]), []).append(key)
    return grouped


def _pairs(groups: Iterable[tuple[list[Key], list[Key]]]) -> dict[Key, Key]:
    return {key: row for keys, rows in groups for key, row in zip(keys, rows, strict=True)}


def _by_place(key: Key) -> Key:
    return key[2], key[0], key[1]
