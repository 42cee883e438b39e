"""Which vertex of an edep-sim event each hit descends from.

A hit names its primary particle by track id, and a vertex the ids of its primary particles. If edep-sim does not save
all trajectories, it may number trajectories and hits anew, but not the primaries: then the same number means different
particles. Charge tells, which begins at its vertex; trajectories with the PDG code and momentum of a primary tell more.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nuvlm.sources.consistency import EXACT_MM, NEAR_MM, distance_mm
from nuvlm.sources.memberwise import Hits, Particles

SAME_MOMENTUM = 1e-3
"""Relative difference of the momenta of one particle in two tables."""
Owners = dict[int, int]
"""Track -> vertex."""


@dataclass(frozen=True)
class Tracks:
    """The trajectories of an event."""

    number: np.ndarray
    """(tracks,); likewise the number of the parent, negative for primaries."""
    parent: np.ndarray
    pdg: np.ndarray | None = None
    """(tracks,), if the file has it."""
    momentum_mev: np.ndarray | None = None
    """(tracks, 3), at the start."""

    @classmethod
    def none(cls) -> "Tracks":
        return cls(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))

    def described(self, pdg: np.ndarray, momentum_mev: np.ndarray) -> "Tracks":
        """With PDG codes and momenta, unless they are not those of all tracks."""
        if len(pdg) != len(self.number) or momentum_mev.shape != (len(self.number), 3):
            return self
        return replace(self, pdg=pdg, momentum_mev=momentum_mev)


@dataclass(frozen=True)
class Ancestry:
    """The primary particles of each vertex of an event, and its trajectories."""

    particles: Sequence[Particles]
    tracks: Tracks
    renumbered: list[str]
    """Gets an entry where track ids are no help."""

    def vertex_of_each_hit(
        self, hits: Hits, vertices_mm: Sequence[tuple[float, float, float]]
    ) -> tuple[np.ndarray, str | None]:
        """(hits,): the vertex that each hit descends from, -1 for none; and the defect of the event, if any."""
        if len(vertices_mm) <= 1:
            return np.zeros(len(hits.energy_mev), dtype=np.int64), None
        tracks, inverse = np.unique(hits.primary_id, return_inverse=True)
        parent = dict(zip(self.tracks.number.tolist(), self.tracks.parent.tolist(), strict=True))
        distance = np.array(
            [
                [distance_mm(np.array(vertex), hits.start_mm[mine], hits.stop_mm[mine]) for vertex in vertices_mm]
                for mine in (inverse == i for i in range(len(tracks)))
            ]
        ).reshape(len(tracks), len(vertices_mm))
        by_id = None
        for how, owners in self._numberings(tracks, distance):
            owner = np.array([_above(track, owners, parent) for track in tracks.tolist()], dtype=np.int64)
            by_id = owner if by_id is None else by_id
            if not contradicts(owner, distance) and (how == "track id" or (owner >= 0).all()):
                if how != "track id":
                    self.renumbered.append(how)
                break
        else:
            assert by_id is not None
            wrong = tracks[np.flatnonzero(contradictions(by_id, distance))[0]]
            at, of = int(distance[tracks == wrong][0].argmin()), int(by_id[tracks == wrong][0])
            return by_id[inverse], (
                f"has hits of track {wrong} that touch vertex {at}, but belong to vertex {of} by their track id: "
                "primaries and hits are numbered differently"
            )
        owner = owner[inverse]
        lost = hits.energy_mev[owner < 0]
        return owner, f"has {lost.sum():.3g} MeV that descend from no vertex" if lost.any() else None

    def _numberings(self, tracks: np.ndarray, distance: np.ndarray) -> Iterator[tuple[str, Owners]]:
        """Yield ways to say which tracks are the primaries of which vertex, the likely first."""
        primaries = [
            (vertex, number, pdg, momentum[:3])
            for vertex, part in enumerate(self.particles)
            for number, pdg, momentum in zip(part.track_id.tolist(), part.pdg.tolist(), part.momentum_mev, strict=True)
        ]
        yield "track id", {number: vertex for vertex, number, _, _ in primaries if number >= 0}
        roots = np.flatnonzero(self.tracks.parent < 0)
        if self.tracks.pdg is not None and self.tracks.momentum_mev is not None:
            owners: Owners = {}
            for root in roots.tolist():
                momentum = self.tracks.momentum_mev[root]
                same = {
                    vertex
                    for vertex, _, pdg, other in primaries
                    if pdg == self.tracks.pdg[root]
                    and np.linalg.norm(other - momentum) <= SAME_MOMENTUM * np.linalg.norm(momentum) + 1e-6
                }
                if len(same) == 1:
                    owners[int(self.tracks.number[root])] = same.pop()
            yield "PDG code and momentum", owners
        numbers = np.sort(self.tracks.number[roots]) if len(roots) else tracks
        tracked = sorted((number, vertex) for vertex, number, _, _ in primaries if number >= 0)
        if len(numbers) == len(tracked):
            pairs = zip(numbers.tolist(), tracked, strict=True)
            yield "the order of the tracks", {number: vertex for number, (_, vertex) in pairs}
        touches = distance.min(axis=1) <= EXACT_MM
        yield (
            "the vertex that they touch",
            dict(zip(tracks[touches].tolist(), distance.argmin(axis=1)[touches].tolist(), strict=True)),
        )


def contradictions(owner: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """(tracks,): whether charge is far from the vertex that it is said to come from, and touches another one."""
    own = distance[np.arange(len(owner)), np.maximum(owner, 0)]
    return (distance.min(axis=1) <= EXACT_MM) & ((own > NEAR_MM) | (owner < 0))


def contradicts(owner: np.ndarray, distance: np.ndarray) -> bool:
    return bool(contradictions(owner, distance).any())


def _above(track: int, owners: Owners, parent: dict[int, int]) -> int:
    for _ in range(len(parent) + 1):  # ends even if the list of parents is circular
        if track in owners:
            return owners[track]
        track = parent.get(track, -1)
    return -1
