"""The sampler of final states compared with averages of GENIE's interactions on argon."""

import math
from dataclasses import dataclass

import numpy as np

from nuvlm.simulation.checks import Check
from nuvlm.simulation.final_states import NEUTRON, PION_PLUS, PION_ZERO, PROTON, FinalState, sample_final_state

GENIE_EVENTS = 15_665
"""Interactions on argon in DUNE's neutrino beam, from which the averages below are (docs/simulation.md)."""
# fmt: off
GENIE_RATE = (
    0.1, 2.5, 9.4, 19.4, 31.2, 41.0, 51.3, 64.4, 74.1, 81.0, 84.7, 82.1, 75.7, 66.3, 52.7, 38.3, 24.6, 14.7, 8.6, 5.6,
    4.4, 3.8, 3.5, 3.4, 3.2, 3.1, 3.1, 3.0, 3.0, 2.8, 2.9, 2.9, 3.0, 2.9, 3.0, 3.0, 2.9, 3.0, 2.9, 3.1,
)
# fmt: on
"""Interactions from 0 to 10 GeV in steps of 0.25 GeV, per mille of all: the nu_mu flux at DUNE's near detector
(arXiv 2103.04797) times the total cross-section of GENIE 2.10."""
GENIE_CC = 0.75
"""Share of charged currents by the same cross-sections."""
GENIE_BINS = ((0.5, 1.5), (1.5, 3.0), (3.0, 5.0), (5.0, 10.0))
"""Neutrino energy, GeV."""
GENIE_MULTIPLICITY = {
    True: ((1.4, 1.9, 0.28, 0.10), (1.7, 2.0, 0.55, 0.22), (1.7, 2.1, 0.73, 0.36), (1.8, 2.1, 1.2, 0.62)),
    False: ((1.0, 2.3, 0.19, 0.23), (1.4, 2.3, 0.46, 0.37), (1.6, 2.3, 0.71, 0.48), (1.5, 2.1, 1.1, 0.63)),
}
"""Mean number of p (above 20 MeV), n, charged and neutral pions per bin, keyed by is_cc."""
GENIE_INELASTICITY = (0.39, 0.40, 0.41, 0.43)
GENIE_NC_PION_ZERO = ((0.22, 0.05), (0.32, 0.12), (0.39, 0.18), (0.47, 0.28))
"""P(at least one pi0) and P(one above 0.5 GeV) per bin, neutral current."""
GENIE_QUARTILES = (0.18, 0.38, 0.65)
"""Quartiles of the inelasticity of all interactions."""
GENIE_QUARTILES_ROUNDED_TO = 0.05
"""They are published as "about": a smooth distribution cannot have both the means and the third quartile otherwise."""
SPECIES = {"p": PROTON, "n": NEUTRON, "pi+-": PION_PLUS, "pi0": PION_ZERO}
"""PDG codes of the multiplicities; those of antiparticles count."""
QUANTITIES = (*SPECIES, "P(pi0)", "P(pi0 > 0.5 GeV)", "mean y", "25%", "50%", "75%")
"""All that is compared; not each in every bin."""


@dataclass(frozen=True)
class SamplerRow:
    """Sampler and GENIE in one bin."""

    name: str
    checks: dict[str, Check]
    """Keyed by some of :data:`QUANTITIES`."""
    is_cc: bool | None = None
    """None: both currents."""

    @property
    def chi2(self) -> float:
        return sum(check.deviation**2 for check in self.checks.values())


def genie_energies(rng: np.random.Generator, n: int, low: float, high: float) -> tuple[np.ndarray, float]:
    """Energies of `n` interactions of the GENIE sample between two energies (GeV), and how many it has there."""
    begins = np.linspace(0, 10, len(GENIE_RATE), endpoint=False)
    rate = np.where((begins >= low) & (begins < high), GENIE_RATE, 0.0)
    step = begins[1]
    energies = rng.choice(begins, n, p=rate / rate.sum()) + rng.uniform(0, step, n)
    return energies, GENIE_EVENTS * float(rate.sum()) / 1000


def sampler_table(n: int, seed: int = 1) -> list[SamplerRow]:
    """Compare the sampler with GENIE, `n` interactions per current and energy bin, at the energies of GENIE's.

    The uncertainty of a GENIE average is that of its number of interactions, with the spread of the sampler, and the
    rounding of the published number.
    """
    rng = np.random.default_rng(seed)
    rows = []
    inelasticity: list[np.ndarray] = []
    for is_cc in (True, False):
        for b, (low, high) in enumerate(GENIE_BINS):
            energies, events = genie_energies(rng, n, low, high)
            states = [sample_final_state(rng, energy_gev=(e, e), cc_fraction=float(is_cc)) for e in energies.tolist()]
            found = {name: _multiplicity(states, name) for name in SPECIES}
            known: tuple[float, ...] = GENIE_MULTIPLICITY[is_cc][b]
            if not is_cc:
                hardest = np.array([_hardest_pion(state) for state in states])
                found |= {"P(pi0)": hardest > 0, "P(pi0 > 0.5 GeV)": hardest > 500}
                known += GENIE_NC_PION_ZERO[b]
            events *= GENIE_CC if is_cc else 1 - GENIE_CC
            checks = {
                name: _against_genie(
                    name, np.mean(values), np.std(values) / math.sqrt(n), np.std(values), value, events
                )
                for (name, values), value in zip(found.items(), known, strict=True)
            }
            rows.append(SamplerRow(f"{'CC' if is_cc else 'NC'}, {low:g}-{high:g}", checks, is_cc))
            inelasticity.append(np.array([state.inelasticity for state in states]))
    for b, (low, high) in enumerate(GENIE_BINS):
        shares = {GENIE_CC: inelasticity[b], 1 - GENIE_CC: inelasticity[b + len(GENIE_BINS)]}
        mean = sum(share * y.mean() for share, y in shares.items())
        error = math.hypot(*(share * y.std() / math.sqrt(n) for share, y in shares.items()))
        spread = math.sqrt(sum(share * np.mean((y - mean) ** 2) for share, y in shares.items()))
        events = genie_energies(rng, 0, low, high)[1]
        check = _against_genie("mean y", mean, error, spread, GENIE_INELASTICITY[b], events)
        rows.append(SamplerRow(f"all, {low:g}-{high:g}", {"mean y": check}))
    return rows


def inelasticity_quartiles(n: int) -> SamplerRow:
    """Compare the quartiles of y, of `n` interactions at the energies of GENIE's."""
    rng = np.random.default_rng(1)
    energies, _ = genie_energies(rng, n, 0.25, 10)
    states = [sample_final_state(rng, energy_gev=(e, e), cc_fraction=GENIE_CC) for e in energies.tolist()]
    y = np.array([state.inelasticity for state in states])
    checks = {}
    for share, known in zip((0.25, 0.5, 0.75), GENIE_QUARTILES, strict=True):
        # The error of a quantile is that of the share below it, over the density there.
        low, value, high = np.quantile(y, [share - 0.05, share, share + 0.05])
        spread = np.sqrt(share * (1 - share)) * (high - low) / 0.1
        checks[f"{share:.0%}"] = _against_genie(
            "quartile of y", value, spread / math.sqrt(n), spread, known, GENIE_EVENTS, GENIE_QUARTILES_ROUNDED_TO
        )
    return SamplerRow("quartiles of y", checks)


def _against_genie(
    name: str, value: float, error: float, spread: float, known: float, events: float, rounding: float | None = None
) -> Check:
    """A check of an average of the sampler, of standard `error`, against GENIE's.

    Args:
        spread: standard deviation of what is averaged, or its equivalent for a quantile.
        events: interactions in GENIE's average.
        rounding: step of the published number; None: as it is written.
    """
    # Numbers from 1 on have one digit after the point, others two.
    rounding = rounding or (0.1 if known >= 1 else 0.01)
    # The variance of a fraction p is p (1 - p).
    spread_of_genie = math.sqrt(known * (1 - known)) if name.startswith("P(") else spread
    uncertainty = math.hypot(spread_of_genie / math.sqrt(events), rounding / math.sqrt(12))
    return Check(name, "", float(value), float(error), known, uncertainty, "GENIE")


def _multiplicity(states: list[FinalState], name: str) -> np.ndarray:
    """(events,)"""
    pdg = SPECIES[name]
    kinds, threshold = {pdg, -pdg}, 20.0 if pdg == PROTON else 0.0
    return np.array([sum(p.pdg in kinds and p.kinetic > threshold for p in state.particles) for state in states])


def _hardest_pion(state: FinalState) -> float:
    return max((p.energy for p in state.particles if p.pdg == PION_ZERO), default=0.0)
