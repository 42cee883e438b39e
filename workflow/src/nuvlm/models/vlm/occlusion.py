"""Pixel maps with the longest track or the most energetic shower made black, at its true position.

Voxels do not record which particle made them, so each object is a region (docs/report.md): all points within a
half-width of a straight axis from the vertex, in both views; the half-width grows along the axis.
"""

import math
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from nuvlm.base.errors import InputError
from nuvlm.simulation.expected import RADIATION_LENGTH_CM, shower_maximum_cm
from nuvlm.simulation.final_states import MASS_MEV, PION_ZERO

KEPT_MM = 50.0
"""Pixels closer to the vertex than this are kept, as is the vertex pixel: other particles start there."""
TRACK_WIDTH_MM, TRACK_OPENING = 25.0, 0.1
"""Half-width of a track's region at the vertex, and its growth per mm, as tracks scatter."""
SHOWER_WIDTH_MM, SHOWER_OPENING = 45.0, 0.15
"""The same for a shower: half the Moliere radius at the start, the full radius after two radiation lengths."""


class Region(NamedTuple):
    """Points within ``width + opening * s`` of the axis for `begin` <= s <= `end`; lengths in mm."""

    direction: np.ndarray
    """(3,) unit vector."""
    begin: float
    end: float
    width: float
    opening: float

    def distance(self, points_mm: np.ndarray, axes: list[int]) -> np.ndarray:
        """Distance of points from the axis in a view, in units of the local half-width: inside up to 1.

        In a view the region is a union of disks, ``|p - s v| <= width + opening * s``, with the projected axis v. The
        minimum of ``|p - s v| / (width + opening * s)`` is at an end or where its derivative vanishes, at
        s = (opening |p|^2 + width p.v) / (width |v|^2 + opening p.v).

        Args:
            points_mm: (n, 2), relative to the vertex.
            axes: the two axes of the view.
        """
        axis = self.direction[axes]
        along = points_mm @ axis  # (n,)
        square = (points_mm**2).sum(axis=1)
        slope = self.width * axis @ axis + self.opening * along
        with np.errstate(divide="ignore", invalid="ignore"):
            turn = np.nan_to_num((self.opening * square + self.width * along) / slope)
        ends = np.full_like(along, self.begin), np.full_like(along, self.end)
        s = np.stack([*ends, np.clip(turn, self.begin, self.end)])  # (3, n)
        away = np.linalg.norm(points_mm - s[..., None] * axis, axis=2)
        least: np.ndarray = (away / (self.width + self.opening * s)).min(axis=0)
        return least


def occlude(
    images: np.ndarray,
    what: Literal["shower", "track"],
    events: pd.DataFrame,
    *,
    corner_mm: np.ndarray,
    pixel_mm: float,
) -> np.ndarray:
    """Copies of pixel maps with the region of the shower, or of the track, made black.

    A pixel in both regions belongs to the one whose axis is nearer in half-widths, so it is removed with only one of
    them. Pixels near the vertex are kept.

    Args:
        images: uint8 (n, 2, size, size), views XZ and YZ (docs/formats.md).
        what: object to remove.
        events: the n rows of the event table, with vertex and topology.
        corner_mm: (n, 3), as in the pixel-map store.
        pixel_mm: side of a pixel.

    Returns:
        uint8 (n, 2, size, size), new.

    Raises:
        InputError: an event without such an object.
    """
    occluded = images.copy()
    for image, corner, (_, event) in zip(occluded, corner_mm, events.iterrows(), strict=True):
        regions = {"shower": shower_region(event, pixel_mm), "track": track_region(event, pixel_mm)}
        region = regions.pop(what)
        (other,) = regions.values()
        if region is None:
            raise InputError(
                f"event {event['event_id']} of shard {event['shard']}: it has no true {what} to remove. "
                "Choose events that have one."
            )
        vertex = np.array([event[f"vertex_{axis}_mm"] for axis in "xyz"], dtype=np.float64)
        for view, axes in zip(image, ([0, 2], [1, 2]), strict=True):
            lit = np.argwhere(view)  # (pixels, 2): row, column
            points = corner[axes] + (lit + 0.5) * pixel_mm - vertex[axes]
            distance = region.distance(points, axes)
            out = (distance <= 1) & (np.linalg.norm(points, axis=1) > KEPT_MM)
            out &= (np.abs(points) > pixel_mm / 2).any(axis=1)
            if other is not None:
                out &= distance <= other.distance(points, axes)
            view[tuple(lit[out].T)] = 0
    return occluded


def track_region(event: "pd.Series", pixel_mm: float) -> Region | None:
    """The region of the longest track of an event (a row of the event table); None without a track."""
    direction = _direction(event, "track")
    if direction is None:
        return None
    return Region(direction, 0.0, float(event["track_mm"]), TRACK_WIDTH_MM + pixel_mm / 2, TRACK_OPENING)


def shower_region(event: "pd.Series", pixel_mm: float) -> Region | None:
    """The region of the most energetic shower of an event (a row of the event table); None without a shower.

    Its length contains 95 % of the energy: the shower maximum plus 0.08 Z + 9.6 radiation lengths (Fabjan and Ludlam,
    Ann. Rev. Nucl. Part. Sci. 32, 335 (1982)). A shower after a gap comes from photons, mostly two from a neutral pion:
    it opens by half of their minimum angle, asin(m / E), at most 45 degrees.
    """
    direction = _direction(event, "shower")
    if direction is None:
        return None
    energy, gap = float(event["shower_mev"]), float(event["shower_gap_mm"])
    length_mm = 10 * (max(shower_maximum_cm(energy), 0) + (0.08 * 18 + 9.6) * RADIATION_LENGTH_CM)
    opening = SHOWER_OPENING
    if gap > 0:
        sine = min(MASS_MEV[PION_ZERO] / energy, math.sqrt(0.5))
        opening = max(opening, math.tan(math.asin(sine)))
    return Region(direction, gap, gap + length_mm, SHOWER_WIDTH_MM + pixel_mm / 2, opening)


def _direction(event: "pd.Series", what: str) -> np.ndarray | None:
    direction = np.array([event[f"{what}_direction_{axis}"] for axis in "xyz"], dtype=np.float64)
    return direction if np.isfinite(direction).all() else None
