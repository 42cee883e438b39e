"""Data sets that GEANT4 reads at start: the official ones if installed, else tables from formulas.

``geant4-pybind`` contains no data and, on import, asks on the terminal for missing data sets, so :func:`provide_data`
must run before that import. The formula tables cover only liquid argon and the physics list of
:mod:`nuvlm.simulation.transport`; docs/simulation.md gives their limits.
"""

import atexit
import logging
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

from nuvlm.base.errors import InputError

logger = logging.getLogger(__name__)

ROOT = "GEANT4_DATA_DIR"
READ = ("G4LEDATA", "G4PARTICLEXSDATA", "G4ENSDFSTATEDATA", "G4LEVELGAMMADATA")
"""Data sets that the physics list of this simulation opens."""
MARKER = "FORMULA_TABLES"

Z_ARGON = 18
A_ARGON = 39.948
ELECTRON_MASS_MEV = 0.51099895
FINE_STRUCTURE = 1 / 137.035999
ELECTRON_RADIUS2_MB = 79.40788
"""Classical electron radius squared, mb."""
K_EDGE_MEV, L_EDGE_MEV = 3.2029e-3, 3.26e-4
K_JUMP = 9.07
"""Ratio of the photoelectric cross-sections above and below the K edge (XCOM)."""
BARN_PER_FM2 = 0.01
MM2_PER_BARN = 1e-22


def provide_data() -> str:
    """Set the environment variables of GEANT4's data sets in this process, and log which sets are used.

    The official sets are used if ``GEANT4_DATA_DIR``, or all of :data:`READ`, are set. If none of these is set, the
    formula tables are written to a temporary folder that is removed when the process ends.

    Returns:
        ``"official"`` or ``"formula"``.

    Raises:
        InputError: a variable names no folder, or official and formula tables would be mixed.
    """
    given = [name for name in READ if name in os.environ]
    for name in (ROOT, *given):
        if name in os.environ and not Path(os.environ[name]).is_dir():
            raise InputError(
                f"{name} = {os.environ[name]!r} is not a folder: set it to that of the GEANT4 data, or unset it and "
                f"{', '.join(READ)} to use formula tables."
            )
    if ROOT not in os.environ:
        missing = [name for name in READ if name not in given]
        if given and missing:
            raise InputError(
                f"GEANT4 data: {', '.join(given)} set, but {', '.join(missing)} not. Set all of {', '.join(READ)} to "
                "use the official data sets, or none to use formula tables: the two are not mixed."
            )
        if missing:
            folder = Path(tempfile.mkdtemp(prefix="nuvlm-geant4-"))
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            os.environ.update(write_tables(folder))
        # If this is set, geant4-pybind neither asks nor, where CI is set, downloads data and cleans its folder.
        os.environ[ROOT] = str(Path(os.environ["G4LEDATA"]).parent)
    # A child of a process that wrote tables inherits the variables, so the marker in the folder decides.
    if (Path(os.environ[ROOT]) / MARKER).exists():
        logger.info("GEANT4 data: tables from formulas for liquid argon (see docs/simulation.md)")
        return "formula"
    logger.info("GEANT4 data: official sets in %s", os.environ[ROOT])
    return "official"


def write_tables(folder: Path) -> dict[str, str]:
    """Write the formula tables below `folder`; return the variables of :data:`READ` that point at them."""
    low_energy, cross_sections, states, levels = (folder / name.removesuffix("DATA").lower() for name in READ)
    (folder / MARKER).write_text("Computed by nuvlm.simulation.geant4_tables; not a GEANT4 data set.\n")
    _write_bremsstrahlung(low_energy / "brem_SB")
    _write_photoelectric(low_energy / "epics2017" / "phot")
    (low_energy / "epics2017" / "rayl").mkdir()
    _write_neutron(cross_sections / "neutron")
    for empty in (states, levels):
        empty.mkdir()
    (states / "ENSDFSTATE.dat").touch()
    return dict(zip(READ, map(str, (low_energy, cross_sections, states, levels)), strict=True))


def bremsstrahlung_mb(kinetic_mev: np.ndarray, fraction: np.ndarray) -> np.ndarray:
    """Scaled bremsstrahlung cross-section of electrons on argon, beta^2 / Z^2 k dsigma/dk, mb.

    Born approximation without screening (3BN of Koch and Motz, Rev. Mod. Phys. 31 (1959) 920) with Elwert's
    Coulomb factor, valid for slow electrons, minus the screening of fast electrons: the difference between the
    relativistic formula without screening and Tsai's with screening (Rev. Mod. Phys. 46 (1974) 815). The
    difference vanishes for slow electrons; for fast ones the result becomes Tsai's formula. It is too high
    for slow electrons: a factor that tends to 1 with growing momentum brings the mean loss to within 6 % of NIST's
    ESTAR from 10 keV on, and 2 % from 0.4 MeV on.

    Args:
        kinetic_mev: kinetic energy T of the electron, MeV.
        fraction: photon energy k / T, in 0..1; broadcast against `kinetic_mev`.
    """
    # The formulas diverge at k = 0 and k = T: stay just inside.
    photon = np.clip(fraction, 1e-5, 1 - 1e-5) * kinetic_mev
    total = kinetic_mev + ELECTRON_MASS_MEV
    beta2 = kinetic_mev * (kinetic_mev + 2 * ELECTRON_MASS_MEV) / total**2
    bare = _slow_bare(total, photon)
    screening = np.maximum(_fast_bare(total, photon) - _fast_screened(total, photon), 0)
    slow = 1 + (FINE_STRUCTURE * Z_ARGON) ** 2 * (1 - beta2) / beta2
    scaled: np.ndarray = FINE_STRUCTURE * ELECTRON_RADIUS2_MB * beta2 / slow * np.maximum(bare - screening, 0)
    return scaled


# The three formulas give k dsigma/dk / (alpha r_e^2 Z^2) for an electron of energy `total` and a photon (MeV).
# Z (Z + 1) replaces Z^2 to include radiation in the field of atomic electrons.


def _fast_screened(total: np.ndarray, photon: np.ndarray) -> np.ndarray:
    """Tsai's eq. 3.83 for relativistic electrons, with the screening functions 3.38-3.41 of nucleus and electrons."""
    y = photon / total
    # Inverse of the minimum momentum transfer, in units of the atom's size.
    transfer = 100 * ELECTRON_MASS_MEV * y / (total - photon)
    gamma = transfer / Z_ARGON ** (1 / 3)
    epsilon = transfer / Z_ARGON ** (2 / 3)
    phi = 16.863 - 2 * np.log1p(0.311877 * gamma**2) + 2.4 * np.exp(-0.9 * gamma) + 1.6 * np.exp(-1.5 * gamma)
    phi_difference = 2 / (3 + 19.5 * gamma + 18 * gamma**2)
    psi = 24.34 - 2 * np.log1p(13.111641 * epsilon**2) + 2.8 * np.exp(-8 * epsilon) + 1.2 * np.exp(-29.2 * epsilon)
    psi_difference = 2 / (3 + 120 * epsilon + 1200 * epsilon**2)
    az2 = (FINE_STRUCTURE * Z_ARGON) ** 2
    coulomb = az2 * (1 / (1 + az2) + 0.20206 - 0.0369 * az2 + 0.0083 * az2**2)
    log_z = np.log(Z_ARGON)
    nucleus = phi / 4 - log_z / 3 - coulomb
    electrons = (psi / 4 - 2 * log_z / 3) / Z_ARGON
    spectrum = (4 / 3 * (1 - y) + y**2) * (nucleus + electrons)
    correction = (1 - y) / 6 * (phi_difference + psi_difference / Z_ARGON)
    value: np.ndarray = 4 * (spectrum + correction)
    return value


def _fast_bare(total: np.ndarray, photon: np.ndarray) -> np.ndarray:
    """The relativistic Bethe-Heitler formula in the bare field of the nucleus (3BN(b) of Koch and Motz)."""
    y = photon / total
    log = np.log(2 * total * (total - photon) / (ELECTRON_MASS_MEV * photon)) - 0.5
    value: np.ndarray = 4 * (4 / 3 * (1 - y) + y**2) * log * (1 + 1 / Z_ARGON)
    return value


def _slow_bare(total: np.ndarray, photon: np.ndarray) -> np.ndarray:
    """The Born approximation in the bare field at any energy (3BN of Koch and Motz), times Elwert's factor."""
    # Symbols as in Koch and Motz: energies and momenta in units of the electron mass.
    e0 = total / ELECTRON_MASS_MEV
    k = photon / ELECTRON_MASS_MEV
    e = e0 - k
    p0, p = np.sqrt(e0**2 - 1), np.sqrt(np.maximum(e**2 - 1, 1e-12))
    eps0, eps = 2 * np.arccosh(e0), 2 * np.arccosh(np.maximum(e, 1 + 5e-13))
    big_l = 2 * np.log((e0 * e + p0 * p - 1) / k)
    bracket = (
        8 * e0 * e / (3 * p0 * p)
        + k**2 * (e0**2 * e**2 + p0**2 * p**2) / (p0**3 * p**3)
        + k
        / (2 * p0 * p)
        * ((e0 * e + p0**2) / p0**3 * eps0 - (e0 * e + p**2) / p**3 * eps + 2 * k * e0 * e / (p**2 * p0**2))
    )
    born = (
        p
        / p0
        * (
            4 / 3
            - 2 * e0 * e * (p**2 + p0**2) / (p**2 * p0**2)
            + eps0 * e / p0**3
            + eps * e0 / p**3
            - eps * eps0 / (p0 * p)
            + big_l * bracket
        )
    )
    beta0, beta = p0 / e0, p / e
    az = 2 * np.pi * FINE_STRUCTURE * Z_ARGON
    elwert = beta0 / beta * np.expm1(-az / beta0) / np.expm1(-az / beta)
    value: np.ndarray = born * elwert * (1 + 1 / Z_ARGON)
    return value


def _write_bremsstrahlung(folder: Path) -> None:
    fraction = np.concatenate([[0, 1e-4, 1e-3, 0.01, 0.025], np.arange(0.05, 0.95, 0.05), [0.95, 0.97, 0.98, 0.99, 1]])
    kinetic = np.geomspace(1e-3, 1e7, 101)
    values = bremsstrahlung_mb(kinetic[:, None], fraction)
    folder.mkdir(parents=True)
    # G4Physics2DVector: type, sizes, abscissae, then one row of k / T per energy.
    rows = [f"4 {len(fraction)} {len(kinetic)}", _line(fraction), _line(np.log(kinetic)), *map(_line, values)]
    (folder / f"br{Z_ARGON}").write_text("\n".join(rows) + "\n")


def photoelectric_barn(energy_mev: np.ndarray) -> np.ndarray:
    """Photoelectric cross-section of an argon atom, barn.

    Above the K edge F. Sauter's formula for the K shell (Ann. Phys. 403 (1931) 454; Born approximation), times a factor
    for the Coulomb field and the other shells: the exponential of a polynomial in alpha Z / beta, fitted to XCOM
    between the edge and 1 MeV. There it agrees with XCOM within 1.5 %; at higher energy, where less than a thousandth
    of all interactions are photoelectric, it is up to 20 % too high. Below the edge a power of the energy, within 2 %.
    """
    gamma = 1 + np.maximum(energy_mev, K_EDGE_MEV) / ELECTRON_MASS_MEV
    momentum = np.sqrt(gamma**2 - 1)
    born = 4 / 3 + gamma * (gamma - 2) / (gamma + 1) * (1 - np.arccosh(gamma) / (gamma * momentum))
    born *= 4 * np.pi * ELECTRON_RADIUS2_MB / 1000 * FINE_STRUCTURE**4 * Z_ARGON**5 * momentum**3 / (gamma - 1) ** 5
    coulomb = FINE_STRUCTURE * Z_ARGON * gamma / momentum
    above = born * np.exp(np.polyval([-0.7026, 1.8466, -3.4703, 0.172], coulomb))
    # K_EDGE_MEV stands for lower energies in `above`.
    below: np.ndarray = above / K_JUMP * (K_EDGE_MEV / energy_mev) ** 2.685
    return np.where(energy_mev >= K_EDGE_MEV, above, below)


def _write_photoelectric(folder: Path) -> None:
    """The cross-section, and its shares of the K shell and of all others."""
    folder.mkdir(parents=True)
    # GEANT4 reads E^3 sigma against E on each side of the edge.
    top = 100.0
    above, below = np.geomspace(K_EDGE_MEV, top, 100), np.geomspace(L_EDGE_MEV, K_EDGE_MEV * (1 - 1e-6), 20)
    high, low = (grid**3 * photoelectric_barn(grid) for grid in (above, below))
    (folder / f"pe-cs-{Z_ARGON}.dat").write_text(_vector(above, high))
    (folder / f"pe-le-cs-{Z_ARGON}.dat").write_text(_vector(below, low))
    # At higher energies it takes cumulative sums over shells, polynomials in 1 / E: here only the linear term.
    linear = top * photoelectric_barn(np.array(top))
    shells = [
        _line(np.array([K_EDGE_MEV, linear * (1 - 1 / K_JUMP), 0, 0, 0, 0, 0])),
        _line(np.array([L_EDGE_MEV, linear, 0, 0, 0, 0, 0])),
    ]
    for name in ("high", "low"):
        (folder / f"pe-{name}-{Z_ARGON}.dat").write_text("\n".join([f"2 2 {top}", *shells]) + "\n")
    outer = np.concatenate([below, above]), np.concatenate([low, high / K_JUMP])
    blocks = []
    for shell, (grid, values) in enumerate(((above, high * (1 - 1 / K_JUMP)), outer)):
        blocks.append(f"{grid[0]:.8g} {grid[-1]:.8g} {len(grid)} {shell}")
        blocks += [f"{energy:.8g} {value:.8g}" for energy, value in zip(grid, values, strict=True)]
    (folder / f"pe-ss-cs-{Z_ARGON}.dat").write_text("\n".join(blocks) + "\n")


def _write_neutron(folder: Path) -> None:
    """Neutron cross-sections up to 20 MeV.

    A black disk of radius R = 1.4 fm A^(1/3), enlarged by the reduced wavelength, absorbs pi (R + lambda)^2 and
    scatters as much, up to the 4 pi R^2 of a hard sphere at low energy. Inelastic scattering opens at the first
    level of 40Ar (1.46 MeV); capture follows 1/v with argon's 0.66 b at 0.0253 eV. Above 20 MeV GEANT4 uses the
    Glauber-Gribov model, scaled to the last value here; unscaled, the two agree within some 10 %.

    GEANT4 opens the files of all elements at start, used or not.
    """
    energy = np.geomspace(1e-11, 20, 150)  # MeV
    wavelength = 197.327 / np.sqrt(2 * 939.565 * energy)  # fm
    opening = 1 - np.exp(-np.maximum(energy - 1.46, 0) / 1.46)
    folder.mkdir(parents=True)
    for z in range(1, 93):
        radius = 1.4 * (A_ARGON if z == Z_ARGON else 2.5 * z) ** (1 / 3)
        disk = np.pi * (radius + wavelength) ** 2 * BARN_PER_FM2
        cross_sections = {
            "inel": disk * opening,
            "el": np.minimum(disk, 4 * np.pi * radius**2 * BARN_PER_FM2),
            "cap": 0.66 * np.sqrt(2.53e-8 / energy),
        }
        for name, barn in cross_sections.items():
            (folder / f"{name}{z}").write_text(_vector(energy, barn * MM2_PER_BARN))


def _vector(x: np.ndarray, y: np.ndarray) -> str:
    """The text form of a G4PhysicsVector."""
    head = f"{x[0]:.8g} {x[-1]:.8g} {len(x)}\n{len(x)}\n"
    return head + "".join(f"{a:.8g} {b:.8g}\n" for a, b in zip(x, y, strict=True))


def _line(values: np.ndarray) -> str:
    return " ".join(f"{value:.8g}" for value in values)
