"""Voxel shards: HDF5 files with the energy deposits of some hundred events, and the voxelization of deposits.

docs/formats.md describes the format. Every event is checked when it is read, so that later stages need not expect a
NaN, an index outside the detector or an incomplete event.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401  registers the filters that shards may use
import numpy as np

from nuvlm.base.errors import InputError, OnBadEvent
from nuvlm.base.hdf5 import Table, check_dataset, create_hdf5, hdf5_file
from nuvlm.base.kernels import cached_njit
from nuvlm.detector.geometry import Detector

logger = logging.getLogger(__name__)

FORMAT = "nuvlm-voxels"
VERSION = 1
MOST_EVENTS, MOST_VOXELS = 10**6, 10**7
"""Maximum number of events in a shard, and of voxels in an event. A file with more is damaged or malicious."""
EVENT_DTYPE = np.dtype(
    [
        ("event_id", "u8"),
        ("first_voxel", "u8"),
        ("n_voxels", "u4"),
        ("nu_pdg", "i4"),
        ("is_cc", "u1"),
        ("nu_energy", "f4"),
        ("inelasticity", "f4"),
        ("vertex_mm", "f4", (3,)),
        ("mode", "i1"),
    ]
)
PARTICLE_DTYPE = np.dtype([("event_id", "u8"), ("pdg", "i4"), ("kinetic_mev", "f4"), ("momentum_mev", "f4", (3,))])
"""Table /truth/particles: the final state, one row per particle."""
MODES = {"unknown": 0, "QE": 1, "MEC": 2, "RES": 3, "DIS": 4, "COH": 5}
"""Interaction mode -> its number in a voxel shard."""


@dataclass(frozen=True)
class Voxels:
    """Energy deposits of one or more events: index of each voxel from the origin (u2), energy in MeV (f4)."""

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    energy: np.ndarray

    def __len__(self) -> int:
        return len(self.energy)


@dataclass(frozen=True)
class Event:
    """One event. The defaults mean that the truth is unknown."""

    event_id: int
    voxels: Voxels
    nu_pdg: int = 0
    is_cc: bool = False
    nu_energy: float = float("nan")
    """GeV."""
    inelasticity: float = float("nan")
    vertex_mm: tuple[float, float, float] = (float("nan"),) * 3
    mode: int = 0
    truth: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Rows of the optional /truth tables: name of the table -> structured array with a column `event_id`."""


def voxelize(
    detector: Detector, start_mm: np.ndarray, end_mm: np.ndarray, energy_mev: np.ndarray
) -> tuple[Voxels, float]:
    """Distribute the energy of straight segments over the voxels that they cross, in proportion to the length in each.

    Args:
        detector: geometry of the voxels.
        start_mm: (segments, 3), mm.
        end_mm: (segments, 3), mm; equal to the start if the deposit is a point.
        energy_mev: (segments,), MeV.

    Returns:
        The voxels, each once, in increasing order of x, y, z; and the energy outside the detector, MeV. Their sum is
        the energy of the segments, up to the rounding of float32, about 1e-7.
    """
    low = np.array(detector.origin_mm, dtype=np.float64)
    size = np.array(detector.voxel_mm, dtype=np.float64)
    shape = np.array(detector.shape, dtype=np.int64)
    key, share, outside = _traverse(
        np.ascontiguousarray(start_mm, dtype=np.float64),
        np.ascontiguousarray(end_mm, dtype=np.float64),
        np.ascontiguousarray(energy_mev, dtype=np.float64),
        low,
        size,
        shape,
    )
    return Voxels(*_merge(key, share, shape)), outside


def voxelize_boxes(
    detector: Detector, centre_mm: np.ndarray, size_mm: tuple[float, float, float], energy_mev: np.ndarray
) -> tuple[Voxels, float]:
    """Distribute the energy of uniform boxes over the voxels that they overlap, in proportion to the common volume.

    Args:
        detector: geometry of the voxels.
        centre_mm: (boxes, 3), mm.
        size_mm: sides of a box along x, y, z, mm; along an axis with 0 it is a point.
        energy_mev: (boxes,), MeV.

    Returns:
        As :func:`voxelize`.
    """
    low = np.array(detector.origin_mm, dtype=np.float64)
    size = np.array(detector.voxel_mm, dtype=np.float64)
    shape = np.array(detector.shape, dtype=np.int64)
    key, share, outside = _overlap(
        np.ascontiguousarray(centre_mm, dtype=np.float64),
        np.array(size_mm, dtype=np.float64) / size,
        np.ascontiguousarray(energy_mev, dtype=np.float64),
        low,
        size,
        shape,
    )
    return Voxels(*_merge(key, share, shape)), outside


def merge_voxels(detector: Detector, x: np.ndarray, y: np.ndarray, z: np.ndarray, energy_mev: np.ndarray) -> Voxels:
    """Voxels, each once, in increasing order of x, y, z, from any number of deposits in them.

    Args:
        detector: geometry of the voxels.
        x, y, z: (deposits,) index of the voxel of each, inside the detector.
        energy_mev: (deposits,), MeV.
    """
    shape = np.array(detector.shape, dtype=np.int64)
    x, y, z = (index.astype(np.int64) for index in (x, y, z))
    shift_y = _bits(shape[2])
    key = (x << (shift_y + _bits(shape[1]))) | (y << shift_y) | z
    return Voxels(*_merge(key, energy_mev.astype(np.float64), shape))


ROUNDING = 1e-9
"""Shares of a box below this are of a neighbour that it only touches, but for rounding."""


@cached_njit()
def _overlap(centre_mm, size, energy, low, voxel, shape):  # type: ignore[no-untyped-def]
    """Key (see _traverse) and energy of every voxel that a box overlaps; and the energy outside. `size` in voxels."""
    shift_y = _bits(shape[2])
    shift_x = shift_y + _bits(shape[1])
    key = np.empty(max(16, len(energy)), dtype=np.int64)
    share = np.empty(len(key), dtype=np.float64)
    first, last, centre = np.empty(3, dtype=np.int64), np.empty(3, dtype=np.int64), np.empty(3)
    # Shares of the cells along y and z, which do not depend on those along the other axes.
    most = int(np.ceil(size.max())) + 2
    part_y, part_z = np.empty(most), np.empty(most)
    n = 0
    outside = 0.0
    for b in range(len(energy)):
        cells = 1
        for a in range(3):
            # Far outside, so that the conversion to an integer is defined.
            centre[a] = (centre_mm[b, a] - low[a]) / voxel[a]
            begin = min(max(centre[a] - size[a] / 2, -1.0), shape[a] + 1.0)
            end = min(max(centre[a] + size[a] / 2, -1.0), shape[a] + 1.0)
            first[a] = max(int(np.floor(begin)), 0)
            last[a] = min(first[a] + 1 if size[a] == 0 else int(np.ceil(end)), shape[a])
            if size[a] == 0 and begin < 0:
                last[a] = first[a]
            cells *= max(last[a] - first[a], 0)
        if n + cells >= len(key):
            key = np.concatenate((key, np.empty(len(key) + cells, dtype=np.int64)))
            share = np.concatenate((share, np.empty(len(key) - len(share), dtype=np.float64)))
        inside = 0.0
        for j in range(first[1], last[1]):
            part_y[j - first[1]] = _common(j, centre[1], size[1])
        for k in range(first[2], last[2]):
            part_z[k - first[2]] = _common(k, centre[2], size[2])
        for i in range(first[0], last[0]):
            part_x = _common(i, centre[0], size[0])
            for j in range(first[1], last[1]):
                part_xy = part_x * part_y[j - first[1]]
                here = (i << shift_x) | (j << shift_y)
                for k in range(first[2], last[2]):
                    part = part_xy * part_z[k - first[2]]
                    if part > ROUNDING:
                        key[n], share[n] = here | k, part * energy[b]
                        n += 1
                        inside += part
        outside += energy[b] * (1.0 - inside)
    return key[:n], share[:n], max(outside, 0.0)


@cached_njit(inline="always")
def _common(cell, centre, size):  # type: ignore[no-untyped-def]
    """Share of an interval of length `size` in [cell, cell + 1]."""
    if size == 0:
        return 1.0
    return max(0.0, min(cell + 1.0, centre + size / 2) - max(np.float64(cell), centre - size / 2)) / size


@cached_njit(inline="always")
def _bits(n):  # type: ignore[no-untyped-def]
    """Number of bits of the largest number below `n`."""
    bits = 0
    while (n - 1) >> bits:
        bits += 1
    return bits


@cached_njit()
def _traverse(start, end, energy, low, size, shape):  # type: ignore[no-untyped-def]
    """Key and energy of every voxel that a segment crosses, and the energy outside.

    The traversal is the algorithm of Amanatides and Woo (Eurographics 1987). The number of steps along each axis is
    computed beforehand, so that rounding cannot lead past the last voxel. A key has the bits of x, y and z in turn.
    """
    shift_y = _bits(shape[2])
    shift_x = shift_y + _bits(shape[1])
    key = np.empty(max(16, 4 * len(energy)), dtype=np.int64)
    share = np.empty(len(key), dtype=np.float64)
    high = low + size * shape
    n = 0
    outside = 0.0
    for s in range(len(energy)):
        x0, y0, z0 = start[s, 0], start[s, 1], start[s, 2]
        x1, y1, z1 = end[s, 0], end[s, 1], end[s, 2]
        dx, dy, dz = x1 - x0, y1 - y0, z1 - z0
        # The part inside the box: start + t (end - start) for enter <= t <= leave.
        enter, leave, inside = 0.0, 1.0, True
        for a in range(3):
            first, last = start[s, a], end[s, a]
            if low[a] <= first < high[a] and low[a] <= last < high[a]:
                continue
            if first == last:
                inside = False
            else:
                t0, t1 = (low[a] - first) / (last - first), (high[a] - first) / (last - first)
                enter, leave = max(enter, min(t0, t1)), min(leave, max(t0, t1))
        if not inside or enter > leave:
            outside += energy[s]
            continue
        outside += energy[s] * (1.0 - (leave - enter))
        x = min(max(int((x0 + enter * dx - low[0]) / size[0]), 0), shape[0] - 1)
        y = min(max(int((y0 + enter * dy - low[1]) / size[1]), 0), shape[1] - 1)
        z = min(max(int((z0 + enter * dz - low[2]) / size[2]), 0), shape[2] - 1)
        steps_x = min(max(int((x0 + leave * dx - low[0]) / size[0]), 0), shape[0] - 1) - x
        steps_y = min(max(int((y0 + leave * dy - low[1]) / size[1]), 0), shape[1] - 1) - y
        steps_z = min(max(int((z0 + leave * dz - low[2]) / size[2]), 0), shape[2] - 1) - z
        here = (x << shift_x) | (y << shift_y) | z
        # Along each axis: t at the next plane (infinite when all are crossed), and its step from plane to plane.
        next_x, next_y, next_z = np.inf, np.inf, np.inf
        per_x, per_y, per_z = 0.0, 0.0, 0.0
        if steps_x:
            next_x, per_x = (low[0] + size[0] * (x + (steps_x > 0)) - x0) / dx, size[0] / abs(dx)
        if steps_y:
            next_y, per_y = (low[1] + size[1] * (y + (steps_y > 0)) - y0) / dy, size[1] / abs(dy)
        if steps_z:
            next_z, per_z = (low[2] + size[2] * (z + (steps_z > 0)) - z0) / dz, size[2] / abs(dz)
        key_x = (1 << shift_x) if steps_x > 0 else -(1 << shift_x)
        key_y = (1 << shift_y) if steps_y > 0 else -(1 << shift_y)
        key_z = 1 if steps_z > 0 else -1
        left_x, left_y, left_z = abs(steps_x), abs(steps_y), abs(steps_z)
        steps = left_x + left_y + left_z
        if n + steps >= len(key):
            more = len(key) + steps
            key = np.concatenate((key, np.empty(more, dtype=np.int64)))
            share = np.concatenate((share, np.empty(more, dtype=np.float64)))
        t = enter
        for _ in range(steps):
            before = here
            if next_x <= next_y and next_x <= next_z:
                t_next = next_x
                here += key_x
                left_x -= 1
                next_x = next_x + per_x if left_x else np.inf
            elif next_y <= next_z:
                t_next = next_y
                here += key_y
                left_y -= 1
                next_y = next_y + per_y if left_y else np.inf
            else:
                t_next = next_z
                here += key_z
                left_z -= 1
                next_z = next_z + per_z if left_z else np.inf
            t_next = min(t_next, leave)
            if t_next > t:
                key[n], share[n] = before, (t_next - t) * energy[s]
                n += 1
                t = t_next
        if leave > t:
            key[n], share[n] = here, (leave - t) * energy[s]
            n += 1
    return key[:n], share[:n], outside


@cached_njit()
def _merge(key, share, shape):  # type: ignore[no-untyped-def]
    """Each voxel with energy once, in increasing order: x, y, z (u2) and the sum of its shares (f4).

    A stable radix sort with 11 bits per pass: for many small keys it is three times as fast as np.unique.
    """
    shift_y = _bits(shape[2])
    shift_x = shift_y + _bits(shape[1])
    bits = shift_x + _bits(shape[0])
    n = len(key)
    other_key, other_share = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.float64)
    passes = (bits + 10) // 11
    counts = np.zeros((passes, 2049), dtype=np.int64)
    for i in range(n):
        for p in range(passes):
            counts[p, ((key[i] >> (11 * p)) & 2047) + 1] += 1
    for p in range(passes):
        position, shift = counts[p], 11 * p
        for d in range(2048):
            position[d + 1] += position[d]
        for i in range(n):
            digit = (key[i] >> shift) & 2047
            at = position[digit]
            other_key[at], other_share[at] = key[i], share[i]
            position[digit] = at + 1
        key, other_key = other_key, key
        share, other_share = other_share, share
    x, y, z = np.empty(n, dtype=np.uint16), np.empty(n, dtype=np.uint16), np.empty(n, dtype=np.uint16)
    energy = np.empty(n, dtype=np.float32)
    m = 0
    i = 0
    while i < n:
        here, total = key[i], 0.0
        while i < n and key[i] == here:
            total += share[i]
            i += 1
        energy[m] = total
        if energy[m] > 0:
            x[m] = here >> shift_x
            y[m] = (here >> shift_y) & ((1 << (shift_x - shift_y)) - 1)
            z[m] = here & ((1 << shift_y) - 1)
            m += 1
    return x[:m].copy(), y[:m].copy(), z[:m].copy(), energy[:m].copy()


def write_shard(
    path: str | Path,
    detector: Detector,
    events: Iterable[Event],
    attributes: Callable[[], Mapping[str, str]] = dict,
    drifted: bool = False,
) -> int:
    """Write events to a voxel shard, whole or not at all, and return their number.

    Args:
        drifted: whether the voxels hold charge as it was read out, which has drifted already.
        attributes: called after the last event, for root attributes beside those of the format.

    Raises:
        InputError: an event without voxels, an event id used twice, no event at all, no disk space.
    """
    seen: set[int] = set()
    n_voxels = 0
    with create_hdf5(path) as (file, disk):
        file.attrs.update(
            format=FORMAT,
            version=VERSION,
            voxel_mm=np.array(detector.voxel_mm, dtype=np.float64),
            origin_mm=np.array(detector.origin_mm, dtype=np.float64),
            shape=np.array(detector.shape, dtype=np.int64),
            drifted=drifted,
        )
        columns = {
            name: Table(file, f"voxels/{name}", kind, chunk=65536)
            for name, kind in {"x": "u2", "y": "u2", "z": "u2", "energy": "f4"}.items()
        }
        rows = Table(file, "events", EVENT_DTYPE, chunk=1024)
        truth: dict[str, Table] = {}
        for event in events:
            if not len(event.voxels):
                raise InputError(f"{path}: event {event.event_id} has no voxels; leave it out")
            if event.event_id in seen:
                raise InputError(f"{path}: event id {event.event_id} occurs twice; ids must differ within a shard")
            seen.add(event.event_id)
            row = np.zeros(1, dtype=EVENT_DTYPE)
            row["event_id"], row["first_voxel"], row["n_voxels"] = event.event_id, n_voxels, len(event.voxels)
            row["nu_pdg"], row["is_cc"], row["mode"] = event.nu_pdg, event.is_cc, event.mode
            row["nu_energy"], row["inelasticity"] = event.nu_energy, event.inelasticity
            row["vertex_mm"] = event.vertex_mm
            rows.append(row)
            n_voxels += len(event.voxels)
            for name, column in columns.items():
                column.append(getattr(event.voxels, name))
            for name, values in event.truth.items():
                if name not in truth:
                    truth[name] = Table(file, f"truth/{name}", values.dtype, chunk=1024)
                truth[name].append(values)
            disk.check()
        if not seen:
            raise InputError(f"{path}: there is no event to write")
        for table in (*columns.values(), rows, *truth.values()):
            table.flush()
        file.attrs.update(attributes())
    return len(seen)


def select_events(
    chosen: Mapping[Path, Sequence[int]],
    out: Path,
    detector: Detector,
    on_bad_event: OnBadEvent = "error",
    on_missing_event: OnBadEvent = "error",
) -> None:
    """Write some events of voxel shards to one shard, with their truth.

    Args:
        chosen: shard -> ids of its events; no id twice.
        out: the shard to write.
        detector: the geometry of all.
        on_bad_event: whether an event that cannot be used is an error, or left out.
        on_missing_event: the same for an event that is not in its shard, as the conversion has left it out.

    Raises:
        InputError: see :func:`open_shard`; an event is not in its shard, or none is; or some of the shards hold drifted
            charge and others do not.
    """
    drifted = set()
    for path in chosen:
        with open_shard(path, detector, on_bad_event) as shard:
            drifted.add(shard.drifted)
    if len(drifted) > 1:
        raise InputError(
            f"{next(iter(chosen))}: its charge has drifted, or not, unlike that of others. Convert all again."
        )
    events = (
        event
        for path, ids in chosen.items()
        for event in _read_events(path, ids, detector, on_bad_event, on_missing_event)
    )
    write_shard(out, detector, events, drifted=drifted.pop())


def _read_events(
    path: Path, chosen: Sequence[int], detector: Detector, on_bad_event: OnBadEvent, on_missing_event: OnBadEvent
) -> Iterator[Event]:
    with open_shard(path, detector, on_bad_event) as shard:
        wanted = np.isin(shard.events["event_id"], np.array(chosen, dtype=np.uint64))
        if missing := sorted({*chosen} - {*shard.events["event_id"][wanted].tolist()}):
            said = f"{path}: has no event {missing[0]} ({len(missing)} of {len(chosen)} missing)"
            if on_missing_event == "error" or not wanted.any():
                raise InputError(f"{said}. The file has changed since the run: make it again, and the run.")
            logger.warning("%s: left out", said)
        found = {name: shard.truth(name) for name in shard.truth_tables}
        # Sorted by event, so that the rows of each are a slice.
        tables = {
            name: rows[np.argsort(rows["event_id"], kind="stable")] for name, rows in found.items() if rows is not None
        }
        for rows, block, begins in shard.blocks():
            for row, begin, end in zip(rows, begins[:-1], begins[1:], strict=True):
                if not wanted[row]:
                    continue
                about = shard.events[row]
                spans = {
                    name: slice(*(np.searchsorted(table["event_id"], about["event_id"], s) for s in ("left", "right")))
                    for name, table in tables.items()
                }
                yield Event(
                    event_id=int(about["event_id"]),
                    voxels=Voxels(*(column[begin:end] for column in (block.x, block.y, block.z, block.energy))),
                    nu_pdg=int(about["nu_pdg"]),
                    is_cc=bool(about["is_cc"]),
                    nu_energy=float(about["nu_energy"]),
                    inelasticity=float(about["inelasticity"]),
                    vertex_mm=(*about["vertex_mm"].tolist(),),
                    mode=int(about["mode"]),
                    truth={name: table[spans[name]] for name, table in tables.items()},
                )


class VoxelShard:
    """An open voxel shard with a checked table of events; see :func:`open_shard`.

    Attributes:
        path: the file.
        events: (events,) structured array of ``EVENT_DTYPE``.
        drifted: whether its charge was read out, and has drifted already.
    """

    def __init__(
        self, path: Path, file: h5py.File, events: np.ndarray, detector: Detector, on_bad_event: OnBadEvent
    ) -> None:
        self.path = path
        self.events = events
        self.drifted = bool(file.attrs.get("drifted", False))  # absent in shards of deposits and in older ones
        self._file = file
        self._shape = detector.shape
        self._on_bad_event = on_bad_event

    def __len__(self) -> int:
        return len(self.events)

    @property
    def truth_tables(self) -> list[str]:
        """Names of the optional tables in /truth whose rows belong to events."""
        group = self._file.get("truth")
        tables = group.items() if isinstance(group, h5py.Group) else ()
        return [
            name
            for name, table in tables
            if isinstance(table, h5py.Dataset) and "event_id" in (table.dtype.names or ())
        ]

    def truth(self, name: str) -> np.ndarray | None:
        """The optional table /truth/`name`; None if the shard does not have it.

        Raises:
            InputError: it is unreadable, incomplete, or unpacks to an implausible size.
        """
        table = self._file.get(f"truth/{name}")
        if not isinstance(table, h5py.Dataset):
            return None
        check_dataset(self.path, table, at_once=True)
        try:
            rows: np.ndarray = table[:]
        except OSError as error:
            raise InputError(
                f"{self.path}: /truth/{name} cannot be read ({error}). The file is damaged: copy or make it again."
            ) from error
        return rows

    def counterfactuals(self) -> np.ndarray | None:
        """The rows of /truth/counterfactuals in the order of :attr:`events`; None without the table.

        An event without a row is as simulated.

        Raises:
            InputError: a column is missing or not of whole numbers; an event is unknown or has two rows; or an event
                that is changed is its own original, or another is not.
        """
        rows = self.truth("counterfactuals")
        if rows is None:
            return None
        remedy = "Correct the program that wrote the file, or leave the table out."
        columns = ("event_id", "original", "kind")
        if any(name not in (rows.dtype.names or ()) or rows.dtype[name].kind not in "iu" for name in columns):
            raise InputError(
                f"{self.path}: /truth/counterfactuals needs the columns event_id, original and kind, whole numbers "
                f"(docs/formats.md). {remedy}"
            )
        ids = self.events["event_id"]
        unknown = ~np.isin(rows["event_id"], ids)
        _, first = np.unique(rows["event_id"], return_index=True)
        again = np.setdiff1d(np.arange(len(rows)), first)
        unlike = (rows["kind"] == 0) != (rows["original"] == rows["event_id"])
        for wrong, what in (
            (np.flatnonzero(unknown), "is not in /events"),
            (again, "has two rows"),
            (np.flatnonzero(unlike), "is changed (kind) and its own original, or neither"),
        ):
            if len(wrong):
                event = rows["event_id"][wrong[0]]
                raise InputError(f"{self.path}: /truth/counterfactuals: event {event} {what}. {remedy}")
        of_all = np.zeros(len(ids), dtype=[("event_id", "u8"), ("original", "u8"), ("kind", "i8")])
        of_all["event_id"] = of_all["original"] = ids
        order = np.argsort(ids, kind="stable")
        places = order[np.searchsorted(ids, rows["event_id"], sorter=order)]
        for name in columns:
            of_all[name][places] = rows[name]
        return of_all

    def originals(self) -> dict[int, int]:
        """Event id of each counterfactual event -> that of the event it was made from; empty without the table.

        Raises:
            InputError: see :meth:`counterfactuals`.
        """
        rows = self.counterfactuals()
        changed = [] if rows is None else rows[rows["kind"] != 0]
        return {int(row["event_id"]): int(row["original"]) for row in changed}

    def blocks(self, voxels: int = 1_000_000, events: int = 10_000) -> Iterator[tuple[np.ndarray, Voxels, np.ndarray]]:
        """Read the events block by block, in order.

        Args:
            voxels: approximate number of voxels of a block, which limits the memory however large the shard is.
            events: maximum number of events of a block.

        Yields:
            Rows of the events, without skipped ones; all their voxels; and (rows + 1,), the first voxel of each event
            and the end of the last one.

        Raises:
            InputError: unreadable bytes; or an event without voxels or with too many, with NaN, a negative energy, a
                voxel outside the detector or the same voxel twice, unless such events are skipped; or no usable event.
        """
        begins = np.concatenate([[0], np.cumsum(self.events["n_voxels"], dtype=np.int64)])
        columns = [self._file[f"voxels/{name}"] for name in ("x", "y", "z", "energy")]
        skipped: list[str] = []
        row = 0
        while row < len(self.events):
            if too_many := _too_many_voxels(self.events[row]):  # not read; refused by open_shard unless skipped
                skipped.append(too_many)
                row += 1
                continue
            stop = max(row + 1, int(np.searchsorted(begins, begins[row] + voxels, side="right")) - 1)
            stop = min(stop, row + events)
            span = slice(int(begins[row]), int(begins[stop]))
            try:
                block = Voxels(*(column[span] for column in columns))
            except (OSError, RuntimeError) as error:
                ids = self.events["event_id"]
                raise InputError(
                    f"{self.path}: the voxels of events {ids[row]} to {ids[stop - 1]} cannot be read ({error}). "
                    "The file is damaged: copy or make it again."
                ) from error
            rows, ends = np.arange(row, stop), begins[row : stop + 1] - begins[row]
            bad = self._find_bad(block, rows, ends)
            if bad:
                skipped += bad.values()
                good = ~np.isin(rows, list(bad))
                kept = np.repeat(good, np.diff(ends))
                block = Voxels(block.x[kept], block.y[kept], block.z[kept], block.energy[kept])
                ends = np.concatenate([[0], np.cumsum(np.diff(ends)[good])])
                rows = rows[good]
            if len(rows):
                yield rows, block, ends
            row = stop
        if len(skipped) == len(self.events):
            raise InputError(f"{self.path}: none of its {len(skipped)} events can be used; {skipped[0]}.")
        if skipped:
            logger.warning(
                "%s: %d of %d events left out; the first: %s", self.path, len(skipped), len(self.events), skipped[0]
            )

    def _find_bad(self, block: Voxels, rows: np.ndarray, begins: np.ndarray) -> dict[int, str]:
        """Description of the fault of each event that cannot be used, by its row."""
        faults, voxels = _find_faults(block.x, block.y, block.z, block.energy, begins, *self._shape)
        # write_shard sorts the voxels of an event, so that a duplicate is quick to find. Other orders need a sort here.
        for event in np.flatnonzero(faults == _UNSORTED):
            span = slice(begins[event], begins[event + 1])
            flat = np.ravel_multi_index((block.x[span].astype(np.int64), block.y[span], block.z[span]), self._shape)
            _, first, counts = np.unique(flat, return_index=True, return_counts=True)
            twins = first[counts > 1]
            faults[event], voxels[event] = (_TWIN, twins[0]) if len(twins) else (_NONE, 0)
        bad = {}
        for event in np.flatnonzero(faults != _NONE):
            what = _FAULTS[faults[event]].format(*(size - 1 for size in self._shape))
            bad[int(rows[event])] = f"event {self.events['event_id'][rows[event]]} has {what}" + (
                f" (voxel {voxels[event]} of the event)" if faults[event] != _EMPTY else ""
            )
        if bad and self._on_bad_event == "error":
            raise InputError(
                f"{self.path}: {next(iter(bad.values()))}. Correct the program that wrote the file, leave the event "
                "out, or set input.on_bad_event to skip."
            )
        return bad


_NONE, _UNSORTED, _TWIN, _EMPTY = -1, 5, 6, 7
_FAULTS = (
    "an energy that is not a number or infinite",
    "a negative energy",
    "a voxel outside the detector along x (0 to {0} are inside)",
    "a voxel outside the detector along y (0 to {1} are inside)",
    "a voxel outside the detector along z (0 to {2} are inside)",
    "voxels out of order",
    "a voxel twice",
    "no voxels",
)


@cached_njit()
def _find_faults(x, y, z, energy, begins, n_x, n_y, n_z):  # type: ignore[no-untyped-def]
    """First fault of each event, as an index of _FAULTS, and the voxel with the fault."""
    faults = np.full(len(begins) - 1, _NONE)
    voxels = np.zeros(len(begins) - 1, dtype=np.int64)
    for event in range(len(begins) - 1):
        last = -1
        if begins[event] == begins[event + 1]:
            faults[event] = _EMPTY
        for v in range(begins[event], begins[event + 1]):
            e = energy[v]
            fault = _NONE
            if not (0.0 <= e < np.inf):
                fault = 1 if -np.inf < e < 0.0 else 0
            elif x[v] < 0 or x[v] >= n_x:
                fault = 2
            elif y[v] < 0 or y[v] >= n_y:
                fault = 3
            elif z[v] < 0 or z[v] >= n_z:
                fault = 4
            if fault != _NONE:
                faults[event], voxels[event] = fault, v - begins[event]
                break
            flat = (np.int64(x[v]) * n_y + np.int64(y[v])) * n_z + np.int64(z[v])
            if flat <= last:
                faults[event] = _UNSORTED
            last = flat
    return faults, voxels


@contextmanager
def open_shard(path: str | Path, detector: Detector, on_bad_event: OnBadEvent = "error") -> Iterator[VoxelShard]:
    """Open a voxel shard for reading. Its table of events is checked here, its voxels when they are read.

    Args:
        path: the file.
        detector: the expected geometry.
        on_bad_event: whether an event that cannot be used is an error, or skipped by :meth:`VoxelShard.blocks`.

    Raises:
        InputError: the file is missing, empty, truncated, altered or not a voxel shard; has another version or
            another geometry; has an event id twice, or events that do not match the voxels. The message names the
            file, the event and the remedy.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file. Check the path in input.files.")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty. Copy or make it again.")
    try:
        file = hdf5_file(path)
    except OSError as error:
        raise InputError(f"{path}: not HDF5, or cut short ({error}). Copy or make it again.") from error
    with file:
        try:
            events = _check_shard(path, file, detector, on_bad_event)
        except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}: cannot be read ({error}). The file is damaged: copy or make it again."
            ) from error
        yield VoxelShard(path, file, events, detector, on_bad_event)


def _too_many_voxels(event: np.void) -> str | None:
    if event["n_voxels"] <= MOST_VOXELS:
        return None
    return f"event {event['event_id']} has {event['n_voxels']} voxels; the maximum is {MOST_VOXELS}"


def _check_shard(path: Path, file: h5py.File, detector: Detector, on_bad_event: OnBadEvent) -> np.ndarray:
    """The table of events as EVENT_DTYPE, after the checks of :func:`open_shard`."""
    found = file.attrs.get("format")
    found = found.decode(errors="replace") if isinstance(found, bytes) else found  # as C programs write it
    if found != FORMAT:
        raise InputError(
            f"{path}: not a voxel shard (its attribute 'format' is {found!r}, not {FORMAT!r}). "
            "Set input.source to the format of the file, or convert it (docs/formats.md)."
        )
    version = file.attrs.get("version")
    if version != VERSION:
        raise InputError(
            f"{path}: voxel shard of version {version}; this program reads version {VERSION}. Convert it again."
        )
    for name, expected in (
        ("voxel_mm", detector.voxel_mm),
        ("origin_mm", detector.origin_mm),
        ("shape", detector.shape),
    ):
        value = np.asarray(file.attrs.get(name, ()))
        if value.shape != (3,) or not np.allclose(value, expected):
            raise InputError(
                f"{path}: {name} is {value.tolist()}, but the configured detector has {list(expected)}. "
                "Set 'detector' to the geometry that the file was made for."
            )
    drifted = np.asarray(file.attrs.get("drifted", False))
    if drifted.shape != () or drifted.dtype.kind not in "biu" or drifted not in (0, 1):
        raise InputError(
            f"{path}: its attribute 'drifted' is {drifted.tolist()!r}; true or false (1 or 0) is expected. Correct the "
            "program that wrote the file (docs/formats.md)."
        )
    for name in ("events", "voxels/x", "voxels/y", "voxels/z", "voxels/energy"):
        if not isinstance(file.get(name), h5py.Dataset):
            raise InputError(
                f"{path}: there is no table /{name}. Correct the program that wrote the file (docs/formats.md)."
            )
    check_dataset(path, file["events"], at_once=True)
    for name in ("x", "y", "z", "energy"):
        column = file[f"voxels/{name}"]
        check_dataset(path, column)
        if column.ndim != 1 or column.dtype.kind not in ("iuf" if name == "energy" else "iu"):
            raise InputError(
                f"{path}: /voxels/{name} is {column.dtype} {column.shape}. Correct the program that wrote the file "
                "(docs/formats.md)."
            )
    lengths = {name: len(file[f"voxels/{name}"]) for name in ("x", "y", "z", "energy")}
    if len(set(lengths.values())) != 1:
        raise InputError(
            f"{path}: the columns of /voxels differ in length ({lengths}). The file is damaged: make it again."
        )
    missing = [name for name in EVENT_DTYPE.names or () if name not in (file["events"].dtype.names or ())]
    if missing:
        raise InputError(f"{path}: /events has no column {', '.join(missing)} (docs/formats.md lists them).")
    if len(file["events"]) > MOST_EVENTS:
        raise InputError(
            f"{path}: the shard has {len(file['events'])} events; the maximum is {MOST_EVENTS}. Split it into several."
        )
    table = file["events"][:]
    events = np.zeros(len(table), dtype=EVENT_DTYPE)
    for name in EVENT_DTYPE.names or ():
        events[name] = table[name]
    if not len(events):
        raise InputError(f"{path}: the shard has no events. Remove it from input.files.")
    ids, counts = np.unique(events["event_id"], return_counts=True)
    if (counts > 1).any():
        raise InputError(f"{path}: event {ids[counts > 1][0]} occurs twice. Event ids must differ within a shard.")
    if (events["n_voxels"] == 0).any() and on_bad_event == "error":
        event = events["event_id"][events["n_voxels"] == 0][0]
        raise InputError(
            f"{path}: event {event} has no voxels. Leave it out of the shard, or set input.on_bad_event to skip."
        )
    too_many = next(filter(None, map(_too_many_voxels, events[events["n_voxels"] > MOST_VOXELS])), None)
    if too_many and on_bad_event == "error":
        raise InputError(f"{path}: {too_many}. Leave it out of the shard, or set input.on_bad_event to skip.")
    total = np.concatenate([[0], np.cumsum(events["n_voxels"], dtype=np.int64)])
    wrong = events["first_voxel"].astype(np.int64) != total[:-1]
    if wrong.any() or total[-1] != lengths["energy"]:
        event = events["event_id"][int(np.argmax(wrong))] if wrong.any() else events["event_id"][-1]
        raise InputError(
            f"{path}: at event {event}, first_voxel and n_voxels do not match the {lengths['energy']} voxels of the "
            "file (events follow each other without gaps). The file is damaged: make it again."
        )
    return events
