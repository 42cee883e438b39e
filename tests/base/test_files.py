"""Files appear whole or not at all, whatever ends the writing."""

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from safetensors.torch import save_file
from zarr.codecs import ZstdCodec

from nuvlm.base.errors import InputError
from nuvlm.base.files import SEAL, atomic_path, read_json, read_table, verify, write_json, write_table
from nuvlm.base.manifest import verify_file, verify_manifest, write_manifest
from nuvlm.base.stores import EventFile, create_store, open_store, write_store
from nuvlm.detector.geometry import Detector
from nuvlm.detector.voxels import Event, Voxels, write_shard


def test_what_was_there_stays_when_writing_fails(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"kept": True})

    def write_half():
        with atomic_path(path) as partial:
            partial.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert path.read_text() == '{\n "kept": true\n}\n'
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_replaces_the_one_that_was_there(tmp_path):
    (tmp_path / "store/old").mkdir(parents=True)
    with atomic_path(tmp_path / "store") as partial:
        partial.mkdir()
        (partial / "new").write_text("x")
    assert [file.name for file in (tmp_path / "store").iterdir()] == ["new"]
    assert [file.name for file in tmp_path.iterdir()] == ["store"]


@contextmanager
def full_disk():
    """A file-size limit stands in for a full disk: a write beyond it fails as on one.

    It holds for every file of this process, so also for the one that pytest's own lines may be
    sent to: a test enters it for the one write, never for its whole length.
    """
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def write_plain(path):
    with atomic_path(path) as partial:
        partial.write_bytes(bytes(50_000))


def write_voxels(path):
    n = 30_000
    rng = np.random.default_rng(0)
    flat = np.arange(n)
    index = (flat % 2000).astype("u2"), (flat // 2000).astype("u2"), flat.astype("u2") % 1400
    write_shard(path, Detector(), [Event(1, Voxels(*index, rng.random(n).astype("f4")))])


def write_arrays(path):
    write_store(path, {"noise": np.random.default_rng(0).random((10, 10_000))}, {})


def write_rows(path):
    write_table(path, pd.DataFrame({"x": np.random.default_rng(0).random(10_000)}))


def write_weights(path):
    with atomic_path(path) as partial:
        save_file({"x": torch.zeros(50_000)}, partial)


@pytest.mark.parametrize("write", [write_plain, write_voxels, write_arrays, write_rows, write_weights])
def test_a_full_disk_is_said_whoever_writes_and_nothing_stays(tmp_path, write):
    with full_disk(), pytest.raises(InputError, match=r"(?s)out: no space left .* Free some"):
        write(tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_out_of_space_is_told_from_other_errors(tmp_path):
    with pytest.raises(InputError, match="Free some"), atomic_path(tmp_path / "a"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(BrokenPipeError), atomic_path(tmp_path / "a"):
        raise BrokenPipeError(errno.EPIPE, "not ours to explain")


def test_a_killed_writer_leaves_the_name_free(tmp_path):
    program = (
        "import time, sys; from nuvlm.base.files import atomic_path\n"
        "with atomic_path(sys.argv[1]) as partial:\n"
        "    partial.write_text('half'); print('writing', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, tmp_path / "a"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.05)
        process.kill()
    assert not (tmp_path / "a").exists()
    assert len(list(tmp_path.iterdir())) == 1
    write_json(tmp_path / "a.json", {})
    assert len(list(tmp_path.iterdir())) == 2, "only what was left of the same name goes"
    write_json(tmp_path / "a", {})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "a.json"]


def test_what_another_process_is_writing_stays(tmp_path):
    with atomic_path(tmp_path / "a") as ours:
        ours.write_text("half")
        other = ours.with_name(ours.name.replace(str(os.getpid()), str(os.getppid())))
        other.write_text("half of another")
    with atomic_path(tmp_path / "a") as ours:
        ours.write_text("whole")
    assert other.exists()


def test_json_refuses_what_it_cannot_hold(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", float("nan"))
    assert not list(tmp_path.iterdir())


ARRAYS = {
    "images": np.random.default_rng(0).integers(0, 3, (7, 2, 16, 16)).astype("u1"),
    "empty": np.zeros((7, 4, 4), "f4"),
    "corner_mm": np.random.default_rng(0).random((7, 3)),
    "event_id": np.arange(7, dtype="u8"),
}


def test_a_streamed_store_is_byte_for_byte_what_zarr_writes(tmp_path):
    with create_store(tmp_path / "ours", {"format": "f"}) as store:
        for begin, end in ((0, 3), (3, 4), (4, 7)):
            for name, values in ARRAYS.items():
                store.append(name, values[begin:end])
    zarr.config.set({"codec_pipeline.path": "zarr.core.codec_pipeline.BatchedCodecPipeline"})
    group = zarr.create_group(tmp_path / "zarrs", attributes={"format": "f"})
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
    theirs = {p.relative_to(tmp_path / "zarrs"): p.read_bytes() for p in (tmp_path / "zarrs").rglob("*") if p.is_file()}
    ours = {p.relative_to(tmp_path / "ours"): p.read_bytes() for p in (tmp_path / "ours").rglob("*") if p.is_file()}
    del ours[Path("manifest.json")]
    assert ours == theirs
    opened = open_store(tmp_path / "ours", "f")
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
    with pytest.raises(InputError, match=r"a\.zarr: event 6 of it cannot be read any more"):
        file.read(6, event)
    with pytest.raises(InputError, match=r"a\.zarr: cannot be read any more"):
        EventFile(tmp_path / "a.zarr", array)
    path.unlink()
    with pytest.raises(InputError, match=r"a\.zarr: cannot be read any more"):
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


def test_a_sealed_file_is_read_as_it_was_and_noticed_when_it_was_changed(tmp_path):
    value = {"a": 1, "mark": SEAL.decode(), "text": "νe"}
    path = tmp_path / "a.json"
    write_json(path, value, sealed=True)
    assert read_json(path) == value
    content = path.read_bytes()
    for changed in (content.replace(b'"a": 1', b'"a": 2'), content[:-1], content + b"\n", content[:200]):
        path.write_bytes(changed)
        with pytest.raises(InputError, match=r"a\.json: "):
            read_json(path)


def test_files_without_a_seal_are_from_elsewhere_but_those_that_need_one(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": 1}')
    assert read_json(path) == {"a": 1}
    with pytest.raises(InputError, match="no readable figure"):
        verify(path, "figure", ours=True)
    for content in ("[1]", "{", ""):
        path.write_text(content)
        with pytest.raises(InputError, match=r"a\.json: no"):
            read_json(path)


def test_a_table_keeps_its_types_and_may_be_written_anew_by_others(tmp_path):
    table = pd.DataFrame(
        {"id": np.arange(3, dtype="u8"), "class": pd.Series(["nc", None, "nc"], dtype="string"), "p": [0.1, np.nan, 1]}
    )
    path = tmp_path / "a.parquet"
    write_table(path, table)
    pd.testing.assert_frame_equal(read_table(path), table)
    pd.testing.assert_frame_equal(pd.read_parquet(path), table)
    pd.read_parquet(path).assign(p=0.5).to_parquet(path)
    assert (read_table(path)["p"] == 0.5).all()
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"a\.parquet: no readable event table"):
        read_table(path, "event table")


def test_a_store_has_the_shapes_that_were_written(tmp_path):
    write_store(tmp_path / "a", ARRAYS, {"format": "f"})
    manifest = verify_manifest(tmp_path / "a")
    assert manifest["shapes"] == {name: list(values.shape) for name, values in ARRAYS.items()}
    verify_file(tmp_path / "a", "zarr.json")
    with pytest.raises(InputError, match="says nothing of other"):
        verify_file(tmp_path / "a", "other")
    (tmp_path / "a" / "manifest.json").unlink()
    write_manifest(tmp_path / "a", shapes={"images": [8, 2, 16, 16]})
    with pytest.raises(InputError, match="its arrays are"):
        open_store(tmp_path / "a", "f")


def test_manifest_names_what_changed(tmp_path):
    (tmp_path / "part").mkdir()
    (tmp_path / "part/data").write_bytes(b"12345")
    write_manifest(tmp_path)
    verify_manifest(tmp_path)
    (tmp_path / "part/data").write_bytes(b"12346")
    with pytest.raises(InputError, match="part/data: its bytes have changed"):
        verify_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match=r"manifest\.json: missing or unreadable"):
        verify_manifest(tmp_path)
