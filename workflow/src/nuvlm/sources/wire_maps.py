"""From hits on wire planes to pixel maps: one view per plane, columns are wires and rows are time."""

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np

from nuvlm.sources.wire_pixels import WirePixels


@dataclass(frozen=True)
class Planes:
    """Wire planes of a detector with one drift volume."""

    views: tuple[str, ...]
    """Name of the view of plane 0, 1, ..."""
    wires: tuple[int, ...]
    """Wires of each plane; their numbers begin with 0."""
    ticks: int
    """Time ticks of a readout; times of hits are 0 to this number."""

    def size(self, pixels: WirePixels) -> int:
        """Side of the maps: all wires of the largest plane and all ticks fit."""
        return max(-(-max(self.wires) // pixels.pixel_wires), -(-self.ticks // pixels.pixel_ticks))


REASONS = ("on a wire that the detector does not have", "at a time outside the readout", "with a charge that cannot be")
"""Why hits are left out, in the order of the counts of :meth:`WireMaps.draw`."""


class WireMaps:
    """Draws the hits of events as pixel maps.

    The charge of a hit goes to the pixel of its wire and peak time; pulses are a few ticks wide, pixels several tens.
    The grey value is 255 x (sum of the charges in the pixel) / `white_adc`, rounded, and 255 above. The first wire and
    the first tick are in column 0 and row 0; what the maps have beyond the last wire and the last tick is black.

    Args:
        planes: the detector.
        views: the views to draw, in order.
        pixels: size and white of the pixels.
    """

    def __init__(self, planes: Planes, views: Sequence[str], pixels: WirePixels) -> None:
        self.size = planes.size(pixels)
        self._planes, self._pixels = planes, pixels
        self._wires = np.array(planes.wires, dtype=np.int64)
        self._view_of = np.array([views.index(view) if view in views else -1 for view in planes.views], dtype=np.int64)
        self._sums = np.zeros((len(views), self.size, self.size))

    def draw(
        self, plane: np.ndarray, wire: np.ndarray, time: np.ndarray, charge: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The maps of one event.

        Args:
            plane, wire: (hits,) int32.
            time: (hits,) float32, ticks.
            charge: (hits,) float32, ADC x tick.

        Returns:
            uint8 (views, size, size); and how many hits were left out for each of :data:`REASONS`.
        """
        image = np.zeros(self._sums.shape, dtype=np.uint8)
        left_out = _draw(
            plane, wire, time, charge,
            self._view_of, self._wires, self._planes.ticks, self._pixels.pixel_wires, self._pixels.pixel_ticks,
            255 / self._pixels.white_adc, self._sums, image,
        )  # fmt: skip
        return image, left_out


@numba.njit(cache=True)
def _draw(  # type: ignore[no-untyped-def]
    plane, wire, time, charge, view_of, wires, ticks, pixel_wires, pixel_ticks, grey, sums, image
):
    """Draw hits to `image`; `sums`, of the same shape, is zero before and after."""
    left_out = np.zeros(3, dtype=np.int64)
    hits = len(plane)
    view = np.empty(hits, dtype=np.int32)
    row, column = np.empty(hits, dtype=np.int32), np.empty(hits, dtype=np.int32)
    for i in range(hits):
        view[i] = -1
        p = plane[i]
        if p < 0 or p >= len(wires) or wire[i] < 0 or wire[i] >= wires[p]:
            left_out[0] += 1
        elif not 0 <= time[i] < ticks:  # also if it is not a number
            left_out[1] += 1
        elif not 0 <= charge[i] < np.inf:
            left_out[2] += 1
        elif view_of[p] >= 0:
            view[i] = view_of[p]
            row[i] = int(time[i]) // pixel_ticks
            column[i] = wire[i] // pixel_wires
            sums[view[i], row[i], column[i]] += charge[i]
    # Only pixels with hits are visited, the second time with a sum of zero.
    for i in range(hits):
        v = view[i]
        if v >= 0 and sums[v, row[i], column[i]] > 0:
            image[v, row[i], column[i]] = min(np.rint(grey * sums[v, row[i], column[i]]), 255.0)
            sums[v, row[i], column[i]] = 0
    return left_out
