"""Reader of DUNE CVN pixel maps: HDF5, or a folder of zlib maps (``<event>.gz`` with ``<event>.info`` or partition.p).

A CVN map has the three wire planes of the far detector, 500 wires x 500 time ticks each. The pixel-map store has wires
(along the beam) as columns and ticks as rows, like all pixel maps of NuVLM.

Sources: B. Abi et al. (DUNE), PRD 102 (2020) 092003, its release github.com/DUNE/dune-cvn, and dunereco's
``CVN/func/InteractionType.h``, ``CVN/func/AssignLabels.cxx`` and ``CVN/art/CVNZlibMaker_module.cc``.
"""

import logging
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import isqrt
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401  registers filters that such files may use
import numpy as np

from nuvlm.base.errors import InputError
from nuvlm.base.hdf5 import check_dataset, hdf5_file
from nuvlm.detector.voxels import MODES
from nuvlm.sources.cvn_partition import find_partition, read_partition
from nuvlm.sources.ready_maps import (
    LARGEST,
    WIRES_AND_TIME,
    BadEvent,
    PixelMap,
    PixelMapWriter,
    event_number,
    require_distinct,
)
from nuvlm.sources.recognition import of_another_kind

logger = logging.getLogger(__name__)

VIEWS = ("u", "v", "z")
FLAVOURS = ("numu", "nue", "nutau")
PDG = {"nue": 12, "numu": 14, "nutau": 16}
INTERACTIONS = ("QE", "RES", "DIS", "unknown")
"""Labels 0 to 11 are the charged currents of FLAVOURS, each with these four interactions."""
ELASTIC_LABEL, NC_LABEL = 12, 13
PROTON_BEAM_GEV = 120.0
"""Energy of the beam's protons, the upper limit on the neutrino energy."""
USUAL_GEV, USUAL_Y = (0.6, 20.0), (0.05, 0.85)
"""Limits on the medians of the neutrino energy, GeV, and of the inelasticity."""
INFO = {"label": 0, "e_nu": 1, "e_lep": 2, "nu_pdg": 7}
"""Lines of an .info file as written by CVNZlibMaker; releases differ only after the 14th line."""


def convert_cvn(path: Path, out: PixelMapWriter) -> None:
    """Write the events of a file or folder to a pixel-map store and a truth table.

    Tau-neutrino charged currents have no class. Neutral currents have no flavour in CVN files.

    Args:
        path: an HDF5 file with `images`, uint8 (events, 3, wires, ticks), and optionally `class` and `truth/label`,
            `truth/nu_pdg`, `truth/e_nu`, `truth/e_lep` (GeV); or a folder of zlib maps.
        out: its views are some of u, v and z.

    Raises:
        InputError: the file is missing, truncated or of another kind; energies cannot be in GeV; two events have one
            id; an event cannot be used.
    """
    chosen = out.choose_views(path, VIEWS)
    planes = [VIEWS.index(view) for view in chosen]
    if path.is_dir():
        names = sorted(file.stem for file in path.glob("*.gz"))
        if not names:
            raise InputError(
                f"{path}: there is no <event>.gz in it. Is this a folder of CVN maps?{of_another_kind(path)}"
            )
        without_map = sorted({file.stem for file in path.glob("*.info")} - set(names))
        if without_map:
            logger.warning("%s: %d files .info have no map (first: %s)", path, len(without_map), without_map[0])
        ids = [event_number(name) for name in names]
        require_distinct(path, names, ids)
        events = _in_gev(path, _read_folder(path, names, ids, planes, _partition(path, names, out)), out)
        out.write(path, events, len(names), source="cvn", views=chosen, axes=WIRES_AND_TIME)
        return
    if not path.is_file():
        raise InputError(f"{path}: no such file or folder. Check the path in input.files.")
    with _reading(path):
        file = hdf5_file(path)
    with file:
        with _reading(path):
            images = _images(path, file)
            columns = _columns(path, file, len(images))
        events = _in_gev(path, _read_file(path, images, columns, planes), out)
        out.write(path, events, len(images), source="cvn", views=chosen, axes=WIRES_AND_TIME)


def _in_gev(path: Path, events: Iterator[PixelMap | BadEvent], out: PixelMapWriter) -> Iterator[PixelMap | BadEvent]:
    """Yield the events, and record energies and inelasticities that are unusual for DUNE's beam.

    Raises:
        InputError: half of the neutrinos have more energy than the beam's protons.
    """
    energies, shares = [], []
    for event in events:
        if isinstance(event, PixelMap) and np.isfinite(event.nu_energy):
            energies.append(event.nu_energy)
        if isinstance(event, PixelMap) and np.isfinite(event.inelasticity):
            shares.append(event.inelasticity)
        yield event
    median = float(np.median(energies)) if energies else 0.0
    if median > PROTON_BEAM_GEV:
        raise InputError(
            f"{path}: the neutrino energies (median {median:g}) cannot be in GeV: the protons of the beam have "
            f"{PROTON_BEAM_GEV:g} GeV. Convert them to GeV."
        )
    low, high = USUAL_GEV
    if energies and not low < median < high:
        out.conclude(path, "neutrino energy", f"unusual: median {median:.3g} GeV",
                     f"{low:g} to {high:g} GeV in DUNE's beam", doubt=True)  # fmt: skip
    y = float(np.median(shares)) if shares else 0.5
    low, high = USUAL_Y
    if not low < y < high:
        out.conclude(path, "inelasticity", f"unusual: median {y:.3g}", f"{low:g} to {high:g} are usual", doubt=True)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{path}: not HDF5, or truncated ({error}). Copy or create it again.{of_another_kind(path)}"
        ) from error


def _images(path: Path, file: h5py.File) -> h5py.Dataset:
    images = file.get("images")
    if not isinstance(images, h5py.Dataset):
        raise InputError(
            f"{path}: there is no data set 'images' (found: {', '.join(file) or 'nothing'}).{of_another_kind(path)}"
        )
    if images.ndim != 4 or images.shape[1] != len(VIEWS) or images.dtype != np.uint8:
        raise InputError(
            f"{path}: 'images' is {images.dtype} {images.shape}; CVN maps are uint8 (events, 3, wires, ticks)."
        )
    if max(images.shape[2:]) > LARGEST:
        raise InputError(f"{path}: 'images' is {images.shape}; a side of at most {LARGEST} pixels can be used.")
    check_dataset(path, images)
    if not len(images):
        raise InputError(f"{path}: 'images' is empty. Remove the file from input.files.")
    return images


def _columns(path: Path, file: h5py.File, n: int) -> dict[str, np.ndarray]:
    """Column -> (events,): `event_id`, the row number by default, and the truth that the file has."""
    datasets = {"class": file.get("class"), "event_id": file.get("event_id")}
    datasets |= {name: file.get(f"truth/{name}") for name in INFO}
    datasets = {name: dataset for name, dataset in datasets.items() if isinstance(dataset, h5py.Dataset)}
    for dataset in datasets.values():
        check_dataset(path, dataset, at_once=True)
    columns = {name: dataset[:] for name, dataset in datasets.items()}
    for name, values in columns.items():
        if values.shape != (n,):
            raise InputError(f"{path}: '{name}' is {values.shape}, but there are {n} images. Create the file again.")
    if "event_id" not in columns:
        columns["event_id"] = np.arange(n)
    elif columns["event_id"].dtype.kind not in "iu" or (columns["event_id"] < 0).any():
        raise InputError(f"{path}: 'event_id' must hold non-negative integers. Correct it or leave it out.")
    ids = columns["event_id"].tolist()
    require_distinct(path, [f"in row {row}" for row in range(n)], ids)
    return columns


def _read_file(
    path: Path, images: h5py.Dataset, columns: Mapping[str, np.ndarray], planes: Sequence[int]
) -> Iterator[PixelMap | BadEvent]:
    # Whole chunks, so that a chunk with many events is decompressed once.
    step = images.chunks[0] if images.chunks else 1
    for begin in range(0, len(images), step):
        with _reading(path):
            block = images[begin : begin + step]
        for row, maps in enumerate(block, begin):
            number = int(columns["event_id"][row])
            known = {name: float(columns[name][row]) for name in INFO if name in columns}
            name = columns["class"][row] if "class" in columns else None
            name = name.decode(errors="replace") if isinstance(name, bytes) else name
            yield _event(str(number), number, maps[planes], known, name)


def _read_folder(
    path: Path, names: Sequence[str], ids: Sequence[int], planes: Sequence[int], labels: Mapping[str, dict[str, float]]
) -> Iterator[PixelMap | BadEvent]:
    for name, number in zip(names, ids, strict=True):
        try:
            maps, known = _read_zlib(name, path / f"{name}.gz"), _read_info(name, path / f"{name}.info")
            known = known or labels.get(name, {})
        except BadEvent as bad:
            yield bad
        else:
            yield _event(name, number, maps[planes], known)


def _partition(path: Path, names: Sequence[str], out: PixelMapWriter) -> dict[str, dict[str, float]]:
    """The labels of a partition file by the name of the map; empty where all maps have an .info file, or none.

    Raises:
        InputError: the file cannot be used, or its events are not those of the folder.
    """
    without = [name for name in names if not (path / f"{name}.info").exists()]
    file = find_partition(path) if without else None
    if file is None:
        if without:
            evidence = f"there is no {without[0]}.info, and no partition.p"
            value = f"unknown for {len(without)} of {len(names)} maps"
            out.conclude(path, "truth", value, evidence, doubt=len(without) < len(names))
        return {}
    labels = read_partition(file)
    labels = {name: found for name in names if (found := labels.get(name, labels.get(name.removeprefix("event"))))}
    met = sum(name in labels for name in without)
    if not met:
        raise InputError(f"{file}: has labels for none of the {len(names)} maps, such as {names[0]}. Remove it.")
    evidence = f"{file.name} has labels for {met} of {len(without)} maps without an .info file"
    out.conclude(path, "truth", f"classes from {file.name}, without energies", evidence, doubt=met < len(without))
    return labels


def _read_zlib(name: str, file: Path) -> np.ndarray:
    """uint8 (3, wires, ticks)."""
    # Accepts both headers: raw zlib, which CVN writes in spite of the suffix, and gzip.
    stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    try:
        content = stream.decompress(file.read_bytes(), len(VIEWS) * LARGEST**2)
    except (OSError, zlib.error) as error:
        raise BadEvent(name, f"has a map that cannot be read ({error})") from error
    if not stream.eof:
        raise BadEvent(name, f"has a map that is truncated, or larger than {LARGEST} x {LARGEST}")
    side = isqrt(len(content) // len(VIEWS))
    if len(content) != len(VIEWS) * side**2:
        raise BadEvent(name, f"has a map of {len(content)} bytes, not 3 squares (500 x 500: 750000)")
    return np.frombuffer(content, dtype=np.uint8).reshape(len(VIEWS), side, side)


def _read_info(name: str, file: Path) -> dict[str, float]:
    """Values of an .info file; empty if there is no file."""
    if not file.exists():
        return {}
    try:
        lines = file.read_text().splitlines()
        return {key: float(lines[line]) for key, line in INFO.items()}
    except (OSError, ValueError, IndexError) as error:
        raise BadEvent(name, f"has {file.name}, which is not an .info file of CVN ({error})") from error


def _event(
    name: str, number: int, maps: np.ndarray, known: Mapping[str, float], class_name: str | None = None
) -> PixelMap | BadEvent:
    """Assemble an event; `maps` is (views, wires, ticks)."""
    label = known.get("label", np.nan)
    if np.isinf(label) or np.isinf(known.get("nu_pdg", 0)):
        return BadEvent(name, f"has the label {label:g} and PDG code {known.get('nu_pdg', np.nan):g}")
    named = None if np.isnan(label) else _name_of(int(label))
    if class_name is not None and named is not None and class_name != named:
        return BadEvent(name, f"is {class_name} by its class and {named} by its label")
    class_name = class_name or named
    pdg = known.get("nu_pdg", np.nan)
    if class_name in PDG and not np.isnan(pdg) and abs(pdg) != PDG[class_name]:
        return BadEvent(name, f"is {class_name} by its class and has a neutrino of PDG code {pdg:g}")
    energy, lepton = known.get("e_nu", np.nan), known.get("e_lep", np.nan)
    if energy < 0 or np.isinf(energy):
        return BadEvent(name, f"has a neutrino energy of {energy:g}")
    inelasticity = 1 - lepton / energy if energy > 0 else np.nan
    return PixelMap(
        name,
        number,
        maps.swapaxes(1, 2),
        class_name,
        # A neutral current has PDG code 1: its flavour is unknown.
        nu_pdg=int(pdg) if class_name in PDG and not np.isnan(pdg) else 0,
        is_cc=class_name in PDG,
        nu_energy=energy,
        inelasticity=inelasticity if 0 <= inelasticity <= 1 else np.nan,
        mode=MODES[INTERACTIONS[int(label) % len(INTERACTIONS)]] if class_name in PDG and label < ELASTIC_LABEL else 0,
    )


def _name_of(label: int) -> str:
    """The class of an interaction label, or "label <n>" for an unknown one."""
    if 0 <= label < ELASTIC_LABEL:
        return FLAVOURS[label // len(INTERACTIONS)]
    return {ELASTIC_LABEL: "nc", NC_LABEL: "nc"}.get(label, f"label {label}")
