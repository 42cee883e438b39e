"""Space charge: slow positive ions bend the drift field, so charge is reconstructed where it was not deposited.

A map gives the displacement, the reconstructed minus the true position, on a regular grid. It is interpolated linearly
along each axis. The charge of a voxel moves as a whole, to the voxel in which its displaced centre lies. If it were
shared between neighbours, the threshold of a channel would cut it, though a real track lies in one of them.

docs/physics.md describes the file. Sources: MicroBooNE, JINST 15 (2020) P12037 (arXiv 2008.09765); S. Palestini and
F. Resnati, arXiv 2008.10472.
"""

import itertools
import logging
import math
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from nuvlm.base.errors import InputError
from nuvlm.base.hdf5 import check_dataset, create_hdf5, open_hdf5
from nuvlm.base.kernels import cached_njit
from nuvlm.detector.geometry import Detector, drift_cells
from nuvlm.detector.readout import SpaceCharge
from nuvlm.detector.voxels import Voxels, merge_voxels

logger = logging.getLogger(__name__)

FORMAT, VERSION = "nuvlm-space-charge", 1
QUANTITY = "reconstructed - true"
SETTING = "display.readout.space_charge.map"
MOST_POINTS = 4_000_000
"""Of the grid: limits the memory. The field is smooth; this is one point every 2 cm of the published detector."""
MM = {"um": 1e-3, "cm": 10.0, "m": 1000.0}
"""Other units -> mm, for the remedy in errors."""


class DisplacementMap(NamedTuple):
    """Displacements on a regular grid that covers the detector."""

    origin_mm: np.ndarray
    """(3,), the first point of the grid."""
    spacing_mm: np.ndarray
    """(3,)."""
    displacement_mm: np.ndarray
    """(n_x, n_y, n_z, 3), float64: reconstructed minus true position."""

    def axis(self, axis: int) -> np.ndarray:
        """Positions of the grid along an axis, mm."""
        return self.origin_mm[axis] + np.arange(self.displacement_mm.shape[axis]) * self.spacing_mm[axis]


def read_displacement_map(setting: SpaceCharge, detector: Detector) -> DisplacementMap:
    """Read a map and check that it can be one of this detector.

    Args:
        setting: names the file, and scales its displacements.
        detector: what the map must cover. At its anodes the displacement must be zero, and nothing may be displaced
            out of it, through a plane, or farther than the longest drift; each up to the size of a voxel.

    Returns:
        The map, scaled.

    Raises:
        InputError: naming the file, what is wrong with it, and the remedy.
    """
    assert setting.map is not None
    path = Path(setting.map)
    with open_hdf5(path, SETTING) as file:
        try:
            grid = _read(path, file)
        except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}: cannot be read ({error}). The file is damaged: copy or make it again."
            ) from error
    _check_cover(path, grid, detector)
    grid = grid._replace(displacement_mm=grid.displacement_mm * setting.scale)
    check_displacements(path, grid, detector, "" if setting.scale == 1 else f" (with scale {setting.scale:g})")
    return grid


def _text(value: object) -> object:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _read(path: Path, file: h5py.File) -> DisplacementMap:
    """The grid and its values, after the checks that need no detector."""
    if (found := _text(file.attrs.get("format"))) != FORMAT:
        raise InputError(
            f"{path}: not a map of space charge (its attribute 'format' is {found!r}, not {FORMAT!r}). Convert it, as "
            "docs/physics.md describes."
        )
    if (version := file.attrs.get("version")) != VERSION:
        raise InputError(f"{path}: map of version {version}; this program reads version {VERSION}. Make it again.")
    for name in ("x", "y", "z", "displacement"):
        if not isinstance(file.get(name), h5py.Dataset) or file[name].dtype.kind not in "iuf":
            raise InputError(f"{path}: there is no table of numbers /{name}. Make it as docs/physics.md describes.")
        check_dataset(path, file[name], at_once=True)
        unit = _text(file[name].attrs.get("unit"))
        if unit != "mm":
            factor = MM.get(str(unit))
            remedy = (
                f"Multiply its values by {factor:g} and set the attribute to 'mm'" if factor else "Convert it to mm"
            )
            raise InputError(f"{path}: the attribute 'unit' of /{name} is {unit!r}, not 'mm'. {remedy}.")
    quantity = _text(file["displacement"].attrs.get("quantity"))
    if quantity != QUANTITY:
        raise InputError(
            f"{path}: the attribute 'quantity' of /displacement is {quantity!r}, not {QUANTITY!r}. If the map goes "
            "from reconstructed to true positions, invert it; if it has this sign already, set the attribute."
        )
    axes = [file[name][()].astype(np.float64) for name in "xyz"]
    for name, points in zip("xyz", axes, strict=True):
        steps = np.diff(points) if points.ndim == 1 else np.empty(0)
        if len(steps) == 0 or not (steps > 0).all() or np.ptp(steps) > 1e-4 * steps.mean():
            raise InputError(
                f"{path}: /{name} must be two or more increasing numbers at equal distances, in mm; it is "
                f"{points.shape}, {points.ravel()[:3].tolist()}... Put the map on a regular grid."
            )
    expected = (*(len(points) for points in axes), 3)
    if math.prod(expected[:3]) > MOST_POINTS:
        raise InputError(
            f"{path}: the grid has {math.prod(expected[:3]):,} points; the maximum is {MOST_POINTS:,}. The field is "
            "smooth: leave out points."
        )
    values = file["displacement"]
    if values.shape != expected:
        like = sorted(values.shape) == sorted(expected)
        raise InputError(
            f"{path}: /displacement has the shape {values.shape}, but /x, /y, /z and three components make {expected}. "
            + ("Exchange its axes." if like else "Make the map again.")
        )
    displacement = values[()].astype(np.float64)
    if not np.isfinite(displacement).all():
        where = [int(i) for i in np.argwhere(~np.isfinite(displacement))[0]]
        raise InputError(
            f"{path}: /displacement has {np.count_nonzero(~np.isfinite(displacement))} values that are not finite "
            f"numbers; the first is {where}. Continue the map smoothly to where it was not measured."
        )
    origin = np.array([points[0] for points in axes])
    spacing = np.array([(points[-1] - points[0]) / (len(points) - 1) for points in axes])
    return DisplacementMap(origin, spacing, displacement)


def _check_cover(path: Path, grid: DisplacementMap, detector: Detector) -> None:
    for axis, (low, high) in enumerate(detector.box_mm):
        points, name = grid.axis(axis), "xyz"[axis]
        rounding = 1e-6 * (high - low)
        if points[0] > low + rounding or points[-1] < high - rounding:
            longer = (high - low) / (points[-1] - points[0])
            hint = f" If /{name} is in cm, multiply by 10." if 8 < longer < 12 else ""
            raise InputError(
                f"{path}: /{name} runs from {points[0]:g} to {points[-1]:g} mm and does not cover the detector, "
                f"{low:g} to {high:g} mm.{hint} Continue the map to the walls, or set 'detector' to that of the map."
            )


def check_displacements(path: Path, grid: DisplacementMap, detector: Detector, scaled: str = "") -> None:
    """Check that a map can be one of this detector, as :func:`read_displacement_map` says.

    Raises:
        InputError: naming `path`.
    """
    values, along = grid.displacement_mm, detector.drift
    cells = drift_cells(detector)
    longest = max(cell.longest_mm for cell in cells)
    if (largest := float(np.abs(values).max())) > longest:
        raise InputError(
            f"{path}: the largest displacement{scaled} is {largest:.4g} mm, more than the longest drift, {longest:g} "
            "mm. Check the unit of /displacement, and display.readout.space_charge.scale."
        )
    position = np.stack(np.meshgrid(*(grid.axis(axis) for axis in range(3)), indexing="ij"), axis=-1)
    moved = position + values
    box, tolerance = np.array(detector.box_mm), np.array(detector.voxel_mm)
    within = ((position >= box[:, 0]) & (position <= box[:, 1])).all(axis=-1)
    leaves = within & ((moved < box[:, 0] - tolerance) | (moved > box[:, 1] + tolerance)).any(axis=-1)
    _refuse(path, leaves, position, moved, scaled, "outside the detector")
    # Between the planes: a point of the grid on a plane belongs to both sides, and is checked below.
    crosses = np.zeros_like(within)
    for cell in cells:
        inside = within & (position[..., along] > cell.low) & (position[..., along] < cell.high)
        there = moved[..., along]
        crosses |= inside & ((there < cell.low - tolerance[along]) | (there > cell.high + tolerance[along]))
    _refuse(path, crosses, position, moved, scaled, "in another drift volume")
    low, high = detector.box_mm[along]
    for name, planes in (("anode", detector.anodes_mm), ("cathode", detector.cathodes_mm)):
        for plane in planes:
            at = np.abs(_at_plane(grid, along, plane))
            at = at if name == "anode" else at[..., along : along + 1] if low < plane < high else np.zeros(1)
            limit = tolerance if name == "anode" else tolerance[along]
            if (at > limit).any():
                moves = "Charge there is read out at once" if name == "anode" else "Charge would drift through it"
                raise InputError(
                    f"{path}: at the {name} at {plane:g} mm the displacement{scaled} is up to {at.max():.3g} mm. "
                    f"{moves}: let it fall to zero there, with a plane of the grid at {plane:g} mm."
                )


def _refuse(path: Path, bad: np.ndarray, position: np.ndarray, moved: np.ndarray, scaled: str, where: str) -> None:
    if bad.any():
        first = tuple(np.argwhere(bad)[0])
        raise InputError(
            f"{path}: {np.count_nonzero(bad)} points of the grid in the detector are reconstructed {where}{scaled}; "
            f"the first, {np.round(position[first], 3).tolist()} mm, at {np.round(moved[first], 3).tolist()} mm. "
            "Check the sign and the unit of /displacement, and that the map is one of this detector."
        )


def _at_plane(grid: DisplacementMap, along: int, plane: float) -> np.ndarray:
    """Displacements at a position along the drift axis, (points, 3)."""
    values = np.moveaxis(grid.displacement_mm, along, 0)
    step = (plane - grid.origin_mm[along]) / grid.spacing_mm[along]
    first = min(max(math.floor(step), 0), len(values) - 2)
    part = step - first
    return ((1 - part) * values[first] + part * values[first + 1]).reshape(-1, 3)


class SpaceChargeDisplacement:
    """Moves the charge of voxels by a map. Energy that is displaced out of the detector is left out and counted.

    Args:
        grid: the map, of the whole detector.
        detector: geometry of the voxels.
    """

    def __init__(self, grid: DisplacementMap, detector: Detector) -> None:
        self._detector = detector
        self._grid = grid
        self._low, self._size = np.array(detector.origin_mm, dtype=np.float64), np.array(detector.voxel_mm, dtype=float)
        self.lost_mev = self.all_mev = 0.0

    def __call__(self, voxels: Voxels, begins: np.ndarray) -> tuple[Voxels, np.ndarray]:
        """The displaced voxels of several events, each once in an event, in increasing order of x, y, z.

        Args:
            voxels: of all the events, one after the other.
            begins: (events + 1,), the first voxel of each event, and the end of the last one.

        Returns:
            The voxels, and their `begins`; an event may have none.
        """
        moved = _displace(voxels.x, voxels.y, voxels.z, self._low, self._size, *self._grid)
        inside = (moved >= 0).all(axis=1) & (moved < self._detector.shape).all(axis=1)
        events = []
        for begin, end in itertools.pairwise(begins.tolist()):
            kept = inside[begin:end]
            x, y, z = moved[begin:end][kept].T
            events.append(merge_voxels(self._detector, x, y, z, voxels.energy[begin:end][kept]))
        self.all_mev += float(voxels.energy.sum(dtype=np.float64))
        self.lost_mev += float(voxels.energy[~inside].sum(dtype=np.float64))
        columns = zip(*((event.x, event.y, event.z, event.energy) for event in events), strict=True)
        return Voxels(*map(np.concatenate, columns)), np.cumsum([0, *map(len, events)])

    def log(self, shard: Path) -> None:
        """Log the energy that was lost."""
        if self.lost_mev:
            logger.warning(
                "%s: %.4g of %.4g MeV are displaced out of the detector by space charge, and left out",
                shard, self.lost_mev, self.all_mev,
            )  # fmt: skip


@cached_njit()
def _displace(x, y, z, low, size, origin, spacing, values):  # type: ignore[no-untyped-def]
    """Index (voxels, 3) of the voxel in which the displaced centre of each voxel lies, also outside the detector."""
    n = len(x)
    moved = np.empty((n, 3), dtype=np.int64)
    part, first = np.empty(3), np.empty(3, dtype=np.int64)
    for v in range(n):
        for a in range(3):
            index = x[v] if a == 0 else y[v] if a == 1 else z[v]
            step = (low[a] + (index + 0.5) * size[a] - origin[a]) / spacing[a]
            first[a] = min(max(int(np.floor(step)), 0), values.shape[a] - 2)
            part[a] = step - first[a]
        i, j, k = first[0], first[1], first[2]
        p, q, r = part[0], part[1], part[2]
        for a in range(3):
            near = (1 - q) * ((1 - r) * values[i, j, k, a] + r * values[i, j, k + 1, a])
            near += q * ((1 - r) * values[i, j + 1, k, a] + r * values[i, j + 1, k + 1, a])
            far = (1 - q) * ((1 - r) * values[i + 1, j, k, a] + r * values[i + 1, j, k + 1, a])
            far += q * ((1 - r) * values[i + 1, j + 1, k, a] + r * values[i + 1, j + 1, k + 1, a])
            index = x[v] if a == 0 else y[v] if a == 1 else z[v]
            moved[v, a] = int(np.floor(index + 0.5 + ((1 - p) * near + p * far) / size[a]))
    return moved


def displace_reference(voxels: Voxels, grid: DisplacementMap, detector: Detector) -> dict[tuple[int, int, int], float]:
    """Reference for :class:`SpaceChargeDisplacement`, of one event: simple and slow.

    Returns:
        Index of each displaced voxel inside the detector -> its energy, MeV.
    """
    found: dict[tuple[int, int, int], float] = {}
    for *index, energy in zip(voxels.x, voxels.y, voxels.z, voxels.energy, strict=True):
        centre = np.array(detector.origin_mm) + (np.array(index, dtype=float) + 0.5) * detector.voxel_mm
        displacement = np.zeros(3)
        # Each of the eight points around, weighted with the product of its shares along the axes.
        steps = (centre - grid.origin_mm) / grid.spacing_mm
        first = np.minimum(np.floor(steps), np.array(grid.displacement_mm.shape[:3]) - 2).astype(int)
        for corner in itertools.product((0, 1), repeat=3):
            shares = np.where(corner, steps - first, 1 - (steps - first))
            displacement += shares.prod() * grid.displacement_mm[tuple(first + corner)]
        there = np.floor((centre + displacement - detector.origin_mm) / detector.voxel_mm).astype(int)
        if (there >= 0).all() and (there < detector.shape).all():
            key = (int(there[0]), int(there[1]), int(there[2]))
            found[key] = found.get(key, 0.0) + float(energy)
    return found


def example_map(detector: Detector, maximum_mm: float, points: int = 33) -> DisplacementMap:
    """A smooth map from a formula, for trials: displacement along the drift, away from the anode.

    In one dimension ions that are made at a constant rate change the field by dE / E = a2 (x2 / (2 D2) - 1/6) at the
    distance x from the anode, with a2 as in :func:`expected_maximum_mm` and D the longest drift. To first order the
    drift time grows by the integral of -n dE / E, so that charge appears farther from the anode by
    (n a2 / 6) x (1 - x2 / D2): zero at both planes, and largest at x = D / sqrt(3).

    Args:
        detector: what the map covers.
        maximum_mm: the largest displacement of the longest drift volume; of others, in proportion to their cube.
        points: the most across the drift, where the map does not change: fewer if the grid would have more than
            ``MOST_POINTS``. Along it there is at least one point per cm, with one on each plane.

    Raises:
        InputError: the planes are on no regular grid of up to 10,000 points.
    """
    along = detector.drift
    low, high = detector.box_mm[along]
    cells = drift_cells(detector)
    # The coarsest regular grid with a point on each plane.
    planes = np.array([*(cell.low for cell in cells), high]) - low
    count = max(math.ceil((high - low) / 10), 2)
    while (
        count < 10_000 and np.abs(planes * count / (high - low) - np.round(planes * count / (high - low))).max() > 1e-6
    ):
        count += 1
    if count == 10_000:
        raise InputError("the planes of the detector are on no regular grid: move them to whole millimetres")
    points = min(points, math.isqrt(MOST_POINTS // (count + 1)))
    ends = [(first, last, points) for first, last in detector.box_mm]
    ends[along] = (low, high, count + 1)
    axes = [np.linspace(*end) for end in ends]
    longest = max(cell.longest_mm for cell in cells)
    profile = np.zeros(count + 1)
    for cell in cells:
        inside = (axes[along] > cell.low) & (axes[along] < cell.high)
        # Behind the outer planes there is no field.
        if not detector.cathodes_mm or {cell.low, cell.high} <= {*detector.anodes_mm, *detector.cathodes_mm}:
            part = (axes[along][inside] - cell.anode) / cell.longest_mm
            largest = maximum_mm * (cell.longest_mm / longest) ** 3
            profile[inside] = largest * 1.5 * math.sqrt(3) * part * (1 - part**2)
    displacement = np.zeros((*(len(axis) for axis in axes), 3))
    displacement[..., along] = profile.reshape([-1 if axis == along else 1 for axis in range(3)])
    return DisplacementMap(
        np.array([axis[0] for axis in axes]), np.array([axis[1] - axis[0] for axis in axes]), displacement
    )


def expected_maximum_mm(drift_mm: float, field_kv_cm: float) -> float:
    """Largest displacement along the drift by cosmic rays at sea level, without flow of the liquid, in one dimension.

    n a2 D / (9 sqrt(3)), with a2 = K D2 / (epsilon mu E2) (Palestini and Resnati), and n = 0.5, as the drift velocity
    grows about as sqrt(E) at 0.5 kV/cm (W. Walkowiak, NIM A 449 (2000) 288). mu, the mobility of the ions, is
    0.08 mm2/(V s) (J. Rutherfoord, INSTR 2014). K, the charge of the ions made in a volume and time, is that of
    167 m of muon tracks in a m3 and s, with 2.1 MeV/cm, 23.6 eV for a pair, and 0.7 of the electrons escaping
    recombination: 1.7e-10 C/(m3 s).
    """
    rate = 167 * 210e6 / 23.6 * 0.7 * 1.602e-19
    drift, field = drift_mm / 1000, field_kv_cm * 1e5
    alpha2 = rate * drift**2 / (1.505 * 8.854e-12 * 0.08e-6 * field**2)
    return 0.5 * alpha2 * drift_mm / (9 * math.sqrt(3))


def write_map(path: str | Path, grid: DisplacementMap) -> None:
    """Write a map as :func:`read_displacement_map` reads it."""
    with create_hdf5(path) as (file, _):
        file.attrs.update(format=FORMAT, version=VERSION)
        for axis, name in enumerate("xyz"):
            file[name] = grid.axis(axis)
        file["displacement"] = grid.displacement_mm.astype(np.float32)
        for name in ("x", "y", "z", "displacement"):
            file[name].attrs["unit"] = "mm"
        file["displacement"].attrs["quantity"] = QUANTITY
