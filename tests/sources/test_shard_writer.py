"""From interactions to a voxel shard: ids, checks, the account of events and energy."""

import numpy as np
import pytest

from nuvlm.base.errors import InputError
from nuvlm.detector.readout import Recombination
from nuvlm.detector.voxels import open_shard
from nuvlm.sources.interactions import DriftedEvent, Interaction, Truth, event_ids, particle_rows
from nuvlm.sources.shard_writer import DriftedShardWriter, VoxelShardWriter, _survey


def interaction(number, at=(0, 0, 3000), energy=(1.0, 2.0), **changes):
    start = np.tile(np.array(at, dtype=np.float64), (len(energy), 1))
    return Interaction(number, start, start + 2.5, np.array(energy), f"event {number}", **changes)


def write(tmp_path, detector, interactions, on_bad_event="skip", recombination=None, **settings):
    out = tmp_path / "out.h5"
    writer = VoxelShardWriter(
        shard=out,
        detector=detector,
        on_bad_event=on_bad_event,
        recombination=recombination or Recombination(),
        **settings,
    )
    writer.write(tmp_path / "in.root", interactions, len(interactions))
    with open_shard(out, detector) as shard:
        return shard.events


@pytest.mark.parametrize(
    ("keys", "ids"),
    [
        ([(4, 0), (2, 0)], [4, 2]),
        ([(4, 1), (4, 2), (5, 3)], [1, 2, 3]),
        ([(4, 1), (4, 2), (5, 1)], [4 * 2**32 + 1, 4 * 2**32 + 2, 5 * 2**32 + 1]),
        ([(0, 2**64 - 5), (0, 3)], [2**64 - 5, 3]),
    ],
)
def test_ids_are_as_near_to_the_files_as_they_can_be(tmp_path, keys, ids):
    assert event_ids(tmp_path, keys) == ids


@pytest.mark.parametrize(
    "keys",
    [[(2**32, 1), (2**32, 2), (3, 1)], [(0, 0, 0), (1, 0, 0), (0, 0, 1), (1, 0, 1)], [(-1, 0), (-1, 1), (2, 1)]],
)
def test_other_ids_are_numbered_by_place_and_recorded(tmp_path, keys):
    found = []
    assert event_ids(tmp_path, keys, lambda *args, doubt: found.append(doubt)) == list(range(len(keys)))
    assert found == [True]


def test_every_event_is_accounted_for(tmp_path, detector, caplog):
    events = [
        interaction(1),
        interaction(2, energy=(1.0, np.nan)),
        interaction(3, energy=()),
        interaction(4, at=(0, 0, -500)),
        interaction(5, energy=(0.0, 0.0)),
        interaction(6, truth=Truth(nu_pdg=11)),
        interaction(7, defect="has no reason to be here"),
        interaction(8, energy=(np.inf, 1.0)),
        interaction(9, at=(0, 0, 6999)),
    ]
    assert write(tmp_path, detector, events, outside_limit=0.5)["event_id"].tolist() == [1, 9]
    for line in (
        "events left out: 2 of 9 (the first, event 2, has a coordinate or deposit that is not a number",
        "events left out: 1 of 9 (they have no segments)",
        "events left out: 1 of 9 (the first, event 4, lies outside the detector",
        "events left out: 1 of 9 (the first, event 5, has segments but no energy in them",
        "events left out: 1 of 9 (the first, event 6, has PDG code 11 for its neutrino",
        "events left out: 1 of 9 (the first, event 7, has no reason to be here",
        "energy outside: 4.8 of 9.0 MeV",  # 1.5 of 2.5 mm of event 9
    ):
        assert line in caplog.text


def test_a_file_without_a_usable_event_says_why(tmp_path, detector):
    with pytest.raises(InputError, match=r"1, first event 1, has a negative deposit; 1, first event 2, lies outside"):
        write(tmp_path, detector, [interaction(1, energy=(-1.0,)), interaction(2, at=(0, 0, -500))])
    with pytest.raises(InputError, match="holds no event that can be used"):
        write(tmp_path, detector, [])
    assert not (tmp_path / "out.h5").exists()


@pytest.mark.parametrize("pdg", [0, 12, -14, 16])
def test_neutrinos_of_all_flavours_are_kept(tmp_path, detector, pdg):
    assert write(tmp_path, detector, [interaction(1, truth=Truth(nu_pdg=pdg))], "error")["nu_pdg"].tolist() == [pdg]


def test_recombination_is_logged_with_what_it_leaves(tmp_path, detector, caplog):
    caplog.set_level("INFO")
    write(tmp_path, detector, [interaction(1)], recombination=Recombination(model="birks"))
    assert "recombination leaves" in caplog.text


def test_kinetic_energies_of_single_precision_four_momenta():
    momenta = np.array([[0, 0, 3000, 3000], [0, 300, 0, 985.1], [0, 0, 0, 939.6]], dtype=np.float32).astype(np.float64)
    rows = particle_rows(np.array([22, 2212, 2112]), momenta)
    np.testing.assert_allclose(rows["kinetic_mev"], [3000, 46.8, 0], atol=0.3)


def test_charge_that_was_read_out_is_marked_and_spread_over_its_boxes(tmp_path, detector, caplog):
    def event(number, z, **changes):
        position = np.array([[0.5, 2.5, z], [0.5, 2.5, z]])
        return DriftedEvent(number, position, np.array([1.0, 2.0]), f"event {number}", **changes)

    none = DriftedEvent(3, np.zeros((0, 3)), np.zeros(0), "event 3")
    events = [event(1, 3000), event(2, 2995, size_mm=(0, 0, 10.0)), none, event(4, 1e6), event(5, np.nan)]
    events[4].energy_mev[1] = -1
    out = tmp_path / "out.h5"
    writer = DriftedShardWriter(shard=out, detector=detector, offset_mm=(0, 0, 5), on_bad_event="skip")
    writer.write(tmp_path / "in.h5", events, len(events))
    with open_shard(out, detector) as shard:
        assert shard.drifted
        assert shard.events["event_id"].tolist() == [1, 2]
        blocks = [block for _, block, _ in shard.blocks(1)]
    assert [(block.z.tolist(), block.energy.tolist()) for block in blocks] == [([601], [3.0]), ([599, 600], [1.5, 1.5])]
    for line in (
        "events left out: 1 of 5 (they have no",
        "events left out: 1 of 5 (the first, event 4, lies outside the detector",
        "events left out: 1 of 5 (the first, event 5, has a coordinate or deposit that is not a number",
    ):
        assert line in caplog.text


def test_deposits_are_not_marked_as_drifted(tmp_path, detector):
    write(tmp_path, detector, [interaction(1)])
    with open_shard(tmp_path / "out.h5", detector) as shard:
        assert not shard.drifted


@pytest.mark.parametrize(("value", "found"), [(1.0, (True, False, True)), (np.nan, (False, False, True)),
                                              (-1.0, (True, True, True)), (np.inf, (False, False, True))])  # fmt: skip
def test_the_survey_of_deposits_agrees_with_numpy(rng, value, found):
    start, end, energy = rng.normal(0, 100, (50, 3)), rng.normal(0, 100, (50, 3)), rng.gamma(2, 1, 50)
    energy[7] = value
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    assert _survey(start, end, energy, low, high) == found
    np.testing.assert_array_equal(low, np.minimum(start, end).min(axis=0))
    np.testing.assert_array_equal(high, np.maximum(start, end).max(axis=0))
    start[3, 1] = np.nan
    assert not _survey(start, end, energy, low, high)[0]
