"""Segments of larnd-sim / 2x2_sim files: their neutrinos, units and axes, read in blocks of rows."""

import itertools
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from nuvlm.base.conclusions import Record
from nuvlm.base.errors import InputError
from nuvlm.base.hdf5 import check_dataset
from nuvlm.detector.voxels import MOST_EVENTS
from nuvlm.sources.consistency import ENERGIES_MEV, LENGTHS_MM, Axes, EnergyLoss, Observed
from nuvlm.sources.interactions import passes
from nuvlm.sources.larndsim_keys import EVENT, VERTEX, Key, column, find_table, integers
from nuvlm.sources.recognition import of_another_kind
from nuvlm.sources.units import Units, decide_units

logger = logging.getLogger(__name__)

SEGMENTS = ("segments", "tracks", "mc_truth/segments/data", "mc_truth/tracks/data")
ROWS = 2**18  # read at a time
MOST_SEGMENTS = 10**7
"""Segments of one neutrino. A file with more is taken for damaged, or made to fill the memory."""
ASSUMED = Units("cm", "MeV", "as the format has them")
AS_NAMED: Axes = (0, 1, 2)
DIFFERENT = 0.1
"""Relative difference from which two columns that should agree do not."""
SEGMENT = ("segment_id", "segmentID")
"""Numbers the segments of a file."""


@dataclass
class Groups:
    """Rows of each neutrino, in file order: the first, one past the last, and the number of segments."""

    keys: list[Key] = field(default_factory=list)
    first: list[int] = field(default_factory=list)
    stop: list[int] = field(default_factory=list)
    count: list[int] = field(default_factory=list)
    energy: list[float] = field(default_factory=list)
    """Sum of `dE`, in the unit of the file."""


class SegmentTable:
    """The table of segments, read in blocks of rows."""

    def __init__(self, path: Path, file: h5py.File) -> None:
        self._path = path
        table = find_table(path, file, SEGMENTS)
        if table is None:
            raise InputError(
                f"{path}: there is no table 'segments' (found: {', '.join(file) or 'nothing'}). "
                f"Is this a larnd-sim file?{of_another_kind(path)}"
            )
        event = column(path, table, EVENT)
        missing = [name for name in [*_coordinates(), "dE"] if name not in table.dtype.names]
        if event is None:
            missing.append(" or ".join(EVENT))
        if missing or event is None:
            raise InputError(
                f"{path}: '{table.name[1:]}' has no column {', '.join(missing)}. Is this a larnd-sim file?"
            )
        check_dataset(path, table)
        if not len(table):
            raise InputError(f"{path}: '{table.name[1:]}' is empty. Remove the file from input.files.")
        optional = [name for name in ("dx", "dEdx", *"xyz") if name in table.dtype.names]
        for name in [*_coordinates(), "dE", *optional]:
            if table.dtype[name].kind not in "fiu" or table.dtype[name].shape:
                raise InputError(
                    f"{path}: column {name} of '{table.name[1:]}' is {table.dtype[name]}, not one number. Correct it."
                )
        self.name_of_table = table.name[1:]
        self.units = ASSUMED
        self.axes: Axes = AS_NAMED
        self._file, self._table = file, table
        self._event, self._vertex = event, column(path, table, VERTEX)
        self._segment = column(path, table, SEGMENT)
        self.has_vertex = self._vertex is not None
        self._merged = False

    @property
    def zbeam(self) -> bool | None:
        """What the file says about its axes: z along the beam (true), or x and z exchanged (false)."""
        for holder in (self._table, self._file):
            value = next((value for name, value in holder.attrs.items() if name.lower() == "zbeam"), None)
            if value is not None:
                text = str(np.asarray(value).reshape(-1)[0] if np.size(value) else value).strip("b'\"").lower()
                return text in ("true", "1", "1.0", "yes")
        return None

    def index(self, n_passes: int | None, repeated: str) -> tuple[Groups, np.ndarray]:
        """The segments of each neutrino, and the first block of rows.

        Args:
            n_passes: how often the truth tables number the events anew, because files were merged; None without them.
            repeated: a neutrino with several rows in them, for messages.

        Raises:
            InputError: damaged, or numbered anew in another way than the truth tables.
        """
        self._merged = self._is_merged(n_passes, repeated)
        groups, number = Groups(), dict[Key, int]()
        sample = None
        for first in range(0, len(self._table), ROWS):
            rows = self._read(first, min(first + ROWS, len(self._table)))
            sample = rows if sample is None else sample
            begins, keys = self._runs(rows, first)
            energies = np.add.reduceat(rows["dE"], begins, dtype=np.float64).tolist()
            ends = [*begins[1:].tolist(), len(rows)]
            for key, begin, end, energy in zip(keys, begins.tolist(), ends, energies, strict=True):
                i = number.setdefault(key, len(number))
                if i == len(groups.keys):
                    groups.keys.append(key)
                    groups.first.append(first + begin)
                    groups.stop.append(0)
                    groups.count.append(0)
                    groups.energy.append(0.0)
                groups.stop[i] = first + end
                groups.count[i] += end - begin
                groups.energy[i] += energy
            if len(groups.keys) > MOST_EVENTS or max(groups.count) > MOST_SEGMENTS:
                raise InputError(
                    f"{self._path}: more than {MOST_EVENTS} neutrinos in '{self._table.name[1:]}', or more than "
                    f"{MOST_SEGMENTS} segments of one. If this is intended, split the file."
                )
        assert sample is not None
        return groups, sample

    def by_group(self, groups: Groups) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the index of each neutrino and its rows.

        As many neutrinos as fill a block are read at once. The rows of one neutrino are nearly always contiguous; if
        not, all rows between the first and the last of these neutrinos are read.
        """
        number = {key: i for i, key in enumerate(groups.keys)}
        total = np.cumsum([0, *groups.count])
        low = 0
        while low < len(groups.keys):
            high = max(low + 1, int(np.searchsorted(total, total[low] + ROWS, side="right")) - 1)
            pieces, owners = [], []
            last = max(groups.stop[low:high])
            for first in range(min(groups.first[low:high]), last, ROWS):
                rows = self._read(first, min(first + ROWS, last))
                begins, keys = self._runs(rows, first)
                owner = np.repeat([number[key] for key in keys], np.diff(begins, append=len(rows)))
                selected = (owner >= low) & (owner < high)
                pieces.append(rows if selected.all() else rows[selected])
                owners.append(owner[selected])
            owner = np.concatenate(owners)
            rows = np.concatenate(pieces) if len(pieces) > 1 else pieces[0]
            if (np.diff(owner) < 0).any():
                rows = rows[np.argsort(owner, kind="stable")]
            for i in range(low, high):
                yield i, rows[total[i] - total[low] : total[i + 1] - total[low]]
            low = high

    def name(self, key: Key) -> str:
        merged = f" (merged file {key[2] + 1})" if self._merged else ""
        return f"event {key[0]}, vertex {key[1]}{merged}" if self.has_vertex else f"event {key[0]}{merged}"

    def ends_mm(self, rows: np.ndarray, axes: Axes | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Start and end of each segment, (segments, 3) each, in the axes of the detector unless `axes` is given."""
        order = [AS_NAMED[i] for i in axes or self.axes]
        start, end = (
            self.units.length_mm * np.stack([rows[f"{'xyz'[i]}_{end}"] for i in order], axis=1).astype(np.float64)
            for end in ("start", "end")
        )
        return start, end

    def energy_mev(self, rows: np.ndarray) -> np.ndarray:
        """Energy of each segment, (segments,)."""
        return self.units.energy_mev * rows["dE"].astype(np.float64)

    def observed(self, rows: np.ndarray, first: int = 0) -> Iterator[tuple[Key, Observed]]:
        """Yield the key of a neutrino and its segments, with the axes as they are named and without truth."""
        begins, keys = self._runs(rows, first)
        start, end = self.ends_mm(rows, AS_NAMED)
        energy = self.energy_mev(rows)
        for key, begin, stop in zip(keys, begins.tolist(), [*begins[1:].tolist(), len(rows)], strict=True):
            part = slice(begin, stop)
            yield key, Observed(self.name(key), np.full(3, np.nan), start[part], end[part], energy[part])

    def decide_units(self, rows: np.ndarray, box_mm: np.ndarray, record: Record) -> None:
        """Decide on the units of :meth:`ends_mm` and :meth:`energy_mev`.

        Columns that repeat others, such as `dx`, decide nothing: where they differ, this is recorded.

        Raises:
            InputError: the evidence agrees with no units, or contradicts those that the file names.
        """
        start, end = self.ends_mm(rows, AS_NAMED)
        length, energy = np.linalg.norm(end - start, axis=1) / ASSUMED.length_mm, self.energy_mev(rows)
        loss = EnergyLoss()
        begins, _ = self._runs(rows, 0)
        for begin, stop in itertools.pairwise([*begins.tolist(), len(rows)]):
            loss.add(start[begin:stop], end[begin:stop], energy[begin:stop])
        finite = start[np.isfinite(start).all(axis=1)] / ASSUMED.length_mm
        if not len(finite):
            return
        size = np.ptp(np.quantile(finite, (0.01, 0.99), axis=0), axis=0)
        # The largest box in any order: axes are decided upon later.
        box = np.full(3, box_mm.max())
        named = self._named_units()
        self.units = decide_units(self._path, loss, size, box, ASSUMED, named)
        if (self.units.length, self.units.energy) != (ASSUMED.length, ASSUMED.energy):
            record(self._path, "units of the segments", f"{self.units.length} and {self.units.energy}",
                 self.units.evidence, doubt=True)  # fmt: skip
        else:
            record(self._path, "units of the segments", "cm and MeV", self.units.evidence)
        self._compare_columns(rows, length, record)

    def _compare_columns(self, rows: np.ndarray, length: np.ndarray, record: Record) -> None:
        """Record which of the columns that repeat others differ from them."""
        names = rows.dtype.names or ()
        pairs: list[tuple[str, str, np.ndarray, np.ndarray]] = []

        def of(name: str) -> np.ndarray:
            return rows[name].astype(np.float64)

        if "dx" in names:
            pairs.append(("dx", "the distance from start to end", of("dx"), length))
            if "dEdx" in names:
                pairs.append(("dE", "dEdx x dx", of("dE"), of("dx") * of("dEdx")))
        for what, name, value, other in pairs:
            good = np.isfinite(value) & np.isfinite(other) & (value > 0) & (other > 0)
            if not good.any():
                continue
            differs = np.abs(value[good] / other[good] - 1) > DIFFERENT
            if differs.mean() > DIFFERENT or differs.sum() > len(rows) / 10:
                ratio = float(np.median(value[good] / other[good]))
                record(self._path, f"column {what}", f"is {ratio:.3g} times {name} (median), and not used",
                     f"they differ in {differs.mean():.0%} of the segments", doubt=True)  # fmt: skip
        for axis in "xyz":
            if axis in names and of(axis).any():
                middle = (of(f"{axis}_start") + of(f"{axis}_end")) / 2
                off = np.abs(of(axis) - middle) > DIFFERENT * length + 1e-4 * np.abs(middle) + 1e-3
                if off.mean() > 0.01:
                    record(self._path, f"column {axis}", f"is not between {axis}_start and {axis}_end, and not "
                         "used", f"in {off.mean():.0%} of the segments", doubt=True)  # fmt: skip

    def _named_units(self) -> frozenset[str]:
        """Units in the attributes of the table."""
        words: set[str] = set()
        for name, value in self._table.attrs.items():
            if "unit" in name.lower():
                words.update(re.findall(r"[A-Za-z]+", str(value)))
        return frozenset(words & {*LENGTHS_MM, *ENERGIES_MEV})

    def _runs(self, rows: np.ndarray, first: int) -> tuple[np.ndarray, list[Key]]:
        """First rows of the runs of one neutrino, and the key of each run; `first` is the number of the first row."""
        event, vertex = self._numbers(rows)
        new = np.r_[True, (event[1:] != event[:-1]) | (vertex[1:] != vertex[:-1])]
        place = np.zeros(len(rows), dtype=np.int64)
        if self._merged:
            place = np.searchsorted(self._starts, first + np.arange(len(rows)), side="right")
            new[1:] |= np.diff(place) > 0
        begins = np.flatnonzero(new)
        columns = event[begins].tolist(), vertex[begins].tolist(), place[begins].tolist()
        return begins, list(zip(*columns, strict=True))

    def _numbers(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Event and vertex of each row. Negative numbers wrap, as in the u8 columns of 2x2_sim."""
        event = integers(self._path, self.name_of_table, self._event, rows)
        if not self._vertex:
            return event, np.zeros(len(rows), dtype=np.uint64)
        return event, integers(self._path, self.name_of_table, self._vertex, rows)

    def _is_merged(self, n_passes: int | None, repeated: str) -> bool:
        """Whether event numbers begin anew, because files were merged; sets the rows where they do.

        Rows of one neutrino in two places may also be out of order. The truth tables decide if there are some, else
        the numbers of segments, which are unique in a file.
        """
        keys, starts, ids = [], [], []
        for first in range(0, len(self._table), ROWS):
            rows = self._read(first, min(first + ROWS, len(self._table)))
            event, vertex = self._numbers(rows)
            new = np.r_[True, (event[1:] != event[:-1]) | (vertex[1:] != vertex[:-1])]
            if self._segment:
                number = integers(self._path, self.name_of_table, self._segment, rows)
                new[1:] |= number[1:] < number[:-1]
                ids.append(number)
            begins = np.flatnonzero(new)
            keys += list(zip(event[begins].tolist(), vertex[begins].tolist(), strict=True))
            starts += (first + begins).tolist()
        begins_anew = passes(keys)
        self._starts = np.array(starts, dtype=np.int64)[begins_anew[1:]]
        if len(begins_anew) == (n_passes or 1):
            return len(begins_anew) > 1
        if n_passes == 1:
            return False  # rows in any order
        if n_passes is not None:
            raise InputError(
                f"{self._path}: event numbers begin {n_passes} times in the truth tables and {len(begins_anew)} times "
                f"in '{self.name_of_table}'{': ' if repeated else ''}{repeated}. If files were merged, list the "
                "original files in input.files; else remove all rows but one of each neutrino."
            )
        number = np.concatenate(ids) if ids else np.zeros(1, dtype=np.uint64)
        if number.min() == number.max():
            raise InputError(
                f"{self._path}: the rows of event {keys[begins_anew[1]][0]} in '{self.name_of_table}' lie in several "
                "places, and nothing tells whether it is one event or several of merged files. List the original "
                "files in input.files, or sort the rows by event."
            )
        # Segment numbers repeat within an event only if it comes from two files.
        numbered = {key: i for i, key in enumerate(dict.fromkeys(keys))}
        owner = np.repeat([numbered[key] for key in keys], np.diff([*starts, len(self._table)]))
        pairs = np.stack([owner.astype(np.uint64), number], axis=1)
        return len(np.unique(pairs, axis=0)) < len(pairs)

    def _read(self, first: int, stop: int) -> np.ndarray:
        try:
            return self._table[first:stop]
        except OSError as error:
            raise InputError(
                f"{self._path}: rows {first} to {stop} of '{self._table.name[1:]}' cannot be read ({error}). "
                "The file is damaged: copy or create it again."
            ) from error


def _coordinates() -> list[str]:
    return [f"{axis}_{end}" for end in ("start", "end") for axis in "xyz"]
