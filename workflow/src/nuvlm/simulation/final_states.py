"""Sampler of final states of neutrino interactions on argon, for use without GENIE.

It is not a generator. It reproduces averages of 15,665 GENIE interactions on argon (DUNE FHC flux): multiplicities
against energy, the inelasticity and the frequency of neutral pions, connected by kinematics. Rare processes are added.
docs/simulation.md has the sources of their rates, of which some are estimates, and lists what is left out.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import special

from nuvlm.detector.voxels import MODES

PROTON, NEUTRON, PION_PLUS, PION_MINUS, PION_ZERO = 2212, 2112, 211, -211, 111
ELECTRON, MUON, PHOTON, ETA = 11, 13, 22, 221
KAON_PLUS, KAON_LONG, KAON_SHORT = 321, 130, 310
LAMBDA, SIGMA_PLUS, SIGMA_MINUS = 3122, 3222, 3112
MASS_MEV = {
    ELECTRON: 0.511,
    MUON: 105.658,
    PROTON: 938.272,
    NEUTRON: 939.565,
    PION_PLUS: 139.570,
    PION_MINUS: 139.570,
    PION_ZERO: 134.977,
    PHOTON: 0.0,
    ETA: 547.862,
    KAON_PLUS: 493.677,
    KAON_LONG: 497.611,
    KAON_SHORT: 497.611,
    LAMBDA: 1115.683,
    SIGMA_PLUS: 1189.37,
    SIGMA_MINUS: 1197.449,
}
NUCLEON_MEV = 938.92

# The input tables are those with which averages come out as in GENIE: kinematics forbids part of what is drawn, which
# is drawn again. benchmarks/final_states.py finds them, and :mod:`nuvlm.simulation.validation` compares.
ENERGY_GEV = (0.2, 1.13, 2.3, 3.6, 7.4, 10.0)
"""Nodes of the tables below: the lower end of the spectrum, below pion production; the mean energies in the GENIE bins
0.5-1.5, 1.5-3, 3-5, 5-10 GeV; the upper end, extrapolated in log E."""
INELASTICITY_MEAN = (0.38, 0.39, 0.40, 0.41, 0.43, 0.44)
INELASTICITY_SHAPE = 0.89
"""First parameter of the beta distribution of y."""
# Mean number per interaction, keyed by is_cc. Protons are those above 20 MeV; PION_PLUS holds both charges.
MULTIPLICITY = {
    True: {
        PROTON: (1.0, 2.17, 2.22, 2.04, 2.11, 2.14),
        NEUTRON: (0.8, 2.57, 2.28, 2.37, 2.25, 2.20),
        PION_PLUS: (0.0, 0.363, 0.628, 0.752, 1.272, 1.490),
        PION_ZERO: (0.0, 0.123, 0.237, 0.384, 0.639, 0.745),
    },
    False: {
        PROTON: (0.6, 1.47, 1.81, 1.96, 1.67, 1.55),
        NEUTRON: (1.0, 3.07, 2.58, 2.66, 2.26, 2.10),
        PION_PLUS: (0.0, 0.207, 0.472, 0.766, 1.145, 1.303),
        PION_ZERO: (0.0, 0.269, 0.378, 0.493, 0.636, 0.696),
    },
}
NC_PION_ZERO = (0.0, 0.263, 0.328, 0.397, 0.466, 0.495)
"""Probability of at least one neutral pion in a neutral-current interaction."""
POSITIVE_PION = {True: 0.75, False: 0.5}
"""Share of pi+ among charged pions: a W+ transfers one unit of charge, a Z none."""
COUPLING = np.array([0.0, 0.0, 0.7, 0.7])
"""Correlation of the numbers of p, n, charged and neutral pions with the inelasticity (of the underlying normal
variables)."""
PROTON_THRESHOLD_MEV = 20.0
SOFT_MEV, SOFT_SHARE = 10.0, 0.105
"""Mean kinetic energy of nucleons from final-state interactions, above threshold for protons: a constant and a
share of the energy transfer, chosen to match GENIE's share of neutral pions above 0.5 GeV."""
BINDING_MEV = 8.6
"""Mean energy to remove a nucleon from 40Ar."""
MARGIN_MEV = 1.0
"""Minimum kinetic energy of the struck nucleon and the pions."""
TRIES = 20
TRANSVERSE_MEV = 300.0
"""Width of the hadrons' transverse momentum about the momentum transfer, each component."""

COHERENT_GEV = (0.3, 0.8, 2.7, 4.9, 9.6)
COHERENT_SHARE = {True: (0.0, 0.003, 0.0071, 0.0093, 0.0094), False: (0.0, 0.005, 0.011, 0.014, 0.014)}
"""Coherent pion production, as a share of the interactions of a current, keyed by is_cc: measured cross-sections over
the total ones of GENIE 2.10 (docs/simulation.md)."""
AXIAL_MEV = 1000.0
"""Axial mass of the form factor in coherent production."""
COHERENT_SLOPE = (40 ** (1 / 3) / 197.327) ** 2 / 3
"""A third of the square of the radius of 40Ar, 1 fm A^(1/3), 1 / MeV2."""
HYPERON, HYPERON_LOG = 0.022, 0.042
"""Probability of a hyperon: the first, plus the second times ln(W2 / GeV2), of GENIE's model AGKY (fitted to data)."""
CHARGED_SIGMA = 1 / 3
"""Share of Sigma+ or Sigma- among hyperons; Sigma0, which decays to Lambda at once, counts as Lambda. Estimate."""
ETA_PROBABILITY = 0.05
"""Of an eta that decays to two photons, where the hadronic mass allows one: 0.7 of the measured rate, within its error.
GENIE decays an eta in the final state, so that its averages of pions include the other decays."""
PHOTON_PROBABILITY = {True: 0.68, False: 0.14}
"""Of a photon from the remaining nucleus, keyed by whether the scattering is quasi-elastic."""
PHOTON_MEV = (0.3, 1.5, 2.1, 3.1, 4.4, 6.2, 9.0)
PHOTON_QUANTILE = (0.0, 0.10, 0.25, 0.50, 0.75, 0.90, 1.0)
"""Its energy, and the probability of a lower one."""


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
        px, py, pz = momentum_mev.tolist()
        return cls(pdg, px, py, pz, math.sqrt(px**2 + py**2 + pz**2 + MASS_MEV[pdg] ** 2))

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
    soft and isotropic. The struck nucleon, pions and other hadrons share the remaining energy transfer, along the
    remaining momentum transfer: energy balances, and momentum across that direction, but for the recoil of the nucleus.
    """
    nu_pdg = 12 if rng.random() < 0.5 else 14
    is_cc = bool(rng.random() < cc_fraction)
    energy = rng.uniform(*energy_gev)
    lepton_mass = MASS_MEV[nu_pdg - 1] if is_cc else 0.0
    state: tuple[int, np.ndarray, list[Particle]] | None = None
    if rng.random() < np.interp(energy, COHERENT_GEV, COHERENT_SHARE[is_cc]):
        y, state = _sample_coherent(rng, 1e3 * energy, lepton_mass, is_cc)
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
    cos, sin = math.cos(angle), math.sin(angle)
    turned = (Particle(p.pdg, cos * p.px - sin * p.py, sin * p.px + cos * p.py, p.pz, p.energy) for p in particles)
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


def _sample_coherent(
    rng: np.random.Generator, energy: float, lepton_mass: float, is_cc: bool
) -> tuple[float, tuple[int, np.ndarray, list[Particle]]]:
    """Inelasticity; mode, lepton three-momentum (in the xz plane) and the pion for a neutrino of `energy` (MeV).

    The nucleus stays whole, and takes momentum but no energy. After D. Rein and L. Sehgal (Nucl. Phys. B 223 (1983)
    29), with a cross-section of pions that does not depend on energy: (1 - y) / y (1 + Q2 / M_A2)^-2 exp(-b |t|).
    """
    pdg = PION_PLUS if is_cc else PION_ZERO
    mass = MASS_MEV[pdg]
    while True:
        transfer = mass * (energy / mass) ** rng.random()
        # Q2 from the square of the form factor, by inversion.
        q2 = AXIAL_MEV**2 * (1 / (1 - rng.random()) - 1)
        lepton_energy = energy - transfer
        if transfer <= mass + MARGIN_MEV or lepton_energy <= lepton_mass or rng.random() > lepton_energy / energy:
            continue
        lepton_momentum = math.sqrt(lepton_energy**2 - lepton_mass**2)
        cos = (2 * energy * lepton_energy - lepton_mass**2 - q2) / (2 * energy * lepton_momentum)
        momentum, q = math.sqrt(transfer**2 - mass**2), math.sqrt(transfer**2 + q2)
        t = (q - momentum) ** 2 + rng.exponential(1 / COHERENT_SLOPE)
        possible = abs(cos) <= 1 and t <= (q + momentum) ** 2
        if possible and rng.random() < math.exp(-COHERENT_SLOPE * (q - momentum) ** 2):
            break
    lepton = lepton_momentum * np.array([math.sqrt(1 - cos**2), 0, cos])
    axis = (np.array([0, 0, energy]) - lepton) / q
    along = (q**2 + momentum**2 - t) / (2 * q * momentum)
    across, angle = math.sqrt(1 - along**2), rng.uniform(0, 2 * np.pi)
    pion = momentum * np.array([across * math.cos(angle), across * math.sin(angle), along]) @ _frame(axis)
    return transfer / energy, (MODES["COH"], lepton, [Particle.of(pdg, pion)])


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
    masses = MASS_MEV[struck] + sum(MASS_MEV[pdg] for pdg in pions)
    spare = left + MASS_MEV[struck] - masses - MARGIN_MEV - PROTON_THRESHOLD_MEV * (struck == PROTON)
    lepton_energy = energy - transfer
    if spare <= 0 or lepton_energy <= lepton_mass:
        return None

    # The energy of the nucleus and the soft nucleons is subtracted from the system's energy, not from its mass.
    total = left + MASS_MEV[struck]
    mode, w = _sample_mass(rng, transfer, len(pions), masses, total)
    system = [*_sample_rare(rng, struck, w, w - masses), *pions]
    photons = []
    if rng.random() < PHOTON_PROBABILITY[mode == MODES["QE"]]:
        photon = float(np.interp(rng.random(), PHOTON_QUANTILE, PHOTON_MEV))
        if photon < (spare if len(system) == 1 else total - w):
            photons, total = [PHOTON], total - photon
    lepton_momentum = math.sqrt(lepton_energy**2 - lepton_mass**2)
    # Q2 = 2 M nu + M2 - W2 = 2 M E x y, kept between forward and backward scattering.
    q2 = 2 * NUCLEON_MEV * transfer + NUCLEON_MEV**2 - w**2
    cos = (2 * energy * lepton_energy - lepton_mass**2 - q2) / (2 * energy * lepton_momentum)
    cos = min(max(cos, -1.0), 1.0)
    lepton = lepton_momentum * np.array([math.sqrt(1 - cos**2), 0, cos])

    directions = rng.normal(size=(len(nucleons) + len(photons), 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    sizes = [math.sqrt(t * (t + 2 * MASS_MEV[pdg])) for pdg, t in zip(nucleons, soft.tolist(), strict=True)]
    isotropic = np.array([*sizes, *(photon for _ in photons)])[:, None] * directions
    axis = np.array([0, 0, energy]) - lepton - isotropic.sum(axis=0)
    axis /= np.linalg.norm(axis)
    if len(system) == 1:
        along = np.array([[0, 0, math.sqrt(total**2 - masses**2)]])
    else:
        along = _decay(rng, w, total, np.array([MASS_MEV[pdg] for pdg in system]))
    momenta = np.concatenate([along @ _frame(axis), isotropic])
    hadrons = [*system, *nucleons, *photons]
    if ETA in hadrons:
        i = hadrons.index(ETA)
        hadrons, momenta = [*hadrons, PHOTON], np.append(momenta, _photons_of_eta(rng, momenta[i]), axis=0)
        hadrons[i], momenta[i] = PHOTON, momenta[i] - momenta[-1]
    return mode, lepton, [Particle.of(pdg, p) for pdg, p in zip(hadrons, momenta, strict=True)]


def _sample_rare(rng: np.random.Generator, struck: int, w: float, spare: float) -> list[int]:
    """The struck nucleon, and perhaps an eta; or a hyperon and a kaon, together of the same charge.

    Args:
        w: mass of the hadronic system, MeV.
        spare: kinetic energy available to the hadrons: `w` minus their masses, MeV.
    """
    chance = rng.random()
    strange = HYPERON + HYPERON_LOG * 2 * math.log(w / 1e3)
    if chance < strange:
        proton = struck == PROTON
        if rng.random() < CHARGED_SIGMA:
            hyperon, kaon = (SIGMA_PLUS, 0) if proton else (SIGMA_MINUS, KAON_PLUS)
        else:
            hyperon, kaon = LAMBDA, KAON_PLUS if proton else 0
        # A K0 is a K0_S or a K0_L, one as often as the other.
        kaon = kaon or (KAON_SHORT if rng.random() < 0.5 else KAON_LONG)
        if MASS_MEV[hyperon] + MASS_MEV[kaon] - MASS_MEV[struck] < spare:
            return [hyperon, kaon]
    elif chance < strange + ETA_PROBABILITY and MASS_MEV[ETA] < spare:
        return [struck, ETA]
    return [struck]


def _photons_of_eta(rng: np.random.Generator, momentum: np.ndarray) -> np.ndarray:
    """Momentum (1, 3) of one of the two photons of an eta of `momentum` (3,), MeV; the other one has the rest."""
    energy = math.sqrt(float(momentum @ momentum) + MASS_MEV[ETA] ** 2)
    direction = rng.normal(size=3)
    direction *= MASS_MEV[ETA] / 2 / np.linalg.norm(direction)
    # The boost of four-vector (m / 2, direction) from the rest frame.
    along = (float(momentum @ direction) / (energy + MASS_MEV[ETA]) + MASS_MEV[ETA] / 2) / MASS_MEV[ETA]
    photon: np.ndarray = direction + along * momentum
    return photon[None]


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
    momenta *= _scale((momenta**2).sum(axis=1).tolist(), masses.tolist(), mass)
    energies = np.sqrt(masses**2 + (momenta**2).sum(axis=1))
    gamma = energy / mass
    momenta[:, 2] = gamma * momenta[:, 2] + np.sqrt(gamma**2 - 1) * energies
    return momenta


def _scale(squares: list[float], masses: list[float], energy: float) -> float:
    """The factor on momenta of these `squares` with which the energies of the `masses` add up to `energy`.

    Newton's method from above: the sum is a convex function of the factor, so that it approaches from one side.
    """
    factor = energy / sum(map(math.sqrt, squares))
    for _ in range(100):
        energies = [math.sqrt(m * m + factor * factor * s) for m, s in zip(masses, squares, strict=True)]
        excess = sum(energies) - energy
        if excess < 1e-9 * energy:
            break
        factor -= excess / (factor * sum(s / e for s, e in zip(squares, energies, strict=True)))
    return factor


def _frame(axis: np.ndarray) -> np.ndarray:
    """Rows: two unit vectors perpendicular to `axis`, and `axis`."""
    x, y, z = axis.tolist()
    # The first is the cross product with the vertical, along which `axis`, drawn from continuous numbers, never is.
    size = math.hypot(x, z)
    return np.array([[-z / size, 0.0, x / size], [x * y / size, -size, y * z / size], [x, y, z]])
