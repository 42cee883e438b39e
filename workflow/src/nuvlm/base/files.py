"""Files that appear whole or not at all, and whose bytes are checked when they are read.

A folder of files that belong together, as a store or a model, has a ``manifest.json`` with the SHA-256 of each. A table
or JSON file that stands alone has its own SHA-256 in it, see :func:`seal`; HDF5 has checksums (:mod:`nuvlm.base.hdf5`).
"""

import errno
import hashlib
import io
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nuvlm.base.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


DIGITS = 64


SEAL = b"nuvlm-sha256:" + DIGITS * b"0"


_REMEDY = "Remove it and rerun: the workflow makes it again."


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a path beside `path` to write a file or a folder to, and move it to `path` when the block ends well.

    The bytes reach the disk before the name does. When the block raises, nothing is left behind; what a killed
    process of this machine has left of the same name is removed.

    Raises:
        InputError: where the disk is full or the folder cannot be written, with the remedy.
    """
    path = Path(path)
    writer = f".{path.name}.partial-{socket.gethostname()}-"
    partial = path.with_name(f"{writer}{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for file in path.parent.iterdir():
            if file.name.startswith(writer) and not _is_alive(file.name.removeprefix(writer)):
                _remove(file)
        yield partial
        sync(partial)
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
        _remove(partial)


def sync(path: str | Path) -> None:
    """Wait until a file, or a folder and all that is in it, is on the disk."""
    for written in (Path(path), *Path(path).rglob("*")):
        _sync(written)


def seal(path: str | Path) -> None:
    """Put the SHA-256 of a file in the place of the :data:`SEAL` that was written into it.

    The digest is that of the file with zeros in the digest's place. So it travels with the file, and there is no moment
    when a file is there without it, or with that of another.
    """
    content = Path(path).read_bytes()
    begin = content.rindex(SEAL) + len(SEAL) - DIGITS
    with open(path, "r+b") as file:
        file.seek(begin)
        file.write(hashlib.sha256(content).hexdigest().encode())


def verify(path: str | Path, what: str = "file", *, ours: bool = False) -> bytes:
    """Check a file against the digest in it (:func:`seal`), and return its bytes.

    A file without a digest is from elsewhere, and taken as it is.

    Args:
        what: it is, for the message.
        ours: it must have a digest, as nothing else can make it.

    Raises:
        InputError: it is missing, empty or altered.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: no readable {what} ({error}). {_REMEDY}") from error
    if not content:
        raise InputError(f"{path}: no readable {what} (it is empty). {_REMEDY}")
    mark = content.rfind(SEAL[:-DIGITS])
    if mark >= 0:
        begin = mark + len(SEAL) - DIGITS
        digest = hashlib.sha256(content[:begin] + SEAL[-DIGITS:] + content[begin + DIGITS :]).hexdigest()
        if content[begin : begin + DIGITS] != digest.encode():
            raise InputError(f"{path}: its bytes have changed since it was written. {_REMEDY}")
    elif ours:
        raise InputError(f"{path}: no readable {what} (cut short, or not made here). {_REMEDY}")
    return content


def write_json(path: str | Path, value: Any, *, sealed: bool = False) -> None:
    """Write `value` as JSON, whole or not at all. NaN has no JSON form and is refused.

    Args:
        sealed: with a digest (:func:`seal`) as the last key of `value`, a mapping that another stage reads.
    """
    with atomic_path(path) as partial:
        content = {**value, "seal": SEAL.decode()} if sealed else value
        partial.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        if sealed:
            seal(partial)


def read_json(path: str | Path) -> dict[str, Any]:
    """What :func:`write_json` wrote: a mapping, without its digest, which is checked.

    Raises:
        InputError: missing, altered, or no JSON of a mapping.
    """
    content = verify(path)
    try:
        return {key: item for key, item in json.loads(content).items() if key != "seal"}
    except (ValueError, AttributeError) as error:
        raise InputError(f"{path}: no JSON that can be used ({error}). {_REMEDY}") from error


def write_table(path: str | Path, table: "pd.DataFrame") -> None:
    """Write `table` as Parquet, whole or not at all, with a digest (:func:`seal`) in its metadata."""
    import pyarrow
    import pyarrow.parquet

    arrow = pyarrow.Table.from_pandas(table, preserve_index=False)
    arrow = arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), "seal": SEAL})
    with atomic_path(path) as partial:
        pyarrow.parquet.write_table(arrow, partial)
        seal(partial)


def read_table(path: str | Path, what: str = "table") -> "pd.DataFrame":
    """The table in a Parquet file, its digest checked where it has one.

    Args:
        what: it is, for the message.

    Raises:
        InputError: missing, altered, or no Parquet.
    """
    import pandas as pd

    content = verify(path, what)
    try:
        return pd.read_parquet(io.BytesIO(content))
    except Exception as error:  # pyarrow raises whatever the bytes happen to break
        raise InputError(f"{path}: no readable {what} ({error}). {_REMEDY}") from error


def sha256(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _has_cause(error: Exception, numbers: tuple[int, ...]) -> bool:
    """Whether the system's error is one of `numbers`; HDF5, torch and safetensors only put it in their text."""
    return getattr(error, "errno", None) in numbers or any(os.strerror(number) in str(error) for number in numbers)


def _is_alive(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:  # another user's
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
