"""Event displays: smearing by diffusion and downsampling to pixels, exactly and in one pass.

A voxel is a uniform box of charge, convolved with the Gaussian of its drift (:mod:`nuvlm.detector.smearing`). The
width depends only on the position along the drift, so all shares are tabulated once per geometry: along the drift by
the voxel's index, across it by that index and the voxel's position within its pixel. Sampling the Gaussian at voxel
centres would be wrong, because widths are a fraction of a voxel.
"""

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nuvlm.base.conclusions import Conclusions
from nuvlm.base.errors import InputError, OnBadEvent
from nuvlm.base.kernels import cached_njit
from nuvlm.base.logs import track
from nuvlm.base.sparse import SparseEvents
from nuvlm.base.stores import create_store
from nuvlm.detector.geometry import ARRAYS, Detector, Diffusion, drift_distance_mm
from nuvlm.detector.readout import Electronics, Readout
from nuvlm.detector.smearing import box_shares
from nuvlm.detector.space_charge import SpaceChargeDisplacement, read_displacement_map
from nuvlm.detector.visible_energy import VisibleEnergy, cosmic_energy
from nuvlm.detector.voxels import Voxels, open_shard

logger = logging.getLogger(__name__)

REACH = 8.0
"""Distance from a voxel, in widths, beyond which its share is below SMALLEST_SHARE."""
SMALLEST_SHARE = 1e-12
"""Shares below this are dropped: less than the rounding errors of box_shares."""
BLOCK_PIXELS = 2**24
"""Number of pixels of a view, lit or not, of the displays that are in memory at the same time: limits the memory."""
BLOCK_VOXELS = 100_000
"""The same of voxels: few, so that their pixels stay in the cache."""
TILE = 16
"""Consecutive pixels that the kernel marks together as lit."""
GROUP = 8
"""Tiles that it looks at together: bytes of a word."""
DRIFTED = Diffusion(transverse_mm=0, longitudinal_mm=0, behind_anode="nearest")
"""For charge that was read out: it stays where it was reconstructed, wherever the planes of the detector are."""


class AxisTable(NamedTuple):
    """Where the charge of a voxel goes along one axis, as offsets in a flattened display with a margin.

    The shares of a voxel are in row ``drift index * positions + row[index]``.
    """

    cell: np.ndarray
    """(n,) uint32, offset of the pixel that contains the voxel; bit SPREADS is set if charge may leave that pixel."""
    row: np.ndarray
    """(n,) uint32, position of the voxel in its pixel; 0 along the drift axis."""
    positions: int
    """Number of positions; 1 along the drift axis."""
    first: np.ndarray
    """(rows,) int64, offset of the first pixel with a share, relative to the pixel that contains the voxel."""
    share: np.ndarray
    """(rows, pixels) float64, shares of consecutive pixels."""


SPREADS = np.uint32(1 << 31)
"""Flag in :attr:`AxisTable.cell`."""
CELL = np.uint32(SPREADS - 1)
"""Mask of the offset in :attr:`AxisTable.cell`."""


def _shares(low: np.ndarray, size: float, width: np.ndarray, pixel: float) -> tuple[np.ndarray, np.ndarray]:
    """First pixel (rows,) and shares (rows, pixels) of the boxes [low, low + size], relative to the edge of pixel 0."""
    first = np.floor((low - REACH * width) / pixel).astype(np.int64)
    last = np.ceil((low + size + REACH * width) / pixel).astype(np.int64)
    most = int((last - first).max())
    edges = (first[:, None] + np.arange(most + 1)) * pixel
    share = box_shares(low, low + size, width, edges)
    # Shift to the first pixel with a share, so that the loops of the kernel are as short as possible.
    filled = share > SMALLEST_SHARE
    lead = np.argmax(filled, axis=1)
    count = most - np.argmax(filled[:, ::-1], axis=1) - lead
    column = np.minimum(lead[:, None] + np.arange(int(count.max())), most - 1)
    share = np.where(np.arange(column.shape[1]) < count[:, None], np.take_along_axis(share, column, axis=1), 0.0)
    return first + lead, np.ascontiguousarray(share)


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
        self._drift = along = detector.drift
        from_wall = np.arange(detector.shape[along]) * detector.voxel_mm[along]
        middle = detector.origin_mm[along] + from_wall + detector.voxel_mm[along] / 2
        drift, inside = drift_distance_mm(detector, middle)
        self._read_out = None if diffusion.behind_anode == "nearest" or inside.all() else inside
        longitudinal, transverse = diffusion.widths_mm(drift)

        shares = []
        for axis, size in enumerate(detector.voxel_mm):
            positions = round(pixel_mm / size)
            pixel, position = np.divmod(np.arange(detector.shape[axis]), positions)
            if axis == along:
                first, share = _shares(from_wall, size, longitudinal, pixel_mm)
                shares.append((pixel, np.zeros_like(pixel), 1, first - pixel, share))
            else:
                low = np.tile(np.arange(positions) * size, len(drift))
                shares.append(
                    (pixel, position, positions, *_shares(low, size, np.repeat(transverse, positions), pixel_mm))
                )
        # Displays have a margin for the charge that leaves the detector, so that the kernel needs no bounds checks.
        self._margin = max(max(int(-first.min()), int(first.max()) + share.shape[1]) for *_, first, share in shares)
        stride = self.shape[2] + 2 * self._margin
        self._axes = []
        for axis, (pixel, position, positions, first, share) in enumerate(shares):
            step = 1 if axis == 2 else stride
            stays = (first == 0) & (share[:, 1:] == 0).all(axis=1)
            # Along the drift a voxel has one row; across it, one row per drift index.
            stays = stays if axis == along else stays.reshape(-1, positions).all(axis=0)[position]
            cell = ((pixel + self._margin) * step).astype(np.uint32) | np.where(stays, np.uint32(0), SPREADS)
            self._axes.append(AxisTable(cell, position.astype(np.uint32), positions, first * step, share))
        self._workspace = []  # a flat display and its marks, of XZ and YZ, all zero between events
        for rows in self.shape[:2]:
            lit = np.zeros(((rows + 2 * self._margin) * stride // (GROUP * TILE) + 1) * GROUP, dtype=np.uint8)
            self._workspace += [np.zeros(len(lit) * TILE), lit]

    def __call__(self, voxels: Voxels) -> tuple[np.ndarray, np.ndarray]:
        """Event displays of one event: XZ (x, z) and YZ (y, z), float32, MeV. See :meth:`displays`."""
        xz, yz = self.displays(voxels, np.array([0, len(voxels)]))
        return xz.dense()[0], yz.dense()[0]

    def displays(self, voxels: Voxels, begins: np.ndarray) -> tuple[SparseEvents, SparseEvents]:
        """Event displays of several events: XZ (events, x, z) and YZ (events, y, z), MeV.

        The axis that is not shown is integrated out. The sum of each view is the energy of the voxels that are read
        out, less the charge that diffuses out of the detector.

        Args:
            voxels: of all the events, one after the other.
            begins: (events + 1,), the first voxel of each event, and the end of the last one.
        """
        indices, energy = (voxels.x, voxels.y, voxels.z), voxels.energy
        if self._read_out is not None:
            energy = energy * self._read_out[indices[self._drift]]
        views = _deposit(
            *indices, energy, np.asarray(begins, dtype=np.int64), *self._axes, self._drift, self._margin, self.shape,
            *self._workspace,
        )  # fmt: skip
        n_x, n_y, n_z = self.shape
        return SparseEvents((n_x, n_z), *views[0]), SparseEvents((n_y, n_z), *views[1])


@cached_njit()
def _deposit(  # type: ignore[no-untyped-def]
    x, y, z, energy, begins, along_x, along_y, along_z, drift, margin, shape, flat_xz, lit_xz, flat_yz, lit_yz
):
    """Sum the voxels of each event in flat float64 displays with a margin; keep the lit pixels inside, of XZ and YZ.

    Tiles of the flat displays that may be lit are marked, so that the others need not be looked at.
    """
    n_x, n_y, n_z = shape
    stride = n_z + 2 * margin
    ends_xz, ends_yz = np.zeros(len(begins), dtype=np.int64), np.zeros(len(begins), dtype=np.int64)
    index_xz, value_xz = np.empty(len(energy), dtype=np.uint32), np.empty(len(energy), dtype=np.float32)
    index_yz, value_yz = np.empty(len(energy), dtype=np.uint32), np.empty(len(energy), dtype=np.float32)
    spreading = np.empty((begins[1:] - begins[:-1]).max(), dtype=np.uint32)
    w_x, w_y, w_z = along_x.share.shape[1], along_y.share.shape[1], along_z.share.shape[1]
    tile = np.uint64(TILE)
    for event in range(len(begins) - 1):
        begin, end = begins[event], begins[event + 1]
        event_x, event_y, event_z, event_energy = x[begin:end], y[begin:end], z[begin:end], energy[begin:end]
        # The charge of most voxels stays in one pixel. Which ones is hard to predict, so there is no branch: the others
        # add zero and are listed. Offsets are unsigned because numba would test signed ones for negative indices.
        n = np.uint64(0)
        for v in range(len(event_energy)):
            i, j, k = along_x.cell[event_x[v]], along_y.cell[event_y[v]], along_z.cell[event_z[v]]
            spreads = (i | j | k) >> np.uint32(31)
            e = np.float64(event_energy[v]) * np.float64(np.uint32(1) - spreads)
            p, q = np.uint64((i + k) & CELL), np.uint64((j + k) & CELL)
            flat_xz[p] += e
            flat_yz[q] += e
            lit_xz[p // tile] = 1
            lit_yz[q // tile] = 1
            spreading[n] = v
            n += np.uint64(spreads)
        for v in spreading[:n]:
            a, b, c = np.int64(event_x[v]), np.int64(event_y[v]), np.int64(event_z[v])
            d = a if drift == 0 else b if drift == 1 else c
            row_x = np.uint64(d * along_x.positions + along_x.row[a])
            row_y = np.uint64(d * along_y.positions + along_y.row[b])
            row_z = np.uint64(d * along_z.positions + along_z.row[c])
            i = np.int64(along_x.cell[a] & CELL) + along_x.first[row_x]
            j = np.int64(along_y.cell[b] & CELL) + along_y.first[row_y]
            k = np.int64(along_z.cell[c] & CELL) + along_z.first[row_z]
            e = np.float64(event_energy[v])
            # Charge that leaves the detector along one axis is also missing from the view that integrates over it.
            e_xz, e_yz = e, e
            if j < margin * stride or j > (margin + n_y - w_y) * stride:
                e_xz = e * _inside(along_y.share[row_y], j // stride - margin, n_y)
            if i < margin * stride or i > (margin + n_x - w_x) * stride:
                e_yz = e * _inside(along_x.share[row_x], i // stride - margin, n_x)
            p, q = np.uint64(i + k), np.uint64(j + k)
            for w in range(w_z):
                share = along_z.share[row_z, w]
                for u in range(w_x):
                    flat_xz[p + np.uint64(u * stride + w)] += e_xz * share * along_x.share[row_x, u]
                for u in range(w_y):
                    flat_yz[q + np.uint64(u * stride + w)] += e_yz * share * along_y.share[row_y, u]
            for u in range(w_x):
                _mark(lit_xz, p + np.uint64(u * stride), w_z)
            for u in range(w_y):
                _mark(lit_yz, q + np.uint64(u * stride), w_z)
        n = ends_xz[event]
        index_xz, value_xz = _make_room(index_xz, value_xz, n, TILE * np.count_nonzero(lit_xz))
        ends_xz[event + 1] = _take(flat_xz, lit_xz, margin, n_x, n_z, index_xz, value_xz, n)
        n = ends_yz[event]
        index_yz, value_yz = _make_room(index_yz, value_yz, n, TILE * np.count_nonzero(lit_yz))
        ends_yz[event + 1] = _take(flat_yz, lit_yz, margin, n_y, n_z, index_yz, value_yz, n)
    n, m = ends_xz[-1], ends_yz[-1]
    return (ends_xz, index_xz[:n].copy(), value_xz[:n].copy()), (ends_yz, index_yz[:m].copy(), value_yz[:m].copy())


@cached_njit(inline="always")
def _mark(lit, first, pixels):  # type: ignore[no-untyped-def]
    """Mark the tiles of `pixels` consecutive pixels as lit."""
    last = first + np.uint64(pixels - 1)
    while first < last:
        lit[first // np.uint64(TILE)] = 1
        first += np.uint64(TILE)
    lit[last // np.uint64(TILE)] = 1


@cached_njit()
def _make_room(index, value, n, more):  # type: ignore[no-untyped-def]
    """Both arrays with room for `more` values after the first `n`."""
    if n + more <= len(index):
        return index, value
    longer_index = np.empty(2 * (n + more), dtype=np.uint32)
    longer_value = np.empty(2 * (n + more), dtype=np.float32)
    longer_index[:n], longer_value[:n] = index[:n], value[:n]
    return longer_index, longer_value


@cached_njit()
def _take(flat, lit, margin, rows, columns, index, value, n):  # type: ignore[no-untyped-def]
    """Move the lit pixels inside a flat display to `index` and `value`, from `n`; return their end."""
    stride = np.uint64(columns + 2 * margin)
    low, high = np.uint64(margin), np.uint64(margin + columns)
    n = np.uint64(n)
    row, begin = 0, np.uint64(0)  # of the display with its margin
    groups = lit.view(np.uint64)
    for group in range(len(groups)):
        if not groups[group]:
            continue
        for t in range(group * GROUP, (group + 1) * GROUP):
            if not lit[t]:
                continue
            p, end = np.uint64(t * TILE), np.uint64((t + 1) * TILE)
            while p < end:  # a row at a time
                while begin + stride <= p:
                    row, begin = row + 1, begin + stride
                stop = min(begin + stride, end)
                if margin <= row < margin + rows:
                    shift = np.uint64((row - margin) * columns) - begin - low
                    for inside in range(max(p, begin + low), min(stop, begin + high)):
                        here = np.float32(flat[inside])
                        index[n], value[n] = inside + shift, here
                        n += np.uint64(here != 0)
                p = stop
            for inside in range(np.uint64(t * TILE), end):
                flat[inside] = 0.0
        groups[group] = 0
    return n


@cached_njit()
def _inside(share, first, n):  # type: ignore[no-untyped-def]
    """Sum of the shares in pixels 0 to n - 1."""
    total = 0.0
    for i in range(len(share)):
        if 0 <= first + i < n:
            total += share[i]
    return total


def smear_reference(
    voxels: Voxels, detector: Detector, diffusion: Diffusion, pixel_mm: float
) -> tuple[np.ndarray, np.ndarray]:
    """Reference for :class:`Smearing`: the same sum over every voxel and every pixel, simple and slow.

    Returns:
        XZ (x, z) and YZ (y, z) in float64, MeV.
    """
    indices = (voxels.x, voxels.y, voxels.z)
    along = detector.drift
    position = detector.origin_mm[along] + (indices[along] + 0.5) * detector.voxel_mm[along]
    drift, inside = drift_distance_mm(detector, position)
    longitudinal, transverse = diffusion.widths_mm(drift)
    widths = [longitudinal if axis == along else transverse for axis in range(3)]
    energy = voxels.energy.astype(np.float64)
    if diffusion.behind_anode == "drop":
        energy = np.where(inside, energy, 0.0)
    shares = []
    for index, size, width, pixels in zip(
        indices,
        detector.voxel_mm,
        widths,
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


def smear_and_downsample(
    shard: Path,
    out: Path,
    *,
    detector: Detector,
    diffusion: Diffusion,
    pixel_mm: float,
    readout: Readout = Readout(),  # noqa: B008  (settings are frozen)
    on_bad_event: OnBadEvent = "error",
    conclusions: Conclusions | None = None,
) -> None:
    """Make the display store `out` (docs/formats.md) from a voxel shard.

    Charge that has drifted already (:attr:`nuvlm.detector.voxels.VoxelShard.drifted`) is only summed to pixels:
    `diffusion` has no effect. With `on_bad_event` ``skip`` the events that cannot be used are left out and counted in
    the log. `conclusions` about a shard of another program, which cannot be written to, are kept in the store.

    Raises:
        InputError: see :func:`nuvlm.detector.voxels.open_shard`; or `readout` has effects, but the charge was read out;
            or its map of space charge cannot be used.
    """
    n_x, n_y, n_z = detector.display_shape(pixel_mm)
    at_once = max(1, BLOCK_PIXELS // (max(n_x, n_y) * n_z))
    visible_energy = VisibleEnergy(detector)
    electronics = Electronics(detector, readout) if readout.has_electronics else None
    displacement = None
    if readout.space_charge.has_effects:
        displacement = SpaceChargeDisplacement(read_displacement_map(readout.space_charge, detector), detector)
    attributes: dict[str, Any] = {
        "format": "nuvlm-displays",
        "version": 1,
        "pixel_mm": pixel_mm,
        "origin_mm": list(detector.origin_mm),
    } | ({} if conclusions is None else {"conclusions": conclusions.to_json()})
    with ExitStack() as stack:
        voxels = stack.enter_context(open_shard(shard, detector, on_bad_event))
        if voxels.drifted and readout.has_effects:
            raise InputError(
                f"{shard}: its charge was read out already (attribute 'drifted'), so display.readout cannot act on it. "
                "Leave display.readout at its defaults."
            )
        if voxels.drifted:
            logger.info("%s: its charge has drifted already; it is not smeared", shard)
        smearing = Smearing(detector, DRIFTED if voxels.drifted else diffusion, pixel_mm)
        attributes["diffusion"] = None if voxels.drifted else diffusion.model_dump()
        attributes["readout"] = None if voxels.drifted else readout.model_dump()
        if originals := voxels.originals():
            attributes["originals"] = [[event, original] for event, original in originals.items()]
        cosmic = cosmic_energy(voxels)
        if (with_muons := voxels.events["event_id"][cosmic[:, 0] > 0]).size:
            attributes["with_muons"] = with_muons.tolist()
        store = stack.enter_context(create_store(out, attributes))

        def events() -> Iterator[int]:
            """Write the displays block by block, and yield the row of each event when it is written."""
            for rows, block, begins in voxels.blocks(BLOCK_VOXELS, at_once):
                ids = voxels.events["event_id"][rows]
                # Of the neutrino: rounding must not make it negative.
                visible, at_edge = np.maximum(np.array(visible_energy(block, begins)) - cosmic[rows].T, 0)
                if displacement is not None:
                    block, begins = displacement(block, begins)
                if electronics is not None:
                    read_out = electronics(block.x, block.y, block.z, block.energy, begins, ids)
                    block = replace(block, energy=read_out)
                xz, yz = smearing.displays(block, begins)
                store.append_sparse("xz", xz)
                store.append_sparse("yz", yz)
                for name, values in zip(
                    ARRAYS[2:], (ids, voxels.events["vertex_mm"][rows], visible, at_edge), strict=True
                ):
                    store.append(name, values)
                for event in ids[xz.counts == 0]:
                    logger.warning("%s: no charge of event %d is read out; its displays are empty", shard, event)
                yield from rows

        for _ in track(events(), "events", len(voxels)):
            pass
        if displacement is not None:
            displacement.log(shard)
