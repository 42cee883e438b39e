"""From hits on wire planes to pixel maps: one view per plane, columns are wires and rows are time."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nuvlm.base.kernels import cached_njit
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


REASONS = (
    "on a wire that the detector does not have",
    "at a time outside the readout",
    "with a charge that cannot be",
    "that repeat the one before",
)
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
        self._white_adc = pixels.white_adc
        self._wires = np.array(planes.wires, dtype=np.int32)
        self._view_of = np.array([views.index(view) if view in views else -1 for view in planes.views], dtype=np.int32)
        # Tables are three times as fast as divisions.
        self._column = np.arange(max(planes.wires), dtype=np.int32) // pixels.pixel_wires
        self._row = np.arange(planes.ticks, dtype=np.int32) // pixels.pixel_ticks
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
            self._view_of, self._wires, self._column, self._row, 255 / self._white_adc, self._sums, image,
        )  # fmt: skip
        return image, left_out


@cached_njit()
def _draw(  # type: ignore[no-untyped-def]
    plane, wire, time, charge, view_of, wires, column, row, grey, sums, image
):
    """Draw hits to `image`; `sums`, of the same shape, is zero before and after."""
    flat_sums, flat_image = sums.reshape(-1), image.reshape(-1)
    _, height, width = sums.shape
    left_out = np.zeros(4, dtype=np.int64)
    ticks = np.float32(len(row))
    pixel = np.empty(len(plane), dtype=np.int64)
    drawn = 0
    for i in range(len(plane)):
        p, w, t, q = plane[i], wire[i], time[i], charge[i]
        if p < 0 or p >= len(wires) or w < 0 or w >= wires[p]:
            left_out[0] += 1
        elif not (t >= 0 and t < ticks):  # also if it is not a number
            left_out[1] += 1
        elif not (q >= 0 and q < np.inf):
            left_out[2] += 1
        # No two pulses have the same charge and time to all digits.
        elif i > 0 and q == charge[i - 1] and t == time[i - 1] and w == wire[i - 1] and p == plane[i - 1]:
            left_out[3] += 1
        elif view_of[p] >= 0:
            at = (view_of[p] * height + row[np.uint32(t)]) * width + column[np.uint32(w)]
            pixel[drawn] = at
            drawn += 1
            flat_sums[at] += q
    # Only pixels with hits are visited, the second time with a sum of zero.
    for i in range(drawn):
        at = pixel[i]
        if flat_sums[at] > 0:
            flat_image[at] = min(np.rint(grey * flat_sums[at]), 255.0)
            flat_sums[at] = 0
    return left_out
