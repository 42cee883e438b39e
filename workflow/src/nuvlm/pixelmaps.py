"""Pixel maps: a square window of the event display around the interaction, as grayscale images."""

import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr

from nuvlm.errors import InputError
from nuvlm.logs import track
from nuvlm.storage import create_store, open_store, read_json, verify_file

logger = logging.getLogger(__name__)

VIEWS = ("xz", "yz")
# Displays or pixel maps of so many bytes are in memory at once.
BLOCK_BYTES = 2**25
SMALLEST = 16
"""Side of the smallest maps that are made or read, pixels."""


def grayscale(energy_mev: np.ndarray, *, transfer: str, white_mev: float, knee_mev: float) -> np.ndarray:
    """Energy in a pixel (MeV) to a grey value (uint8), black where there is none.

    ``linear``: E / white. ``log``: ln(1 + E / knee) / ln(1 + white / knee), which keeps a minimum-ionising
    track visible beside the core of a shower. Both are clipped at white (255) and rounded to the nearest value.
    """
    # A display is nearly empty, and black where it is.
    lit = np.flatnonzero(energy_mev != 0)
    energy = energy_mev.reshape(-1)[lit].astype(np.float64)
    if transfer == "log":
        level = np.log1p(energy / knee_mev) / np.log1p(white_mev / knee_mev)
    elif transfer == "linear":
        level = energy / white_mev
    else:
        raise ValueError(f"unknown transfer {transfer!r}: log or linear")
    grey = np.zeros(energy_mev.shape, dtype=np.uint8)
    grey.reshape(-1)[lit] = np.rint(255 * np.clip(level, 0, 1))
    return grey


def energy_of_grey(*, transfer: str, white_mev: float, knee_mev: float) -> np.ndarray:
    """(256,) energy in a pixel (MeV) of each grey value: the inverse of :func:`grayscale`, but for rounding."""
    level = np.arange(256) / 255
    if transfer == "log":
        return knee_mev * np.expm1(level * np.log1p(white_mev / knee_mev))
    if transfer == "linear":
        return white_mev * level
    raise ValueError(f"unknown transfer {transfer!r}: log or linear")


def crop(view: np.ndarray, row: int, column: int, size: int) -> np.ndarray:
    """Cut a (size, size) window from a (rows, columns) view, with pixel (row, column) at (size // 2, size // 2).

    What lies outside the view is zero.
    """
    window = np.zeros((size, size), dtype=view.dtype)
    top, left = row - size // 2, column - size // 2
    rows = slice(max(top, 0), min(top + size, view.shape[0]))
    columns = slice(max(left, 0), min(left + size, view.shape[1]))
    if rows.start < rows.stop and columns.start < columns.stop:
        window[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = view[rows, columns]
    return window


def centre_pixel(
    xz: np.ndarray, yz: np.ndarray, vertex_mm: np.ndarray, *, centre: str, origin_mm: np.ndarray, pixel_mm: float
) -> np.ndarray:
    """The pixel (x, y, z) that the window is centred on: where the vertex or the centroid lies.

    Args:
        xz, yz: the event's displays, MeV.
        vertex_mm: (3,), NaN where it is not known; then, and for ``centre="centroid"``, the energy-weighted
            centroid of the displays stands in.
    """
    if centre == "vertex" and np.isfinite(vertex_mm).all():
        return np.floor((vertex_mm - origin_mm) / pixel_mm).astype(np.int64)
    if not xz.any() or not yz.any():
        return np.array([xz.shape[0], yz.shape[0], xz.shape[1]]) // 2
    x = np.average(np.arange(xz.shape[0]) + 0.5, weights=xz.sum(axis=1, dtype=np.float64))
    y = np.average(np.arange(yz.shape[0]) + 0.5, weights=yz.sum(axis=1, dtype=np.float64))
    z = np.average(np.arange(xz.shape[1]) + 0.5, weights=xz.sum(axis=0, dtype=np.float64))
    return np.floor([x, y, z]).astype(np.int64)


def crop_displays(
    displays: Path, out: Path, *, size: int, centre: str, transfer: str, white_mev: float, knee_mev: float
) -> None:
    """Make the pixel-map store `out` (docs/formats.md) from a display store."""
    store = open_store(displays, "nuvlm-displays")
    xz, yz, vertex = store["xz"], store["yz"], store["vertex_mm"][:].astype(np.float64)
    origin_mm = np.array(store.attrs["origin_mm"], dtype=np.float64)
    pixel_mm = float(store.attrs["pixel_mm"])
    ids = store["event_id"][:]
    n = len(ids)
    at_once = max(1, BLOCK_BYTES // max(len(VIEWS) * size**2, 4 * (xz[0].size + yz[0].size)))
    attributes = {
        "format": "nuvlm-pixelmaps",
        "version": 1,
        "views": list(VIEWS),
        "size": size,
        "pixel_mm": pixel_mm,
        "centre": centre,
        "transfer": transfer,
        "white_mev": white_mev,
        "knee_mev": knee_mev,
        "displays": dict(store.attrs),
    }
    dark: list[int] = []
    with create_store(out, attributes) as maps:

        def events() -> Iterator[int]:
            """Write the pixel maps block by block, and yield the row of each event that is done."""
            for begin in range(0, n, at_once):
                rows = range(begin, min(begin + at_once, n))
                views = [array[begin : rows.stop] for array in (xz, yz)]  # MeV
                greys = [grayscale(view, transfer=transfer, white_mev=white_mev, knee_mev=knee_mev) for view in views]
                images = np.empty((len(rows), len(VIEWS), size, size), dtype=np.uint8)
                corner_mm = np.empty((len(rows), 3))
                for i, row in enumerate(rows):
                    x, y, z = pixel = centre_pixel(
                        views[0][i], views[1][i], vertex[row], centre=centre, origin_mm=origin_mm, pixel_mm=pixel_mm
                    )
                    corner_mm[i] = origin_mm + (pixel - size // 2) * pixel_mm
                    images[i] = crop(greys[0][i], x, z, size), crop(greys[1][i], y, z, size)
                dark.extend(begin + np.flatnonzero(~images.any(axis=(1, 2, 3))))
                maps.append("images", images)
                maps.append("corner_mm", corner_mm)
                yield from rows

        for _ in track(events(), "events", n):
            pass
        maps.append("event_id", ids)
    if dark:
        logger.warning(
            "%s: %d of %d pixel maps are black (first: event %d); is the vertex where the charge is?",
            displays, len(dark), n, ids[dark[0]],
        )  # fmt: skip


def open_pixel_maps(store: str | Path) -> Any:
    """Open a pixel-map store (zarr.Group) after checking its bytes: ``images``, ``event_id``, ``corner_mm``.

    Raises:
        InputError: it is damaged, or its images are not what it says of them.
    """
    opened = open_store(store, "nuvlm-pixelmaps")
    _settings_of(store, opened)
    return opened


def image_settings(stores: Mapping[str, Path]) -> dict[str, Any]:
    """The settings that made the pixel maps, which a model trained on them depends on.

    Raises:
        InputError: the stores were made with different settings, one is missing or damaged, or its images are not what
            it says of them.
    """
    found: dict[str, Any] | None = None
    for name, path in stores.items():
        # No more than is read: this is asked before the images are.
        verify_file(path, "zarr.json")
        verify_file(path, "images/zarr.json")
        settings = _settings_of(path, zarr.open_group(path, mode="r", zarr_format=3))
        if found is not None and settings != found:
            raise InputError(
                f"{path} ({name}): pixel maps of {settings}, others of {found}. All of a run must be alike: make them "
                "anew, or take out what differs."
            )
        found = settings
    return found or {}


def _settings_of(path: str | Path, store: Any) -> dict[str, Any]:
    """The settings in the attributes of an open store, whose images agree with them."""
    attributes, remedy = dict(store.attrs), f"Remove {path} and rerun, or mend the program that wrote it."
    names = ("views", "size", "pixel_mm", "transfer", "white_mev", "knee_mev")
    lacking = [name for name in names if name not in attributes]
    if lacking or "images" not in store:
        raise InputError(f"{path}: no pixel maps; it lacks {', '.join(lacking) or 'images'}. {remedy}")
    settings = {name: attributes[name] for name in names}
    if "source" in attributes:  # made elsewhere: how is not known, so at least by whom
        settings["source"] = attributes["source"]
    images, told = store["images"], (len(settings["views"]), settings["size"], settings["size"])
    if images.dtype != np.uint8 or images.shape[1:] != told:
        raise InputError(
            f"{path}: its images are {images.dtype} {images.shape}; it says that they have {told[0]} views of "
            f"{told[1]} pixels a side, which would be uint8 (events, {', '.join(map(str, told))}). {remedy}"
        )
    if settings["size"] < SMALLEST:
        raise InputError(
            f"{path}: pixel maps with {settings['size']} pixels a side show nothing; {SMALLEST} are the least. Set "
            "pixelmap.size, or make larger ones."
        )
    return settings


def check_images(stores: Mapping[str, Path], training: Path) -> dict[str, Any]:
    """The settings that made the pixel maps, which must be those that the model of `training` (training.json) has seen.

    Raises:
        InputError: naming what differs.
    """
    ours, theirs = image_settings(stores), read_json(training).get("images")
    if not isinstance(theirs, dict):
        raise InputError(
            f"{training}: says nothing of the pixel maps that the model was trained on. Remove {training.parent} and "
            "rerun: the workflow trains it again."
        )
    differing = [
        f"{key} is {ours.get(key)}, the model has seen {theirs.get(key)}"
        for key in ours | theirs
        if ours.get(key) != theirs.get(key)
    ]
    if differing:
        made_elsewhere = "source" in ours
        mend = "Take maps of the same maker and size, and input.views" if made_elsewhere else "Set display and pixelmap"
        raise InputError(
            f"{training.parent}: trained on other pixel maps than these ({next(iter(stores.values()))}): "
            f"{'; '.join(differing)}. {mend} as in the run that trained it, or train anew."
        )
    return ours


def open_rows(store: Path, events: pd.DataFrame) -> tuple[Any, np.ndarray]:
    """The ``images`` (zarr.Array) of a store, checked, and the rows in it of `events`, all of that shard.

    Raises:
        InputError: a damaged store, or one that does not hold the events.
    """
    opened = open_pixel_maps(store)
    ids, rows = np.asarray(opened["event_id"]), events["row"].to_numpy()
    if rows.max() >= len(ids) or not np.array_equal(ids[rows], events["event_id"].to_numpy()):
        raise InputError(f"{store}: does not hold the events of the event table. Remove both and rerun.")
    return opened["images"], rows


def read_blocks(
    stores: Mapping[str, Path], events: pd.DataFrame, at_once: int | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield positions in an event table and the pixel maps there, at most `at_once` events of a shard at a time.

    Args:
        stores: shard name -> pixel-map store.
        events: with the columns shard, row and event_id.
        at_once: what fits in :data:`BLOCK_BYTES`, if None.

    Raises:
        InputError: see :func:`open_shards`.
    """
    for _, positions, images, rows in open_shards(stores, events):
        size = at_once or max(1, BLOCK_BYTES // math.prod(images.shape[1:]))
        for begin in range(0, len(rows), size):
            yield positions[begin : begin + size], _read_rows(images, rows[begin : begin + size])


def open_shards(stores: Mapping[str, Path], events: pd.DataFrame) -> Iterator[tuple[Path, np.ndarray, Any, np.ndarray]]:
    """Yield the store of each shard in an event table, the shard's positions there, and what :func:`open_rows` gives.

    Args:
        stores: shard name -> pixel-map store.
        events: with the columns shard, row and event_id.

    Raises:
        InputError: see :func:`open_rows`; or stores of different sizes.
    """
    expected: tuple[int, ...] | None = None
    for shard, group in events.reset_index(drop=True).groupby("shard", sort=False):
        store = stores[str(shard)]
        images, rows = open_rows(store, group)
        shape = images.shape[1:]
        expected = expected or shape
        if shape != expected:
            raise InputError(
                f"{store}: its pixel maps are {shape}, those of other shards {expected}. Rerun crop_displays for all."
            )
        yield store, group.index.to_numpy(), images, rows


def _read_rows(array: Any, rows: np.ndarray) -> np.ndarray:
    """Events `rows` of a Zarr array, neighbours at once: its own indexing by lists takes thirty times as long."""
    values = np.empty((len(rows), *array.shape[1:]), dtype=array.dtype)
    begins = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
    for begin, end in zip(begins, [*begins[1:], len(rows)], strict=True):
        values[begin:end] = array[rows[begin] : rows[end - 1] + 1]
    return values
