"""edep-sim files: hits, vertices, truth from the reaction and from GENIE's record, and what is refused."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from flipped_bytes import any_flipped_byte_is_harmless_or_named
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
    return hit_list(path[:-1], path[1:], (1 + rng.random(n)).astype(np.float32), primary, contributors)


def event(number, **changes):
    values = {"detectors": {"volTPCActive": walk(number)}, "vertices": [Vertex(particles=[MUON, PROTON])]}
    return FileEvent(number, **values | changes)


def convert(path, detector, offset=(0, 0, 0), on_bad_event="error", recombination=None, **settings):
    out = path.with_suffix(".h5")
    writer = VoxelShardWriter(
        shard=out,
        detector=detector,
        offset_mm=offset,
        on_bad_event=on_bad_event,
        recombination=recombination or Recombination(),
        **settings,
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
    at = np.array([(0, 0, 1000), (0, 0, 1000), (0, 0, 5000), (100, 0, 5000)])
    hits = hit_list(at, at + 5.0, [1, 2, 4, 8], [0, 1, 2, 5])
    spill = event(3, detectors={"volTPCActive": hits}, vertices=vertices, parents={0: -1, 1: -1, 2: -1, 3: 2, 5: 3})
    events, energy = convert(write_edepsim(tmp_path / "a.root", [spill, event(4)]), detector)
    assert events["event_id"].tolist() == [3 * 2**32, 3 * 2**32 + 1, 4 * 2**32]
    assert energy[:2] == pytest.approx([3, 12])
    assert events["nu_pdg"].tolist() == [14, 12, 14]
    assert events["vertex_mm"][1].tolist() == [0, 0, 5000]
    hits.primary[3] = 77
    path = write_edepsim(tmp_path / "b.root", [spill, event(4)])
    with pytest.raises(InputError, match="event 3, vertex 0 has 8 MeV that descend from no vertex"):
        convert(path, detector)
    events, _ = convert(path, detector, on_bad_event="skip")
    assert events["event_id"].tolist() == [4 * 2**32]


def straight(at, length, mev, primary, direction=(0.1, 0.05, 0.99)):
    """A track of 1 cm steps."""
    n = round(length / 10)
    path = np.array(at) + 10.0 * np.arange(n + 1)[:, None] * direction
    return [(path[i], path[i + 1], mev / n, primary) for i in range(n)]


def spill(renumber, parents=None, neutral=False):
    """Two charged currents and a neutral current; `renumber` gives the number of each track in the hits."""
    at = [(0, 0, 1000), (200, 0, 3000), (-200, 0, 5000)]
    tracks = [(0, 13, at[0], 1000, 210), (1, 2212, at[0], 100, 60), (2, 13, at[1], 900, 190), (3, 211, at[2], 400, 90)]
    if neutral:
        tracks.append((4, 22, (-200, 300, 5400), 200, 50))
    hits = [step for n, _, where, length, mev in tracks for step in straight(where, length, mev, renumber(n))]
    start, stop, energy, primary = map(np.array, zip(*hits, strict=True))
    of = [[0, 1], [2], [3, 4] if neutral else [3]]
    momentum = {n: (10.0 * n, 0, 500.0 + n, 600.0) for n in range(5)}
    reactions = ["nu:14;tgt:1000180400;proc:Weak[CC],QES;"] * 2 + ["nu:14;tgt:1000180400;proc:Weak[NC],RES;"]
    vertices = [
        Vertex(where, reaction, [Particle(n, pdg, momentum[n]) for n, pdg, *_ in tracks if n in mine])
        for where, reaction, mine in zip(at, reactions, of, strict=True)
    ]
    written = event(3, detectors={"volTPCActive": hit_list(start, stop, energy, primary)}, vertices=vertices)
    written.parents = {renumber(n): -1 for n, *_ in tracks} if parents is None else parents
    return written, {renumber(n): (pdg, momentum[n]) for n, pdg, *_ in tracks}


@pytest.mark.parametrize(
    ("renumber", "parents", "neutral", "how"),
    [
        (lambda n: n, None, False, None),
        (lambda n: 3 - n, {}, False, "the vertex that they touch"),
        (lambda n: 10 + 2 * n, None, True, "the order of the tracks"),
        (lambda n: (4, 0, 1, 2, 3)[n], None, True, "PDG code and momentum"),
    ],
)
def test_primaries_and_hits_that_are_numbered_differently(tmp_path, detector, caplog, renumber, parents, neutral, how):
    written, tracks = spill(renumber, parents, neutral)
    described = {}
    if how == "PDG code and momentum":
        described["Trajectories__PDGCode"] = [edepsim_file.column([pdg for pdg, _ in tracks.values()])]
        described["Trajectories__InitialMomentum"] = [
            b"".join(edepsim_file.four_vector(four) for _, four in tracks.values())
        ]
    path = write_edepsim(tmp_path / "a.root", [written], **described)
    events, energy = convert(path, detector)
    assert energy == pytest.approx([270, 190, 140 if neutral else 90])
    assert events["is_cc"].tolist() == [1, 1, 0]
    assert ("track ids: hits given to vertices by" in caplog.text) == (how is not None)
    assert how is None or how in caplog.text


def test_numbers_that_nothing_explains_are_refused(tmp_path, detector):
    written, _ = spill(lambda n: (1, 3, 0, 2, 4)[n], {}, neutral=True)
    message = r"event 3, vertex 0 has hits of track \d that touch vertex \d, but belong to vertex \d by their track id"
    with pytest.raises(InputError, match=message):
        convert(write_edepsim(tmp_path / "a.root", [written]), detector)


@pytest.mark.parametrize("axes", [None, "zyx"])
def test_exchanged_axes_are_refused_unless_they_are_named(tmp_path, detector, axes):
    written = []
    for i in range(4):
        place = np.array((0.0, 0.0, 100.0 * (i + 1)))
        hits = np.array([(a[::-1], b[::-1]) for a, b, _, _ in straight(place, 500, 100, 0)])
        muon = Particle(0, 13, (1000, 0, 0, 1005.6))
        written.append(
            event(
                i,
                detectors={"volTPCActive": hit_list(hits[:, 0], hits[:, 1], np.full(50, 2.1), 0)},
                vertices=[Vertex(tuple(place[::-1]), particles=[muon])],
            )
        )
    path = write_edepsim(tmp_path / "a.root", written)
    if axes is None:
        with pytest.raises(
            InputError, match=r"charge goes along \+x, not along the beam.*input\.axes \(zyx for x and z"
        ):
            convert(path, detector, (0, 0, 3500))
        return
    events, _ = convert(path, detector, axes=axes)
    assert events["vertex_mm"].tolist() == [[0, 0, 100 * (i + 1)] for i in range(4)]
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["truth/particles"]["momentum_mev"][0].tolist() == [0, 0, 1000]


@pytest.mark.parametrize(
    ("move", "message"),
    [
        (lambda at: at[::-1], "x, y, z of the deposits are z, y, x of the vertices"),
        (lambda at: at / 10, "vertices are multiplied by 10"),
        (lambda at: at + np.array([0, 500, 0]), r"begins at \[.*, -500\.4, .*\] mm from their vertex, the same in all"),
        (lambda at: -at, "x, y, z of the vertices is negated"),
    ],
)
def test_charge_that_is_not_at_its_vertex_is_refused(tmp_path, detector, move, message):
    at = np.array([(50.0, 100, 1000), (100, 200, 1500), (150, 300, 2500)])
    written = [
        event(i, detectors={"a": walk(i, place)}, vertices=[Vertex(tuple(move(place)), particles=[MUON])])
        for i, place in enumerate(at)
    ]
    with pytest.raises(InputError, match=message):
        convert(write_edepsim(tmp_path / "a.root", written), detector)


def record(energy, lepton=(13, (0, 0, 1.0, 1.0056)), pdg=14):
    """A neutrino of `energy` GeV on argon, its lepton, and the proton."""
    four = (0, 0, energy, energy)
    proton = (2212, 1, (0, 0.3, 0, 0.9851))
    return [(pdg, 0, four), (1000180400, 0, (0, 0, 0, 37.2)), (lepton[0], 1, lepton[1]), proton, (1000180390, 15, four)]


def test_energy_and_inelasticity_come_from_genies_record(tmp_path, detector):
    numbered = [
        event(
            i,
            detectors={"volTPCActive": walk(i, (0, 0, 1000.0 * i))},
            vertices=[Vertex((0, 0, 1000.0 * i), particles=[MUON, PROTON], interaction=2 - i)],
        )
        for i in range(3)
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
    vertex = [Vertex((0, 0, 1000 + 100.0 * i), particles=[MUON, PROTON], interaction=i) for i in range(14)]
    written = [
        event(i, detectors={"volTPCActive": walk(i, vertex[i].position)}, vertices=[vertex[i]]) for i in range(12)
    ]
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
    assert (events["vertex_mm"][known][:, 2] == [1000 + 100 * i for i in known]).all()


def test_repeated_and_negative_event_numbers(tmp_path, detector):
    runs = [event(1, run=2), event(1, run=3), event(-4, run=3)]
    events, _ = convert(write_edepsim(tmp_path / "a.root", runs), detector)
    assert events["event_id"].tolist() == [2_000_001, 3_000_001, 2_999_996]
    merged = [event(1), event(2), event(1), event(2), event(3)]
    events, _ = convert(write_edepsim(tmp_path / "b.root", merged), detector)
    assert events["event_id"].tolist() == [0, 1, 2, 3, 4]
    with h5py.File(tmp_path / "b.h5") as file:
        numbers = file["truth/numbers"][:]
    assert numbers["event_id"].tolist() == [0, 1, 2, 3, 4]
    assert numbers["event"].tolist() == [1, 2, 1, 2, 3]
    assert numbers["file"].tolist() == [0, 0, 1, 1, 1]
    assert numbers["run"].tolist() == [1] * 5


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
    assert "events left out: 2 of 4 (the first, event 2," in caplog.text


def test_events_without_hits_are_counted(tmp_path, detector, caplog):
    path = write_edepsim(
        tmp_path / "a.root", [event(1), event(2, detectors={}), event(3, detectors={"a": walk(0, n=0)})]
    )
    assert convert(path, detector)[0]["event_id"].tolist() == [1]
    assert "events left out: 2 of 3 (they have no segments)" in caplog.text
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


@pytest.mark.slow
def test_any_flipped_byte_is_either_harmless_or_told(tmp_path, detector):
    whole = write_edepsim(tmp_path / "a.root", [event(1), event(2)], baskets=2)
    any_flipped_byte_is_harmless_or_named(whole, lambda path: convert(path, detector, on_bad_event="skip"), 60)
