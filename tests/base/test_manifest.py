"""The manifest of a folder: what it notices, and which files are read for it."""

import os
import time
from pathlib import Path

import pytest

from nuvlm.base import manifest
from nuvlm.base.errors import InputError
from nuvlm.base.manifest import verify_manifest, write_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "part").mkdir()
    (tmp_path / "part/data").write_bytes(b"12345")
    (tmp_path / "other").write_bytes(b"1")
    write_manifest(tmp_path)
    return tmp_path


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read, in order."""
    names = []

    def sha256(path: Path) -> str:
        names.append(path.name)
        return original(path)

    original = manifest.sha256
    monkeypatch.setattr(manifest, "sha256", sha256)
    return names


def test_manifest_names_what_changed(folder):
    verify_manifest(folder)
    (folder / "part/data").write_bytes(b"12346")
    with pytest.raises(InputError, match="part/data: its bytes have changed"):
        verify_manifest(folder)
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match=r"manifest\.json: missing or unreadable"):
        verify_manifest(folder)


def test_files_can_be_checked_by_name(folder):
    (folder / "part/data").write_bytes(b"12346")
    verify_manifest(folder, ["other"])
    for name in ("part", "part/data"):
        with pytest.raises(InputError, match="part/data: its bytes have changed"):
            verify_manifest(folder, [name])
    for name in ("unknown", "par", "part/dat"):
        with pytest.raises(InputError, match=rf"manifest\.json: has no entry for {name}\."):
            verify_manifest(folder, ["other", name])


def test_a_process_reads_each_file_once_until_it_is_modified(folder, hashed, monkeypatch):
    for _ in range(2):
        verify_manifest(folder)
    assert len(hashed) == 4, "a modification as recent as this may share its time with the next one"
    hashed.clear()
    monkeypatch.setattr(manifest, "SETTLED_NS", 0)
    for _ in range(2):
        verify_manifest(folder)
    assert sorted(hashed) == ["data", "other"]
    data = folder / "part/data"
    before = data.stat()
    time.sleep(0.05)  # longer than a tick of the file system's clock
    data.write_bytes(b"12346")
    os.utime(data, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(InputError, match="part/data: its bytes have changed"):
        verify_manifest(folder)
