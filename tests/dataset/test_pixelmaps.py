"""Pixel maps: where the window lies, how energy becomes grey, and what is refused when reading."""

import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from nuvlm.base.errors import InputError
from nuvlm.base.files import write_json
from nuvlm.base.manifest import write_manifest
from nuvlm.base.stores import open_store
from nuvlm.dataset.event_table import read_events
from nuvlm.dataset.list_events import list_events
from nuvlm.dataset.pixelmaps import check_images, open_pixel_maps
from nuvlm.detector.crop import choose_centres, crop, crop_displays
from nuvlm.detector.displays import smear_and_downsample
from nuvlm.detector.geometry import CENTRES, Diffusion
from nuvlm.detector.grayscale import grayscale
from nuvlm.detector.readout import Readout
from nuvlm.detector.voxels import Event, Voxels, write_shard
from stores import read_pixel_maps

SETTINGS = {"size": 64, "centre": "vertex", "transfer": "log", "white_mev": 200, "knee_mev": 1}
ORIGIN = np.array([-1000.0, -1000.0, 0.0])


def make_pixel_maps(shard: Path, detector, **changes) -> Path:
    displays, out = shard.with_suffix(".displays"), shard.with_suffix(".zarr")
    smear_and_downsample(shard, displays, detector=detector, diffusion=Diffusion(), pixel_mm=50)
    crop_displays(displays, out, **(SETTINGS | changes))
    return out


def test_grayscale_by_hand():
    energy = np.array([0, 1, 14, 200, 1000.0])
    linear = grayscale(energy, transfer="linear", white_mev=200, knee_mev=1)
    assert linear.tolist() == [0, 1, 18, 255, 255]
    log = grayscale(energy, transfer="log", white_mev=200, knee_mev=1)
    assert log.tolist() == [0, round(255 * np.log(2) / np.log(201)), round(255 * np.log(15) / np.log(201)), 255, 255]


@pytest.mark.parametrize(("row", "column"), [(0, 0), (20, 70), (39, 139), (-10, 5), (200, 500)])
@pytest.mark.parametrize("size", [16, 64, 512])
def test_crop_equals_padding_all_around(row, column, size):
    view = np.random.default_rng(0).random((40, 140))
    padded = np.pad(view, 1024)
    top, left = 1024 + row - size // 2, 1024 + column - size // 2
    np.testing.assert_array_equal(crop(view, row, column, size), padded[top : top + size, left : left + size])


def displays_of(points: dict[tuple[int, int, int], float], shape=(40, 40, 140)) -> tuple[np.ndarray, np.ndarray]:
    """Displays (1, x or y, z) of charge in single pixels (x, y, z)."""
    xz, yz = np.zeros((1, shape[0], shape[2]), np.float32), np.zeros((1, shape[1], shape[2]), np.float32)
    for (x, y, z), energy in points.items():
        xz[0, x, z] += energy
        yz[0, y, z] += energy
    return xz, yz


def centre_of(points, vertex=(np.nan,) * 3, size: int = 64, **settings) -> tuple[list[int], str, float]:
    where = {"origin_mm": ORIGIN, "pixel_mm": 50.0, "size": size}
    pixel, by, share = choose_centres(*displays_of(points), np.array([vertex]), **where, **settings)
    return pixel[0].tolist(), CENTRES[by[0]], float(share[0])


TRACK = {(20 + i // 2, 15, 50 + i): 10.0 for i in range(16)}


def test_windows_are_centred_on_what_is_asked_for():
    vertex = (20.0, -240.0, 2510.0)
    assert centre_of(TRACK, vertex, centre="vertex") == ([20, 15, 50], "vertex", 1.0)
    assert centre_of(TRACK, vertex, centre="charge") == ([20, 15, 50], "charge", 1.0)
    # the mean of rows 20, 20, 21, ... 27, 27 and of columns 50 to 65, each plus half a pixel
    assert centre_of(TRACK, vertex, centre="centroid") == ([24, 15, 58], "centroid", 1.0)


@pytest.mark.parametrize("vertex", [(np.nan,) * 3, (0, 0, np.inf), (0, 0, -30_000), (1e30, 0, 0), (0, 0, 6500)])
def test_without_a_vertex_near_the_charge_the_window_is_centred_by_the_charge(vertex):
    assert centre_of(TRACK, vertex, centre="vertex") == ([20, 15, 50], "charge", 1.0)


def test_the_truth_is_not_looked_at_when_the_window_is_centred_by_the_charge():
    known = centre_of(TRACK, (20.0, -240.0, 2510.0), centre="charge")
    assert known == centre_of(TRACK, (np.nan,) * 3, centre="charge") == centre_of(TRACK, (0, 0, -3e4), centre="charge")


def test_a_window_holds_half_of_what_a_window_of_its_size_can():
    # Twice the charge lies beyond the reach of a window around the first, brightest pixel.
    far = {(10, 10, 20): 90.0} | {(10, 10, 60 + i): 10.0 for i in range(20)}
    pixel, by, share = centre_of(far, (-475, -475, 1025), centre="vertex", size=32)
    assert (by, share) == ("charge", pytest.approx(160 / 290))
    assert pixel == [10, 10, 60]
    # A track longer than the window is not a bad event, although most of it is outside of any window.
    long = {(10, 10, i): 10.0 for i in range(140)}
    pixel, by, share = centre_of(long, (-475, -475, 25), centre="vertex", size=32)
    assert (by, pixel, share) == ("vertex", [10, 10, 0], 16 / 140)


def test_a_cosmic_muon_does_not_move_the_window_from_a_vertex_in_the_detector():
    neutrino, muon = {(10, 10, 20): 90.0}, {(10, 10, 60 + i): 20.0 for i in range(20)}
    vertex, settings = (-475, -475, 1025), {"centre": "vertex", "size": 32, "with_muons": np.array([True])}
    assert centre_of(neutrino | muon, vertex, **settings) == ([10, 10, 20], "vertex", pytest.approx(90 / 490))
    # In the rock, or with nothing around it, it is of no use.
    for elsewhere in ((-475, -475, -100), (-475, -475, 6500), (475, 475, 1025), (np.nan,) * 3):
        assert centre_of(neutrino | muon, elsewhere, **settings)[1] == "charge", elsewhere


def test_a_shard_with_muons_keeps_its_vertex_windows(tmp_path, detector):
    z = np.array([200, *range(600, 800, 10)], dtype=np.uint16)
    x, y = np.full_like(z, 500), np.full_like(z, 100)
    voxels = Voxels(x, y, z, np.array([90.0] + [20.0] * 20, dtype=np.float32))
    shard = tmp_path / "a.h5"
    write_shard(shard, detector, [Event(7, voxels, vertex_mm=(-499.5, -497.5, 1002.5))])
    assert open_pixel_maps(make_pixel_maps(shard, detector, size=32))["centred_by"][0] == CENTRES.index("charge")
    with h5py.File(shard, "r+") as file:
        columns = [("event_id", "u8"), ("visible_mev", "f8"), ("edge_mev", "f8")]
        file["truth/cosmics"] = np.array([(7, 400.0, 0.0)], dtype=columns)
    store = open_pixel_maps(make_pixel_maps(shard, detector, size=32))
    assert store["centred_by"][0] == CENTRES.index("vertex")
    assert store.attrs["displays"]["with_muons"] == [7]


@pytest.mark.parametrize("centre", ["charge", "vertex", "centroid"])
def test_an_event_without_charge_has_no_window(centre):
    assert np.isnan(centre_of({}, (0, 0, 3000), centre=centre)[2])
    assert np.isnan(centre_of({}, centre=centre)[2])


def test_store_holds_the_cropped_display(make_shard, detector):
    out = make_pixel_maps(make_shard(), detector)
    store = open_pixel_maps(out)
    images = store["images"]
    assert (images.shape, images.dtype, images.chunks) == ((6, 2, 64, 64), np.uint8, (1, 2, 64, 64))
    assert (out / "images/c/0/0/0/0").is_file()
    assert store.attrs["views"] == ["xz", "yz"]
    display = open_store(out.with_suffix(".displays"), "nuvlm-displays")
    for i, view in enumerate(("xz", "yz")):
        # the vertex (0, 0, 3000) lies in pixel (20, 20, 60), which comes to row and column 32
        expected = grayscale(crop(display[view][2], 20, 60, 64), transfer="log", white_mev=200, knee_mev=1)
        np.testing.assert_array_equal(images[2, i], expected)
    np.testing.assert_allclose(store["corner_mm"][0], ORIGIN + 50 * (np.array([20, 20, 60]) - 32))


@pytest.mark.parametrize("centre", CENTRES)
@pytest.mark.parametrize(("pixel_mm", "size"), [(50, 32), (5, 64), (5, 480)])
def test_pixel_maps_are_the_cropped_and_grey_displays(make_shard, detector, tmp_path, centre, pixel_mm, size):
    displays, out = tmp_path / "d.zarr", tmp_path / "m.zarr"
    readout = Readout(noise_mev=0.05, threshold_mev=0.02, dead_channels=0.1, electron_lifetime_us=2000)
    how = {"detector": detector, "diffusion": Diffusion(), "readout": readout, "pixel_mm": pixel_mm}
    smear_and_downsample(make_shard(), displays, **how)
    crop_displays(displays, out, **(SETTINGS | {"centre": centre, "size": size, "on_bad_event": "skip"}))
    display, maps = open_store(displays, "nuvlm-displays"), open_pixel_maps(out)
    dense = dict(zip(display["event_id"][:], zip(display["xz"][:], display["yz"][:], strict=True), strict=True))
    assert maps["images"].shape[0]
    for row, event in enumerate(maps["event_id"][:]):
        x, y, z = np.rint((maps["corner_mm"][row] - ORIGIN) / pixel_mm).astype(int) + size // 2
        shares = []
        for image, view, line in zip(maps["images"][row], dense[event], (x, y), strict=True):
            window = crop(view, line, z, size)
            np.testing.assert_array_equal(image, grayscale(window, transfer="log", white_mev=200, knee_mev=1))
            shares.append(window.sum(dtype=np.float64) / view.sum(dtype=np.float64))
        assert maps["window_share"][row] == pytest.approx(min(shares), rel=1e-12)
        if centre == "centroid" and CENTRES[maps["centred_by"][row]] == centre:
            totals = [view.sum(dtype=np.float64) for view in dense[event]]
            means = [
                (profile * (np.arange(len(profile)) + 0.5)).sum(dtype=np.float64) / total
                for profile, total in (
                    (dense[event][0].sum(axis=1, dtype=np.float64), totals[0]),
                    (dense[event][1].sum(axis=1, dtype=np.float64), totals[1]),
                    (dense[event][0].sum(axis=0, dtype=np.float64), totals[0]),
                )
            ]
            assert [x, y, z] == np.floor(means).astype(int).tolist()


def test_stores_without_their_centre_are_refused(make_shard, detector):
    store = make_pixel_maps(make_shard(), detector)
    metadata = json.loads((store / "zarr.json").read_text())
    del metadata["attributes"]["centre"]
    (store / "zarr.json").write_text(json.dumps(metadata))
    (store / "manifest.json").unlink()
    write_manifest(store)
    with pytest.raises(InputError, match=r"not pixel maps; centre missing\. Remove .* and rerun"):
        open_pixel_maps(store)


def faint_shard(path: Path, detector, make_voxels) -> Path:
    """Events 1 to 5: the second has a millionth of its charge, which no pixel map shows; no vertex is known."""
    events = [Event(i, make_voxels(i)) for i in range(1, 6)]
    voxels = events[1].voxels
    events[1] = replace(events[1], voxels=replace(voxels, energy=voxels.energy * np.float32(1e-6)))
    write_shard(path, detector, events)
    return path


def test_black_pixel_maps_are_refused_or_left_out_and_counted(make_voxels, detector, tmp_path, caplog):
    shard = faint_shard(tmp_path / "a.h5", detector, make_voxels)
    with pytest.raises(InputError, match=r"a\.displays: the pixel maps of event 2 are black.*on_bad_event to skip"):
        make_pixel_maps(shard, detector)
    assert not (tmp_path / "a.zarr").exists()
    store = open_pixel_maps(make_pixel_maps(shard, detector, on_bad_event="skip"))
    assert store["event_id"][:].tolist() == [1, 3, 4, 5]
    for name in ("images", "corner_mm", "visible_energy", "edge_energy", "centred_by", "window_share"):
        assert store[name].shape[0] == 4
    assert store["images"][:].any(axis=(1, 2, 3)).all()
    assert "1 of 5 events left out; the first: the pixel maps of event 2 are black" in caplog.text
    assert "4 of 4 events have no usable vertex and are centred by their charge (first: event 1)" in caplog.text
    list_events(
        {"a": shard}, {"a": tmp_path / "a.zarr"}, tmp_path / "e", detector=detector, validation=0.1, test=0.1, seed=7,
        parts=1, train=False, on_bad_event="skip",
    )  # fmt: skip
    table = read_events(tmp_path / "e")
    assert table["event_id"].tolist() == [1, 3, 4, 5]
    assert table["row"].tolist() == [0, 1, 2, 3]
    assert table["centred_by"].tolist() == ["charge"] * 4
    assert table["window_share"].gt(0.5).all()


def test_a_store_in_which_all_events_are_bad_is_an_error(make_voxels, detector, tmp_path):
    shard = faint_shard(tmp_path / "a.h5", detector, make_voxels)
    with pytest.raises(InputError, match=r"none of its 5 events can be used; the pixel maps of event 1 are black"):
        make_pixel_maps(shard, detector, on_bad_event="skip", transfer="linear", white_mev=1e9)


def test_the_same_maps_without_truth(make_shard, detector):
    known, unknown = (make_shard(name, truth=truth) for name, truth in (("a", True), ("b", False)))
    stores = [open_pixel_maps(make_pixel_maps(shard, detector, centre="charge")) for shard in (known, unknown)]
    for name in ("images", "corner_mm", "event_id", "centred_by", "window_share"):
        np.testing.assert_array_equal(stores[0][name][:], stores[1][name][:])


def table_of(events: list[tuple[str, int]]) -> pd.DataFrame:
    return pd.DataFrame(
        {"shard": [s for s, _ in events], "row": [i for _, i in events], "event_id": [i for _, i in events]}
    )


def test_reading_keeps_the_order_of_the_table(make_shard, detector):
    stores = {name: make_pixel_maps(make_shard(name), detector) for name in "ab"}
    stores["b"] = make_pixel_maps(make_shard("b", first=0, n=4), detector)
    order = [("b", 3), ("a", 5), ("a", 0), ("b", 1)]
    images = read_pixel_maps(stores, table_of(order))
    for image, (shard, row) in zip(images, order, strict=True):
        np.testing.assert_array_equal(image, open_pixel_maps(stores[shard])["images"][row])


def test_a_store_of_other_events_is_refused(make_shard, detector):
    store = make_pixel_maps(make_shard(first=3), detector)
    with pytest.raises(InputError, match="does not hold the events"):
        read_pixel_maps({"a": store}, table_of([("a", 0)]))


def test_missing_empty_truncated_and_altered_files_never_read_as_zeros(make_shard, detector):
    store = make_pixel_maps(make_shard(), detector)
    for file in sorted(file for file in store.rglob("*") if file.is_file() and file.name != "manifest.json"):
        content = file.read_bytes()
        flipped = bytearray(content)
        flipped[len(flipped) // 2] ^= 1
        for bad in (None, b"", content[:-1], bytes(flipped)):
            file.unlink(missing_ok=True)
            if bad is not None:
                file.write_bytes(bad)
            with pytest.raises(InputError, match=r"rerun"):
                open_pixel_maps(store)["images"][:]
        file.write_bytes(content)
    open_pixel_maps(store)


def test_a_model_refuses_pixel_maps_unlike_those_it_has_seen(make_shard, detector, tmp_path):
    store = make_pixel_maps(make_shard(), detector)
    seen = {"views": ["xz", "yz"], "size": 64, "pixel_mm": 50, "centre": "vertex"}
    seen |= {"transfer": "log", "white_mev": 200, "knee_mev": 1}
    write_json(tmp_path / "training.json", {"images": seen})
    check_images({"a": store}, tmp_path / "training.json")
    write_json(tmp_path / "training.json", {"images": seen | {"white_mev": 100}})
    with pytest.raises(InputError, match="white_mev is 200, the model was trained with 100"):
        check_images({"a": store}, tmp_path / "training.json")
    write_json(tmp_path / "training.json", {"images": seen | {"centre": "charge"}})
    with pytest.raises(InputError, match=r"centre is vertex, the model was trained with charge.*Set display"):
        check_images({"a": store}, tmp_path / "training.json")
    write_json(tmp_path / "training.json", {"images": seen})
    assert check_images({"a": store}, tmp_path / "training.json", 1)["zoom"] == 1, "where a model does not say, it is 1"
    with pytest.raises(InputError, match=r"zoom is 2, the model was trained with 1.*Set display and pixelmap"):
        check_images({"a": store}, tmp_path / "training.json", 2)
    write_json(tmp_path / "training.json", {"images": seen | {"zoom": 3}})
    assert check_images({"a": store}, tmp_path / "training.json", 3)["zoom"] == 3
    with pytest.raises(InputError, match=r"with pixelmap.zoom 65, pixel maps of 64 .* Set pixelmap.zoom to 64 or less"):
        check_images({"a": store}, tmp_path / "training.json", 65)
    old = {key: value for key, value in seen.items() if key != "centre"}
    write_json(tmp_path / "training.json", {"images": old})
    with pytest.raises(InputError, match=r"does not say with which centre .* Remove .* and rerun"):
        check_images({"a": store}, tmp_path / "training.json")
    write_json(tmp_path / "training.json", {"images": seen | {"source": "png"}})
    with pytest.raises(InputError, match="source is None, the model was trained with png"):
        check_images({"a": store}, tmp_path / "training.json")
