"""Files appear whole or not at all, whatever ends the writing."""

import errno
import os
import resource
import signal
import subprocess
import sys
import time

import pytest

from nuvlm.errors import InputError
from nuvlm.storage import atomic_path, verify_manifest, write_json, write_manifest


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


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path):
    # The file-size limit stands in for the disk: a write beyond it fails as on a full one.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(InputError, match="no space left"), atomic_path(tmp_path / "big") as partial:
            partial.write_bytes(b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())


def test_out_of_space_is_told_from_other_errors(tmp_path):
    with pytest.raises(InputError, match="Free some"), atomic_path(tmp_path / "a"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(BrokenPipeError), atomic_path(tmp_path / "a"):
        raise BrokenPipeError(errno.EPIPE, "not ours to explain")


def test_a_killed_writer_leaves_the_name_free(tmp_path):
    program = (
        "import time, sys; from nuvlm.storage import atomic_path\n"
        "with atomic_path(sys.argv[1]) as partial:\n"
        "    partial.write_text('half'); print('writing', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, tmp_path / "a"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.05)
        process.kill()
    assert not (tmp_path / "a").exists()


def test_json_refuses_what_it_cannot_hold(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", float("nan"))
    assert not list(tmp_path.iterdir())


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
