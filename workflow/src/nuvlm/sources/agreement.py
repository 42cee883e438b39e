"""Whether truth agrees with itself and with the charge: flavour, energy, inelasticity, directions.

The final state is the witness: a charged current has its charged lepton, whose share of the energy is 1 - y; all
particles together have about the neutrino's energy; and charge goes where their momenta point to. Single events may
differ (final-state interactions, Dalitz pairs, particles that leave the detector), a file may not.
"""

import itertools
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nuvlm.base.errors import InputError
from nuvlm.simulation.stdhep import NEUTRINOS
from nuvlm.sources.conclusions import Record

LEPTON_MEV = {11: 0.511, 13: 105.66, 15: 1776.9}
PION_MEV = {211: 139.57, 111: 134.98}
HARD_MEV = 200.0
"""Charged leptons of a neutral current above this are no Dalitz pairs."""
SAME_Y = 0.05
ENERGY_SHARE = (0.5, 1.2)
"""Limits on the median share of the neutrino's energy that the final state of charged currents has."""
FEW = 3
MANY = 0.5
"""Part of the events that may disagree."""
SIGNIFICANT = 3.0
"""Standard errors by which other axes must agree better with the momenta."""
OPPOSITE = 2.0
"""Standard errors by which a correlation is opposite to what it should be."""
CLEARLY = 0.03
"""And the smallest mean difference of the cosines."""
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
        self._current, self._y = _Tally(), _Tally()
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
        if away is not None:
            visible = ~np.isin(np.abs(pdg), [*NEUTRINOS, NEUTRON])
            total = momentum[visible].sum(axis=0)
            size = float(np.linalg.norm(total))
            if size > HARD_MEV:
                self._away.append(away)
                self._momentum.append(total / size)
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
            (self._current, "flavour and current, against the leptons of the final state"),
            (self._y, "inelasticity, against the energy of the lepton"),
        ):
            if not tally.differ:
                continue
            differ = f"{len(tally.differ)} of {tally.n} events disagree, first {tally.differ[0]}"
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
        same = (away * momentum).sum(axis=1)
        best, best_gain = "", 0.0
        for order in itertools.permutations(range(3)):
            for signs in itertools.product((1, -1), repeat=3):
                gain = (away * (np.array(signs) * momentum[:, list(order)])).sum(axis=1) - same
                error = float(gain.std(ddof=1)) / np.sqrt(n)
                mean = float(gain.mean())
                if mean > max(SIGNIFICANT * error, CLEARLY, best_gain):
                    axes = ", ".join(f"{'-' if s < 0 else ''}{'xyz'[i]}" for i, s in zip(order, signs, strict=True))
                    best, best_gain = axes, mean
        cosine = f"the mean cosine between them is {same.mean():.2f} in {n} events"
        if best:
            raise InputError(
                f"{path}: charge does not go where the momenta of the final states point to: {cosine}, but "
                f"{same.mean() + best_gain:.2f} if x, y, z of the charge are {best} of the momenta. Axes of deposits "
                "and truth differ: correct the file."
            )
        self._compare_transverse(path, away, momentum)
        record(path, "directions", "charge goes where the momenta of the final states point to", cosine)

    def _compare_transverse(self, path: Path, away: np.ndarray, momentum: np.ndarray) -> None:
        """Compare the components across the beam, which are small, by their correlations.

        Raises:
            InputError: another order or sign of x and y agrees, and the one of the file does not.
        """
        n = len(away)
        size = np.sqrt((away**2).sum(axis=0)[:, None] * (momentum**2).sum(axis=0))
        correlation = np.clip((away.T @ momentum) / np.where(size > 0, size, 1), -0.99, 0.99)
        # Fisher's transformation: of width 1 for n events without a correlation.
        significance = np.arctanh(correlation) * np.sqrt(n - 1)
        same = significance[0, 0] + significance[1, 1]
        best, axes = same, ""
        for (i, j), one, other in itertools.product(((0, 1), (1, 0)), (1, -1), (1, -1)):
            sum_of_both = one * significance[0, i] + other * significance[1, j]
            if sum_of_both > best:
                best = sum_of_both
                axes = f"{'-' if one < 0 else ''}{'xyz'[i]}, {'-' if other < 0 else ''}{'xyz'[j]}"
        if best - same > 2 * OPPOSITE and best > SIGNIFICANT:
            raise InputError(
                f"{path}: across the beam, charge does not go where the momenta of the final states point to, but does "
                f"if x, y of the charge are {axes} of the momenta ({best:.1f} standard deviations instead of "
                f"{same:.1f} in {n} events). Axes of deposits and truth differ: correct the file."
            )
