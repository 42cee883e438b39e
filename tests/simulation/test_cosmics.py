"""Cosmic muons: intensity, rate and angles as measured, and charge where it would be reconstructed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from nuvlm.detector.geometry import Detector, drift_cells
from nuvlm.simulation.cosmics import ENERGY_GEV, CosmicMuons, Cosmics, intensity

SEA_LEVEL = Cosmics(rate_hz_m2=125, drift_velocity_mm_us=1.6)
SLAB = Detector(x_mm=(-2000, 2000), y_mm=(-5, 5), z_mm=(-2000, 2000), anodes_mm=(0,), cathodes_mm=())


def integral(low_gev: float, cos_zenith: np.ndarray, high_gev: float = ENERGY_GEV[1]) -> np.ndarray:
    """Muons above an energy per m2, s and sr."""
    log = np.linspace(np.log(low_gev), np.log(high_gev), 2001)
    energy = np.exp(log)[:, None]
    return integrate.simpson(intensity(energy, np.atleast_1d(cos_zenith)) * energy, x=log, axis=0)


def test_the_vertical_intensity_is_that_of_the_particle_data_group():
    """PDG: 70 per m2, s and sr above 1 GeV/c; recent measurements favour values 10 to 15 % lower."""
    assert 0.83 * 70 < integral(np.hypot(1, 0.1057), np.array([1.0]))[0] < 0.92 * 70


def test_the_zenith_angles_are_those_of_the_particle_data_group():
    """PDG: about cos2 at 3 GeV, flatter at higher energies and up to 70 degrees 1 / cos far above 115 GeV."""
    cosines = np.cos(np.radians([0, 30, 60]))
    at_3_gev = intensity(np.array(3.0), cosines)
    np.testing.assert_allclose(at_3_gev / at_3_gev[0], cosines**2, rtol=0.25)
    fast = intensity(np.array(1e5), cosines)
    np.testing.assert_allclose(fast / fast[0], 1 / cosines, rtol=0.05)


def test_the_rate_is_about_one_a_minute_and_square_centimetre():
    """PDG's round number for horizontal detectors; the formula gives 0.75, as its vertical intensity is lower, too."""
    cosines = np.linspace(0, 1, 501)
    horizontal = 2 * np.pi * integrate.simpson(integral(ENERGY_GEV[0], cosines) * cosines, x=cosines)
    assert horizontal == pytest.approx(SEA_LEVEL.rate_hz_m2, rel=0.01), "what the documentation gives for sea level"
    assert 0.7 < horizontal * 60 / 1e4 < 1.1


def test_a_thin_horizontal_box_sees_the_rate_that_is_asked_for():
    muons = CosmicMuons(SLAB, SEA_LEVEL)
    assert muons.window_us == 2000 / 1.6
    rate = muons.expected / (2 * muons.window_us * 1e-6) / 16
    assert rate == pytest.approx(125, rel=0.01)  # through the edges come 0.4 % more
    doubled = CosmicMuons(SLAB, Cosmics(rate_hz_m2=250, drift_velocity_mm_us=1.6))
    assert doubled.expected == pytest.approx(2 * muons.expected)
    rng = np.random.default_rng(3)
    counts = [len(muons.draw(rng)) for _ in range(400)]
    assert np.mean(counts) == pytest.approx(muons.expected, abs=5 * np.sqrt(muons.expected / 400))


def test_sampled_energies_angles_and_times_follow_the_formula():
    muons = CosmicMuons(SLAB, SEA_LEVEL)
    rng = np.random.default_rng(5)
    drawn = [muon for _ in range(1500) for muon in muons.draw(rng)]
    assert len(drawn) > 5000
    momenta = np.array([[m.particle.px, m.particle.py, m.particle.pz] for m in drawn])
    cosine = -momenta[:, 1] / np.linalg.norm(momenta, axis=1)
    energy = np.array([m.particle.energy for m in drawn]) / 1000
    assert (cosine > 0).all(), "from above"
    grid = np.linspace(0, 1, 801)
    seen = integral(ENERGY_GEV[0], grid) * grid
    known = integrate.cumulative_simpson(seen, x=grid, initial=0)
    assert stats.kstest(cosine, lambda c: np.interp(c, grid, known / known[-1])).pvalue > 1e-3
    log = np.linspace(*np.log(ENERGY_GEV), 801)
    by_energy = intensity(np.exp(log)[:, None], grid) * np.exp(log)[:, None] * grid
    known = integrate.cumulative_simpson(integrate.simpson(by_energy, x=grid, axis=1), x=log, initial=0)
    assert stats.kstest(np.log(energy), lambda e: np.interp(e, log, known / known[-1])).pvalue > 1e-3
    azimuth = np.arctan2(momenta[:, 2], momenta[:, 0])
    assert stats.kstest(azimuth, stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > 1e-3
    times = np.array([m.time_us for m in drawn]) / muons.window_us
    assert stats.kstest(times, stats.uniform(-1, 2).cdf).pvalue > 1e-3
    positive = np.mean([m.particle.pdg == -13 for m in drawn])
    assert positive == pytest.approx(1.268 / 2.268, abs=5 * 0.5 / np.sqrt(len(drawn)))
    for muon in drawn[:100]:
        momentum = np.array([muon.particle.px, muon.particle.py, muon.particle.pz])
        assert muon.particle.energy**2 - momentum @ momentum == pytest.approx(105.658**2, rel=1e-3)


@pytest.mark.parametrize("plane", [-900.0, 0.0, 900.0])
def test_every_plane_in_the_detector_is_lit_evenly(plane: float):
    """What enters through the sides belongs to it: a plane inside sees the rate of an open field, at all its parts."""
    detector = Detector()
    muons = CosmicMuons(detector, SEA_LEVEL)
    rng = np.random.default_rng(7)
    repeats = 8000
    crossings = []
    for _ in range(repeats):
        for muon in muons.draw(rng):
            particle = muon.particle
            way = (plane - muon.entry_mm[1]) / particle.py
            if way > 0:
                crossings.append((muon.entry_mm[0] + way * particle.px, muon.entry_mm[2] + way * particle.pz))
    x, z = np.array(crossings).T
    inside = (np.abs(x) < 1000) & (z > 0) & (z < 7000)
    expected = 125 * 14 * 2 * muons.window_us * 1e-6 * repeats
    assert inside.sum() == pytest.approx(expected, abs=4 * np.sqrt(expected) + 0.01 * expected)
    counts, *_ = np.histogram2d(x[inside], z[inside], bins=(2, 7))
    assert stats.chisquare(counts.ravel()).pvalue > 1e-3


def test_entries_lie_on_the_walls_and_lead_inside():
    detector = Detector()
    muons = CosmicMuons(detector, SEA_LEVEL)
    rng = np.random.default_rng(9)
    low, high = np.array(detector.box_mm).T
    for muon in (muon for _ in range(300) for muon in muons.draw(rng)):
        direction = np.array([muon.particle.px, muon.particle.py, muon.particle.pz])
        at_low, at_high = muon.entry_mm - low < 0.01, high - muon.entry_mm < 0.01
        assert ((at_low & (direction > 0)) | (at_high & (direction < 0))).any()
        assert ((muon.entry_mm > low) & (muon.entry_mm < high)).all()


def test_charge_appears_later_by_the_time_of_the_muon():
    """The published detector: anodes at -900, -300, 300, 900 mm, cathodes at -600, 0, 600 mm; 1.6 mm/us."""
    muons = CosmicMuons(Detector(), SEA_LEVEL)
    assert muons.window_us == pytest.approx(300 / 1.6)
    true = np.array([-800.0, -500.0, 100.0, 350.0, 950.0])
    points = np.column_stack([true, np.zeros(5), np.full(5, 100.0)])

    def seen(time_us: float) -> list[float | None]:
        start, end, recorded = muons.reconstruct(points, points + np.array([0, 3, 0]), time_us)
        np.testing.assert_array_equal(end - start, np.full((5, 3), [0.0, 3, 0]))
        np.testing.assert_array_equal(start[:, 1:], points[:, 1:])
        return [round(x, 6) if kept else None for x, kept in zip(start[:, 0].tolist(), recorded, strict=True)]

    assert seen(0) == true.tolist()
    # 50 mm farther from the anodes at -900, -300, 300, 300, 900
    assert seen(31.25) == [-750, -550, 50, 400, 1000]
    # 160 mm: past the cathode, from 100 to -60 mm, and past the wall behind the outer anode
    assert seen(100) == [-640, None, None, 510, None]
    # 80 mm closer: past the anode from 350 and 950 mm
    assert seen(-50) == [-880, -420, 180, None, None]


@given(time=st.floats(-400, 400), axis=st.sampled_from("xyz"), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_recorded_charge_stays_in_its_drift_volume(time, axis, seed):
    planes = {"anodes_mm": (-200, 150), "cathodes_mm": (-50, 300)}
    box = {"x_mm": (-300, 300), "y_mm": (-300, 300), "z_mm": (-300, 300)}
    detector = Detector(drift_axis=axis, voxel_mm=(1, 1, 1), **box, **planes)
    muons = CosmicMuons(detector, SEA_LEVEL)
    points = np.random.default_rng(seed).uniform(-300, 300, (200, 3))
    start, _, recorded = muons.reconstruct(points, points, time)
    for before, after, kept in zip(points[:, detector.drift], start[:, detector.drift], recorded, strict=True):
        (cell,) = (cell for cell in drift_cells(detector) if cell.low <= before < cell.high)
        assert abs(after - cell.anode) == pytest.approx(abs(abs(before - cell.anode) + 1.6 * time)) or not kept
        assert kept == (cell.low <= after <= cell.high)
