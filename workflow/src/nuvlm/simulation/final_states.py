"""Sampler of final states of neutrino interactions on argon, for use without GENIE.

It is not a generator. It reproduces averages of 15,665 GENIE interactions on argon (DUNE FHC flux): multiplicities
against energy, the inelasticity and the frequency of neutral pions, connected by kinematics. docs/simulation.md lists
what is left out.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import special

from nuvlm.detector.voxels import MODES

PROTON, NEUTRON, PION_PLUS, PION_MINUS, PION_ZERO = 2212, 2112, 211, -211, 111
ELECTRON, MUON = 11, 13
MASS_MEV = {
    ELECTRON: 0.511,
    MUON: 105.658,
    PROTON: 938.272,
    NEUTRON: 939.565,
    PION_PLUS: 139.570,
    PION_MINUS: 139.570,
    PION_ZERO: 134.977,
    22: 0.0,
}
NUCLEON_MEV = 938.92

ENERGY_GEV = (0.2, 1.0, 2.25, 4.0, 7.5)
"""Nodes of the tables below: the lower end of the spectrum, below pion production, and the centres of the GENIE bins
0.5-1.5, 1.5-3, 3-5, 5-10 GeV."""
INELASTICITY_MEAN = (0.38, 0.39, 0.40, 0.41, 0.43)
INELASTICITY_SHAPE = 0.89
"""First parameter of the beta distribution of y, fitted to quartiles of 0.18, 0.38, 0.65."""
# Mean number per interaction, keyed by is_cc. Protons are those above 20 MeV; PION_PLUS holds both charges.
MULTIPLICITY = {
    True: {
        PROTON: (1.0, 1.4, 1.7, 1.7, 1.8),
        NEUTRON: (0.8, 1.9, 2.0, 2.1, 2.1),
        PION_PLUS: (0.0, 0.28, 0.55, 0.73, 1.2),
        PION_ZERO: (0.0, 0.10, 0.22, 0.36, 0.62),
    },
    False: {
        PROTON: (0.6, 1.0, 1.4, 1.6, 1.5),
        NEUTRON: (1.0, 2.3, 2.3, 2.3, 2.1),
        PION_PLUS: (0.0, 0.19, 0.46, 0.71, 1.1),
        PION_ZERO: (0.0, 0.23, 0.37, 0.48, 0.63),
    },
}
NC_PION_ZERO = (0.0, 0.22, 0.32, 0.39, 0.47)
"""Probability of at least one neutral pion in a neutral-current interaction."""
POSITIVE_PION = {True: 0.75, False: 0.5}
"""Share of pi+ among charged pions: a W+ transfers one unit of charge, a Z none."""
COUPLING = 0.7
"""Correlation of multiplicity and inelasticity (of the underlying normal variables)."""
PROTON_THRESHOLD_MEV = 20.0
SOFT_MEV, SOFT_SHARE = 45.0, 0.08
"""Mean kinetic energy of nucleons from final-state interactions, above threshold for protons: a constant and a
share of the energy transfer, chosen to match GENIE's share of neutral pions above 0.5 GeV."""
BINDING_MEV = 8.6
"""Mean energy to remove a nucleon from 40Ar."""
MARGIN_MEV = 1.0
"""Minimum kinetic energy of the struck nucleon and the pions."""
TRIES = 20
TRANSVERSE_MEV = 300.0
"""Width of the hadrons' transverse momentum about the momentum transfer, each component."""


class Particle(NamedTuple):
    """A final-state particle: PDG code, momentum and total energy, MeV; the beam is along z."""

    pdg: int
    px: float
    py: float
    pz: float
    energy: float

    @classmethod
    def of(cls, pdg: int, momentum_mev: np.ndarray) -> "Particle":
        """An on-shell particle of three-momentum `momentum_mev` (3,)."""
        px, py, pz = (float(component) for component in momentum_mev)
        return cls(pdg, px, py, pz, float(np.sqrt(px**2 + py**2 + pz**2 + MASS_MEV[pdg] ** 2)))

    @property
    def kinetic(self) -> float:
        """Kinetic energy, MeV. Masses not in MASS_MEV follow from momentum and energy."""
        mass = MASS_MEV.get(abs(self.pdg))
        if mass is None:
            mass = math.sqrt(max(self.energy**2 - self.px**2 - self.py**2 - self.pz**2, 0.0))
        return self.energy - mass


class FinalState(NamedTuple):
    """One interaction."""

    nu_pdg: int
    is_cc: bool
    nu_energy: float
    """GeV."""
    inelasticity: float
    mode: int
    """A label of :data:`nuvlm.detector.voxels.MODES`, chosen by the kinematics."""
    particles: tuple[Particle, ...]
    """Particles that leave the nucleus. The sampler omits the outgoing neutrino."""


def sample_final_state(
    rng: np.random.Generator, *, energy_gev: tuple[float, float] = (0.2, 10.0), cc_fraction: float = 0.74
) -> FinalState:
    """Draw an interaction of a nu_e or nu_mu (1 : 1), of energy uniform in `energy_gev`, on argon.

    The lepton's angle follows from Q2 = 2 M E x y with exact kinematics. Nucleons from final-state interactions are
    soft and isotropic. Pions and the struck nucleon share the remaining energy transfer, along the remaining momentum
    transfer, so that lepton and hadrons balance except for the recoil of the nucleus.
    """
    nu_pdg = 12 if rng.random() < 0.5 else 14
    is_cc = bool(rng.random() < cc_fraction)
    energy = rng.uniform(*energy_gev)
    lepton_mass = MASS_MEV[nu_pdg - 1] if is_cc else 0.0
    state = None
    while state is None:
        common = rng.normal()
        y = _inelasticity(energy, common)
        for _ in range(TRIES):
            # If the energy transfer is too small, redraw the multiplicities first: redrawing y would raise its mean.
            counts = _sample_counts(rng, energy, is_cc, common)
            state = _sample_kinematics(rng, 1e3 * energy, y, lepton_mass, counts, is_cc)
            if state is not None:
                break
    mode, lepton, hadrons = state
    particles = [Particle.of(nu_pdg - 1, lepton), *hadrons] if is_cc else hadrons
    # The azimuth of the reaction plane is drawn last: nothing else depends on it.
    angle = rng.uniform(0, 2 * np.pi)
    cos, sin = np.cos(angle), np.sin(angle)
    turned = (p._replace(px=float(cos * p.px - sin * p.py), py=float(sin * p.px + cos * p.py)) for p in particles)
    return FinalState(nu_pdg, is_cc, float(energy), y, mode, tuple(turned))


def _inelasticity(energy_gev: float, common: float) -> float:
    mean = np.interp(energy_gev, ENERGY_GEV, INELASTICITY_MEAN)
    a = INELASTICITY_SHAPE
    return float(special.betaincinv(a, a * (1 - mean) / mean, special.ndtr(common)))


def _sample_counts(rng: np.random.Generator, energy_gev: float, is_cc: bool, common: float) -> dict[int, int]:
    """Number of each hadron. `common` is the normal variable of y: multiplicities rise with the energy transfer."""
    independent = rng.normal(size=4)
    quantile = special.ndtr(COUPLING * common + np.sqrt(1 - COUPLING**2) * independent)
    counts = {}
    for (pdg, means), u in zip(MULTIPLICITY[is_cc].items(), quantile, strict=True):
        mean = float(np.interp(energy_gev, ENERGY_GEV, means))
        at_least_one = float(np.interp(energy_gev, ENERGY_GEV, NC_PION_ZERO))
        if is_cc or pdg != PION_ZERO:
            counts[pdg] = _poisson_quantile(float(u), mean)
        elif u <= 1 - at_least_one:
            counts[pdg] = 0
        else:
            counts[pdg] = 1 + _poisson_quantile(1 - (1 - float(u)) / at_least_one, mean / at_least_one - 1)
    return counts


def _poisson_quantile(u: float, mean: float) -> int:
    """The smallest n with P(N <= n) >= u."""
    n, term = 0, np.exp(-mean)
    total = term
    while total < u and n < 50:
        n += 1
        term *= mean / n
        total += term
    return n


def _sample_kinematics(
    rng: np.random.Generator, energy: float, y: float, lepton_mass: float, counts: dict[int, int], is_cc: bool
) -> tuple[int, np.ndarray, list[Particle]] | None:
    """Mode, lepton three-momentum (in the xz plane) and hadrons for a neutrino of `energy` (MeV), or None."""
    nucleons = [PROTON] * counts[PROTON] + [NEUTRON] * counts[NEUTRON]
    if not nucleons:
        return None
    # A W+ turns the struck neutron into a proton; a Z changes neither nucleon.
    struck = nucleons.pop(0 if is_cc else int(rng.integers(len(nucleons))))
    positive = rng.random(counts[PION_PLUS]) < POSITIVE_PION[is_cc]
    pions = [PION_PLUS if plus else PION_MINUS for plus in positive] + [PION_ZERO] * counts[PION_ZERO]

    transfer = y * energy
    soft = rng.exponential(SOFT_MEV + SOFT_SHARE * transfer, len(nucleons))
    soft += [PROTON_THRESHOLD_MEV * (pdg == PROTON) for pdg in nucleons]
    left = transfer - float(np.sum(soft)) - BINDING_MEV * (1 + len(nucleons))
    threshold = PROTON_THRESHOLD_MEV * (struck == PROTON)
    masses = np.array([MASS_MEV[struck], *(MASS_MEV[pdg] for pdg in pions)])
    lepton_energy = energy - transfer
    if left <= threshold + masses[1:].sum() + MARGIN_MEV or lepton_energy <= lepton_mass:
        return None

    # The energy of the nucleus and the soft nucleons is subtracted from the system's energy, not from its mass.
    total = left + NUCLEON_MEV
    mode, w = _sample_mass(rng, transfer, len(pions), float(masses.sum()), total)
    lepton_momentum = np.sqrt(lepton_energy**2 - lepton_mass**2)
    # Q2 = 2 M nu + M2 - W2 = 2 M E x y, kept between forward and backward scattering.
    q2 = 2 * NUCLEON_MEV * transfer + NUCLEON_MEV**2 - w**2
    cos = (2 * energy * lepton_energy - lepton_mass**2 - q2) / (2 * energy * lepton_momentum)
    cos = float(np.clip(cos, -1, 1))
    lepton = lepton_momentum * np.array([np.sqrt(1 - cos**2), 0, cos])

    directions = rng.normal(size=(len(nucleons), 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    soft_masses = np.array([MASS_MEV[pdg] for pdg in nucleons])
    soft_momenta = np.sqrt(soft * (soft + 2 * soft_masses))[:, None] * directions
    axis = np.array([0, 0, energy]) - lepton - soft_momenta.sum(axis=0)
    axis /= np.linalg.norm(axis)
    alone = np.array([[0, 0, np.sqrt(left * (left + 2 * masses[0]))]])
    system = _decay(rng, w, total, masses) if pions else alone
    momenta = np.concatenate([system @ _frame(axis), soft_momenta])
    return mode, lepton, [Particle.of(pdg, p) for pdg, p in zip([struck, *pions, *nucleons], momenta, strict=True)]


def _sample_mass(rng: np.random.Generator, transfer: float, n_pions: int, low: float, high: float) -> tuple[int, float]:
    """Mode and the mass W (MeV, between `low` and `high`) of the hadronic system before final-state interactions."""
    q2_elastic = 2 * NUCLEON_MEV * transfer
    delta = 1232 + 50 * rng.standard_cauchy()
    is_delta = max(low, 1080) < delta < min(high, 1700)
    # The nucleon's form factors fall as a dipole, (1 + Q2 / 1 GeV2)^-2 in amplitude.
    if n_pions == 0 and rng.random() < (1 + q2_elastic / 1e6) ** -2:
        return MODES["QE"], NUCLEON_MEV
    if n_pions <= 1 and is_delta and rng.random() < np.exp(-transfer / 2000):
        return MODES["RES"], delta
    w = float(np.sqrt(NUCLEON_MEV**2 + q2_elastic * (1 - rng.beta(1, 3))))
    if not low < w < high:
        w = rng.uniform(low, high)
    # Below the pion's threshold lies the dip between the two peaks, above 1.7 GeV the continuum.
    return (MODES["DIS"] if w > 1700 else MODES["RES"] if w > 1080 else MODES["MEC"]), w


def _decay(rng: np.random.Generator, mass: float, energy: float, masses: np.ndarray) -> np.ndarray:
    """Momenta (n, 3) of a system of `mass` and `energy` moving along z that falls apart in particles of `masses`.

    Longitudinal phase space: transverse momenta are limited, and the first particle, the nucleon, goes backwards
    in the rest frame. Energy and momentum are conserved.
    """
    n = len(masses)
    momenta = rng.normal(0, TRANSVERSE_MEV, (n, 3))
    along = np.sort(rng.uniform(-0.5, 0.5, n)) * mass
    along[1:] = rng.permutation(along[1:])
    momenta[:, 2] = along
    momenta -= momenta.mean(axis=0)
    square = (momenta**2).sum(axis=1)
    # Scale all momenta so that the energies add up to the mass: the sum rises with the factor, so bisect its log.
    low, high = -20.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        if np.sqrt(masses**2 + np.exp(2 * middle) * square).sum() > mass:
            high = middle
        else:
            low = middle
    momenta *= np.exp(low)
    energies = np.sqrt(masses**2 + (momenta**2).sum(axis=1))
    gamma = energy / mass
    momenta[:, 2] = gamma * momenta[:, 2] + np.sqrt(gamma**2 - 1) * energies
    return momenta


def _frame(axis: np.ndarray) -> np.ndarray:
    """Rows: two unit vectors perpendicular to `axis`, and `axis`."""
    across = np.cross(axis, [0.0, 1.0, 0.0])
    across /= np.linalg.norm(across)
    return np.array([across, np.cross(axis, across), axis])
