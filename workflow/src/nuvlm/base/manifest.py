"""The manifest of a folder of files that belong together: the size and SHA-256 of each file."""

import json
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from nuvlm.base.errors import InputError, remake
from nuvlm.base.files import sha256

MANIFEST = "manifest.json"
SETTLED_NS = 1_000_000_000
"""Age of a modification from which the file's times identify its content: clocks of file systems are coarse."""
_verified: dict[Path, tuple[object, ...]] = {}
"""Files that this process has found intact, with their digest, inode, size and time of modification."""


def write_manifest(folder: str | Path, **more: Any) -> None:
    """Write the size and SHA-256 of every file below `folder` to its ``manifest.json``, and the entries of `more`."""
    folder = Path(folder)
    files = {
        str(file.relative_to(folder)): {"bytes": file.stat().st_size, "sha256": sha256(file)}
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    (folder / MANIFEST).write_text(json.dumps({**more, "files": files}, indent=1) + "\n")


def verify_manifest(folder: str | Path, names: Collection[str] | None = None) -> dict[str, Any]:
    """Check files of a folder against its ``manifest.json``, and return the manifest.

    Zarr silently reads a missing or empty chunk as zeros, so a store is checked before it is read. A file that this
    process has already checked, and that has not been modified since, is not read again.

    Args:
        folder: what :func:`write_manifest` was called with.
        names: files or subfolders to check, relative to `folder`; all files if None.

    Raises:
        InputError: a file is missing, cut short or altered, or is not in the manifest.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder)
    files = manifest["files"]
    if names is not None:
        for name in names:
            if not any(_is_in(file, name) for file in files):
                raise InputError(f"{folder / MANIFEST}: has no entry for {name}. {remake(folder)}")
        files = {file: entry for file, entry in files.items() if any(_is_in(file, name) for name in names)}
    for file, entry in files.items():
        _verify_entry(folder, file, entry)
    return manifest


def _is_in(file: str, name: str) -> bool:
    return file == name or file.startswith(f"{name}/")


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        for entry in manifest["files"].values():
            _ = entry["bytes"], entry["sha256"]
        return manifest
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder / MANIFEST}: missing or unreadable. {remake(folder)}") from error


def _verify_entry(folder: Path, name: str, entry: Mapping[str, Any]) -> None:
    file = folder / name
    if not file.is_file():
        raise InputError(f"{file}: missing. {remake(folder)}")
    status = file.stat()
    if status.st_size != entry["bytes"]:
        raise InputError(f"{file}: {status.st_size} bytes where {entry['bytes']} were written. {remake(folder)}")
    state = (entry["sha256"], status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    if _verified.get(file) == state:
        return
    if sha256(file) != entry["sha256"]:
        raise InputError(f"{file}: its bytes have changed since it was written. {remake(folder)}")
    if time.time_ns() - status.st_ctime_ns > SETTLED_NS:
        _verified[file] = state
