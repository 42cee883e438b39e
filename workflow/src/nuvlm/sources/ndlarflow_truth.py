"""Truth of the events of the readout in simulated ndlar_flow files, where one neutrino made the charge of an event.

The references from ``charge/raw_events`` to ``mc_truth/interactions`` follow the charge: from packets to the simulated
segments that made them, and to the interaction of these (``RawEventGenerator`` of ndlar_flow). The interactions are
larnd-sim's ``mc_hdr``. An event with charge of several interactions has no truth that a class can be given by.
"""

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from nuvlm.base.errors import InputError
from nuvlm.base.hdf5 import check_dataset
from nuvlm.detector.voxels import MODES, MOST_EVENTS
from nuvlm.simulation.stdhep import FINAL
from nuvlm.sources.h5flow import find_references, find_table
from nuvlm.sources.image_truth import final_state
from nuvlm.sources.interactions import UNKNOWN, Truth

INTERACTIONS, STACK, RAW_EVENTS = "mc_truth/interactions", "mc_truth/stack", "charge/raw_events"
KEYS, STACK_COLUMNS = ("event_id", "vertex_id"), ("part_pdg", "part_status", "part_4mom")
MODE_COLUMNS = {"QE": "isQES", "MEC": "isMEC", "RES": "isRES", "DIS": "isDIS", "COH": "isCOH"}
VERTEX = ("x_vert", "y_vert", "z_vert")
USED = ("nu_pdg", "isCC", "Enu", "y", "nu_4mom", *VERTEX, *MODE_COLUMNS.values())
NEAR_MM = 50.0
"""Charge within this distance of the vertex touches it: more than the walls between modules."""
FEW = 3
"""Events with hits that a statement about vertices needs."""
CONTAINED = (0.03, 1.5)
"""Limits on the share of the neutrino's energy that is visible, of the best contained tenth of the events."""


@dataclass(frozen=True)
class Seen:
    """Hits of one event, for comparison with its neutrino."""

    row: int
    position_mm: np.ndarray
    """(hits, 3)."""
    visible_mev: float


class EventTruth:
    """Truth of each event; unknown where there is none, or several neutrinos share the charge.

    Attributes:
        value, evidence: what was concluded.
    """

    def __init__(self, path: Path, file: h5py.File, n_events: int) -> None:
        """Read the interactions and the references to them.

        Raises:
            InputError: a table cannot be read, or a reference leads to a row that is not there.
        """
        self._row = np.full(n_events, -1, dtype=np.int64)
        self._particles: dict[int, np.ndarray] = {}
        self._table: np.ndarray | None = None
        self._path = path
        self._mm, self._gev = 10.0, np.nan
        self._columns: tuple[int, int, int] = (0, 1, 2)
        self.value, self.evidence = "unknown", f"no references from {RAW_EVENTS} to {INTERACTIONS}"
        found = find_references(file, RAW_EVENTS, INTERACTIONS)
        table = find_table(file, INTERACTIONS)
        if found is None or table is None or not {"nu_pdg", "isCC"} <= set(table.dtype.names or ()):
            return
        pairs, column = found
        for dataset in (pairs, table):
            check_dataset(path, dataset, at_once=True)
        if len(table) > MOST_EVENTS:
            raise InputError(f"{path}: more than {MOST_EVENTS} rows in {INTERACTIONS}. Split the file.")
        wrong = [name for name in USED if name in table.dtype.names and table.dtype[name].base.kind not in "iufb"]
        if wrong:
            raise InputError(f"{path}: {INTERACTIONS} has no numbers in {', '.join(wrong)}. Make the file again.")
        self._table = table[:]
        self._particles = _final_states(path, file, self._table)
        unique = np.unique(pairs[:].astype(np.int64), axis=0)
        event, interaction = unique[:, column], unique[:, 1 - column]
        if len(unique) and (event.max() >= n_events or interaction.max() >= len(table)):
            raise InputError(
                f"{path}: {pairs.name[1:]} refers to row {int(event.max())} of {n_events} events, or to row "
                f"{int(interaction.max())} of {len(table)} interactions. The file is incomplete: make it again."
            )
        self._row[event] = interaction
        n = np.bincount(event, minlength=n_events)
        self._row[n > 1] = -1
        self.value = f"known for {int((n == 1).sum())} of {n_events} events"
        self.evidence = f"charge of one interaction; {int((n > 1).sum())} events have charge of several"

    def meet(self, seen: list[Seen], columns: tuple[int, int, int]) -> None:
        """Find the units of vertices and energies: charge touches its vertex, and is not more than its neutrino has.

        Vertices in the rock say nothing.

        Args:
            seen: some events.
            columns: which columns of the hits are x, y, z; vertices may have the same exchange.

        Raises:
            InputError: most vertices where there are hits are not at the charge that refers to them.
        """
        known = [(event, vertex) for event in seen if (vertex := self._vertex(event.row)) is not None]
        known = [(event, vertex) for event, vertex in known if np.isfinite(vertex).all() and len(event.position_mm)]
        if known:
            self._find_frame(known, columns)
        if self._table is not None and "Enu" in (self._table.dtype.names or ()):
            self._find_energy_unit([event for event in seen if self._row[event.row] >= 0])

    def _find_frame(self, known: list[tuple[Seen, np.ndarray]], columns: tuple[int, int, int]) -> None:
        positions = np.concatenate([event.position_mm for event, _ in known])
        low, high = np.nanmin(positions, axis=0) - NEAR_MM, np.nanmax(positions, axis=0) + NEAR_MM

        def judge(mm: float, order: tuple[int, int, int]) -> tuple[int, int]:
            """Vertices at their charge, and vertices in the region of all hits."""
            at = [(event, mm * vertex[list(order)]) for event, vertex in known]
            near = sum(_distance(event.position_mm, vertex) < NEAR_MM for event, vertex in at)
            return near, sum(bool(((vertex > low) & (vertex < high)).all()) for _, vertex in at)

        ways = [(mm, order) for mm in (10.0, 1.0) for order in dict.fromkeys([(0, 1, 2), columns])]
        found = {way: judge(*way) for way in ways}
        self._mm, self._columns = way = max(ways, key=lambda way: found[way][0])  # as documented, of equal ones
        near, inside = found[way]
        if inside >= FEW and near < 0.5 * inside:
            raise InputError(
                f"{self._path}: {near} of {inside} vertices where there are hits are within {NEAR_MM:g} mm of the "
                f"charge that refers to them ({RAW_EVENTS}/ref/{INTERACTIONS}). Hits or vertices have other axes or "
                f"units than they should, or the references are wrong: correct the file, or remove {INTERACTIONS}."
            )
        how = f"{'cm' if self._mm == 10 else 'mm'}, x, y, z in {', '.join(VERTEX[i] for i in self._columns)}"
        self.evidence += f"; {near} of {len(known)} vertices ({how}) are within {NEAR_MM:g} mm of their charge"

    def _find_energy_unit(self, seen: list[Seen]) -> None:
        """MeV or GeV: the best contained events deposit a good part of the energy of their neutrino, and none more."""
        assert self._table is not None
        rows = self._table[self._row[[event.row for event in seen]]]
        energy, visible = rows["Enu"].astype(np.float64), np.array([event.visible_mev for event in seen])
        good = np.isfinite(energy) & (energy > 0) & np.isfinite(visible)
        share = float(np.quantile(visible[good] / energy[good], 0.9)) if good.any() else np.nan
        low, high = CONTAINED
        fitting = [gev for gev in (1e-3, 1.0) if low <= share / (1000 * gev) <= high]
        if "nu_4mom" in (rows.dtype.names or ()) and good.any():
            ratio = float(np.median(rows["nu_4mom"][good, 3].astype(np.float64) / energy[good]))
            fitting = fitting if min(abs(ratio / known - 1) for known in (1e-3, 1, 1e3)) < 0.01 else []
        self._gev = fitting[0] if fitting else np.nan
        unit = {1e-3: "MeV", 1.0: "GeV"}.get(self._gev, "an unknown unit, and not used")
        self.evidence += f"; Enu in {unit}, from the visible energy"

    def of(self, row: int) -> Truth:
        """Truth of an event."""
        if self._table is None or self._row[row] < 0:
            return Truth()
        interaction = self._table[self._row[row]]
        names = interaction.dtype.names
        vertex = self._vertex(row)
        modes = [mode for mode, name in MODE_COLUMNS.items() if name in names and interaction[name]]
        inelasticity = float(interaction["y"]) if "y" in names else np.nan
        truth = Truth(
            nu_pdg=int(interaction["nu_pdg"]),
            is_cc=bool(interaction["isCC"]),
            nu_energy=float(interaction["Enu"]) * self._gev if "Enu" in names else np.nan,
            inelasticity=inelasticity if 0 <= inelasticity <= 1 else np.nan,  # uninitialised in some files
            vertex_mm=UNKNOWN if vertex is None else tuple((self._mm * vertex).tolist()),
            mode=MODES[modes[0]] if modes else MODES["unknown"],
            particles=self._particles.get(int(self._row[row]), Truth().particles),
        )
        return truth.permuted(self._columns)

    def _vertex(self, row: int) -> np.ndarray | None:
        """(3,), in the file's unit and columns."""
        if self._table is None or self._row[row] < 0 or not set(VERTEX) <= set(self._table.dtype.names or ()):
            return None
        interaction = self._table[self._row[row]]
        return np.array([interaction[name] for name in VERTEX], dtype=np.float64)


def _final_states(path: Path, file: h5py.File, interactions: np.ndarray) -> dict[int, np.ndarray]:
    """Row of an interaction -> its final state, from larnd-sim's ``mc_stack``; empty without that table.

    Raises:
        InputError: the table cannot be read.
    """
    table, names = find_table(file, STACK), set(interactions.dtype.names or ())
    if table is None or not {*STACK_COLUMNS, *KEYS} <= set(table.dtype.names or ()) or not set(KEYS) <= names:
        return {}
    check_dataset(path, table, at_once=True)
    rows = table[:]
    rows = rows[rows["part_status"] == FINAL]
    keys, owners = (np.stack([part[key].astype(np.int64) for key in KEYS], axis=1) for part in (rows, interactions))
    order = np.lexsort(keys.T)
    rows, keys = rows[order], keys[order]
    begins = np.flatnonzero(np.r_[True, (np.diff(keys, axis=0) != 0).any(axis=1)][: len(keys)])
    found = dict(zip(map(tuple, keys[begins].tolist()), np.split(rows, begins[1:]), strict=False)) if len(rows) else {}
    states = {}
    for row, key in enumerate(map(tuple, owners.tolist())):
        if key in found:
            four, every = found[key]["part_4mom"].astype(np.float64), np.ones(len(found[key]), dtype=bool)
            states[row] = final_state(found[key]["part_pdg"], four[:, :3], four[:, 3], every)
    return states


def _distance(positions: np.ndarray, point: np.ndarray) -> float:
    """Distance of a point (3,) from the nearest of `positions` (hits, 3)."""
    return float(np.sqrt(np.nanmin(((positions - point) ** 2).sum(axis=1), initial=np.inf)))
