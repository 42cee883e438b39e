"""GEANT4's data sets: the formulas, and which set is used when."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nuvlm.base.errors import InputError
from nuvlm.simulation import geant4_tables, nist
from nuvlm.simulation.geant4_tables import READ, ROOT, bremsstrahlung_mb, photoelectric_barn, provide_data


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment of its own, without any of GEANT4's variables."""
    variables = {k: v for k, v in os.environ.items() if k not in (*READ, ROOT)}
    monkeypatch.setattr(os, "environ", variables)
    return variables


def radiative_loss(kinetic_mev: float) -> float:
    """Mean energy that an electron radiates, MeV cm2/g."""
    fraction = np.linspace(0, 1, 4001)
    scaled = bremsstrahlung_mb(np.array([kinetic_mev]), fraction)
    total = kinetic_mev + geant4_tables.ELECTRON_MASS_MEV
    beta2 = 1 - (geant4_tables.ELECTRON_MASS_MEV / total) ** 2
    atoms_mb = 0.602214e-3 / geant4_tables.A_ARGON  # atoms a gram, times a mb in cm2
    return float(atoms_mb * geant4_tables.Z_ARGON**2 / beta2 * kinetic_mev * np.trapezoid(scaled, fraction))


def test_electrons_radiate_as_estar_says() -> None:
    energies = np.geomspace(0.01, 1e4, 25)
    found = np.array([radiative_loss(energy) for energy in energies]) / nist.electron_radiative(energies)
    # ESTAR is good to some 5 % below 50 MeV and 2 % above.
    assert found == pytest.approx(1, abs=0.065)
    assert found[energies > 0.4] == pytest.approx(1, abs=0.02)


def test_photoelectric_effect_is_that_of_xcom() -> None:
    table = nist.photons()
    ratio = photoelectric_barn(table.energy_mev) / table.photoelectric
    assert ratio[table.energy_mev <= 1] == pytest.approx(1, abs=0.025)
    assert ratio[(table.energy_mev >= 0.0033) & (table.energy_mev <= 1)] == pytest.approx(1, abs=0.015)
    # Above it matters for less than one interaction in a thousand.
    rare = table.energy_mev > 1.5
    assert (abs(ratio - 1) * table.photoelectric / table.total)[rare].max() < 2e-4


def test_cross_section_is_positive_and_finite_everywhere() -> None:
    values = bremsstrahlung_mb(np.geomspace(1e-3, 1e7, 200)[:, None], np.linspace(0, 1, 101))
    assert np.isfinite(values).all()
    assert (values > 0).all()


def test_formula_tables_where_nothing_is_set(environment: dict[str, str]) -> None:
    assert provide_data() == "formula"
    assert all(Path(environment[name]).is_dir() for name in (*READ, ROOT))


def test_inherited_formula_tables_are_not_taken_for_official_ones(environment: dict[str, str]) -> None:
    provide_data()
    before = dict(environment)
    assert provide_data() == "formula"
    assert environment == before


def test_official_sets_win(environment: dict[str, str], tmp_path: Path) -> None:
    given = {name: str(tmp_path) for name in READ}
    environment.update(given)
    assert provide_data() == "official"
    assert {name: environment[name] for name in READ} == given


def test_data_directory_wins(environment: dict[str, str], tmp_path: Path) -> None:
    environment[ROOT] = str(tmp_path)
    assert provide_data() == "official"
    assert not any(name in environment for name in READ)


def test_official_and_formula_are_not_mixed(environment: dict[str, str], tmp_path: Path) -> None:
    environment["G4LEDATA"] = str(tmp_path)
    with pytest.raises(InputError, match=r"G4LEDATA set, but G4PARTICLEXSDATA.* not"):
        provide_data()


@pytest.mark.parametrize("variable", ["G4LEDATA", ROOT])
def test_variable_that_names_no_folder(environment: dict[str, str], tmp_path: Path, variable: str) -> None:
    environment[variable] = str(tmp_path / "missing")
    with pytest.raises(InputError, match=rf"{variable} = .*missing.* is not a folder"):
        provide_data()


@pytest.mark.parametrize("ci", ["true", ""])
def test_geant4_neither_asks_nor_downloads_nor_leaves_files(ci: str, tmp_path: Path) -> None:
    inherited = {k: v for k, v in os.environ.items() if k not in (*READ, ROOT)}
    (tmp_path / "tmp").mkdir()
    environment = inherited | {"CI": ci, "HOME": str(tmp_path), "TMPDIR": str(tmp_path / "tmp")}
    done = subprocess.run(
        [sys.executable, "-c", "import nuvlm.simulation.transport"],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert not (tmp_path / ".geant4_pybind").exists()
    assert not list((tmp_path / "tmp").iterdir())
