"""The formulas that the simulation is compared with, against published values."""

import numpy as np
import pytest
from scipy import integrate

from nuvlm.simulation import expected, nist
from nuvlm.simulation.expected import GAS, LIQUID
from nuvlm.simulation.final_states import ELECTRON, MASS_MEV, MUON, PROTON

DENSITY = 1.396


def test_material_is_that_of_nist() -> None:
    argon = nist.argon()
    assert pytest.approx(argon.z_over_a, rel=1e-5) == expected.Z_OVER_A
    assert pytest.approx(argon.excitation_ev * 1e-6) == expected.EXCITATION_MEV


def test_electron_losses_of_the_gas_are_those_of_estar() -> None:
    # ESTAR's argon, MeV cm2/g
    found = expected.electron_collision(np.array([0.01, 0.1, 1, 10, 100, 1000]), GAS)
    np.testing.assert_allclose(found, [14.97, 2.917, 1.376, 1.678, 2.105, 2.382], rtol=1.2e-3)


def test_electron_losses_of_the_liquid_are_those_of_estar_at_its_density() -> None:
    # ESTAR's program with argon of 1.396 g/cm3, MeV cm2/g
    found = expected.electron_collision(np.array([1, 2, 5, 10, 32, 100, 1000, 10_000]))
    reference = [1.3697, 1.3788, 1.4710, 1.5555, 1.6755, 1.7725, 1.9397, 2.0992]
    np.testing.assert_allclose(found, reference, rtol=2.5e-3)
    assert (expected.electron_collision(100, GAS) / expected.electron_collision(100)) > 1.15, "the density effect"


def test_lengths_and_critical_energy_are_those_of_pdg() -> None:
    assert pytest.approx(19.55, abs=0.005) == expected.RADIATION_LENGTH_G_CM2
    assert pytest.approx(14.0, abs=0.01) == expected.RADIATION_LENGTH_CM
    assert pytest.approx(32.84, abs=0.01) == expected.CRITICAL_MEV
    # Moliere radius: 12.62 g/cm2
    assert pytest.approx(12.62, abs=0.01) == 21.2052 * expected.RADIATION_LENGTH_G_CM2 / expected.CRITICAL_MEV
    assert expected.shower_maximum_cm(expected.CRITICAL_MEV * np.e**0.5) == pytest.approx(0, abs=1e-9)


def test_minimum_of_ionisation_is_the_published_one() -> None:
    # PDG, liquid argon: 1.508 MeV cm2/g
    losses = expected.heavy_electronic(np.arange(150.0, 500.0, 5.0), MASS_MEV[MUON])
    assert losses.min() == pytest.approx(1.508, abs=0.003)


@pytest.mark.parametrize(
    ("kinetic", "grams", "within"),
    [(10, 0.9833, 0.02), (30, 6.598, 0.004), (100, 42.50, 0.002), (400, 238.5, 0.002), (1000, 616.3, 0.002)],
)
def test_muon_ranges_are_those_of_groom(kinetic: float, grams: float, within: float) -> None:
    """D. Groom, N. Mokhov and S. Striganov, At. Data Nucl. Data Tables 78 (2001) 183, liquid argon, CSDA."""
    # Slow muons differ from slow protons by the sign of their charge.
    assert expected.range_cm(MUON, kinetic) * DENSITY == pytest.approx(grams, rel=within)


def test_proton_ranges_are_those_of_pstar_but_for_the_density_effect() -> None:
    slow = np.array([1.0, 10, 50, 200, 700])
    np.testing.assert_allclose(expected.range_cm(PROTON, slow) * DENSITY, nist.proton_range(slow), rtol=1e-3)
    assert expected.range_cm(PROTON, 9000) * DENSITY > 1.015 * nist.proton_range(9000)


def test_electron_ranges_are_the_integral_of_the_losses() -> None:
    for low, high in ((0.1, 1), (1, 50), (50, 5000)):
        length, _ = integrate.quad(lambda energy: 1 / float(expected.electron_total(energy)), low, high)
        found = expected.range_cm(ELECTRON, high) - expected.range_cm(ELECTRON, low)
        assert found * DENSITY == pytest.approx(length, rel=1e-4)
    # ESTAR's gas, with a density effect at 1 MeV of 0.5 %: 0.594 g/cm2
    assert expected.range_cm(ELECTRON, 1) * DENSITY == pytest.approx(0.594, rel=0.006)


def test_mean_loss_of_a_muon_is_that_of_the_middle() -> None:
    middle = expected.heavy_electronic(1000 - 113, MASS_MEV[MUON]) * DENSITY
    assert expected.mean_loss_mev_cm(1000, 100) == pytest.approx(middle, rel=1e-3)


def test_most_probable_loss_lies_below_the_mean_and_rises_with_thickness() -> None:
    thin, thick = (expected.most_probable_mev_cm(1000, x) for x in (0.3, 3.0))
    assert 1.5 < thin < thick < expected.mean_loss_mev_cm(1000, 1)
    # 10 eV of 188 move it by 0.01 MeV/cm
    assert expected.most_probable_uncertainty() == pytest.approx(0.0103, abs=2e-4)


def test_photon_lengths() -> None:
    # XCOM at 1 MeV: 3.822 b without coherent scattering; in the limit of high energy 9/7 radiation lengths
    assert expected.photon_length_cm(1) == pytest.approx(39.948 / (0.602214 * 3.8067 * DENSITY), rel=1e-4)
    assert expected.photon_length_cm(9e4) == pytest.approx(9 / 7 * expected.RADIATION_LENGTH_CM, rel=0.015)


@pytest.mark.parametrize("energy", [1000, 4000])
def test_parametrised_shower(energy: float) -> None:
    for shower in expected.showers(energy):
        depth = np.arange(0, 700, 0.5)
        share = shower.within_depth(depth)
        assert share[0] == 0
        assert share[-1] == pytest.approx(1, abs=1e-5)
        highest = depth[np.diff(share).argmax()] / expected.RADIATION_LENGTH_CM
        assert highest == pytest.approx(shower.maximum, abs=0.05)
        assert np.average(depth[1:], weights=np.diff(share)) / expected.RADIATION_LENGTH_CM == pytest.approx(
            shower.alpha / (shower.alpha - 1) * shower.maximum, rel=0.01
        )
        radial = shower.within_radius(np.array([0.0, 1, 9, 30, 1e4]))
        assert (np.diff(radial) > 0).all()
        assert radial[[0, -1]] == pytest.approx([0, 1], abs=1e-4)
    # hep-ex/0001020 with y = 4000 / 32.84
    assert expected.Shower(4000, 32.84).maximum == pytest.approx(np.log(4000 / 32.84) - 0.858)
    pdg, gflash = expected.showers(4000)
    assert (pdg.critical_mev, gflash.critical_mev) == pytest.approx((32.84, 29.13), abs=0.01)


def test_fast_protons_interact_after_eighty_centimetres() -> None:
    # PDG: 85.7 cm in the limit of high energy
    assert 0.85 < expected.proton_interaction_length_cm(8000) / 85.7 < 1
    assert expected.proton_interaction_length_cm(100) > expected.proton_interaction_length_cm(2000)


def test_density_effect_is_continuous_and_ends_in_the_limit() -> None:
    for medium in (LIQUID, GAS):
        x = np.linspace(0, 6, 601)
        delta = medium.delta(10 ** (2 * x))
        assert delta[0] == 0
        assert abs(np.diff(delta)).max() < 0.06
        assert delta[-1] == pytest.approx(2 * np.log(10) * 6 - medium.cbar)


def test_michel_electrons() -> None:
    assert expected.michel_end_point_mev() == pytest.approx(52.83, abs=0.005)
