"""What kind of file something is, judged by its content and not by its name.

Each source has a function here, or in its own module, that the table of sources names. It returns a description, or
None for a file of another kind, and never raises. Kinds that no source reads are known too, so that a message can name
them.
"""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  registers filters that such files may use
import numpy as np

from nuvlm.base.hdf5 import hdf5_file
from nuvlm.simulation.generator_trees import TREES

logger = logging.getLogger(__name__)

HDF5, ROOT, ZLIB, GZIP = b"\x89HDF\r\n\x1a\n", b"root", b"\x78", b"\x1f\x8b"
TABLE = "nuvlm.sources.table", "SOURCES"
UNREAD_TREES = {
    "cafTree": "CAF ROOT: reconstructed quantities, without energy deposits",
    "Events": "art or NOvA ROOT (tree Events)",
}
"""Name of a tree -> what the file is."""


def what_it_is(path: Path) -> list[tuple[str | None, str]]:
    """The sources that can read a file or folder, with a description; or (None, description) for a known other kind."""
    # By name: a conversion must not depend on the table, which names all readers.
    sources = getattr(resolve_name(TABLE[0]), TABLE[1])
    found: list[tuple[str | None, str]] = []
    for name, row in sources.items():
        if row.recognise is None:
            continue
        recognise: Callable[[Path], str | None] = resolve_name(row.recognise)
        description = recognise(path)
        if description:
            found.append((name, description))
    other = None if found else _unread(path)
    return found or ([(None, other)] if other else [])


def of_another_kind(path: Path) -> str:
    """A sentence for the end of a message: what the file is, and which source reads it; empty if that is unknown."""
    found = what_it_is(path)
    if not found:
        return ""
    name, description = found[0]
    if name is None:
        return f" It is {description}; no source reads it."
    if name == "simulate":
        return f" It is {description}: set input.source: simulate with input.simulate.final_states: genie."
    return f" It is {description}: set input.source: {name} (SOURCE={name})."


def recognise_voxels(path: Path) -> str | None:
    """A voxel shard of NuVLM."""
    with _hdf5(path) as file:
        if file is None:
            return None
        form = file.attrs.get("format")
        form = form.decode(errors="replace") if isinstance(form, bytes) else form
        return f"a voxel shard with {_rows(file, 'events')} events" if form == "nuvlm-voxels" else None
    return None


def recognise_larndsim(path: Path) -> str | None:
    """Segments with start and end, as larnd-sim and 2x2_sim have them at the top of the file."""
    with _hdf5(path) as file:
        if file is None:
            return None
        for name in ("segments", "tracks"):
            table = file.get(name)
            if isinstance(table, h5py.Dataset) and {"x_start", "x_end", "dE"} <= set(table.dtype.names or ()):
                tables = ", ".join(f"{key} ({_rows(file, key)})" for key in file if isinstance(file[key], h5py.Dataset))
                return f"larnd-sim HDF5 with tables (rows) {tables}"
    return None


def recognise_cvn(path: Path) -> str | None:
    """DUNE CVN pixel maps: HDF5, or a folder of zlib maps."""
    if path.is_dir():
        maps = [file for file in path.glob("*.gz") if _head(file, 2)[:1] == ZLIB or _head(file, 2) == GZIP]
        return f"a folder of {len(maps)} CVN zlib maps" if maps else None
    with _hdf5(path) as file:
        images = None if file is None else file.get("images")
        if isinstance(images, h5py.Dataset) and images.ndim == 4 and images.shape[1] == 3 and images.dtype == np.uint8:
            return f"DUNE CVN HDF5 with {len(images)} maps of {images.shape[2]} x {images.shape[3]} pixels"
    return None


def recognise_png(path: Path) -> str | None:
    """A folder of images <event>_<view>.png."""
    if not path.is_dir():
        return None
    images = [file for file in path.glob("*.png") if re.fullmatch(r".+_[A-Za-z0-9]+\.png", file.name)]
    return f"a folder of {len(images)} PNG images" if images else None


def recognise_edepsim(path: Path) -> str | None:
    """edep-sim's tree."""
    entries = _trees(path).get("EDepSimEvents")
    return None if entries is None else f"edep-sim ROOT with {entries} events"


def recognise_genie(path: Path) -> str | None:
    """A generator's tree of final states, outside of an edep-sim file."""
    trees = _trees(path)
    name = next((name for name in TREES if name in trees), None)
    if name is None or "EDepSimEvents" in trees:
        return None
    return f"{TREES[name].generator} {name} ROOT with {trees[name]} interactions: final states, without energy deposits"


def _unread(path: Path) -> str | None:
    """A description of a file of a known kind that no source reads, or None."""
    trees = _trees(path)
    for name, description in UNREAD_TREES.items():
        if name in trees:
            return description
    if any(re.match(r"(sparse3d|cluster3d|image2d|particle)_.*_tree", name) for name in trees):
        return f"LArCV ROOT with trees {', '.join(sorted(trees)[:4])}"
    if trees:
        return f"ROOT with trees {', '.join(sorted(trees)[:4])}"
    with _hdf5(path) as file:
        if file is None:
            return _pickle(path)
        names = set(file)
        if "charge" in names and any(f"charge/{name}" in file for name in ("calib_prompt_hits", "events", "packets")):
            return "ndlar_flow HDF5 (charge/..., mc_truth/...)"
        if "mc_truth" in names:
            return "ndlar_flow HDF5 (mc_truth/...)"
        if {"packets", "configs"} & names:
            return "larpix HDF5 packets, before reconstruction"
        if "event_table" in names:
            return "MicroBooNE open data HDF5 (event_table, wire_table)"
        if {"point", "cluster"} <= names:
            return "PILArNet-M HDF5 (point, cluster)"
        return f"HDF5 with {', '.join(sorted(names)[:6]) or 'nothing in it'}"
    return None


def _pickle(path: Path) -> str | None:
    if path.is_file() and _head(path, 2)[:1] == b"\x80" and path.suffix in (".p", ".pkl", ".pickle"):
        return "a pickle, which is not read because it can run any code"
    return None


@contextmanager
def _hdf5(path: Path) -> Iterator[h5py.File | None]:
    """The open file, or None if it is no HDF5 that can be read."""
    file = None
    if path.is_file() and _head(path, len(HDF5)) == HDF5:
        with suppress(OSError):
            file = hdf5_file(path)
    # Damage that shows up later ends the caller's block.
    with file or nullcontext(), suppress(OSError, RuntimeError, ValueError, KeyError, TypeError):
        yield file


def _trees(path: Path) -> dict[str, int]:
    """Trees in a ROOT file, in any of its folders, and their entries; empty for other files."""
    if not path.is_file() or _head(path, 4) != ROOT:
        return {}
    import uproot

    try:
        with uproot.open(path) as file:
            kinds: dict[str, str] = file.classnames(recursive=True, cycle=False)
            return {name.split("/")[-1]: int(file[name].num_entries) for name in kinds if kinds[name] == "TTree"}
    except Exception as error:  # damaged bytes make uproot raise any exception
        logger.debug("%s: %s", path, error)
        return {}


def _rows(file: h5py.File, name: str) -> Any:
    table = file.get(name)
    return len(table) if isinstance(table, h5py.Dataset) and table.shape else "?"


def _head(path: Path, n: int) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(n)
    except OSError:
        return b""
