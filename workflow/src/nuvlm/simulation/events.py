"""Simulated neutrino events: final state, transport in liquid argon with GEANT4, voxels."""

import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from nuvlm.base.conclusions import Conclusions
from nuvlm.base.errors import InputError, OnBadEvent
from nuvlm.base.logs import track
from nuvlm.detector.geometry import Detector, fiducial_box_mm
from nuvlm.detector.readout import Recombination
from nuvlm.detector.voxels import Event, Voxels, voxelize, write_shard
from nuvlm.simulation.cosmics import CosmicMuons, Cosmics, Steps
from nuvlm.simulation.counterfactuals import AS_SIMULATED, DTYPE, NAMES, Counterfactual, counterfactuals
from nuvlm.simulation.final_states import FinalState, Particle, sample_final_state
from nuvlm.simulation.generator_evidence import GeneratorEvidence, particle_rows
from nuvlm.simulation.genie import GenieEvent, read_genie

if TYPE_CHECKING:
    from nuvlm.simulation.transport import ArgonBox, Deposits

logger = logging.getLogger(__name__)

DEPOSIT_DTYPE = np.dtype(
    [
        ("event_id", "u8"),
        ("pdg", "i4"),
        ("length_mm", "f4"),
        ("energy_mev", "f4"),
        ("electromagnetic_mev", "f4"),
        ("photon_gap_mm", "f4"),
        ("leaves", "u1"),
    ]
)
"""Table /truth/deposits, with the rows of /truth/particles (docs/simulation.md): path of the particle itself in the
detector; energy deposited by it and its descendants, before recombination; the part of it from electrons, positrons and
photons; the gap from the vertex to the first photon conversion (NaN: none); whether the particle leaves."""
NO_RECOMBINATION = Recombination()
IDS = 10
"""Event ids for an event and its counterfactuals: the last digit is the index of the kind."""
COUNTERFACTUAL_SEED = 2**64
"""Added to the seed: beyond the seeds of runs."""
REDRAWS = 1000
"""Maximum number of draws for an interaction that leaves no energy in the detector."""
LEAST_MEV = 0.04
"""Energy in the detector; less counts as none, being less than twice the noise of a voxel (config/realistic.yaml). Of a
neutral current of which only neutrons or a photon of the nucleus come out, one Compton electron may be all."""

FiducialBox = tuple[np.ndarray, np.ndarray]
"""Low and high corner, (3,) each, mm."""


@dataclass(frozen=True)
class Interaction:
    """A neutrino interaction to be simulated."""

    event_id: int
    name: str
    """Name for messages."""
    rng: np.random.Generator
    draw: Callable[[], tuple[FinalState, np.ndarray]]
    """Draws final state and vertex (3,), mm."""
    draws: int = REDRAWS
    defect: str | None = None
    """Reason why it cannot be used; None if it can."""


def simulate_shard(
    path: str | Path,
    detector: Detector,
    *,
    first_event: int,
    n_events: int,
    seed: int,
    margin_mm: float = 0,
    margin_downstream_mm: float = 0,
    files: Sequence[str | Path] = (),
    vertices: Literal["fiducial", "file"] = "fiducial",
    offset_mm: tuple[float, float, float] = (0, 0, 0),
    on_bad_event: OnBadEvent = "error",
    recombination: Recombination = NO_RECOMBINATION,
    cosmics: Cosmics | None = None,
    only: Sequence[int] | None = None,
    with_counterfactuals: bool = False,
) -> None:
    """Simulate `n_events` neutrino events and write them to the voxel shard `path`, with their truth.

    Event ids run from `first_event`. An event depends only on `seed` and its id (and, with GENIE, on its entry), not on
    how events are divided into shards.

    Args:
        margin_mm: vertices are uniform in the fiducial volume: the active volume without `margin_downstream_mm` at the
            downstream end in z and `margin_mm` at the other walls.
        files: GENIE gRooTracker files: event i is entry i, counted through all files. If empty, interactions are
            sampled.
        vertices: `file` uses GENIE's vertices plus `offset_mm`, instead of the fiducial volume.
        on_bad_event: a GENIE entry that cannot be used stops the job (`error`) or is left out and counted (`skip`).
        recombination: turns the energy of each step into visible energy.
        with_counterfactuals: write each event with its counterfactuals, numbered from :data:`IDS` times its id. Their
            random numbers differ from those of a run without them: no model was trained on these events, if their final
            states are sampled.
        cosmics: muons of cosmic rays that are added; without them, the events are the same in all else.
        only: ids of the events to simulate, in rising order; None for all.

    Raises:
        InputError: incomplete GEANT4 data sets (see :func:`nuvlm.simulation.geant4_tables.provide_data`), GENIE files
            or events that cannot be used, or a shard that cannot be written.
    """
    fiducial = fiducial_box_mm(detector, margin_mm, margin_downstream_mm)
    seed += COUNTERFACTUAL_SEED * with_counterfactuals
    event_ids = range(first_event, first_event + n_events) if only is None else only
    conclusions = Conclusions()
    if files:
        offset, where = np.array(offset_mm, dtype=np.float64), None if vertices == "file" else fiducial
        evidence = GeneratorEvidence(detector, offset, uses_vertices=vertices == "file")
        entries = evidence.watch(read_genie(files, first_event, n_events), Path(files[0]), conclusions.add)
        chosen = frozenset(event_ids)
        interactions: Iterator[Interaction] = (
            interaction
            for interaction in from_genie(entries, detector, first_event, seed, where, offset)
            if interaction.event_id in chosen
        )
    else:
        interactions = sampled(event_ids, seed, fiducial)
    watched = track(interactions, "events", len(event_ids))
    events = simulate(
        detector, watched, recombination, on_bad_event, cosmics, with_counterfactuals=with_counterfactuals
    )
    write_shard(Path(path), detector, events, lambda: {"conclusions": conclusions.to_json()} if files else {})


def sampled(event_ids: Iterable[int], seed: int, fiducial: FiducialBox) -> Iterator[Interaction]:
    """Sampled interactions, with vertices uniform in `fiducial`."""
    for event_id in event_ids:
        rng = np.random.default_rng([seed, event_id])

        def draw(rng: np.random.Generator = rng) -> tuple[FinalState, np.ndarray]:
            return sample_final_state(rng), rng.uniform(*fiducial)

        yield Interaction(event_id, f"event {event_id}", rng, draw)


def from_genie(
    entries: Iterable[GenieEvent],
    detector: Detector,
    first_event: int,
    seed: int,
    fiducial: FiducialBox | None,
    offset_mm: np.ndarray,
) -> Iterator[Interaction]:
    """GENIE interactions, numbered from `first_event`; without `fiducial`, at GENIE's vertices plus `offset_mm`."""
    low, high = np.array(detector.box_mm).T
    for event_id, entry in enumerate(entries, start=first_event):
        rng = np.random.default_rng([seed, event_id])
        state, vertex, defect = entry.state, entry.vertex_mm + offset_mm, entry.defect
        if fiducial is None and not defect and not np.isfinite(vertex).all():
            defect = "has no vertex (see input.simulate.vertices)"
        elif fiducial is None and not defect and not ((low < vertex) & (vertex < high)).all():
            defect = f"has its vertex at {vertex.round(1).tolist()} mm, outside the detector (see input.offset_mm)"

        def draw(
            state: FinalState | None = state, vertex: np.ndarray = vertex, rng: np.random.Generator = rng
        ) -> tuple[FinalState, np.ndarray]:
            assert state is not None
            return state, vertex if fiducial is None else rng.uniform(*fiducial)

        yield Interaction(event_id, entry.name, rng, draw, 1 if fiducial is None else REDRAWS, defect)


def simulate(
    detector: Detector,
    interactions: Iterable[Interaction],
    recombination: Recombination = NO_RECOMBINATION,
    on_bad_event: OnBadEvent = "error",
    cosmics: Cosmics | None = None,
    *,
    with_counterfactuals: bool = False,
) -> Iterator[Event]:
    """Yield the simulated events, in order, each followed by its counterfactuals if they are asked for.

    An interaction that leaves less than :data:`LEAST_MEV` in the detector (only neutral particles, or particles that
    leave at once) is drawn again. Particles that GEANT4 cannot track (nuclei above 4He, generator pseudo-particles) are
    left out and counted. Truth is that of the neutrino; cosmic muons have the table /truth/cosmics.

    Raises:
        InputError: an interaction cannot be used and `on_bad_event` is "error".
    """
    # Imported late: GEANT4 sets up data sets and its only geometry for the whole process.
    from nuvlm.simulation.transport import argon_box

    box = argon_box(detector)
    muons = None if cosmics is None else CosmicMuons(detector, cosmics)
    if muons is not None:
        logger.info("%.3g cosmic muons an event, within %.4g us", muons.expected, muons.window_us)
    account = _Account(on_bad_event)

    def versions(
        vertex: np.ndarray, particles: tuple[Particle, ...], rng: np.random.Generator
    ) -> Iterator[Counterfactual]:
        if with_counterfactuals:
            return counterfactuals(box, detector, vertex, particles, rng)
        return iter([Counterfactual(AS_SIMULATED, particles, box.transport(vertex, particles, rng))])

    def visible(deposits: "Deposits", added: Steps | None = None) -> Voxels:
        start, end = deposits.start_mm, deposits.end_mm
        energy = recombination.visible_energy(deposits.energy_mev, np.linalg.norm(end - start, axis=1))
        if added is not None:
            start, end = np.concatenate([start, added.start_mm]), np.concatenate([end, added.end_mm])
            energy = np.concatenate([energy, added.energy_mev])
        return voxelize(detector, start, end, energy)[0]

    for interaction in interactions:
        defect = interaction.defect
        if not defect:
            for _ in range(interaction.draws):
                state, vertex = interaction.draw()
                particles = account.trackable(box, state.particles)
                of_event = versions(vertex, particles, interaction.rng)
                # Without a particle that GEANT4 can track, there is no event.
                original = list(itertools.islice(of_event, 1))
                if original and (voxels := visible(original[0].deposits)).energy.sum() >= LEAST_MEV:
                    break
                account.n_empty += 1
            else:
                defect = f"leaves no energy in the detector (less than {LEAST_MEV} MeV)"
        if defect:
            account.refuse(interaction, defect)
            continue
        account.count_left_out(state.particles, particles)
        position = float(vertex[0]), float(vertex[1]), float(vertex[2])
        event_id = interaction.event_id * (IDS if with_counterfactuals else 1)
        # A separate random stream: the neutrino's event does not depend on the muons, and a changed event has the same.
        stream = interaction.rng.spawn(1)[0]
        added = None if muons is None else muons.simulate(box, event_id, recombination, stream)
        if added is not None:
            voxels = visible(original[0].deposits, added)
        of_state = (state.nu_pdg, state.is_cc, state.nu_energy, state.inelasticity, position, state.mode)
        truth = _truth(event_id, original[0], added, event_id if with_counterfactuals else None)
        yield Event(event_id, voxels, *of_state, truth)
        # What a changed event is called in truth is not defined, so that it has no class and no score.
        for changed in of_event:
            changed_id = event_id + NAMES.index(changed.kind)
            voxels = visible(changed.deposits)
            if len(voxels):
                if added is not None:
                    voxels = visible(changed.deposits, added)
                truth = _truth(changed_id, changed, added, event_id)
                yield Event(changed_id, voxels, vertex_mm=position, truth=truth)
    account.log()


def _truth(event_id: int, event: Counterfactual, added: Steps | None, original: int | None) -> dict[str, np.ndarray]:
    """Rows of the /truth tables; `original` is None in runs without counterfactuals."""
    tables = {
        "particles": particle_rows(event_id, event.particles),
        "deposits": deposit_rows(event_id, event.particles, event.deposits),
    }
    if added is not None:
        tables["cosmics"] = added.truth.copy()
        tables["cosmics"]["event_id"] = event_id
    if original is None:
        return tables
    return tables | {"counterfactuals": np.array([(event_id, original, NAMES.index(event.kind))], dtype=DTYPE)}


class _Account:
    """Counts interactions and particles that are left out."""

    def __init__(self, on_bad_event: OnBadEvent) -> None:
        self._on_bad_event = on_bad_event
        self._refused: list[str] = []
        self._left_out: Counter[int] = Counter()
        self._left_out_mev = 0.0
        self._known: dict[int, bool] = {}
        self.n_empty = 0

    def trackable(self, box: "ArgonBox", particles: Sequence[Particle]) -> tuple[Particle, ...]:
        """The `particles` that GEANT4 can track."""
        for pdg in {particle.pdg for particle in particles} - self._known.keys():
            self._known[pdg] = box.knows(pdg)
        return tuple(particle for particle in particles if self._known[particle.pdg])

    def count_left_out(self, particles: Sequence[Particle], tracked: Sequence[Particle]) -> None:
        if len(particles) > len(tracked):
            left_out = [particle for particle in particles if not self._known[particle.pdg]]
            self._left_out.update(particle.pdg for particle in left_out)
            self._left_out_mev += sum(particle.kinetic for particle in left_out)

    def refuse(self, interaction: Interaction, defect: str) -> None:
        message = f"{interaction.name} {defect}"
        if self._on_bad_event == "error":
            raise InputError(f"{message}. Correct or remove it, or set input.on_bad_event to skip.")
        self._refused.append(message)

    def log(self) -> None:
        logger.info("%s draws left less than %s MeV in the detector and were drawn again", self.n_empty, LEAST_MEV)
        if self._refused:
            logger.warning("%s events left out; the first: %s", len(self._refused), self._refused[0])
        if self._left_out:
            kinds = ", ".join(f"{n} of PDG code {pdg}" for pdg, n in self._left_out.most_common(5))
            logger.warning(
                "%s final-state particles that GEANT4 cannot track left out (%s%s); their kinetic energy: %.4g MeV",
                self._left_out.total(),
                kinds,
                ", ..." if len(self._left_out) > 5 else "",
                self._left_out_mev,
            )


def deposit_rows(event_id: int, particles: Sequence[Particle], deposits: "Deposits") -> np.ndarray:
    """The rows of an event in the table /truth/deposits, in the order of `particles`."""
    rows = np.zeros(len(particles), dtype=DEPOSIT_DTYPE)
    rows["event_id"] = event_id
    rows["pdg"] = [particle.pdg for particle in particles]
    rows["length_mm"] = deposits.length_mm
    rows["energy_mev"] = np.bincount(deposits.particle, deposits.energy_mev, len(particles))
    electromagnetic = deposits.energy_mev * deposits.electromagnetic
    rows["electromagnetic_mev"] = np.bincount(deposits.particle, electromagnetic, len(particles))
    rows["photon_gap_mm"] = deposits.photon_gap_mm
    rows["leaves"] = deposits.leaves
    return rows
