"""Muons of cosmic rays at sea level that cross the detector while the charge of an event drifts.

The intensity is that of M. Guan et al., arXiv 1509.06176: Gaisser's formula with a modification for low energies, and
for large zenith angles. The ratio of charges is the world average of T. Hebbeker and C. Timmermans, hep-ph/0102042.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nuvlm.base.settings import Settings
from nuvlm.detector.geometry import Detector, Positive, drift_cells
from nuvlm.detector.readout import Recombination
from nuvlm.detector.visible_energy import COSMIC_DTYPE, VisibleEnergy
from nuvlm.detector.voxels import voxelize
from nuvlm.simulation.final_states import MASS_MEV, MUON, Particle

if TYPE_CHECKING:
    from nuvlm.simulation.transport import ArgonBox

ENERGY_GEV = (0.3, 1000.0)
"""Total energy of the muons. Slower ones are few and stop within 40 cm; of faster ones there is one in 100,000."""
POSITIVE = 1.268 / 2.268
"""Fraction of positive muons."""
CELLS = (400, 200)
"""Of the table of intensities, along the logarithm of the energy and the cosine of the zenith angle."""
NUDGE_MM = 1e-3
"""Muons start so far inside the wall, which is the boundary of GEANT4's world."""


class Cosmics(Settings):
    """Which muons are added to an event."""

    rate_hz_m2: Positive
    """Muons a second through a horizontal square metre."""
    drift_velocity_mm_us: Positive


class Muon(NamedTuple):
    """A muon that enters the detector."""

    particle: Particle
    entry_mm: np.ndarray
    """(3,)."""
    time_us: float
    """When it crosses the detector, after the interaction of the neutrino."""


class Steps(NamedTuple):
    """Energy deposits of an event's muons, where they are reconstructed."""

    start_mm: np.ndarray
    """(steps, 3), as is the end."""
    end_mm: np.ndarray
    energy_mev: np.ndarray
    """(steps,): visible energy."""
    truth: np.ndarray
    """One row a muon, COSMIC_DTYPE."""


def intensity(energy_gev: np.ndarray, cos_zenith: np.ndarray) -> np.ndarray:
    """Muons per m2, s, sr and GeV at sea level, of total energy (GeV) and cosine of the zenith angle."""
    p1, p2, p3, p4, p5 = 0.102573, -0.068287, 0.958633, 0.0407253, 0.817285
    # Of the zenith angle where the muon is produced: the Earth is round.
    star2 = (cos_zenith**2 + p1**2 + p2 * cos_zenith**p3 + p4 * cos_zenith**p5) / (1 + p1**2 + p2 + p4)
    star = np.sqrt(star2)
    pions = 1 / (1 + 1.1 * energy_gev * star / 115)
    kaons = 0.054 / (1 + 1.1 * energy_gev * star / 850)
    return 1e4 * 0.14 * (energy_gev * (1 + 3.64 / (energy_gev * star**1.29))) ** -2.7 * (pions + kaons)


class CosmicMuons:
    """The muons of one picture: those whose charge arrives while the charge of the neutrino's event does.

    Charge takes at most the longest drift time T to the anode, and is recorded for the time T after the interaction. So
    muons count from T before the interaction, of which the charge far from the anodes is left, to T after it, of which
    that close to the anodes arrives in time. A charge is reconstructed from its time of arrival, as if it were
    of the interaction: displaced by v t away from its anode. What would lie behind the anode has arrived before; what
    would lie beyond its drift volume comes after T. Neither is recorded.

    Args:
        detector: its box is crossed from above; y is vertical.
        cosmics: rate and drift velocity.
    """

    def __init__(self, detector: Detector, cosmics: Cosmics) -> None:
        self._velocity = cosmics.drift_velocity_mm_us
        self._detector, self._along = detector, detector.drift
        self._cells = np.array(drift_cells(detector))  # (cells, 3): low, high, anode
        self.window_us = max(cell.longest_mm for cell in drift_cells(detector)) / self._velocity
        """T: muons cross between -T and T."""
        self._box = np.array(detector.box_mm, dtype=np.float64)
        x, y, z = (self._box[:, 1] - self._box[:, 0]) / 1000
        self._areas = np.array([y * z, x * z, x * y])
        """Of the faces across x, y and z, m2."""
        self._visible_energy = VisibleEnergy(detector)
        log_edges = np.log(np.geomspace(*ENERGY_GEV, CELLS[0] + 1))
        cos_edges = np.linspace(0, 1, CELLS[1] + 1)
        self._log_edges, self._cos_edges = log_edges, cos_edges
        energy, cosine = np.exp((log_edges[1:] + log_edges[:-1]) / 2)[:, None], (cos_edges[1:] + cos_edges[:-1]) / 2
        # (energies, angles): per m2 across the direction and sr, in each cell.
        here = intensity(energy, cosine) * energy * np.diff(log_edges)[:, None] * np.diff(cos_edges)
        horizontal = 2 * np.pi * (here * cosine).sum()
        # The projected area of the box, integrated over the azimuth.
        area = 4 * np.sqrt(1 - cosine**2) * (self._areas[0] + self._areas[2]) + 2 * np.pi * cosine * self._areas[1]
        through = here * area
        self.expected = cosmics.rate_hz_m2 / horizontal * through.sum() * 2 * self.window_us * 1e-6
        """Mean number of muons in a picture."""
        self._cumulative = np.cumsum(through.ravel() / through.sum())

    def draw(self, rng: np.random.Generator) -> list[Muon]:
        """Muons that cross the detector in the window."""
        return [self._draw(rng) for _ in range(rng.poisson(self.expected))]

    def _draw(self, rng: np.random.Generator) -> Muon:
        cell = min(int(np.searchsorted(self._cumulative, rng.random(), side="right")), len(self._cumulative) - 1)
        i, j = divmod(cell, CELLS[1])
        energy = 1000 * np.exp(rng.uniform(*self._log_edges[i : i + 2]))
        cosine = rng.uniform(*self._cos_edges[j : j + 2])
        sine = np.sqrt(1 - cosine**2)
        largest = sine * np.hypot(self._areas[0], self._areas[2]) + cosine * self._areas[1]
        while True:
            azimuth = rng.uniform(0, 2 * np.pi)
            direction = np.array([sine * np.cos(azimuth), -cosine, sine * np.sin(azimuth)])
            seen = np.abs(direction) * self._areas
            if rng.random() * largest < seen.sum():
                break
        face = int(rng.choice(3, p=seen / seen.sum()))
        entry = rng.uniform(self._box[:, 0], self._box[:, 1])
        entry[face] = self._box[face, 0] if direction[face] > 0 else self._box[face, 1]
        entry = np.clip(entry, self._box[:, 0] + NUDGE_MM, self._box[:, 1] - NUDGE_MM)
        px, py, pz = (np.sqrt(energy**2 - MASS_MEV[MUON] ** 2) * direction).tolist()
        # A positive muon is the antiparticle.
        particle = Particle(-MUON if rng.random() < POSITIVE else MUON, px, py, pz, float(energy))
        return Muon(particle, entry, rng.uniform(-self.window_us, self.window_us))

    def reconstruct(
        self, start_mm: np.ndarray, end_mm: np.ndarray, time_us: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where the steps (n, 3) of a muon that crosses at `time_us` are seen; and which of them (n,) are recorded."""
        middle = (start_mm[:, self._along] + end_mm[:, self._along]) / 2
        cell = np.clip(np.searchsorted(self._cells[:, 0], middle, side="right") - 1, 0, len(self._cells) - 1)
        low, high, anode = self._cells[cell].T
        shift = np.where(middle < anode, -1.0, 1.0) * self._velocity * time_us
        recorded = (middle + shift >= low) & (middle + shift <= high)
        moved = np.zeros_like(start_mm)
        moved[:, self._along] = shift
        return start_mm + moved, end_mm + moved, recorded

    def simulate(
        self, box: "ArgonBox", event_id: int, recombination: Recombination, rng: np.random.Generator
    ) -> Steps | None:
        """Transport the muons of an event with GEANT4; None if there are none."""
        parts, rows = [], []
        for muon in self.draw(rng):
            deposits = box.transport(muon.entry_mm, [muon.particle], rng)
            length = np.linalg.norm(deposits.end_mm - deposits.start_mm, axis=1)
            energy = recombination.visible_energy(deposits.energy_mev, length)
            start, end, recorded = self.reconstruct(deposits.start_mm, deposits.end_mm, muon.time_us)
            start, end, energy = start[recorded], end[recorded], energy[recorded]
            parts.append((start, end, energy))
            voxels, _ = voxelize(self._detector, start, end, energy)
            visible, edge = (0.0, 0.0)
            if len(voxels):
                (visible,), (edge,) = self._visible_energy(voxels, np.array([0, len(voxels)]))
            particle = muon.particle
            momentum = (particle.px, particle.py, particle.pz)
            rows.append(
                (event_id, particle.pdg, particle.kinetic, momentum, muon.entry_mm, muon.time_us, visible, edge)
            )
        if not rows:
            return None
        start, end, energy = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Steps(start, end, energy, np.array([tuple(row) for row in rows], dtype=COSMIC_DTYPE))
