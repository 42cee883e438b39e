"""ndlar_flow files: hits of all versions, what the references say, and what is refused."""

import json
import tracemalloc

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.lib.recfunctions import append_fields, drop_fields
from test_larndsim import convert as convert_larndsim_file
from test_larndsim import write_file

from flipped_bytes import any_flipped_byte_is_harmless_or_named
from ndlarflow_file import (
    FINAL,
    MEV_PER_KE,
    PITCH_MM,
    PROMPT,
    VERSIONS,
    FlowEvent,
    Version,
    add_truth,
    make_flow,
    muon_events,
    read_out,
    track,
    write_flow,
)
from nuvlm.base.errors import InputError
from nuvlm.detector.ionisation import mev_per_electron
from nuvlm.detector.readout import Recombination
from nuvlm.detector.voxels import open_shard, voxelize_boxes
from nuvlm.sources import h5flow
from nuvlm.sources.ndlarflow import convert_ndlarflow, recognise_ndlarflow
from nuvlm.sources.shard_writer import DriftedShardWriter

OFFSET = (0.0, 0.0, 3500.0)


@pytest.fixture
def events(detector, rng) -> list[FlowEvent]:
    return muon_events(4, detector, rng)


def convert(path, detector, offset=OFFSET, on_bad_event="error"):
    out = path.with_suffix(".voxels.h5")
    writer = DriftedShardWriter(shard=out, detector=detector, offset_mm=offset, on_bad_event=on_bad_event)
    convert_ndlarflow(path, writer)
    with open_shard(out, detector) as shard:
        assert shard.drifted
        return shard.events, [block for _, block, _ in shard.blocks(1)]


def conclusions(path):
    with h5py.File(path.with_suffix(".voxels.h5")) as file:
        return {item["subject"]: item for item in json.loads(file.attrs["conclusions"])}


def write(tmp_path, detector, events, edit=None, version=VERSIONS["May 2024"]):
    flow = make_flow(events, detector, version)
    if edit:
        edit(flow)
    return write_flow(tmp_path / "a.h5", flow)


def expected(event: FlowEvent, detector, pitch_mm=PITCH_MM):
    energy = 1000 * mev_per_electron(0.5) * event.charge_ke
    return voxelize_boxes(detector, event.position_mm + OFFSET, (0, pitch_mm, pitch_mm), energy)[0]


def assert_same_voxels(found, wanted):
    np.testing.assert_array_equal([found.x, found.y, found.z], [wanted.x, wanted.y, wanted.z])
    np.testing.assert_allclose(found.energy, wanted.energy, rtol=1e-5)


@pytest.mark.parametrize("name", VERSIONS)
def test_hits_of_all_versions_are_the_same_charge_at_the_same_places(tmp_path, detector, events, name):
    version = VERSIONS[name]
    path = write(tmp_path, detector, events, version=version)
    found, voxels = convert(path, detector)
    assert found["event_id"].tolist() == [10, 11, 12, 13]
    assert (found["nu_pdg"] == 0).all()
    assert np.isnan(found["vertex_mm"]).all()
    for event, block in zip(events, voxels, strict=True):
        wanted = expected(event, detector)
        if name in ("early 2023", "February 2023", "May 2023"):  # bounds of boxes may round to the next voxel
            assert block.energy.sum() == pytest.approx(wanted.energy.sum(), rel=1e-5)
            assert np.abs(centroid(block) - centroid(wanted)).max() < 0.01
        else:
            assert_same_voxels(block, wanted)
    said = conclusions(path)
    assert said["length unit of hits"]["value"] == ("cm" if version.mm == 10 else "mm")
    assert said["axes of hits"]["value"] == ("z and x exchanged" if version.drift == "z" else "as they are called")
    assert said["hits"]["value"] == (FINAL if version.has_merged else PROMPT)
    assert "an unknown formula" not in said["column E"]["evidence"]
    assert said["truth"]["value"] == "unknown"


def centroid(voxels):
    return np.average([voxels.x, voxels.y, voxels.z], axis=1, weights=voxels.energy)


def test_visible_energy_is_calibrated_with_minimum_ionising_particles(tmp_path, detector):
    position, energy = track([-750, 0.0, -500], [0.1, 0.3, 1], 400)
    event = read_out(1, position, energy, detector)
    _, (voxels,) = convert(write(tmp_path, detector, [event]), detector)
    assert voxels.energy.sum() == pytest.approx(energy.sum(), rel=1e-3)
    survival = Recombination(model="birks", field_kv_cm=0.25).survival(np.array([2.1]))[0]
    assert mev_per_electron(0.25) == pytest.approx(23.6e-6 / survival)

    def weaker(flow):
        flow.attributes["run_info"]["e_field"] = 0.025

    _, (voxels,) = convert(write(tmp_path, detector, [event], weaker), detector)
    assert voxels.energy.sum() == pytest.approx(energy.sum() * mev_per_electron(0.25) * 1000 / MEV_PER_KE, rel=1e-5)
    assert "0.25 kV/cm (run_info)" in conclusions(tmp_path / "a.h5")["energy"]["evidence"]


def shuffled(flow, rng, child=FINAL):
    """Rows of the hits and of the references in any order."""
    order = rng.permutation(len(flow.tables[child]))
    flow.tables[child] = flow.tables[child][order]
    place = np.argsort(order)
    for holder in ("charge/events", "charge/raw_events"):
        pairs = flow.pairs[holder, child].copy()
        pairs[:, 1] = place[pairs[:, 1]]
        flow.pairs[holder, child] = pairs[rng.permutation(len(pairs))]


@pytest.mark.slow
@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1000), rows=st.integers(7, 400), shuffle=st.booleans(), repeat=st.integers(0, 3))
def test_the_order_of_rows_and_the_size_of_blocks_do_not_matter(
    tmp_path, detector, events, monkeypatch, seed, rows, shuffle, repeat
):
    rng = np.random.default_rng(seed)

    def edit(flow):
        if shuffle:
            shuffled(flow, rng)
        pairs = flow.pairs["charge/events", FINAL]
        flow.pairs["charge/events", FINAL] = np.concatenate([pairs, pairs[rng.integers(0, len(pairs), repeat)]])

    path = write(tmp_path, detector, events, edit)
    whole = convert(path, detector)
    monkeypatch.setattr(h5flow, "ROWS", rows)
    _, pieces = convert(path, detector)
    for event, one, other in zip(events, whole[1], pieces, strict=True):
        assert_same_voxels(one, expected(event, detector))
        assert_same_voxels(other, one)


def test_references_may_lie_in_the_table_of_hits(tmp_path, detector, events):
    def edit(flow):
        for parent, child in list(flow.pairs):
            flow.pairs[child, parent] = flow.pairs.pop((parent, child))[:, ::-1]

    _, voxels = convert(write(tmp_path, detector, events, edit), detector)
    assert_same_voxels(voxels[2], expected(events[2], detector))


def test_events_without_hits_and_hits_without_event_are_counted(tmp_path, detector, events, caplog):
    def edit(flow):
        pairs = flow.pairs["charge/events", FINAL]
        flow.pairs["charge/events", FINAL] = pairs[pairs[:, 0] != 1]

    path = write(tmp_path, detector, events, edit)
    found, _ = convert(path, detector)
    assert found["event_id"].tolist() == [10, 12, 13]
    assert "events left out: 1 of 4 (they have no" in caplog.text
    n = len(events[1].charge_ke)
    assert (
        f"; {n} of {sum(len(event.charge_ke) for event in events)} hits belong to no event"
        in (conclusions(path)["events"]["value"])
    )


def test_events_that_repeat_are_numbered_by_place(tmp_path, detector, events):
    def edit(flow):
        flow.tables["charge/events"]["id"] = [0, 1, 0, 1]

    path = write(tmp_path, detector, events, edit)
    found, _ = convert(path, detector)
    assert found["event_id"].tolist() == [0, 1, 2, 3]
    assert "they repeat" in conclusions(path)["event ids"]["evidence"]


def test_prompt_hits_serve_where_there_are_no_merged_ones(tmp_path, detector, events):
    def edit(flow):
        flow.tables[FINAL] = flow.tables[FINAL][:0]
        for holder in ("charge/events", "charge/raw_events"):
            flow.pairs[holder, FINAL] = flow.pairs[holder, FINAL][:0]

    path = write(tmp_path, detector, events, edit)
    _, voxels = convert(path, detector)
    assert_same_voxels(voxels[0], expected(events[0], detector))
    assert conclusions(path)["hits"]["value"] == PROMPT


def test_truth_columns_beside_hits_are_not_needed(tmp_path, detector, events):
    def edit(flow):
        for name in (PROMPT, FINAL):
            rows = flow.tables[name]
            wide = np.zeros(len(rows), dtype=[*rows.dtype.descr, ("x_true_seg_t", "f8", (10,))])
            for column in rows.dtype.names:
                wide[column] = rows[column]
            flow.tables[name] = drop_fields(wide, "E", usemask=False)
        flow.attributes = {}

    path = write(tmp_path, detector, events, edit)
    _, voxels = convert(path, detector)
    assert_same_voxels(voxels[0], expected(events[0], detector))
    assert "no plausible e_field" in conclusions(path)["energy"]["evidence"]


def exchanged(one, other):
    def edit(flow):
        for name in (PROMPT, FINAL):
            rows = flow.tables[name]
            rows[one], rows[other] = rows[other].copy(), rows[one].copy()
        del flow.attributes["geometry_info"]

    return edit


def with_truth(events, edit=None, **columns):
    def both(flow):
        add_truth(flow, np.array([event.vertex_mm for event in events]), **columns)
        if edit:
            edit(flow)

    return both


@pytest.mark.parametrize(("mm", "gev"), [(10, 1e-3), (1, 1)])
def test_one_neutrino_in_an_event_is_its_truth(tmp_path, detector, events, mm, gev):
    def edit(flow):
        rows = flow.tables["mc_truth/interactions"]
        for axis in "xyz":
            rows[f"{axis}_vert"] *= 10 / mm

    path = write(tmp_path, detector, events, with_truth(events, edit, Enu=2.5 / gev))
    found, _ = convert(path, detector)
    assert found["nu_pdg"].tolist() == [14] * 4
    assert found["is_cc"].all()
    assert (found["mode"] == 3).all()
    np.testing.assert_allclose(found["nu_energy"], 2.5)
    np.testing.assert_allclose(found["inelasticity"], 0.25)
    np.testing.assert_allclose(found["vertex_mm"], [event.vertex_mm + OFFSET for event in events], rtol=1e-5)
    said = conclusions(path)["truth"]
    assert said["value"] == "known for 4 of 4 events"
    assert f"4 of 4 vertices ({'cm' if mm == 10 else 'mm'}, x, y, z in x_vert" in said["evidence"]


def test_vertices_have_the_axes_of_their_hits(tmp_path, detector, events):
    def edit(flow):
        for name, (one, other) in ((FINAL, "xz"), (PROMPT, "xz"), ("mc_truth/interactions", ("x_vert", "z_vert"))):
            rows = flow.tables[name]
            rows[one], rows[other] = rows[other].copy(), rows[one].copy()
        del flow.attributes["geometry_info"]

    found, _ = convert(write(tmp_path, detector, events, with_truth(events, edit)), detector)
    np.testing.assert_allclose(found["vertex_mm"], [event.vertex_mm + OFFSET for event in events], rtol=1e-5)


def test_several_neutrinos_in_an_event_have_no_truth(tmp_path, detector, events):
    def edit(flow):
        pair = "charge/raw_events", "mc_truth/interactions"
        flow.pairs[pair] = np.concatenate([flow.pairs[pair], [[1, 2], [2, 2]]]).astype("u4")

    path = write(tmp_path, detector, events, with_truth(events, edit))
    found, _ = convert(path, detector)
    assert found["nu_pdg"].tolist() == [14, 0, 14, 14]
    assert np.isnan(found["vertex_mm"][1]).all()
    assert "1 events have charge of several" in conclusions(path)["truth"]["evidence"]


def other_vertices(flow):
    flow.tables["mc_truth/interactions"]["y_vert"] *= -1


def other_interactions(flow):
    pairs = flow.pairs["charge/raw_events", "mc_truth/interactions"]
    pairs[:, 1] = (pairs[:, 1] + 1) % len(pairs)


@pytest.mark.parametrize("edit", [other_vertices, other_interactions, exchanged("y", "z")])
def test_truth_that_is_not_where_its_charge_is_is_refused(tmp_path, detector, rng, edit):
    events = muon_events(8, detector, rng)
    with pytest.raises(InputError, match=r"of [3-8] vertices where there are hits are within 50 mm of the charge"):
        convert(write(tmp_path, detector, events, with_truth(events, edit)), detector)


def test_vertices_in_the_rock_are_kept(tmp_path, detector, events):
    def edit(flow):
        flow.tables["mc_truth/interactions"]["z_vert"] -= 3000

    found, _ = convert(write(tmp_path, detector, events, with_truth(events, edit)), detector)
    assert found["nu_pdg"].tolist() == [14] * 4
    assert (found["vertex_mm"][:, 2] < -20000).all()


def test_an_inelasticity_that_cannot_be_is_unknown(tmp_path, detector, events):
    found, _ = convert(write(tmp_path, detector, events, with_truth(events, y=1e30)), detector)
    assert np.isnan(found["inelasticity"]).all()


@pytest.mark.parametrize("factor", [1e3, 1e-5])
def test_energies_that_cannot_be_are_unknown(tmp_path, detector, events, factor):
    found, _ = convert(write(tmp_path, detector, events, with_truth(events, Enu=2500 * factor)), detector)
    assert np.isnan(found["nu_energy"]).all()
    assert "Enu in an unknown unit" in conclusions(tmp_path / "a.h5")["truth"]["evidence"]


def test_truth_that_is_not_there_is_refused(tmp_path, detector, events):
    def edit(flow):
        flow.pairs["charge/raw_events", "mc_truth/interactions"][2, 1] = 9

    with pytest.raises(InputError, match="or to row 9 of 4 interactions"):
        convert(write(tmp_path, detector, events, with_truth(events, edit)), detector)


def hits_times(axis, factor):
    def edit(flow):
        for name in (PROMPT, FINAL):
            flow.tables[name][axis] *= factor

    return edit


def all_times(factor):
    def edit(flow):
        for axis in "xyz":
            hits_times(axis, factor)(flow)
        flow.attributes["geometry_info"]["lar_detector_bounds"] *= factor

    return edit


@pytest.mark.parametrize("edit", [all_times(10), all_times(0.01), exchanged("x", "z"), exchanged("x", "y")])
def test_units_and_axes_follow_from_pixels_and_drift(tmp_path, detector, events, edit):
    """Whatever the columns are called: mm, m; the drift in any of them."""
    _, voxels = convert(write(tmp_path, detector, events, edit), detector)
    for event, block in zip(events, voxels, strict=True):
        wanted = expected(event, detector)
        assert block.energy.sum() == pytest.approx(wanted.energy.sum(), rel=1e-4)
        assert np.abs(centroid(block) - centroid(wanted)).max() < 0.1


def unbounded(edit):
    def both(flow):
        edit(flow)
        del flow.attributes["geometry_info"]

    return both


def first_hit(column, value, event=1):
    def edit(flow):
        first = flow.pairs["charge/events", FINAL][:, 0].searchsorted(event)
        flow.tables[FINAL][column][first] = value

    return edit


def noise(flow):
    pairs = flow.pairs["charge/events", FINAL]
    charge = flow.tables[FINAL]["Q"]
    charge[pairs[:, 0] == 1] *= np.where(np.arange((pairs[:, 0] == 1).sum()) % 2, 1, -0.6)


def negative(flow):
    charge = flow.tables[FINAL]["Q"]
    charge[flow.pairs["charge/events", FINAL][:, 0] == 1] *= -1


def far(flow):
    flow.tables[FINAL]["x"][flow.pairs["charge/events", FINAL][:, 0] == 1] += 1000


BAD_EVENTS = {
    "coordinate NaN": (first_hit("y", np.nan), "has a coordinate or deposit that is not a number"),
    "charge NaN": (first_hit("Q", np.nan), "has a coordinate or deposit that is not a number"),
    "charge infinite": (first_hit("Q", np.inf), "has a coordinate or deposit that is not a number"),
    "noise": (noise, "has mostly noise"),
    "negative": (negative, "has no hit with a positive charge"),
    "outside": (far, "lies outside the detector"),
}


@pytest.mark.parametrize("what", BAD_EVENTS)
def test_an_event_that_cannot_be_used_stops_or_is_left_out_and_counted(tmp_path, detector, events, caplog, what):
    edit, message = BAD_EVENTS[what]
    path = write(tmp_path, detector, events, edit)
    with pytest.raises(InputError, match=f"event 11 {message}") as error:
        convert(path, detector)
    assert str(path) in str(error.value)
    assert not path.with_suffix(".voxels.h5").exists()
    found, _ = convert(path, detector, on_bad_event="skip")
    assert found["event_id"].tolist() == [10, 12, 13]
    assert f"events left out: 1 of 4 (the first, event 11, {message}" in caplog.text


def test_a_few_hits_below_the_pedestal_are_left_out(tmp_path, detector, events):
    def edit(flow):
        first_hit("Q", -0.5)(flow)
        first_hit("x", 1e30)(flow)

    _, voxels = convert(write(tmp_path, detector, events, edit), detector)
    rest = FlowEvent(11, events[1].position_mm[1:], events[1].charge_ke[1:], events[1].ticks, events[1].anode)
    assert_same_voxels(voxels[1], expected(rest, detector))


def dangling(column, name):
    def edit(flow):
        flow.pairs["charge/events", FINAL][5, column] = 10**6

    return edit, f"refers to row 1000000 of {name}"


def twice(flow):
    flow.pairs["charge/events", FINAL][-1, 1] = 0


def other_references(flow):
    flow.pairs["charge/events", FINAL] = flow.pairs["charge/events", FINAL][:20]


def without_references(flow):
    flow.pairs = {pair: rows for pair, rows in flow.pairs.items() if pair[1] != FINAL}


def without_hits(flow):
    for name in (PROMPT, FINAL):
        flow.tables[name] = flow.tables[name][:0]
    flow.pairs = {pair: rows[:0] for pair, rows in flow.pairs.items()}


def without_column(column):
    def edit(flow):
        flow.tables[FINAL] = drop_fields(flow.tables[FINAL], column, usemask=False)

    return edit


def two_charges(flow):
    rows = without_column("Q")(flow) or flow.tables[FINAL]
    flow.tables[FINAL] = append_fields(rows, "Q", np.full(len(rows), b"1"), usemask=False)


def elsewhere(flow):
    flow.attributes["geometry_info"]["lar_detector_bounds"] += [[500, 0, 0], [500, 0, 0]]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        dangling(0, "charge/events"),
        dangling(1, FINAL),
        (twice, f"row 0 of {FINAL}/data belongs to two rows of charge/events, 0 and 3"),
        (other_references, "hits belong to no event. The references are of other tables"),
        (without_references, f"no references between charge/events and {FINAL}"),
        (without_hits, f"{FINAL} is empty. Remove the file"),
        (without_column("Q"), "has no column of numbers Q"),
        (without_column("y"), "has no column of numbers y"),
        (two_charges, "has no column of numbers Q"),
        (hits_times("Q", 1000), "thousand electrons .ke-. are expected"),
        (hits_times("Q", 1e-3), "thousand electrons .ke-. are expected"),
        (hits_times("Q", -1), "no hit has a positive charge"),
        (hits_times("x", 10), "lie outside the detector that the file describes"),
        (unbounded(hits_times("x", 10)), "unclear: pixels .* means cm; drift velocity .* per us means mm"),
        (hits_times("x", 0.1), "unclear: pixels .* means cm; drift velocity .* per us means no known unit"),
        (hits_times("y", 10), "pixels are square"),
        (hits_times("z", 0.1), "pixels are square"),
        (all_times(2), "unclear: pixels .* means no known unit"),
        (elsewhere, "lie outside the detector that the file describes"),
    ],
)
def test_what_cannot_be_right_is_refused(tmp_path, detector, events, edit, message):
    path = write(tmp_path, detector, events, edit)
    with pytest.raises(InputError, match=message) as error:
        convert(path, detector)
    assert str(path) in str(error.value)


def test_files_that_are_no_whole_ndlarflow_files(tmp_path, detector, events):
    path = tmp_path / "a.h5"
    with pytest.raises(InputError, match="no such file"):
        convert(path, detector)
    for content in (b"", b"text"):
        path.write_bytes(content)
        assert recognise_ndlarflow(path) is None
        with pytest.raises(InputError, match="not HDF5, empty or truncated"):
            convert(path, detector)
    whole = write(tmp_path, detector, events).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert recognise_ndlarflow(path) is None
    with pytest.raises(InputError, match="truncated"):
        convert(path, detector)
    write_file(path)
    assert recognise_ndlarflow(path) is None
    with pytest.raises(InputError, match="there are no reconstructed hits"):
        convert(path, detector)


def copy_of_larndsim(source, path):
    """What ndlar_flow makes of the tables of larnd-sim."""
    with h5py.File(source) as file, h5py.File(path, "a") as flow:
        for name, copied in (("segments", "segments"), ("mc_hdr", "interactions"), ("mc_stack", "stack")):
            flow.create_dataset(f"mc_truth/{copied}/data", data=file[name][:], maxshape=(None,))


def test_simulated_deposits_are_those_of_larndsim(tmp_path, detector, events):
    source = write_file(tmp_path / "larndsim.h5", stack=True)
    path = tmp_path / "only_truth.h5"
    copy_of_larndsim(source, path)
    found, voxels = convert_larndsim_file(path, detector)
    wanted, wanted_voxels = convert_larndsim_file(source, detector)
    np.testing.assert_array_equal(found, wanted)
    assert found["nu_pdg"].tolist() == [14] * 3
    for one, other in zip(voxels, wanted_voxels, strict=True):
        assert_same_voxels(one, other)
    assert recognise_ndlarflow(path) is None
    with pytest.raises(InputError, match=r"mc_truth.*set input\.source to larndsim"):
        convert(path, detector)
    both = write(tmp_path, detector, events)
    copy_of_larndsim(source, both)
    assert recognise_ndlarflow(both) == f"ndlar_flow HDF5, simulated: 4 events with hits in {FINAL} and {PROMPT}"
    assert len(convert(both, detector)[0]) == 4
    assert len(convert_larndsim_file(both, detector)[0]) == 3


@pytest.mark.slow
def test_any_flipped_byte_is_either_harmless_or_told(tmp_path, detector, rng):
    whole = write(tmp_path, detector, muon_events(2, detector, rng, tracks=1))
    any_flipped_byte_is_harmless_or_named(whole, lambda path: convert(path, detector, on_bad_event="skip"), 150)


def test_few_hits_are_read_as_documented(tmp_path, detector):
    position, energy = track([-750, 0.0, -500], [0.1, 0.3, 1], 60)
    path = write(tmp_path, detector, [read_out(1, position, energy, detector)], version=Version())
    _, (voxels,) = convert(path, detector)
    assert voxels.energy.sum() == pytest.approx(energy.sum(), rel=1e-3)
    said = conclusions(path)
    assert "too few hits" in said["length unit of hits"]["evidence"]
    assert "too few hits" in said["axes of hits"]["evidence"]


def test_memory_follows_the_block_and_not_the_file(tmp_path, detector, rng, monkeypatch):
    monkeypatch.setattr(h5flow, "ROWS", 1000)
    peaks = []
    for n in (10, 80):
        path = write(tmp_path, detector, muon_events(n, detector, rng))
        tracemalloc.start()
        with h5py.File(path) as file:
            blocks = h5flow.References(path, file, ["charge/events"], FINAL).blocks(["x", "y", "z", "Q"])
            assert sum(len(hits) for _, _, hits in blocks) > 100 * n
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]
