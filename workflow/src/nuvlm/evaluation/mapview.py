"""Pixel maps as a figure, where there is no event display behind them: grey values against pixels."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import PowerNorm

from nuvlm.evaluation.style import draw_heat, new_figure, to_svg

MARGIN, NARROWEST = 4, 32
"""Pixels around the charge, and the least side of what is shown."""
FINEST = 128
"""Points that a view is drawn with, a side, at most: thinner ones would be lost on a page."""


def draw_maps(
    images: np.ndarray, views: Sequence[str], name: str, *, wires: bool = False, heat: np.ndarray | None = None
) -> str:
    """All views of an event side by side as an SVG: axes in pixels of the map, colour is the grey value.

    Each view is cut to the smallest square that holds all that is not black. Where that has many pixels a point shows
    the brightest of several, so that a thin track stays visible.

    Args:
        images: uint8 (views, size, size).
        views: their names.
        name: of the figure.
        wires: whether columns are wires and rows are time ticks.
        heat: uint8 (views, size, size), where a model looks, drawn as contours.
    """
    n = len(views)
    windows = [_window(image) for image in images]
    step = max(-(-window[2] // FINEST) for window in windows)
    label = "grey value" if step == 1 else f"grey value, brightest of {step} x {step}"
    with new_figure(max(1.9 * n + 0.9, 4.6), 2.6, columns=n, squeeze=False) as (figure, axes):
        for i, (ax, image, view, (top, left, side)) in enumerate(zip(axes[0], images, views, windows, strict=True)):
            points = _brightest(image[top : top + side, left : left + side], step)
            end = len(points) * step
            rows = (top, top + end) if wires else (top + end, top)
            mesh = ax.imshow(
                np.ma.masked_equal(points, 0),
                extent=(left, left + end, *rows),
                origin="lower" if wires else "upper",
                cmap="viridis",
                norm=PowerNorm(0.5, 0, 255),
                interpolation="none",
            )
            if heat is not None:
                window = (slice(top, top + side), slice(left, left + side))
                draw_heat(ax, heat[i][window], (left, left + side, top, top + side))
            # Dark on every page, as event displays are.
            ax.set_facecolor("#101418")
            ax.grid(False)
            ax.set_title(f"{view.upper()} view", loc="left")
            ax.set_xlabel("wire" if wires else "column")
            if i == 0:
                ax.set_ylabel("time tick" if wires else "row")
            ax.locator_params(nbins=4, integer=True)
        figure.colorbar(mesh, ax=axes, label=label, ticks=(0, 64, 128, 255), shrink=0.8, pad=0.02)
        return to_svg(figure, name)


def _window(image: np.ndarray) -> tuple[int, int, int]:
    """First row, first column and side of the square that is shown, within the map."""
    size = len(image)
    filled = np.argwhere(image)  # (pixels, 2): row, column
    if not len(filled):
        return 0, 0, size
    low, high = filled.min(axis=0), filled.max(axis=0) + 1
    side = min(max(int((high - low).max()) + 2 * MARGIN, NARROWEST), size)
    top, left = np.clip((low + high - side) // 2, 0, size - side)
    return int(top), int(left), side


def _brightest(image: np.ndarray, step: int) -> np.ndarray:
    """The maximum of each step x step pixels; black fills up what does not divide."""
    side = -(-len(image) // step)
    padded = np.zeros((side * step, side * step), dtype=image.dtype)
    padded[: len(image), : len(image)] = image
    # (rows, columns) -> (rows / step, step, columns / step, step)
    return padded.reshape(side, step, side, step).max(axis=(1, 3))
