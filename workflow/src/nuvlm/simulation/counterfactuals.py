"""Counterfactual events: a simulated event again, with one of its particles left out, moved or drawn again.

Particles of one GEANT4 event share its random numbers, so without one of them all others would deposit differently.
Here each particle is a separate GEANT4 event with a separate seed, and every event, changed or not, is the sum of its
particles: what is not changed deposits the same, bit for bit. A shower is moved as a whole, as argon is the same
everywhere; what then lies outside the detector is lost, and what had left it is not found again.

A shower drawn again, from another seed, is the control of the other changes: another picture of the same physics, and
so no argument for another answer.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from nuvlm.detector.geometry import Detector
from nuvlm.simulation.final_states import ELECTRON, MUON, PHOTON, PION_ZERO, Particle

if TYPE_CHECKING:
    from nuvlm.simulation.transport import ArgonBox, Deposits

GAP_MM = 200.0
"""Length by which a gap is opened: a photon's mean conversion length, four pixels of 5 cm."""
LEAST_MEV = 50.0
"""Particles that deposit less are not changed: nobody would see it. A shower that counts deposits as much."""


class Kind(NamedTuple):
    """What is changed."""

    particles: Literal["electron", "muon", "photons"]
    change: Literal["left out", "after a gap", "at the vertex", "with another seed"]
    """`after a gap`: moved by :data:`GAP_MM` along the flight; `at the vertex`: moved so that the first conversion of a
    photon is at the vertex; `with another seed`: transported again, and photons moved along their flight so that the
    first conversion is as far from the vertex as before."""


AS_SIMULATED = "as_simulated"
KINDS = {
    "without_electron": Kind("electron", "left out"),
    "without_muon": Kind("muon", "left out"),
    "without_photons": Kind("photons", "left out"),
    "electron_after_gap": Kind("electron", "after a gap"),
    "photons_after_gap": Kind("photons", "after a gap"),
    "photons_at_vertex": Kind("photons", "at the vertex"),
    "electron_again": Kind("electron", "with another seed"),
    "photons_again": Kind("photons", "with another seed"),
}
"""Photons are changed in events without an electron, whose shower is theirs."""
CONTROLS = {kind.particles: name for name, kind in KINDS.items() if kind.change == "with another seed"}
"""The kind that draws these particles again."""
NAMES = (AS_SIMULATED, *KINDS)
"""Name of each code in /truth/counterfactuals."""
PDG = {"electron": (ELECTRON,), "muon": (MUON,), "photons": (PHOTON, PION_ZERO)}
"""Absolute PDG codes of the primary particles. Those of less energy than :data:`LEAST_MEV`, such as photons of the
nucleus, are left as they are. Photons of an eta are primary; those of kaons and hyperons are not among these."""
DTYPE = np.dtype([("event_id", "u8"), ("original", "u8"), ("kind", "u1")])
"""Table /truth/counterfactuals, one row per event: the event that it is the counterfactual of, and an index into
NAMES. An event as simulated is its own original."""


class Counterfactual(NamedTuple):
    """An event, as simulated or changed."""

    kind: str
    """One of NAMES."""
    particles: tuple[Particle, ...]
    """Without those that are left out."""
    deposits: "Deposits"


def counterfactuals(
    box: "ArgonBox", detector: Detector, vertex_mm: np.ndarray, particles: Sequence[Particle], rng: np.random.Generator
) -> Iterator[Counterfactual]:
    """Yield an event as simulated, and then each of its counterfactuals that can be made.

    A kind is left out if the event has no such particles, if they deposit less than :data:`LEAST_MEV`, if nothing
    would be left of the event, if a shower would begin outside the detector, or if a photon converts with one seed
    and not with the other.

    Args:
        box: GEANT4.
        detector: its geometry.
        vertex_mm: (3,).
        particles: those that GEANT4 can track.
        rng: of the seeds.
    """
    seeds = rng.integers(2**63, size=len(particles)).tolist()
    each = [box.transport(vertex_mm, [p], np.random.default_rng(s)) for p, s in zip(particles, seeds, strict=True)]
    if not each:
        return
    yield Counterfactual(AS_SIMULATED, tuple(particles), _sum(each))
    low, high = np.array(detector.box_mm, dtype=np.float64).T
    has_electron = any(abs(particle.pdg) == ELECTRON for particle in particles)
    for kind, (of, change) in KINDS.items():
        rows = [i for i, p in enumerate(particles) if abs(p.pdg) in PDG[of] and p.energy >= LEAST_MEV]
        if (of == "photons" and has_electron) or _energy([each[i] for i in rows]) < LEAST_MEV:
            continue
        if change == "left out":
            kept = [i for i in range(len(particles)) if i not in rows]
            if kept:
                yield Counterfactual(kind, tuple(particles[i] for i in kept), _sum([each[i] for i in kept]))
            continue
        showers = {i: each[i] for i in rows}
        if change == "with another seed":
            # Derived from the seed of the particle: `rng` draws what it draws without this kind.
            for i in rows:
                showers[i] = box.transport(vertex_mm, [particles[i]], np.random.default_rng([seeds[i], 1]))
            converts = [bool(np.isfinite(each[i].conversion_mm).all()) for i in rows]
            if converts != [bool(np.isfinite(showers[i].conversion_mm).all()) for i in rows]:
                continue
            if _energy(showers.values()) < LEAST_MEV:
                continue
        shifts = {i: _shift(vertex_mm, particles[i], each[i], shower, change) for i, shower in showers.items()}
        starts = {i: vertex_mm if of == "electron" else shower.conversion_mm[0] for i, shower in showers.items()}
        begins = [starts[i] + shift for i, shift in shifts.items()]
        # A photon that leaves without a conversion has no shower to be moved.
        known = [begin for begin in begins if np.isfinite(begin).all()]
        if known and all(((low < begin) & (begin < high)).all() for begin in known):
            moved = {i: _moved(shower, shifts[i], vertex_mm, low, high) for i, shower in showers.items()}
            yield Counterfactual(kind, tuple(particles), _sum([moved.get(i, one) for i, one in enumerate(each)]))


def _energy(each: Iterable["Deposits"]) -> float:
    return sum(float(one.energy_mev.sum()) for one in each)


def _shift(
    vertex_mm: np.ndarray, particle: Particle, before: "Deposits", shower: "Deposits", change: str
) -> np.ndarray:
    """(3,) by which the shower of a particle is moved, mm; NaN for photons without a conversion.

    Args:
        vertex_mm: (3,).
        particle: the particle.
        before: its deposits as simulated.
        shower: the deposits to be moved: the same, or those with another seed.
        change: see :class:`Kind`.
    """
    if abs(particle.pdg) == ELECTRON:
        along = np.array([particle.px, particle.py, particle.pz])
        distance = 0.0
    else:
        along = shower.conversion_mm[0] - vertex_mm
        distance = float(before.photon_gap_mm[0] - shower.photon_gap_mm[0])
    if change == "at the vertex":
        return -along
    shift: np.ndarray = (GAP_MM if change == "after a gap" else distance) / np.linalg.norm(along) * along
    return shift


def _moved(
    deposits: "Deposits", shift_mm: np.ndarray, vertex_mm: np.ndarray, low: np.ndarray, high: np.ndarray
) -> "Deposits":
    """The deposits of one particle, moved; without those that are outside the detector then."""
    if not np.isfinite(shift_mm).all() or not shift_mm.any():
        return deposits
    start, end, conversion = deposits.start_mm + shift_mm, deposits.end_mm + shift_mm, deposits.conversion_mm + shift_mm
    inside = ((low <= np.minimum(start, end)) & (np.maximum(start, end) <= high)).all(axis=1)
    # An electron has no conversion, but it has a gap now.
    gap = np.where(np.isnan(deposits.photon_gap_mm), shift_mm, conversion - vertex_mm)
    return deposits._replace(
        start_mm=start[inside],
        end_mm=end[inside],
        energy_mev=deposits.energy_mev[inside],
        particle=deposits.particle[inside],
        electromagnetic=deposits.electromagnetic[inside],
        photon_gap_mm=np.linalg.norm(gap, axis=1),
        conversion_mm=conversion,
    )


def _sum(each: Sequence["Deposits"]) -> "Deposits":
    """The deposits of an event whose particles were transported one by one."""
    joined = dict(zip(each[0]._fields, map(np.concatenate, zip(*each, strict=True)), strict=True))
    joined["particle"] = np.repeat(np.arange(len(each)), [len(one.energy_mev) for one in each])
    return each[0]._replace(**joined)
