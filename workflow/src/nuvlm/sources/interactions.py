"""An event as a reader of energy deposits, or of charge that was read out, returns it: its energy and truth."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nuvlm.base.errors import InputError
from nuvlm.detector.voxels import PARTICLE_DTYPE

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


def event_ids(path: Path, keys: Sequence[tuple[int, int]]) -> list[int]:
    """One unique id for each pair of event and vertex.

    The event number if it is unique, else the vertex number if that is unique, else event x 2^32 + vertex.

    Raises:
        InputError: a number is too large to be joined in 64 bits.
    """
    for part in (0, 1):
        ids = [key[part] for key in keys]
        if len(set(ids)) == len(keys):
            return ids
    if any(event >= 2**32 or vertex >= 2**32 for event, vertex in keys):
        raise InputError(
            f"{path}: neither event nor vertex ids are unique, and they are too large to be joined in one number "
            "(2^32 and above). Renumber the events of the file."
        )
    return [event * 2**32 + vertex for event, vertex in keys]


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
