"""MicroBooNE's open data: which pixels hits become, which hits and truth belong to an event, and what is refused."""

import json
import logging

import h5py
import numpy as np
import pandas as pd
import pytest

from memory import MB, at_most
from microboone_file import TICKS, WIRES, make_events, write_microboone
from nuvlm.base.errors import InputError
from nuvlm.dataset.pixelmaps import image_settings, open_pixel_maps
from nuvlm.detector.grayscale import grayscale
from nuvlm.sources import numl
from nuvlm.sources.microboone import PLANES, convert_microboone, recognise_microboone
from nuvlm.sources.ready_maps import PixelMapWriter
from nuvlm.sources.wire_maps import WireMaps
from nuvlm.sources.wire_pixels import WirePixels

PIXELS = WirePixels(pixel_wires=54, pixel_ticks=160, white_adc=9000)
SIZE = 64


def convert(path, on_bad_event="error", **settings):
    store, truth = path.parent / "out" / "maps.zarr", path.parent / "out" / "maps.parquet"
    settings = {"wires": PIXELS} | settings
    convert_microboone(path, PixelMapWriter(store=store, truth=truth, on_bad_event=on_bad_event, **settings))
    return open_pixel_maps(store), pd.read_parquet(truth)


def drawn_slowly(hits, pixels=PIXELS, views="uvy", size=SIZE):
    """The maps of an event's hits, by histograms."""
    images = []
    for plane in ("uvy".index(view) for view in views):
        on = hits["local_plane"] == plane
        edges = [np.arange(size + 1) * side for side in (pixels.pixel_ticks, pixels.pixel_wires)]
        time, wire = hits["local_time"][on].astype(np.float32), hits["local_wire"][on]
        sums, _, _ = np.histogram2d(time, wire, edges, weights=hits["integral"][on].astype(np.float32))
        images.append(grayscale(sums, transfer="linear", white_mev=pixels.white_adc, knee_mev=1.0))
    return np.array(images)


def of_event(tables, index):
    key = tables["event_table"]["event_id"][index]
    mine = (tables["hit_table"]["event_id"] == key).all(axis=1)
    return {name: values[mine] for name, values in tables["hit_table"].items()}


@pytest.mark.parametrize("sequence", ["seq_cnt", "seq", None])
def test_hits_become_views_of_wires_and_time_with_their_truth(tmp_path, sequence):
    tables = make_events(12)
    path = write_microboone(tmp_path / "a.h5", tables, sequence=sequence)
    store, truth = convert(path)
    assert store.attrs["views"] == ["u", "v", "y"]
    assert store["images"].shape == (12, 3, SIZE, SIZE)
    for i in range(12):
        np.testing.assert_array_equal(store["images"][i], drawn_slowly(of_event(tables, i)))
    events = tables["event_table"]
    assert truth["class"].tolist() == 2 * ["nue_cc", "numu_cc", "nc", "numu_cc", "nc", "nue_cc"]
    assert truth["nu_pdg"].tolist() == events["nu_pdg"].tolist()
    assert truth["is_cc"].tolist() == events["is_cc"].tolist()
    np.testing.assert_allclose(truth["nu_energy"], events["nu_energy"], rtol=1e-6)
    np.testing.assert_allclose(truth["inelasticity"], 1 - events["lep_energy"] / events["nu_energy"], rtol=1e-5)
    np.testing.assert_allclose(truth[[f"vertex_{axis}_mm" for axis in "xyz"]], 10 * events["nu_vtx"], rtol=1e-6)
    assert truth["event_id"].tolist()[:2] == [7003_01300_0067260, 7003_01300_0067261]
    assert truth["name"].tolist()[4] == "7003/1301/67264"
    evidence = {one["subject"]: one["evidence"] for one in json.loads(store.attrs["conclusions"])}
    assert evidence["events"] == f"event_id{f' and event_id.{sequence}' if sequence else ''} of 'hit_table'"
    assert "cm from the true vertex" not in evidence.get("hits", ""), "too few events to say so"


def test_a_hit_by_hand(tmp_path):
    tables = make_events(1)
    hits = {
        "local_plane": [0, 0, 0, 2, 2, 2],
        "local_wire": [0, 53, 54, 3455, 3455, 100],
        "local_time": [0.0, 159.9, 160.0, 6399.9, 6250.0, 3000.5],
        "integral": [900.0, 900.0, 90.0, 8000.0, 4000.0, 0.0],
    }
    tables["hit_table"] = {name: np.array(values) for name, values in hits.items()}
    tables["hit_table"]["event_id"] = np.repeat(tables["event_table"]["event_id"], 6, axis=0)
    image = convert(write_microboone(tmp_path / "a.h5", tables))[0]["images"][0]
    assert {tuple(map(int, at)): int(image[tuple(at)]) for at in np.argwhere(image)} == {
        (0, 0, 0): 51,  # 1800 of 9000 ADC; time in rows, wires in columns
        (0, 1, 1): 3,
        (2, 39, 63): 255,
    }


@pytest.mark.parametrize("pixels", [WirePixels(), WirePixels(pixel_wires=3, pixel_ticks=7, white_adc=300)])
@pytest.mark.parametrize("views", ["uvy", "y", "vu"])
def test_the_kernel_agrees_with_histograms_in_every_event(pixels, views):
    maps = WireMaps(PLANES, list(views), pixels)
    tables = make_events(4, hits=3000)
    for i in range(4):
        hits = of_event(tables, i)
        columns = [hits["local_plane"].astype(np.int32), hits["local_wire"].astype(np.int32)]
        columns += [hits[name].astype(np.float32) for name in ("local_time", "integral")]
        image, left_out = maps.draw(*columns)
        assert not left_out.any()
        np.testing.assert_array_equal(image, drawn_slowly(hits, pixels, views, maps.size))


def test_views_are_chosen_in_any_order_and_all_others_are_named(tmp_path):
    tables = make_events(3)
    path = write_microboone(tmp_path / "a.h5", tables)
    store, _ = convert(path, views=("y", "u"))
    np.testing.assert_array_equal(store["images"][2], drawn_slowly(of_event(tables, 2), views="yu"))
    with pytest.raises(InputError, match="has no view z; it has u, v, y"):
        convert(path, views=("z",))


def test_the_pixels_are_settings_that_models_compare_and_the_axes_are_labelled(tmp_path):
    path = write_microboone(tmp_path / "a.h5", make_events(3))
    store, _ = convert(path, wires=WirePixels())
    assert store["images"].shape[1:] == (3, 432, 432), "all wires of the collection plane"
    assert dict(store.attrs["axes"]) == {
        "columns": "wire", "rows": "time tick", "columns_per_pixel": 8, "rows_per_pixel": 44, "up": True,
    }  # fmt: skip
    (tmp_path / "other").mkdir()
    write_microboone(tmp_path / "other" / "a.h5", make_events(3))
    convert(tmp_path / "other" / "a.h5", wires=WirePixels(white_adc=6001))
    stores = {"one": tmp_path / "out" / "maps.zarr", "two": tmp_path / "other" / "out" / "maps.zarr"}
    assert image_settings({"one": stores["one"]})["geometry"]["pixel_mm"] == [24.0, 24.154]
    with pytest.raises(InputError, match="All of a run must be alike"):
        image_settings(stores)


def test_neutrinos_without_a_class_are_kept_without_one(tmp_path, caplog):
    tables = make_events(12)
    events = tables["event_table"]
    events["nu_pdg"][:5], events["is_cc"][:5] = [0, -999, -16, 16, 14], [-1, 0, 1, 0, -9]
    events["nu_vtx"][5], events["nu_vtx"][6] = [-30, 0, 500], [100, 0, 1100]
    _, truth = convert(write_microboone(tmp_path / "a.h5", tables))
    assert truth["class"].fillna("none").tolist()[:8] == 3 * ["none"] + ["nc"] + 3 * ["none"] + ["numu_cc"]
    assert truth["word"].fillna("unknown").tolist()[:7] == [
        "unknown", "unknown", "nutau", "nc", "unknown", "outside the TPC", "outside the TPC",
    ]  # fmt: skip
    assert truth["nu_pdg"].tolist()[:5] == [0, 0, -16, 16, 0]
    assert truth["nu_energy"].isna().tolist()[:5] == [True, True, False, False, True]
    assert "6 events belong to none of the three classes (no truth: 3, outside the TPC: 2, nutau: 1)" in caplog.text


def test_real_data_have_no_truth_and_get_predictions(tmp_path, caplog):
    tables = make_events(5)
    tables["event_table"] = {"event_id": tables["event_table"]["event_id"]}
    _, truth = convert(write_microboone(tmp_path / "a.h5", tables))
    assert truth["class"].isna().all()
    assert truth[["nu_energy", "inelasticity", "vertex_x_mm"]].isna().all(axis=None)
    assert "5 events belong to none of the three classes (no truth: 5)" in caplog.text


def test_truth_that_cannot_be_is_unknown_and_counted(tmp_path, caplog):
    tables = make_events(12)
    events = tables["event_table"]
    events["nu_energy"][:3] = [np.nan, -1, 1e30]
    events["lep_energy"][3:5] = [9, -1]
    events["nu_vtx"][5:7, 1] = [1e30, np.nan]
    _, truth = convert(write_microboone(tmp_path / "a.h5", tables))
    assert truth["nu_energy"].isna().tolist() == 3 * [True] + 9 * [False]
    assert truth["inelasticity"].isna().tolist() == 5 * [True] + 7 * [False]
    assert truth["vertex_z_mm"].isna().tolist() == 5 * [False] + 2 * [True] + 5 * [False]
    assert truth["class"].notna().all()
    for text in ("3 of 12 neutrino energies", "2 of 12 lepton energies", "2 of 12 vertices"):
        assert text in caplog.text


@pytest.mark.parametrize(("column", "other"), [("nu_vtx", "nu_vtx"), ("nu_vtx_corr", "nu_vtx_wire_pos")])
def test_vertices_that_disagree_with_each_other_are_not_used(tmp_path, caplog, column, other):
    tables = make_events(24)
    tables["event_table"][column] = tables["event_table"][column] * [1, 1, 0.5]
    _, truth = convert(write_microboone(tmp_path / "a.h5", tables))
    assert f"cm from {other} (median of 24 events): are they in cm" in caplog.text
    assert truth["vertex_x_mm"].isna().all()
    assert truth["class"].notna().all()


def test_charge_must_touch_its_vertex(tmp_path):
    tables = make_events(24, hits=2400)
    store, _ = convert(write_microboone(tmp_path / "a.h5", tables))
    evidence = {one["subject"]: one["evidence"] for one in json.loads(store.attrs["conclusions"])}
    assert "cm from the true vertex (median of 16 events, worst plane)" in evidence["hits"]
    tables["hit_table"]["local_time"] = tables["hit_table"]["local_time"] / 10
    with pytest.raises(InputError, match=r"a\.h5: the nearest hit .*local_time is not in ticks"):
        convert(write_microboone(tmp_path / "a.h5", tables))


@pytest.mark.parametrize("sequence", ["seq_cnt", "seq", None])
def test_merged_files_repeat_numbers_and_are_numbered_by_place(tmp_path, sequence, caplog):
    once = make_events(4)
    merged = {
        table: {name: np.concatenate([values, values]) for name, values in columns.items()}
        for table, columns in once.items()
    }
    merged["hit_table"]["integral"][len(once["hit_table"]["integral"]) :] *= 3
    path = write_microboone(tmp_path / "a.h5", merged, sequence=sequence)
    store, truth = convert(path)
    assert truth["event_id"].tolist() == list(range(8))
    assert truth["name"].tolist()[:4] == truth["name"].tolist()[4:]
    assert store["images"][4:].sum() > 1.5 * store["images"][:4].sum()
    assert "events are numbered by their row" in caplog.text


def test_the_order_of_events_in_the_tables_does_not_matter(tmp_path):
    tables = make_events(6)
    _, expected = convert(write_microboone(tmp_path / "a.h5", tables))
    images = {i: drawn_slowly(of_event(tables, i)) for i in range(6)}
    ids = expected["event_id"].tolist()
    order = [4, 0, 5, 2, 1, 3]
    for name, values in tables["event_table"].items():
        tables["event_table"][name] = values[order]
    store, truth = convert(write_microboone(tmp_path / "a.h5", tables))
    for row, event in enumerate(truth["event_id"]):
        np.testing.assert_array_equal(store["images"][row], images[ids.index(event)])
    pd.testing.assert_frame_equal(truth.sort_values("event_id", ignore_index=True), expected)


@pytest.mark.parametrize("dtype", [np.int64, np.uint16, np.float32, np.float64])
def test_other_types_of_columns_give_the_same(tmp_path, dtype):
    tables = make_events(3)
    images = convert(write_microboone(tmp_path / "a.h5", tables))[0]["images"][:]
    for name in ("local_wire", "local_plane"):
        tables["hit_table"][name] = tables["hit_table"][name].astype(dtype)
    tables["hit_table"]["integral"] = tables["hit_table"]["integral"].astype(np.float32).astype(np.float64)
    np.testing.assert_array_equal(convert(write_microboone(tmp_path / "a.h5", tables))[0]["images"][:], images)


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("integral", -5, "with a charge that cannot be"),
        ("integral", np.nan, "with a charge that cannot be"),
        ("integral", np.inf, "with a charge that cannot be"),
        ("local_wire", 3456, "on a wire that the detector does not have"),
        ("local_wire", -1, "on a wire that the detector does not have"),
        ("local_wire", 2**40, "on a wire that the detector does not have"),
        ("local_plane", 3, "on a wire that the detector does not have"),
        ("local_time", -0.5, "at a time outside the readout"),
        ("local_time", TICKS, "at a time outside the readout"),
        ("local_time", np.nan, "at a time outside the readout"),
    ],
)
def test_hits_that_cannot_be_are_counted_and_many_of_them_are_a_bad_event(tmp_path, column, value, reason, caplog):
    tables = make_events(3)
    begin = 2 * len(tables["hit_table"]["tpc"]) // 3  # the third event
    values = tables["hit_table"][column].astype(np.uint64 if value == 2**40 else float)
    tables["hit_table"][column] = values
    values[begin + 7] = value
    store, _ = convert(write_microboone(tmp_path / "a.h5", tables))
    kept = {name: np.delete(of, 7) for name, of in of_event(tables, 2).items()}
    np.testing.assert_array_equal(store["images"][2], drawn_slowly(kept))
    assert f"hits left out: 1 of 1197 hits {reason}" in caplog.text
    values[begin : begin + 20] = value
    path = write_microboone(tmp_path / "a.h5", tables)
    with pytest.raises(InputError, match=rf"event 7003/1300/67262 has 20 of 399 hits {reason}"):
        convert(path)
    assert convert(path, on_bad_event="skip")[1]["name"].tolist() == ["7003/1300/67260", "7003/1300/67261"]


def _repeat(tables):
    for name, values in tables["hit_table"].items():
        tables["hit_table"][name] = np.concatenate([values[:399], values])


def _drop_hits(tables):
    for name, values in tables["hit_table"].items():
        tables["hit_table"][name] = values[399:]


def _set(table, column, value, where=slice(None)):
    def change(tables):
        tables[table][column] = np.array(tables[table][column])
        tables[table][column][where] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_repeat, "event 7003/1300/67260 has its hits more than once"),
        (_drop_hits, "event 7003/1300/67260 has no hits in 'hit_table'"),
        (_set("hit_table", "integral", 0, slice(399)), "event 7003/1300/67260 has hits, but no charge in them"),
        (_set("hit_table", "tpc", 1, slice(399)), "event 7003/1300/67260 has hits in TPC 1.*another experiment"),
        (_set("event_table", "nu_pdg", 13, 0), "event 7003/1300/67260 has PDG code 13 for its neutrino"),
    ],
)
def test_bad_events_are_named_and_can_be_skipped(tmp_path, change, message):
    tables = make_events(3)
    change(tables)
    path = write_microboone(tmp_path / "a.h5", tables)
    with pytest.raises(InputError, match=message):
        convert(path)
    assert len(convert(path, on_bad_event="skip")[1]) == 2


def _swap_ids(tables):
    ids = tables["hit_table"]["event_id"]
    ids[[100, 600]] = ids[[600, 100]]


def _renumbered(tables):
    tables["hit_table"]["event_id"][:, 0] = 7004
    tables["hit_table"]["event_id.seq_cnt"] = np.array([[0, 399], [1, 399], [2, 399]])


def _stale_counts(tables):
    tables["hit_table"]["event_id.seq_cnt"] = np.array([[0, 399], [1, 390], [2, 408]])


def _short_counts(tables):
    tables["hit_table"]["event_id.seq_cnt"] = np.array([[0, 399], [1, 399]])


def _exchanged_counts(tables):
    tables["hit_table"]["event_id.seq_cnt"] = np.array([[1, 399], [0, 399], [2, 399]])


def _drop(table, column=None):
    def change(tables):
        if column:
            tables[table][column] = None
        else:
            tables[table] = None

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_renumbered, "'hit_table' has rows of 3 of 3 events that the table"),
        (_set("event_table", "event_id", -1, (1, 2)), "numbers cannot be negative"),
        (_swap_ids, "occur 1 times in the table of events, and its rows in 'hit_table' are in 3 places"),
        (_stale_counts, "'hit_table/event_id.seq_cnt' has no new event in row 798"),
        (_short_counts, "counts 798 rows, but the table has 1197"),
        (_exchanged_counts, "has event 1 in row 0 by its event_id.seq or seq_cnt, and run, subrun and event"),
        (_drop("hit_table"), r"no table 'hit_table' \(found: event_table\)"),
        (_drop("event_table"), "no table 'event_table'"),
        (_drop("hit_table", "integral"), r"'hit_table' has no column integral \(found: .*local_plane"),
        (_drop("hit_table", "event_id"), "'hit_table/event_id' must hold three integers"),
        (_set("event_table", "nu_energy", 800), "cannot be in GeV"),
    ],
)
@pytest.mark.parametrize("on_bad_event", ["error", "skip"])
def test_tables_that_do_not_belong_together_are_refused(tmp_path, change, message, on_bad_event):
    tables = make_events(3)
    change(tables)
    with pytest.raises(InputError, match=rf"a\.h5: .*{message}"):
        convert(write_microboone(tmp_path / "a.h5", tables, sequence="seq_cnt"), on_bad_event)
    assert not (tmp_path / "out" / "maps.zarr").exists()
    assert not (tmp_path / "out" / "maps.parquet").exists()


def test_hidden_exchange_of_planes_or_columns_is_noticed(tmp_path):
    tables = make_events(12, hits=1200)
    hits = tables["hit_table"]
    hits["local_plane"] = np.array([2, 1, 0])[hits["local_plane"].astype(int)]
    with pytest.raises(InputError, match="on a wire that the detector does not have"):
        convert(write_microboone(tmp_path / "a.h5", tables))
    tables = make_events(12, hits=1200)
    hits = tables["hit_table"]
    hits["local_time"], hits["local_wire"] = hits["local_wire"].astype(float), hits["local_time"].astype(int)
    with pytest.raises(InputError, match="on a wire that the detector does not have"):
        convert(write_microboone(tmp_path / "a.h5", tables))


def test_columns_of_other_shapes_and_text_are_refused(tmp_path):
    for values in (np.zeros((1197, 2)), np.zeros(1196), np.full(1197, b"12")):
        tables = make_events(3)
        tables["hit_table"]["integral"] = values
        with pytest.raises(InputError, match=r"'hit_table/integral' is .* expected are numbers of shape"):
            convert(write_microboone(tmp_path / "a.h5", tables))


def test_missing_truncated_and_empty_files_are_named(tmp_path):
    path = tmp_path / "a.h5"
    with pytest.raises(InputError, match="no such file"):
        convert(path)
    whole = write_microboone(path, make_events(3)).read_bytes()
    for content in (b"", b"no HDF5", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"a\.h5: not HDF5, or truncated"):
            convert(path, on_bad_event="skip")
        assert recognise_microboone(path) is None
    empty = {table: {name: of[:0] for name, of in columns.items()} for table, columns in make_events(1).items()}
    with pytest.raises(InputError, match="'event_table' has 0 events"):
        convert(write_microboone(path, empty, sequence=None))


def test_it_is_recognised_by_content_and_others_are_not(tmp_path):
    tables = make_events(3)
    path = write_microboone(tmp_path / "anything.dat", tables)
    assert recognise_microboone(path) == "MicroBooNE open data (HDF5 of numl): 3 events, 1197 hits on wires"
    # numl files of a detector with more TPCs or wires
    tables["hit_table"]["tpc"][5] = 1
    assert recognise_microboone(write_microboone(tmp_path / "b.h5", tables)) is None
    tables = make_events(3)
    tables["hit_table"]["local_wire"][5] = max(WIRES)
    assert recognise_microboone(write_microboone(tmp_path / "c.h5", tables)) is None
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["event_table"] = np.zeros(3)
    assert recognise_microboone(tmp_path / "d.h5") is None
    assert recognise_microboone(tmp_path) is None


def test_blocks_of_events_give_what_all_at_once_gives(tmp_path, monkeypatch):
    tables = make_events(9)
    path = write_microboone(tmp_path / "a.h5", tables)
    images = convert(path)[0]["images"][:]
    for rows in (1, 399, 1000):
        monkeypatch.setattr(numl, "BLOCK_ROWS", rows)
        np.testing.assert_array_equal(convert(path)[0]["images"][:], images)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path, monkeypatch):
    logging.disable(logging.INFO)
    monkeypatch.setattr(numl, "BLOCK_ROWS", 2**16)
    few = make_events(20, hits=3000)
    convert(write_microboone(tmp_path / "warm.h5", few))
    n = 40
    many = {
        table: {name: np.concatenate([values] * n) for name, values in columns.items()}
        for table, columns in few.items()
    }
    for table in many.values():
        table["event_id"][:, 0] += np.repeat(np.arange(n), len(table["event_id"]) // n).astype(np.int32)
    path = write_microboone(tmp_path / "a.h5", many, compress=False)
    del many
    with at_most(60 * MB):  # the hits alone are 2.4 million x 36 bytes = 86 MB
        convert(path)
    logging.disable(logging.NOTSET)
