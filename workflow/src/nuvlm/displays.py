"""Event displays: smearing by diffusion and downsampling to pixels, exactly and in one pass.

A voxel is a uniform box of charge. Convolved with the Gaussian of its drift, its share in a pixel is, along each
axis, a difference of the antiderivative of the normal CDF at the pixel's edges. The width depends on x alone,
so all shares are tables made once for a geometry: along x by the voxel's x index, along y and z by its x index
and its position within the pixel. A filter that samples the Gaussian at voxel centres would be wrong: widths are a
fraction of a voxel.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np
from scipy.special import ndtr

from nuvlm.detector import Detector, Diffusion, drift_distance_mm
from nuvlm.logs import track
from nuvlm.storage import write_store
from nuvlm.voxels import Voxels, open_shard

logger = logging.getLogger(__name__)

# Beyond this many widths from the voxel a share is below 1e-15, less than float64 resolves.
REACH = 8.0


def box_shares(low: np.ndarray, high: np.ndarray, width: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Share of a uniform box [low, high], convolved with a Gaussian, between consecutive edges.

    With G(u) = u Phi(u) + phi(u), the antiderivative of the normal CDF Phi, the smeared box has the CDF
    F(t) = w / (high - low) (G((t - low) / w) - G((t - high) / w)); without smearing (w = 0) it is the plain ramp.

    Args:
        low, high: (boxes,), same unit as the rest.
        width: (boxes,) standard deviation; 0 is allowed.
        edges: (boxes, pixels + 1), rising.

    Returns:
        (boxes, pixels); what lies beyond the outer edges is missing.
    """
    low, high, width = low[:, None], high[:, None], width[:, None]
    # Below a millionth of the box the Gaussian form only loses digits.
    sharp = width < 1e-6 * (high - low)
    safe = np.where(sharp, 1.0, width)
    smeared = safe / (high - low) * (_antiderivative((edges - low) / safe) - _antiderivative((edges - high) / safe))
    plain = np.clip((edges - low) / (high - low), 0.0, 1.0)
    return np.diff(np.where(sharp, plain, smeared), axis=1)


def _antiderivative(u: np.ndarray) -> np.ndarray:
    return u * ndtr(u) + np.exp(-0.5 * u * u) / np.sqrt(2 * np.pi)


@dataclass(frozen=True)
class ShareTable:
    """Shares of voxels in pixels along one axis.

    Attributes:
        first: (n,) int64, offset of the first pixel that a share goes to.
        count: (n,) int64, number of pixels.
        share: (n, most pixels) float64.
    """

    first: np.ndarray
    count: np.ndarray
    share: np.ndarray


def _share_table(low: np.ndarray, size: float, width: np.ndarray, pixel: float) -> ShareTable:
    """Shares of boxes [low, low + size], coordinates from the edge of pixel 0."""
    first = np.floor((low - REACH * width) / pixel).astype(np.int64)
    last = np.ceil((low + size + REACH * width) / pixel).astype(np.int64)
    most = int((last - first).max())
    edges = (first[:, None] + np.arange(most + 1)) * pixel
    share = box_shares(low, low + size, width, edges)
    # Shift to the first pixel that gets anything, so that the kernel's loops are as short as can be.
    filled = share > 1e-15
    lead = np.argmax(filled, axis=1)
    count = most - np.argmax(filled[:, ::-1], axis=1) - lead
    column = np.minimum(lead[:, None] + np.arange(int(count.max())), most - 1)
    share = np.where(np.arange(column.shape[1]) < count[:, None], np.take_along_axis(share, column, axis=1), 0.0)
    return ShareTable(first + lead, count.astype(np.int64), np.ascontiguousarray(share))


class Smearing:
    """The tables of one geometry, and the kernel that applies them.

    Args:
        detector: geometry of the voxels.
        diffusion: widths and what happens behind the anodes.
        pixel_mm: side of a pixel.
    """

    def __init__(self, detector: Detector, diffusion: Diffusion, pixel_mm: float) -> None:
        self.shape = detector.display_shape(pixel_mm)
        """Pixels along x, y, z."""
        size = detector.voxel_mm
        n_x = detector.shape[0]
        from_wall = np.arange(n_x) * size[0]
        drift, inside = drift_distance_mm(detector, detector.origin_mm[0] + from_wall + size[0] / 2)
        longitudinal, transverse = diffusion.widths_mm(drift)
        x = _share_table(from_wall, size[0], longitudinal, pixel_mm)
        if diffusion.behind_anode == "drop":
            x.share[~inside] = 0
        # y and z: one row for each (x index, position of the voxel in its pixel)
        positions = [round(pixel_mm / step) for step in size[1:]]
        y, z = (
            _share_table(np.tile(np.arange(n) * step, n_x), step, np.repeat(transverse, n), pixel_mm)
            for n, step in zip(positions, size[1:], strict=True)
        )
        self._tables = x, y, z
        # Displays are summed with a margin that takes what leaves the detector, so that the kernel need not ask.
        self._margin = max(max(int(-table.first.min()), int((table.first + table.count).max())) for table in (y, z))
        self._margin = max(self._margin, int(-x.first.min()), int((x.first + x.count).max()) - self.shape[0])
        pixel = x.first[:, None] + np.arange(x.share.shape[1])
        self._x_inside = np.where((pixel >= 0) & (pixel < self.shape[0]), x.share, 0).sum(axis=1)
        # A division for every voxel would cost more than the rest: pixel and position of each y and z index.
        self._y_pixel, self._y_position = np.divmod(np.arange(detector.shape[1]), positions[0])
        self._z_pixel, self._z_position = np.divmod(np.arange(detector.shape[2]), positions[1])
        self._positions = positions
        # Most voxels stay in one pixel along every axis.
        self._x_alone = (x.count == 1) & (x.first >= 0) & (x.first < self.shape[0]) & (x.share[:, 0] > 0)
        self._y_alone, self._z_alone = ((table.count == 1) & (table.first == 0) for table in (y, z))

    def __call__(self, voxels: Voxels) -> tuple[np.ndarray, np.ndarray]:
        """Event displays of one event: XZ (x, z) and YZ (y, z), float32, MeV.

        The axis that is not shown integrates out, apart from charge that diffuses out of the detector. The sum of
        each view is the energy of the voxels that are read out, less what leaves.
        """
        n_x, n_y, n_z = self.shape
        m = self._margin
        xz = np.zeros((n_x + 2 * m, n_z + 2 * m))
        yz = np.zeros((n_y + 2 * m, n_z + 2 * m))
        x, y, z = self._tables
        _deposit(
            voxels.x, voxels.y, voxels.z, voxels.energy,
            x.first, x.count, x.share, self._x_inside, self._x_alone,
            self._y_pixel, self._y_position, self._positions[0], y.first, y.count, y.share, self._y_alone,
            self._z_pixel, self._z_position, self._positions[1], z.first, z.count, z.share, self._z_alone,
            n_y, m, xz, yz,
        )  # fmt: skip
        inside = slice(m, -m or None)
        return xz[inside, inside].astype(np.float32), yz[inside, inside].astype(np.float32)


@numba.njit(cache=True)
def _deposit(  # type: ignore[no-untyped-def]
    x, y, z, energy,
    x_first, x_count, x_share, x_inside, x_alone,
    y_pixel, y_position, y_positions, y_first, y_count, y_share, y_alone,
    z_pixel, z_position, z_positions, z_first, z_count, z_share, z_alone,
    n_y, margin, xz, yz,
):  # fmt: skip
    for v in range(len(energy)):
        ix, iy, iz = x[v], y[v], z[v]
        e = np.float64(energy[v])
        row_y = ix * y_positions + y_position[iy]
        row_z = ix * z_positions + z_position[iz]
        j, k = y_pixel[iy], z_pixel[iz]
        if x_alone[ix] and y_alone[row_y] and z_alone[row_z]:
            xz[x_first[ix] + margin, k + margin] += e
            yz[j + margin, k + margin] += e
            continue
        i0, j0, k0 = x_first[ix], j + y_first[row_y], k + z_first[row_z]
        in_y = 1.0
        if j0 < 0 or j0 + y_count[row_y] > n_y:
            in_y = 0.0
            for b in range(y_count[row_y]):
                if 0 <= j0 + b < n_y:
                    in_y += y_share[row_y, b]
        for c in range(z_count[row_z]):
            e_z = e * z_share[row_z, c]
            for a in range(x_count[ix]):
                xz[i0 + a + margin, k0 + c + margin] += e_z * in_y * x_share[ix, a]
            for b in range(y_count[row_y]):
                yz[j0 + b + margin, k0 + c + margin] += e_z * x_inside[ix] * y_share[row_y, b]


def smear_reference(
    voxels: Voxels, detector: Detector, diffusion: Diffusion, pixel_mm: float
) -> tuple[np.ndarray, np.ndarray]:
    """What :class:`Smearing` computes, written plainly and slowly: every voxel against every pixel.

    Returns:
        XZ (x, z) and YZ (y, z) in float64, MeV.
    """
    drift, inside = drift_distance_mm(detector, detector.origin_mm[0] + (voxels.x + 0.5) * detector.voxel_mm[0])
    longitudinal, transverse = diffusion.widths_mm(drift)
    energy = voxels.energy.astype(np.float64)
    if diffusion.behind_anode == "drop":
        energy = np.where(inside, energy, 0.0)
    shares = []
    for index, size, width, pixels in zip(
        (voxels.x, voxels.y, voxels.z),
        detector.voxel_mm,
        (longitudinal, transverse, transverse),
        detector.display_shape(pixel_mm),
        strict=True,
    ):
        low = index * size
        edges = np.tile(np.arange(pixels + 1) * pixel_mm, (len(low), 1))
        shares.append(box_shares(low, low + size, width, edges))
    x, y, z = shares  # each (voxels, pixels)
    return (
        np.einsum("v,vi,vk->ik", energy * y.sum(axis=1), x, z),
        np.einsum("v,vj,vk->jk", energy * x.sum(axis=1), y, z),
    )


def smear_and_downsample(shard: Path, out: Path, *, detector: Detector, diffusion: Diffusion, pixel_mm: float) -> None:
    """Make the display store `out` (docs/formats.md) from a voxel shard.

    Raises:
        InputError: see :func:`nuvlm.voxels.open_shard`.
    """
    smearing = Smearing(detector, diffusion, pixel_mm)
    n_x, n_y, n_z = smearing.shape
    with open_shard(shard, detector) as voxels:
        n = len(voxels)
        xz = np.zeros((n, n_x, n_z), dtype=np.float32)
        yz = np.zeros((n, n_y, n_z), dtype=np.float32)

        def events() -> Iterator[int]:
            for rows, block in voxels.blocks():
                first = voxels.events["first_voxel"][rows].astype(np.int64)
                first -= first[0]
                for row, begin, count in zip(
                    range(rows.start, rows.stop), first, voxels.events["n_voxels"][rows], strict=True
                ):
                    span = slice(begin, begin + int(count))
                    event = Voxels(block.x[span], block.y[span], block.z[span], block.energy[span])
                    xz[row], yz[row] = smearing(event)
                    yield row

        for row in track(events(), "events", n):
            if not xz[row].any():
                logger.warning(
                    "%s: event %d leaves no charge in the displays (all behind the anodes?); it stays, empty",
                    shard,
                    voxels.events["event_id"][row],
                )
        vertex = voxels.events["vertex_mm"]
        ids = voxels.events["event_id"]
    attributes = {
        "format": "nuvlm-displays",
        "version": 1,
        "pixel_mm": pixel_mm,
        "origin_mm": list(detector.origin_mm),
        "diffusion": diffusion.model_dump(),
    }
    write_store(out, {"xz": xz, "yz": yz, "event_id": ids, "vertex_mm": vertex}, attributes)
