"""Simulated shards: reproducible however they are cut, and true to their truth."""

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from nuvlm.base.errors import InputError
from nuvlm.base.stores import open_store
from nuvlm.dataset.event_table import read_events
from nuvlm.dataset.list_events import list_events
from nuvlm.detector.crop import crop_displays
from nuvlm.detector.displays import smear_and_downsample
from nuvlm.detector.geometry import Detector, Diffusion, fiducial_box_mm
from nuvlm.detector.readout import Recombination
from nuvlm.detector.visible_energy import COSMIC_DTYPE, cosmic_energy
from nuvlm.detector.voxels import Event, open_shard, write_shard
from nuvlm.simulation.cosmics import Cosmics
from nuvlm.simulation.events import NO_RECOMBINATION, sampled, simulate, simulate_shard
from nuvlm.sources.voxel_shards import check_voxel_shard
from nuvlm.workflow.config import check_space_charge, parse_config, read_overlays
from nuvlm.workflow.space_charge_map import main as make_map
from paths import REPOSITORY

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


@pytest.fixture(scope="module")
def with_muons() -> list[Event]:
    """Events of the fixture `events`, with eight times the cosmic rays of sea level."""
    cosmics = Cosmics(rate_hz_m2=1000, drift_velocity_mm_us=1.6)
    return list(simulate(DETECTOR, sampled(range(100, 106), 7, EVERYWHERE), cosmics=cosmics))


def test_cosmic_muons_are_added_and_leave_the_neutrino_as_it_is(events: list[Event], with_muons: list[Event]) -> None:
    muons = 0
    for alone, event in zip(events, with_muons, strict=False):
        for name in ("event_id", "nu_pdg", "is_cc", "nu_energy", "inelasticity", "vertex_mm", "mode"):
            assert getattr(alone, name) == getattr(event, name)
        for name in ("particles", "deposits"):
            assert alone.truth[name].tobytes() == event.truth[name].tobytes()
        table = event.truth.get("cosmics", np.zeros(0, COSMIC_DTYPE))
        muons += len(table)
        assert (table["event_id"] == event.event_id).all()
        assert set(table["pdg"].tolist()) <= {13, -13}
        assert (table["edge_mev"] <= table["visible_mev"]).all()
        total = alone.voxels.energy.sum(dtype=float) + table["visible_mev"].sum()
        assert event.voxels.energy.sum(dtype=float) == pytest.approx(total, rel=1e-6)
        # The picture holds both.
        shape = DETECTOR.shape
        keys, alone_keys = (
            np.ravel_multi_index((e.voxels.x.astype(int), e.voxels.y, e.voxels.z), shape) for e in (event, alone)
        )
        at = np.searchsorted(keys, alone_keys)
        np.testing.assert_array_equal(keys[at], alone_keys)
        assert (event.voxels.energy[at] >= alone.voxels.energy * (1 - 1e-6)).all()
        assert (len(keys) > len(alone_keys)) == bool(table["visible_mev"].sum() > 0)
    assert muons > 20


def test_muons_cross_with_the_energy_loss_of_muons(with_muons: list[Event]) -> None:
    table = np.concatenate([event.truth["cosmics"] for event in with_muons if "cosmics" in event.truth])
    low, high = np.array(DETECTOR.box_mm).T
    direction = table["momentum_mev"] / np.linalg.norm(table["momentum_mev"], axis=1)[:, None]
    with np.errstate(divide="ignore"):
        ways = np.where(direction > 0, high - table["entry_mm"], low - table["entry_mm"]) / direction
    length_cm = ways.min(axis=1) / 10
    # Half of the charge of a picture's muons arrives in time; fast muons lose 2.1 to 3 MeV/cm, showers of them more.
    through = table["kinetic_mev"] > 3 * 2.5 * length_cm
    loss = table["visible_mev"][through].sum() / length_cm[through].sum()
    assert 0.3 * 2.3 < loss < 0.8 * 2.6


def test_muons_of_an_event_do_not_depend_on_others(with_muons: list[Event]) -> None:
    cosmics = Cosmics(rate_hz_m2=1000, drift_velocity_mm_us=1.6)
    (again,) = simulate(DETECTOR, sampled(range(103, 104), 7, EVERYWHERE), cosmics=cosmics)
    assert_same(again, with_muons[3])


def test_without_muons_nothing_changes(events: list[Event]) -> None:
    rare = Cosmics(rate_hz_m2=1e-9, drift_velocity_mm_us=1.6)
    (event,) = simulate(DETECTOR, sampled(range(100, 101), 7, EVERYWHERE), cosmics=rare)
    assert_same(event, events[0])
    assert "cosmics" not in event.truth


def test_energy_of_muons_is_kept_apart(with_muons: list[Event], tmp_path: Path) -> None:
    """Visible energy is the neutrino's in displays; the table of events has that of the muons in its own column."""
    shard, displays, maps, listed = (tmp_path / name for name in ("a.h5", "d.zarr", "p.zarr", "events.parquet"))
    write_shard(shard, DETECTOR, with_muons)
    smear_and_downsample(shard, displays, detector=DETECTOR, diffusion=Diffusion(), pixel_mm=50)
    store = open_store(displays, "nuvlm-displays")
    visible, edge = store["visible_energy"][:], store["edge_energy"][:]
    muons = np.zeros(len(with_muons))
    for row, event in enumerate(with_muons):
        deposited = event.truth["deposits"]["energy_mev"].sum()
        muons[row] = event.truth["cosmics"]["visible_mev"].sum() if "cosmics" in event.truth else 0
        assert visible[row] == pytest.approx(deposited, rel=1e-3)
        assert 0 <= edge[row] <= visible[row] * (1 + 1e-6)
        assert store["xz"][row].sum() == pytest.approx(deposited + muons[row], rel=0.02)
    crop_displays(displays, maps, size=56, centre="vertex", transfer="log", white_mev=200, knee_mev=1)
    split = {"validation": 0.0, "test": 0.0, "seed": 7, "parts": 1, "train": False}
    list_events({"a": shard}, {"a": maps}, listed, detector=DETECTOR, **split)
    table = read_events(listed)
    np.testing.assert_allclose(table["cosmic_energy"], muons)
    np.testing.assert_allclose(table["visible_energy"], visible)

    # Used as a shard of another program, it is not suspected for the charge of the muons.
    concluded = check_voxel_shard(shard, DETECTOR).to_json()
    assert f"in {(muons > 0).sum()} of 6 events" in concluded
    assert "deposit more than their energy" not in concluded

    with h5py.File(shard, "r+") as file:
        rows = file["truth/cosmics"]
        for wrong in ({"event_id": 99}, {"visible_mev": np.nan}, {"edge_mev": -1.0}):
            kept = rows[0]
            changed = kept.copy()
            for name, value in wrong.items():
                changed[name] = value
            rows[0] = changed
            file.flush()
            with open_shard(shard, DETECTOR) as opened, pytest.raises(InputError, match="in /truth/cosmics"):
                cosmic_energy(opened)
            rows[0] = kept


def test_the_realistic_detector_from_its_overlay_to_the_displays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overlays = [REPOSITORY / "config" / name for name in ("config.yaml", "realistic.yaml")]
    path = tmp_path / "map.h5"
    assert make_map([str(path), "--maximum-mm", "10", *map(str, overlays)]) == 0
    assert "at most 10 mm along x" in capsys.readouterr().out
    values = read_overlays(overlays)
    values["display"]["readout"]["space_charge"]["map"] = str(path)
    config = parse_config(values)
    check_space_charge([config])
    assert config.cosmics is not None
    shard, displays = tmp_path / "a.h5", tmp_path / "d.zarr"
    simulate_shard(
        shard, config.detector, first_event=0, n_events=4, seed=7, margin_mm=500, margin_downstream_mm=1500,
        recombination=config.input.recombination, cosmics=Cosmics(**config.cosmics),
    )  # fmt: skip
    display = config.display
    smear_and_downsample(
        shard, displays, detector=config.detector, diffusion=display.diffusion, pixel_mm=50, readout=display.readout
    )
    store = open_store(displays, "nuvlm-displays")
    with open_shard(shard, config.detector) as opened:
        cosmic = cosmic_energy(opened)[:, 0]
    # Of the charge, capture takes up to 8 %, dead channels 8 %, and the threshold some.
    seen = store["xz"][:].sum(axis=(1, 2)) / (store["visible_energy"][:] + cosmic)
    assert ((seen > 0.75) & (seen < 0.95)).all()
    assert store.attrs["readout"]["space_charge"]["map"] == str(path)


def test_a_map_that_is_too_large_for_the_detector_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "map.h5"
    assert make_map([str(path), "--maximum-mm", "500", str(REPOSITORY / "config/config.yaml")]) == 1
    assert "more than the longest drift, 300 mm" in capsys.readouterr().err
    assert not path.exists()
