"""Pixel maps: where the window lies, how energy becomes grey, and what is refused when reading."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nuvlm.base.errors import InputError
from nuvlm.base.files import write_json
from nuvlm.base.stores import open_store
from nuvlm.dataset.pixelmaps import check_images, open_pixel_maps
from nuvlm.detector.crop import centre_pixel, crop, crop_displays
from nuvlm.detector.displays import smear_and_downsample
from nuvlm.detector.geometry import Diffusion
from nuvlm.detector.grayscale import grayscale
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


def test_window_is_centred_on_the_vertex_or_else_on_the_centroid():
    xz, yz = np.zeros((40, 140)), np.zeros((40, 140))
    xz[10, 30], yz[35, 30] = 3, 3
    xz[11, 31], yz[36, 31] = 1, 1
    where = {"origin_mm": ORIGIN, "pixel_mm": 50.0}
    vertex = np.array([120.0, -30, 3001])
    assert centre_pixel(xz, yz, vertex, centre="vertex", **where).tolist() == [22, 19, 60]
    assert centre_pixel(xz, yz, vertex, centre="centroid", **where).tolist() == [10, 35, 30]
    assert centre_pixel(xz, yz, np.full(3, np.nan), centre="vertex", **where).tolist() == [10, 35, 30]


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
    seen = {"views": ["xz", "yz"], "size": 64, "pixel_mm": 50, "transfer": "log", "white_mev": 200, "knee_mev": 1}
    write_json(tmp_path / "training.json", {"images": seen})
    check_images({"a": store}, tmp_path / "training.json")
    write_json(tmp_path / "training.json", {"images": seen | {"white_mev": 100}})
    with pytest.raises(InputError, match="white_mev is 200, the model was trained with 100"):
        check_images({"a": store}, tmp_path / "training.json")
    write_json(tmp_path / "training.json", {"images": seen | {"source": "png"}})
    with pytest.raises(InputError, match="source is None, the model was trained with png"):
        check_images({"a": store}, tmp_path / "training.json")
