"""What many interactions of a generator show together: the beam, repeated entries, vertices, leptons."""

from dataclasses import replace

import numpy as np
import pytest

from nuvlm.base.conclusions import Conclusions
from nuvlm.base.errors import InputError
from nuvlm.detector.geometry import Detector
from nuvlm.simulation.final_states import sample_final_state
from nuvlm.simulation.generator_evidence import GeneratorEvidence
from nuvlm.simulation.genie import GenieEvent

ALONG_Z = np.array([0.0, 0.0, 1.0])


def interactions(n=20):
    rng = np.random.default_rng(2)
    low, high = np.array(Detector().box_mm).T
    return [
        GenieEvent(f"entry {i}", sample_final_state(rng), rng.uniform(low, high), direction=ALONG_Z) for i in range(n)
    ]


def doubts(tmp_path, events, uses_vertices=True):
    evidence, conclusions = GeneratorEvidence(Detector(), np.zeros(3), uses_vertices), Conclusions()
    assert list(evidence.watch(events, tmp_path, conclusions.add)) == events
    return {c.subject: c.value for c in conclusions if c.doubt}


def test_a_beam_along_z_raises_no_doubt(tmp_path):
    events = interactions()
    assert not doubts(tmp_path, events)
    tilted = np.array([0.0, -0.14, 0.99])  # NuMI, off its axis
    assert not doubts(tmp_path, [replace(event, direction=tilted) for event in events])


@pytest.mark.parametrize("direction", [(1, 0, 0), (0, -1, 0), (0, 0, -1)])
def test_a_beam_along_another_axis_is_refused(tmp_path, direction):
    events = [replace(event, direction=np.array(direction, dtype=float)) for event in interactions()]
    with pytest.raises(InputError, match="degrees from z, but the beam must be along z"):
        doubts(tmp_path, events)


def test_neutrinos_from_everywhere_repeated_entries_and_vertices_at_one_point_are_doubts(tmp_path):
    events, rng = interactions(), np.random.default_rng(3)
    directions = rng.normal(size=(len(events), 3))
    everywhere = [
        replace(event, direction=way / np.linalg.norm(way)) for event, way in zip(events, directions, strict=True)
    ]
    assert doubts(tmp_path, everywhere) == {"beam": "not along z: neutrinos from several directions"}
    assert doubts(tmp_path, events + events[:3]) == {"repeated events": "3 of 23 entries repeat another one"}
    at_origin = [replace(event, vertex_mm=np.zeros(3)) for event in events]
    assert list(doubts(tmp_path, at_origin)) == ["vertices"]
    assert not doubts(tmp_path, at_origin, uses_vertices=False)


def test_currents_without_their_lepton_are_refused(tmp_path):
    events = [
        replace(event, state=event.state._replace(is_cc=True, nu_pdg=-event.state.nu_pdg)) for event in interactions()
    ]
    with pytest.raises(InputError, match="flavour and current, against the leptons"):
        doubts(tmp_path, events)
