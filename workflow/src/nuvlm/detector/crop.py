"""Pixel maps: a square window of each event display around the interaction, as grayscale images."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from nuvlm.base.logs import track
from nuvlm.base.stores import create_store, open_store
from nuvlm.detector.displays import ARRAYS
from nuvlm.detector.grayscale import grayscale

logger = logging.getLogger(__name__)

BLOCK_BYTES = 2**25
"""Size of the displays and pixel maps that are in memory at the same time."""
VIEWS = ("xz", "yz")


def crop(view: np.ndarray, row: int, column: int, size: int) -> np.ndarray:
    """Cut a (size, size) window from a (rows, columns) view, with pixel (row, column) at (size // 2, size // 2).

    Pixels outside the view are zero.
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
    """Pixel (x, y, z) at the centre of the window: the one that contains the vertex or the centroid.

    Args:
        xz, yz: the event's displays, MeV.
        vertex_mm: (3,), NaN if unknown. The energy-weighted centroid of the displays is used then, and for
            ``centre="centroid"``.
        centre: ``vertex`` or ``centroid``.
        origin_mm: (3,), low corner of pixel (0, 0, 0).
        pixel_mm: side of a pixel.
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
    """Make the pixel-map store `out` (docs/formats.md) from a display store.

    Args:
        displays: the display store.
        out: the pixel-map store.
        size: side of the window, pixels.
        centre: see :func:`centre_pixel`.
        transfer, white_mev, knee_mev: see :func:`nuvlm.detector.grayscale.grayscale`.

    Raises:
        InputError: the display store is damaged.
    """
    store = open_store(displays, "nuvlm-displays", ARRAYS)
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
    black: list[int] = []
    with create_store(out, attributes) as maps:

        def events() -> Iterator[int]:
            """Write the pixel maps block by block, and yield the row of each event when it is written."""
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
                black.extend(begin + np.flatnonzero(~images.any(axis=(1, 2, 3))))
                maps.append("images", images)
                maps.append("corner_mm", corner_mm)
                yield from rows

        for _ in track(events(), "events", n):
            pass
        for name in ("event_id", "visible_energy", "edge_energy"):
            maps.append(name, store[name][:])
    if black:
        logger.warning(
            "%s: %d of %d pixel maps are black (first: event %d); is the vertex where the charge is?",
            displays, len(black), n, ids[black[0]],
        )  # fmt: skip
