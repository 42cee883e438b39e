"""Beam spectrum from a CSV file, and the event weights that give a sample this spectrum.

Light to import: the file is checked while rules are parsed.
"""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nuvlm.base.errors import InputError

BINS, PER_BIN = 50, 60
"""Maximum number of bins, and events per bin, of the histogram of the sample's energies."""


class Spectrum(NamedTuple):
    """Interacting neutrinos per GeV, in any unit."""

    curves: Mapping[int | None, tuple[np.ndarray, np.ndarray]]
    """PDG code of a flavour -> rising energies (GeV) and the values there; the single key None means all flavours."""

    def at(self, nu_pdg: int | None, energy: np.ndarray) -> np.ndarray:
        """Value at each energy (GeV): linear interpolation, 0 outside the range."""
        if nu_pdg not in self.curves:
            return np.zeros(len(energy))
        return np.interp(energy, *self.curves[nu_pdg], left=0.0, right=0.0)


def read_spectrum(path: str | Path) -> Spectrum:
    """Read a spectrum.

    The header names the columns: ``energy_gev``; ``weight``, interacting neutrinos per GeV, or ``flux``, incoming
    neutrinos per GeV, which is multiplied by the energy, as the total cross section is nearly proportional to it (PDG,
    "Neutrino cross section measurements"); and optionally ``nu_pdg``. Lines that begin with # are ignored.

    Raises:
        InputError: naming the file, the line and what to change.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}). Set report.spectrum to a CSV file, or to null.") from error
    content = [(i, line) for i, line in enumerate(lines, 1) if line.strip() and not line.lstrip().startswith("#")]
    if not content:
        raise InputError(f"{path}: is empty. Its first line must name the columns: energy_gev,weight.")
    rows = [(i, [cell.strip() for cell in next(csv.reader([line]))]) for i, line in content]
    (line, header), *rows = rows
    values = [name for name in ("weight", "flux") if name in header]
    if "energy_gev" not in header or len(values) != 1 or set(header) - {"energy_gev", "weight", "flux", "nu_pdg"}:
        raise InputError(
            f"{path}, line {line}: the columns are {', '.join(header)}. Name them energy_gev, weight (or flux), and "
            "nu_pdg if flavours differ."
        )
    points: dict[int | None, list[tuple[float, float]]] = {}
    for line, cells in rows:
        where = f"{path}, line {line}"
        if len(cells) != len(header):
            raise InputError(f"{where}: has {len(cells)} values for {len(header)} columns. Correct the line.")
        row = dict(zip(header, cells, strict=True))
        energy, value = _number(where, "energy_gev", row), _number(where, values[0], row)
        flavour = int(_number(where, "nu_pdg", row)) if "nu_pdg" in header else None
        of_flavour = points.setdefault(flavour, [])
        if of_flavour and energy <= of_flavour[-1][0]:
            raise InputError(
                f"{where}: energy_gev is {energy:g} after {of_flavour[-1][0]:g}. Sort the lines by energy, each once."
            )
        of_flavour.append((energy, value * energy if values[0] == "flux" else value))
    short = [flavour for flavour, of_flavour in points.items() if len(of_flavour) < 2]
    if not points or short:
        of = f" for nu_pdg {short[0]}" if short and short[0] is not None else ""
        raise InputError(f"{path}, line {rows[-1][0] if rows else line}: fewer than two energies{of}. Add some.")
    curves = {flavour: (np.array(p)[:, 0], np.array(p)[:, 1]) for flavour, p in points.items()}
    if not any(value.any() for _, value in curves.values()):
        raise InputError(f"{path}: every {values[0]} is 0. Give one above 0, or set report.spectrum to null.")
    return Spectrum(curves)


def weigh(spectrum: Spectrum, nu_pdg: np.ndarray, energy: np.ndarray) -> np.ndarray:
    """Weight events so that their energies follow the spectrum.

    The weight is the spectrum at the energy of the event divided by the density of the sample there (a histogram),
    separately for each flavour of the spectrum.

    Args:
        nu_pdg: (n,) PDG code of each neutrino.
        energy: (n,) GeV; NaN if unknown.

    Returns:
        (n,) weights, in any unit; 0 outside the spectrum and for unknown energy.
    """
    weights = np.zeros(len(energy))
    for flavour in spectrum.curves:
        selected = np.isfinite(energy) & ((nu_pdg == flavour) if flavour is not None else True)
        if not selected.any():
            continue
        count, edges = np.histogram(energy[selected], bins=int(np.clip(selected.sum() // PER_BIN, 1, BINS)))
        where = np.clip(np.searchsorted(edges, energy[selected], side="right") - 1, 0, len(count) - 1)
        weights[selected] = spectrum.at(flavour, energy[selected]) / (count / np.diff(edges))[where]
    return weights


def _number(where: str, name: str, row: Mapping[str, str]) -> float:
    try:
        value = float(row[name])
    except ValueError:
        value = float("nan")
    least = -np.inf if name == "nu_pdg" else 0.0
    if not (np.isfinite(value) and value >= least) or (name == "nu_pdg" and value not in (12, -12, 14, -14, 16, -16)):
        expected = "12, -12, 14, -14, 16 or -16" if name == "nu_pdg" else "a number that is not negative"
        raise InputError(f"{where}: {name} is {row[name]!r}, not {expected}. Correct the line.")
    return value
