"""Simulated shards: reproducible however they are cut, and true to their truth."""

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from nuvlm.detector.geometry import Detector, fiducial_box_mm
from nuvlm.detector.readout import Recombination
from nuvlm.detector.voxels import Event, open_shard
from nuvlm.simulation.events import NO_RECOMBINATION, sampled, simulate, simulate_shard

DETECTOR = Detector()
EVERYWHERE = fiducial_box_mm(DETECTOR, 0, 0)


def simulated(event_ids: range, seed: int, recombination: Recombination = NO_RECOMBINATION) -> list[Event]:
    return list(simulate(DETECTOR, sampled(event_ids, seed, EVERYWHERE), recombination))


@pytest.fixture(scope="module")
def events() -> list[Event]:
    return simulated(range(100, 160), seed=7)


def assert_same(first: Event, second: Event) -> None:
    for name in ("x", "y", "z", "energy"):
        np.testing.assert_array_equal(getattr(first.voxels, name), getattr(second.voxels, name))
    for name in ("event_id", "nu_pdg", "is_cc", "nu_energy", "inelasticity", "vertex_mm", "mode"):
        assert getattr(first, name) == getattr(second, name)
    for name, table in first.truth.items():
        assert table.tobytes() == second.truth[name].tobytes()


def test_events_are_the_same_however_they_are_cut(events: list[Event]) -> None:
    for first, second in zip(events[3:6], simulated(range(103, 106), seed=7), strict=True):
        assert_same(first, second)


def test_chosen_events_are_those_of_the_whole_shard(tmp_path: Path, events: list[Event]) -> None:
    """With recombination that is off they are the same to the last bit, as random numbers are drawn for each event."""
    path = tmp_path / "chosen.h5"
    simulate_shard(path, DETECTOR, first_event=100, n_events=8, seed=7, only=[101, 107])
    with open_shard(path, DETECTOR) as shard:
        assert shard.events["event_id"].tolist() == [101, 107]
        (_, voxels, begins), *_ = shard.blocks()
    for k, event in enumerate((events[1], events[7])):
        for name in ("x", "y", "z", "energy"):
            np.testing.assert_array_equal(getattr(voxels, name)[begins[k] : begins[k + 1]], getattr(event.voxels, name))


def test_shard_is_the_same_from_another_process(tmp_path: Path) -> None:
    """No state of the process may leak in: hash seeds, what GEANT4 did before, the order of jobs."""
    simulate_shard(tmp_path / "here.h5", DETECTOR, first_event=3, n_events=3, seed=7)
    script = (
        "import sys; from nuvlm.detector.geometry import Detector; from nuvlm.simulation.events import simulate_shard;"
        "simulate_shard(sys.argv[1], Detector(), first_event=0, n_events=6, seed=7)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "there.h5")], check=True, timeout=120)
    with h5py.File(tmp_path / "here.h5") as here, h5py.File(tmp_path / "there.h5") as there:
        rows = there["events"][3:6]
        assert rows["event_id"].tolist() == here["events"]["event_id"].tolist() == [3, 4, 5]
        first, n = int(rows["first_voxel"][0]), int(rows["n_voxels"].sum())
        for name in ("x", "y", "z", "energy"):
            assert there[f"voxels/{name}"][first : first + n].tobytes() == here[f"voxels/{name}"][:].tobytes()
        for table in ("particles", "deposits"):
            truth = there[f"truth/{table}"][:]
            assert truth[np.isin(truth["event_id"], [3, 4, 5])].tobytes() == here[f"truth/{table}"][:].tobytes()


def test_seed_matters(events: list[Event]) -> None:
    (other,) = simulated(range(100, 101), seed=8)
    assert other.nu_energy != events[0].nu_energy


def test_truth_fits_the_voxels(events: list[Event]) -> None:
    for event in events:
        particles, deposits = event.truth["particles"], event.truth["deposits"]
        assert set(particles["event_id"]) == set(deposits["event_id"]) == {event.event_id}
        assert particles["pdg"].tolist() == deposits["pdg"].tolist()
        assert (event.nu_pdg - 1 in particles["pdg"]) == event.is_cc
        assert event.voxels.energy.sum() == pytest.approx(deposits["energy_mev"].sum(), rel=1e-3)
        assert event.voxels.energy.sum() < 1e3 * event.nu_energy + 200


def test_charged_currents_begin_at_their_vertex(events: list[Event]) -> None:
    size, origin = np.array(DETECTOR.voxel_mm), np.array(DETECTOR.origin_mm)
    for event in (event for event in events if event.is_cc):
        voxel = np.floor((np.array(event.vertex_mm) - origin) / size)
        index = np.stack([event.voxels.x, event.voxels.y, event.voxels.z], axis=1)
        assert (index == voxel).all(axis=1).any()


def test_vertices_fill_the_active_volume(events: list[Event]) -> None:
    vertices = np.array([event.vertex_mm for event in events])
    low, high = np.array(DETECTOR.box_mm).T
    assert ((vertices > low) & (vertices < high)).all()
    assert (np.ptp(vertices, axis=0) > 0.8 * (high - low)).all()


def test_muons_run_far_and_out_and_electrons_shower_near(events: list[Event]) -> None:
    deposits = np.concatenate([event.truth["deposits"] for event in events])
    muons, electrons = (deposits[deposits["pdg"] == pdg] for pdg in (13, 11))
    assert np.median(muons["length_mm"]) > 2 * np.median(electrons["length_mm"])
    assert muons["leaves"].mean() > 0.6
    assert electrons["energy_mev"].mean() > 2 * muons["energy_mev"].mean()


def test_empty_events_are_drawn_again() -> None:
    """In a box of a centimetre many interactions leave nothing."""
    script = (
        "import logging; logging.basicConfig(level=logging.INFO);"
        "from nuvlm.detector.geometry import Detector, fiducial_box_mm;"
        "from nuvlm.simulation.events import NO_RECOMBINATION, sampled, simulate;"
        "box = Detector(x_mm=(-5, 5), y_mm=(-5, 5), z_mm=(0, 10), anodes_mm=(0,), cathodes_mm=());"
        "events = list(simulate(box, sampled(range(60), 7, fiducial_box_mm(box, 0, 0))));"
        "assert len(events) == 60 and all(len(event.voxels) for event in events)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stderr.splitlines() if "drawn again" in line)
    assert int(line.split(":")[-1].split()[0]) > 0


def test_geant4_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    simulated(range(3), seed=7)
    assert capfd.readouterr().out == ""


def test_electromagnetic_energy_is_that_of_electrons_and_neutral_pions(events: list[Event]) -> None:
    deposits = np.concatenate([event.truth["deposits"] for event in events])
    assert (deposits["electromagnetic_mev"] <= deposits["energy_mev"] * (1 + 1e-6)).all()
    share = {
        pdg: deposits["electromagnetic_mev"][deposits["pdg"] == pdg].sum()
        / deposits["energy_mev"][deposits["pdg"] == pdg].sum()
        for pdg in (11, 111, 13, 2212)
    }
    assert share[11] > 0.99
    assert share[111] > 0.9
    assert share[13] < 0.3
    assert share[2212] < 0.5


def test_recombination_changes_voxels_alone(events: list[Event]) -> None:
    """The same steps, dense ones weakened: no other voxels, and the same truth."""
    weaker = simulated(range(100, 110), 7, Recombination(model="modified_box"))
    for before, after in zip(events[:10], weaker, strict=True):
        for name in ("x", "y", "z"):
            np.testing.assert_array_equal(getattr(before.voxels, name), getattr(after.voxels, name))
        assert before.truth["deposits"].tobytes() == after.truth["deposits"].tobytes()
        assert 0.3 < after.voxels.energy.sum() / before.voxels.energy.sum() < 1
