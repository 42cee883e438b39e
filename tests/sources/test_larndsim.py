"""larnd-sim / 2x2_sim files: old and new names, several neutrinos a spill, units, and what is refused."""

import h5py
import hdf5plugin
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.lib.recfunctions import repack_fields

from flipped_bytes import any_flipped_byte_is_harmless_or_named
from nuvlm.base.errors import InputError
from nuvlm.detector.readout import Recombination
from nuvlm.detector.voxels import open_shard
from nuvlm.sources import larndsim_segments
from nuvlm.sources.larndsim import convert_larndsim
from nuvlm.sources.shard_writer import VoxelShardWriter
from paths import SHARED

OLD = {"event": "eventID", "vertex": None, "header": "genie_hdr", "stack": "genie_stack"}
NEW = {"event": "event_id", "vertex": "vertex_id", "header": "mc_hdr", "stack": "mc_stack"}
MODES = ("QES", "MEC", "RES", "DIS", "COH")
MUON = (0, 0, 1000.0, 1005.6)  # MeV


def table(columns, keys, names, repeat=1):
    """An empty table with key columns, `repeat` rows a neutrino."""
    kinds = [(names["event"], "u4")] + ([(names["vertex"], "u8")] if names["vertex"] else []) + columns
    rows = np.zeros(len(keys) * repeat, dtype=np.dtype(kinds, align=True))
    rows[names["event"]] = np.repeat([event for event, _ in keys], repeat)
    if names["vertex"]:
        rows[names["vertex"]] = np.repeat([vertex for _, vertex in keys], repeat)
    return rows


def segment_rows(names, keys, n):
    """`n` segments of 2 MeV and 1 cm a neutrino, along z from the vertex (10, 20, 300 + vertex) cm."""
    columns = [(f"{axis}_{end}", "f4") for end in ("start", "end") for axis in "xyz"]
    rows = table([*columns, ("dE", "f4"), ("dx", "f4"), ("dEdx", "f4")], keys, names, n)
    at = np.tile(np.arange(n), len(keys)) + np.repeat([300 + vertex for _, vertex in keys], n)
    for end, shift in (("start", 0), ("end", 1)):
        rows[f"x_{end}"], rows[f"y_{end}"], rows[f"z_{end}"] = 10, 20, at + shift
    rows["dE"], rows["dx"], rows["dEdx"] = 2, 1, 2
    return rows


def header_rows(names, keys, gev=1e-3, four_momentum=True, **values):
    columns = [(f"{axis}_vert", "f8") for axis in "xyz"] + [("nu_pdg", "i4"), ("isCC", "?"), ("Enu", "f4"), ("y", "f4")]
    columns += [(f"is{mode}", "u1") for mode in MODES] + ([("nu_4mom", "f4", (4,))] if four_momentum else [])
    rows = table(columns, keys, names)
    rows["x_vert"], rows["y_vert"], rows["z_vert"] = 10, 20, [300 + vertex for _, vertex in keys]
    rows["nu_pdg"], rows["isCC"], rows["y"], rows["isRES"], rows["Enu"] = 14, True, 0.25, 1, 2.5 / gev
    if four_momentum:
        rows["nu_4mom"] = (0, 0, 2500, 2500)
    for name, value in values.items():
        rows[name] = value
    return rows


def stack_rows(names, keys, unit=1.0):
    """Neutrino and argon, muon and proton, and a remnant that is neither."""
    rows = table([("part_4mom", "f4", (4,)), ("part_pdg", "i4"), ("part_status", "i4")], keys, names, 5)
    proton = (0, 300, 0, 985.1)
    rows["part_4mom"] = np.tile([(0, 0, 2500, 2500), (0, 0, 0, 37e3), MUON, proton, (0, 0, 0, 36e3)], (len(keys), 1))
    rows["part_4mom"] *= unit
    rows["part_pdg"] = np.tile([14, 1000180400, 13, 2212, 1000180390], len(keys))
    rows["part_status"] = np.tile([0, 0, 1, 1, 15], len(keys))
    return rows


def write_file(path, keys=((7, 1), (7, 2), (9, 3)), names=NEW, segments=10, header=True, stack=False, edit=None):
    """`edit` changes the dictionary of tables before it is written."""
    tables = {"segments": segment_rows(names, keys, segments)}
    if header:
        tables[names["header"]] = header_rows(names, keys)
    if stack:
        tables[names["stack"]] = stack_rows(names, keys)
    if edit:
        edit(tables)
    with h5py.File(path, "w") as file:
        for name, rows in tables.items():
            file.create_dataset(name, data=rows, maxshape=(None,), chunks=(len(rows) or 1,), **hdf5plugin.Zstd())
    return path


def convert(path, detector, offset=(0, 0, 0), on_bad_event="error", recombination=None, **settings):
    out = path.with_suffix(".voxels.h5")
    writer = VoxelShardWriter(
        shard=out,
        detector=detector,
        offset_mm=offset,
        on_bad_event=on_bad_event,
        recombination=recombination or Recombination(),
        **settings,
    )
    convert_larndsim(path, writer)
    with open_shard(out, detector) as shard:
        return shard.events, [block for _, block, _ in shard.blocks(1)]


@pytest.mark.parametrize(
    ("gev", "four_momentum"),
    [(1e-3, True), (1, True), (1e-3, False), (1, False)],
    ids=["MeV", "GeV", "MeV alone", "GeV alone"],
)
def test_several_neutrinos_a_spill_become_events_with_truth_in_gev_and_mm(tmp_path, detector, gev, four_momentum):
    def edit(tables):
        tables["mc_hdr"] = header_rows(NEW, ((7, 1), (7, 2), (9, 3)), gev, four_momentum)
        tables["segments"]["dE"] *= 20
        tables["segments"]["dEdx"] *= 20
        tables["segments"]["z_end"] += 9
        tables["segments"]["dEdx"] /= 10
        tables["segments"]["dx"] *= 10

    events, voxels = convert(write_file(tmp_path / "a.h5", edit=edit), detector)
    assert events["event_id"].tolist() == [1, 2, 3]
    np.testing.assert_allclose(events["nu_energy"], 2.5)
    np.testing.assert_allclose(events["vertex_mm"][1], [100, 200, 3020])
    assert events["nu_pdg"].tolist() == [14] * 3
    assert events["is_cc"].all()
    assert (events["mode"] == 3).all()
    np.testing.assert_allclose(events["inelasticity"], 0.25)
    for block in voxels:
        assert block.energy.sum() == pytest.approx(400)
    assert (voxels[0].x[0], voxels[0].y[0], voxels[0].z[0]) == (1100, 240, 602)


@pytest.mark.parametrize("unit", [1.0, 1e-3], ids=["MeV", "GeV"])
def test_final_states_are_kept_in_mev(tmp_path, detector, unit):
    def edit(tables):
        tables["mc_stack"] = stack_rows(NEW, [(9, 3), (7, 1)], unit)

    convert(write_file(tmp_path / "a.h5", edit=edit), detector)
    with h5py.File(tmp_path / "a.voxels.h5") as file:
        particles = file["truth/particles"][:]
    assert particles["event_id"].tolist() == [1, 1, 3, 3]
    assert particles["pdg"].tolist() == [13, 2212] * 2
    np.testing.assert_allclose(particles["kinetic_mev"], [1005.6 - 105.8, 985.1 - 938.3] * 2, atol=0.5)
    np.testing.assert_allclose(particles["momentum_mev"][0], MUON[:3])


@pytest.mark.parametrize("header", [True, False])
def test_old_names(tmp_path, detector, header):
    path = write_file(tmp_path / "a.h5", ((4, 0), (2, 0)), OLD, header=header, stack=header)
    events, _ = convert(path, detector)
    assert events["event_id"].tolist() == [4, 2]
    assert events["nu_pdg"].tolist() == ([14, 14] if header else [0, 0])
    assert np.isnan(events["vertex_mm"]).all() == (not header)


def test_one_neutrino_an_event_keeps_the_event_id_and_vertices_numbered_anew_do_not_collide(tmp_path, detector):
    events, _ = convert(write_file(tmp_path / "a.h5", ((5, 1), (6, 1))), detector)
    assert events["event_id"].tolist() == [5, 6]
    events, _ = convert(write_file(tmp_path / "b.h5", ((5, 1), (5, 2), (6, 1))), detector)
    assert events["event_id"].tolist() == [5 * 2**32 + 1, 5 * 2**32 + 2, 6 * 2**32 + 1]


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1000), rows_at_once=st.integers(1, 40), swaps=st.integers(0, 30))
def test_the_order_of_rows_and_the_size_of_blocks_do_not_matter(
    tmp_path, detector, monkeypatch, seed, rows_at_once, swaps
):
    """Segments of a neutrino together or strewn over the file, read in blocks that hold some of them, or many."""
    rng = np.random.default_rng(seed)

    def edit(tables):
        rows = tables["segments"]
        rows["dE"] = rng.random(len(rows)) + 1
        rows["dEdx"] = rows["dE"]
        for i, k in rng.integers(0, len(rows), (swaps, 2)):
            rows[[i, k]] = rows[[k, i]]

    path = write_file(tmp_path / "a.h5", edit=edit)
    monkeypatch.setattr(larndsim_segments, "ROWS", rows_at_once)
    events, voxels = convert(path, detector)
    with h5py.File(path) as file:
        rows = file["segments"][:]
    for event, block in zip(events, voxels, strict=True):
        mine = rows[rows["vertex_id"] == event["event_id"]]
        assert block.energy.sum(dtype=np.float64) == pytest.approx(mine["dE"].sum(dtype=np.float64), rel=1e-6)
        assert event["vertex_mm"][2] == 3000 + 10 * event["event_id"]


def test_offset_moves_deposits_and_vertices(tmp_path, detector):
    path = write_file(tmp_path / "a.h5")
    plain, before = convert(path, detector)
    moved, after = convert(path, detector, (10, -20, 500))
    np.testing.assert_allclose(moved["vertex_mm"] - plain["vertex_mm"], [[10, -20, 500]] * 3)
    assert int(after[0].z[0]) - int(before[0].z[0]) == 100


def test_neutrinos_without_segments_are_counted(tmp_path, detector, caplog):
    def edit(tables):
        tables["mc_hdr"] = header_rows(NEW, ((7, 1), (7, 2), (7, 8), (9, 3), (10, 4)))

    events, _ = convert(write_file(tmp_path / "a.h5", edit=edit), detector)
    assert events["event_id"].tolist() == [1, 2, 3]
    assert "events left out: 2 of 5 (they have no segments)" in caplog.text


def test_a_tau_neutrino_is_carried_through(tmp_path, detector):
    events, _ = convert(
        write_file(tmp_path / "a.h5", edit=lambda tables: tables["mc_hdr"]["nu_pdg"].fill(-16)), detector
    )
    assert events["nu_pdg"].tolist() == [-16] * 3


def spoil(name, value):
    """Give row 15 of the segments, of event 7, vertex 2, another value."""

    def edit(tables):
        tables["segments"][name][15] = value

    return edit


def spoil_truth(name, value):
    def edit(tables):
        tables["mc_hdr"][name][1] = value

    return edit


def move_away(tables):
    tables["segments"]["x_start"][10:20] += 5000
    tables["segments"]["x_end"][10:20] += 5000


BAD_EVENTS = {
    "coordinate NaN": (spoil("x_start", np.nan), "has a coordinate or deposit that is not a number"),
    "deposit infinite": (spoil("dE", np.inf), "has a coordinate or deposit that is not a number"),
    "deposit negative": (spoil("dE", -1), "has a negative deposit"),
    "outside": (move_away, "lies outside the detector"),
    "no neutrino": (spoil_truth("nu_pdg", 999), "has PDG code 999 for its neutrino"),
}


@pytest.mark.parametrize("what", BAD_EVENTS)
def test_an_event_that_cannot_be_used_stops_or_is_left_out_and_counted(tmp_path, detector, caplog, what):
    edit, message = BAD_EVENTS[what]
    path = write_file(tmp_path / "a.h5", edit=edit)
    with pytest.raises(InputError, match=f"event 7, vertex 2 {message}") as error:
        convert(path, detector)
    assert str(path) in str(error.value)
    assert "input.on_bad_event" in str(error.value)
    assert not path.with_suffix(".voxels.h5").exists()
    events, _ = convert(path, detector, on_bad_event="skip")
    assert events["event_id"].tolist() == [1, 3]
    assert f"events left out: 1 of 3 (the first, event 7, vertex 2, {message}" in caplog.text


def test_all_events_outside_tell_where_they_are(tmp_path, detector):
    path = write_file(tmp_path / "a.h5")
    with pytest.raises(
        InputError, match=r"event 7, vertex 1 lies outside.* deposits span \[5100.*OFFSET=0,0,0.*offset_mm: \[0, 0, 0\]"
    ):
        convert(path, detector, (5000, 0, 0))
    with pytest.raises(InputError, match=r"all 3 events lie outside.* deposits span \[5100.*OFFSET=0,0,0"):
        convert(path, detector, (5000, 0, 0), on_bad_event="skip")


def test_energy_outside_has_a_limit_and_an_offset_that_fits_is_proposed(tmp_path, detector, caplog):
    path = write_file(tmp_path / "a.h5")
    # 10 cm each, of which 4, 3 and 2 cm lie inside
    with pytest.raises(InputError, match=r"42\.0 of 60\.0 MeV lie outside.*OFFSET=0,0,3500.*input\.outside_limit"):
        convert(path, detector, (0, 0, 7000 - 3050))
    convert(path, detector, (0, 0, 7000 - 3050), outside_limit=0.8)
    assert "energy outside: 42.0 of 60.0 MeV" in caplog.text
    convert(path, detector, (0, 0, 3500))


def in_mm(tables):
    for name in tables["segments"].dtype.names:
        if name[0] in "xyz":
            tables["segments"][name] *= 10


def all_in_mm(tables):
    in_mm(tables)
    tables["segments"]["dx"] *= 10
    tables["segments"]["dEdx"] /= 10


def in_gev(tables):
    tables["segments"]["dE"] /= 1000


def all_in_gev(tables):
    in_gev(tables)
    tables["segments"]["dEdx"] /= 1000


def no_dx(edit):
    def both(tables):
        edit(tables)
        names = [name for name in tables["segments"].dtype.names if name not in ("dx", "dEdx")]
        tables["segments"] = repack_fields(tables["segments"][names])

    return both


def vertices_times(factor):
    def edit(tables):
        for axis in "xyz":
            tables["mc_hdr"][f"{axis}_vert"] *= factor

    return edit


def times(factor, *names):
    def edit(tables):
        for name in names:
            tables["segments"][name] *= factor

    return edit


COORDINATES = [f"{axis}_{end}" for axis in "xyz" for end in ("start", "end")]


@pytest.mark.parametrize(
    ("edit", "doubt"),
    [
        (in_gev, "units of the segments: cm and GeV"),
        (all_in_gev, "units of the segments: cm and GeV"),
        (no_dx(in_gev), "units of the segments: cm and GeV"),
        (times(1000, "dE"), "units of the segments: cm and keV"),
        (times(1e4, *COORDINATES), "units of the segments: um and MeV"),
        (vertices_times(10), "vertices of 'mc_hdr': in mm"),
        (vertices_times(0.01), "vertices of 'mc_hdr': in m "),
        (vertices_times(1e4), "vertices of 'mc_hdr': in um"),
        (times(1.5, "dx"), "column dx: is 1.5 times the distance from start to end"),
        (times(0.6, "dE"), "column dE: is 0.6 times dEdx x dx"),
    ],
)
def test_other_units_and_definitions_are_decided_from_evidence(tmp_path, detector, caplog, edit, doubt):
    events, voxels = convert(write_file(tmp_path / "a.h5", edit=edit), detector)
    assert doubt in caplog.text
    np.testing.assert_allclose(events["vertex_mm"], [[100, 200, 3000 + 10 * vertex] for vertex in (1, 2, 3)])
    factor = 0.6 if "0.6" in doubt else 1
    for block in voxels:
        assert block.energy.sum() == pytest.approx(20 * factor, rel=1e-5)


def test_segments_in_mm_are_read_if_they_fit_in_the_detector_only_so(tmp_path, detector, caplog):
    def edit(tables):
        all_in_mm(tables)
        tables["segments"]["z_start"] += np.where(tables["segments"]["vertex_id"] == 3, 3000, 0)
        tables["segments"]["z_end"] += np.where(tables["segments"]["vertex_id"] == 3, 3000, 0)
        tables["mc_hdr"]["z_vert"] += np.where(tables["mc_hdr"]["vertex_id"] == 3, 300, 0)

    _, voxels = convert(write_file(tmp_path / "a.h5", edit=edit), detector)
    assert "units of the segments: mm and MeV" in caplog.text
    assert voxels[0].energy.sum() == pytest.approx(20, rel=1e-5)
    assert voxels[0].z[0] == 602


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (in_mm, r"dE/dx below 0\.204 MeV/cm .*; about 2.1 is expected.*span \[0\.0, 0\.0, 104\.\d\] cm"),
        (all_in_mm, r"dE/dx below 0\.204 MeV/cm"),
        (no_dx(in_mm), r"dE/dx below 0\.204 MeV/cm"),
        (lambda tables: tables["mc_hdr"]["Enu"].fill(7500), "Enu and nu_4mom disagree"),
        (lambda tables: tables.update(mc_stack=stack_rows(NEW, [(7, 1)], 0.1)), "neither 1 .GeV. nor 1000"),
        (lambda tables: tables.update(mc_hdr=header_rows(NEW, [(7, 1), (7, 1)])), "several rows for event 7, vertex 1"),
        (lambda tables: tables.update(mc_hdr=header_rows(OLD | {"event": "event_id"}, [(7, 0)])), "has no column"),
    ],
)  # fmt: skip
def test_contradictions_are_refused(tmp_path, detector, edit, message):
    with pytest.raises(InputError, match=message):
        convert(write_file(tmp_path / "a.h5", edit=edit), detector)


def test_long_tracks_that_lose_ten_times_too_much_are_refused(tmp_path, detector):
    path = write_file(tmp_path / "a.h5", segments=60, edit=times(10, "dE"))
    with pytest.raises(InputError, match=r"dE/dx below 20\.\d MeV/cm"):
        convert(path, detector)


def test_vertices_in_the_rock_are_not_taken_for_another_unit(tmp_path, detector):
    def edit(tables):
        tables["mc_hdr"]["z_vert"] = -3000

    events, _ = convert(write_file(tmp_path / "a.h5", edit=edit), detector)
    assert events["vertex_mm"][:, 2].tolist() == [-30000] * 3


def test_units_named_in_the_file_are_heeded(tmp_path, detector):
    path = write_file(tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        file["segments"].attrs["units"] = "positions [cm], deposits [MeV]"
    convert(path, detector)
    with h5py.File(path, "r+") as file:
        file["segments"].attrs["units"] = ["mm", "MeV"]
    with pytest.raises(InputError, match="an attribute names mm, but lengths are in cm"):
        convert(path, detector)


def test_files_that_are_no_whole_larndsim_files(tmp_path, detector):
    path = tmp_path / "a.h5"
    with pytest.raises(InputError, match="no such file"):
        convert(path, detector)
    for content in (b"", b"text"):
        path.write_bytes(content)
        with pytest.raises(InputError, match="not HDF5, empty or truncated"):
            convert(path, detector)
    whole = write_file(path).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="truncated"):
        convert(path, detector)
    with pytest.raises(InputError, match="'segments' is empty"):
        convert(write_file(path, (), header=False), detector)
    with h5py.File(path, "w") as file:
        file["hits"] = np.zeros(3)
    with pytest.raises(InputError, match=r"no table 'segments' \(found: hits\)"):
        convert(path, detector)
    with h5py.File(path, "w") as file:
        file["segments"] = np.zeros(3, dtype=[("event_id", "u4"), ("dE", "f4")])
    with pytest.raises(InputError, match="no column x_start"):
        convert(path, detector)
    with h5py.File(path, "w") as file:
        file["segments"] = np.zeros(3)
    with pytest.raises(InputError, match="has no named columns"):
        convert(path, detector)


def test_damaged_bytes_of_the_segments_are_noticed(tmp_path, detector):
    path = write_file(tmp_path / "a.h5")
    with h5py.File(path) as file:
        chunk = file["segments"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    path.write_bytes(content)
    with pytest.raises(InputError, match="of 'segments' cannot be read"):
        convert(path, detector)


def test_recombination_is_of_each_segment(tmp_path, detector):
    model = Recombination(model="modified_box")
    _, voxels = convert(write_file(tmp_path / "a.h5"), detector, recombination=model)
    expected = 20 * model.survival(np.array([2.0]))[0] / model.survival(np.array([2.1]))[0]
    assert voxels[0].energy.sum() == pytest.approx(expected, rel=1e-5)


@pytest.mark.skipif(not SHARED.exists(), reason="needs the sample files")
def test_real_edepsim_events_keep_their_energy(detector, tmp_path):
    source = SHARED / "larndsim" / "edepsim_mixed.h5"
    with h5py.File(source) as file:
        segments = file["segments"][:]
    path = tmp_path / "a.h5"
    path.write_bytes(source.read_bytes())
    events, voxels = convert(path, detector, (0, 0, 3500))
    assert events["event_id"].tolist() == list(range(100))
    expected = np.bincount(segments["eventID"], segments["dE"].astype(np.float64))
    np.testing.assert_allclose([block.energy.sum(dtype=np.float64) for block in voxels], expected, rtol=1e-5)


def test_any_flipped_byte_is_either_harmless_or_told(tmp_path, detector):
    whole = write_file(tmp_path / "a.h5", stack=True)
    any_flipped_byte_is_harmless_or_named(whole, lambda path: convert(path, detector, on_bad_event="skip"), 100)


def doubled(tables):
    """The file merged with itself."""
    for name in tables:
        tables[name] = np.concatenate([tables[name]] * 2)


def test_merged_files_are_numbered_by_place_with_their_numbers_kept(tmp_path, detector):
    path = write_file(tmp_path / "a.h5", ((5, 1), (6, 1)), edit=doubled)
    events, voxels = convert(path, detector)
    assert events["event_id"].tolist() == [0, 1, 2, 3]
    assert [block.energy.sum() for block in voxels] == pytest.approx([20] * 4)
    with h5py.File(tmp_path / "a.voxels.h5") as file:
        numbers = file["truth/numbers"][:]
    assert numbers["event"].tolist() == [5, 6, 5, 6]
    assert numbers["file"].tolist() == [0, 0, 1, 1]


def test_ids_that_do_not_meet_are_refused(tmp_path, detector):
    def edit(tables):
        tables["mc_hdr"]["event_id"] += 100
        tables["mc_hdr"]["z_vert"] = [100, 200, 400]

    with pytest.raises(InputError, match=r"numbers of 'mc_hdr' and of the segments do not meet: 0 of 3"):
        convert(write_file(tmp_path / "a.h5", edit=edit), detector)


@pytest.mark.parametrize("zbeam", [True, False])
def test_an_attribute_against_the_evidence_is_refused(tmp_path, detector, zbeam):
    def edit(tables):
        if zbeam:
            rows = tables["segments"]
            for end in ("start", "end"):
                rows[f"x_{end}"], rows[f"z_{end}"] = rows[f"z_{end}"].copy(), rows[f"x_{end}"].copy()

    path = write_file(tmp_path / "a.h5", edit=edit)
    with h5py.File(path, "r+") as file:
        file["segments"].attrs["zbeam"] = zbeam
    with pytest.raises(InputError, match=r"vertices lie at the charge.*input\.axes"):
        convert(path, detector)
