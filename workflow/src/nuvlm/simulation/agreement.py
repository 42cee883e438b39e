"""Whether truth agrees with itself and with the charge: flavour, energy, inelasticity, directions.

The final state is the witness: a charged current has its charged lepton, whose share of the energy is 1 - y; all
particles together have about the neutrino's energy; and charge goes where their momenta point to. Single events may
differ (final-state interactions, Dalitz pairs, particles that leave the detector), a file may not.
"""

import itertools
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nuvlm.base.conclusions import Record
from nuvlm.base.errors import InputError
from nuvlm.simulation.final_states import MASS_MEV
from nuvlm.simulation.stdhep import NEUTRINOS

LEPTON_MEV = {11: 0.511, 13: 105.66, 15: 1776.9}
PION_MEV = {211: 139.57, 111: 134.98}
HARD_MEV = 200.0
"""Charged leptons of a neutral current above this are no Dalitz pairs."""
SAME_Y = 0.05
SAME_MASS = 0.3
ENERGY_SHARE = (0.5, 1.2)
"""Limits on the median share of the neutrino's energy that the final state of charged currents has."""
FEW = 3
MANY = 0.5
"""Part of the events that may disagree."""
SIGNIFICANT = 3.0
"""Standard errors by which other axes must agree better with the momenta."""
CLEARLY = 0.5
"""And the smallest mean gain in the logarithm of the likelihood."""
TYPICAL_DEG = 5.0
"""Angle between the charge and the momenta of an event."""
LARGE_DEG = 8.0
"""Median angle from which they do not agree: 2 to 4 degrees between 0.6 and 2 GeV; an axis in another unit makes it 9
to 50."""
MANY_DIRECTIONS = 0.3
"""Part of the events where other axes must agree within twice that angle."""
NEUTRON = 2112


@dataclass
class _Tally:
    """Events that could be compared, and the names of those that disagree."""

    n: int = 0
    differ: list[str] = field(default_factory=list)

    def add(self, name: str, agrees: bool) -> None:
        self.n += 1
        if not agrees:
            self.differ.append(name)


class Agreement:
    """Evidence from the final states of all interactions of a file."""

    def __init__(self) -> None:
        self._current, self._y, self._mass = _Tally(), _Tally(), _Tally()
        self._share: list[float] = []
        self._away: list[np.ndarray] = []
        self._momentum: list[np.ndarray] = []

    def add(
        self,
        name: str,
        nu_pdg: int,
        is_cc: bool,
        nu_energy: float,
        inelasticity: float,
        particles: np.ndarray,
        away: np.ndarray | None,
    ) -> None:
        """Add an interaction.

        Args:
            nu_pdg, is_cc, nu_energy, inelasticity: the truth; energy in GeV.
            particles: the final state, rows of :data:`nuvlm.detector.voxels.PARTICLE_DTYPE`.
            away: (3,), unit vector from the vertex to the charge; None if unknown.
        """
        if not len(particles):
            return
        pdg = particles["pdg"].astype(np.int64)
        momentum = particles["momentum_mev"].astype(np.float64)
        kinetic = particles["kinetic_mev"].astype(np.float64)
        for code, p, t in zip(pdg.tolist(), np.linalg.norm(momentum, axis=1).tolist(), kinetic.tolist(), strict=True):
            mass = MASS_MEV.get(abs(code), 0.0)
            # A mass that is small beside the momentum is lost in single precision.
            if mass > 100 and p < 20 * mass and (p > 0.1 * mass or t > 0.1 * mass):
                agrees = t > 0 and abs((p**2 - t**2) / (2 * t) / mass - 1) < SAME_MASS
                self._mass.add(f"{name} (PDG code {code})", agrees)
        if away is not None:
            # The charge of a particle lies at a distance that grows with its energy: hence the square.
            size = np.linalg.norm(momentum, axis=1)
            visible = ~np.isin(np.abs(pdg), [*NEUTRINOS, NEUTRON]) & (size > 0)
            total = (momentum[visible] / size[visible, None] * kinetic[visible, None] ** 2).sum(axis=0)
            if np.linalg.norm(total) > HARD_MEV**2:
                self._away.append(away)
                self._momentum.append(total / np.linalg.norm(total))
        if nu_pdg == 0:
            return
        lepton = int(np.sign(nu_pdg)) * (abs(nu_pdg) - 1)
        mass = LEPTON_MEV.get(abs(lepton), 0.0)
        energies = np.sqrt((momentum[pdg == lepton] ** 2).sum(axis=1) + mass**2)
        if is_cc:
            self._current.add(name, bool(len(energies)))
            if not len(energies) or not nu_energy > 0:
                return
            energy = 1000 * nu_energy
            if np.isfinite(inelasticity):
                self._y.add(name, abs(1 - float(energies.max()) / energy - inelasticity) < SAME_Y)
            others = pdg != lepton
            masses = np.array([PION_MEV.get(abs(code), 0.0) for code in pdg[others].tolist()])
            nuclei = np.abs(pdg[others]) > 1e9
            self._share.append(float((energies.sum() + (kinetic[others] + masses)[~nuclei].sum()) / energy))
            return
        neutrinos = pdg[np.isin(np.abs(pdg), list(NEUTRINOS))]
        charged = np.isin(np.abs(pdg), list(LEPTON_MEV)) & (kinetic > HARD_MEV)
        self._current.add(name, not charged.any() and (not len(neutrinos) or nu_pdg in neutrinos))

    def conclude(self, path: Path, record: Record) -> None:
        """Record what agrees and what does not.

        Raises:
            InputError: truth that contradicts itself or the charge.
        """
        for tally, what in (
            (self._mass, "momenta of the final states, against the masses of the particles"),
            (self._current, "flavour and current, against the leptons of the final state"),
            (self._y, "inelasticity, against the energy of the lepton"),
        ):
            if not tally.differ:
                continue
            kind = "particles" if tally is self._mass else "events"
            differ = f"{len(tally.differ)} of {tally.n} {kind} disagree, first {tally.differ[0]}"
            if tally is self._current and len(tally.differ) >= FEW and len(tally.differ) > MANY * tally.n:
                raise InputError(
                    f"{path}: {what}: {differ}. The truth contradicts itself: correct its tables, or remove them."
                )
            record(path, "truth", what, differ, doubt=True)
        if len(self._share) >= FEW:
            share = float(np.median(self._share))
            low, high = ENERGY_SHARE
            what = f"final states of {len(self._share)} charged currents have {share:.2f} of it (median)"
            if share > high:
                raise InputError(
                    f"{path}: the final states of charged currents have {share:.3g} times the energy of their neutrino "
                    f"(median of {len(self._share)}). Neutrino or particles are in another unit, or belong to other "
                    "events: correct the truth tables, or remove them."
                )
            # A final state need not be complete.
            record(path, "neutrino energy", "in GeV, as read", what, doubt=share < low)
        self._compare_directions(path, record)

    def _compare_directions(self, path: Path, record: Record) -> None:
        n = len(self._away)
        if n < 2 * FEW:
            return
        away, momentum = np.array(self._away), np.array(self._momentum)

        def angles(order: tuple[int, ...], signs: tuple[int, ...]) -> np.ndarray:
            """(events,), degrees between charge and momenta, if x, y, z of the charge are others of the momenta."""
            cosine = (away * (np.array(signs) * momentum[:, list(order)])).sum(axis=1)
            return np.degrees(np.arccos(np.clip(cosine, -1, 1)))

        same = angles((0, 1, 2), (1, 1, 1))
        best, best_gain, best_angle = "", 0.0, 0.0
        for order in itertools.permutations(range(3)):
            for signs in itertools.product((1, -1), repeat=3):
                other = angles(order, signs)
                # Heavy tails, as for a Cauchy distribution: particles scatter, and photons convert elsewhere.
                gain = np.log1p((same / TYPICAL_DEG) ** 2) - np.log1p((other / TYPICAL_DEG) ** 2)
                mean, error = float(gain.mean()), float(gain.std(ddof=1)) / np.sqrt(n)
                matches = (other < 2 * TYPICAL_DEG).mean() > MANY_DIRECTIONS
                if matches and mean > max(SIGNIFICANT * error, CLEARLY, best_gain):
                    best = ", ".join(f"{'-' if s < 0 else ''}{'xyz'[i]}" for i, s in zip(order, signs, strict=True))
                    best_gain, best_angle = mean, float(np.median(other))
        evidence = f"the median angle between them is {np.median(same):.3g} degrees in {n} events"
        if best:
            raise InputError(
                f"{path}: charge does not go where the momenta of the final states point to: {evidence}, but "
                f"{best_angle:.3g} degrees if x, y, z of the charge are {best} of the momenta. Axes of deposits and "
                "truth differ: correct the file."
            )
        agrees = float(np.median(same)) < LARGE_DEG
        value = f"charge {'goes' if agrees else 'does not go'} where the momenta of the final states point to"
        record(path, "directions", value, evidence, doubt=not agrees)
