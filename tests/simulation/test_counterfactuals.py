"""Counterfactual events: only what is named changes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nuvlm.base.errors import InputError
from nuvlm.base.stores import open_store
from nuvlm.dataset.event_table import read_events
from nuvlm.dataset.list_events import list_events
from nuvlm.dataset.pixelmaps import open_pixel_maps
from nuvlm.dataset.topology import find_topology
from nuvlm.detector.crop import crop_displays
from nuvlm.detector.displays import smear_and_downsample
from nuvlm.detector.geometry import Detector, Diffusion
from nuvlm.detector.voxels import Event, voxelize, write_shard
from nuvlm.simulation import events as simulation
from nuvlm.simulation.cosmics import Cosmics
from nuvlm.simulation.counterfactuals import AS_SIMULATED, GAP_MM, NAMES, Counterfactual, counterfactuals
from nuvlm.simulation.events import IDS, Interaction, simulate
from nuvlm.simulation.final_states import FinalState, Particle
from nuvlm.simulation.transport import argon_box

DETECTOR = Detector()
VERTEX = np.array([100.0, -50.0, 2000.0])
ELECTRON = Particle.of(11, np.array([100.0, -200.0, 800.0]))
MUON = Particle.of(13, np.array([-100.0, 50.0, 600.0]))
PROTON = Particle.of(2212, np.array([200.0, 300.0, 300.0]))
PION_ZERO = Particle.of(111, np.array([-300.0, 100.0, 400.0]))
NEUTRON = Particle.of(2112, np.array([0.0, 0.0, 5.0]))


def made(*particles: Particle, vertex: np.ndarray = VERTEX, seed: int = 3) -> dict[str, Counterfactual]:
    found = counterfactuals(argon_box(DETECTOR), DETECTOR, vertex, particles, np.random.default_rng(seed))
    return {event.kind: event for event in found}


def of(event: Counterfactual, particle: Particle) -> list[bytes]:
    """Everything that GEANT4 says of one particle of an event."""
    i, deposits = event.particles.index(particle), event.deposits
    of_steps = [values[deposits.particle == i] for values in deposits[:3]]
    rows = [deposits.length_mm, deposits.leaves, deposits.photon_gap_mm, deposits.conversion_mm]
    return [values.tobytes() for values in [*of_steps, *(row[i] for row in rows)]]


@pytest.mark.parametrize(("lepton", "name"), [(ELECTRON, "electron"), (MUON, "muon")])
def test_what_is_not_left_out_is_the_same_bit_for_bit(lepton: Particle, name: str) -> None:
    found = made(lepton, PROTON, PION_ZERO)
    whole, without = found[AS_SIMULATED], found[f"without_{name}"]
    assert without.particles == (PROTON, PION_ZERO)
    for particle in without.particles:
        assert of(without, particle) == of(whole, particle)
    # The difference of the two is what a GEANT4 event with the lepton and its seed deposits.
    seed = int(np.random.default_rng(3).integers(2**63, size=3)[0])
    lone = argon_box(DETECTOR).transport(VERTEX, [lepton], np.random.default_rng(seed))
    assert whole.deposits.energy_mev.tobytes() == b"".join(
        values.tobytes() for values in (lone.energy_mev, without.deposits.energy_mev)
    )


def test_a_particle_after_a_gap_has_its_shower_there_and_nothing_else_moves() -> None:
    found = made(ELECTRON, PROTON)
    whole, moved = found[AS_SIMULATED], found["electron_after_gap"]
    assert of(moved, PROTON) == of(whole, PROTON)
    direction = np.array([ELECTRON.px, ELECTRON.py, ELECTRON.pz])
    shift = GAP_MM * direction / np.linalg.norm(direction)
    shower, same = moved.deposits.particle == 0, whole.deposits.particle == 0
    np.testing.assert_allclose(moved.deposits.start_mm[shower], whole.deposits.start_mm[same] + shift, atol=1e-9)
    assert moved.deposits.energy_mev[shower].tobytes() == whole.deposits.energy_mev[same].tobytes()
    assert moved.deposits.photon_gap_mm[0] == pytest.approx(GAP_MM)
    assert np.isnan(whole.deposits.photon_gap_mm[0])


def test_gap_of_photons_is_closed_and_opened() -> None:
    found = made(PROTON, PION_ZERO)
    whole, closed, opened = (found[kind] for kind in (AS_SIMULATED, "photons_at_vertex", "photons_after_gap"))
    gap = whole.deposits.photon_gap_mm[1]
    assert closed.deposits.photon_gap_mm[1] == pytest.approx(0, abs=1e-6)
    assert opened.deposits.photon_gap_mm[1] == pytest.approx(gap + GAP_MM, abs=1e-6)
    assert of(closed, PROTON) == of(opened, PROTON) == of(whole, PROTON)
    assert found["without_photons"].particles == (PROTON,)
    # With an electron the shower is not theirs.
    assert not [kind for kind in made(ELECTRON, PION_ZERO) if kind.startswith("photons") or "photons" in kind]


def test_photons_of_an_eta_are_changed_and_those_of_the_nucleus_are_not() -> None:
    pair = (Particle.of(22, np.array([250.0, 0.0, 300.0])), Particle.of(22, np.array([-250.0, 50.0, 200.0])))
    blip = Particle.of(22, np.array([0.0, 4.0, 2.0]))
    found = made(PROTON, *pair, blip)
    whole = found[AS_SIMULATED]
    assert found["without_photons"].particles == (PROTON, blip)
    for kind in ("without_photons", "photons_after_gap", "photons_at_vertex"):
        assert of(found[kind], blip) == of(whole, blip)
    assert of(found["photons_after_gap"], pair[0]) != of(whole, pair[0])


@pytest.mark.parametrize(("shower", "name"), [(ELECTRON, "electron"), (PION_ZERO, "photons")])
def test_the_control_is_another_shower_with_the_same_gap(shower: Particle, name: str) -> None:
    found = made(PROTON, shower)
    whole, again = found[AS_SIMULATED], found[f"{name}_again"]
    assert again.particles == whole.particles
    assert of(again, PROTON) == of(whole, PROTON)
    before, after = ([*event.deposits.energy_mev[event.deposits.particle == 1]] for event in (whole, again))
    assert before != after
    assert sum(after) == pytest.approx(sum(before), rel=0.3)
    gaps = [event.deposits.photon_gap_mm[1] for event in (whole, again)]
    assert gaps[0] == pytest.approx(gaps[1], nan_ok=True)
    assert np.isnan(gaps[0]) == (name == "electron")
    assert of(again, shower) == of(made(PROTON, shower)[f"{name}_again"], shower)
    # The seed of the control is no draw of the event's generator.
    rng, other = np.random.default_rng(3), np.random.default_rng(3)
    list(counterfactuals(argon_box(DETECTOR), DETECTOR, VERTEX, (PROTON, shower), rng))
    other.integers(2**63, size=2)
    assert rng.bit_generator.state == other.bit_generator.state


def test_what_cannot_be_made_is_left_out() -> None:
    assert list(made(MUON)) == [AS_SIMULATED]  # nothing would be left
    assert list(made(PROTON, NEUTRON)) == [AS_SIMULATED]
    assert made() == {}
    downstream = np.array([100.0, -50.0, DETECTOR.z_mm[1] - 150.0])
    ahead = Particle.of(11, np.array([0.0, 0.0, 800.0]))
    assert "electron_after_gap" in made(ahead, PROTON)
    assert "electron_after_gap" not in made(ahead, PROTON, vertex=downstream)  # it would begin outside
    # What is moved out of the detector is lost.
    near = made(ahead, PROTON, vertex=downstream - [0, 0, 300])
    ends = near["electron_after_gap"].deposits.end_mm
    assert ends[:, 2].max() <= DETECTOR.z_mm[1]
    assert len(ends) < len(near[AS_SIMULATED].deposits.end_mm)


def test_events_of_a_shard() -> None:
    state = FinalState(12, True, 1.5, 0.4, 1, (ELECTRON, PROTON))
    interaction = Interaction(12, "event 12", np.random.default_rng(1), lambda: (state, VERTEX))
    whole, *others = list(simulate(DETECTOR, [interaction], with_counterfactuals=True))
    assert (whole.event_id, whole.nu_pdg, whole.is_cc) == (12 * IDS, 12, True)
    rows = {event.event_id: event.truth["counterfactuals"][0] for event in [whole, *others]}
    assert [NAMES[row["kind"]] for row in rows.values()] == [
        AS_SIMULATED, "without_electron", "electron_after_gap", "electron_again",
    ]  # fmt: skip
    assert all(row["original"] == whole.event_id and row["event_id"] == key for key, row in rows.items())
    # A changed event has a vertex, and no class.
    assert all((event.nu_pdg, event.vertex_mm) == (0, whole.vertex_mm) for event in others)
    # Voxels that the electron has not touched are the same; the others lose what it has deposited there.
    before, after = energies(whole), energies(others[0])
    assert after.keys() < before.keys()
    assert all(energy <= before[key] for key, energy in after.items())
    same = sum(energy == before[key] for key, energy in after.items())
    assert 0.5 * len(after) < same < len(before)
    # The true gap of the electron that starts elsewhere.
    table = others[1].truth
    truth = find_topology(np.array([others[1].event_id]), table["particles"], table["deposits"])
    assert truth["shower_gap_mm"][0] == pytest.approx(GAP_MM)
    assert find_topology(np.array([whole.event_id]), *(whole.truth[name] for name in ("particles", "deposits")))[
        "shower_gap_mm"
    ].tolist() == [0]


def test_each_event_is_voxelised_once(monkeypatch: pytest.MonkeyPatch) -> None:
    state = FinalState(12, True, 1.5, 0.4, 1, (ELECTRON, PROTON))
    interaction = Interaction(12, "event 12", np.random.default_rng(1), lambda: (state, VERTEX))
    calls = []
    monkeypatch.setattr(simulation, "voxelize", lambda *a: calls.append(1) or voxelize(*a))
    assert len(list(simulate(DETECTOR, [interaction], with_counterfactuals=True))) == len(calls) == 4


def energies(event: Event) -> dict[tuple[int, int, int], float]:
    voxels = event.voxels
    return dict(zip(zip(voxels.x, voxels.y, voxels.z, strict=True), voxels.energy, strict=True))


def test_windows_stay_and_the_event_table_names_what_is_changed(tmp_path: Path) -> None:
    shard, displays, maps = tmp_path / "a.h5", tmp_path / "displays.zarr", tmp_path / "maps.zarr"
    state = FinalState(14, True, 1.5, 0.4, 1, (Particle.of(13, np.array([0.0, 0.0, 1500.0])), PION_ZERO))
    interactions = [Interaction(i, "", np.random.default_rng(i), lambda: (state, VERTEX)) for i in range(3)]
    write_shard(shard, DETECTOR, simulate(DETECTOR, interactions, with_counterfactuals=True))
    smear_and_downsample(shard, displays, detector=DETECTOR, diffusion=Diffusion(), pixel_mm=50)
    settings = {"size": 32, "centre": "charge", "transfer": "log", "white_mev": 200, "knee_mev": 1}
    crop_displays(displays, maps, **settings, on_bad_event="skip")
    out = tmp_path / "events.parquet"
    list_events(
        {"a": shard}, {"a": maps}, out, detector=DETECTOR, validation=0, test=0, seed=1, parts=1, train=False,
        on_bad_event="skip",
    )  # fmt: skip
    events, store = read_events(out), open_pixel_maps(maps)
    changed = events[events["counterfactual"] != AS_SIMULATED]
    assert set(changed["counterfactual"]) >= {"without_muon", "without_photons", "photons_at_vertex", "photons_again"}
    assert (changed["original"] == changed["event_id"] // IDS * IDS).all()
    assert changed["class"].isna().all()
    assert changed["split"].isna().all()
    assert (events[events["counterfactual"] == AS_SIMULATED]["split"] == "test").all()
    corner, images = store["corner_mm"][:], store["images"][:]
    originals = events.set_index("event_id")["row"]
    for _, event in changed.iterrows():
        original = originals[event["original"]]
        assert (corner[event["row"]] == corner[original]).all()
        if event["counterfactual"].startswith("without"):
            assert (images[event["row"]] <= images[original]).all()
            assert (images[event["row"]] < images[original]).any()
    # Without counterfactuals the windows are those of each event's own charge.
    lone = simulate(DETECTOR, [Interaction(0, "", np.random.default_rng(0), lambda: (state, VERTEX))])
    write_shard(tmp_path / "b.h5", DETECTOR, lone)
    smear_and_downsample(tmp_path / "b.h5", tmp_path / "b.zarr", detector=DETECTOR, diffusion=Diffusion(), pixel_mm=50)
    assert "originals" not in open_store(tmp_path / "b.zarr", "nuvlm-displays").attrs


def test_a_table_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    rows = np.array([(3, 3)], dtype=[("event_id", "u8"), ("base", "u8")])
    state = FinalState(12, True, 1.5, 0.4, 1, (ELECTRON,))
    (event,) = simulate(DETECTOR, [Interaction(3, "", np.random.default_rng(0), lambda: (state, VERTEX))])
    write_shard(tmp_path / "a.h5", DETECTOR, [replace(event, truth={"counterfactuals": rows})])
    with pytest.raises(InputError, match=r"a\.h5: /truth/counterfactuals needs the columns event_id, original"):
        smear_and_downsample(
            tmp_path / "a.h5", tmp_path / "a.zarr", detector=DETECTOR, diffusion=Diffusion(), pixel_mm=50
        )


def test_a_changed_event_has_the_cosmic_muons_of_its_original() -> None:
    state = FinalState(12, True, 1.5, 0.4, 1, (ELECTRON, PROTON))
    interaction = Interaction(5, "", np.random.default_rng(4), lambda: (state, VERTEX))
    muons = Cosmics(rate_hz_m2=1000, drift_velocity_mm_us=1.6)
    whole, *others = simulate(DETECTOR, [interaction], cosmics=muons, with_counterfactuals=True)
    assert len(whole.truth["cosmics"]) > 1
    for changed in others:
        found, expected = changed.truth["cosmics"], whole.truth["cosmics"]
        assert set(found["event_id"].tolist()) == {changed.event_id}
        for name in set(found.dtype.names) - {"event_id"}:
            np.testing.assert_array_equal(found[name], expected[name])
    assert energies(others[0]).keys() < energies(whole).keys()
