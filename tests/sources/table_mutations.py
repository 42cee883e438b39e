"""Changes of meaning of files that are tables: written once, applied to every format whose columns are named.

A file's content is its data sets by path, and the attributes of its groups. A format says which columns are lengths,
energies, ids, codes; :func:`mutations` makes the changes of axes, scales, shifts, ids, tables, rows, values and types.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from mutations import Mutation
from numpy.lib import recfunctions

FACTORS = (10.0, 0.1, 1000.0, 1e-3, -1.0)


@dataclass
class Content:
    """Data sets by their path, and attributes of groups by the path of the group."""

    tables: dict[str, np.ndarray]
    attributes: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Column:
    """A data set, a field of it, a component of either, or of a field within the field."""

    table: str
    name: str | None = None
    index: int | str | None = None

    def __str__(self) -> str:
        name = "/".join(self.table.split("/")[-2:])
        name = name if self.name is None else f"{name}.{self.name}"
        return name if self.index is None else f"{name}[{self.index}]"

    def get(self, content: Content) -> np.ndarray:
        values = content.tables[self.table]
        values = values if self.name is None else values[self.name]
        return values if self.index is None else values[self.index] if isinstance(self.index, str) else \
            values[..., self.index]  # fmt: skip

    def set(self, content: Content, values: np.ndarray) -> None:
        with np.errstate(all="ignore"):
            self.get(content)[...] = values.astype(self.get(content).dtype)


@dataclass(frozen=True)
class Format:
    """What the columns of a format mean.

    Nothing in a file shows the changes in `invisible`, named by the beginning of their name; the value is the reason.
    """

    places: Mapping[str, Sequence[Sequence[Column]]] = field(default_factory=dict)
    """What is at a place or has a direction -> x, y, z of it, several times where it has several."""
    half: tuple[float, float, float] = (1, 1, 1)
    """Half a detector in the unit of the places."""
    directions: frozenset[str] = frozenset()
    """Names in `places` that are directions: not shifted."""
    numbers: Sequence[Column] = ()
    """Charges and energies, scaled one by one."""
    together: Mapping[str, Sequence[Column]] = field(default_factory=dict)
    """Columns that are scaled together."""
    ids: Sequence[Column] = ()
    codes: Mapping[Column, Sequence[float]] = field(default_factory=dict)
    """Columns of codes, and the values that all rows get."""
    retyped: Sequence[Column] = ()
    tables: Sequence[tuple[str, ...]] = ()
    """Data sets with the same rows: shuffled, cut and repeated together."""
    invisible: Mapping[str, str] = field(default_factory=dict)


def read_content(path: Path) -> Content:
    """All data sets of an HDF5 file, and all attributes of its groups."""
    content = Content({})
    with h5py.File(path) as file:

        def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
            if isinstance(item, h5py.Dataset):
                content.tables[name] = item[:]
            if len(item.attrs):
                content.attributes[name] = dict(item.attrs)

        file.visititems(visit)
    return content


def write_content(path: Path, content: Content) -> Path:
    with h5py.File(path, "w") as file:
        for name, rows in content.tables.items():
            kind = h5py.vlen_dtype(np.float32) if rows.dtype == object else rows.dtype
            file.create_dataset(name, data=rows, dtype=kind)
        for name, attributes in content.attributes.items():
            (file if name == "/" else file.require_group(name) if name not in file else file[name]).attrs.update(
                attributes
            )
    return path


def mutations(form: Format) -> list[Mutation]:
    """All changes of a format, each with a name."""
    made = [*_axes(form), *_scales(form), *_shifts(form), *_ids(form), *_rows(form), *_values(form), *_types(form)]

    def reason(name: str) -> str:
        return next((why for start, why in form.invisible.items() if name.startswith(start)), "")

    return [Mutation(m.name, m.change, m.invisible or reason(m.name)) for m in made]


def _axes(form: Format) -> list[Mutation]:
    found = []
    subsets = [names for n in range(1, len(form.places) + 1) for names in itertools.combinations(form.places, n)]
    orders = [order for order in itertools.permutations("xyz") if order != tuple("xyz")]
    flips = [(axis,) for axis in "xyz"]
    for what in subsets:
        for order in orders:

            def turn(content: Content, what=what, order=order) -> None:
                for columns in itertools.chain.from_iterable(form.places[name] for name in what):
                    old = {axis: column.get(content).copy() for axis, column in zip("xyz", columns, strict=True)}
                    for axis, column in zip(order, columns, strict=True):
                        column.set(content, old[axis])

            found.append(Mutation(f"{' + '.join(what)} as {','.join(order)}", turn))
        for flipped in flips:

            def mirror(content: Content, what=what, flipped=flipped) -> None:
                for columns in itertools.chain.from_iterable(form.places[name] for name in what):
                    for axis in flipped:
                        column = columns["xyz".index(axis)]
                        column.set(content, -column.get(content).astype(np.float64))

            whole = len(what) == len(form.places) and "z" not in flipped
            reason = "a mirrored file, all of whose tables agree" if whole else ""
            found.append(Mutation(f"{' + '.join(what)} mirrored in {','.join(flipped)}", mirror, reason))
    return found


def _times(columns: Sequence[Column], factor: float) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        for column in columns:
            column.set(content, column.get(content).astype(np.float64) * factor)

    return change


def _scales(form: Format) -> list[Mutation]:
    targets: dict[str, Sequence[Column]] = {str(column): [column] for column in form.numbers}
    targets |= form.together
    for name, several in form.places.items():
        targets[name] = [column for columns in several for column in columns]
        targets |= {f"{axis} of {name}": [columns[i] for columns in several] for i, axis in enumerate("xyz")}
    if len(form.places) > 1:
        targets["all places"] = [c for n, s in form.places.items() if n not in form.directions for cs in s for c in cs]
    return [Mutation(f"{name} x {f:g}", _times(columns, f)) for name, columns in targets.items() for f in FACTORS]


def _shifts(form: Format) -> list[Mutation]:
    found = []
    placed = [name for name in form.places if name not in form.directions]
    groups = [(name,) for name in placed] + ([tuple(placed)] if len(placed) > 1 else [])
    for what, (i, axis), sign in itertools.product(groups, enumerate("xyz"), (1, -1)):

        def shift(content: Content, what=what, i=i, sign=sign) -> None:
            for columns in itertools.chain.from_iterable(form.places[name] for name in what):
                columns[i].set(content, columns[i].get(content).astype(np.float64) + sign * form.half[i])

        found.append(Mutation(f"{' + '.join(what)} shifted by {sign * form.half[i]:g} in {axis}", shift))
    return found


def _ids(form: Format) -> list[Mutation]:
    found = []
    for column in form.ids:
        for by in (1, 7, 1000):

            def offset(content: Content, column=column, by=by) -> None:
                column.set(content, column.get(content).astype(np.int64) + by)

            found.append(Mutation(f"{column} + {by}", offset))

        def exchange(content: Content, column=column) -> None:
            """The first and the last number change places."""
            values = column.get(content).copy()
            first, last = values == values.min(), values == values.max()
            values[first], values[last] = values.max(), values.min()
            column.set(content, values)

        def reverse(content: Content, column=column) -> None:
            values = column.get(content).astype(np.int64)
            column.set(content, values.max() + values.min() - values)

        def same(content: Content, column=column) -> None:
            column.set(content, np.full_like(column.get(content), column.get(content).flat[0]))

        found += [
            Mutation(f"{column}: first and last exchanged", exchange),
            Mutation(f"{column} reversed", reverse),
            Mutation(f"{column} all the same", same),
        ]
    return found


def _rows(form: Format) -> list[Mutation]:
    found = []

    def taken(names: tuple[str, ...], rows: Callable[[int], Any]) -> Callable[[Content], None]:
        def change(content: Content) -> None:
            for name in names:
                content.tables[name] = content.tables[name][rows(len(content.tables[name]))]

        return change

    ways: dict[str, Callable[[int], Any]] = {
        "empty": lambda n: slice(0, 0),
        "cut after a quarter": lambda n: slice(0, n // 4),
        "cut after half": lambda n: slice(0, n // 2),
        "without its first half": lambda n: slice(n // 2, None),
        "in any order": lambda n: np.random.default_rng(1).permutation(n),
        "backwards": lambda n: slice(None, None, -1),
        "twice": lambda n: np.tile(np.arange(n), 2),
        "each row twice": lambda n: np.repeat(np.arange(n), 2),
        "one row on": lambda n: np.roll(np.arange(n), 1),
    }
    for names, (way, rows) in itertools.product(form.tables, ways.items()):
        what = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
        found.append(Mutation(f"{what} {way}", taken(names, rows)))
    for name in dict.fromkeys(itertools.chain.from_iterable(form.tables)):

        def drop(content: Content, name=name) -> None:
            del content.tables[name]

        found.append(Mutation(f"{name} dropped", drop))
    return found


def _values(form: Format) -> list[Mutation]:
    found = []
    columns = dict.fromkeys([*form.numbers, *form.ids, *form.codes, *form.retyped])
    for column in columns:

        def zero(content: Content, column=column) -> None:
            column.set(content, np.zeros_like(column.get(content)))

        def rolled(content: Content, column=column) -> None:
            values = column.get(content)
            column.set(content, np.roll(values, max(len(values) // 3, 1), axis=0))

        def unknown(content: Content, column=column) -> None:
            values = column.get(content).copy()
            values[::2] = np.nan if values.dtype.kind == "f" else np.array(-999).astype(values.dtype)
            column.set(content, values)

        found += [
            Mutation(f"{column} all zero", zero),
            Mutation(f"{column} of other rows", rolled),
            Mutation(f"{column} NaN or -999 in every second row", unknown),
        ]
        if column.name is not None and column.index is None:

            def without(content: Content, column=column) -> None:
                content.tables[column.table] = recfunctions.drop_fields(content.tables[column.table], column.name)

            found.append(Mutation(f"{column} dropped", without))
    for column, codes in form.codes.items():
        for code in codes:

            def fill(content: Content, column=column, code=code) -> None:
                column.set(content, np.full(column.get(content).shape, code))

            found.append(Mutation(f"{column} all {code:g}", fill))
    return found


def _types(form: Format) -> list[Mutation]:
    found = []
    for column, kind in itertools.product(form.retyped, ("f8", "f4", "i8", "i4", "u2", "S8")):
        if column.index is not None:
            continue

        def retype(content: Content, column=column, kind=kind) -> None:
            old = content.tables[column.table]
            if column.name is None:
                content.tables[column.table] = old.astype(kind)
                return
            fields = [(n, (kind, old.dtype[n].shape) if n == column.name else old.dtype[n]) for n in old.dtype.names]
            rows = np.zeros(len(old), fields)
            for name in old.dtype.names:
                rows[name] = old[name].astype(rows.dtype[name].base)
            content.tables[column.table] = rows

        found.append(Mutation(f"{column} as {kind}", retype))
    return found
