"""An edep-sim file of simulated neutrinos with GENIE's record, and changes of its meaning."""

import dataclasses
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from edepsim_file import FileEvent, HitList, Particle, Vertex, add_record, write_edepsim
from made_events import MadeEvent
from mutations import Mutation

FACTORS = (10.0, 0.1, 1000.0, 1e-3, -1.0)
HALF_MM = {"x": 1000.0, "y": 1000.0, "z": 3500.0}
NAMES = {1: "QES", 2: "MEC", 3: "RES", 4: "DIS", 5: "COH"}
Change = Callable[["Content"], Any]


@dataclass
class Content:
    """What the file holds."""

    events: list[FileEvent]
    record: list[list[tuple[int, int, tuple[float, ...]]]] | None
    """Of each vertex: PDG code, status and momentum (GeV) of its particles."""
    vertices_m: list[np.ndarray] = field(default_factory=list)

    @property
    def hits(self) -> list[HitList]:
        return [hits for event in self.events for hits in event.detectors.values()]

    @property
    def vertices(self) -> list[Vertex]:
        return [vertex for event in self.events for vertex in event.vertices]

    @property
    def particles(self) -> list[Particle]:
        return [particle for vertex in self.vertices for particle in vertex.particles]


def content(events: list[MadeEvent]) -> Content:
    """Spills of two neutrinos; the track ids of their primaries count through the spill."""
    found, record = [], []
    for spill in range(len(events) // 2):
        pair = events[2 * spill : 2 * spill + 2]
        first = (0, len(pair[0].state.particles))
        parts = []
        vertices = []
        for k, made in enumerate(pair):
            parts.append((made.start, made.end, made.energy, made.primary + first[k]))
            state = made.state
            code = f"nu:{state.nu_pdg};tgt:1000180400;N:2112;proc:Weak[{'CC' if state.is_cc else 'NC'}]"
            particles = [
                Particle(first[k] + i, p.pdg, (p.px, p.py, p.pz, p.energy)) for i, p in enumerate(state.particles)
            ]
            mode = NAMES.get(state.mode, "Unknown")
            vertices.append(Vertex(tuple(made.vertex), f"{code},{mode};", particles, 2 * spill + k))
            beam = (0.0, 0.0, state.nu_energy, state.nu_energy)
            record.append(
                [(state.nu_pdg, 0, beam)]
                + [(p.pdg, 1, (p.px / 1e3, p.py / 1e3, p.pz / 1e3, p.energy / 1e3)) for p in state.particles]
            )
        start, stop, energy, primary = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        hits = HitList(start, stop, energy, primary, [[1]] * len(energy))
        parents = {particle.track: -1 for vertex in vertices for particle in vertex.particles}
        found.append(FileEvent(300 + spill, {"volTPCActive": hits}, vertices, 5, parents))
    return Content(found, record, [made.vertex / 1000 for made in events])


def write(path: Path, changed: Content) -> Path:
    write_edepsim(path, changed.events)
    if changed.record is not None:
        add_record(path, changed.record, np.array(changed.vertices_m))
    return path


def mutations() -> list[Mutation]:
    return [*_axes(), *_scales(), *_shifts(), *_ids(), *_record(), *_structure(), *_values()]


def _on_hits(change: Callable[[np.ndarray], np.ndarray], which: tuple[str, ...] = ("start", "stop")) -> Change:
    def apply(changed: Content) -> None:
        for hits in changed.hits:
            for name in which:
                setattr(hits, name, change(getattr(hits, name)))

    return apply


def _on_vertices(change: Callable[[np.ndarray], np.ndarray]) -> Change:
    def apply(changed: Content) -> None:
        for vertex in changed.vertices:
            vertex.position = tuple(change(np.array(vertex.position)[None])[0])

    return apply


def _on_record_vertices(change: Callable[[np.ndarray], np.ndarray]) -> Change:
    def apply(changed: Content) -> None:
        changed.vertices_m = [change(1000 * at[None])[0] / 1000 for at in changed.vertices_m]

    return apply


def _on_primaries(change: Callable[[np.ndarray], np.ndarray]) -> Change:
    def apply(changed: Content) -> None:
        for particle in changed.particles:
            momentum = np.array(particle.momentum)
            momentum[:3] = change(momentum[None, :3])[0]
            particle.momentum = tuple(momentum)

    return apply


def _on_record_momenta(change: Callable[[np.ndarray], np.ndarray]) -> Change:
    def apply(changed: Content) -> None:
        assert changed.record is not None
        changed.record = [
            [(pdg, status, (*change(np.array(four[:3])[None])[0], four[3])) for pdg, status, four in particles]
            for particles in changed.record
        ]

    return apply


PARTS = {
    "hits": _on_hits,
    "vertices": _on_vertices,
    "record's vertices": _on_record_vertices,
    "primaries": _on_primaries,
    "record's momenta": _on_record_momenta,
}
GROUPS = {
    "hits": ("hits",),
    "vertices": ("vertices",),
    "all places": ("hits", "vertices", "record's vertices"),
    "all momenta": ("primaries", "record's momenta"),
    "everything": tuple(PARTS),
}


def _both(parts: tuple[str, ...], change: Callable[[np.ndarray], np.ndarray]) -> Change:
    def apply(changed: Content) -> None:
        for part in parts:
            PARTS[part](change)(changed)

    return apply


def _axes() -> list[Mutation]:
    found = []
    signs_of = ((1, 1, 1), (-1, 1, 1), (1, -1, 1), (1, 1, -1))
    for order, signs in itertools.product(itertools.permutations(range(3)), signs_of):
        if order == (0, 1, 2) and min(signs) > 0:
            continue
        name = ",".join(("-" if s < 0 else "") + "xyz"[i] for i, s in zip(order, signs, strict=True))
        for group, parts in GROUPS.items():

            def turn(places: np.ndarray, order=order, signs=signs) -> np.ndarray:
                return np.array(signs) * places[:, list(order)]

            along = order[2] == 2 and signs[2] > 0
            reason = "a mirrored or turned file, all of whose parts agree" if group == "everything" and along else ""
            found.append(Mutation(f"{group} as {name}", _both(parts, turn), reason))
    return found


def _energies(changed: Content, factor: float) -> None:
    for hits in changed.hits:
        hits.energy = hits.energy * factor


def _primary_momenta(changed: Content, factor: float) -> None:
    for particle in changed.particles:
        particle.momentum = tuple(factor * p for p in particle.momentum)


def _record_momenta(changed: Content, factor: float) -> None:
    assert changed.record is not None
    changed.record = [[(a, b, tuple(factor * p for p in four)) for a, b, four in rows] for rows in changed.record]


def _neutrino_energy(changed: Content, factor: float) -> None:
    assert changed.record is not None
    for rows in changed.record:
        pdg, status, four = rows[0]
        rows[0] = pdg, status, tuple(factor * p for p in four)


def _scales() -> list[Mutation]:
    found = []
    of_energies: dict[str, Callable[[Content, float], None]] = {
        "hit energies": _energies,
        "primaries' momenta": _primary_momenta,
        "record's momenta": _record_momenta,
        "record's neutrino": _neutrino_energy,
    }
    for (name, change), factor in itertools.product(of_energies.items(), FACTORS):

        def scale(changed: Content, change=change, factor=factor) -> None:
            change(changed, factor)

        found.append(Mutation(f"{name} x {factor:g}", scale))
    for factor in FACTORS:

        def energies(changed: Content, factor=factor) -> None:
            for change in (_energies, _primary_momenta, _record_momenta):
                change(changed, factor)

        found.append(Mutation(f"all energies x {factor:g}", energies))
        for group, parts in list(GROUPS.items())[:3]:
            found.append(Mutation(f"{group} x {factor:g}", _both(parts, lambda at, f=factor: f * at)))
        for axis, group in itertools.product(range(3), ("hits", "vertices", "all places")):
            factors = np.where(np.arange(3) == axis, factor, 1.0)
            change_axis = _both(GROUPS[group], lambda at, f=factors: f * at)
            found.append(Mutation(f"{'xyz'[axis]} of {group} x {factor:g}", change_axis))
        for which in ("start", "stop"):
            found.append(Mutation(f"{which} of hits x {factor:g}", _on_hits(lambda at, f=factor: f * at, (which,))))
    return found


def _shifts() -> list[Mutation]:
    found = []
    for axis, sign in itertools.product(range(3), (1, -1)):
        by = np.zeros(3)
        by[axis] = sign * HALF_MM["xyz"[axis]]
        for group, parts in list(GROUPS.items())[:3]:
            found.append(Mutation(f"{group} shifted by {by.tolist()} mm", _both(parts, lambda at, by=by: at + by)))
        for which in ("start", "stop"):
            shift = _on_hits(lambda at, by=by: at + by, (which,))
            found.append(Mutation(f"{which} of hits shifted by {by.tolist()} mm", shift))
    return found


def _ids() -> list[Mutation]:
    found = []
    for name, change in {
        "event numbers + 7": lambda n, i: n + 7,
        "event numbers negative": lambda n, i: -n - 1,
        "event numbers all 0": lambda n, i: 0,
        "event numbers repeat": lambda n, i: i % 4,
        "event numbers in pairs": lambda n, i: i // 2,
        "event numbers backwards": lambda n, i: 1000 - n,
    }.items():

        def events(changed: Content, change=change) -> None:
            for i, event in enumerate(changed.events):
                event.event = change(event.event, i)

        found.append(Mutation(name, events))
    numberings: dict[str, Callable[[int], int]] = {
        "+ 1": lambda n: n + 1,
        "+ 100": lambda n: n + 100,
        "x 2": lambda n: 2 * n,
        "negated": lambda n: -n,
        "all 0": lambda n: 0,
        "all -1": lambda n: -1,
        "3 - n": lambda n: 3 - n,
    }
    for (name, change), what in itertools.product(numberings.items(), ("hits", "primaries", "tracks", "hits, tracks")):

        def tracks(changed: Content, change=change, what=what) -> None:
            for event in changed.events:
                for hits in event.detectors.values():
                    if "hits" in what:
                        hits.primary = np.array([change(n) for n in hits.primary.tolist()])
                if "tracks" in what:
                    event.parents = {change(n): parent for n, parent in event.parents.items()}
                for vertex in event.vertices:
                    for particle in vertex.particles:
                        if what == "primaries":
                            particle.track = change(particle.track)

        found.append(Mutation(f"track ids of {what} {name}", tracks))

    def exchanged_vertices(changed: Content) -> None:
        for event in changed.events:
            first, second = event.vertices
            first.particles, second.particles = second.particles, first.particles

    def exchanged_positions(changed: Content) -> None:
        for event in changed.events:
            first, second = event.vertices
            first.position, second.position = second.position, first.position

    def exchanged_reactions(changed: Content) -> None:
        vertices = changed.vertices
        reactions = [vertex.reaction for vertex in vertices]
        for vertex, reaction in zip(vertices, reactions[1:] + reactions[:1], strict=True):
            vertex.reaction = reaction

    def exchanged_hits(changed: Content) -> None:
        detectors = [event.detectors for event in changed.events]
        for event, other in zip(changed.events, detectors[1:] + detectors[:1], strict=True):
            event.detectors = other

    def vertices_in_reverse(changed: Content) -> None:
        for event in changed.events:
            event.vertices.reverse()

    found += [
        Mutation("particles of the vertices exchanged", exchanged_vertices),
        Mutation("positions of the vertices exchanged", exchanged_positions),
        Mutation("reactions of other vertices", exchanged_reactions),
        Mutation("hits of another event", exchanged_hits),
        Mutation("vertices in reverse order", vertices_in_reverse),
    ]
    for name, change_number in {"+ 1": lambda n: n + 1, "all 0": lambda n: 0, "reversed": lambda n: 15 - n}.items():

        def interaction(changed: Content, change_number=change_number) -> None:
            for vertex in changed.vertices:
                vertex.interaction = change_number(vertex.interaction)

        found.append(Mutation(f"InteractionNumber {name}", interaction))
    return found


def _record() -> list[Mutation]:
    def drop(changed: Content) -> None:
        changed.record = None

    def cut(changed: Content) -> None:
        assert changed.record is not None
        changed.record = changed.record[:-3]
        changed.vertices_m = changed.vertices_m[:-3]

    def rolled(changed: Content) -> None:
        assert changed.record is not None
        changed.record = changed.record[1:] + changed.record[:1]
        changed.vertices_m = changed.vertices_m[1:] + changed.vertices_m[:1]

    def rolled_particles(changed: Content) -> None:
        assert changed.record is not None
        changed.record = changed.record[1:] + changed.record[:1]

    def initial(changed: Content) -> None:
        assert changed.record is not None
        changed.record = [[(pdg, 0, four) for pdg, _, four in rows] for rows in changed.record]

    def final(changed: Content) -> None:
        assert changed.record is not None
        changed.record = [[(pdg, 1, four) for pdg, _, four in rows] for rows in changed.record]

    def antineutrino(changed: Content) -> None:
        assert changed.record is not None
        changed.record = [[(-rows[0][0], *rows[0][1:]), *rows[1:]] for rows in changed.record]

    def without_neutrino(changed: Content) -> None:
        assert changed.record is not None
        changed.record = [rows[1:] for rows in changed.record]

    def slow(changed: Content) -> None:
        assert changed.record is not None
        changed.record = [[*rows[:1], *rows[2:]] for rows in changed.record]

    changes: dict[str, Change] = {
        "dropped": drop,
        "cut": cut,
        "one entry further": rolled,
        "particles of the next entry": rolled_particles,
        "all particles initial": initial,
        "all particles final": final,
        "antineutrinos": antineutrino,
        "without the neutrino": without_neutrino,
        "without the first final particle": slow,
    }
    return [Mutation(f"record: {name}", change) for name, change in changes.items()]


def _structure() -> list[Mutation]:
    found = []

    def rounded(reason: str, change: Change, name: str) -> None:
        found.append(Mutation(name, change, reason))

    def merged(changed: Content) -> Content:
        record = changed.record
        assert record is not None
        return Content(changed.events * 2, record * 2, changed.vertices_m * 2)

    def first_again(changed: Content) -> None:
        changed.events.append(changed.events[0])

    def cut(changed: Content) -> None:
        changed.events = changed.events[:-2]

    def backwards(changed: Content) -> None:
        changed.events.reverse()

    def without_hits(changed: Content) -> None:
        changed.events[0].detectors = {}

    def without_vertices(changed: Content) -> None:
        for event in changed.events:
            event.vertices = []

    def without_some_vertices(changed: Content) -> None:
        changed.events[0].vertices = []

    def hits_backwards(changed: Content) -> None:
        for hits in changed.hits:
            for name in ("start", "stop", "energy", "primary"):
                setattr(hits, name, getattr(hits, name)[::-1].copy())

    def hits_shuffled(changed: Content) -> None:
        rng = np.random.default_rng(1)
        for hits in changed.hits:
            order = rng.permutation(len(hits.energy))
            for name in ("start", "stop", "energy", "primary"):
                setattr(hits, name, getattr(hits, name)[order])

    def ends_exchanged(changed: Content) -> None:
        for hits in changed.hits:
            hits.start, hits.stop = hits.stop, hits.start

    def two_detectors(changed: Content) -> None:
        for event in changed.events:
            (hits,) = event.detectors.values()
            half = len(hits.energy) // 2
            event.detectors = {
                name: HitList(*(getattr(hits, f.name)[part] for f in dataclasses.fields(hits)))
                for name, part in (("volA", slice(half)), ("volB", slice(half, None)))
            }

    changes: dict[str, Change] = {
        "the file merged with itself": merged,
        "the first event again at the end": first_again,
        "the last two events cut": cut,
        "events backwards": backwards,
        "no hits in one event": without_hits,
        "no vertices": without_vertices,
        "no vertices in one event": without_some_vertices,
        "hits backwards": hits_backwards,
        "hits in any order": hits_shuffled,
        "start and stop exchanged": ends_exchanged,
        "hits in two detectors": two_detectors,
    }
    found += [Mutation(name, change) for name, change in changes.items()]
    return found


def _values() -> list[Mutation]:
    found = []
    for name, value in itertools.product(("start", "stop", "energy"), (np.nan, np.inf, 0.0, -1.0)):

        def spoil(changed: Content, name=name, value=value) -> None:
            for hits in changed.hits:
                values = np.array(getattr(hits, name))
                values[::3] = value
                setattr(hits, name, values)

        def spoil_all(changed: Content, name=name, value=value) -> None:
            for hits in changed.hits:
                setattr(hits, name, np.full_like(getattr(hits, name), value))

        found += [
            Mutation(f"{name} of every third hit {value}", spoil),
            Mutation(f"{name} of all hits {value}", spoil_all),
        ]
    reactions = {
        "empty": "",
        "of another generator": "1",
        "with antineutrinos": "nu:-14;tgt:1000180400;proc:Weak[CC],QES;",
        "tau neutrinos": "nu:16;tgt:1000180400;proc:Weak[CC],QES;",
        "all nu_e CC": "nu:12;tgt:1000180400;proc:Weak[CC],QES;",
        "all nu_mu CC": "nu:14;tgt:1000180400;proc:Weak[CC],QES;",
        "all nu_mu NC": "nu:14;tgt:1000180400;proc:Weak[NC],QES;",
        "an electron": "nu:11;tgt:1000180400;proc:Weak[CC],QES;",
    }
    for name, text in reactions.items():

        def react(changed: Content, text=text) -> None:
            for vertex in changed.vertices:
                vertex.reaction = text

        found.append(Mutation(f"reactions {name}", react))

    def inverted(changed: Content) -> None:
        for vertex in changed.vertices:
            current = {"CC": "NC", "NC": "CC"}
            for old, new in current.items():
                if f"[{old}]" in vertex.reaction:
                    vertex.reaction = vertex.reaction.replace(f"[{old}]", f"[{new}]")
                    break

    found.append(Mutation("currents inverted", inverted))
    for pdg in (13, 22, -13, 2112):

        def species(changed: Content, pdg=pdg) -> None:
            for particle in changed.particles:
                particle.pdg = pdg

        found.append(Mutation(f"all primaries are {pdg}", species))
    return found
