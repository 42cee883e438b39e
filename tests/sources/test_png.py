"""Folders of PNG pixel maps: names, truth, formats, and what is refused or left out."""

import struct
import zlib

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nuvlm.base.errors import InputError
from nuvlm.dataset.pixelmaps import image_settings, open_pixel_maps
from nuvlm.sources.png import convert_png
from nuvlm.sources.ready_maps import PixelMapWriter, class_of, event_number

SIZE = 20


def image(seed, size=SIZE):
    return np.random.default_rng(seed).integers(0, 256, (size, size), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Events 3, 12 and mu-7, in two views; class words as files have them."""
    path = tmp_path / "maps"
    path.mkdir()
    for i, (name, word) in enumerate((("3", "nuecc\n"), ("12", "NuMu_CC"), ("mu-7", "nc"))):
        for k, view in enumerate(("xz", "yz")):
            Image.fromarray(image(10 * i + k)).save(path / f"{name}_{view}.png")
        (path / f"{name}_pid.txt").write_text(word)
    return path


def convert(folder, views=None, on_bad_event="error"):
    store, truth = folder.parent / "out" / "maps.zarr", folder.parent / "out" / "maps.parquet"
    convert_png(folder, PixelMapWriter(store=store, truth=truth, views=views, on_bad_event=on_bad_event))
    return open_pixel_maps(store), pd.read_parquet(truth).set_index("name")


def test_images_and_truth_of_every_event(folder):
    store, truth = convert(folder)
    assert truth.index.tolist() == ["3", "12", "mu-7"], "by number, then by name"
    assert truth["class"].tolist() == ["nue_cc", "numu_cc", "nc"]
    assert truth["is_cc"].tolist() == [1, 1, 0]
    assert (truth["nu_pdg"] == 0).all(), "neutrino or antineutrino is not known"
    assert truth[["nu_energy", "vertex_x_mm", "n_voxels"]].isna().all(axis=None)
    assert store["event_id"][:].tolist() == truth["event_id"].tolist() == [3, 12, event_number("mu-7")]
    for row in range(3):
        for view in range(2):
            np.testing.assert_array_equal(store["images"][row, view], image(10 * row + view))
    assert all(
        np.isnan(store[name][:]).all() for name in ("corner_mm", "visible_energy", "edge_energy", "window_share")
    )


def test_what_is_not_known_of_the_images_is_null(folder, tmp_path):
    convert(folder)
    settings = image_settings({"maps": tmp_path / "out" / "maps.zarr"})
    assert settings == {
        "views": ["xz", "yz"], "size": SIZE, "pixel_mm": None, "centre": None, "transfer": None, "white_mev": None,
        "knee_mev": None, "source": "png",
    }  # fmt: skip


def test_views_are_those_of_the_folder_or_chosen(folder):
    for name in ("3", "12", "mu-7"):
        Image.fromarray(image(99)).save(folder / f"{name}_uv.png")
    assert convert(folder)[0].attrs["views"] == ["xz", "yz", "uv"]
    store, _ = convert(folder, views=["uv", "xz"])
    assert store.attrs["views"] == ["uv", "xz"]
    np.testing.assert_array_equal(store["images"][0, 0], image(99))
    with pytest.raises(InputError, match=r"has no view zz; it has xz, yz, uv\. Set input\.views"):
        convert(folder, views=["xz", "zz"])


def test_without_truth_or_with_another_class_there_is_no_class(folder, caplog):
    (folder / "3_pid.txt").unlink()
    (folder / "12_pid.txt").write_text("nutaucc")
    _, truth = convert(folder)
    assert truth["class"].isna().tolist() == [True, True, False]
    assert "2 events belong to none of the three classes (no truth: 1, nutaucc: 1)" in caplog.text


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
def test_grey_images_in_other_modes_are_read(folder, mode):
    Image.fromarray(image(0)).convert(mode).save(folder / "3_xz.png")
    np.testing.assert_array_equal(convert(folder)[0]["images"][0, 0], image(0))


def png_header(width, height, depth):
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    chunk = b"IHDR" + header
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


def colourful(path):
    pixels = np.stack([image(0), image(1), image(2)], axis=-1)
    Image.fromarray(pixels).save(path)


DAMAGE = {
    "16 bits": (lambda path: Image.fromarray(image(0).astype(np.uint16) * 257).save(path), "16 bits per pixel"),
    "colour": (colourful, "in colour"),
    "transparent": (lambda path: Image.fromarray(np.dstack([image(0)] * 3 + [image(1)])).save(path), "transparent"),
    "not square": (lambda path: Image.fromarray(image(0)[:-2]).save(path), "different sizes"),
    "another size": (lambda path: Image.fromarray(image(0, 24)).save(path), "different sizes"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:200]), "cannot be read"),
    "no image data": (lambda path: path.write_bytes(path.read_bytes()[:33]), "cannot be read"),
    "empty": (lambda path: path.write_bytes(b""), "not a PNG file"),
    "another format": (lambda path: Image.fromarray(image(0)).save(path, format="BMP"), "not a PNG file"),
    "bomb": (lambda path: path.write_bytes(png_header(50_000, 50_000, 8)), "50000 x 50000 pixels"),
    "missing": (lambda path: path.unlink(), "has no image 12_yz.png"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_event_is_an_error_that_names_it_or_is_left_out_and_counted(folder, kind, caplog):
    damage, message = DAMAGE[kind]
    damage(folder / "12_yz.png")
    with pytest.raises(InputError, match=rf"maps: event 12 .*{message}.*input\.on_bad_event"):
        convert(folder)
    assert not (folder.parent / "out" / "maps.zarr").exists()
    assert not (folder.parent / "out" / "maps.parquet").exists()
    store, truth = convert(folder, on_bad_event="skip")
    assert truth.index.tolist() == ["3", "mu-7"]
    np.testing.assert_array_equal(store["images"][1, 0], image(20))
    assert "1 of 3 events cannot be used and were left out (first: event 12" in caplog.text


def test_maps_that_are_not_square_or_of_another_size_than_the_rest(folder):
    for view in ("xz", "yz"):
        Image.fromarray(image(0)[:-2]).save(folder / f"12_{view}.png")
    with pytest.raises(InputError, match="event 12 is 18 x 20 pixels, not square"):
        convert(folder)
    for view in ("xz", "yz"):
        Image.fromarray(image(0, 24)).save(folder / f"12_{view}.png")
    with pytest.raises(InputError, match="event 12 is 24 x 24 pixels, those before are 20 x 20"):
        convert(folder)
    assert convert(folder, on_bad_event="skip")[0]["images"].shape == (2, 2, SIZE, SIZE)


def test_two_events_of_one_id_are_refused(folder):
    for view in ("xz", "yz"):
        Image.fromarray(image(0)).save(folder / f"003_{view}.png")
    for on_bad_event in ("error", "skip"):
        with pytest.raises(InputError, match=r"events 003 and 3 have the same id, 3|events 3 and 003"):
            convert(folder, on_bad_event=on_bad_event)


def test_a_folder_without_events(folder, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        convert(tmp_path / "none")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "readme.txt").write_text("none here")
    with pytest.raises(InputError, match=r"no image <event>_<view>\.png in it \(1 other files\)"):
        convert(tmp_path / "notes")
    for file in folder.glob("*_xz.png"):
        file.write_bytes(b"")
    with pytest.raises(InputError, match=r"none of 3 events can be used; event 3 has 3_xz\.png"):
        convert(folder, on_bad_event="skip")


def test_files_of_no_event_and_black_maps_are_reported(folder, caplog):
    (folder / "8_pid.txt").write_text("nc")
    (folder / "overview.png").write_bytes(b"")
    for view in ("xz", "yz"):
        Image.fromarray(np.zeros((SIZE, SIZE), np.uint8)).save(folder / f"12_{view}.png")
    convert(folder)
    assert "1 files *_pid.txt have no image (first: 8)" in caplog.text
    assert "left out (first: overview.png)" in caplog.text
    assert "1 of 3 pixel maps are black (first: event 12)" in caplog.text


@given(st.text(min_size=1, max_size=30))
def test_any_name_has_a_stable_64_bit_id(name):
    assert 0 <= event_number(name) < 2**64
    assert event_number(name) == event_number(name)


def test_ids_never_change():
    assert event_number("0042") == 42
    assert event_number(str(2**64 - 1)) == 2**64 - 1
    assert event_number("event_1") == int("41bda90b8a83b739", 16)


@pytest.mark.parametrize(
    ("word", "expected"),
    [("nuecc", "nue_cc"), ("NUE_CC", "nue_cc"), ("numu cc", "numu_cc"), ("NC", "nc"), ("nutaucc", None), (None, None)],
)
def test_words_for_classes(word, expected):
    assert class_of(word) == expected
