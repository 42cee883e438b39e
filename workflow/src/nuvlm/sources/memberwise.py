"""edep-sim's lists of hits and particles, and LArCV's clusters of voxels, decoded from member-wise streamed ROOT bytes.

uproot reads the bytes of such lists but cannot interpret them. An entry of the branch is a byte count, a version with
bit 0x4000 and the version of the class (and its checksum, if that is 0); then the lists, one per sensitive
detector or vertex. A list is the number n of its objects and, unless that is 0, columns: each member of all n objects
before the next member. A column of vectors or strings begins with a byte count and a version, once; in one of objects
each has its own. All numbers are big-endian. See TStreamerInfoReadBuffer.cxx in ROOT, TG4HitSegment.h and
TG4PrimaryVertex.h in edep-sim, and Voxel.h in larcv2.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

LAYOUTS = {
    "TG4HitSegment": (
        "TObject",
        "Contrib",
        "PrimaryId",
        "EnergyDeposit",
        "SecondaryDeposit",
        "TrackLength",
        "Start",
        "Stop",
    ),
    "TG4PrimaryParticle": ("TObject", "TrackId", "Name", "PDGCode", "Momentum"),
}
"""Members of the classes, in order, as described in the file; the same in all versions of edep-sim so far."""
VOXEL_MEMBERS = ("_id", "_value")
"""Members of larcv::Voxel."""
MEMBER_WISE = 0x4000
COUNTED = 0x40000000
T_OBJECT = np.dtype([("version", ">u2"), ("id", ">u4"), ("bits", ">u4")])
REFERENCED = 0x10
"""Bit of a TObject with two more bytes after it."""
FOUR_VECTOR_BYTES = 32


class LayoutError(Exception):
    """The bytes do not have the expected layout."""


@dataclass(frozen=True)
class Hits:
    """The hit segments of one sensitive detector.

    Attributes:
        primary_id: (hits,), track id of the primary particle that the hit descends from.
        energy_mev: (hits,).
        start_mm: (hits, 3).
        stop_mm: (hits, 3).
    """

    primary_id: np.ndarray
    energy_mev: np.ndarray
    start_mm: np.ndarray
    stop_mm: np.ndarray

    @classmethod
    def merged(cls, detectors: "list[Hits]") -> "Hits":
        """The hits of all `detectors`, concatenated."""
        nothing = cls(np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros((0, 3)), np.zeros((0, 3)))
        names = [field.name for field in fields(cls)]
        return cls(*(np.concatenate([getattr(part, name) for part in (nothing, *detectors)]) for name in names))


@dataclass(frozen=True)
class Particles:
    """The primary particles of one vertex.

    Attributes:
        track_id: (particles,).
        pdg: (particles,).
        momentum_mev: (particles, 4), px, py, pz, E.
    """

    track_id: np.ndarray
    pdg: np.ndarray
    momentum_mev: np.ndarray


def decode_hits(data: np.ndarray) -> list[Hits]:
    """Decode an entry of ``SegmentDetectors.second``: the hits of each sensitive detector.

    Args:
        data: the bytes of the entry.

    Raises:
        LayoutError: the bytes are not vectors of TG4HitSegment, version 1, member-wise.
    """
    reader = _Reader(data)
    detectors = []
    for n in reader.lists():
        reader.objects(n)
        reader.skip_counted(n)  # ids of the tracks that contribute to each hit
        primary = reader.column(">i4", n)
        energy = reader.column(">f4", n)
        reader.column(">f4", 2 * n)  # secondary deposit, track length
        start, stop = reader.four_vectors(n), reader.four_vectors(n)
        detectors.append(Hits(primary.astype(np.int64), energy.astype(np.float64), start[:, :3], stop[:, :3]))
    return detectors


def decode_particles(data: np.ndarray) -> list[Particles]:
    """Decode an entry of ``Primaries.Particles``: the particles of each vertex.

    Raises:
        LayoutError: the bytes are not vectors of TG4PrimaryParticle, version 1, member-wise.
    """
    reader = _Reader(data)
    vertices = []
    for n in reader.lists():
        reader.objects(n)
        track = reader.column(">i4", n)
        reader.skip_counted(n)  # names
        pdg = reader.column(">i4", n)
        vertices.append(Particles(track.astype(np.int64), pdg.astype(np.int64), reader.four_vectors(n)))
    return vertices


def decode_voxels(data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Decode an entry of LArCV's ``_voxel_vv._voxel_v``: ids (u8) and values (f4) of the voxels of all clusters.

    Raises:
        LayoutError: the bytes are not vectors of larcv::Voxel, member-wise.
    """
    reader = _Reader(data)
    ids, values = [np.zeros(0, dtype=np.uint64)], [np.zeros(0, dtype=np.float32)]
    for n in reader.lists():
        ids.append(reader.column(">u8", n))
        values.append(reader.column(">f4", n))
    return np.concatenate(ids).astype(np.uint64), np.concatenate(values).astype(np.float32)


class _Reader:
    def __init__(self, data: np.ndarray) -> None:
        self._data = np.ascontiguousarray(data, dtype=np.uint8)
        self._at = 0

    def lists(self) -> Iterator[int]:
        """Yield the number of objects of each list; the caller reads them before the next."""
        while self._left:
            end = self._counted()
            if not self._number(">u2") & MEMBER_WISE:
                raise LayoutError("objects that are not streamed member-wise")
            if self._number(">u2") == 0:
                self._number(">u4")
            while self._at < end:
                yield self._number(">u4")
            if self._at > end:
                raise LayoutError(f"lists {self._at - end} bytes longer than their byte count")

    def objects(self, n: int) -> None:
        """Skip the TObject part of `n` objects."""
        heads = self.column(T_OBJECT, n)
        if (heads["version"] != 1).any() or (heads["bits"] & REFERENCED).any():
            raise LayoutError("no plain TObject at the start of the columns")

    def column(self, dtype: Any, n: int) -> np.ndarray:
        """Read `n` numbers."""
        dtype = np.dtype(dtype)
        if n * dtype.itemsize > self._left:
            raise LayoutError(f"{n * dtype.itemsize} bytes wanted, {self._left} left")
        values = self._data[self._at : self._at + n * dtype.itemsize].view(dtype)
        self._at += n * dtype.itemsize
        return values

    def skip_counted(self, n: int) -> None:
        """Skip a column of `n` vectors or strings, which begins with a byte count."""
        if n:
            self._at = self._counted()

    def four_vectors(self, n: int) -> np.ndarray:
        """Read `n` TLorentzVectors, (n, 4); each is byte-counted, and its last 32 bytes are x, y, z, t."""
        if not n:
            return np.zeros((0, 4))
        first = self._at
        size = self._counted() - first
        self._at = first
        rows = self.column(np.uint8, n * size).reshape(n, size)  # (n, bytes of one)
        counts = np.ascontiguousarray(rows[:, :4]).view(">u4")
        if size < 4 + FOUR_VECTOR_BYTES or (counts != COUNTED | (size - 4)).any():
            raise LayoutError("four-vectors of different lengths")
        return np.ascontiguousarray(rows[:, -FOUR_VECTOR_BYTES:]).view(">f8").astype(np.float64)

    def _counted(self) -> int:
        """Read a byte count; return the end of the counted bytes."""
        count = self._number(">u4")
        end = self._at + (count & ~COUNTED)
        if not count & COUNTED or end > len(self._data):
            raise LayoutError("missing byte count")
        return end

    @property
    def _left(self) -> int:
        return len(self._data) - self._at

    def _number(self, dtype: str) -> int:
        return int(self.column(dtype, 1)[0])
