"""Files appear whole or not at all, however the writing ends, and altered files are noticed."""

import errno
import os
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from disk import full_disk
from nuvlm.base.errors import InputError
from nuvlm.base.files import SEAL, atomic_path, read_json, read_table, verify, write_json, write_table
from nuvlm.base.stores import write_store
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
def test_a_full_disk_is_reported_by_every_writer_and_leaves_no_file(tmp_path, write):
    with full_disk(), pytest.raises(InputError, match=r"(?s)out: no space left .* Free some"):
        write(tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_out_of_space_is_distinguished_from_other_errors(tmp_path):
    with pytest.raises(InputError, match="Free some"), atomic_path(tmp_path / "a"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(BrokenPipeError), atomic_path(tmp_path / "a"):
        raise BrokenPipeError(errno.EPIPE, "another cause")


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
    with atomic_path(tmp_path / "a") as partial:
        partial.write_text("half")
        other = partial.with_name(partial.name.replace(str(os.getpid()), str(os.getppid())))
        other.write_text("half of another")
    with atomic_path(tmp_path / "a") as partial:
        partial.write_text("whole")
    assert other.exists()


def test_json_refuses_what_it_cannot_hold(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", float("nan"))
    assert not list(tmp_path.iterdir())


def test_a_changed_sealed_file_is_noticed(tmp_path):
    value = {"a": 1, "mark": SEAL.decode(), "text": "νe"}
    path = tmp_path / "a.json"
    write_json(path, value, sealed=True)
    assert read_json(path) == value
    content = path.read_bytes()
    for changed in (content.replace(b'"a": 1', b'"a": 2'), content[:-1], content + b"\n", content[:200]):
        path.write_bytes(changed)
        with pytest.raises(InputError, match=r"a\.json: "):
            read_json(path)


def test_a_file_without_a_seal_is_read_unless_a_seal_is_required(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": 1}')
    assert read_json(path) == {"a": 1}
    with pytest.raises(InputError, match="no readable figure"):
        verify(path, "figure", require_seal=True)
    for content in ("[1]", "{", ""):
        path.write_text(content)
        with pytest.raises(InputError, match=r"a\.json: no"):
            read_json(path)


def test_a_table_keeps_its_types_and_may_be_rewritten_by_other_programs(tmp_path):
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


@pytest.mark.parametrize("mask", [0o002, 0o022, 0o077])
def test_the_umask_gives_the_mode_whatever_wrote_the_file(tmp_path, mask):
    """safetensors and others write 0600: models that no colleague could read."""
    before = os.umask(mask)
    try:
        with atomic_path(tmp_path / "model") as partial:
            partial.mkdir(mode=0o700)
            os.close(os.open(partial / "weights", os.O_CREAT | os.O_WRONLY, 0o600))
        with atomic_path(tmp_path / "table") as partial:
            os.close(os.open(partial, os.O_CREAT | os.O_WRONLY, 0o600))
    finally:
        os.umask(before)
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("model", "model/weights", "table")]
    assert modes == [0o777 & ~mask, 0o666 & ~mask, 0o666 & ~mask]
