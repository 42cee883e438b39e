"""Simulated neutrino events: a final state, through liquid argon with GEANT4, into voxels."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from nuvlm.detector import Detector, fiducial_box_mm
from nuvlm.logs import track
from nuvlm.simulation.final_states import Particle, sample_final_state
from nuvlm.voxels import Event, voxelize, write_shard

logger = logging.getLogger(__name__)

PARTICLE_DTYPE = np.dtype([("event_id", "u8"), ("pdg", "i4"), ("kinetic_mev", "f4"), ("momentum_mev", "f4", (3,))])
"""Table /truth/particles: the final state, one row a particle."""
DEPOSIT_DTYPE = np.dtype(
    [("event_id", "u8"), ("pdg", "i4"), ("length_mm", "f4"), ("energy_mev", "f4"), ("leaves", "u1")]
)
"""Table /truth/deposits, row by row beside /truth/particles: path of the particle itself in the detector, energy that
it and its descendants leave there, and whether it leaves the detector."""


def simulate_shard(
    path: str | Path,
    detector: Detector,
    *,
    first_event: int,
    n_events: int,
    seed: int,
    margin_mm: float = 0,
    margin_downstream_mm: float = 0,
) -> None:
    """Simulate `n_events` neutrino events and write them to the voxel shard `path`, with their truth.

    Vertices are uniform in the fiducial volume: the active volume, which is all the argon there is, less
    `margin_downstream_mm` at its far end in z and `margin_mm` everywhere else. Event ids run from `first_event`.
    An event depends on `seed` and its id alone, so it comes out the same however events are cut in shards.

    Raises:
        InputError: GEANT4 data sets set up by half (see :func:`nuvlm.simulation.geant4_tables.provide_data`), or a
            shard that cannot be written.
    """
    events = range(first_event, first_event + n_events)
    fiducial = fiducial_box_mm(detector, margin_mm, margin_downstream_mm)
    write_shard(Path(path), detector, track(simulate(detector, events, seed, fiducial), "events", total=n_events))


def simulate(
    detector: Detector, event_ids: range, seed: int, fiducial: tuple[np.ndarray, np.ndarray] | None = None
) -> Iterator[Event]:
    """Yield the simulated events of `event_ids`, in order, their vertices between the two corners of `fiducial` (mm).

    An event that leaves no energy in the detector (all its particles neutral, or straight out of it) is drawn again.
    """
    # Loading GEANT4 has effects on the process: its data sets, its one geometry.
    from nuvlm.simulation.transport import argon_box

    box = argon_box(detector)
    low, high = fiducial or fiducial_box_mm(detector, 0, 0)
    n_empty = 0
    for event_id in event_ids:
        rng = np.random.default_rng([seed, event_id])
        while True:
            state = sample_final_state(rng)
            vertex = rng.uniform(low, high)
            deposits = box.transport(vertex, state.particles, rng)
            voxels, _ = voxelize(detector, deposits.start_mm, deposits.end_mm, deposits.energy_mev)
            if len(voxels):
                break
            n_empty += 1
        energy = np.bincount(deposits.particle, weights=deposits.energy_mev, minlength=len(state.particles))
        yield Event(
            event_id=event_id,
            voxels=voxels,
            nu_pdg=state.nu_pdg,
            is_cc=state.is_cc,
            nu_energy=state.nu_energy,
            inelasticity=state.inelasticity,
            vertex_mm=(float(vertex[0]), float(vertex[1]), float(vertex[2])),
            mode=state.mode,
            truth={
                "particles": _particle_rows(event_id, state.particles),
                "deposits": np.array(
                    [
                        (event_id, particle.pdg, *row)
                        for particle, *row in zip(
                            state.particles, deposits.length_mm, energy, deposits.leaves, strict=True
                        )
                    ],
                    dtype=DEPOSIT_DTYPE,
                ),
            },
        )
    logger.info("%s draws left no energy in the detector and were drawn again", n_empty)


def _particle_rows(event_id: int, particles: tuple[Particle, ...]) -> np.ndarray:
    rows = [(event_id, p.pdg, p.kinetic, (p.px, p.py, p.pz)) for p in particles]
    return np.array(rows, dtype=PARTICLE_DTYPE)
