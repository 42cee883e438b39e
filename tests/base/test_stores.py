"""Zarr stores: the format that is written, reading event by event, and stores that are refused."""

from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.codecs import ZstdCodec

from nuvlm.base.errors import InputError
from nuvlm.base.manifest import verify_manifest, write_manifest
from nuvlm.base.stores import EventFile, create_store, open_store, write_store

ARRAYS = {
    "images": np.random.default_rng(0).integers(0, 3, (7, 2, 16, 16)).astype("u1"),
    "empty": np.zeros((7, 4, 4), "f4"),
    "corner_mm": np.random.default_rng(0).random((7, 3)),
    "event_id": np.arange(7, dtype="u8"),
}


def files_in(folder: Path) -> dict[Path, bytes]:
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_streamed_store_is_byte_for_byte_what_zarr_writes(tmp_path):
    with create_store(tmp_path / "streamed", {"format": "f"}) as store:
        for begin, end in ((0, 3), (3, 4), (4, 7)):
            for name, values in ARRAYS.items():
                store.append(name, values[begin:end])
    zarr.config.set({"codec_pipeline.path": "zarr.core.codec_pipeline.BatchedCodecPipeline"})
    group = zarr.create_group(tmp_path / "zarr", attributes={"format": "f"})
    for name, values in ARRAYS.items():
        array = group.create_array(
            name,
            shape=values.shape,
            dtype=values.dtype,
            chunks=(1, *values.shape[1:]) if values.ndim > 1 else values.shape,
            shards=values.shape,
            compressors=ZstdCodec(level=3, checksum=True),
            config={"write_empty_chunks": True},
        )
        array[:] = values
    written_by_zarr, streamed = (files_in(tmp_path / name) for name in ("zarr", "streamed"))
    del streamed[Path("manifest.json")]
    assert streamed == written_by_zarr
    opened = open_store(tmp_path / "streamed", "f")
    for name, values in ARRAYS.items():
        np.testing.assert_array_equal(opened[name][:], values)


def test_events_are_read_one_by_one_in_any_order(tmp_path):
    write_store(tmp_path / "a.zarr", ARRAYS, {"format": "f"})
    store = open_store(tmp_path / "a.zarr", "f")
    for name in ("images", "empty", "corner_mm"):
        file, event = EventFile(tmp_path / "a.zarr", store[name]), np.empty_like(ARRAYS[name][0])
        for row in (3, 6, 0, 3):
            file.read(row, event)
            np.testing.assert_array_equal(event, ARRAYS[name][row])


def test_a_file_that_changes_after_it_was_opened_is_noticed(tmp_path):
    write_store(tmp_path / "a.zarr", ARRAYS, {"format": "f"})
    array = open_store(tmp_path / "a.zarr", "f")["images"]
    path, event = tmp_path / "a.zarr/images/c/0/0/0/0", np.empty((2, 16, 16), dtype=np.uint8)
    content = path.read_bytes()
    file = EventFile(tmp_path / "a.zarr", array)
    path.write_bytes(content[:20])
    with pytest.raises(InputError, match=r"a\.zarr: event 6 is no longer readable"):
        file.read(6, event)
    with pytest.raises(InputError, match=r"a\.zarr: no longer readable"):
        EventFile(tmp_path / "a.zarr", array)
    path.unlink()
    with pytest.raises(InputError, match=r"a\.zarr: no longer readable"):
        EventFile(tmp_path / "a.zarr", array)


def test_a_store_may_hold_no_event(tmp_path):
    arrays = {"images": np.zeros((0, 2, 8, 8), dtype=np.uint8), "event_id": np.zeros(0, dtype=np.uint64)}
    write_store(tmp_path / "empty.zarr", arrays, {"format": "test"})
    store = open_store(tmp_path / "empty.zarr", "test")
    for name, values in arrays.items():
        assert store[name][:].shape == values.shape
        assert store[name].dtype == values.dtype


def test_a_store_refuses_events_unlike_those_before_and_leaves_nothing(tmp_path):
    def write():
        with create_store(tmp_path / "a", {}) as store:
            store.append("x", np.zeros((2, 3), "f4"))
            store.append("x", np.zeros((2, 4), "f4"))

    with pytest.raises(ValueError, match=r"float32 \(4,\)"):
        write()
    assert not list(tmp_path.iterdir())


def test_a_store_has_the_shapes_that_were_written(tmp_path):
    write_store(tmp_path / "a", ARRAYS, {"format": "f"})
    manifest = verify_manifest(tmp_path / "a")
    assert manifest["shapes"] == {name: list(values.shape) for name, values in ARRAYS.items()}
    (tmp_path / "a" / "manifest.json").unlink()
    write_manifest(tmp_path / "a", shapes={"images": [8, 2, 16, 16]})
    with pytest.raises(InputError, match="its arrays are"):
        open_store(tmp_path / "a", "f")


def test_only_the_arrays_that_are_asked_for_are_checked(tmp_path):
    write_store(tmp_path / "a", ARRAYS, {"format": "f"})
    (tmp_path / "a/images/c/0/0/0/0").write_bytes(b"damaged")
    store = open_store(tmp_path / "a", "f", ["event_id", "corner_mm"])
    np.testing.assert_array_equal(store["event_id"][:], ARRAYS["event_id"])
    with pytest.raises(InputError, match=r"images/c/0/0/0/0: 7 bytes where"):
        open_store(tmp_path / "a", "f")
    with pytest.raises(InputError, match=r"manifest\.json: has no entry for edge_energy"):
        open_store(tmp_path / "a", "f", ["edge_energy"])
    (tmp_path / "a/corner_mm/zarr.json").unlink()
    with pytest.raises(InputError, match=r"corner_mm/zarr\.json: missing"):
        open_store(tmp_path / "a", "f", ["event_id", "corner_mm"])


def test_the_users_defaults_of_zarr_change_neither_what_is_written_nor_what_is_read(tmp_path):
    """As ZARR_DEFAULT_ZARR_FORMAT=2 in the environment sets them."""
    write_store(tmp_path / "usual", ARRAYS, {"format": "f"})
    with zarr.config.set({"default_zarr_format": 2, "array.order": "F", "array.write_empty_chunks": True}):
        write_store(tmp_path / "other", ARRAYS, {"format": "f"})
        assert files_in(tmp_path / "other") == files_in(tmp_path / "usual")
        store = open_store(tmp_path / "usual", "f")
        for name, values in ARRAYS.items():
            np.testing.assert_array_equal(store[name][:], values)
