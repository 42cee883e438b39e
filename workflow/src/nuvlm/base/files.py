"""Files that appear whole or not at all, and whose bytes are checked when they are read.

A folder of files that belong together, such as a store or a model, has a ``manifest.json``
(:mod:`nuvlm.base.manifest`). A single table, JSON file or figure contains its own SHA-256 (:func:`seal`).
HDF5 has its own checksums (:mod:`nuvlm.base.hdf5`).
"""

import errno
import hashlib
import io
import json
import os
import shutil
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nuvlm.base.errors import InputError, remake

if TYPE_CHECKING:
    import pandas as pd

DIGITS = 64
"""Hexadecimal digits of a SHA-256."""
SEAL = b"nuvlm-sha256:" + DIGITS * b"0"
"""Placeholder that :func:`seal` fills with the digest of the file."""


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write a file or a folder to; rename it to `path` when the block succeeds.

    The umask gives its permissions, whatever wrote it. The bytes are flushed to the disk before the rename. If the
    block raises, the temporary path is removed. Temporary paths for the same name left by killed processes of this
    machine are removed too.

    Raises:
        InputError: the disk is full or the folder is not writable; the message gives the remedy.
    """
    path = Path(path)
    prefix = f".{path.name}.partial-{socket.gethostname()}-"
    partial = path.with_name(f"{prefix}{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for file in path.parent.iterdir():
            if file.name.startswith(prefix) and not _is_alive(file.name.removeprefix(prefix)):
                _remove(file)
        yield partial
        sync(partial)
        # Snakemake creates the folders of an output before the job; rename() cannot replace a folder that has files.
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
        _remove(partial)


def sync(path: str | Path) -> None:
    """Flush a file, or a folder with all its content, to the disk, with the permissions of new files."""
    _apply_umask(Path(path))
    for written in (Path(path), *Path(path).rglob("*")):
        _sync(written)


def seal(path: str | Path) -> None:
    """Replace the last :data:`SEAL` in a file by the SHA-256 of the file.

    The digest is computed with zeros in place of the digits. Because it is part of the file, it can neither be
    missing nor belong to another version of the file.
    """
    content = Path(path).read_bytes()
    begin = content.rindex(SEAL) + len(SEAL) - DIGITS
    with open(path, "r+b") as file:
        file.seek(begin)
        file.write(hashlib.sha256(content).hexdigest().encode())


def verify(path: str | Path, kind: str = "file", *, require_seal: bool = False) -> bytes:
    """Check a file against the digest in it (:func:`seal`) and return its bytes.

    A file without a digest was written by another program and is accepted, unless `require_seal` is set.

    Args:
        path: the file.
        kind: what the file is, for the message.
        require_seal: refuse a file without a digest, because no other program writes this kind of file.

    Raises:
        InputError: the file is missing, empty or altered.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: no readable {kind} ({error}). {remake(path)}") from error
    if not content:
        raise InputError(f"{path}: no readable {kind} (it is empty). {remake(path)}")
    mark = content.rfind(SEAL[:-DIGITS])
    if mark >= 0:
        begin = mark + len(SEAL) - DIGITS
        digest = hashlib.sha256(content[:begin] + SEAL[-DIGITS:] + content[begin + DIGITS :]).hexdigest()
        if content[begin : begin + DIGITS] != digest.encode():
            raise InputError(f"{path}: its bytes have changed since it was written. {remake(path)}")
    elif require_seal:
        raise InputError(f"{path}: no readable {kind} (cut short, or not written by NuVLM). {remake(path)}")
    return content


def write_json(path: str | Path, value: Any, *, sealed: bool = False) -> None:
    """Write `value` as JSON, whole or not at all.

    Args:
        path: the file.
        value: what to write; a mapping if `sealed`.
        sealed: add a digest (:func:`seal`) as the last key, for files that another stage reads.

    Raises:
        ValueError: `value` contains NaN or an infinity, which JSON cannot represent.
    """
    with atomic_path(path) as partial:
        content = {**value, "seal": SEAL.decode()} if sealed else value
        partial.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        if sealed:
            seal(partial)


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a mapping that :func:`write_json` wrote; its digest is checked and left out.

    Raises:
        InputError: the file is missing, altered, or not a JSON mapping.
    """
    content = verify(path)
    try:
        return {key: item for key, item in json.loads(content).items() if key != "seal"}
    except (ValueError, AttributeError) as error:
        raise InputError(f"{path}: not a JSON mapping ({error}). {remake(path)}") from error


def write_table(path: str | Path, table: "pd.DataFrame") -> None:
    """Write `table` as Parquet, whole or not at all, with a digest (:func:`seal`) in its metadata."""
    import pyarrow
    import pyarrow.parquet

    arrow = pyarrow.Table.from_pandas(table, preserve_index=False)
    arrow = arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), "seal": SEAL})
    with atomic_path(path) as partial:
        pyarrow.parquet.write_table(arrow, partial)
        seal(partial)


def write_csv(path: str | Path, table: "pd.DataFrame") -> None:
    """Write `table` as CSV with six digits, whole or not at all."""
    with atomic_path(path) as partial:
        table.to_csv(partial, index=False, float_format="%.6g", lineterminator="\n")


def read_table(path: str | Path, kind: str = "table") -> "pd.DataFrame":
    """Read a Parquet file; its digest is checked if it has one.

    Args:
        path: the file.
        kind: what the table is, for the message.

    Raises:
        InputError: the file is missing, altered, or not Parquet.
    """
    import pandas as pd

    content = verify(path, kind)
    try:
        return pd.read_parquet(io.BytesIO(content))
    except Exception as error:  # damaged bytes can raise any exception in pyarrow
        raise InputError(f"{path}: no readable {kind} ({error}). {remake(path)}") from error


def sha256(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _has_cause(error: Exception, numbers: tuple[int, ...]) -> bool:
    """Whether the cause is one of these error numbers; HDF5, torch and safetensors give it only in their text."""
    return getattr(error, "errno", None) in numbers or any(os.strerror(number) in str(error) for number in numbers)


def _is_alive(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:  # a process of another user
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _apply_umask(path: Path) -> None:
    """Give a file, or a folder with all its content, the mode of new files: safetensors writes 0600, which hides models
    from the colleagues that a umask of 002 lets in."""
    mask = os.umask(0o077)
    os.umask(mask)
    for written in (path, *path.rglob("*")):
        # Only add: a library may have made a program executable.
        written.chmod(stat.S_IMODE(written.stat().st_mode) | (0o777 if written.is_dir() else 0o666) & ~mask)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
