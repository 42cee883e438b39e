"""The formulas that the simulation is compared with, against published values of theirs."""

import numpy as np
import pytest

from nuvlm.simulation import expected
from nuvlm.simulation.final_states import MASS_MEV


def test_minimum_of_ionisation_is_the_published_one() -> None:
    # PDG, liquid argon: 1.508 MeV cm2/g
    losses = [expected.bethe_mev_cm(kinetic) / expected.DENSITY for kinetic in range(150, 500, 5)]
    assert min(losses) == pytest.approx(1.508, abs=0.002)


@pytest.mark.parametrize(("kinetic", "grams"), expected.MUON_RANGE_G_CM2.items())
def test_bethe_gives_the_muon_ranges_of_groom(kinetic: int, grams: float) -> None:
    energy = np.geomspace(10, kinetic, 3000)
    # Groom et al.: 0.9833 g/cm2 from 10 MeV on
    found = 0.9833 + expected.DENSITY * np.trapezoid([1 / expected.bethe_mev_cm(e) for e in energy], energy)
    assert found == pytest.approx(grams, rel=0.006)


@pytest.mark.parametrize(("low", "high"), [(50, 100), (100, 150), (150, 200)])
def test_bethe_gives_the_proton_ranges_of_pstar(low: int, high: int) -> None:
    energy = np.linspace(low, high, 500)
    stopping = [expected.bethe_mev_cm(e, MASS_MEV[2212]) for e in energy]
    found = expected.DENSITY * np.trapezoid(1 / np.array(stopping), energy)
    table = expected.PROTON_RANGE_G_CM2
    assert found == pytest.approx(table[high] - table[low], rel=0.01)


def test_most_probable_loss_lies_below_the_mean_and_rises_with_thickness() -> None:
    thin, thick = (expected.most_probable_mev_cm(1000, x) for x in (0.3, 3.0))
    assert 1.5 < thin < thick < expected.bethe_mev_cm(1000)


def test_compton_becomes_thomson_for_soft_photons() -> None:
    # 0.665 b an electron
    electrons = expected.DENSITY * expected.Z_OVER_A * expected.AVOGADRO
    assert expected.compton_length_cm(1e-3) == pytest.approx(1 / (0.6652e-24 * electrons), rel=0.005)


def test_constants() -> None:
    assert expected.michel_end_point_mev() == pytest.approx(52.83, abs=0.005)
    assert expected.pair_length_cm() == pytest.approx(18.0)
    assert expected.shower_maximum_cm(expected.CRITICAL_MEV * np.e**0.5) == pytest.approx(0, abs=1e-9)
