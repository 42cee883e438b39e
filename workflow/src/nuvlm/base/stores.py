"""Zarr v3 stores, written and read event by event, with a manifest."""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from nuvlm.base.errors import InputError
from nuvlm.base.files import atomic_path
from nuvlm.base.manifest import _remedy, verify_manifest, write_manifest

if TYPE_CHECKING:
    import numpy as np

ZSTD_LEVEL = 3


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
