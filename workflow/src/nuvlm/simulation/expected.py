"""Reference values for particles in liquid argon: formulas and tables that the simulation is compared with.

Sources, as named in the results. PDG: S. Navas et al. (Particle Data Group), Phys. Rev. D 110 (2024) 030001, "Passage
of particles through matter". XCOM, ESTAR, PSTAR: :mod:`nuvlm.simulation.nist`. Grindhammer and Peters: hep-ex/0001020,
appendix A.1, showers in homogeneous media. Letaw: J. Letaw, R. Silberberg and C. Tsao, Astrophys. J. Suppl. 51 (1983)
271.

NIST's argon is a gas. Its photon cross-sections and radiative stopping powers depend on the atom only, and hold per
g/cm2 in the liquid, too. The energy loss to electrons does not: the polarisation of a dense medium reduces it (density
effect). Here it is calculated with Sternheimer's parametrisation for the liquid in the place of that for the gas.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import integrate, optimize, stats
from scipy.interpolate import CubicSpline

from nuvlm.detector.readout import ARGON_DENSITY
from nuvlm.simulation import nist
from nuvlm.simulation.final_states import ELECTRON, MASS_MEV, MUON, PROTON

Z, A = 18, 39.948
Z_OVER_A = Z / A
EXCITATION_MEV = 188e-6
"""Mean excitation energy of ICRU Report 37, (188 +- 10) eV, which NIST and GEANT4 use for gas and liquid. M. Strait
measured (205 +- 4) eV in the liquid (docs/simulation.md): energy losses about 1 % lower."""
EXCITATION_UNCERTAINTY = 10 / 188
K_MEV_CM2 = 0.307075
"""4 pi N_A r_e^2 m_e c^2, MeV cm2/mol."""
ELECTRON_MEV = MASS_MEV[ELECTRON]
FINE_STRUCTURE = 1 / 137.035999
CLASSICAL_RADIUS2_CM2 = 7.940788e-26
AVOGADRO = 6.02214076e23
ATOMS_CM3 = ARGON_DENSITY * AVOGADRO / A
BARN_CM2 = 1e-24


class Sternheimer(NamedTuple):
    """Parameters of the density effect (PDG), without the term of conductors."""

    cbar: float
    a: float
    k: float
    x0: float
    x1: float

    def delta(self, beta_gamma2: ArrayLike) -> np.ndarray:
        """The density effect delta at the square of beta gamma."""
        x = 0.5 * np.log10(beta_gamma2)
        bend = self.a * np.maximum(0.0, self.x1 - x) ** self.k
        return np.where(x < self.x0, 0.0, 2 * np.log(10) * x - self.cbar + bend)


LIQUID = Sternheimer(5.2146, 0.19559, 3.0, 0.2, 3.0)
"""R. Sternheimer and R. Peierls, Phys. Rev. B 3 (1971) 3681, as in PDG's tables and GEANT4."""
GAS = Sternheimer(11.9480, 0.19714, 2.9618, 1.7635, 4.4855)
"""R. Sternheimer, M. Berger and S. Seltzer, At. Data Nucl. Data Tables 30 (1984) 261."""


def _kinematics(kinetic_mev: ArrayLike, mass_mev: float) -> tuple[np.ndarray, np.ndarray]:
    """Squares of beta and beta gamma."""
    gamma = 1 + np.asarray(kinetic_mev) / mass_mev
    return 1 - 1 / gamma**2, gamma**2 - 1


def _largest_transfer(beta_gamma2: np.ndarray, mass_mev: float) -> np.ndarray:
    """Largest energy that a particle can pass to an electron at rest, MeV (PDG)."""
    ratio = ELECTRON_MEV / mass_mev
    largest: np.ndarray = 2 * ELECTRON_MEV * beta_gamma2 / (1 + 2 * np.sqrt(1 + beta_gamma2) * ratio + ratio**2)
    return largest


def electron_collision(kinetic_mev: ArrayLike, medium: Sternheimer = LIQUID) -> np.ndarray:
    """Mean energy loss of electrons to electrons, MeV cm2/g: Moller and Bethe, as in ICRU Report 37 and ESTAR.

    With :data:`GAS` it agrees with ESTAR's values within 0.1 %. ESTAR evaluates the density effect from the levels of
    the atom; with the density of the liquid it differs by 0.2 % from :data:`LIQUID`.
    """
    kinetic = np.asarray(kinetic_mev)
    beta2, beta_gamma2 = _kinematics(kinetic, ELECTRON_MEV)
    tau = kinetic / ELECTRON_MEV
    spin = (1 - beta2) * (1 + tau**2 / 8 - (2 * tau + 1) * np.log(2))
    log = 2 * np.log(kinetic / EXCITATION_MEV) + np.log1p(tau / 2)
    loss: np.ndarray = K_MEV_CM2 / 2 * Z_OVER_A / beta2 * (log + spin - medium.delta(beta_gamma2))
    return loss


def electron_total(kinetic_mev: ArrayLike) -> np.ndarray:
    """Mean energy loss of electrons, with bremsstrahlung (ESTAR), MeV cm2/g."""
    total: np.ndarray = electron_collision(kinetic_mev) + nist.electron_radiative(np.asarray(kinetic_mev))
    return total


def heavy_electronic(kinetic_mev: ArrayLike, mass_mev: float, medium: Sternheimer = LIQUID) -> np.ndarray:
    """Mean energy loss to electrons of a heavy particle of unit charge, MeV cm2/g.

    PSTAR's value for a proton of the same velocity, corrected for the density effect and for the largest energy
    transfer, on which alone the mass acts in Bethe's formula (PDG). Below 0.5 MeV of the proton, where that formula
    does not hold, it is the proton's value.
    """
    kinetic = np.asarray(kinetic_mev)
    beta2, beta_gamma2 = _kinematics(kinetic, mass_mev)
    proton_mev = kinetic * MASS_MEV[PROTON] / mass_mev
    transfer = np.log(_largest_transfer(beta_gamma2, mass_mev) / _largest_transfer(beta_gamma2, MASS_MEV[PROTON]))
    dense = medium.delta(beta_gamma2) - GAS.delta(beta_gamma2)
    correction = np.where(proton_mev < 0.5, 0.0, K_MEV_CM2 / 2 * Z_OVER_A / beta2 * (transfer - dense))
    loss: np.ndarray = nist.proton_electronic(proton_mev) + correction
    return loss


def range_cm(pdg: int, kinetic_mev: ArrayLike) -> np.ndarray:
    """Range of electrons, muons or protons in the continuous-slowing-down approximation, cm."""
    return np.exp(_log_range(pdg)(np.log(kinetic_mev)))


@cache
def _log_range(pdg: int) -> CubicSpline:
    """Logarithm of the range (cm) against that of the kinetic energy (MeV), up to the end of NIST's tables."""
    mass = MASS_MEV[pdg]
    # NIST's tables begin at 1 keV and end at 10 GeV.
    scale = 1.0 if pdg == ELECTRON else mass / MASS_MEV[PROTON]
    kinetic = scale * np.geomspace(1.0001e-3, 0.9999e4, 4000)
    if pdg == ELECTRON:
        loss = electron_total(kinetic)
    else:
        loss = heavy_electronic(kinetic, mass)
        if pdg == PROTON:
            loss += nist.proton_nuclear(kinetic)
    # Below the first energy the loss is taken as proportional to velocity.
    start = 2 * kinetic[0] / loss[0]
    grams = start + integrate.cumulative_trapezoid(kinetic / loss, np.log(kinetic), initial=0)
    return CubicSpline(np.log(kinetic), np.log(grams / ARGON_DENSITY), extrapolate=False)


def mean_loss_mev_cm(kinetic_mev: float, length_cm: float) -> float:
    """Mean energy loss of a muon over the first `length_cm` of its path, by ionisation."""
    left = range_cm(MUON, kinetic_mev) - length_cm
    end = optimize.brentq(lambda kinetic: float(range_cm(MUON, kinetic) - left), 0.01, kinetic_mev)
    return float((kinetic_mev - end) / length_cm)


def most_probable_mev_cm(kinetic_mev: float, length_cm: float) -> float:
    """Most probable energy loss of a muon in a layer, over its thickness: Landau, Vavilov, Bichsel (PDG)."""
    beta2, beta_gamma2 = _kinematics(kinetic_mev, MASS_MEV[MUON])
    xi = K_MEV_CM2 / 2 * Z_OVER_A * ARGON_DENSITY * length_cm / beta2
    logs = np.log(2 * ELECTRON_MEV * beta_gamma2 / EXCITATION_MEV) + np.log(xi / EXCITATION_MEV)
    return float(xi * (logs + 0.200 - beta2 - LIQUID.delta(beta_gamma2)) / length_cm)


def most_probable_uncertainty() -> float:
    """Uncertainty of :func:`most_probable_mev_cm` of a fast muon by that of the mean excitation energy, MeV/cm."""
    return float(K_MEV_CM2 / 2 * Z_OVER_A * ARGON_DENSITY * 2 * EXCITATION_UNCERTAINTY)


def photon_length_cm(photon_mev: ArrayLike) -> np.ndarray:
    """Mean free path of a photon, without coherent scattering (XCOM)."""
    table = nist.photons()
    barn = np.exp(np.interp(np.log(photon_mev), np.log(table.energy_mev), np.log(table.total)))
    length: np.ndarray = 1 / (barn * BARN_CM2 * ATOMS_CM3)
    return length


def _radiation_length() -> float:
    """Y. Tsai's formula (PDG), g/cm2."""
    az2 = (FINE_STRUCTURE * Z) ** 2
    coulomb = az2 * (1 / (1 + az2) + 0.20206 - 0.0369 * az2 + 0.0083 * az2**2)
    logs = Z**2 * (np.log(184.15 * Z ** (-1 / 3)) - coulomb) + Z * np.log(1194 * Z ** (-2 / 3))
    return float(1 / (4 * FINE_STRUCTURE * CLASSICAL_RADIUS2_CM2 * AVOGADRO / A * logs))


RADIATION_LENGTH_G_CM2 = _radiation_length()
RADIATION_LENGTH_CM = RADIATION_LENGTH_G_CM2 / ARGON_DENSITY


def _critical_energy() -> float:
    """Energy that an electron loses to electrons in one radiation length (B. Rossi's definition, PDG), MeV."""
    loss = optimize.brentq(lambda mev: float(electron_collision(mev)) * RADIATION_LENGTH_G_CM2 - mev, 1.0, 1000.0)
    return float(loss)


CRITICAL_MEV = _critical_energy()


def shower_maximum_cm(electron_mev: float) -> float:
    """Depth at which an electron's shower deposits most (PDG)."""
    return float(RADIATION_LENGTH_CM * (np.log(electron_mev / CRITICAL_MEV) - 0.5))


class Shower(NamedTuple):
    """The mean shower of an electron in liquid argon, after Grindhammer and Peters.

    Depths are measured in radiation lengths, radii in Moliere radii X0 (21.2 MeV) / E_c.
    """

    electron_mev: float
    critical_mev: float

    @property
    def _log(self) -> float:
        return float(np.log(self.electron_mev / self.critical_mev))

    @property
    def alpha(self) -> float:
        """Shape of the longitudinal profile, a gamma distribution."""
        return 0.21 + (0.492 + 2.38 / Z) * self._log

    @property
    def maximum(self) -> float:
        """Depth at which most energy is deposited, radiation lengths."""
        return self._log - 0.858

    def within_depth(self, depth_cm: ArrayLike) -> np.ndarray:
        """Share of the energy that is deposited before a depth."""
        depth = np.asarray(depth_cm) / RADIATION_LENGTH_CM
        share: np.ndarray = stats.gamma.cdf(depth, self.alpha, scale=self.maximum / (self.alpha - 1))
        return share

    def within_radius(self, radius_cm: ArrayLike) -> np.ndarray:
        """Share of the energy that is deposited within a radius, over the whole depth; radii (n,)."""
        log_gev = np.log(self.electron_mev / 1000)
        # (depths, 1): tau is the depth over that of the maximum.
        share = (np.arange(1000)[:, None] + 0.5) / 1000
        tau = stats.gamma.ppf(share, self.alpha, scale=1 / (self.alpha - 1))
        core = 0.0251 + 0.00319 * log_gev + (0.1162 - 0.000381 * Z) * tau
        tail = (0.659 - 0.00309 * Z) * (
            np.exp(-2.59 * (tau - 0.645)) + np.exp((0.3585 + 0.0421 * log_gev) * (tau - 0.645))
        )
        lag = (0.401 + 0.00187 * Z - tau) / (1.313 - 0.0686 * log_gev)
        weight = np.clip((2.632 - 0.00094 * Z) * np.exp(lag - np.exp(lag)), 0, 1)
        moliere_cm = RADIATION_LENGTH_CM * 21.2 / self.critical_mev
        radius2 = (np.asarray(radius_cm) / moliere_cm) ** 2
        within: np.ndarray = weight * radius2 / (radius2 + core**2) + (1 - weight) * radius2 / (radius2 + tail**2)
        return within.mean(axis=0)


def showers(electron_mev: float) -> tuple[Shower, Shower]:
    """The shower with PDG's critical energy, and with that of GFlash, GEANT4's implementation: 2.66 (X0 Z / A)^1.1 MeV.

    The difference is taken as the uncertainty of the parametrisation.
    """
    gflash = 2.66 * (RADIATION_LENGTH_G_CM2 * Z_OVER_A) ** 1.1
    return Shower(electron_mev, CRITICAL_MEV), Shower(electron_mev, float(gflash))


def proton_interaction_length_cm(kinetic_mev: float) -> float:
    """Mean free path of a proton to an inelastic interaction (Letaw)."""
    mb = 45 * A**0.7 * (1 + 0.016 * np.sin(5.3 - 2.63 * np.log(A)))
    mb *= 1 - 0.62 * np.exp(-kinetic_mev / 200) * np.sin(10.9 * kinetic_mev**-0.28)
    return float(1 / (mb * 1e-27 * ATOMS_CM3))


def michel_end_point_mev() -> float:
    """Largest total energy of the electron of a muon's decay at rest."""
    return (MASS_MEV[MUON] ** 2 + ELECTRON_MEV**2) / (2 * MASS_MEV[MUON])


def michel_mean_mev() -> float:
    """Mean total energy of that electron: 7/10 of the end point, from the spectrum x^2 (3 - 2 x)."""
    return 0.7 * michel_end_point_mev()
