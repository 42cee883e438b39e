"""Whether the interactions of a generator's file agree with a beam along z, with each other and with the detector.

Each entry is checked when it is read (:mod:`nuvlm.simulation.genie`); here is what only many entries together show.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nuvlm.base.conclusions import Record
from nuvlm.base.errors import InputError
from nuvlm.detector.geometry import Detector
from nuvlm.detector.voxels import PARTICLE_DTYPE
from nuvlm.simulation.agreement import Agreement
from nuvlm.simulation.final_states import Particle
from nuvlm.simulation.genie import GenieEvent

BEAM = 0.9
"""Length of the mean direction of the neutrinos from which they are a beam, not from everywhere."""
ALONG_DEG, OFF_AXIS_DEG = 45.0, 15.0
"""Angle of a beam to z from which z is another axis, and from which it is unusual: the NuMI beam comes at 8 degrees."""
FEW = 10
"""Vertices from which their extent says something."""
NARROW = 0.1
"""Part of the detector's side that vertices fill at least; less along an axis means another unit, or one point."""


@dataclass
class GeneratorEvidence:
    """Evidence from all entries of a file that are used."""

    detector: Detector
    offset_mm: np.ndarray
    """Added to the file's coordinates, (3,)."""
    uses_vertices: bool
    """Whether interactions are put where the file has them."""
    _agreement: Agreement = field(default_factory=Agreement)
    _n_without_mode: int = 0
    _directions: list[np.ndarray] = field(default_factory=list)
    _vertices: list[np.ndarray] = field(default_factory=list)
    _seen: set[tuple[object, ...]] = field(default_factory=set)
    _repeated: list[str] = field(default_factory=list)

    def watch(self, entries: Iterable[GenieEvent], path: Path, record: Record) -> Iterator[GenieEvent]:
        """Yield `entries`, and conclude after the last one.

        Raises:
            InputError: evidence against what the file says.
        """
        for entry in entries:
            self.add(entry)
            yield entry
        self.conclude(path, record)

    def add(self, entry: GenieEvent) -> None:
        state = entry.state
        if state is None:
            return
        rows = particle_rows(0, state.particles)
        self._agreement.add(entry.name, state.nu_pdg, state.is_cc, state.nu_energy, state.inelasticity, rows, away=None)
        self._directions.append(entry.direction)
        self._n_without_mode += not state.mode
        if np.isfinite(entry.vertex_mm).all():
            self._vertices.append(entry.vertex_mm + self.offset_mm)
        key = (state.nu_pdg, state.nu_energy, rows["momentum_mev"].tobytes())
        if key in self._seen:
            self._repeated.append(entry.name)
        self._seen.add(key)

    def conclude(self, path: Path, record: Record) -> None:
        """Record what follows.

        Raises:
            InputError: the beam is not along z; final states of other neutrinos.
        """
        if not self._directions:
            return
        self._conclude_beam(path, record)
        self._agreement.conclude(path, record)
        if self._n_without_mode:
            record(path, "unknown truth", "mode", f"in {self._n_without_mode} of {len(self._directions)} entries")
        if self._repeated:
            n = f"{len(self._repeated)} of {len(self._directions)} entries repeat another one"
            record(path, "repeated events", n, f"the first is {self._repeated[0]}", doubt=True)
        if self.uses_vertices:
            self._conclude_vertices(path, record)

    def _conclude_beam(self, path: Path, record: Record) -> None:
        mean = np.mean(self._directions, axis=0)
        size = float(np.linalg.norm(mean))
        found = f"the mean direction of {len(self._directions)} neutrinos is {np.round(mean, 3).tolist()}"
        if size < BEAM:
            record(path, "beam", "not along z: neutrinos from several directions", found, doubt=True)
            return
        angle = float(np.degrees(np.arccos(np.clip(mean[2] / size, -1, 1))))
        if angle > ALONG_DEG:
            raise InputError(
                f"{path}: {found}, {angle:.0f} degrees from z, but the beam must be along z. Exchange the components "
                "of all momenta and vertices so that it is."
            )
        record(path, "beam", f"{angle:.1f} degrees from z", found, doubt=angle > OFF_AXIS_DEG)

    def _conclude_vertices(self, path: Path, record: Record) -> None:
        if len(self._vertices) < FEW:
            return
        low, high = np.array(self.detector.box_mm, dtype=np.float64).T
        span = np.ptp(self._vertices, axis=0)
        value = f"{len(self._vertices)}, within {np.round(span).tolist()} mm of each other along x, y, z"
        narrow = bool((span < NARROW * (high - low)).any())
        record(path, "vertices", value, f"the detector has {np.round(high - low).tolist()} mm", doubt=narrow)


def particle_rows(event_id: int, particles: Iterable[Particle]) -> np.ndarray:
    """The rows of an event in the table /truth/particles."""
    rows = [(event_id, p.pdg, p.kinetic, (p.px, p.py, p.pz)) for p in particles]
    return np.array(rows, dtype=PARTICLE_DTYPE)
