"""Segments of larnd-sim / 2x2_sim files: their neutrinos and units, read in blocks of rows."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from nuvlm.base.errors import InputError
from nuvlm.base.hdf5 import check_dataset
from nuvlm.detector.voxels import MOST_EVENTS
from nuvlm.sources.larndsim_truth import CM, EVENT, VERTEX, Key, column, find_table

SEGMENTS = ("segments", "tracks", "mc_truth/segments/data", "mc_truth/tracks/data")
ROWS = 2**18  # read at a time
MOST_SEGMENTS = 10**7
"""Segments of one neutrino. A file with more is taken for damaged, or made to fill the memory."""
PLAUSIBLE_MEV_CM = (0.4, 60.0)
"""Limits on the length-weighted median of dE/dx. Minimum-ionising particles have 2.1 MeV/cm; lengths in mm would give a
tenth of that, in m a hundred times as much, energies in GeV a thousandth."""


@dataclass
class Groups:
    """Rows of each neutrino, in file order: the first, one past the last, and the number of segments."""

    keys: list[Key] = field(default_factory=list)
    first: list[int] = field(default_factory=list)
    stop: list[int] = field(default_factory=list)
    count: list[int] = field(default_factory=list)
    energy_mev: list[float] = field(default_factory=list)


class SegmentTable:
    """The table of segments, read in blocks of rows."""

    def __init__(self, path: Path, file: h5py.File) -> None:
        self._path = path
        table = find_table(path, file, SEGMENTS)
        if table is None:
            raise InputError(
                f"{path}: there is no table 'segments' (found: {', '.join(file) or 'nothing'}). "
                "Is this a larnd-sim file?"
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
        self._table = table
        self._event, self._vertex = event, column(path, table, VERTEX)
        self.has_vertex = self._vertex is not None
        self._check_attributes()

    def index(self) -> tuple[Groups, np.ndarray]:
        """The segments of each neutrino, and the first block of rows."""
        groups, number = Groups(), dict[Key, int]()
        sample = None
        for first in range(0, len(self._table), ROWS):
            rows = self._read(first, min(first + ROWS, len(self._table)))
            sample = rows if sample is None else sample
            begins, keys = self._runs(rows)
            energies = np.add.reduceat(rows["dE"], begins, dtype=np.float64).tolist()
            ends = [*begins[1:].tolist(), len(rows)]
            for key, begin, end, energy in zip(keys, begins.tolist(), ends, energies, strict=True):
                i = number.setdefault(key, len(number))
                if i == len(groups.keys):
                    groups.keys.append(key)
                    groups.first.append(first + begin)
                    groups.stop.append(0)
                    groups.count.append(0)
                    groups.energy_mev.append(0.0)
                groups.stop[i] = first + end
                groups.count[i] += end - begin
                groups.energy_mev[i] += energy
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
                begins, keys = self._runs(rows)
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
        return f"event {key[0]}, vertex {key[1]}" if self.has_vertex else f"event {key[0]}"

    def ends_mm(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Start and end of each segment, (segments, 3) each."""
        start, end = (
            CM * np.stack([rows[f"{axis}_{end}"] for axis in "xyz"], axis=1).astype(np.float64)
            for end in ("start", "end")
        )
        return start, end

    def starts_mm(self, rows: np.ndarray) -> Iterator[tuple[Key, np.ndarray]]:
        """Yield the key of a neutrino and the starts of contiguous segments, (segments, 3)."""
        begins, keys = self._runs(rows)
        yield from zip(keys, np.split(self.ends_mm(rows)[0], begins[1:]), strict=True)

    def check_units(self, rows: np.ndarray) -> None:
        """Check that lengths are in cm and energies in MeV.

        Raises:
            InputError: other units.
        """
        start, end = self.ends_mm(rows)
        length = np.linalg.norm(end - start, axis=1) / CM
        energy = rows["dE"].astype(np.float64)
        good = np.isfinite(length) & (length > 0) & np.isfinite(energy) & (energy > 0)
        if not good.any():
            return
        names = rows.dtype.names or ()
        if "dx" in names:
            dx = rows["dx"].astype(np.float64)
            self._compare(dx[good & (dx > 0)], length[good & (dx > 0)], "dx", "the distance from start to end")
            if "dEdx" in names:
                product = dx * rows["dEdx"]
                some = good & np.isfinite(product) & (product > 0)
                self._compare(energy[some], product[some], "dE", "dEdx x dx")
        dedx = energy[good] / length[good]
        order = np.argsort(dedx)
        half = np.cumsum(length[good][order])
        median = float(dedx[order][np.searchsorted(half, half[-1] / 2)])
        low, high = PLAUSIBLE_MEV_CM
        if not low <= median <= high:
            raise InputError(
                f"{self._path}: half of the path length of the segments has a dE/dx below {median:.3g} MeV/cm; about 2 "
                "is expected in liquid argon. Segments must be in cm and MeV: convert the file."
            )

    def _compare(self, value: np.ndarray, other: np.ndarray, name: str, what: str) -> None:
        ratio = float(np.median(value / other)) if len(value) else 1.0
        if not 0.9 < ratio < 1.1:
            raise InputError(
                f"{self._path}: {name} of the segments is {ratio:.3g} times {what}: inconsistent units. Segments must "
                "be in cm and MeV: convert the file."
            )

    def _check_attributes(self) -> None:
        for name, value in self._table.attrs.items():
            words = set(re.findall(r"[A-Za-z]+", str(value))) if "unit" in name.lower() else set()
            if wrong := words & {"mm", "m", "um", "eV", "keV", "GeV"}:
                raise InputError(
                    f"{self._path}: attribute {name!r} of '{self._table.name[1:]}' names {', '.join(sorted(wrong))}; "
                    "segments must be in cm and MeV: convert the file."
                )

    def _runs(self, rows: np.ndarray) -> tuple[np.ndarray, list[Key]]:
        """First rows of the runs of one neutrino, and the key of each run."""
        event = rows[self._event].astype(np.uint64)  # negative numbers wrap, as in the u8 columns of 2x2_sim
        vertex = rows[self._vertex].astype(np.uint64) if self._vertex else np.zeros(len(rows), dtype=np.uint64)
        new = np.r_[True, (event[1:] != event[:-1]) | (vertex[1:] != vertex[:-1])]
        begins = np.flatnonzero(new)
        return begins, list(zip(event[begins].tolist(), vertex[begins].tolist(), strict=True))

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
