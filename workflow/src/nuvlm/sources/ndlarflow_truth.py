"""Truth of the events of the readout in simulated ndlar_flow files, where one neutrino made the charge of an event.

The references from ``charge/raw_events`` to ``mc_truth/interactions`` follow the charge: from packets to the simulated
segments that made them, and to the interaction of these (``RawEventGenerator`` of ndlar_flow). The interactions are
larnd-sim's ``mc_hdr``. An event with charge of several interactions has no truth that a class can be given by.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from nuvlm.base.errors import InputError
from nuvlm.base.hdf5 import check_dataset
from nuvlm.detector.voxels import MODES, MOST_EVENTS
from nuvlm.sources.h5flow import find_references, find_table
from nuvlm.sources.interactions import UNKNOWN, Truth

INTERACTIONS, RAW_EVENTS = "mc_truth/interactions", "charge/raw_events"
MODE_COLUMNS = {"QE": "isQES", "MEC": "isMEC", "RES": "isRES", "DIS": "isDIS", "COH": "isCOH"}
VERTEX = ("x_vert", "y_vert", "z_vert")
NEAR_MM = 50.0
"""Charge within this distance of the vertex touches it: more than the walls between modules."""
FEW = 3
"""Events with hits that a statement about vertices needs."""
MOST_GEV = 50
"""Energies of neutrinos above this are in MeV."""


@dataclass(frozen=True)
class Seen:
    """Hits of one event, for comparison with its vertex."""

    row: int
    position_mm: np.ndarray
    """(hits, 3)."""


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
        self._table: np.ndarray | None = None
        self._mm, self._columns = 10.0, (0, 1, 2)
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
        self._table = table[:]
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
        self._gev = 1.0
        if "Enu" in table.dtype.names:
            energy = self._table["Enu"].astype(np.float64)
            energy = energy[np.isfinite(energy) & (energy > 0)]
            self._gev = 1e-3 if len(energy) and np.median(energy) > MOST_GEV else 1.0
            self.evidence += f"; Enu in {'MeV' if self._gev < 1 else 'GeV'}, from its size"

    def meet(self, seen: list[Seen], columns: tuple[int, int, int]) -> None:
        """Find the unit and axes of the vertices: the charge of an event touches its vertex.

        Without any vertex at its charge, references or vertices are of something else, and truth is unknown.

        Args:
            seen: some events.
            columns: which columns of the hits are x, y, z; vertices may have the same exchange.
        """
        near, n = Counter[tuple[float, tuple[int, ...]]](), 0
        ways = [(mm, order) for mm in (10.0, 1.0) for order in dict.fromkeys([(0, 1, 2), columns])]
        for event in seen:
            vertex = self._vertex(event.row)
            if vertex is None or not np.isfinite(vertex).all() or not len(event.position_mm):
                continue
            n += 1
            for mm, order in ways:
                apart = np.linalg.norm(event.position_mm - mm * vertex[list(order)], axis=1)
                near[mm, order] += bool(np.nanmin(apart, initial=np.inf) < NEAR_MM)
        if n < FEW:
            return
        best = max(ways, key=lambda way: near[way])
        if not near[best]:
            self._row[:] = -1
            self.value = "unknown"
            self.evidence = f"none of {n} vertices is within {NEAR_MM:g} mm of the charge that refers to it"
            return
        self._mm, self._columns = best
        how = f"{'cm' if self._mm == 10 else 'mm'}, x, y, z in {', '.join(VERTEX[i] for i in self._columns)}"
        self.evidence += f"; {near[best]} of {n} vertices ({how}) are within {NEAR_MM:g} mm of their charge"

    def of(self, row: int) -> Truth:
        """Truth of an event."""
        if self._table is None or self._row[row] < 0:
            return Truth()
        interaction = self._table[self._row[row]]
        names = interaction.dtype.names
        vertex = self._vertex(row)
        modes = [mode for mode, name in MODE_COLUMNS.items() if name in names and interaction[name]]
        return Truth(
            nu_pdg=int(interaction["nu_pdg"]),
            is_cc=bool(interaction["isCC"]),
            nu_energy=float(interaction["Enu"]) * self._gev if "Enu" in names else np.nan,
            inelasticity=float(interaction["y"]) if "y" in names else np.nan,
            vertex_mm=UNKNOWN if vertex is None else tuple((self._mm * vertex[list(self._columns)]).tolist()),
            mode=MODES[modes[0]] if modes else MODES["unknown"],
        )

    def _vertex(self, row: int) -> np.ndarray | None:
        """(3,), in the file's unit and columns."""
        if self._table is None or self._row[row] < 0 or not set(VERTEX) <= set(self._table.dtype.names or ()):
            return None
        interaction = self._table[self._row[row]]
        return np.array([interaction[name] for name in VERTEX], dtype=np.float64)
