"""edep-sim files: hits, vertices, truth from the reaction and from GENIE's record, and what is refused."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from nuvlm.base.errors import InputError
from nuvlm.detector.readout import Recombination
from nuvlm.detector.voxels import open_shard
from nuvlm.sources import edepsim
from nuvlm.sources.edepsim import convert_edepsim
from nuvlm.sources.shard_writer import VoxelShardWriter

edepsim_file = pytest.importorskip("edepsim_file")
from edepsim_file import SAMPLE, FileEvent, Particle, Vertex, add_record, hit_list, write_edepsim  # noqa: E402

pytestmark = pytest.mark.skipif(not SAMPLE.exists(), reason="needs the sample files")

MUON = Particle(0, 13, (0, 0, 1000, 1005.6), "mu-")
PROTON = Particle(1, 2212, (0, 300, 0, 985.1), "proton")


def walk(seed, at=(0, 0, 3000), n=20, primary=0):
    rng = np.random.default_rng(abs(seed))
    path = np.cumsum(rng.normal(0, 3, (n + 1, 3)), axis=0) + at
    contributors = [[1] * int(k) for k in rng.integers(1, 4, n)]
    return hit_list(path[:-1], path[1:], rng.random(n).astype(np.float32), primary, contributors)


def event(number, **changes):
    values = {"detectors": {"volTPCActive": walk(number)}, "vertices": [Vertex(particles=[MUON, PROTON])]}
    return FileEvent(number, **values | changes)


def convert(path, detector, offset=(0, 0, 0), on_bad_event="error", recombination=None):
    out = path.with_suffix(".h5")
    writer = VoxelShardWriter(
        shard=out,
        detector=detector,
        offset_mm=offset,
        on_bad_event=on_bad_event,
        recombination=recombination or Recombination(),
    )
    convert_edepsim(path, writer)
    with open_shard(out, detector) as shard:
        return shard.events, [block.energy.sum(dtype=np.float64) for _, block, _ in shard.blocks(1)]


def deposited(events):
    return [sum(part.energy.sum() for part in e.detectors.values()) for e in events]


def test_the_sample_file(tmp_path, detector):
    path = tmp_path / "sample.root"
    path.write_bytes(SAMPLE.read_bytes())
    events, energy = convert(path, detector)
    assert events["event_id"].tolist() == [0, 1]
    assert energy == [5, 5]
    assert events["nu_pdg"].tolist() == [14, 14]
    assert events["is_cc"].all()
    assert events["mode"].tolist() == [1, 1]
    assert events["vertex_mm"].tolist() == [[1, 2, 3]] * 2
    assert np.isnan(events["nu_energy"]).all()


def test_hits_of_all_detectors_with_truth_from_the_vertex(tmp_path, detector, caplog):
    nc = Vertex((5, 6, 2000), "nu:-12;tgt:1000180400;proc:Weak[NC],DIS;", [PROTON])
    written = [
        event(7, detectors={"volTPCActive": walk(1), "volOther": walk(2, n=1), "volEmpty": walk(0, n=0)}),
        event(8, detectors={"volTPCActive": walk(3, (0, 0, 2000))}, vertices=[nc]),
        event(9, detectors={"volTPCActive": walk(4)}, vertices=[Vertex(reaction="")]),
        event(10, vertices=[]),
    ]
    caplog.set_level("INFO")
    events, energy = convert(write_edepsim(tmp_path / "a.root", written), detector, offset=(1, 2, 3))
    np.testing.assert_allclose(energy, deposited(written), rtol=1e-6)
    assert events["event_id"].tolist() == [7, 8, 9, 10]
    assert events["nu_pdg"].tolist() == [14, -12, 0, 0]
    assert events["is_cc"].tolist() == [1, 0, 0, 0]
    assert events["mode"].tolist() == [1, 4, 0, 0]
    assert events["vertex_mm"][1].tolist() == [6, 8, 2003]
    assert np.isnan(events["vertex_mm"][3]).all()
    with h5py.File(tmp_path / "a.h5") as file:
        particles = file["truth/particles"][:]
    assert particles["pdg"].tolist() == [13, 2212, 2212]
    assert particles["event_id"].tolist() == [7, 7, 8]
    np.testing.assert_allclose(particles["kinetic_mev"], [1005.6 - 106.0, 985.1 - 938.3, 985.1 - 938.3], atol=0.5)
    assert "volOther" in caplog.text


def test_hits_go_to_the_vertex_they_descend_from(tmp_path, detector):
    vertices = [
        Vertex((0, 0, 1000), particles=[Particle(0, 13, (0, 0, 1, 106)), Particle(1, 211, (0, 1, 0, 140))]),
        Vertex((0, 0, 5000), "nu:12;tgt:1000180400;proc:Weak[CC],RES;", [Particle(2, 11, (0, 0, 1, 2))]),
    ]
    # track 5 descends from 3, and that from primary 2
    hits = hit_list(np.full((4, 3), 100.0), np.full((4, 3), 101.0), [1, 2, 4, 8], [0, 1, 2, 5])
    spill = event(3, detectors={"volTPCActive": hits}, vertices=vertices, parents={0: -1, 1: -1, 2: -1, 3: 2, 5: 3})
    events, energy = convert(write_edepsim(tmp_path / "a.root", [spill, event(4)]), detector)
    assert events["event_id"].tolist() == [3 * 2**32, 3 * 2**32 + 1, 4 * 2**32]
    assert energy[:2] == [3, 12]
    assert events["nu_pdg"].tolist() == [14, 12, 14]
    assert events["vertex_mm"][1].tolist() == [0, 0, 5000]
    hits.primary[3] = 77
    path = write_edepsim(tmp_path / "b.root", [spill, event(4)])
    with pytest.raises(InputError, match="event 3, vertex 0 has 8 MeV that descend from no vertex"):
        convert(path, detector)
    events, _ = convert(path, detector, on_bad_event="skip")
    assert events["event_id"].tolist() == [4 * 2**32]


def record(energy, lepton=(13, (0, 0, 1.0, 1.0056)), pdg=14):
    """A neutrino of `energy` GeV on argon, its lepton, and the proton."""
    four = (0, 0, energy, energy)
    proton = (2212, 1, (0, 0.3, 0, 0.9851))
    return [(pdg, 0, four), (1000180400, 0, (0, 0, 0, 37.2)), (lepton[0], 1, lepton[1]), proton, (1000180390, 15, four)]


def test_energy_and_inelasticity_come_from_genies_record(tmp_path, detector):
    numbered = [
        event(i, vertices=[Vertex((0, 0, 1000.0 * i), particles=[MUON, PROTON], interaction=2 - i)]) for i in range(3)
    ]
    path = write_edepsim(tmp_path / "a.root", numbered)
    add_record(path, [record(5), record(4), record(2)], [(0, 0, 2), (0, 0, 1), (0, 0, 0)])
    events, _ = convert(path, detector)
    assert events["nu_energy"].tolist() == [2, 4, 5]
    np.testing.assert_allclose(events["inelasticity"], 1 - 1.0056 / np.array([2, 4, 5]), rtol=1e-6)
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["truth/particles"]["pdg"].tolist() == [13, 2212] * 3

    # merged files leave InteractionNumber behind: the positions tell
    in_order = add_record(
        write_edepsim(tmp_path / "b.root", numbered),
        [record(2), record(4), record(5)],
        [(0, 0, 0), (0, 0, 1), (0, 0, 2)],
    )
    assert convert(in_order, detector)[0]["nu_energy"].tolist() == [2, 4, 5]


def test_a_record_of_other_events_or_units_is_refused(tmp_path, detector):
    other = add_record(
        write_edepsim(tmp_path / "a.root", [event(5)]), [record(5, (13, (0, 0, 0.7, 0.71)))], [(0, 0, 3)]
    )
    with pytest.raises(InputError, match=r"fastest particle of event 5 has 1000 MeV, .* 700 MeV"):
        convert(other, detector)
    mev = [(pdg, status, tuple(1000 * p for p in four)) for pdg, status, four in record(5)]
    with pytest.raises(InputError, match="not in GeV"):
        convert(add_record(write_edepsim(tmp_path / "b.root", [event(5)]), [mev], [(0, 0, 3)]), detector)
    twice = write_edepsim(tmp_path / "c.root", [event(5), event(6)])
    with pytest.raises(InputError, match=r"3 entries of .* cannot be matched to the 2 vertices"):
        convert(add_record(twice, [record(5)] * 3, [(0, 0, 3)] * 3), detector)


@pytest.mark.parametrize("step_bytes", [1, 2e4, 1e9])
def test_events_in_several_baskets_and_steps(tmp_path, detector, monkeypatch, step_bytes):
    monkeypatch.setattr(edepsim, "STEP_BYTES", step_bytes)
    vertex = [Vertex((0, 0, 100.0 * i), particles=[MUON, PROTON], interaction=i) for i in range(14)]
    written = [event(i, vertices=[vertex[i]]) for i in range(12)]
    written[3] = event(3, vertices=[vertex[3], vertex[12]])
    written[7] = event(7, vertices=[])
    vertex[12].particles = [Particle(5, 13, MUON.momentum)]
    path = write_edepsim(tmp_path / "a.root", written, baskets=5)
    add_record(path, [record(2 + i / 10) for i in range(13)], [v.position for v in vertex[:13]])
    events, energy = convert(path, detector)
    assert events["event_id"].tolist() == [i * 2**32 for i in range(12)]
    np.testing.assert_allclose(energy, deposited(written), rtol=1e-6)
    known = [i for i in range(12) if i != 7]
    np.testing.assert_allclose(events["nu_energy"][known], [2 + i / 10 for i in known], rtol=1e-6)
    assert np.isnan(events["nu_energy"][7])
    assert (events["vertex_mm"][known][:, 2] == [100 * i for i in known]).all()


def test_repeated_and_negative_event_numbers(tmp_path, detector):
    runs = [event(1, run=2), event(1, run=3), event(-4, run=3)]
    events, _ = convert(write_edepsim(tmp_path / "a.root", runs), detector)
    assert events["event_id"].tolist() == [2_000_001, 3_000_001, 2_999_996]
    with pytest.raises(InputError, match="event 1 of run 1 occurs twice"):
        convert(write_edepsim(tmp_path / "b.root", [event(1), event(1)]), detector)


def bad(number, what):
    hits = walk(number)
    if what == "energy":
        hits.energy[3] = np.nan
    elif what == "place":
        hits.stop[3, 1] = np.inf
    elif what == "negative":
        hits.energy[3] = -1
    elif what == "outside":
        hits = walk(number, (0, 0, 9000))
    elif what == "flavour":
        return event(number, vertices=[Vertex(reaction="nu:999;tgt:1000180400;proc:Weak[CC],QES;")])
    return event(number, detectors={"volTPCActive": hits})


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("energy", "event 2 has a coordinate or deposit that is not a number"),
        ("place", "event 2 has a coordinate or deposit that is not a number"),
        ("negative", "event 2 has a negative deposit"),
        ("outside", "event 2 lies outside the detector"),
        ("flavour", "event 2 has PDG code 999"),
    ],
)
def test_an_event_that_cannot_be_used_stops_or_is_left_out_and_counted(tmp_path, detector, caplog, what, message):
    path = write_edepsim(tmp_path / "a.root", [event(1), bad(2, what), bad(3, what), event(4)])
    with pytest.raises(InputError, match=message) as error:
        convert(path, detector)
    assert "input.on_bad_event" in str(error.value)
    events, energy = convert(path, detector, on_bad_event="skip")
    assert events["event_id"].tolist() == [1, 4]
    np.testing.assert_allclose(energy, deposited([event(1), event(4)]), rtol=1e-6)
    assert "2 of 4 events left out; the first, event 2," in caplog.text


def test_events_without_hits_are_counted(tmp_path, detector, caplog):
    path = write_edepsim(
        tmp_path / "a.root", [event(1), event(2, detectors={}), event(3, detectors={"a": walk(0, n=0)})]
    )
    assert convert(path, detector)[0]["event_id"].tolist() == [1]
    assert "2 of 3 events left out: they have no segments" in caplog.text
    with pytest.raises(InputError, match="no event that can be used: 1 have no segments"):
        convert(write_edepsim(tmp_path / "b.root", [event(2, detectors={})]), detector)


def test_recombination_is_of_each_segment(tmp_path, detector):
    # 2.1 and 21 MeV/cm
    hits = hit_list([[0, 0, 3000], [0, 0, 3010]], [[0, 0, 3010], [0, 0, 3020]], [2.1, 21])
    model = Recombination(model="birks")
    path = write_edepsim(tmp_path / "a.root", [event(1, detectors={"volTPCActive": hits})])
    _, energy = convert(path, detector, recombination=model)
    expected = 2.1 + 21 * model.survival(np.array([21.0]))[0] / model.survival(np.array([2.1]))[0]
    assert energy[0] == pytest.approx(expected, rel=1e-6)


def test_files_that_are_no_whole_edepsim_files(tmp_path, detector):
    path = tmp_path / "a.root"
    with pytest.raises(InputError, match="no such file"):
        convert(path, detector)
    for content in (b"", b"text" * 100):
        path.write_bytes(content)
        with pytest.raises(InputError, match="not ROOT, empty or truncated"):
            convert(path, detector)
    whole = write_edepsim(path, [event(1), event(2)]).read_bytes()
    for share in (0.05, 0.2, 0.5, 0.8, 0.95, 0.999):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(InputError, match=r"a\.root"):
            convert(path, detector)
    with edepsim_file.uproot.recreate(path) as file:
        file.mktree("other", {"x": "i4"})
    with pytest.raises(InputError, match=r"no tree EDepSimEvents \(found: other\)"):
        convert(path, detector)
    with edepsim_file.uproot.recreate(path) as file:
        file.mktree("EDepSimEvents", {"RunId": "i4", "EventId": "i4"})
    with pytest.raises(InputError, match=r"no branch Primaries\.Position"):
        convert(path, detector)
    with pytest.raises(InputError, match="EDepSimEvents is empty"):
        convert(write_edepsim(path, []), detector)
    assert not Path(path.with_suffix(".h5")).exists()


def test_bytes_of_another_layout_name_the_event(tmp_path, detector):
    broken = edepsim_file.hits_bytes([walk(1)])[:-8]
    good = edepsim_file.hits_bytes([walk(2)])
    path = write_edepsim(tmp_path / "a.root", [event(1), event(2)], SegmentDetectors__second=[good, broken])
    with pytest.raises(InputError, match="event 2: unexpected layout of hits or primaries"):
        convert(path, detector)
    path = write_edepsim(tmp_path / "b.root", [event(1), event(2)], SegmentDetectors__second=[good, good * 2])
    with pytest.raises(InputError, match=r"event 2: 1 sensitive detectors .* 2 lists of hits"):
        convert(path, detector)


def test_classes_with_other_members_are_refused(tmp_path, detector, monkeypatch):
    other = {"TG4HitSegment": ("TObject", "Contrib", "PrimaryId", "EnergyDeposit", "Start", "Stop")}
    monkeypatch.setattr(edepsim, "LAYOUTS", other)
    with pytest.raises(InputError, match=r"TG4HitSegment has members TObject, .*, TrackLength, Start, Stop, not"):
        convert(write_edepsim(tmp_path / "a.root", [event(1)]), detector)


def test_a_file_without_any_vertex_keeps_its_hits(tmp_path, detector):
    written = [event(1, vertices=[]), event(2, vertices=[])]
    events, energy = convert(write_edepsim(tmp_path / "a.root", written), detector)
    np.testing.assert_allclose(energy, deposited(written), rtol=1e-6)
    assert np.isnan(events["vertex_mm"]).all()


def test_any_flipped_byte_is_either_harmless_or_told(tmp_path, detector):
    whole = write_edepsim(tmp_path / "a.root", [event(1), event(2)], baskets=2).read_bytes()
    path = tmp_path / "b.root"
    for at in range(0, len(whole), 997):
        content = bytearray(whole)
        content[at] ^= 255
        path.write_bytes(content)
        message = str(path)
        try:
            convert(path, detector, on_bad_event="skip")
        except InputError as error:
            message = str(error)
        assert str(path) in message
