"""Truth tables of larnd-sim / 2x2_sim files: vertices, neutrinos, final states, and their units."""

import itertools
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from nuvlm.base.errors import InputError
from nuvlm.base.hdf5 import check_dataset
from nuvlm.detector.voxels import MODES, PARTICLE_DTYPE
from nuvlm.sources.interactions import Truth, particle_rows

logger = logging.getLogger(__name__)

Key = tuple[int, int]
"""Event and vertex: one neutrino."""

CM = 10.0  # mm
# Names of columns and tables, newest first.
EVENT = ("event_id", "eventID", "spillID", "spill_id")
VERTEX = ("vertex_id", "vertexID")
VERTICES = ("vertices",)
# ndlar_flow copies the tables to mc_truth.
HEADER = ("mc_hdr", "genie_hdr", "mc_truth/interactions/data")
STACK = ("mc_stack", "genie_stack", "mc_truth/stack/data")
INTERACTIONS = {"QE": "isQES", "MEC": "isMEC", "RES": "isRES", "DIS": "isDIS", "COH": "isCOH"}
FINAL_STATE = 1  # part_status
INITIAL_STATE = 0
NEAR_MM = 20.0
"""A vertex within this distance of a segment counts as near. Vertices in the rock are not."""


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


class TruthTables:
    """The truth of each neutrino.

    Attributes:
        without_segments: neutrinos in the truth tables that have no segments.
    """

    def __init__(
        self, path: Path, file: h5py.File, keys: Sequence[Key], deposit_mev: Sequence[float], has_vertex: bool
    ) -> None:
        """Read and check the tables.

        Args:
            keys: the neutrinos with segments.
            deposit_mev: deposited energy of each of `keys`.
            has_vertex: whether segments have a vertex id.

        Raises:
            InputError: a table cannot be read or matched, a neutrino occurs twice, or energies are inconsistent.
        """
        self._path = path
        datasets = [find_table(path, file, names) for names in (VERTICES, HEADER, STACK)]
        self._by_vertex = has_vertex and all(column(path, dataset, VERTEX) for dataset in datasets if dataset)
        if not self._by_vertex and len({event for event, _ in keys}) != len(keys) and any(datasets):
            raise InputError(
                f"{path}: its events hold several neutrinos, but a truth table has no column {' or '.join(VERTEX)} "
                "to distinguish them. Add it, or remove the table."
            )
        self._vertices, self._header, self._stack = (
            _Table(path, dataset, self._by_vertex) if dataset else None for dataset in datasets
        )
        listed: set[Key] = set()
        for table in (self._vertices, self._header):
            if table:
                table.check_unique()
                listed.update(table.keys())
        self.without_segments = sorted(listed.difference(map(self._key, keys)))
        self._gev = self._energy_unit(keys, deposit_mev)
        self._stack_mev = self._stack_unit()

    def of(self, key: Key) -> Truth:
        """The truth of one neutrino, energies in GeV, lengths in mm; unknown if the file lacks it."""
        key = self._key(key)
        vertex = self._header.vertex_mm(key) if self._header else None
        if vertex is None and self._vertices:
            vertex = self._vertices.vertex_mm(key)
        at = (np.nan,) * 3 if vertex is None else tuple(vertex.tolist())
        row = self._header.row(key) if self._header else None
        if row is None:
            return Truth(vertex_mm=at, particles=self._particles(key))
        names = row.dtype.names
        known = "nu_pdg" in names and "isCC" in names
        modes = [mode for mode, name in INTERACTIONS.items() if name in names and row[name]]
        return Truth(
            nu_pdg=int(row["nu_pdg"]) if known else 0,
            is_cc=bool(row["isCC"]) if known else False,
            nu_energy=float(row["Enu"]) * self._gev if "Enu" in names else np.nan,
            inelasticity=float(row["y"]) if "y" in names else np.nan,
            vertex_mm=at,
            mode=MODES[modes[0]] if modes else MODES["unknown"],
            particles=self._particles(key),
        )

    def check_vertices(self, starts: Iterable[tuple[Key, np.ndarray]]) -> None:
        """Check that vertices are in the unit of the segments.

        Args:
            starts: some neutrinos and the starts of their segments, (segments, 3), mm.

        Raises:
            InputError: most vertices lie near a segment if taken to be in mm or m, and hardly any in cm.
        """
        scales = {"cm": 1.0, "mm": 0.1, "m": 100.0}
        near: dict[str, list[bool]] = {unit: [] for unit in scales}
        for key, start in itertools.islice(starts, 1000):
            vertex = np.array(self.of(key).vertex_mm)
            if np.isfinite(vertex).all():
                for unit, scale in scales.items():
                    near[unit].append(bool((np.linalg.norm(start - scale * vertex, axis=1) < NEAR_MM).any()))
        if not near["cm"]:
            return
        shares = {unit: float(np.mean(values)) for unit, values in near.items()}
        best = max(shares, key=lambda unit: shares[unit])
        if shares[best] > 0.5 and shares["cm"] < 0.05:
            raise InputError(
                f"{self._path}: {shares['cm']:.0%} of the vertices lie within {NEAR_MM:g} mm of a segment of their "
                f"neutrino in cm, and {shares[best]:.0%} in {best}. They must be in cm, like the segments: convert the "
                "file."
            )

    def _key(self, key: Key) -> Key:
        return key if self._by_vertex else (key[0], 0)

    def _particles(self, key: Key) -> np.ndarray:
        rows = self._stack.rows(key) if self._stack else None
        if rows is None or self._stack_mev is None:
            return np.zeros(0, dtype=PARTICLE_DTYPE)
        rows = rows[rows["part_status"] == FINAL_STATE]
        momentum = rows["part_4mom"].astype(np.float64) * self._stack_mev
        return particle_rows(rows["part_pdg"], momentum)

    def _energy_unit(self, keys: Sequence[Key], deposit_mev: Sequence[float]) -> float:
        """The unit of ``Enu`` in GeV: recent files have MeV, older ones GeV.

        If ``nu_4mom`` has a different unit, their ratio gives both. Otherwise the deposits decide: in the right unit,
        the best contained neutrino deposits a large part of its energy, and never much more than all of it.

        Raises:
            InputError: ``Enu`` is inconsistent with ``nu_4mom``, or with the deposits in either unit.
        """
        if not self._header or not self._header.has("Enu"):
            return 1.0
        rows = [(row, deposit) for key, deposit in zip(keys, deposit_mev, strict=True)
                if (row := self._header.row(self._key(key))) is not None]  # fmt: skip
        energy = np.array([row["Enu"] for row, _ in rows], dtype=np.float64)
        deposit = np.array([deposit for _, deposit in rows])
        good = np.isfinite(energy) & (energy > 0) & np.isfinite(deposit)
        if not good.any():
            return 1.0
        if self._header.has("nu_4mom"):
            other = np.array([row["nu_4mom"][3] for row, _ in rows], dtype=np.float64)
            ratio = float(np.nanmedian(other[good] / energy[good]))
            for power, gev in ((1000.0, 1.0), (0.001, 0.001)):
                if abs(ratio / power - 1) < 0.01:
                    return self._log_unit(gev)
            if abs(ratio - 1) > 0.01:
                raise InputError(
                    f"{self._path}: Enu and nu_4mom disagree (their ratio is {ratio:.3g}, neither 1 nor 1000). "
                    "Correct the truth table."
                )
        share = float(np.quantile(deposit[good] / energy[good], 0.99))
        typical = float(np.median(energy[good]))
        if share > 10 and typical > 1000:
            raise InputError(
                f"{self._path}: neutrinos of {typical:.3g} (median of Enu) deposit up to {share:.3g} MeV per unit: too "
                "much if Enu is in MeV, while GeV would be too large. Correct Enu, or the ids of the segments."
            )
        is_mev = share <= 2 or (share <= 10 and typical > 50)
        return self._log_unit(1e-3 if is_mev else 1.0)

    def _log_unit(self, gev: float) -> float:
        logger.info("%s: Enu taken to be in %s", self._path, "GeV" if gev == 1 else "MeV")
        return gev

    def _stack_unit(self) -> float | None:
        """The unit of ``part_4mom`` in MeV, from the incoming neutrino, whose energy the header has too.

        Raises:
            InputError: the two energies are inconsistent.
        """
        if not self._stack:
            return None
        missing = [name for name in ("part_4mom", "part_pdg", "part_status") if not self._stack.has(name)]
        if missing:
            raise InputError(f"{self._path}: '{self._stack.name}' has no column {', '.join(missing)}.")
        if not self._header or not self._header.has("Enu") or not self._header.has("nu_pdg"):
            logger.warning("%s: no Enu and nu_pdg to check the unit of '%s' with: it is left out",
                           self._path, self._stack.name)  # fmt: skip
            return None
        ratios = []
        for key in itertools.islice(self._header.keys(), 1000):
            rows, row = self._stack.rows(key), self._header.row(key)
            if rows is not None and row is not None:
                incoming = rows[(rows["part_status"] == INITIAL_STATE) & (rows["part_pdg"] == row["nu_pdg"])]
                ratios += (incoming["part_4mom"][:, 3] / (row["Enu"] * self._gev)).tolist()
        if not ratios:
            logger.warning("%s: no incoming neutrino to check the unit of '%s' with: it is left out",
                           self._path, self._stack.name)  # fmt: skip
            return None
        ratio = float(np.nanmedian(ratios))
        for gev, mev in ((1000.0, 1.0), (1.0, 1000.0)):
            if abs(ratio / gev - 1) < 0.01:
                return mev
        raise InputError(
            f"{self._path}: the neutrinos of '{self._stack.name}' have {ratio:.3g} times the energy in "
            f"'{self._header.name}' in GeV, neither 1 (GeV) nor 1000 (MeV). Correct the truth tables."
        )


class _Table:
    """A truth table in memory, with rows found by key: one per neutrino, or a few dozen."""

    def __init__(self, path: Path, dataset: h5py.Dataset, by_vertex: bool) -> None:
        self.name = dataset.name[1:]
        self._path = path
        self._by_vertex = by_vertex
        name = column(path, dataset, EVENT)
        if name is None:
            raise InputError(f"{path}: '{self.name}' has no column {' or '.join(EVENT)}. Is this a larnd-sim file?")
        check_dataset(path, dataset, at_once=True)
        try:
            rows = dataset[:]
        except OSError as error:
            raise InputError(
                f"{path}: '{self.name}' cannot be read ({error}). The file is damaged: copy or create it again."
            ) from error
        event = rows[name].astype(np.uint64)
        vertex = rows[column(path, dataset, VERTEX)].astype(np.uint64) if by_vertex else np.zeros_like(event)
        order = np.lexsort((vertex, event))
        self._rows, event, vertex = rows[order], event[order], vertex[order]
        begins = np.flatnonzero(np.r_[True, (np.diff(event) > 0) | (vertex[1:] != vertex[:-1])][: len(event)])
        keys = zip(event[begins].tolist(), vertex[begins].tolist(), strict=True)
        ends = [*begins[1:].tolist(), len(event)][: len(begins)]
        self._slices = {key: slice(begin, end) for key, begin, end in zip(keys, begins.tolist(), ends, strict=True)}

    def has(self, name: str) -> bool:
        return name in (self._rows.dtype.names or ())

    def keys(self) -> Iterable[Key]:
        return self._slices.keys()

    def check_unique(self) -> None:
        """Check that each neutrino has one row.

        Raises:
            InputError: a neutrino has several rows.
        """
        if len(self._slices) < len(self._rows):
            event, vertex = next(key for key, rows in self._slices.items() if rows.stop - rows.start > 1)
            which = f", vertex {vertex}" if self._by_vertex else ", without a vertex id"
            raise InputError(
                f"{self._path}: '{self.name}' has several rows for event {event}{which}. Remove all but one."
            )

    def row(self, key: Key) -> Any:
        """The first row of a neutrino, or None."""
        return self._rows[self._slices[key].start] if key in self._slices else None

    def rows(self, key: Key) -> np.ndarray | None:
        return self._rows[self._slices[key]] if key in self._slices else None

    def vertex_mm(self, key: Key) -> np.ndarray | None:
        row = self.row(key)
        if row is None or not all(self.has(f"{axis}_vert") for axis in "xyz"):
            return None
        return CM * np.array([row[f"{axis}_vert"] for axis in "xyz"], dtype=np.float64)
