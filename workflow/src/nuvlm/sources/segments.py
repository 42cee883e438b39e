"""What the readers of segment files share: interactions to a voxel shard, every one of them accounted for."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nuvlm.base.errors import InputError, OnBadEvent
from nuvlm.base.logs import track
from nuvlm.detector.geometry import Detector
from nuvlm.detector.readout import Recombination
from nuvlm.detector.voxels import PARTICLE_DTYPE, Event, Voxels, voxelize, write_shard
from nuvlm.simulation.stdhep import NEUTRINOS

logger = logging.getLogger(__name__)

UNKNOWN = (float("nan"),) * 3


@dataclass(frozen=True)
class Truth:
    """What a file says of the neutrino. The defaults stand for what it does not say."""

    nu_pdg: int = 0
    is_cc: bool = False
    nu_energy: float = float("nan")
    """GeV."""
    inelasticity: float = float("nan")
    vertex_mm: tuple[float, float, float] = UNKNOWN
    """In the file's coordinates."""
    mode: int = 0
    particles: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=PARTICLE_DTYPE))
    """The final state, rows of :data:`nuvlm.detector.voxels.PARTICLE_DTYPE`, their event_id not yet set."""


@dataclass(frozen=True)
class Interaction:
    """The energy deposits of one neutrino, straight segments in the file's coordinates."""

    event_id: int
    start_mm: np.ndarray
    """(segments, 3)."""
    end_mm: np.ndarray
    energy_mev: np.ndarray
    """(segments,)."""
    name: str
    """What the file calls it, as in "event 7, vertex 2"."""
    truth: Truth = Truth()
    defect: str | None = None
    """Why the reader of the file cannot use it, as in "has no ..."."""


def write_interactions(
    path: Path,
    out: Path,
    interactions: Iterable[Interaction],
    n_interactions: int,
    *,
    detector: Detector,
    offset_mm: tuple[float, float, float],
    on_bad_event: OnBadEvent,
    recombination: Recombination,
) -> None:
    """Write the interactions of the file `path` to the voxel shard `out`.

    Interactions without any segment (of a spill, those in the rock) are left out and counted. One that cannot be
    used is an error or, with `on_bad_event` "skip", left out and counted. So is the energy outside the detector.

    Args:
        interactions: `n_interactions` of them, read as they are needed.
        offset_mm: added to the file's coordinates.
        recombination: turns each segment's energy into what its charge stands for.

    Raises:
        InputError: an interaction that cannot be used, or none that can.
    """
    account = _Account(path, on_bad_event, detector)

    def events() -> Iterator[Event]:
        for interaction in track(interactions, "events", n_interactions):
            if not len(interaction.energy_mev) and not interaction.defect:
                account.n_empty += 1
                continue
            defect = interaction.defect or _defect(interaction)
            if defect:
                account.refuse(interaction, defect)
                continue
            start, end = interaction.start_mm + offset_mm, interaction.end_mm + offset_mm
            length = np.linalg.norm(end - start, axis=1)
            energy = recombination.visible_energy(interaction.energy_mev, length)
            voxels, outside = voxelize(detector, start, end, energy)
            if not len(voxels):
                account.refuse_outside(interaction, start)
                continue
            account.use(interaction, energy, outside)
            yield _event(interaction, voxels, offset_mm)

    # write_shard() refuses a shard without events too, but cannot say what became of them.
    write_shard(out, detector, account.not_none(events()))
    account.log()


def event_ids(path: Path, keys: Sequence[tuple[int, int]]) -> list[int]:
    """One id for each pair of event and vertex: the event's, where each holds one; the vertex's; else both.

    Raises:
        InputError: they are too large for both to go in 64 bits.
    """
    for part in (0, 1):
        ids = [key[part] for key in keys]
        if len(set(ids)) == len(keys):
            return ids
    if any(event >= 2**32 or vertex >= 2**32 for event, vertex in keys):
        raise InputError(
            f"{path}: neither event nor vertex ids are unique, and they are too large to be joined in one number "
            "(2^32 and above). Number the events of the file anew."
        )
    return [event * 2**32 + vertex for event, vertex in keys]


def particle_rows(pdg: np.ndarray, momentum_mev: np.ndarray) -> np.ndarray:
    """Particles (n,) with four-momenta (n, 4), px py pz E, as rows of a /truth/particles table.

    The mass is what the four-momentum has: rounding (of single precision, some 1e-4 of the energy) can add to it.
    """
    energy = momentum_mev[:, 3]
    mass = np.sqrt(np.maximum(energy**2 - (momentum_mev[:, :3] ** 2).sum(axis=1), 0))
    rows = np.zeros(len(pdg), dtype=PARTICLE_DTYPE)
    rows["pdg"], rows["kinetic_mev"], rows["momentum_mev"] = pdg, energy - mass, momentum_mev[:, :3]
    return rows


def _defect(interaction: Interaction) -> str | None:
    pdg = interaction.truth.nu_pdg
    if pdg and abs(pdg) not in NEUTRINOS:
        return f"has PDG code {pdg} for its neutrino"
    coordinates = np.isfinite(interaction.start_mm).all() and np.isfinite(interaction.end_mm).all()
    if not coordinates or not np.isfinite(interaction.energy_mev).all():
        return "has a coordinate or deposit that is not a number"
    if (interaction.energy_mev < 0).any():
        return "has a negative deposit"
    if not (interaction.energy_mev > 0).any():
        return "has segments but no energy in them"
    return None


def _event(interaction: Interaction, voxels: Voxels, offset_mm: tuple[float, float, float]) -> Event:
    truth = interaction.truth
    particles = truth.particles.copy()
    particles["event_id"] = interaction.event_id
    x, y, z = np.add(truth.vertex_mm, offset_mm).tolist()
    return Event(
        interaction.event_id,
        voxels,
        nu_pdg=truth.nu_pdg,
        is_cc=truth.is_cc,
        nu_energy=truth.nu_energy,
        inelasticity=truth.inelasticity,
        vertex_mm=(x, y, z),
        mode=truth.mode,
        truth={"particles": particles} if len(particles) else {},
    )


class _Account:
    """What became of each interaction and of its energy."""

    def __init__(self, path: Path, on_bad_event: OnBadEvent, detector: Detector) -> None:
        self.n_empty = 0
        self._path = path
        self._on_bad_event = on_bad_event
        self._box = np.array(detector.box_mm, dtype=np.float64).T
        self._low, self._high = np.full(3, np.inf), np.full(3, -np.inf)
        self._n_used = self._n_with_truth = self._n_outside = 0
        self._deposited = self._visible = self._outside = 0.0
        self._bad: dict[str, list[str]] = {}

    def use(self, interaction: Interaction, energy: np.ndarray, outside: float) -> None:
        self._n_used += 1
        self._n_with_truth += interaction.truth.nu_pdg != 0
        self._deposited += float(interaction.energy_mev.sum())
        self._visible += float(energy.sum())
        self._outside += outside

    def refuse(self, interaction: Interaction, defect: str, remedy: str = "Mend the file") -> None:
        if self._on_bad_event == "error":
            raise InputError(
                f"{self._path}: {interaction.name} {defect}. {remedy}, or leave such events out with "
                "input.on_bad_event: skip."
            )
        self._bad.setdefault(defect, []).append(interaction.name)

    def refuse_outside(self, interaction: Interaction, start: np.ndarray) -> None:
        self._n_outside += 1
        low, high = start.min(axis=0), start.max(axis=0)
        self._low, self._high = np.minimum(self._low, low), np.maximum(self._high, high)
        where = "lies outside the detector"
        if self._on_bad_event == "error":
            where += f": {self._span(low, high)}"
        self.refuse(interaction, where, "Set input.offset_mm where the file's origin is not the detector's")

    def not_none(self, events: Iterator[Event]) -> Iterator[Event]:
        """Pass `events` on and, if there was none, say why.

        Raises:
            InputError: there was none.
        """
        yield from events
        if self._n_used:
            return
        n_bad = sum(map(len, self._bad.values()))
        if self._n_outside and self._n_outside == n_bad:
            raise InputError(
                f"{self._path}: all {n_bad} events lie outside the detector. {self._span(self._low, self._high)}. "
                "Set input.offset_mm."
            )
        reasons = [f"{len(names)}, first {names[0]}, {defect}" for defect, names in self._bad.items()]
        reasons += [f"{self.n_empty} have no segments"] if self.n_empty else []
        raise InputError(
            f"{self._path}: the file holds no event that can be used{': ' if reasons else ''}{'; '.join(reasons)}. "
            "Mend the file, or take it out of input.files."
        )

    def log(self) -> None:
        n = self._n_used + self.n_empty + sum(map(len, self._bad.values()))
        for defect, names in self._bad.items():
            logger.warning("%s: %d of %d events left out; the first, %s, %s",
                           self._path, len(names), n, names[0], defect)  # fmt: skip
        if self.n_empty:
            logger.warning("%s: %d of %d events left out: they have no segments", self._path, self.n_empty, n)
        if self._outside > 1e-9 * self._visible:
            logger.warning("%s: %.1f of %.1f MeV lie outside the detector and were left out",
                           self._path, self._outside, self._visible)  # fmt: skip
        if self._visible != self._deposited:
            logger.info("%s: recombination leaves %.1f of %.1f MeV", self._path, self._visible, self._deposited)
        logger.info("%s: %d events, %d of them with truth", self._path, self._n_used, self._n_with_truth)

    def _span(self, low: np.ndarray, high: np.ndarray) -> str:
        return (
            f"deposits span {np.round(low).tolist()} to {np.round(high).tolist()} mm, "
            f"the detector {self._box[0].tolist()} to {self._box[1].tolist()} mm"
        )
