"""SPINE HDF5 files: points and depositions, the image they are of, and neutrinos.

Layout (src/spine/io/write/hdf5 of SPINE): version 1 has a dataset a product and ``events``, a table of region
references; version 2 a group ``products/{name}`` with ``values`` or ``fixed`` and ``event_offsets``. Depositions are
charge as it was read out, calibrated to MeV; ``_label`` and ``_g4`` are true deposits. Positions are in cm or in voxels
of ``meta``.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from nuvlm.base.errors import InputError
from nuvlm.detector.voxels import MOST_VOXELS
from nuvlm.sources.hdf5_rows import Rows, blocks, explained
from nuvlm.sources.image_truth import GENIE_MODES, LARSOFT_MODES, NeutrinoRow, mode_names, neutrino_truth
from nuvlm.sources.interactions import Truth
from nuvlm.sources.voxel_images import CM, ImageFile, VoxelImage, choose_product

POINTS = {"depositions": "points", "depositions_label": "points_label", "depositions_g4": "points_g4"}
SCHEMES = {0: LARSOFT_MODES, 1: GENIE_MODES}
ON_GRID = 0.02
"""Distance from a voxel's centre, in voxels, up to which a point lies on the grid."""
INSIDE = 0.99
"""Part of the points that lie in the image, and on its grid."""
SAME_SIZE = 0.01


def is_spine(file: h5py.File) -> bool:
    info = file.get("info")
    return isinstance(info, h5py.Group) and isinstance(file.get("events"), h5py.Dataset)


def all_products(file: h5py.File) -> list[str]:
    return [name for name in file.get("products", file) if name not in ("info", "events")]


def layout(file: h5py.File) -> str:
    """The version of SPINE and of its layout."""
    attributes = file["info"].attrs
    return f"SPINE HDF5, layout {2 if 'products' in file else 1}, made by SPINE {attributes.get('version', '?')}"


def read_spine(path: Path, file: h5py.File, wanted: str | None, drifted: bool) -> ImageFile:
    """The images of a file; see :func:`nuvlm.sources.voxel_images.choose_product`."""
    names, name = all_products(file), layout(file)
    if file["info"].attrs.get("complete", True) in (False, np.False_):
        raise InputError(f"{path}: {name}: it is marked as incomplete. Copy or create it again.")
    known = [product for product, points in POINTS.items() if product in names and points in names]
    if not known:
        raise InputError(
            f"{path}: {name}; not read: {', '.join(names) or 'nothing'}. Points and depositions are read: write "
            "them with the keys points and depositions."
        )
    product = choose_product(path, name, known, wanted, drifted)
    if "meta" not in names:
        raise InputError(f"{path}: {name} without meta, the voxels of its images. Write it with the key meta.")
    values, points = _Product(path, file, product), _Product(path, file, POINTS[product], width=3)
    metas = _Product(path, file, "meta", ("lower", "upper", "size", "count")).one_an_event()
    _check_metas(path, metas)
    if (values.count != points.count).any() or len(metas) != len(values.count):
        raise InputError(f"{path}: {product}, {POINTS[product]} and meta differ in length. Create the file again.")
    numbers = None
    if "run_info" in names:
        numbers = _Product(path, file, "run_info", ("event",)).one_an_event()["event"].tolist()
    neutrinos, found = (None, ()) if "neutrinos" not in names else _neutrinos(path, file, len(metas))
    in_cm, on_grid, evidence = _positions_in_cm(path, points, metas)
    found = (("positions", "cm" if in_cm else "voxels", evidence, on_grid < INSIDE), *found)
    events = _events(values, points, metas, in_cm, neutrinos, numbers)
    return ImageFile(name, product, numbers, len(metas), events, "neutrinos" if neutrinos is not None else "", found)


def _events(
    values: "_Product",
    points: "_Product",
    metas: np.ndarray,
    in_cm: bool,
    truths: list[tuple[Truth, str | None]] | None,
    numbers: list[int] | None,
) -> Iterator[VoxelImage]:
    for block in blocks(np.minimum(values.count, MOST_VOXELS)):
        count = np.where(values.count[block] > MOST_VOXELS, 0, values.count[block])
        energies = values.rows.spans(values.first[block], count)
        positions = points.rows.spans(points.first[block], count)
        for i, (energy, position) in enumerate(zip(energies, positions, strict=True), start=block.start):
            truth, defect = truths[i] if truths is not None else (Truth(), None)
            if values.count[i] > MOST_VOXELS:
                defect = f"has {values.count[i]} voxels; the maximum is {MOST_VOXELS}"
            low, size = (_rounded_mm(metas[i][name]) for name in ("lower", "size"))
            if not (np.isfinite([*low, *size]).all() and (size > 0).all()):
                defect, size = f"has an image from {low.tolist()} mm with voxels of {size.tolist()} mm", np.ones(3)
            centre = _centres_mm(position.astype(np.float64), low, size, in_cm)
            x, y, z = size.tolist()
            name = f"event {numbers[i]}" if numbers else f"entry {i}"
            yield VoxelImage(name, centre, (x, y, z), energy, truth, defect)


def _rounded_mm(values_cm: np.ndarray) -> np.ndarray:
    """Lengths in mm, rounded to 0.1 um: single precision is not more accurate."""
    rounded: np.ndarray = np.round(CM * values_cm.astype(np.float64), 4)
    return rounded


def _centres_mm(position: np.ndarray, low: np.ndarray, size: np.ndarray, in_cm: bool) -> np.ndarray:
    """Positions (points, 3) in mm; those at the centre of a voxel exactly there, without the error of single precision.

    Positions in voxels are indices, or with a half added centres.
    """
    with np.errstate(all="ignore"):
        voxel = (CM * position - low) / size if in_cm else position
        if not in_cm and (voxel == np.floor(voxel)).all():
            voxel = voxel + 0.5
        exact = np.floor(voxel) + 0.5
        return low + np.where(np.abs(voxel - exact) < ON_GRID, exact, voxel) * size


class _Product:
    """The rows of a product, and which belong to each event."""

    def __init__(self, path: Path, file: h5py.File, name: str, columns: tuple[str, ...] = (), width: int = 0) -> None:
        self._path, self._name = path, name
        if "products" in file:
            group = file[f"products/{name}"]
            self.rows = Rows(path, group, "fixed" if columns else "values", columns, width)
            offsets = Rows(path, group, "event_offsets").all().astype(np.int64)
            self.first, self.count = offsets[:-1], np.diff(offsets)
        else:
            self.rows = Rows(path, file, name, columns, width)
            with explained(path, f"region references of {name}"):
                bounds = [_bounds(reference, file) for reference in file["events"][name]]
            self.first, self.count = np.array(bounds, dtype=np.int64).reshape(-1, 2).T
        if (self.count < 0).any():
            raise InputError(f"{path}: the offsets of {name} decrease: the file is damaged. Create it again.")

    def one_an_event(self) -> np.ndarray:
        """The rows, if each event has one.

        Raises:
            InputError: an event has none or several.
        """
        if (self.count != 1).any():
            raise InputError(f"{self._path}: event {int(np.argmax(self.count != 1))} has no {self._name}, or several.")
        rows = self.rows.all()
        if len(self.first) and self.first.max() >= len(rows):
            raise InputError(f"{self._path}: rows of {self._name} are missing: the file is incomplete.")
        return rows[self.first]


def _bounds(reference: Any, file: h5py.File) -> tuple[int, int]:
    """First row and number of rows of a region."""
    region = h5py.h5r.get_region(reference, file.id)
    if region.get_select_npoints() == 0:
        return 0, 0
    low, high = region.get_select_bounds()
    return int(low[0]), int(high[0] - low[0] + 1)


def _check_metas(path: Path, metas: np.ndarray) -> None:
    """Check that images are as large as their voxels together.

    Raises:
        InputError: they are not.
    """
    with np.errstate(all="ignore"):
        side, voxels = metas["upper"] - metas["lower"], metas["size"] * metas["count"]
        wrong = (np.abs(side - voxels) > SAME_SIZE * np.abs(side)).any(axis=1)
    if wrong.any():
        i = int(wrong.argmax())
        raise InputError(
            f"{path}: the image of event {i} is {side[i].tolist()} long, but its {metas['count'][i].tolist()} voxels "
            f"of {metas['size'][i].tolist()} are {voxels[i].tolist()}. Create the file again."
        )


def _positions_in_cm(path: Path, points: _Product, metas: np.ndarray) -> tuple[bool, float, str]:
    """Whether positions are in cm, not in voxels; the part on the grid of the image; and the evidence.

    That is where the points of the largest event lie in its image.

    Raises:
        InputError: they lie in it in neither unit.
    """
    most = int(np.argmax(np.minimum(points.count, MOST_VOXELS))) if len(points.count) else 0
    if not len(points.count) or not points.count[most]:
        return True, 1.0, "no event has points"
    count = min(int(points.count[most]), MOST_VOXELS)
    (rows,) = points.rows.spans(points.first[most : most + 1], np.array([count]))
    position, meta = rows.astype(np.float64), metas[most]
    with np.errstate(all="ignore"):
        shares = {}
        for unit, voxel in {"cm": (position - meta["lower"]) / meta["size"], "voxels": position}.items():
            part = np.abs(voxel - np.floor(voxel) - 0.5)
            on_grid = (part < ON_GRID) | (part > 0.5 - ON_GRID) if unit == "voxels" else part < ON_GRID
            shares[unit] = (((voxel >= 0) & (voxel <= meta["count"])).all(axis=1).mean(), on_grid.all(axis=1).mean())
    found = "; ".join(f"taken as {unit}: {a:.0%} in the image, {b:.0%} on its grid" for unit, (a, b) in shares.items())
    good = {unit: grid for unit, (inside, grid) in shares.items() if inside >= INSIDE}
    if not good:
        raise InputError(f"{path}: points of the largest event lie outside its image in cm and in voxels ({found}).")
    unit = max(good, key=lambda unit: (good[unit], unit == "cm"))
    return unit == "cm", float(good[unit]), found


def _neutrinos(
    path: Path, file: h5py.File, n_events: int
) -> tuple[list[tuple[Truth, str | None]], tuple[tuple[str, str, str, bool], ...]]:
    """The truth of each event and its defect, and what was concluded about modes."""
    columns = ("pdg_code", "current_type", "interaction_mode", "interaction_type", "energy_init", "position")
    product = _Product(path, file, "neutrinos", columns)
    if len(product.count) != n_events:
        raise InputError(f"{path}: {len(product.count)} entries of neutrinos for {n_events} events. Create it again.")
    rows = product.rows.all()
    names, evidence = mode_names(rows["interaction_mode"].tolist(), rows["interaction_type"].tolist())
    schemes = set(rows["interaction_scheme"].tolist()) if "interaction_scheme" in product.rows.columns else set()
    stated = SCHEMES.get(schemes.pop()) if len(schemes) == 1 else None
    if stated is not None and names in SCHEMES.values() and names != stated:
        names, evidence = {}, f"unknown: interaction_scheme contradicts {evidence}"
    elif stated is not None:
        names, evidence = stated, "interaction_scheme"
    truths = [
        neutrino_truth([_neutrino(row, product.rows.columns) for row in rows[first : first + count]], names)
        for first, count in zip(product.first.tolist(), product.count.tolist(), strict=True)
    ]
    modes = ", ".join(sorted(set(names.values()))) or "unknown"
    return truths, (("scattering modes", modes, evidence, False),) if len(rows) else ()


def _neutrino(row: np.void, columns: tuple[str, ...]) -> NeutrinoRow:
    x, y, z = row["position"].astype(np.float64).tolist()
    return NeutrinoRow(
        int(row["pdg_code"]),
        int(row["current_type"]),
        int(row["interaction_mode"]),
        float(row["energy_init"]),
        float(row["inelasticity"]) if "inelasticity" in columns else np.nan,
        (x, y, z),
        int(row["lepton_pdg_code"]) if "lepton_pdg_code" in columns else 0,
    )
