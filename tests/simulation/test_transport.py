"""Particles in liquid argon, against what is known of them."""

import numpy as np
import pytest

from nuvlm.detector.geometry import Detector
from nuvlm.simulation import expected as reference
from nuvlm.simulation import native_actions
from nuvlm.simulation.final_states import MASS_MEV, Particle
from nuvlm.simulation.native_actions import STEP_DTYPE
from nuvlm.simulation.recorder import PlainRecorder, Recorder
from nuvlm.simulation.toolkit import g4
from nuvlm.simulation.transport import ArgonBox, Deposits, argon_box

VERTEX = np.array([100.0, -50.0, 500.0])


@pytest.fixture(scope="module")
def box() -> ArgonBox:
    return argon_box(Detector())


def beam_particle(pdg: int, kinetic_mev: float) -> Particle:
    mass = MASS_MEV[pdg]
    return Particle.of(pdg, np.array([0, 0, np.sqrt(kinetic_mev * (kinetic_mev + 2 * mass))]))


def shoot(box: ArgonBox, *particles: Particle, seed: int = 1, vertex: np.ndarray = VERTEX) -> Deposits:
    return box.transport(vertex, particles, np.random.default_rng(seed))


def test_electron_deposits_its_energy_and_no_more(box: ArgonBox) -> None:
    for seed in range(10):
        assert shoot(box, beam_particle(11, 300), seed=seed).energy_mev.sum() == pytest.approx(300, abs=15)
        assert shoot(box, beam_particle(11, 300), seed=seed).energy_mev.sum() <= 300 + 1e-6


def test_deposits_start_at_the_vertex(box: ArgonBox) -> None:
    deposits = shoot(box, beam_particle(13, 200))
    np.testing.assert_allclose(deposits.start_mm[0], VERTEX, atol=1e-9)
    along = np.average(deposits.end_mm[:, 2], weights=deposits.energy_mev) - VERTEX[2]
    assert 300 < along < 600  # the middle of a track of some 80 cm


def test_muon_loses_what_bethe_says(box: ArgonBox) -> None:
    # PDG: minimum 2.105 MeV/cm; some 7 % more towards 1 GeV, of which hard electrons carry a little away.
    losses = []
    for seed in range(30):
        deposits = shoot(box, beam_particle(13, 1000), seed=seed)
        losses.append(deposits.energy_mev[deposits.end_mm[:, 2] < VERTEX[2] + 1000].sum() / 100)
    assert np.mean(losses) == pytest.approx(2.2, abs=0.1)


def test_photon_converts_after_the_length_of_xcom(box: ArgonBox) -> None:
    gaps = [shoot(box, beam_particle(22, 1000), seed=seed).length_mm[0] for seed in range(200)]
    # 191 mm, with a standard error of 13 mm
    assert np.mean(gaps) == pytest.approx(10 * reference.photon_length_cm(1000), abs=40)


def test_electron_shower_has_the_depth_and_width_of_argon(box: ArgonBox) -> None:
    depths, widths = [], []
    for seed in range(20):
        deposits = shoot(box, beam_particle(11, 1000), seed=seed)
        middle = (deposits.start_mm + deposits.end_mm) / 2 - VERTEX
        depths.append(np.average(middle[:, 2], weights=deposits.energy_mev))
        radius = np.hypot(middle[:, 0], middle[:, 1])
        order = np.argsort(radius)
        widths.append(radius[order][np.searchsorted(np.cumsum(deposits.energy_mev[order]), 900)])
    parametrised, _ = reference.showers(1000)
    mean = parametrised.maximum * parametrised.alpha / (parametrised.alpha - 1) * reference.RADIATION_LENGTH_CM * 10
    assert np.mean(depths) == pytest.approx(mean, abs=80)  # the standard error is 27 mm
    assert np.mean(widths) == pytest.approx(110, abs=35)  # the Moliere radius is 90 mm


@pytest.mark.slow
def test_neutron_interacts_as_often_as_a_proton(box: ArgonBox) -> None:
    """The neutron tables end at 20 MeV, and what they say there scales the cross-section at any higher energy."""
    reach = {}
    for pdg in (2112, 2212):
        particle = beam_particle(pdg, 3000)
        reach[pdg] = np.mean([shoot(box, particle, seed=seed).length_mm[0] for seed in range(80)])
    assert reach[2112] == pytest.approx(reach[2212], rel=0.3)


def test_energy_and_path_are_booked_on_the_particle_they_come_from(box: ArgonBox) -> None:
    particles = (beam_particle(13, 300), beam_particle(111, 500), beam_particle(2212, 100))
    deposits = shoot(box, *particles)
    energy = np.bincount(deposits.particle, weights=deposits.energy_mev, minlength=3)
    # The muon decays: up to 53 MeV more or 105 MeV of mass shared with neutrinos. A pi0 gives all its energy.
    assert 300 < energy[0] < 300 + 53 + 1
    assert energy[1] == pytest.approx(500 + MASS_MEV[111], abs=40)
    assert energy[2] <= 100 + 1
    assert 900 < deposits.length_mm[0] < 1300
    assert deposits.length_mm[1] < 0.01
    assert not deposits.leaves.any()


def test_particle_that_leaves_is_marked_and_its_path_ends_at_the_wall(box: ArgonBox) -> None:
    vertex = np.array([0.0, 0.0, 6800.0])
    deposits = shoot(box, beam_particle(13, 1000), vertex=vertex)
    assert deposits.leaves.tolist() == [True]
    assert deposits.length_mm[0] == pytest.approx(200, abs=2)
    assert deposits.end_mm[:, 2].max() <= 7000 + 1e-6


def test_neutral_particles_deposit_where_they_interact(box: ArgonBox) -> None:
    """A photon of 10 keV is absorbed on the spot: nothing may be smeared along its way."""
    for seed in range(20):
        deposits = shoot(box, beam_particle(22, 0.05), seed=seed)
        length = np.linalg.norm(deposits.end_mm - deposits.start_mm, axis=1)
        assert deposits.energy_mev.sum() == pytest.approx(0.05, rel=1e-6)
        assert length.max() < 0.1


def test_result_depends_on_the_stream_alone(box: ArgonBox) -> None:
    pion = beam_particle(211, 1000)
    first = shoot(box, pion, seed=5)
    shoot(box, beam_particle(11, 500), seed=6)
    again = shoot(box, pion, seed=5)
    for name, values in first._asdict().items():
        np.testing.assert_array_equal(values, getattr(again, name))
    assert shoot(box, pion, seed=7).energy_mev.sum() != first.energy_mev.sum()


def test_a_second_detector_is_refused(box: ArgonBox) -> None:
    with pytest.raises(RuntimeError, match="can have only one"):
        argon_box(Detector(z_mm=(0, 5000)))


def test_gap_of_a_photon_is_where_it_first_interacts(box: ArgonBox) -> None:
    """A photon of 1 GeV makes a pair at once or flies on: its path ends where it converts."""
    for seed in range(50):
        photon = shoot(box, beam_particle(22, 1000), seed=seed)
        assert photon.photon_gap_mm[0] == pytest.approx(photon.length_mm[0])


@pytest.mark.slow
def test_gap_of_a_neutral_pion_is_that_of_the_nearer_photon(box: ArgonBox) -> None:
    """Each of two photons flies 19-20 cm on average at some 500 MeV: the nearer one half as far."""
    gaps = np.array([shoot(box, beam_particle(111, 1000), seed=seed).photon_gap_mm[0] for seed in range(300)])
    assert gaps.mean() == pytest.approx(100, abs=18)  # the standard error is 6 mm
    # Exponential, as nothing else is: the median lies at ln 2 of the mean, the standard deviation at the mean.
    assert np.median(gaps) / gaps.mean() == pytest.approx(np.log(2), abs=0.15)
    assert gaps.std() / gaps.mean() == pytest.approx(1, abs=0.2)


def test_a_particle_without_photons_has_no_gap(box: ArgonBox) -> None:
    gaps = shoot(box, beam_particle(2212, 20), beam_particle(11, 2000), beam_particle(22, 300)).photon_gap_mm
    assert np.isfinite(gaps).tolist() == [False, False, True]


def test_neutrinos_are_not_followed(box: ArgonBox) -> None:
    neutrino = Particle(14, 0, 0, 1000, 1000)
    alone = shoot(box, beam_particle(13, 200), seed=3)
    both = shoot(box, neutrino, beam_particle(13, 200), seed=3)
    np.testing.assert_array_equal(alone.energy_mev, both.energy_mev)
    assert (both.particle == 1).all()
    assert both.length_mm[0] == 0
    assert not both.leaves[0]
    assert not len(shoot(box, neutrino).energy_mev)


@pytest.mark.parametrize(("pdg", "known"), [(321, True), (3122, True), (221, True), (-2212, True), (15, True)])
def test_particles_of_generators_are_followed(box: ArgonBox, pdg: int, known: bool) -> None:
    assert box.knows(pdg) == known
    mass = {321: 493.7, 3122: 1115.7, 221: 547.9, -2212: 938.3, 15: 1776.9}[pdg]
    deposits = shoot(box, Particle(pdg, 0, 0, 300, float(np.hypot(300, mass))))
    assert deposits.energy_mev.sum() > 50


@pytest.mark.parametrize(
    ("pdg", "mass"),
    [(1000010020, 1875.613), (1000010030, 2808.921), (1000020030, 2808.391), (1000020040, 3727.379)],
)
def test_light_nuclei_are_followed_until_they_stop(box: ArgonBox, pdg: int, mass: float) -> None:
    assert box.knows(pdg)
    deposits = shoot(box, Particle(pdg, 0, 0, float(np.sqrt(100.0**2 + 2 * 100 * mass)), mass + 100))
    assert deposits.energy_mev.sum() == pytest.approx(100, rel=1e-3)
    assert 5 < deposits.length_mm[0] < 60


@pytest.mark.parametrize("pdg", [1000180400, 1000060120, 2000000101])
def test_heavy_nuclei_and_pseudo_particles_are_not(box: ArgonBox, pdg: int) -> None:
    assert not box.knows(pdg)


def test_steps_of_compiled_functions_are_those_that_geant4_tells(box: ArgonBox) -> None:
    particles = (beam_particle(13, 500), beam_particle(111, 500), beam_particle(2112, 300), beam_particle(-211, 200))
    found = {}
    for recorder in (PlainRecorder(), Recorder()):
        box.record_with(recorder)
        for seed in range(5):
            shoot(box, *particles, seed=seed)
            found[type(recorder), seed] = recorder.end()
    box.record_with(Recorder())
    for seed in range(5):
        plain, native = found[PlainRecorder, seed], found[Recorder, seed]
        assert len(plain.steps) > 100
        np.testing.assert_array_equal(plain.tracks, native.tracks)
        for name in STEP_DTYPE.names or ():
            np.testing.assert_array_equal(plain.steps[name], native.steps[name], err_msg=name)


def test_python_is_called_for_the_first_event_only(box: ArgonBox, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    plain = PlainRecorder.UserSteppingAction
    monkeypatch.setattr(
        PlainRecorder, "UserSteppingAction", lambda self, step: (calls.append(step), plain(self, step))[1]
    )
    recorder = Recorder()
    box.record_with(recorder)
    shoot(box, beam_particle(11, 100))
    assert len(calls) == len(recorder.end().steps) > 10
    shoot(box, beam_particle(11, 100))
    assert len(calls) == len(recorder.end().steps)
    box.record_with(Recorder())


def test_an_event_larger_than_the_buffers_is_simulated_again(box: ArgonBox) -> None:
    recorder = Recorder()
    box.record_with(recorder)
    expected = shoot(box, beam_particle(11, 200), seed=4)
    assert recorder._native is not None
    for steps, tracks in ((7, 1000), (1000, 3)):
        recorder._native._reserve(steps, tracks)
        for name, values in expected._asdict().items():
            np.testing.assert_array_equal(values, getattr(shoot(box, beam_particle(11, 200), seed=4), name))
    box.record_with(Recorder())


def test_an_unknown_layout_is_noticed_and_read_slowly(
    box: ArgonBox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = shoot(box, beam_particle(11, 200), seed=4)
    address = native_actions._address
    monkeypatch.setattr(
        native_actions, "_address", lambda wrapper: address(wrapper) + 8 * isinstance(wrapper, g4.G4StepPoint)
    )
    box.record_with(Recorder())
    with caplog.at_level("WARNING"):
        slow = shoot(box, beam_particle(13, 200), seed=4)
        slow = shoot(box, beam_particle(11, 200), seed=4)
    box.record_with(Recorder())
    assert caplog.text.count("unexpected memory layout") == 1
    for name, values in expected._asdict().items():
        np.testing.assert_array_equal(values, getattr(slow, name))
