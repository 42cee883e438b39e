"""DUNE CVN maps: HDF5 files and folders of zlib maps, what they say of the truth, and what is refused."""

import gzip
import os
import pickle
import zlib

import h5py
import numpy as np
import pandas as pd
import pytest

from nuvlm.base.errors import InputError
from nuvlm.dataset.pixelmaps import open_pixel_maps
from nuvlm.sources.cvn import convert_cvn
from nuvlm.sources.ready_maps import PixelMapWriter, event_number
from paths import SHARED

SIZE = 24
CLASSES = np.array([b"nue", b"numu", b"nutau", b"nc"])
TRUTH = {
    "label": [4, 1, 10, 13],
    "nu_pdg": [-12, 14, 16, 1],
    "e_nu": [4.0, 3.0, 8.0, 2.0],
    "e_lep": [1.0, 1.5, 6.0, 1.9],
}
INFO = "{label:.0f}\n{e_nu}\n{e_lep}\n0\n0\n0\n0.9\n{nu_pdg:.0f}\n1\n0\n0\n2\n0\n0\n1234\n"


def images(n=4):
    return np.random.default_rng(3).integers(0, 256, (n, 3, SIZE, SIZE), dtype=np.uint8)


def write_hdf5(path, **changes):
    """A file of four events; a change is a data set, None to leave it out."""
    values = {"images": images(), "class": CLASSES} | {f"truth/{name}": np.float32(v) for name, v in TRUTH.items()}
    with h5py.File(path, "w") as file:
        for name, value in (values | changes).items():
            if value is not None:
                file[name] = value
    return path


def write_folder(path):
    path.mkdir()
    for i, maps in enumerate(images()):
        (path / f"event{i}.gz").write_bytes(zlib.compress(maps.tobytes()))
        known = {name: values[i] for name, values in TRUTH.items()}
        (path / f"event{i}.info").write_text(INFO.format(**known))
    return path


def convert(path, views=None, on_bad_event="error"):
    store, truth = path.parent / "out" / "maps.zarr", path.parent / "out" / "maps.parquet"
    convert_cvn(path, PixelMapWriter(store=store, truth=truth, views=views, on_bad_event=on_bad_event))
    return open_pixel_maps(store), pd.read_parquet(truth)


@pytest.mark.parametrize(
    "make", [lambda folder: write_hdf5(folder / "a.h5"), lambda folder: write_folder(folder / "a")]
)
def test_both_forms_give_images_with_the_beam_to_the_right_and_truth(tmp_path, make):
    store, truth = convert(make(tmp_path))
    assert store.attrs["views"] == ["u", "v", "z"]
    # (view, wire, tick) -> (view, tick, wire)
    np.testing.assert_array_equal(store["images"][:], images().transpose(0, 1, 3, 2))
    assert truth["class"].fillna("none").tolist() == ["nue_cc", "numu_cc", "none", "nc"]
    assert truth["nu_pdg"].tolist() == [-12, 14, 16, 0], "a neutral current has no flavour in these files"
    assert truth["is_cc"].tolist() == [1, 1, 1, 0]
    np.testing.assert_allclose(truth["nu_energy"], TRUTH["e_nu"])
    np.testing.assert_allclose(truth["inelasticity"], [0.75, 0.5, 0.25, 0.05], rtol=1e-6)
    assert truth["mode"].tolist() == [1, 3, 4, 0], "QE, resonant, deep inelastic, and unknown for NC"
    assert truth["vertex_z_mm"].isna().all()


def test_ids_are_rows_or_the_files_own_or_made_of_names(tmp_path):
    assert convert(write_hdf5(tmp_path / "a.h5"))[1]["event_id"].tolist() == [0, 1, 2, 3]
    own = write_hdf5(tmp_path / "b.h5", event_id=np.array([9, 2**63, 5, 7], np.uint64))
    assert convert(own)[1]["event_id"].tolist() == [9, 2**63, 5, 7]
    store, truth = convert(write_folder(tmp_path / "c"))
    assert truth["event_id"].tolist() == [event_number(f"event{i}") for i in range(4)]
    assert truth["name"].tolist() == [f"event{i}" for i in range(4)]
    np.testing.assert_array_equal(store["event_id"][:], truth["event_id"])
    with pytest.raises(InputError, match="in row 1 and in row 3 have the same id, 2"):
        convert(write_hdf5(tmp_path / "d.h5", event_id=np.array([1, 2, 3, 2])))


@pytest.mark.parametrize("views", [["z"], ["v", "u"], ["z", "u", "v"]])
def test_views_are_chosen_in_any_order(tmp_path, views):
    store, _ = convert(write_hdf5(tmp_path / "a.h5"), views=views)
    planes = [["u", "v", "z"].index(view) for view in views]
    np.testing.assert_array_equal(store["images"][:], images()[:, planes].transpose(0, 1, 3, 2))
    assert store.attrs["views"] == views
    with pytest.raises(InputError, match="has no view y; it has u, v, z"):
        convert(tmp_path / "a.h5", views=["u", "y"])


def test_truth_may_be_missing_in_part_or_whole(tmp_path, caplog):
    _, truth = convert(write_hdf5(tmp_path / "a.h5", **{"class": None}))
    assert truth["class"].fillna("none").tolist() == ["nue_cc", "numu_cc", "none", "nc"], "from the labels"
    _, truth = convert(write_hdf5(tmp_path / "b.h5", **{f"truth/{name}": None for name in TRUTH}))
    assert truth["class"].fillna("none").tolist() == ["nue_cc", "numu_cc", "none", "nc"], "from the classes"
    assert truth[["nu_energy", "inelasticity"]].isna().all(axis=None)
    folder = write_folder(tmp_path / "c")
    for file in folder.glob("*.info"):
        file.unlink()
    _, truth = convert(folder)
    assert truth["class"].isna().all()
    assert "4 events belong to none of the three classes (no truth: 4)" in caplog.text


def test_an_energy_that_is_not_known_stays_unknown(tmp_path):
    energy = np.float32([np.nan, 0, 8, 2])
    _, truth = convert(write_hdf5(tmp_path / "a.h5", **{"truth/e_nu": energy}))
    assert np.isnan(truth["nu_energy"][0])
    assert truth["inelasticity"].isna().tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": None}, "there is no data set 'images'"),
        ({"images": images().astype(np.float32)}, "float32 .* uint8"),
        ({"images": images()[:, :2]}, r"uint8 \(4, 2, 24, 24\)"),
        ({"images": images(0), "class": CLASSES[:0]}, "'images' is empty"),
        ({"class": CLASSES[:3]}, r"'class' is \(3,\), but there are 4 images"),
        ({"truth/e_nu": np.float32([4000, 3000, 8000, 2000])}, "cannot be in GeV"),
        ({"event_id": np.array([0.5, 1, 2, 3])}, "non-negative integers"),
    ],
)
@pytest.mark.parametrize("on_bad_event", ["error", "skip"])
def test_a_file_of_another_kind_is_refused_whatever_becomes_of_events(tmp_path, changes, message, on_bad_event):
    with pytest.raises(InputError, match=rf"a\.h5: .*{message}"):
        convert(write_hdf5(tmp_path / "a.h5", **changes), on_bad_event=on_bad_event)
    assert not (tmp_path / "out" / "maps.zarr").exists()
    assert not (tmp_path / "out" / "maps.parquet").exists()


def test_missing_truncated_and_empty_files_are_named(tmp_path):
    path = tmp_path / "a.h5"
    with pytest.raises(InputError, match="no such file"):
        convert(path)
    whole = write_hdf5(path).read_bytes()
    for content in (b"", b"no HDF5", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"a\.h5: not HDF5, or truncated"):
            convert(path, on_bad_event="skip")
    (tmp_path / "b").mkdir()
    with pytest.raises(InputError, match=r"no <event>\.gz"):
        convert(tmp_path / "b")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class": np.array([b"nue", b"nc", b"nutau", b"nc"])}, "is nc by its class and numu by its label"),
        ({"truth/nu_pdg": np.float32([12, 12, 16, 1])}, "is numu by its class and has a neutrino of PDG code 12"),
        ({"truth/e_nu": np.float32([4, -3, 8, 2])}, "a neutrino energy of -3"),
    ],
)
def test_truth_that_contradicts_itself_is_a_bad_event(tmp_path, changes, message, caplog):
    path = write_hdf5(tmp_path / "a.h5", **changes)
    with pytest.raises(InputError, match=f"event 1 .*{message}"):
        convert(path)
    store, truth = convert(path, on_bad_event="skip")
    assert truth["event_id"].tolist() == store["event_id"][:].tolist() == [0, 2, 3]
    np.testing.assert_array_equal(store["images"][1], images()[2].transpose(0, 2, 1))
    assert "1 of 4 events cannot be used and were left out" in caplog.text


def _overwrite(name, content):
    return lambda folder: (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_overwrite("event2.gz", zlib.compress(images()[2].tobytes())[:-20]), "truncated"),
        (_overwrite("event2.gz", b"no zlib"), "cannot be read"),
        (_overwrite("event2.gz", zlib.compress(bytes(3 * SIZE * SIZE - 1))), "not 3 squares"),
        (_overwrite("event2.gz", zlib.compress(bytes(60_000_000))), "or larger than 4096"),
        (_overwrite("event2.gz", zlib.compress(bytes(3 * 32 * 32))), "is 32 x 32 pixels, those before are 24 x 24"),
        (_overwrite("event2.info", b"13\n2.5\n"), r"not an \.info file"),
        (_overwrite("event2.info", b"13\nx\n2\n0\n0\n0\n1\n1\n"), r"not an \.info file"),
    ],
)
def test_a_damaged_zlib_map_is_a_bad_event(tmp_path, damage, message):
    folder = write_folder(tmp_path / "a")
    damage(folder)
    with pytest.raises(InputError, match=f"event event2 .*{message}"):
        convert(folder)
    assert convert(folder, on_bad_event="skip")[1]["name"].tolist() == ["event0", "event1", "event3"]


def test_maps_packed_with_gzip_are_read_too(tmp_path):
    folder = write_folder(tmp_path / "a")
    (folder / "event1.gz").write_bytes(gzip.compress(images()[1].tobytes()))
    np.testing.assert_array_equal(convert(folder)[0]["images"][1], images()[1].transpose(0, 2, 1))


@pytest.mark.skipif(not SHARED.exists(), reason="needs the sample files")
def test_real_maps_begin_on_the_left_and_say_what_they_are(tmp_path):
    store, truth = tmp_path / "maps.zarr", tmp_path / "maps.parquet"
    convert_cvn(SHARED / "dune_cvn" / "pixel_maps.h5", PixelMapWriter(store=store, truth=truth))
    table, maps = pd.read_parquet(truth), open_pixel_maps(store)["images"]
    assert maps.shape == (600, 3, 500, 500)
    assert table["class"].value_counts(dropna=False).to_dict() == {"nue_cc": 149, "numu_cc": 149, "nc": 145, pd.NA: 157}
    assert table["inelasticity"].between(0, 1).all()
    filled = (maps[::10] > 0).sum(axis=(0, 1))  # (tick, wire)
    # the beam goes to the right: more charge in the first half of the wires; time is centred
    assert filled[:, :250].sum() > 1.2 * filled[:, 250:].sum()
    assert filled[200:300].sum() > 0.5 * filled.sum()


LABELS = {
    "0": [1, 1, 0, 0, 0, 0, 0],
    "1": [0, 0, 1, 1, 0, 0, 1],
    "2": [0, 2, 2, 0, 0, 0, 0],
    "3": [0, 3, 0, 0, 0, 0, 0],
}
"""The classes of TRUTH as a partition file has them."""


@pytest.mark.parametrize("content", [LABELS, (list(LABELS), LABELS), {f"event{i}": v for i, v in LABELS.items()}])
def test_labels_come_from_a_partition_file_where_there_is_no_info(tmp_path, caplog, content):
    path = write_folder(tmp_path / "a")
    for file in path.glob("*.info"):
        file.unlink()
    assert convert(path)[1]["class"].isna().all()
    (path / "partition.p").write_bytes(pickle.dumps(content))
    truth = convert(path)[1]
    assert truth["class"].fillna("none").tolist() == ["nue_cc", "numu_cc", "none", "nc"]
    assert truth["nu_pdg"].tolist() == [-12, 14, 16, 0]
    assert truth["mode"].tolist() == [1, 3, 4, 0]
    assert truth["nu_energy"].isna().all()


class _Harmful:
    def __reduce__(self):
        return os.system, ("echo harm > harm",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"0": _Harmful()}), "refers to posix.system, and could run code"),
        (pickle.dumps({"0": np.int64(1)}), "refers to numpy"),
        (b"text", "not loaded"),
        (pickle.dumps([1, 2, 3]), "holds no labels by event"),
        (pickle.dumps({"0": [1, 2]}), "event 0 has .*, not 7 numbers"),
        (pickle.dumps({"0": [0, 7, 0, 0, 0, 0, 0]}), "event 0 has impossible labels"),
        (pickle.dumps({"77": LABELS["0"]}), "labels for none of the 4 maps"),
    ],
)
def test_a_partition_file_that_is_more_than_data_or_of_other_maps_is_refused(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    path = write_folder(tmp_path / "a")
    (path / "event0.info").unlink()
    (path / "partition.p").write_bytes(content)
    with pytest.raises(InputError, match=message):
        convert(path)
    assert not (tmp_path / "harm").exists()
