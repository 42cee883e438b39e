"""Reference values for particles in liquid argon: formulas and tables that the simulation is compared with.

Sources, as named in the results: PDG is S. Navas et al. (Particle Data Group), Phys. Rev. D 110 (2024) 030001, "Passage
of particles through matter", with its atomic and nuclear properties of materials; Groom is D. Groom, N. Mokhov and
S. Striganov, At. Data Nucl. Data Tables 78 (2001) 183; PSTAR is NIST's database of stopping powers of protons
(M. Berger et al., NISTIR 4999).
"""

import numpy as np
from scipy import integrate

from nuvlm.detector.readout import ARGON_DENSITY
from nuvlm.simulation.final_states import ELECTRON, MASS_MEV, MUON

DENSITY = ARGON_DENSITY
Z_OVER_A = 18 / 39.948
RADIATION_LENGTH_CM = 14.0
MOLIERE_RADIUS_CM = 9.04
CRITICAL_MEV = 32.84
INTERACTION_LENGTH_CM = {2212: 85.7, 211: 106.7}
"""Of fast nucleons and pions. Like the critical energy, quoted from memory of PDG's tables."""
EXCITATION_MEV = 188e-6
STERNHEIMER = {"cbar": 5.2146, "a": 0.19559, "k": 3.0, "x0": 0.2, "x1": 3.0}
K_MEV_CM2 = 0.307075
"""4 pi N_A r_e^2 m_e c^2, MeV cm2/mol."""
ELECTRON_MEV = MASS_MEV[ELECTRON]
CLASSICAL_RADIUS2_CM2 = 7.940788e-26
AVOGADRO = 6.02214076e23

MUON_RANGE_G_CM2 = {100: 42.50, 200: 106.3, 300: 172.5, 400: 238.5, 1000: 616.3}
"""Range in the continuous-slowing-down approximation, keyed by kinetic energy, MeV (Groom, liquid argon)."""
PROTON_RANGE_G_CM2 = {50: 3.208, 100: 10.92, 150: 22.15, 200: 36.27}
"""The same for protons (PSTAR, argon; per g/cm2 the gas and the liquid differ only by the density effect)."""


def _kinematics(kinetic_mev: float, mass_mev: float) -> tuple[float, float]:
    """Squares of beta and beta gamma."""
    gamma = 1 + kinetic_mev / mass_mev
    return 1 - 1 / gamma**2, gamma**2 - 1


def _density_effect(beta_gamma2: float) -> float:
    """Sternheimer's parametrisation (PDG)."""
    x = 0.5 * np.log10(beta_gamma2)
    if x < STERNHEIMER["x0"]:
        return 0.0
    bend = STERNHEIMER["a"] * max(0.0, STERNHEIMER["x1"] - x) ** STERNHEIMER["k"]
    return float(2 * np.log(10) * x - STERNHEIMER["cbar"] + bend)


def bethe_mev_cm(kinetic_mev: float, mass_mev: float = MASS_MEV[MUON]) -> float:
    """Mean energy loss of a heavy particle of unit charge by ionisation, MeV/cm (PDG)."""
    beta2, beta_gamma2 = _kinematics(kinetic_mev, mass_mev)
    ratio = ELECTRON_MEV / mass_mev
    largest = 2 * ELECTRON_MEV * beta_gamma2 / (1 + 2 * np.sqrt(1 + beta_gamma2) * ratio + ratio**2)
    log = 0.5 * np.log(2 * ELECTRON_MEV * beta_gamma2 * largest / EXCITATION_MEV**2)
    return float(DENSITY * K_MEV_CM2 * Z_OVER_A / beta2 * (log - beta2 - _density_effect(beta_gamma2) / 2))


def bethe_over_mev_cm(kinetic_mev: float, length_cm: float) -> float:
    """Mean of :func:`bethe_mev_cm` over the first `length_cm` of a muon's path."""
    path = integrate.solve_ivp(lambda _, t: [-bethe_mev_cm(t[0])], (0, length_cm), [kinetic_mev], rtol=1e-8)
    return float((kinetic_mev - path.y[0, -1]) / length_cm)


def most_probable_mev_cm(kinetic_mev: float, length_cm: float) -> float:
    """Most probable energy loss of a muon in a layer, over its thickness: Landau, Vavilov, Bichsel (PDG)."""
    beta2, beta_gamma2 = _kinematics(kinetic_mev, MASS_MEV[MUON])
    xi = K_MEV_CM2 / 2 * Z_OVER_A * DENSITY * length_cm / beta2
    logs = np.log(2 * ELECTRON_MEV * beta_gamma2 / EXCITATION_MEV) + np.log(xi / EXCITATION_MEV)
    return float(xi * (logs + 0.200 - beta2 - _density_effect(beta_gamma2)) / length_cm)


def compton_length_cm(photon_mev: float) -> float:
    """Mean free path for Compton scattering on free electrons: Klein and Nishina."""
    k = photon_mev / ELECTRON_MEV
    bracket = (1 + k) / k**2 * (2 * (1 + k) / (1 + 2 * k) - np.log1p(2 * k) / k)
    bracket += np.log1p(2 * k) / (2 * k) - (1 + 3 * k) / (1 + 2 * k) ** 2
    return float(1 / (2 * np.pi * CLASSICAL_RADIUS2_CM2 * bracket * DENSITY * Z_OVER_A * AVOGADRO))


def pair_length_cm() -> float:
    """Mean free path of a fast photon for pair production, 9/7 of a radiation length (PDG)."""
    return 9 / 7 * RADIATION_LENGTH_CM


def shower_maximum_cm(electron_mev: float) -> float:
    """Depth at which an electron's shower deposits most (PDG)."""
    return float(RADIATION_LENGTH_CM * (np.log(electron_mev / CRITICAL_MEV) - 0.5))


def michel_end_point_mev() -> float:
    """Largest total energy of the electron of a muon's decay at rest."""
    return (MASS_MEV[MUON] ** 2 + ELECTRON_MEV**2) / (2 * MASS_MEV[MUON])


def michel_mean_mev() -> float:
    """Mean total energy of that electron: 7/10 of the end point, from the spectrum x^2 (3 - 2 x)."""
    return 0.7 * michel_end_point_mev()
