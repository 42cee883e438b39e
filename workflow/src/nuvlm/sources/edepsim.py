"""Reader of edep-sim ROOT files (tree ``EDepSimEvents``) with uproot: no ROOT installation.

Lengths in these files are in mm and energies in MeV; GENIE's record in the same file (``DetSimPassThru/gRooTracker``)
has m and GeV. One neutrino, that is one primary vertex, is one event. An event of the file may hold several.
"""

import logging
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import uproot

from nuvlm.base.errors import InputError
from nuvlm.sources.ancestry import Ancestry, Tracks
from nuvlm.sources.edepsim_truth import GenieRecord, reaction_truth
from nuvlm.sources.interactions import Interaction, Numbers, Truth, event_ids, passes
from nuvlm.sources.memberwise import LAYOUTS, Hits, LayoutError, decode_hits, decode_particles
from nuvlm.sources.recognition import of_another_kind
from nuvlm.sources.rootfile import class_members, find_tree, open_root, read_branch
from nuvlm.sources.shard_writer import VoxelShardWriter

logger = logging.getLogger(__name__)

TREE = "EDepSimEvents"
BRANCHES = (
    "RunId",
    "EventId",
    "Primaries.Position",
    "Primaries.Reaction",
    "Primaries.InteractionNumber",
    "Primaries.Particles",
    "Trajectories.TrackId",
    "Trajectories.ParentId",
    "SegmentDetectors.first",
    "SegmentDetectors.second",
)
DESCRIPTION = ("Trajectories.PDGCode", "Trajectories.InitialMomentum")
"""Branches that some files lack or leave empty."""
STEP_BYTES = 32e6  # of hits, read at a time
RUN = 10**6  # events a run, as 2x2_sim numbers them


def convert_edepsim(path: Path, out: VoxelShardWriter) -> None:
    """Write the events of an edep-sim file to a voxel shard.

    The hits of all sensitive detectors are used. The event number is ``EventId``, or run x 10^6 + event if these repeat
    or are negative, as in 2x2_sim; with the vertex number, :func:`nuvlm.sources.interactions.event_ids` makes the id.
    In merged files whose numbers repeat it is the place; the table /truth/numbers has the numbers of the file.
    Memory holds some events at a time, whatever the length of the file.

    Raises:
        InputError: the file cannot be read or is not of this kind; inconsistent truth; an event cannot be used, or
            none can.
    """
    with open_root(path) as file:
        events = _Events(path, file)
        record = GenieRecord.find(path, file)
        if record:
            record.match(events.interaction, events.position_mm, bool((events.n_vertices == 1).all()))
        keys = events.keys()
        interactions = _interactions(events, record, keys, event_ids(path, keys, out.conclude), out)
        out.write(path, events.account(interactions, out), len(keys))
        for name, energy in events.detector_mev.items():
            logger.info("%s: %.1f MeV in sensitive detector %s", path, energy, name)


def _interactions(
    events: "_Events",
    record: GenieRecord | None,
    keys: list[tuple[int, int, int]],
    ids: list[int],
    out: VoxelShardWriter,
) -> Iterator[Interaction]:
    order = list(out.order)
    n_done, n_vertices = 0, 0  # interactions, vertices
    for block in events.blocks():
        if record:
            record.read(n_vertices, n_vertices + sum(len(entry.vertices) for entry in block))
        for entry in block:
            owner, defect = entry.ancestry.vertex_of_each_hit(entry.hits, [truth.vertex_mm for truth in entry.vertices])
            for vertex in range(max(len(entry.vertices), 1)):
                name, truth = f"event {entry.event}", Truth()
                if entry.vertices:
                    name += f", vertex {vertex}" if len(entry.vertices) > 1 else ""
                    truth = entry.vertices[vertex]
                    truth = record.complete(truth, n_vertices, name) if record else truth
                    n_vertices += 1
                selected, hits = owner == vertex, entry.hits
                start, stop = (mm[selected][:, order] for mm in (hits.start_mm, hits.stop_mm))
                truth = truth.permuted(out.order) if out.axes else truth
                numbers = Numbers(entry.event, vertex, entry.run, keys[n_done][2])
                yield Interaction(ids[n_done], start, stop, hits.energy_mev[selected], name, truth, defect, numbers)
                n_done += 1


@dataclass(frozen=True)
class _Entry:
    """One event of the file."""

    event: int
    run: int
    hits: Hits
    vertices: list[Truth]
    ancestry: Ancestry


class _Events:
    """The tree of events, read a block of entries at a time.

    Attributes:
        interaction: (vertices,), InteractionNumber of all vertices of the file.
        position_mm: (vertices, 3).
        n_vertices: (entries,).
        detector_mev: energy in each sensitive detector, summed over the entries read so far.
        renumbered: how hits were given to vertices in entries whose track ids are no help.
    """

    def __init__(self, path: Path, file: Any) -> None:
        self._path = path
        tree = find_tree(path, file, TREE)
        if tree is None:
            found = ", ".join(file.keys(cycle=False)) or "nothing"
            raise InputError(
                f"{path}: there is no tree {TREE} (found: {found}). Is this an edep-sim file?{of_another_kind(path)}"
            )
        names = {branch.name.removeprefix("Event."): branch for branch in tree.itervalues()}
        missing = [name for name in BRANCHES if name not in names]
        if missing:
            raise InputError(
                f"{path}: tree {TREE} has no branch {', '.join(missing)}. Was it written by edep-sim, and split?"
            )
        for name, members in LAYOUTS.items():
            described = class_members(path, file, name)
            if described != members:
                raise InputError(
                    f"{path}: tree {TREE}: {name} has members {', '.join(described) or 'unknown'}, not "
                    f"{', '.join(members)}. This version of edep-sim is not supported."
                )
        self._branches = {name: names[name] for name in BRANCHES}
        self._optional = {name: names[name] for name in DESCRIPTION if name in names}
        self._n_entries = tree.num_entries
        if not self._n_entries:
            raise InputError(f"{path}: tree {TREE} is empty. Remove the file from input.files.")
        interaction = self._read("Primaries.InteractionNumber", 0, self._n_entries, "ak")
        self.n_vertices = np.asarray(ak.to_numpy(ak.num(interaction, axis=1)))
        self.interaction = np.asarray(ak.to_numpy(ak.flatten(interaction)))
        position = ak.flatten(self._read("Primaries.Position", 0, self._n_entries, "ak"))
        self.position_mm = np.stack([ak.to_numpy(position["fP", f"f{axis}"]) for axis in "XYZ"], axis=1)
        self.detector_mev: dict[str, float] = defaultdict(float)
        self.renumbered: list[str] = []
        self._run, self._event = (
            self._read(name, 0, self._n_entries, "np").astype(np.int64) for name in ("RunId", "EventId")
        )

    def keys(self) -> list[tuple[int, int, int]]:
        """Number of the event, of the vertex and of the merged file of each neutrino.

        An event without a vertex counts as one neutrino.
        """
        number = self._event
        if (number < 0).any() or len(np.unique(number)) < len(number):
            number = (self._run * RUN + number).astype(np.uint64)  # negative ones wrap, as in the files of 2x2_sim
        starts = passes(number.tolist())
        file = np.searchsorted(starts[1:], np.arange(len(number)), side="right")
        return [
            (event, vertex, place)
            for event, n, place in zip(number.tolist(), self.n_vertices.tolist(), file.tolist(), strict=True)
            for vertex in range(max(n, 1))
        ]

    def account(self, interactions: Iterator[Interaction], out: VoxelShardWriter) -> Iterator[Interaction]:
        """Yield `interactions`, then record whose hits were given to vertices in another way than by track ids."""
        yield from interactions
        if self.renumbered:
            out.conclude(self._path, "track ids", f"hits given to vertices by {self.renumbered[0]} in "
                         f"{len(self.renumbered)} events", "primaries and hits are numbered differently: by their "
                         "numbers, charge would not touch its vertex", doubt=True)  # fmt: skip

    def blocks(self) -> Iterator[list[_Entry]]:
        """Yield the entries of the file in blocks.

        Raises:
            InputError: the bytes cannot be read, or do not have the layout of edep-sim.
        """
        hits = self._branches["SegmentDetectors.second"]
        step = STEP_BYTES * self._n_entries / max(hits.uncompressed_bytes, 1)  # entries
        first = 0
        for stop in hits.entry_offsets[1:]:  # ends of baskets, so that none is read twice
            if stop - first >= step or stop == self._n_entries:
                yield self._block(first, stop)
                first = stop

    def _block(self, first: int, stop: int) -> list[_Entry]:
        names, reactions = (
            self._read(name, first, stop, "np") for name in ("SegmentDetectors.first", "Primaries.Reaction")
        )
        hits, primaries = (
            self._bytes(name, first, stop) for name in ("SegmentDetectors.second", "Primaries.Particles")
        )
        tracks = [Tracks.none()] * (stop - first)
        if (self.n_vertices[first:stop] > 1).any():
            tracks = self._tracks(first, stop)
        vertex = int(self.n_vertices[:first].sum())
        entries = []
        for i, event in enumerate(self._event[first:stop].tolist()):
            try:
                detectors, particles = decode_hits(hits[i]), decode_particles(primaries[i])
            except LayoutError as error:
                raise InputError(
                    f"{self._path}: tree {TREE}, event {event}: unexpected layout of hits or primaries "
                    f"({error}). The file is damaged, or its version of edep-sim is not supported."
                ) from error
            if len(detectors) != len(names[i]) or len(particles) != len(reactions[i]):
                raise InputError(
                    f"{self._path}: tree {TREE}, event {event}: {len(names[i])} sensitive detectors and "
                    f"{len(reactions[i])} vertices, but {len(detectors)} lists of hits and {len(particles)} of "
                    "particles. The file is damaged: copy or create it again."
                )
            for name, part in zip(names[i], detectors, strict=True):
                self.detector_mev[str(name)] += float(np.nansum(part.energy_mev))
            truths = [
                reaction_truth(str(reaction), self.position_mm[vertex + v], particles[v])
                for v, reaction in enumerate(reactions[i])
            ]
            vertex += len(truths)
            ancestry = Ancestry(particles, tracks[i], self.renumbered)
            entries.append(_Entry(event, int(self._run[first + i]), Hits.merged(detectors), truths, ancestry))
        return entries

    def _tracks(self, first: int, stop: int) -> list[Tracks]:
        """The trajectories of each entry."""
        number, parent = (self._read(f"Trajectories.{name}", first, stop, "np") for name in ("TrackId", "ParentId"))
        found = [Tracks(*map(np.asarray, pair)) for pair in zip(number, parent, strict=True)]
        if not set(DESCRIPTION) <= self._optional.keys():
            return found
        pdg = read_branch(self._path, self._optional[DESCRIPTION[0]], first, stop, "np")
        four = read_branch(self._path, self._optional[DESCRIPTION[1]], first, stop, "ak")
        if len(pdg) != len(found) or len(four) != len(found):
            return found
        momentum = ak.concatenate([four["fP", f"f{axis}"][..., None] for axis in "XYZ"], axis=-1)
        return [
            tracks.described(np.asarray(codes), np.asarray(momenta))
            for tracks, codes, momenta in zip(found, pdg, momentum, strict=True)
        ]

    def _bytes(self, name: str, first: int, stop: int) -> list[np.ndarray]:
        """The bytes of each entry of a branch that uproot cannot interpret."""
        raw = self._read(name, first, stop, "ak", uproot.AsJagged(uproot.AsDtype("u1")))
        content, ends = np.asarray(ak.to_numpy(ak.flatten(raw))), np.cumsum(ak.to_numpy(ak.num(raw, axis=1)))
        return np.split(content, ends[:-1])

    def _read(self, name: str, first: int, stop: int, library: str, interpretation: Any = None) -> Any:
        return read_branch(self._path, self._branches[name], first, stop, library, interpretation)
