"""The voxel shard: energy deposits of some hundred events in HDF5, and how deposits become voxels.

The format is described in docs/formats.md. Reading checks every event, so that no later stage meets
a NaN, an index outside the detector or an event that was cut short.
"""

import io
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import hdf5plugin  # registers the zstd filter, for reading too
import numba
import numpy as np

from nuvlm.detector import Detector
from nuvlm.errors import InputError
from nuvlm.storage import atomic_path

FORMAT = "nuvlm-voxels"
VERSION = 1
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
MODES = {"unknown": 0, "QE": 1, "MEC": 2, "RES": 3, "DIS": 4, "COH": 5}


@dataclass(frozen=True)
class Voxels:
    """Energy deposits of one event: index of each voxel from the detector's origin (u2), energy in MeV (f4)."""

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    energy: np.ndarray

    def __len__(self) -> int:
        return len(self.energy)


@dataclass(frozen=True)
class Event:
    """One event. The defaults stand for truth that is not known."""

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
    """Rows for the optional /truth tables: name of the table -> structured array with an `event_id` column."""


def voxelize(
    detector: Detector, start_mm: np.ndarray, end_mm: np.ndarray, energy_mev: np.ndarray
) -> tuple[Voxels, float]:
    """Share the energy of straight segments over the voxels that they cross, by exact length.

    Args:
        start_mm: (segments, 3), mm.
        end_mm: (segments, 3), mm; equal to the start where the deposit is a point.
        energy_mev: (segments,), MeV.

    Returns:
        The voxels, each once, in rising order of x, y, z; and the energy outside the detector, MeV. Together
        they hold the energy that came in (voxels in float32, so to some 1e-7).
    """
    low = np.array(detector.origin_mm, dtype=np.float64)
    size = np.array(detector.voxel_mm, dtype=np.float64)
    shape = np.array(detector.shape, dtype=np.int64)
    index, share, outside = _traverse(
        np.ascontiguousarray(start_mm, dtype=np.float64),
        np.ascontiguousarray(end_mm, dtype=np.float64),
        np.ascontiguousarray(energy_mev, dtype=np.float64),
        low,
        size,
        shape,
    )
    unique, inverse = np.unique(index, return_inverse=True)
    energy = np.bincount(inverse, weights=share, minlength=len(unique)).astype(np.float32)
    unique, energy = unique[energy > 0], energy[energy > 0]
    x, rest = np.divmod(unique, shape[1] * shape[2])
    y, z = np.divmod(rest, shape[2])
    return Voxels(x.astype(np.uint16), y.astype(np.uint16), z.astype(np.uint16), energy), outside


@numba.njit(cache=True)
def _traverse(start, end, energy, low, size, shape):  # type: ignore[no-untyped-def]
    """Flat voxel index and energy of every crossing (Amanatides and Woo, Eurographics 1987), and what is outside."""
    index = np.empty(max(16, 4 * len(energy)), dtype=np.int64)
    share = np.empty(len(index), dtype=np.float64)
    n = 0
    outside = 0.0
    cell = np.empty(3, dtype=np.int64)
    step = np.empty(3, dtype=np.int64)
    t_plane = np.empty(3, dtype=np.float64)
    t_voxel = np.empty(3, dtype=np.float64)
    for s in range(len(energy)):
        # Clip to the box: the segment is start + t (end - start), inside for enter <= t <= leave.
        enter, leave, inside = 0.0, 1.0, True
        for a in range(3):
            d = end[s, a] - start[s, a]
            high = low[a] + size[a] * shape[a]
            if d == 0.0:
                inside = inside and low[a] <= start[s, a] < high
            else:
                t0, t1 = (low[a] - start[s, a]) / d, (high - start[s, a]) / d
                enter, leave = max(enter, min(t0, t1)), min(leave, max(t0, t1))
        if not inside or enter > leave:
            outside += energy[s]
            continue
        point = True
        for a in range(3):
            d = end[s, a] - start[s, a]
            position = (start[s, a] + enter * d - low[a]) / size[a]
            cell[a] = min(max(int(np.floor(position)), 0), shape[a] - 1)
            if d == 0.0:
                step[a], t_plane[a], t_voxel[a] = 0, np.inf, np.inf
            else:
                point = False
                step[a] = 1 if d > 0 else -1
                edge = low[a] + size[a] * (cell[a] + (1 if d > 0 else 0))
                t_plane[a] = (edge - start[s, a]) / d
                t_voxel[a] = size[a] / abs(d)
        if not point:
            outside += energy[s] * (1.0 - (leave - enter))
        t = enter
        while True:
            a = 0
            if t_plane[1] < t_plane[a]:
                a = 1
            if t_plane[2] < t_plane[a]:
                a = 2
            t_next = leave if point else min(t_plane[a], leave)
            length = 1.0 if point else t_next - t
            if length > 0.0:
                if n == len(index):
                    index = np.concatenate((index, np.empty(n, dtype=np.int64)))
                    share = np.concatenate((share, np.empty(n, dtype=np.float64)))
                index[n] = (cell[0] * shape[1] + cell[1]) * shape[2] + cell[2]
                share[n] = length * energy[s]
                n += 1
                t = t_next
            if point or t_plane[a] >= leave:
                break
            cell[a] += step[a]
            if cell[a] < 0 or cell[a] >= shape[a]:
                # Rounding at the wall: what is left of the segment is shorter than a rounding error.
                outside += energy[s] * (leave - t)
                break
            t_plane[a] += t_voxel[a]
    return index[:n], share[:n], outside


def write_shard(path: str | Path, detector: Detector, events: Iterable[Event]) -> int:
    """Write events to a voxel shard, whole or not at all, and return how many there were.

    Raises:
        InputError: an event without voxels, an event id used twice, no event at all, no disk space.
    """
    zstd = hdf5plugin.Zstd(clevel=3)
    rows: list[np.ndarray] = []
    truth: dict[str, list[np.ndarray]] = {}
    seen: set[int] = set()
    n_voxels = 0
    # Made in memory, where it is compressed: a file that HDF5 cannot flush to a full disk crashes the process at exit.
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file.attrs.update(
            format=FORMAT,
            version=VERSION,
            voxel_mm=np.array(detector.voxel_mm, dtype=np.float64),
            origin_mm=np.array(detector.origin_mm, dtype=np.float64),
            shape=np.array(detector.shape, dtype=np.int64),
        )
        columns = {
            name: file.create_dataset(
                f"voxels/{name}", (0,), kind, maxshape=(None,), chunks=(65536,), fletcher32=True, **zstd
            )
            for name, kind in {"x": "u2", "y": "u2", "z": "u2", "energy": "f4"}.items()
        }
        for event in events:
            if not len(event.voxels):
                raise InputError(f"{path}: event {event.event_id} has no voxels; leave it out")
            if event.event_id in seen:
                raise InputError(f"{path}: event id {event.event_id} occurs twice; ids must differ within a shard")
            seen.add(event.event_id)
            row = np.zeros((), dtype=EVENT_DTYPE)
            row["event_id"], row["first_voxel"], row["n_voxels"] = event.event_id, n_voxels, len(event.voxels)
            row["nu_pdg"], row["is_cc"], row["mode"] = event.nu_pdg, event.is_cc, event.mode
            row["nu_energy"], row["inelasticity"] = event.nu_energy, event.inelasticity
            row["vertex_mm"] = event.vertex_mm
            rows.append(row)
            n_voxels += len(event.voxels)
            for name, column in columns.items():
                column.resize((n_voxels,))
                column[n_voxels - len(event.voxels) :] = getattr(event.voxels, name)
            for table, values in event.truth.items():
                truth.setdefault(table, []).append(values)
        if not rows:
            raise InputError(f"{path}: there is no event to write")
        file.create_dataset("events", data=np.stack(rows), chunks=True, fletcher32=True, **zstd)
        for table, pieces in truth.items():
            file.create_dataset(f"truth/{table}", data=np.concatenate(pieces), chunks=True, fletcher32=True, **zstd)
    with atomic_path(path) as partial:
        partial.write_bytes(content.getbuffer())
    return len(rows)


class VoxelShard:
    """An open voxel shard, its events checked. See :func:`open_shard`.

    Attributes:
        path: the file.
        events: (events,) structured array of ``EVENT_DTYPE``.
    """

    def __init__(self, path: Path, file: h5py.File, events: np.ndarray, shape: tuple[int, int, int]) -> None:
        self.path = path
        self.events = events
        self._file = file
        self._shape = shape

    def __len__(self) -> int:
        return len(self.events)

    def blocks(self, voxels: int = 4_000_000) -> Iterator[tuple[slice, Voxels]]:
        """Yield rows of `events` and all their voxels, about `voxels` at a time (memory stays flat).

        Raises:
            InputError: unreadable bytes; NaN, negative energy, a voxel outside the detector or twice in an event.
        """
        last = self.events["first_voxel"].astype(np.int64) + self.events["n_voxels"]
        row = 0
        while row < len(self.events):
            begin = int(self.events["first_voxel"][row])
            stop = max(row + 1, int(np.searchsorted(last, begin + voxels, side="right")))
            end = int(last[stop - 1])
            try:
                block = Voxels(*(self._file[f"voxels/{name}"][begin:end] for name in ("x", "y", "z", "energy")))
            except OSError as error:
                ids = self.events["event_id"]
                raise InputError(
                    f"{self.path}: the voxels of events {ids[row]} to {ids[stop - 1]} cannot be read ({error}). "
                    "The file is damaged: copy or make it again."
                ) from error
            self._check(slice(row, stop), block)
            yield slice(row, stop), block
            row = stop

    def _check(self, rows: slice, block: Voxels) -> None:
        first = (self.events["first_voxel"][rows] - self.events["first_voxel"][rows][0]).astype(np.int64)

        def refuse(bad: np.ndarray, what: str) -> None:
            if bad.any():
                at = int(np.argmax(bad))
                row = int(np.searchsorted(first, at, side="right")) - 1
                raise InputError(
                    f"{self.path}: event {self.events['event_id'][rows][row]} has {what} "
                    f"(voxel {at - first[row]} of the event). Mend the program that wrote the file, or leave "
                    "the event out."
                )

        refuse(~np.isfinite(block.energy), "an energy that is not a number or infinite")
        refuse(block.energy < 0, "a negative energy")
        for axis, index, size in zip("xyz", (block.x, block.y, block.z), self._shape, strict=True):
            refuse(index >= size, f"a voxel outside the detector along {axis} (at most {size - 1} is inside)")
        flat = np.ravel_multi_index((block.x.astype(np.int64), block.y, block.z), self._shape)
        # Our own shards rise within an event, which is quick to see; only others are sorted to look for twins.
        begins = np.zeros(len(flat), dtype=bool)
        begins[first] = True
        if ((flat[1:] <= flat[:-1]) & ~begins[1:]).any():
            event = np.cumsum(begins)
            order = np.lexsort((flat, event))
            twin = np.zeros(len(flat), dtype=bool)
            twin[order[1:]] = (flat[order[1:]] == flat[order[:-1]]) & (event[order[1:]] == event[order[:-1]])
            refuse(twin, "a voxel twice")


@contextmanager
def open_shard(path: str | Path, detector: Detector) -> Iterator[VoxelShard]:
    """Open a voxel shard for reading and check all but its voxels, which are checked as they are read.

    Raises:
        InputError: missing, empty, truncated or foreign file; another version; another geometry than `detector`;
            an event without voxels; an event id twice; rows that do not describe the voxels. The message names
            the file, the event and the remedy.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file. Check the path in input.files.")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty. Copy or make it again.")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{path}: not HDF5, or cut short ({error}). Copy or make it again.") from error
    with file:
        try:
            events = _check_shard(path, file, detector)
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"{path}: cannot be read ({error}). The file is damaged: copy or make it again."
            ) from error
        yield VoxelShard(path, file, events, detector.shape)


def _check_shard(path: Path, file: h5py.File, detector: Detector) -> np.ndarray:
    found = file.attrs.get("format")
    found = found.decode(errors="replace") if isinstance(found, bytes) else found  # as C programs write it
    if found != FORMAT:
        raise InputError(
            f"{path}: no voxel shard (its attribute 'format' is {found!r}, not {FORMAT!r}). "
            "Set input.source to what the file is, or convert it (docs/formats.md)."
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
    for name in ("events", "voxels/x", "voxels/y", "voxels/z", "voxels/energy"):
        if not isinstance(file.get(name), h5py.Dataset):
            raise InputError(
                f"{path}: there is no table /{name}. Mend the program that wrote the file (docs/formats.md)."
            )
    lengths = {name: len(file[f"voxels/{name}"]) for name in ("x", "y", "z", "energy")}
    if len(set(lengths.values())) != 1:
        raise InputError(
            f"{path}: the columns of /voxels differ in length ({lengths}). The file is damaged: make it again."
        )
    missing = [name for name in EVENT_DTYPE.names or () if name not in (file["events"].dtype.names or ())]
    if missing:
        raise InputError(f"{path}: /events has no column {', '.join(missing)} (docs/formats.md lists them).")
    table = file["events"][:]
    events = np.zeros(len(table), dtype=EVENT_DTYPE)
    for name in EVENT_DTYPE.names or ():
        events[name] = table[name]
    if not len(events):
        raise InputError(f"{path}: the shard holds no event. Take it out of input.files.")
    ids, counts = np.unique(events["event_id"], return_counts=True)
    if (counts > 1).any():
        raise InputError(f"{path}: event {ids[counts > 1][0]} occurs twice. Event ids must differ within a shard.")
    if (events["n_voxels"] == 0).any():
        event = events["event_id"][events["n_voxels"] == 0][0]
        raise InputError(f"{path}: event {event} has no voxels. Leave it out of the shard.")
    total = np.concatenate([[0], np.cumsum(events["n_voxels"], dtype=np.int64)])
    wrong = events["first_voxel"].astype(np.int64) != total[:-1]
    if wrong.any() or total[-1] != lengths["energy"]:
        event = events["event_id"][int(np.argmax(wrong))] if wrong.any() else events["event_id"][-1]
        raise InputError(
            f"{path}: at event {event}, first_voxel and n_voxels do not match the {lengths['energy']} voxels of the "
            "file (events follow each other without gaps). The file is damaged: make it again."
        )
    return events
