"""The detector: its box, its voxels, the drift of charge to the anodes and its diffusion.

Lengths are in mm. z runs along the beam, y is vertical; charge drifts along x, or along the axis that is set.
"""

from itertools import pairwise
from typing import Annotated, Literal, NamedTuple, Self, get_args

import numpy as np
from pydantic import Field, model_validator

from nuvlm.base.settings import Settings

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Range = tuple[Finite, Finite]
Centre = Literal["charge", "vertex", "centroid"]
CENTRES: tuple[Centre, ...] = get_args(Centre)
"""What the window of a pixel map can be centred on (:func:`nuvlm.detector.crop.choose_centres`)."""
ARRAYS = ("xz", "yz", "event_id", "vertex_mm", "visible_energy", "edge_energy")
"""Arrays of a display store: the views first."""
LARGEST_PICTURE = 4096
"""Side of the largest pixel maps, and of the pictures that show them, pixels."""
HALF = 0.5
"""A window must hold this fraction of the charge that a window of its size can hold."""


class Detector(Settings):
    """A box of liquid argon read out by anode planes across the drift axis.

    The default is the modular detector of arXiv 2509.08461: 2 m x 2 m x 7 m, drift along x.
    """

    x_mm: Range = (-1000, 1000)
    """Extent of the active volume along x, mm; likewise y and z."""
    y_mm: Range = (-1000, 1000)
    z_mm: Range = (0, 7000)
    voxel_mm: tuple[Positive, Positive, Positive] = (1, 5, 5)
    """Size of a voxel along x, y, z, mm."""
    drift_axis: Literal["x", "y", "z"] = "x"
    """Axis that charge drifts along, in either direction."""
    anodes_mm: tuple[Finite, ...] = (-900, -300, 300, 900)
    """Positions of the anode planes along the drift axis, mm."""
    cathodes_mm: tuple[Finite, ...] = (-600, 0, 600)
    """Positions of the cathode planes along the drift axis, mm: charge does not drift through one."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for axis, (low, high), size in zip("xyz", self.box_mm, self.voxel_mm, strict=True):
            if high <= low:
                raise ValueError(f"{axis}_mm = [{low:g}, {high:g}] is empty: give the lower end first")
            if not _is_multiple(high - low, size):
                raise ValueError(
                    f"voxel_mm along {axis} ({size:g}) does not divide {axis}_mm ({high - low:g} mm): "
                    "choose a voxel size that does"
                )
            if round((high - low) / size) > 65536:
                raise ValueError(f"more than 65536 voxels along {axis}: choose larger voxels or a smaller box")
        if not self.anodes_mm:
            raise ValueError("anodes_mm is empty: name at least one anode plane")
        low, high = self.box_mm[self.drift]
        for name, planes in (("anodes_mm", self.anodes_mm), ("cathodes_mm", self.cathodes_mm)):
            if list(planes) != sorted(set(planes)):
                raise ValueError(f"{name} must increase and name each plane once")
            outside = [plane for plane in planes if not low <= plane <= high]
            if outside:
                raise ValueError(f"{name} has {outside[0]:g} mm, outside {self.drift_axis}_mm = [{low:g}, {high:g}]")
        return self

    @property
    def box_mm(self) -> tuple[Range, Range, Range]:
        return self.x_mm, self.y_mm, self.z_mm

    @property
    def drift(self) -> int:
        """Index of the drift axis."""
        return "xyz".index(self.drift_axis)

    @property
    def origin_mm(self) -> tuple[float, float, float]:
        """The low corner of voxel (0, 0, 0), mm."""
        return self.x_mm[0], self.y_mm[0], self.z_mm[0]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along x, y, z."""
        x, y, z = (round((high - low) / size) for (low, high), size in zip(self.box_mm, self.voxel_mm, strict=True))
        return x, y, z

    def display_shape(self, pixel_mm: float) -> tuple[int, int, int]:
        """Number of pixels of an event display along x, y, z.

        A pixel must contain whole voxels. The last pixels may extend beyond the detector.

        Raises:
            ValueError: naming the axis that does not fit.
        """
        for axis, size in zip("xyz", self.voxel_mm, strict=True):
            if not _is_multiple(pixel_mm, size):
                raise ValueError(
                    f"display.pixel_mm ({pixel_mm:g}) is not a multiple of the voxel size along {axis} ({size:g} mm)"
                )
        x, y, z = (-(-n // round(pixel_mm / size)) for n, size in zip(self.shape, self.voxel_mm, strict=True))
        return x, y, z


def fiducial_box_mm(detector: Detector, margin_mm: float, margin_downstream_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Low and high corner of the fiducial volume, (3,) each, mm.

    Args:
        detector: its active volume is reduced by the margins.
        margin_mm: at all walls but the downstream one.
        margin_downstream_mm: at the downstream end, high z.

    Raises:
        ValueError: the margins leave no volume.
    """
    low, high = np.array(detector.box_mm, dtype=np.float64).T
    low = low + margin_mm
    high = high - [margin_mm, margin_mm, margin_downstream_mm]
    if (high <= low).any():
        raise ValueError(
            f"margins of {margin_mm:g} mm, and {margin_downstream_mm:g} mm downstream, leave no fiducial volume in "
            "this detector: lower input.simulate.margin_mm and margin_downstream_mm"
        )
    return low, high


class Diffusion(Settings):
    """How far a point of charge spreads on its way to the anode: a Gaussian of width ``width * f(d)``.

    Source: arXiv 2509.08461, 1.3 mm transverse and 0.9 mm longitudinal "per metre" of drift d.
    """

    transverse_mm: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.3
    """Width across the drift after 1 m, mm."""
    longitudinal_mm: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.9
    """Width along the drift after 1 m, mm."""
    scaling: Literal["linear", "sqrt"] = "linear"
    """`linear`: f = d / 1 m, the published text read literally. `sqrt`: f = sqrt(d / 1 m), the law of diffusion."""
    behind_anode: Literal["nearest", "drop"] = "nearest"
    """Charge outside all drift volumes (behind the outer anodes): drifts to the `nearest` anode, or is dropped."""

    def widths_mm(self, drift_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Longitudinal and transverse width (mm) after each drift distance (mm)."""
        metres = drift_mm / 1000
        spread = metres if self.scaling == "linear" else np.sqrt(metres)
        return self.longitudinal_mm * spread, self.transverse_mm * spread


def drift_distance_mm(detector: Detector, position_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance (mm) from each position along the drift axis to its anode, and whether it is in a drift volume.

    Charge drifts to the nearest anode with no cathode in between. A position beyond the outermost plane is behind an
    outer anode, in no drift volume; its distance is the one to that anode. Without cathodes every position is in a
    drift volume.

    Args:
        detector: anodes and cathodes.
        position_mm: (n,), mm.

    Returns:
        (n,) float64, mm; (n,) bool.
    """
    x = np.asarray(position_mm, dtype=np.float64)
    anodes = np.asarray(detector.anodes_mm, dtype=np.float64)
    cathodes = np.asarray(detector.cathodes_mm, dtype=np.float64)
    # (position, anode): the distance, infinite if a cathode is in between
    distance = np.abs(x[:, None] - anodes)
    low, high = np.minimum(x[:, None], anodes), np.maximum(x[:, None], anodes)
    blocked = ((cathodes > low[..., None]) & (cathodes < high[..., None])).any(axis=-1)
    reachable = np.where(blocked, np.inf, distance)
    # There may be no anode between two cathodes: use the nearest one.
    nearest = np.where(np.isfinite(reachable).any(axis=1), reachable.min(axis=1), distance.min(axis=1))
    if not len(cathodes):
        return nearest, np.ones(len(x), dtype=bool)
    planes = np.concatenate([anodes, cathodes])
    inside = (x >= planes.min()) & (x <= planes.max())
    return nearest, inside


class DriftCell(NamedTuple):
    """A stretch of the drift axis whose charge drifts to one anode, mm."""

    low: float
    high: float
    anode: float

    @property
    def longest_mm(self) -> float:
        """The longest drift."""
        return max(abs(self.low - self.anode), abs(self.high - self.anode))


def drift_cells(detector: Detector) -> list[DriftCell]:
    """The drift volumes and the spaces behind the outer planes, in order along the drift axis, without gaps.

    Their anodes are those of :func:`drift_distance_mm`. Between two anodes without a cathode, the middle divides.
    """
    low, high = detector.box_mm[detector.drift]
    cells = []
    for begin, end in pairwise(sorted({low, high, *detector.anodes_mm, *detector.cathodes_mm})):
        middle = (begin + end) / 2
        anodes = [plane for plane in (begin, end) if plane in detector.anodes_mm]
        if len(anodes) == 2:
            cells += [DriftCell(begin, middle, begin), DriftCell(middle, end, end)]
        else:
            nearest = min(detector.anodes_mm, key=lambda anode: abs(anode - middle))
            cells.append(DriftCell(begin, end, anodes[0] if anodes else nearest))
    return cells


def _is_multiple(length: float, unit: float) -> bool:
    return abs(length / unit - round(length / unit)) < 1e-9 and round(length / unit) >= 1
