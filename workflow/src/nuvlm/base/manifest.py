"""The manifest of a folder of files that belong together: the size and SHA-256 of each."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nuvlm.base.errors import InputError
from nuvlm.base.files import sha256

MANIFEST = "manifest.json"


def write_manifest(folder: str | Path, **more: Any) -> None:
    """Write the size and SHA-256 of every file below `folder` to its ``manifest.json``, and what `more` says."""
    folder = Path(folder)
    files = {
        str(file.relative_to(folder)): {"bytes": file.stat().st_size, "sha256": sha256(file)} for file in _files(folder)
    }
    (folder / MANIFEST).write_text(json.dumps({**more, "files": files}, indent=1) + "\n")


def verify_manifest(folder: str | Path) -> dict[str, Any]:
    """Check every file below `folder` against its ``manifest.json``, and return what that says.

    Zarr reads a missing or empty chunk as zeros without a word, hence this check before a store is used.

    Raises:
        InputError: naming the file that is missing, cut short or altered.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder)
    for name, expected in manifest["files"].items():
        _verify_entry(folder, name, expected)
    return manifest


def verify_file(folder: str | Path, name: str) -> None:
    """Check the one file `name` of a folder against its ``manifest.json``.

    Raises:
        InputError: it is missing, cut short, altered or not in the manifest.
    """
    folder = Path(folder)
    files = _read_manifest(folder)["files"]
    if name not in files:
        raise InputError(f"{folder / MANIFEST}: says nothing of {name}. {_remedy(folder)}")
    _verify_entry(folder, name, files[name])


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        for expected in manifest["files"].values():
            _ = expected["bytes"], expected["sha256"]
        return manifest
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder / MANIFEST}: missing or unreadable. {_remedy(folder)}") from error


def _verify_entry(folder: Path, name: str, expected: Mapping[str, Any]) -> None:
    file = folder / name
    if not file.is_file():
        raise InputError(f"{file}: missing. {_remedy(folder)}")
    if file.stat().st_size != expected["bytes"]:
        raise InputError(
            f"{file}: {file.stat().st_size} bytes where {expected['bytes']} were written. {_remedy(folder)}"
        )
    if sha256(file) != expected["sha256"]:
        raise InputError(f"{file}: its bytes have changed since it was written. {_remedy(folder)}")


def _remedy(folder: Path) -> str:
    return f"Remove {folder} and rerun: the workflow makes it again."


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
