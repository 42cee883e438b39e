"""Where the deposits of a file are, and the offset that would bring them into the detector."""

from array import array

import numpy as np

from nuvlm.detector.geometry import Detector

FITS = 0.9
"""Part of the events that must lie in the detector with an offset that is proposed."""
STEP_MM = 10.0
"""Proposed offsets are multiples of this."""


class Extents:
    """The extent of every event, in the file's coordinates."""

    def __init__(self, detector: Detector, offset_mm: tuple[float, float, float]) -> None:
        self._box = np.array(detector.box_mm, dtype=np.float64).T
        self._offset = np.array(offset_mm, dtype=np.float64)
        self._boxes = array("d")

    def add(self, low_mm: np.ndarray, high_mm: np.ndarray) -> None:
        """Add the low and high corner of an event, (3,) each."""
        self._boxes.extend(low_mm.tolist())
        self._boxes.extend(high_mm.tolist())

    def span(self) -> tuple[np.ndarray, np.ndarray]:
        """Low and high corner of all events, (3,) each, with the present offset."""
        boxes = np.array(self._boxes).reshape(-1, 2, 3) + self._offset
        return boxes[:, 0].min(axis=0), boxes[:, 1].max(axis=0)

    def proposal(self) -> str | None:
        """A sentence with the offset that brings the events into the detector; None if there is none.

        Axes along which they fit stay as they are. Along the others the file's origin is put to the centre of the
        detector or to its low end if that fits, as origins of files usually are; else the centre of the deposits to the
        centre of the detector.
        """
        boxes = np.array(self._boxes).reshape(-1, 2, 3)
        if not len(boxes):
            return None
        low, high = self._box
        offset = self._offset.copy()
        for axis in range(3):
            first, last = boxes[:, 0, axis], boxes[:, 1, axis]
            middle = (np.quantile(first, 0.05) + np.quantile(last, 0.95)) / 2
            centre = (low[axis] + high[axis]) / 2
            centred = STEP_MM * round((centre - middle) / STEP_MM)
            for shift in (offset[axis], centre, low[axis], centred):
                inside = (first + shift >= low[axis]) & (last + shift <= high[axis])
                if inside.mean() >= FITS:
                    offset[axis] = shift
                    break
            else:
                return None
        if np.allclose(offset, self._offset):
            return None
        x, y, z = (f"{value:g}" for value in offset)
        return f"With an offset they fit: OFFSET={x},{y},{z}, that is input: {{offset_mm: [{x}, {y}, {z}]}} in YAML"
