"""Pictures of single pixel maps: a PNG of several events, and coarse ones for a terminal."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nuvlm.base.files import atomic_path

MARGIN = 4
"""Black pixels left around the charge."""


def charged_region(images: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the smallest window that holds all non-zero pixels of `images` (..., rows, columns)."""
    brightest: np.ndarray = images.reshape(-1, *images.shape[-2:]).max(axis=0)
    return _span(brightest.max(axis=1)), _span(brightest.max(axis=0))


def _span(brightest: np.ndarray) -> slice:
    found = np.flatnonzero(brightest)
    if not len(found):
        return slice(0, len(brightest))
    return slice(max(int(found[0]) - MARGIN, 0), min(int(found[-1]) + 1 + MARGIN, len(brightest)))


def draw_events(
    path: Path, images: np.ndarray, titles: Sequence[str], views: Sequence[str], pixel_mm: float | None
) -> None:
    """Write a PNG with one row per event and one column per view.

    Args:
        path: the PNG file.
        images: uint8 (events, views, size, size).
        titles: of each event.
        views: names of the views.
        pixel_mm: side of a pixel; None if unknown: the axes are in pixels then.
    """
    n, n_views, size, _ = images.shape
    rows, columns = charged_region(images)
    scale, unit = (pixel_mm / 10, "cm") if pixel_mm else (1.0, "pixels")
    edges = [(side - size // 2) * scale for side in (columns.start, columns.stop, rows.stop, rows.start)]
    ratio = (rows.stop - rows.start) / (columns.stop - columns.start)
    width = 5.0
    figure = Figure(figsize=(width * n_views, n * (width * min(max(ratio, 0.2), 1.5) + 0.6)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(n, n_views, squeeze=False)
    for event in range(n):
        for view in range(n_views):
            axis = axes[event, view]
            axis.imshow(
                images[event, view, rows, columns],
                cmap="gray",
                vmin=0,
                vmax=255,
                extent=(edges[0], edges[1], edges[2], edges[3]),
                interpolation="nearest",
                aspect="equal",
            )
            axis.set_title(f"{titles[event]}: {views[view]}", fontsize=9)
            axis.set_ylabel(unit, fontsize=8)
            axis.tick_params(labelsize=7)
    for axis in axes[-1]:
        axis.set_xlabel(f"{unit} from the centre of the {size} x {size} window", fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def terminal_picture(image: np.ndarray, width: int) -> str:
    """One view as text: two rows of pixels per line, in 24-bit grey (ISO 8613-6 escape sequences).

    Args:
        image: uint8 (rows, columns).
        width: columns of the terminal to use; larger images are reduced to it by the maximum.
    """
    step = max(1, -(-image.shape[1] // width))
    padded = np.pad(image, [(0, -side % (2 * step if axis == 0 else step)) for axis, side in enumerate(image.shape)])
    small = padded.reshape(padded.shape[0] // step, step, padded.shape[1] // step, step).max(axis=(1, 3))
    lines = []
    for upper, lower in zip(small[::2].tolist(), small[1::2].tolist(), strict=True):
        cells = (f"\x1b[38;2;{a};{a};{a};48;2;{b};{b};{b}m\u2580" for a, b in zip(upper, lower, strict=True))
        lines.append("".join(cells) + "\x1b[0m")
    return "\n".join(lines)
