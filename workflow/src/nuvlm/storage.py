"""Files that appear whole or not at all, and stores whose bytes are checked when they are read."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nuvlm.errors import InputError

if TYPE_CHECKING:
    import numpy as np

MANIFEST = "manifest.json"


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a path beside `path` to write a file or a folder to, and move it to `path` when the block ends well.

    The bytes reach the disk before the name does. When the block raises, nothing is left behind.

    Raises:
        InputError: where the disk is full or the folder cannot be written, with the remedy.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        for file in _files(partial):
            _sync(file)
        # Snakemake makes the folders of an output before the job: rename() would refuse to replace them.
        if partial.is_dir() and path.is_dir():
            shutil.rmtree(path)
        os.replace(partial, path)
        _sync(path.parent)
    except Exception as error:
        if _has_cause(error, (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)):
            raise InputError(f"{path}: no space left to write it ({error}). Free some, then rerun.") from error
        if isinstance(error, PermissionError) or _has_cause(error, (errno.EROFS,)):
            raise InputError(f"{path}: it cannot be written ({error}). Check the folder's permissions.") from error
        raise
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as JSON, whole or not at all. NaN has no JSON form and is refused."""
    with atomic_path(path) as partial:
        partial.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n")


def sha256(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: str | Path) -> None:
    """Write the size and SHA-256 of every file below `folder` to its ``manifest.json``."""
    folder = Path(folder)
    files = {
        str(file.relative_to(folder)): {"bytes": file.stat().st_size, "sha256": sha256(file)} for file in _files(folder)
    }
    (folder / MANIFEST).write_text(json.dumps({"files": files}, indent=1) + "\n")


def verify_manifest(folder: str | Path) -> None:
    """Check every file below `folder` against its ``manifest.json``.

    Zarr reads a missing or empty chunk as zeros without a word, hence this check before a store is used.

    Raises:
        InputError: naming the file that is missing, cut short or altered.
    """
    folder = Path(folder)
    manifest = folder / MANIFEST
    remedy = f"Remove {folder} and rerun: the workflow makes it again."
    try:
        files = json.loads(manifest.read_text())["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{manifest}: missing or unreadable. {remedy}") from error
    for name, expected in files.items():
        file = folder / name
        if not file.is_file():
            raise InputError(f"{file}: missing. {remedy}")
        if file.stat().st_size != expected["bytes"]:
            raise InputError(f"{file}: {file.stat().st_size} bytes where {expected['bytes']} were written. {remedy}")
        if sha256(file) != expected["sha256"]:
            raise InputError(f"{file}: its bytes have changed since it was written. {remedy}")


def write_store(path: str | Path, arrays: Mapping[str, "np.ndarray"], attributes: Mapping[str, Any]) -> None:
    """Write a Zarr v3 group with one shard file an array, chunked by event (the first axis), and its manifest.

    Chunks are zstd with checksum: without one, most flipped bits would pass unnoticed. Chunks of zeros are
    written too, so that a missing one is always a fault.
    """
    import zarr
    from zarr.codecs import ZstdCodec

    with atomic_path(path) as partial:
        group = zarr.create_group(partial, attributes=dict(attributes))
        for name, values in arrays.items():
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
        write_manifest(partial)


def open_store(path: str | Path, format: str) -> Any:
    """Open a store of :func:`write_store` for reading, after checking its bytes.

    Returns:
        The zarr.Group (untyped: what zarr says of its items is a union of everything).

    Raises:
        InputError: a file is missing or altered, or the store has another format.
    """
    import zarr

    verify_manifest(path)
    group = zarr.open_group(path, mode="r")
    if group.attrs.get("format") != format:
        raise InputError(f"{path}: its format is {group.attrs.get('format')!r}, not {format!r}. Remove it and rerun.")
    return group


def _has_cause(error: Exception, numbers: tuple[int, ...]) -> bool:
    """Whether the system's error is one of `numbers`; HDF5, torch and safetensors only put it in their text."""
    return getattr(error, "errno", None) in numbers or any(os.strerror(number) in str(error) for number in numbers)


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
