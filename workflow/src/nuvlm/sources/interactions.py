"""An event as a reader of energy deposits, or of charge that was read out, returns it: its energy and truth."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from nuvlm.base.conclusions import Record
from nuvlm.detector.voxels import PARTICLE_DTYPE
from nuvlm.sources.consistency import Axes

UNKNOWN = (float("nan"),) * 3


@dataclass(frozen=True)
class Truth:
    """Truth of the neutrino. The defaults mean unknown."""

    nu_pdg: int = 0
    is_cc: bool = False
    nu_energy: float = float("nan")
    """GeV."""
    inelasticity: float = float("nan")
    vertex_mm: tuple[float, float, float] = UNKNOWN
    """In the file's coordinates."""
    mode: int = 0
    """Scattering mode, a value of :data:`nuvlm.detector.voxels.MODES`."""
    particles: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=PARTICLE_DTYPE))
    """The final state, rows of :data:`nuvlm.detector.voxels.PARTICLE_DTYPE` without event_id."""

    def permuted(self, order: Axes) -> "Truth":
        """With components `order` of vertex and momenta as x, y, z."""
        particles = self.particles.copy()
        particles["momentum_mev"] = particles["momentum_mev"][:, list(order)]
        x, y, z = (self.vertex_mm[i] for i in order)
        return replace(self, vertex_mm=(x, y, z), particles=particles)


NUMBERS_DTYPE = np.dtype([("event_id", "u8"), ("run", "i8"), ("event", "i8"), ("vertex", "u8"), ("file", "u4")])
"""Table /truth/numbers: what the input file calls an event, one row per event."""


@dataclass(frozen=True)
class Numbers:
    """What the file calls an interaction; numbers that it does not have are 0."""

    event: int
    vertex: int = 0
    run: int = 0
    file: int = 0
    """Counts the files that were merged into one, as far as event numbers begin anew."""

    def row(self, event_id: int) -> np.ndarray:
        """A row of /truth/numbers."""
        event = self.event if self.event < 2**63 else self.event - 2**64
        return np.array([(event_id, self.run, event, self.vertex, self.file)], dtype=NUMBERS_DTYPE)


@dataclass(frozen=True)
class Interaction:
    """The energy deposits of one neutrino: straight segments in the file's coordinates."""

    event_id: int
    start_mm: np.ndarray
    """(segments, 3)."""
    end_mm: np.ndarray
    """(segments, 3)."""
    energy_mev: np.ndarray
    """(segments,)."""
    name: str
    """Name for messages, such as "event 7, vertex 2"."""
    truth: Truth = Truth()
    defect: str | None = None
    """Reason why the event cannot be used, such as "has no ..."; None if it can."""
    numbers: Numbers | None = None
    """What the file calls it, if the event id is made from that."""
    size_mm: tuple[float, float, float] = (0, 0, 0)
    """Sides of the box around the start that a deposit is spread over evenly, such as a voxel of the file, mm; the end
    is not used then. Zeros: deposits along the segments."""


@dataclass(frozen=True)
class DriftedEvent:
    """Charge of one event as it was read out, at its reconstructed positions in the file's coordinates."""

    event_id: int
    position_mm: np.ndarray
    """(points, 3): centre of what each point was read from."""
    energy_mev: np.ndarray
    """(points,), not negative."""
    name: str
    """Name for messages, such as "event 7"."""
    truth: Truth = Truth()
    defect: str | None = None
    """Reason why the event cannot be used, such as "has no ..."; None if it can."""
    numbers: Numbers | None = None
    """What the file calls it, if the event id is made from that."""
    size_mm: tuple[float, float, float] = (0, 0, 0)
    """Sides of the box that the charge of a point is spread over evenly, such as a voxel of the file, mm."""

    @property
    def start_mm(self) -> np.ndarray:
        """(points, 3): a point is a segment without length."""
        return self.position_mm

    @property
    def end_mm(self) -> np.ndarray:
        """(points, 3)."""
        return self.position_mm


def event_ids(path: Path, keys: Sequence[tuple[int, ...]], record: Record | None = None) -> list[int]:
    """One unique id for each interaction.

    The event number if it is unique, else the vertex number if that is unique, else event x 2^32 + vertex, else, as
    where merged files number their events anew, the place in the file. The last is recorded; the table
    /truth/numbers keeps the numbers of the file.

    Args:
        path: the file.
        keys: event and vertex of each interaction, and a number that counts merged files, if there may be some.
        record: takes the conclusion.
    """
    for part in (0, 1):
        ids = [key[part] for key in keys]
        if len(set(ids)) == len(keys):
            return ids
    joined = [event * 2**32 + vertex for event, vertex, *_ in keys]
    n_files = len({key[2:] for key in keys})
    fits = all(0 <= event < 2**32 and 0 <= vertex < 2**32 for event, vertex, *_ in keys)
    if fits and n_files == 1 and len(set(joined)) == len(keys):
        return joined
    why = "neither event nor vertex numbers are unique, and they are too large to be joined"
    if n_files > 1:
        why = f"event numbers begin anew in {n_files - 1} places, as in merged files"
    if record:
        value = "numbered by place; /truth/numbers has the numbers of the file"
        record(path, "event ids", value, why, doubt=True)
    return list(range(len(keys)))


def passes(keys: Sequence[object]) -> list[int]:
    """Where the numbering of runs of rows begins anew: 0, and each run whose key has occurred since the last start."""
    begins, seen = [0], set[object]()
    for i, key in enumerate(keys):
        if key in seen:
            begins.append(i)
            seen = set()
        seen.add(key)
    return begins


def particle_rows(pdg: np.ndarray, momentum_mev: np.ndarray) -> np.ndarray:
    """Particles as rows of a /truth/particles table.

    The mass is computed from the four-momentum; rounding to single precision adds some 1e-4 of the energy to it.

    Args:
        pdg: (particles,).
        momentum_mev: (particles, 4), px, py, pz, E.
    """
    energy = momentum_mev[:, 3]
    mass = np.sqrt(np.maximum(energy**2 - (momentum_mev[:, :3] ** 2).sum(axis=1), 0))
    rows = np.zeros(len(pdg), dtype=PARTICLE_DTYPE)
    rows["pdg"], rows["kinetic_mev"], rows["momentum_mev"] = pdg, energy - mass, momentum_mev[:, :3]
    return rows
