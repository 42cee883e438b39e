"""Pixel maps: a square window of the event display around the interaction, as grayscale images."""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr

from nuvlm.errors import InputError
from nuvlm.logs import track
from nuvlm.storage import open_store, write_store

logger = logging.getLogger(__name__)

VIEWS = ("xz", "yz")


def grayscale(energy_mev: np.ndarray, *, transfer: str, white_mev: float, knee_mev: float) -> np.ndarray:
    """Energy in a pixel (MeV) to a grey value (uint8), black where there is none.

    ``linear``: E / white. ``log``: ln(1 + E / knee) / ln(1 + white / knee), which keeps a minimum-ionising
    track visible beside the core of a shower. Both are clipped at white (255) and rounded to the nearest value.
    """
    if transfer == "log":
        level = np.log1p(energy_mev / knee_mev) / np.log1p(white_mev / knee_mev)
    elif transfer == "linear":
        level = energy_mev / white_mev
    else:
        raise ValueError(f"unknown transfer {transfer!r}: log or linear")
    return np.rint(255 * np.clip(level, 0, 1)).astype(np.uint8)


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
    images = np.zeros((len(vertex), len(VIEWS), size, size), dtype=np.uint8)
    corner_mm = np.zeros((len(vertex), 3))
    for event in track(range(len(vertex)), "events"):
        view_x, view_y = xz[event], yz[event]
        x, y, z = pixel = centre_pixel(
            view_x, view_y, vertex[event], centre=centre, origin_mm=origin_mm, pixel_mm=pixel_mm
        )
        corner_mm[event] = origin_mm + (pixel - size // 2) * pixel_mm
        for i, (view, row) in enumerate(((view_x, x), (view_y, y))):
            window = crop(view, row, z, size)
            images[event, i] = grayscale(window, transfer=transfer, white_mev=white_mev, knee_mev=knee_mev)
    dark = np.flatnonzero(images.max(axis=(1, 2, 3)) == 0)
    if len(dark):
        logger.warning(
            "%s: %d of %d pixel maps are black (first: event %d); is the vertex where the charge is?",
            displays, len(dark), len(images), store["event_id"][int(dark[0])],
        )  # fmt: skip
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
    arrays = {"images": images, "event_id": store["event_id"][:], "corner_mm": corner_mm}
    write_store(out, arrays, attributes)


def open_pixel_maps(store: str | Path) -> Any:
    """Open a pixel-map store (zarr.Group) after checking its bytes: ``images``, ``event_id``, ``corner_mm``."""
    return open_store(store, "nuvlm-pixelmaps")


def image_settings(stores: Mapping[str, Path]) -> dict[str, Any]:
    """The settings that made the pixel maps, which a model trained on them depends on.

    Raises:
        InputError: the stores were made with different settings.
    """
    found: dict[str, Any] | None = None
    for name, path in stores.items():
        attributes = dict(zarr.open_group(path, mode="r").attrs)
        settings = {key: attributes[key] for key in ("views", "size", "pixel_mm", "transfer", "white_mev", "knee_mev")}
        if found is not None and settings != found:
            raise InputError(
                f"{path} ({name}): made with {settings}, others with {found}. Rerun crop_displays for all."
            )
        found = settings
    return found or {}


def check_images(stores: Mapping[str, Path], training: Path) -> None:
    """Refuse pixel maps unlike those that the model described by `training` (training.json) has learnt from.

    Raises:
        InputError: naming what differs.
    """
    ours, theirs = image_settings(stores), json.loads(training.read_text())["images"]
    differing = [
        f"{key} is {ours.get(key)}, the model has seen {theirs.get(key)}"
        for key in theirs
        if ours.get(key) != theirs[key]
    ]
    if differing:
        raise InputError(
            f"{training.parent}: trained on other pixel maps than these: {'; '.join(differing)}. "
            "Set display and pixelmap as in the run that trained it, or train anew."
        )


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


def read_pixel_maps(stores: Mapping[str, Path], events: pd.DataFrame) -> np.ndarray:
    """Pixel maps of the rows of an event table, in their order: uint8 (events, views, size, size).

    Args:
        stores: shard name -> pixel-map store.
        events: at least one row, with the columns shard, row and event_id.

    Raises:
        InputError: see :func:`open_rows`; or stores of different sizes.
    """
    positions, blocks = zip(*_read_blocks(stores, events), strict=True)
    return np.concatenate(blocks)[np.argsort(np.concatenate(positions))]


@dataclass(frozen=True)
class SparsePixelMaps:
    """Pixel maps in memory as the pixels that are not black: a hundredth of their dense size at 5 cm.

    Attributes:
        shape: (views, size, size) of one event.
        begin: (events + 1,) int64, where each event's pixels begin.
        pixel: (pixels,) uint32, index into the flattened event.
        value: (pixels,) uint8.
    """

    shape: tuple[int, int, int]
    begin: np.ndarray
    pixel: np.ndarray
    value: np.ndarray

    def __len__(self) -> int:
        return len(self.begin) - 1

    def dense(self, rows: np.ndarray) -> np.ndarray:
        """Images of the given events: uint8 (rows, views, size, size)."""
        images = np.zeros((len(rows), int(np.prod(self.shape))), dtype=np.uint8)
        for image, row in zip(images, rows, strict=True):
            span = slice(self.begin[row], self.begin[row + 1])
            image[self.pixel[span]] = self.value[span]
        return images.reshape(-1, *self.shape)


def read_sparse(stores: Mapping[str, Path], events: pd.DataFrame) -> SparsePixelMaps:
    """What :func:`read_pixel_maps` reads, sparse; no more than one shard of it is dense at any time."""
    pixels: list[np.ndarray] = [np.empty(0)] * len(events)
    values: list[np.ndarray] = [np.empty(0)] * len(events)
    shape = (0, 0, 0)
    for positions, block in _read_blocks(stores, events):
        shape = block.shape[1:]
        for position, image in zip(positions, block.reshape(len(block), -1), strict=True):
            pixels[position] = np.flatnonzero(image).astype(np.uint32)
            values[position] = image[pixels[position]]
    begin = np.concatenate([[0], np.cumsum([len(pixel) for pixel in pixels], dtype=np.int64)])
    return SparsePixelMaps(shape, begin, np.concatenate(pixels), np.concatenate(values))


def _read_blocks(stores: Mapping[str, Path], events: pd.DataFrame) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each shard, the positions of its events in the table and their images."""
    expected: tuple[int, ...] | None = None
    for shard, group in events.reset_index(drop=True).groupby("shard", sort=False):
        images, rows = open_rows(stores[str(shard)], group)
        expected = expected or images.shape[1:]
        if images.shape[1:] != expected:
            raise InputError(
                f"{stores[str(shard)]}: its pixel maps are {images.shape[1:]}, those of other shards {expected}. "
                "Rerun crop_displays for all."
            )
        yield group.index.to_numpy(), images.oindex[rows]
