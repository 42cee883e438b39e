"""Files that appear whole or not at all, and whose bytes are checked when they are read.

A folder of files that belong together, as a store or a model, has a ``manifest.json`` with the SHA-256 of each. A table
or JSON file that stands alone has its own SHA-256 in it, see :func:`seal`; HDF5 has checksums (:mod:`nuvlm.hdf5`).
"""

import errno
import hashlib
import io
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from nuvlm.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

MANIFEST = "manifest.json"
DIGITS = 64
SEAL = b"nuvlm-sha256:" + DIGITS * b"0"
_REMEDY = "Remove it and rerun: the workflow makes it again."
ZSTD_LEVEL = 3


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


class StoreWriter:
    """A Zarr v3 group that is written event by event: see :func:`create_store`."""

    def __init__(self, folder: Path, files: ExitStack) -> None:
        self._folder = folder
        self._files = files
        self._arrays: dict[str, _ShardFile] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        """Of each array, when it is finished."""

    def append(self, name: str, values: "np.ndarray") -> None:
        """Add `values` (events, ...) to the end of the array `name`, which its first call makes.

        Every event of an array of two or more dimensions is a chunk; an array of one dimension is one chunk, kept in
        memory until the end.

        Raises:
            ValueError: another dtype or shape of an event than before.
        """
        if name not in self._arrays:
            path = self._folder.joinpath(name, "c", *"0" * values.ndim)
            path.parent.mkdir(parents=True)
            self._arrays[name] = _ShardFile(self._files.enter_context(path.open("wb")), values.dtype, values.shape[1:])
        self._arrays[name].append(values)

    def finish(self, attributes: Mapping[str, Any]) -> None:
        """Complete the shard files and describe them for readers."""
        import zarr
        from zarr.codecs import ZstdCodec

        group = zarr.create_group(self._folder, attributes=dict(attributes))
        for name, array in self._arrays.items():
            shape = self.shapes[name] = (array.finish(), *array.event_shape)
            held = (max(shape[0], 1), *array.event_shape)  # zarr knows no chunk without elements
            group.create_array(
                name,
                shape=shape,
                dtype=array.dtype,
                chunks=(1, *array.event_shape) if array.event_shape else held,
                shards=held,
                compressors=ZstdCodec(level=ZSTD_LEVEL, checksum=True),
            )


class _ShardFile:
    """The one shard file of a Zarr array, in the format of its sharding codec.

    Zarr's own writer holds the whole shard in memory. The format is the chunks one after the other, each compressed,
    then their offsets and lengths (two little-endian uint64 a chunk), then the CRC-32C of those; see
    https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed. The file is byte for byte what zarr writes.
    """

    def __init__(self, file: BinaryIO, dtype: "np.dtype", event_shape: tuple[int, ...]) -> None:
        from numcodecs import Zstd

        self.dtype = dtype.newbyteorder("<")
        self.event_shape = event_shape
        self._file = file
        self._zstd = Zstd(level=ZSTD_LEVEL, checksum=True)
        self._ends = [0]
        self._pieces: list[np.ndarray] = []  # of an array of one dimension

    def append(self, values: "np.ndarray") -> None:
        if values.dtype != self.dtype or values.shape[1:] != self.event_shape:
            raise ValueError(
                f"events of {values.dtype} {values.shape[1:]}; those before were {self.dtype} {self.event_shape}"
            )
        if not self.event_shape:
            self._pieces.append(values)
            return
        for event in values:
            self._write_chunk(event)

    def finish(self) -> int:
        """Write what is left and return the number of events."""
        import google_crc32c
        import numpy as np

        events = sum(map(len, self._pieces)) or len(self._ends) - 1
        if self._pieces:
            self._write_chunk(np.concatenate(self._pieces))
        ends = np.array(self._ends, dtype="<u8")
        index = np.stack([ends[:-1], np.diff(ends)], axis=1).tobytes()
        self._file.write(index + google_crc32c.value(index).to_bytes(4, "little"))
        return events

    def _write_chunk(self, values: "np.ndarray") -> None:
        import numpy as np

        chunk = self._zstd.encode(np.ascontiguousarray(values))
        self._file.write(chunk)
        self._ends.append(self._ends[-1] + len(chunk))


class EventFile:
    """Random access to the events of one array of a store that :class:`StoreWriter` wrote.

    Through zarr any event costs 0.3 to 1 ms, however small; this takes what zstd takes. And it works in a process that
    was forked: zarrs would wait there for threads of its parent, forever.

    Args:
        store: folder that :func:`open_store` has opened.
        array: zarr.Array in it.

    Raises:
        InputError: the file has changed since its store was opened.
    """

    def __init__(self, store: str | Path, array: Any) -> None:
        import numpy as np
        from numcodecs import Zstd

        self._store = Path(store)
        self._zstd = Zstd()
        events = array.shape[0]
        try:
            self._file = self._store.joinpath(array.basename, "c", *"0" * array.ndim).open("rb")
            # See _ShardFile; the last four bytes are the index's checksum.
            self._file.seek(-(16 * events + 4), os.SEEK_END)
            self._places = np.frombuffer(self._file.read(16 * events), dtype="<u8").reshape(events, 2)
        except (OSError, ValueError) as error:
            raise InputError(f"{self._store}: cannot be read any more ({error}). {_remedy(self._store)}") from error

    def read(self, row: int, out: "np.ndarray") -> None:
        """Read event `row` into the contiguous array `out`.

        Raises:
            InputError: the file has changed since its store was opened.
        """
        offset, size = map(int, self._places[row])
        try:
            # In one call: processes that were forked share the position in the file.
            self._zstd.decode(os.pread(self._file.fileno(), size, offset), out)
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(
                f"{self._store}: event {row} of it cannot be read any more ({error}). {_remedy(self._store)}"
            ) from error


@contextmanager
def create_store(path: str | Path, attributes: Mapping[str, Any]) -> Iterator[StoreWriter]:
    """Write a Zarr v3 group, whole or not at all, with one shard file an array, chunked by event, and its manifest.

    Memory holds no more than what is given to :meth:`StoreWriter.append`. Chunks are zstd with checksum: without one,
    most flipped bits would pass unnoticed. Chunks of zeros are written too, so that a missing one is always a fault.
    """
    with atomic_path(path) as partial:
        partial.mkdir()
        with ExitStack() as files:
            writer = StoreWriter(partial, files)
            yield writer
            writer.finish(attributes)
        write_manifest(partial, shapes=writer.shapes)


def write_store(path: str | Path, arrays: Mapping[str, "np.ndarray"], attributes: Mapping[str, Any]) -> None:
    """What :func:`create_store` writes, of arrays that are in memory."""
    with create_store(path, attributes) as store:
        for name, values in arrays.items():
            store.append(name, values)


def open_store(path: str | Path, format: str) -> Any:
    """Open a store of :func:`write_store` for reading, after checking its bytes.

    Returns:
        The zarr.Group (untyped: what zarr says of its items is a union of everything).

    Raises:
        InputError: a file is missing or altered, or the store has another format or other arrays than were written.
    """
    import zarr

    # Several times as fast as zarr's own codecs; in one thread, as jobs run side by side.
    zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline", "threading.max_workers": 1})
    written = verify_manifest(path).get("shapes", {})
    try:
        group = zarr.open_group(path, mode="r", zarr_format=3)  # a store of version 2 may hold pickles
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: no Zarr group that can be read ({error}). Remove it and rerun.") from error
    if group.attrs.get("format") != format:
        raise InputError(f"{path}: its format is {group.attrs.get('format')!r}, not {format!r}. Remove it and rerun.")
    found = {name: list(getattr(group.get(name), "shape", ())) for name in written}
    if found != written:
        raise InputError(f"{path}: its arrays are {found}, but {written} were written. Remove it and rerun.")
    return group


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


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
