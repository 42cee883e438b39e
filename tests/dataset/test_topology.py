"""What is to be seen of an event: from tables made by hand, and from particles that GEANT4 takes through argon."""

import numpy as np
import pandas as pd
import pytest

from nuvlm.dataset.topology import TOPOLOGY_TYPES, count_particles, find_topology, is_charged, leading_pion_energy
from nuvlm.detector.geometry import Detector
from nuvlm.detector.voxels import PARTICLE_DTYPE
from nuvlm.simulation.events import DEPOSIT_DTYPE, Interaction, simulate
from nuvlm.simulation.final_states import FinalState, Particle

VERTEX = np.array([0.0, 0.0, 2500.0])


def tables(*rows: tuple) -> tuple[np.ndarray, np.ndarray]:
    """Both tables of truth from (event, pdg, momentum, path, electromagnetic energy, gap, leaves) of each particle."""
    particles = [(event, pdg, 0.0, momentum) for event, pdg, momentum, *_ in rows]
    deposits = [(event, pdg, path, 0.0, energy, gap, leaves) for event, pdg, _, path, energy, gap, leaves in rows]
    return np.array(particles, dtype=PARTICLE_DTYPE), np.array(deposits, dtype=DEPOSIT_DTYPE)


@pytest.mark.parametrize(
    ("charged", "codes"),
    [
        (True, [11, -13, 15, 211, -321, 411, 431, 521, 2212, -2212, 3112, 3222, 3312, 4122, 2224, 213, 1000020040]),
        (False, [12, 22, 111, 130, 310, 311, 221, 331, 223, 421, 511, 2112, -2112, 3122, 3212, 3322, 2114, 2000000101]),
    ],
)
def test_charge_follows_from_the_code(charged: bool, codes: list[int]) -> None:
    assert is_charged(np.array(codes)).tolist() == [charged] * len(codes)


def test_events_by_hand() -> None:
    nan = np.nan
    particles, deposits = tables(
        # a muon that leaves, a proton of 12 cm and one of 5, which is too short; delta rays are no shower
        (4, 13, (0, 3, 4), 2500, 99, nan, 1), (4, 2212, (0, 0, 1), 120, 5, nan, 0), (4, 2212, (1, 0, 0), 50, 0, nan, 0),
        # an electron, a neutral pion with less energy, a pion whose charge exchange makes photons
        (7, 11, (0, 0, 2), 300, 900, nan, 0), (7, 111, (1, 0, 0), 0, 400, 80, 0), (7, 211, (0, -1, 0), 400, 950, 99, 0),
        # photons: the one with more energy in the detector; one below the threshold
        (5, 22, (0, 1, 0), 0, 200, 130, 0), (5, 22, (0, 0, 1), 0, 150, 10, 0), (5, 2112, (0, 0, 1), 500, 90, 60, 0),
        (9, 22, (0, 1, 0), 0, 49, 130, 0), (9, 14, (0, 0, 5), 0, 0, nan, 0),
    )  # fmt: skip
    table = find_topology(np.array([9, 4, 5, 7], dtype=np.uint64), particles, deposits)
    assert {name: str(kind) for name, kind in table.dtypes.items()} == TOPOLOGY_TYPES
    assert table["charged"].tolist() == [0, 2, 0, 2]
    assert table["track_mm"].tolist() == [0, 2500, 0, 400]
    assert table["track_leaves"].tolist() == [pd.NA, True, pd.NA, False]
    assert table["shower_mev"].tolist() == [0, 0, 200, 900]
    np.testing.assert_array_equal(table["shower_gap_mm"], [nan, nan, 130, 0])
    np.testing.assert_allclose(table.filter(like="track_direction"), [[nan] * 3, [0, 0.6, 0.8], [nan] * 3, [0, -1, 0]])
    np.testing.assert_allclose(table.filter(like="shower_direction"), [[nan] * 3] * 2 + [[0, 1, 0], [0, 0, 1]])


def test_particles_are_counted_with_their_antiparticles_above_an_energy() -> None:
    rows = [(1, 211, 50), (1, -211, 5), (1, 2212, 15), (1, 2212, 25), (3, 111, 0)]
    particles = np.array([(event, pdg, kinetic, (0, 0, 1)) for event, pdg, kinetic in rows], dtype=PARTICLE_DTYPE)
    ids = np.array([3, 1, 2])
    np.testing.assert_array_equal(count_particles(ids, particles, 211), [0, 2, np.nan])
    np.testing.assert_array_equal(count_particles(ids, particles, 2212, 20), [0, 1, np.nan])
    assert np.isnan(count_particles(ids, None, 211)).all()


def test_what_truth_does_not_tell_is_null() -> None:
    particles, deposits = tables((1, 13, (0, 0, 1), 2500, 0, np.nan, 1), (2, 13, (0, 0, 1), np.nan, 0, np.nan, 1))
    without = deposits[[name for name in DEPOSIT_DTYPE.names if name != "photon_gap_mm"]]
    ids = np.array([1, 2, 3])
    for known in ((None, None), (particles, None), (particles, without)):
        table = find_topology(ids, *known)
        assert table.isna().all(axis=None)
        assert {name: str(kind) for name, kind in table.dtypes.items()} == TOPOLOGY_TYPES
    table = find_topology(ids, particles, deposits)
    assert table["track_mm"].notna().tolist() == [True, False, False], (
        "one with a path that is no number, one not named"
    )
    assert table.loc[1:].isna().all(axis=None)


def test_tables_of_different_particles_are_refused() -> None:
    particles, deposits = tables((1, 13, (0, 0, 1), 2500, 0, np.nan, 1), (1, 2212, (0, 0, 1), 100, 0, np.nan, 1))
    for other in (deposits[::-1], deposits[:1]):
        with pytest.raises(ValueError, match="not the same particles"):
            find_topology(np.array([1]), particles, other)


def through_argon(*particles: Particle) -> "pd.Series":
    """The topology of one event that GEANT4 has followed."""
    state = FinalState(14, True, 5.0, 0.5, 0, particles)
    drawn = Interaction(8, "event 8", np.random.default_rng(2), lambda: (state, VERTEX))
    (event,) = simulate(Detector(), [drawn])
    return find_topology(np.array([8]), event.truth["particles"], event.truth["deposits"]).iloc[0]


def of(pdg: int, *momentum_mev: float) -> Particle:
    return Particle.of(pdg, np.array(momentum_mev))


def test_a_muon_and_a_proton() -> None:
    """Ranges: a muon of 400 MeV 171 cm (Groom et al.), a proton of 200 MeV 26 cm (NIST PSTAR)."""
    found = through_argon(of(13, 0, 0, 494.5), of(2212, 0, 644.4, 0))
    assert found["track_mm"] == pytest.approx(1710, rel=0.05)
    assert not found["track_leaves"]
    assert found["charged"] == 2
    assert (found["shower_mev"], np.isnan(found["shower_gap_mm"])) == (0, True)
    assert found["track_direction_z"] == 1
    upwards = through_argon(of(13, 0, 494.5, 0))
    assert 1000 <= upwards["track_mm"] < 1100, "it leaves at the top, a metre above the vertex"
    assert upwards["track_leaves"]


def test_an_electron_and_a_pion() -> None:
    found = through_argon(of(11, 600.0, 0, 800.0))
    assert (found["shower_gap_mm"], found["charged"], found["track_mm"]) == (0, 1, 0)
    assert 800 < found["shower_mev"] < 1001
    assert found[["shower_direction_x", "shower_direction_z"]].tolist() == pytest.approx([0.6, 0.8])
    pion = through_argon(of(111, 0, 0, 1000.0))
    assert (pion["charged"], pion["track_mm"]) == (0, 0)
    assert 800 < pion["shower_mev"] < 1012
    assert 0 < pion["shower_gap_mm"] < 1500


def test_energy_of_the_leading_neutral_pion() -> None:
    nan = np.nan
    rows = [(7, 111, 365.02), (7, 111, 65.02), (7, 2212, 900.0), (3, 211, 800.0), (4, 111, 500.0), (4, 111, nan)]
    particles = np.array([(event, pdg, energy, (0, 0, 1)) for event, pdg, energy in rows], dtype=PARTICLE_DTYPE)
    # 365.02 + 134.98 MeV; a charged pion alone; one of unknown energy; an event that the table does not have
    found = leading_pion_energy(np.array([7, 3, 4, 9], dtype=np.uint64), particles)
    np.testing.assert_allclose(found, [0.5, 0, nan, nan], rtol=1e-6)
    for unknown in (None, particles[["event_id", "pdg"]]):
        assert np.isnan(leading_pion_energy(np.array([7, 3]), unknown)).all()
