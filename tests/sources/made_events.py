"""Neutrino interactions for tests of files: final states followed by GEANT4 in the detector, once a session."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from nuvlm.detector.geometry import Detector
from nuvlm.simulation.final_states import FinalState, sample_final_state


@dataclass(frozen=True)
class MadeEvent:
    """A neutrino with its deposits; lengths in mm, energies in MeV."""

    state: FinalState
    vertex: np.ndarray
    start: np.ndarray
    end: np.ndarray
    energy: np.ndarray
    primary: np.ndarray
    """(segments,): index in the final state."""


@cache
def made_events(n: int, energy_gev: tuple[float, float] = (0.6, 2.0), seed: int = 11) -> list[MadeEvent]:
    """`n` interactions with vertices in the middle of the default detector."""
    from nuvlm.simulation.transport import argon_box

    box, rng = argon_box(Detector()), np.random.default_rng(seed)
    events: list[MadeEvent] = []
    while len(events) < n:
        state = sample_final_state(rng, energy_gev=energy_gev)
        vertex = rng.uniform((-600, -600, 1000), (600, 600, 4500))
        deposits = box.transport(vertex, state.particles, rng)
        if deposits.energy_mev.sum() > 50:
            parts = deposits.start_mm, deposits.end_mm, deposits.energy_mev, deposits.particle
            events.append(MadeEvent(state, vertex, *parts))
    return events
