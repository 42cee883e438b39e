"""edep-sim files for tests: the sample file with other events in it.

uproot cannot write the branches of edep-sim, so the bytes of each branch are put together here as ROOT streams them,
and go into the sample file as new baskets, whose places are entered in its tree.
"""

import itertools
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import uproot

from paths import SHARED

SAMPLE = SHARED / "edepsim_synthetic_2ev.root"


@dataclass
class HitList:
    """Hits of one sensitive detector; lengths in mm, energies in MeV."""

    start: np.ndarray
    stop: np.ndarray
    energy: np.ndarray
    primary: np.ndarray
    contributors: list[list[int]]


@dataclass
class Particle:
    track: int
    pdg: int
    momentum: tuple[float, float, float, float]
    name: str = "particle"


@dataclass
class Vertex:
    position: tuple[float, float, float] = (0, 0, 3000)
    reaction: str = "nu:14;tgt:1000180400;N:2112;proc:Weak[CC],QES;"
    particles: list[Particle] = field(default_factory=list)
    interaction: int = 0


@dataclass
class FileEvent:
    event: int
    detectors: dict[str, HitList]
    vertices: list[Vertex]
    run: int = 1
    parents: dict[int, int] = field(default_factory=dict)
    """Track -> parent."""


def hit_list(start: Any, stop: Any, energy: Any, primary: Any = 0, contributors: Any = None) -> HitList:
    start, stop, energy = (np.asarray(values, dtype=np.float64) for values in (start, stop, energy))
    primary = np.array(np.broadcast_to(primary, energy.shape))
    return HitList(start, stop, energy, primary, contributors or [[1]] * len(energy))


def hits_bytes(lists: Sequence[HitList]) -> bytes:
    return member_wise([hit_columns(part) for part in lists])


def particles_bytes(lists: Sequence[Sequence[Particle]]) -> bytes:
    return member_wise([particle_columns(part) for part in lists])


def member_wise(lists: list[bytes], class_version: bytes = b"\0\1") -> bytes:
    return counted(b"\x40\x0a" + class_version + b"".join(lists))


def counted(content: bytes) -> bytes:
    return struct.pack(">I", 0x40000000 | len(content)) + content


def hit_columns(part: HitList) -> bytes:
    n = len(part.energy)
    if not n:
        return struct.pack(">I", 0)
    vectors = b"".join([struct.pack(f">I{len(ids)}i", len(ids), *ids) for ids in part.contributors])
    columns = [
        struct.pack(">I", n),
        T_OBJECT * n,
        counted(b"\0\x0a" + vectors),
        part.primary.astype(">i4").tobytes(),
        part.energy.astype(">f4").tobytes(),
        np.zeros(n, ">f4").tobytes(),
        np.ones(n, ">f4").tobytes(),
        four_vectors(part.start),
        four_vectors(part.stop),
    ]
    return b"".join(columns)


def particle_columns(part: Sequence[Particle]) -> bytes:
    n = len(part)
    if not n:
        return struct.pack(">I", 0)
    columns = [
        struct.pack(">I", n),
        T_OBJECT * n,
        np.array([p.track for p in part], ">i4").tobytes(),
        counted(b"\0\x0a" + b"".join(string(p.name) for p in part)),
        np.array([p.pdg for p in part], ">i4").tobytes(),
        b"".join(four_vector(p.momentum) for p in part),
    ]
    return b"".join(columns)


def column(numbers: Sequence[int]) -> bytes:
    """A branch's entry with a vector of integers."""
    return np.array(numbers, ">i4").tobytes()


T_OBJECT = struct.pack(">HII", 1, 0, 0)


def four_vector(values: Sequence[float]) -> bytes:
    x, y, z, t = values
    vector = counted(struct.pack(">H", 3) + T_OBJECT + struct.pack(">ddd", x, y, z))
    return counted(struct.pack(">H", 4) + T_OBJECT + vector + struct.pack(">d", t))


def four_vectors(places: np.ndarray) -> bytes:
    """Those of :func:`four_vector` with a time of 0, for many (n, 3) at once."""
    one = np.frombuffer(four_vector((0, 0, 0, 0)), np.uint8)
    rows = np.tile(one, (len(places), 1))
    rows[:, -32:-8] = np.ascontiguousarray(places, ">f8").view(np.uint8).reshape(len(places), 24)
    return rows.tobytes()


def string(text: str) -> bytes:
    return struct.pack(">B", len(text)) + text.encode()


def strings(texts: Sequence[str]) -> bytes:
    return counted(b"\0\x0a" + b"".join(map(string, texts)))


def write_edepsim(path: Path, events: Sequence[FileEvent], baskets: int = 1, **branches: Sequence[bytes]) -> Path:
    """Write `events` as an edep-sim file, with up to 9 baskets a branch.

    `branches` replaces the bytes of a branch (a dot as a double underscore).
    """
    contents: dict[str, Sequence[bytes]] = {
        "RunId": [struct.pack(">i", e.run) for e in events],
        "EventId": [struct.pack(">i", e.event) for e in events],
        "Primaries.Position": [b"".join(four_vector((*v.position, 0)) for v in e.vertices) for e in events],
        "Primaries.Reaction": [strings([v.reaction for v in e.vertices]) for e in events],
        "Primaries.InteractionNumber": [b"".join(struct.pack(">i", v.interaction) for v in e.vertices) for e in events],
        "Primaries.Particles": [particles_bytes([v.particles for v in e.vertices]) for e in events],
        "Trajectories.TrackId": [np.array(list(e.parents), ">i4").tobytes() for e in events],
        "Trajectories.ParentId": [np.array(list(e.parents.values()), ">i4").tobytes() for e in events],
        "SegmentDetectors.first": [strings(list(e.detectors)) for e in events],
        "SegmentDetectors.second": [hits_bytes(list(e.detectors.values())) for e in events],
    }
    contents |= {name.replace("__", "."): entries for name, entries in branches.items()}
    raw = bytearray(SAMPLE.read_bytes())
    with uproot.open(SAMPLE) as file:
        tree = file["EDepSimEvents"]
        key = file.key("EDepSimEvents")
        chunk, cursor = key.get_uncompressed_chunk_cursor()
        content = bytearray(chunk.raw_data)[cursor.index :]
        branch_of = {branch.name: branch for branch in tree.itervalues()}
        for name, entries in contents.items():
            ends = [len(entries) * i // baskets for i in range(baskets + 1)]
            places = [append_basket(raw, branch_of[name], entries[a:b]) for a, b in itertools.pairwise(ends)]
            enter_baskets(content, branch_of[name], places, ends)
        replace(content, ">qqq", ("fEntries", "fTotBytes", "fZipBytes"), tree, fEntries=len(events))
        append_tree(raw, key, content)
    path.write_bytes(raw)
    return path


def append_basket(raw: bytearray, branch: Any, entries: Sequence[bytes]) -> tuple[int, int]:
    """Append a basket of `entries` at the end of the file; return where, and its bytes."""
    basket = branch.basket(0)
    length = basket.member("fKeylen")
    seek = len(raw)
    head = bytearray(raw[int(branch.member("fBasketSeek")[0]) :][:length])
    content = b"".join(entries)
    if basket.byte_offsets is not None:
        offsets = np.cumsum([length, *map(len, entries)])
        offsets[-1] = 0
        content += struct.pack(f">{len(offsets) + 1}i", len(offsets), *offsets)
    size = length + len(content)
    struct.pack_into(">i", head, 0, size)
    struct.pack_into(">i", head, 6, len(content))  # fObjlen: as long as stored, so not compressed
    struct.pack_into(">i", head, 18, seek)
    last = length + sum(map(len, entries))
    # the end of the head: fVersion, fBufferSize, fNevBufSize, fNevBuf, fLast, a flag
    struct.pack_into(">iiii", head, length - 17, 32000, basket.member("fNevBufSize"), len(entries), last)
    raw += head + content
    return seek, size


def enter_baskets(content: bytearray, branch: Any, places: Sequence[tuple[int, int]], ends: Sequence[int]) -> None:
    """Enter baskets (place, bytes) in the tree as the only ones of their branch; entries go from end to end."""
    n, most = len(places), branch.member("fMaxBaskets")
    at = content.index(struct.pack(">q", int(branch.member("fBasketSeek")[0])))
    # Three arrays, each after a flag: fBasketBytes, fBasketEntry, fBasketSeek.
    struct.pack_into(f">{n}q", content, at, *(seek for seek, _ in places))
    struct.pack_into(f">{n + 1}q", content, at - 1 - 8 * most, *ends)
    struct.pack_into(f">{n}i", content, at - 1 - 8 * most - 1 - 4 * most, *(size for _, size in places))
    names = ("fMaxBaskets", "fSplitLevel", "fEntries", "fFirstEntry", "fTotBytes", "fZipBytes")
    total = ends[-1] and sum(size for _, size in places)
    replace(content, ">Iiqqqq", names, branch, before=at, fEntries=ends[-1], fTotBytes=total, fZipBytes=total)
    names = ("fBasketSize", "fEntryOffsetLen", "fWriteBasket", "fEntryNumber")
    replace(content, ">iiiq", names, branch, before=at, fWriteBasket=n, fEntryNumber=ends[-1])


def replace(
    content: bytearray, form: str, names: Sequence[str], model: Any, before: int | None = None, **values: int
) -> None:
    """Replace neighbouring members of `model`, found by their values, the last before `before`."""
    at = content.rindex(struct.pack(form, *(int(model.member(name)) for name in names)), 0, before)
    struct.pack_into(form, content, at, *(values.get(name, int(model.member(name))) for name in names))


def append_tree(raw: bytearray, key: Any, content: bytes) -> None:
    """Append the tree, uncompressed, and enter its place in the list of keys."""
    seek = len(raw)
    head = bytearray(raw[key.fSeekKey :][: key.fKeylen])
    entry = raw.rindex(head[:26], 0, seek)  # in the list of keys
    for place, at in ((head, 0), (raw, entry)):
        struct.pack_into(">i", place, at, key.fKeylen + len(content))
        struct.pack_into(">i", place, at + 6, len(content))
        struct.pack_into(">i", place, at + 18, seek)
    raw += head + content
    end, free = struct.unpack_from(">ii", raw, 12)
    free_from = raw.index(struct.pack(">i", end), free)
    for place in (12, free_from):
        struct.pack_into(">i", raw, place, len(raw))


def add_record(path: Path, records: Sequence[Sequence[tuple[int, int, tuple[float, ...]]]], vertices_m: Any) -> Path:
    """Add GENIE's record: for each entry (pdg, status, four-momentum in GeV) of its particles, and its vertex in m."""
    longest = max(map(len, records))
    pdg, status = np.zeros((2, len(records), longest), dtype=np.int32)
    momentum = np.zeros((len(records), longest, 4))
    for i, particles in enumerate(records):
        for j, (code, state, four) in enumerate(particles):
            pdg[i, j], status[i, j], momentum[i, j] = code, state, four
    columns = {
        "StdHepN": np.array(list(map(len, records)), dtype=np.int32),
        "StdHepPdg": pdg,
        "StdHepStatus": status,
        "StdHepP4": momentum,
        "EvtVtx": np.concatenate([np.asarray(vertices_m, dtype=np.float64), np.zeros((len(records), 1))], axis=1),
    }
    with uproot.update(path) as file:
        types = {name: (values.dtype, values.shape[1:]) for name, values in columns.items()}
        file.mktree("DetSimPassThru/gRooTracker", types).extend(columns)
    return path
