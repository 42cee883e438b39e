"""Truth tables of larnd-sim / 2x2_sim files: vertices, neutrinos, final states, and their units."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from nuvlm.base.conclusions import Record
from nuvlm.base.errors import InputError
from nuvlm.base.hdf5 import check_dataset
from nuvlm.detector.voxels import MODES, PARTICLE_DTYPE
from nuvlm.simulation.final_states import MASS_MEV
from nuvlm.simulation.stdhep import NEUTRINOS
from nuvlm.sources.consistency import EXACT_MM, LENGTHS_MM, NEAR_MM, Axes, Observed, distance_mm
from nuvlm.sources.interactions import Truth, particle_rows, passes
from nuvlm.sources.larndsim_keys import EVENT, VERTEX, Key, column, find_table, integers, meetings

# Names of tables, newest first.
VERTICES = ("vertices",)
# ndlar_flow copies the tables to mc_truth.
HEADER = ("mc_hdr", "genie_hdr", "mc_truth/interactions/data")
STACK = ("mc_stack", "genie_stack", "mc_truth/stack/data")
INTERACTIONS = {"QE": "isQES", "MEC": "isMEC", "RES": "isRES", "DIS": "isDIS", "COH": "isCOH"}
FINAL_STATE = 1  # part_status
INITIAL_STATE = 0
STACK_COLUMNS = ("part_4mom", "part_pdg", "part_status")
NUMBERS = (
    "nu_pdg",
    "isCC",
    "Enu",
    "nu_4mom",
    "y",
    *INTERACTIONS.values(),
    *STACK_COLUMNS,
    "x_vert",
    "y_vert",
    "z_vert",
)
"""Columns that are read, if they are there."""
AS_NAMED: Axes = (0, 1, 2)
EXCHANGED: Axes = (2, 1, 0)
SAMPLE = 200
"""Neutrinos whose vertices are compared with their charge."""


@dataclass(frozen=True)
class VertexFit:
    """How well vertices meet the charge in one unit and order of axes."""

    unit: str
    axes: Axes
    """Where x, y, z of the vertices are in those of the segments."""
    n: int
    near: int
    exact: int

    @property
    def good(self) -> bool:
        """Whether it holds: for most, and for one event only if that is improbable by chance."""
        return self.exact > 0.5 * self.n and self.exact >= 1


class TruthTables:
    """The truth of each neutrino.

    Attributes:
        n_passes: how often the tables number their events anew (merged files: 2 or more); None without tables.
        repeated: a neutrino with several rows, for messages; empty if there is none.
        without_segments: neutrinos in the truth tables that have no segments, after :meth:`meet`.
        vertex_axes: where x, y, z of the vertices are in those of the segments, as far as vertices at the charge tell
            after :meth:`meet`; None if they do not.
    """

    def __init__(self, path: Path, file: h5py.File, has_vertex: bool) -> None:
        """Read the tables.

        Args:
            has_vertex: whether segments have a vertex id.

        Raises:
            InputError: a table cannot be read.
        """
        self._path = path
        datasets = [find_table(path, file, names) for names in (VERTICES, HEADER, STACK)]
        self._has_vertex = has_vertex
        self._by_vertex = has_vertex and all(column(path, dataset, VERTEX) for dataset in datasets if dataset)
        self._vertices, self._header, self._stack = (
            _Table(path, dataset, self._by_vertex, many_rows=dataset is datasets[2]) if dataset else None
            for dataset in datasets
        )
        tables = [table for table in (self._vertices, self._header, self._stack) if table and len(table)]
        numbers = {table.name: table.n_passes for table in tables}
        if len(set(numbers.values())) > 1:
            raise InputError(
                f"{path}: event numbers begin anew in some truth tables only ({numbers}); {self.repeated or ''}. "
                "List the original files in input.files, or remove all rows but one of each neutrino."
            )
        self.n_passes = next(iter(numbers.values()), None)
        self.without_segments: list[Key] = []
        self.vertex_axes: Axes | None = None

    @property
    def repeated(self) -> str:
        return next((table.repeated for table in (self._vertices, self._header) if table and table.repeated), "")

    def meet(
        self, keys: Sequence[Key], deposit_mev: Sequence[float], sample: Sequence[tuple[Key, Observed]], record: Record
    ) -> None:
        """Find the rows of the neutrinos with segments, and decide on units and axes of the vertices.

        Args:
            keys: the neutrinos with segments.
            deposit_mev: deposited energy of each of `keys`.
            sample: some of them, with the axes as the segments name them.

        Raises:
            InputError: the tables do not belong to the segments, or energies are inconsistent.
        """
        tables = [table for table in (self._vertices, self._header, self._stack) if table]
        if not self._by_vertex and len({(event, place) for event, _, place in keys}) != len(keys) and tables:
            raise InputError(
                f"{self._path}: its events hold several neutrinos, but a truth table has no column "
                f"{' or '.join(VERTEX)} to distinguish them. Add it, or remove the table."
            )
        self._sample = sample
        listed: set[Key] = set()
        for table in tables:
            self._join(table, keys, record)
            if table is not self._stack:
                listed.update(set(table.keys()).difference(table.row_of(self._key(key)) for key in keys))
        for table in tables:
            if table.has_vertices:
                self._decide_vertices(table, record)
        self.without_segments = sorted(listed)
        self._gev = self._energy_unit(keys, deposit_mev, record)
        self._stack_mev = self._stack_unit(keys, record)

    def _join(self, table: "_Table", keys: Sequence[Key], record: Record) -> None:
        """Find out which row of a table belongs to which neutrino."""
        mine = [self._key(key) for key in keys]
        rows = set(table.keys())
        met = [key for key in mine if key in rows]
        lost, idle = [key for key in mine if key not in rows], rows.difference(mine)
        if not lost:
            return
        if idle and len(met) < 0.5 * len(mine):
            for how, pairs in meetings(mine, rows):
                fit = self._best_fit(table, pairs)
                if len(pairs) <= len(met) or (not fit and how != "by event, which has one vertex each"):
                    continue
                if fit and not fit.good:
                    continue
                table.pairs = pairs
                evidence = f"{len(met)} of {len(mine)} neutrinos have the same numbers in both, {len(pairs)} this way"
                if fit:
                    evidence += f"; {fit.exact} of {fit.n} vertices lie at their charge"
                record(self._path, f"rows of '{table.name}'", f"joined to the segments {how}", evidence, doubt=True)
                return
            raise InputError(
                f"{self._path}: the numbers of '{table.name}' and of the segments do not meet: {len(met)} of "
                f"{len(mine)} neutrinos with segments have a row, and {len(idle)} of {len(rows)} rows no segments. "
                f"Segments: {self._describe(lost[0])}; '{table.name}': {self._describe(min(idle))}. Correct the ids, "
                "or remove the table."
            )
        evidence = f"{len(lost)} of {len(mine)} neutrinos have no row, the first is {self._describe(lost[0])}"
        if table.has_vertices and self._touch_idle(table, lost, idle):
            raise InputError(
                f"{self._path}: '{table.name}': {evidence}, but there is a row without segments whose vertex is at "
                "their charge. The ids differ: correct them, or remove the table."
            )
        record(self._path, f"rows of '{table.name}'", "missing for some neutrinos", evidence, doubt=True)

    def _touch_idle(self, table: "_Table", lost: Sequence[Key], idle: Iterable[Key]) -> bool:
        """Whether the charge of neutrinos without a row lies at the vertices of rows without segments."""
        charge = [observed for key, observed in self._sample if self._key(key) in set(lost)]
        vertices = [LENGTHS_MM["cm"] * table.vertex(key) for key in itertools.islice(idle, SAMPLE)]
        return any(
            distance_mm(vertex, observed.start_mm, observed.end_mm) <= 1.0
            for observed in charge[:SAMPLE]
            for vertex in vertices
            if np.isfinite(vertex).all()
        )

    def _fits(self, table: "_Table", pairs: Mapping[Key, Key] | None) -> list[VertexFit]:
        """How well the vertices of a table meet the charge, in every unit and order of axes."""
        if not table.has_vertices:
            return []
        chosen = []
        for key, observed in self._sample:
            row = table.row_of(self._key(key)) if pairs is None else pairs.get(self._key(key))
            vertex = table.vertex(row) if row is not None and row in table else None
            if vertex is not None and np.isfinite(vertex).all():
                chosen.append((vertex, observed))
            if len(chosen) == SAMPLE:
                break
        fits = []
        for (unit, scale), axes in itertools.product(LENGTHS_MM.items(), (AS_NAMED, EXCHANGED)):
            gaps = np.array([
                distance_mm(scale * vertex[list(axes)], observed.start_mm, observed.end_mm)
                for vertex, observed in chosen
            ])  # fmt: skip
            spread = np.ptp([scale * vertex for vertex, _ in chosen], axis=0).max() if len(chosen) > 1 else np.inf
            if spread < 2 * EXACT_MM and unit != "cm":
                gaps[:] = np.inf  # in this unit all would lie at the origin, where charge may be
            near, exact = int((gaps <= NEAR_MM).sum()), int((gaps <= EXACT_MM).sum())
            fits.append(VertexFit(unit, axes, len(chosen), near, exact))
        return fits

    def _best_fit(self, table: "_Table", pairs: Mapping[Key, Key] | None) -> VertexFit | None:
        fits = [fit for fit in self._fits(table, pairs) if fit.n]
        # cm and axes as named come first where several fit equally.
        return max(fits, key=lambda fit: (fit.exact, fit.unit == "cm", fit.axes == AS_NAMED), default=None)

    def _decide_vertices(self, table: "_Table", record: Record) -> None:
        fits = [fit for fit in self._fits(table, None) if fit.n]
        if not fits:
            return
        named = next(fit for fit in fits if fit.unit == "cm" and fit.axes == AS_NAMED)
        best = max(fits, key=lambda fit: (fit.exact, fit is named, fit.unit == "cm", fit.axes == AS_NAMED))
        if named.near >= 0.5 * named.n or not best.good:
            # Vertices in the rock are at no charge in any unit.
            if named.near:
                self.vertex_axes = AS_NAMED
                record(self._path, f"vertices of '{table.name}'", "in cm, with the axes of the segments",
                       f"{named.near} of {named.n} have charge within {NEAR_MM:g} mm")  # fmt: skip
            return
        table.vertex_mm, self.vertex_axes = LENGTHS_MM[best.unit], best.axes
        what = f"{named.near} of {named.n} lie at their charge in cm, {best.exact} in {best.unit}"
        if best.unit != "cm":
            record(self._path, f"vertices of '{table.name}'", f"in {best.unit}", what, doubt=True)
        if best.axes == EXCHANGED:
            what = f"{named.near} of {named.n} lie at their charge as they are, {best.exact} with x and z exchanged"
            record(self._path, f"axes of '{table.name}'", "x and z are z and x of the segments", what)

    def _describe(self, key: Key) -> str:
        return f"event {key[0]}, vertex {key[1]}" if self._by_vertex else f"event {key[0]}"

    def of(self, key: Key) -> Truth:
        """The truth of one neutrino, energies in GeV, lengths in mm; unknown if the file lacks it."""
        key = self._key(key)
        places = [table.vertex_mm_of(key) for table in (self._header, self._vertices) if table]
        vertex = next((place for place in places if place is not None), None)
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

    def _key(self, key: Key) -> Key:
        return key if self._by_vertex else (key[0], 0, key[2])

    def _particles(self, key: Key) -> np.ndarray:
        rows = self._stack.rows(key) if self._stack else None
        if rows is None or self._stack_mev is None:
            return np.zeros(0, dtype=PARTICLE_DTYPE)
        rows = rows[rows["part_status"] == FINAL_STATE]
        momentum = rows["part_4mom"].astype(np.float64) * self._stack_mev
        return particle_rows(rows["part_pdg"], momentum)

    def _energy_unit(self, keys: Sequence[Key], deposit_mev: Sequence[float], record: Record) -> float:
        """The unit of ``Enu`` in GeV: recent files have MeV, older ones GeV.

        The masses of particles in the stack tell its unit, and its incoming neutrino that of ``Enu``. Without that, if
        ``nu_4mom`` has a different unit, their ratio gives both. Otherwise the deposits decide: in the right unit, the
        best contained neutrino deposits a large part of its energy, and never much more than all of it.

        Raises:
            InputError: ``Enu`` is inconsistent with ``nu_4mom``, with the stack, or with the deposits in either unit.
        """
        if not self._header or not self._header.has("Enu"):
            return 1.0
        rows = [(row, deposit) for key, deposit in zip(keys, deposit_mev, strict=True)
                if (row := self._header.row(key)) is not None]  # fmt: skip
        energy = np.array([row["Enu"] for row, _ in rows], dtype=np.float64)
        deposit = np.array([deposit for _, deposit in rows])
        good = np.isfinite(energy) & (energy > 0) & np.isfinite(deposit)
        if not good.any():
            return 1.0

        def found(gev: float, evidence: str) -> float:
            record(self._path, "unit of Enu", "GeV" if gev == 1 else "MeV", evidence)
            return gev

        ratio = 1.0
        if self._header.has("nu_4mom"):
            other = np.array([row["nu_4mom"][3] for row, _ in rows], dtype=np.float64)
            ratio = float(np.nanmedian(other[good] / energy[good]))
            if not any(abs(ratio / power - 1) < 0.01 for power in (1.0, 1000.0, 0.001)):
                raise InputError(
                    f"{self._path}: Enu and nu_4mom disagree (their ratio is {ratio:.3g}, neither 1 nor 1000). "
                    "Correct the truth table."
                )
        units = ((1000.0, 1.0), (0.001, 0.001))  # nu_4mom in MeV beside Enu in GeV, and the reverse
        by_ratio = next((gev for power, gev in units if abs(ratio / power - 1) < 0.01), None)
        in_stack = self._incoming_mev(keys)
        if len(in_stack):
            stack_ratio = float(np.nanmedian(in_stack))
            by_stack = next(
                (gev for size, gev in ((1.0, 1e-3), (1000.0, 1.0)) if abs(stack_ratio / size - 1) < 0.01), None
            )
            if by_stack is None or by_ratio not in (None, by_stack):
                raise InputError(
                    f"{self._path}: the incoming neutrinos in the stack, whose particles have the right masses, "
                    f"have {stack_ratio:.3g} MeV per unit of Enu, and nu_4mom has {ratio:.3g} times Enu. Correct the "
                    "truth tables."
                )
            return found(by_stack, f"incoming neutrinos of the stack have {stack_ratio:.4g} MeV per unit of Enu")
        if by_ratio is not None:
            return found(by_ratio, f"nu_4mom is {ratio:.4g} times Enu")
        share = float(np.quantile(deposit[good] / energy[good], 0.99))
        typical = float(np.median(energy[good]))
        if share > 10 and typical > 1000:
            raise InputError(
                f"{self._path}: neutrinos of {typical:.3g} (median of Enu) deposit up to {share:.3g} MeV per unit: too "
                "much if Enu is in MeV, while GeV would be too large. Correct Enu, or the ids of the segments."
            )
        is_mev = share <= 2 or (share <= 10 and typical > 50)
        return found(1e-3 if is_mev else 1.0, f"deposits of up to {share:.3g} MeV per unit of Enu")

    def _mass_unit(self) -> float | None:
        """The unit of ``part_4mom`` in MeV, from the masses of its particles; None if they do not tell.

        Raises:
            InputError: they are those in another unit.
        """
        if not self._stack or not all(self._stack.has(name) for name in STACK_COLUMNS):
            return None
        pdg = np.abs(self._stack.column("part_pdg"))
        momentum = self._stack.column("part_4mom").astype(np.float64)
        known = np.array([MASS_MEV.get(code, 0.0) for code in pdg.tolist()])
        with np.errstate(invalid="ignore"):
            square = momentum[:, 3] ** 2 - (momentum[:, :3] ** 2).sum(axis=1)
            # Single precision leaves no mass in a particle of high energy.
            good = (known > 100) & (square > 1e-4 * momentum[:, 3] ** 2)
        if not good.any():
            return None
        ratio = float(np.median(np.sqrt(square[good]) / known[good]))
        unit = next((1 / size for size in (1.0, 1e-3) if 0.5 < ratio / size < 2), None)
        if unit is None and good.sum() >= 3:
            raise InputError(
                f"{self._path}: the particles of '{self._stack.name}' have {1000 * ratio:.3g} times their masses in "
                f"GeV (median of {good.sum()}), neither 1 (GeV) nor 1000 (MeV). Correct part_4mom, or remove the table."
            )
        return unit

    def _incoming_mev(self, keys: Sequence[Key]) -> list[float]:
        """Energy of the incoming neutrinos in the stack, in MeV per unit of ``Enu``, if its masses give the unit.

        Raises:
            InputError: most of them have another flavour than in the header.
        """
        unit = self._mass_unit()
        if unit is None:
            return []
        return [unit * ratio for ratio in self._incoming(keys)]

    def _incoming(self, keys: Sequence[Key]) -> list[float]:
        """Energy of the incoming neutrinos in the stack in terms of ``Enu``, each in its unit.

        Raises:
            InputError: most of them have another flavour than in the header.
        """
        assert self._stack
        assert self._header
        ratios, others = [], []
        for key in itertools.islice(keys, 1000):
            rows, row = self._stack.rows(key), self._header.row(key)
            if rows is None or row is None or not self._header.has("nu_pdg"):
                continue
            is_neutrino = np.isin(np.abs(rows["part_pdg"]), list(NEUTRINOS))
            incoming = rows[(rows["part_status"] == INITIAL_STATE) & is_neutrino]
            mine = incoming[incoming["part_pdg"] == row["nu_pdg"]]
            if len(incoming) and not len(mine):
                others.append(f"{self._describe(key)} has {row['nu_pdg']} and {incoming['part_pdg'][0]}")
            if row["Enu"] > 0:
                ratios += (mine["part_4mom"][:, 3] / row["Enu"]).tolist()
        if len(others) > len(ratios):
            raise InputError(
                f"{self._path}: the neutrinos of '{self._header.name}' and of '{self._stack.name}' differ in "
                f"{len(others)} events: {others[0]}. Correct the truth tables, or remove the wrong one."
            )
        return ratios

    def _stack_unit(self, keys: Sequence[Key], record: Record) -> float | None:
        """The unit of ``part_4mom`` in MeV, from the incoming neutrino, whose energy the header has too.

        Raises:
            InputError: the two energies are inconsistent.
        """
        if not self._stack or not len(self._stack):
            return None
        missing = [name for name in STACK_COLUMNS if not self._stack.has(name)]
        if missing:
            raise InputError(f"{self._path}: '{self._stack.name}' has no column {', '.join(missing)}.")
        what = f"left out: nothing tells the unit of '{self._stack.name}'"
        if not self._header or not self._header.has("Enu") or not self._header.has("nu_pdg"):
            record(self._path, "final states", what, "there is no Enu and nu_pdg", doubt=True)
            return None
        ratios = self._incoming(keys)
        if not ratios:
            record(self._path, "final states", what, "it has no incoming neutrino", doubt=True)
            return None
        ratio = float(np.nanmedian(ratios)) / self._gev
        for gev, mev in ((1000.0, 1.0), (1.0, 1000.0)):
            if abs(ratio / gev - 1) < 0.01:
                return mev
        raise InputError(
            f"{self._path}: the neutrinos of '{self._stack.name}' have {ratio:.3g} times the energy in "
            f"'{self._header.name}' in GeV, neither 1 (GeV) nor 1000 (MeV). Correct the truth tables."
        )


class _Table:
    """A truth table in memory, with rows found by key: one per neutrino, or a few dozen.

    Attributes:
        n_passes: how often the numbers of events begin anew.
        pairs: from keys of the segments to keys of this table, if they differ.
        vertex_mm: the unit of the vertices.
    """

    def __init__(self, path: Path, dataset: h5py.Dataset, by_vertex: bool, many_rows: bool) -> None:
        self.name = dataset.name[1:]
        self.pairs: Mapping[Key, Key] | None = None
        self.vertex_mm = LENGTHS_MM["cm"]
        self.repeated = ""
        self._path = path
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
        for used in NUMBERS:
            if used in (rows.dtype.names or ()) and rows.dtype[used].base.kind not in "biuf":
                raise InputError(
                    f"{path}: column {used} of '{self.name}' is {rows.dtype[used]}, not numbers. Correct it."
                )
        event = integers(path, self.name, name, rows)
        vertex = np.zeros_like(event)
        vertex_name = column(path, dataset, VERTEX)
        if by_vertex and vertex_name:
            vertex = integers(path, self.name, vertex_name, rows)
        new = np.ones(len(rows), dtype=bool)
        if many_rows:
            new[1:] = (np.diff(event) != 0) | (np.diff(vertex) != 0)
        begins = np.flatnonzero(new)
        numbers = list(zip(event[begins].tolist(), vertex[begins].tolist(), strict=True))
        starts = passes(numbers)
        self.n_passes = len(starts)
        place = np.searchsorted(begins[starts[1:]], np.arange(len(rows)), side="right")
        if many_rows and self.n_passes > 0.2 * len(numbers) and self.n_passes > 2:  # rows in any order
            self.n_passes, place = 1, np.zeros_like(place)
        if self.n_passes > 1:
            of = f", vertex {numbers[starts[1]][1]}" if by_vertex else ", without a vertex id"
            self.repeated = f"'{self.name}' has several rows for event {numbers[starts[1]][0]}{of}"
        order = np.lexsort((vertex, event, place))
        self._rows, event, vertex, place = rows[order], event[order], vertex[order], place[order]
        new = (event[1:] != event[:-1]) | (vertex[1:] != vertex[:-1]) | (place[1:] != place[:-1])
        begins = np.flatnonzero(np.r_[True, new][: len(event)])
        keys = zip(event[begins].tolist(), vertex[begins].tolist(), place[begins].tolist(), strict=True)
        ends = [*begins[1:].tolist(), len(event)][: len(begins)]
        self._slices = {key: slice(begin, end) for key, begin, end in zip(keys, begins.tolist(), ends, strict=True)}

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, row: Key) -> bool:
        return row in self._slices

    @property
    def has_vertices(self) -> bool:
        return all(self.has(f"{axis}_vert") for axis in "xyz")

    def has(self, name: str) -> bool:
        return name in (self._rows.dtype.names or ())

    def column(self, name: str) -> np.ndarray:
        values: np.ndarray = self._rows[name]
        return values

    def keys(self) -> Iterable[Key]:
        return self._slices.keys()

    def row_of(self, key: Key) -> Key:
        """The key in this table of a neutrino of the segments."""
        return key if self.pairs is None else self.pairs.get(key, key)

    def row(self, key: Key) -> Any:
        """The first row of a neutrino of the segments, or None."""
        rows = self.rows(key)
        return None if rows is None else rows[0]

    def rows(self, key: Key) -> np.ndarray | None:
        at = self._slices.get(self.row_of(key))
        return None if at is None else self._rows[at]

    def vertex(self, row: Key) -> np.ndarray:
        """(3,), the vertex in a row of this table, in the unit of the table."""
        at = self._rows[self._slices[row].start]
        return np.array([at[f"{axis}_vert"] for axis in "xyz"], dtype=np.float64)

    def vertex_mm_of(self, key: Key) -> np.ndarray | None:
        """(3,), the vertex of a neutrino of the segments, or None."""
        row = self.row_of(key)
        if row not in self._slices or not self.has_vertices:
            return None
        return self.vertex_mm * self.vertex(row)
