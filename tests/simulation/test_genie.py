"""Rootracker files of GENIE, NEUT and NuWro: every layout, their truth, and what is wrong with the wrong ones."""

import gzip
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import awkward as ak
import h5py
import numpy as np
import pytest
import uproot
from uproot.writing._cascadetree import Tree

from nuvlm.base.errors import InputError
from nuvlm.detector.geometry import Detector
from nuvlm.detector.voxels import MODES
from nuvlm.simulation.events import simulate_shard
from nuvlm.simulation.final_states import Particle
from nuvlm.simulation.genie import read_genie
from paths import SHARED

MASS_GEV = {11: 0.000511, 13: 0.10566, 2112: 0.93957, 2212: 0.93827, 211: 0.13957, 111: 0.13498, 321: 0.49368}
ARGON = 1000180400
CASE = SHARED / "cases" / "g2_nuwro.root"


@dataclass(frozen=True)
class Entry:
    """One interaction, as GENIE would write it."""

    nu: int = 14
    code: str = "nu:14;tgt:1000180400;N:2112;proc:Weak[CC],QES;"
    energy: float = 2.0
    final: tuple[tuple[int, float], ...] = ((13, 1.5), (2212, 0.4))
    """PDG code and momentum, GeV."""
    vertex: tuple[float, float, float] = (0.1, -0.2, 3.0)
    extra: tuple[tuple[int, int, tuple[float, float, float, float]], ...] = ()
    """PDG code, status, four-momentum."""

    def rows(self) -> list[tuple[int, int, tuple[float, float, float, float]]]:
        rows = [(self.nu, 0, (0.0, 0.0, self.energy, self.energy)), (ARGON, 0, (0.0, 0.0, 0.0, 37.2155))]
        for pdg, p in self.final:
            direction = p * np.array([0.6, 0.0, 0.8])
            mass = MASS_GEV.get(abs(pdg), 0.0)
            rows.append((pdg, 1, (*direction.tolist(), float(np.hypot(p, mass)))))
        return [*rows, *self.extra]


JAGGED, FLAT, FIXED = "jagged", "flat", "fixed"
WriteGenie = Callable[..., Path]


@pytest.fixture
def write_genie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteGenie:
    # uproot 5.7 counts the offsets of a branch of [n][4] as if it were [n]; ROOT, and GENIE with it, does not.
    write_basket = Tree.write_jagged_basket

    def write_jagged_basket(
        self: Tree, sink: object, name: str, compression: object, array: np.ndarray, offsets: np.ndarray
    ) -> object:
        offsets *= array.size // offsets[-1]
        return write_basket(self, sink, name, compression, array, offsets)

    monkeypatch.setattr(Tree, "write_jagged_basket", write_jagged_basket)

    def write(
        entries: list[Entry],
        name: str = "a",
        layout: str = JAGGED,
        scale: float = 1,
        folder: str = "",
        code: bool = True,
        tree_name: str = "gRooTracker",
        vertex: bool = True,
    ) -> Path:
        rows = [entry.rows() for entry in entries]
        longest = max(map(len, rows)) + 2
        columns = {
            "StdHepN": np.array([len(r) for r in rows], dtype=np.int32),
            "StdHepPdg": ak.values_astype(ak.Array([[pdg for pdg, _, _ in r] for r in rows]), "int32"),
            "StdHepStatus": ak.values_astype(ak.Array([[status for _, status, _ in r] for r in rows]), "int32"),
        }
        types: dict[str, object] = {"StdHepN": "int32", "StdHepPdg": "var * int32", "StdHepStatus": "var * int32"}
        momenta = [[[scale * value for value in p4] for _, _, p4 in r] for r in rows]
        if layout == JAGGED:
            columns["StdHepP4"], types["StdHepP4"] = ak.to_regular(ak.Array(momenta), axis=2), "var * 4 * float64"
        elif layout == FLAT:
            columns["StdHepP4"], types["StdHepP4"] = ak.flatten(ak.Array(momenta), axis=2), "var * float64"
        else:
            for key in ("StdHepPdg", "StdHepStatus"):
                columns[key] = ak.to_numpy(ak.fill_none(ak.pad_none(columns[key], longest, clip=True), 99)).astype("i4")
                types[key] = np.dtype(("i4", (longest,)))
            padded = np.full((len(rows), longest, 4), 7.0)
            for i, p4 in enumerate(momenta):
                padded[i, : len(p4)] = p4
            columns["StdHepP4"], types["StdHepP4"] = padded, np.dtype(("f8", (longest, 4)))
        columns["EvtVtx"], types["EvtVtx"] = np.array([[*e.vertex, 0.0] for e in entries]), np.dtype(("f8", (4,)))
        if code:
            columns["EvtCode"], types["EvtCode"] = ak.Array([entry.code for entry in entries]), "string"
        path = tmp_path / f"{name}.gtrac.root"
        with uproot.recreate(path) as file:
            if not vertex:
                del columns["EvtVtx"], types["EvtVtx"]
            tree = file.mktree(f"{folder}{tree_name}", types)
            tree.extend(columns)
        return path

    return write


def read(*paths: Path, first: int = 0, n: int = 1) -> list:
    return list(read_genie(paths, first, n))


@pytest.mark.parametrize("layout", [JAGGED, FLAT, FIXED])
def test_every_layout_of_the_arrays_is_read(write_genie: WriteGenie, layout: str) -> None:
    entries = [Entry(), Entry(final=((13, 1.0), (2212, 0.5), (211, 0.3)), energy=3.0)]
    first, second = read(write_genie(entries, layout=layout), n=2)
    assert [p.pdg for p in first.state.particles] == [13, 2212]
    assert [p.pdg for p in second.state.particles] == [13, 2212, 211]
    muon = second.state.particles[0]
    np.testing.assert_allclose((muon.px, muon.py, muon.pz), (600, 0, 800))
    assert muon.energy == pytest.approx(1e3 * np.hypot(1, MASS_GEV[13]))
    np.testing.assert_allclose(first.vertex_mm, (100, -200, 3000))


def test_truth_is_that_of_the_neutrino_and_its_lepton(write_genie: WriteGenie) -> None:
    (event,) = read(write_genie([Entry()]))
    state = event.state
    assert (state.nu_pdg, state.is_cc, state.nu_energy, state.mode) == (14, True, 2.0, MODES["QE"])
    assert state.inelasticity == pytest.approx(1 - np.hypot(1.5, MASS_GEV[13]) / 2)


def test_neutral_currents_keep_their_neutrino_and_its_energy(write_genie: WriteGenie) -> None:
    entry = Entry(12, "nu:12;tgt:1000180400;N:2112;proc:Weak[NC],DIS;", final=((12, 1.2), (111, 0.3), (2112, 0.1)))
    (event,) = read(write_genie([entry]))
    assert (event.state.is_cc, event.state.mode) == (False, MODES["DIS"])
    assert event.state.inelasticity == pytest.approx(0.4)
    assert [p.pdg for p in event.state.particles] == [12, 111, 2112]


@pytest.mark.parametrize(
    ("process", "mode"),
    [
        ("QES", "QE"),
        ("MEC", "MEC"),
        ("RES", "RES"),
        ("DIS", "DIS"),
        ("COH", "COH"),
        ("NuEEL", "unknown"),
        ("IMD", "unknown"),
    ],
)
def test_modes(write_genie: WriteGenie, process: str, mode: str) -> None:
    (event,) = read(write_genie([Entry(code=f"nu:14;tgt:{ARGON};N:2212;q:2(v);proc:Weak[CC],{process};res:0;")]))
    assert event.state.mode == MODES[mode]


@pytest.mark.parametrize(
    ("nu", "lepton", "is_cc"), [(14, 13, True), (-14, -13, True), (14, -13, False), (12, 13, False)]
)
def test_without_a_code_the_lepton_tells_the_current(
    write_genie: WriteGenie, nu: int, lepton: int, is_cc: bool
) -> None:
    (event,) = read(write_genie([Entry(nu=nu, final=((lepton, 0.5), (2212, 0.4)))], code=False))
    assert event.state.is_cc == is_cc
    assert event.state.mode == MODES["unknown"]


def test_the_tree_is_found_in_a_folder_as_edep_sim_keeps_it(write_genie: WriteGenie) -> None:
    assert read(write_genie([Entry()], folder="DetSimPassThru/"))[0].state.nu_pdg == 14


def test_entries_are_counted_through_all_files(write_genie: WriteGenie) -> None:
    paths = [write_genie([Entry(energy=2.0 + 3 * i + j) for j in range(3)], name=f"f{i}") for i in range(3)]
    energies = [event.state.nu_energy for event in read(*paths, first=2, n=5)]
    assert energies == [4.0, 5.0, 6.0, 7.0, 8.0]


def test_too_few_entries_say_how_many_there_are(write_genie: WriteGenie) -> None:
    path = write_genie([Entry()] * 3)
    with pytest.raises(
        InputError, match=r"hold 3 interactions, but 5 are needed\. Set input\.simulate\.events to at most 3"
    ):
        read_genie([path], 1, 4)  # before any is read


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (Entry(nu=22), "no incoming neutrino"),
        (Entry(final=()), "no final state"),
        (Entry(energy=float("nan")), "not a number"),
        (Entry(extra=((211, 1, (0.0, 0.0, float("inf"), 1.0)),)), "not a number"),
        (Entry(extra=((2212, 1, (0.0, 0.0, 0.5, 0.6)),)), "2212 off its mass shell"),
        (Entry(extra=((321, 1, (0.0, 0.0, 0.5, 0.3)),)), "321 off its mass shell"),
        (Entry(energy=-1.0), "a neutrino of -1 GeV"),
    ],
)
def test_entries_that_cannot_be_used_say_why(write_genie: WriteGenie, entry: Entry, why: str) -> None:
    good, bad = read(write_genie([Entry(), entry]), n=2)
    assert good.defect is None
    assert bad.state is None
    assert why in bad.defect


def test_mev_are_refused(write_genie: WriteGenie) -> None:
    with pytest.raises(InputError, match=r"not in GeV: masses are 1000 times"):
        read(write_genie([Entry()], scale=1000))


def test_files_that_are_no_genie_files(tmp_path: Path, write_genie: WriteGenie) -> None:
    with pytest.raises(InputError, match=r"missing\.root: no such file"):
        read(tmp_path / "missing.root")
    (tmp_path / "text.root").write_text("no ROOT file")
    with pytest.raises(InputError, match="not a ROOT file"):
        read(tmp_path / "text.root")
    with uproot.recreate(tmp_path / "other.root") as file:
        file["events"] = {"x": np.arange(3)}
    with pytest.raises(InputError, match="no tree 'gRooTracker' or 'nRooTracker' or 'gst'"):
        read(tmp_path / "other.root")
    with uproot.recreate(tmp_path / "less.root") as file:
        file["gRooTracker"] = {"StdHepN": np.arange(3)}
    with pytest.raises(InputError, match=r"no branch StdHepPdg, StdHepStatus, StdHepP4, EvtVtx"):
        read(tmp_path / "less.root")


@pytest.mark.parametrize(
    ("code", "mode", "is_cc"),
    [
        ("1", "QE", True),
        ("2", "MEC", True),
        ("-11", "RES", True),
        ("16", "COH", True),
        ("26", "DIS", True),
        ("15", "unknown", True),
        ("36", "COH", False),
        ("46", "DIS", False),
        ("-52", "QE", False),
        ("34.0", "RES", False),
        ("100", "unknown", True),
        ("0", "unknown", True),
    ],
)
@pytest.mark.parametrize("layout", [JAGGED, FIXED], ids=["NuWro", "NEUT"])
def test_neut_modes_of_nrootracker(write_genie: WriteGenie, layout: str, code: str, mode: str, is_cc: bool) -> None:
    nu = -14 if code.startswith("-") else 14
    entry = Entry(nu, code, final=((nu - np.sign(nu) if is_cc else nu, 1.5), (2212, 0.4)))
    (event,) = read(write_genie([entry], layout=layout, tree_name="nRooTracker"))
    assert (event.state.nu_pdg, event.state.mode, event.state.is_cc) == (nu, MODES[mode], is_cc)
    assert event.state.inelasticity == pytest.approx(1 - event.state.particles[0].energy / 2000)


def test_a_neutral_current_under_nuwros_code_of_both_currents(write_genie: WriteGenie) -> None:
    (event,) = read(write_genie([Entry(14, "2", final=((14, 1.5), (2212, 0.4)))], tree_name="nRooTracker"))
    assert (event.state.mode, event.state.is_cc) == (MODES["MEC"], False)


def test_a_code_that_the_particles_contradict_is_a_defect(write_genie: WriteGenie) -> None:
    (event,) = read(write_genie([Entry(14, "1", final=((14, 1.5), (2212, 0.4)))], tree_name="nRooTracker"))
    assert "EvtCode 1, a charged current, and no charged lepton" in event.defect


def test_nrootracker_in_mev_and_without_vertices_is_converted_and_says_so(
    write_genie: WriteGenie, caplog: pytest.LogCaptureFixture
) -> None:
    gev, mev = (
        write_genie([Entry(code="11")], name=f"s{scale}", tree_name="nRooTracker", scale=scale, vertex=False)
        for scale in (1, 1000)
    )
    with caplog.at_level(logging.INFO):
        (event,), (same,) = read(gev), read(mev)
    assert same.state.nu_energy == pytest.approx(event.state.nu_energy)
    np.testing.assert_allclose(same.state.particles, event.state.particles, rtol=1e-12)
    assert np.isnan(same.vertex_mm).all()
    assert [record.args[0] for record in caplog.records] == [mev]
    with pytest.raises(InputError, match="masses are 100 times too large"):
        read(write_genie([Entry(code="11")], tree_name="nRooTracker", scale=100))


def test_events_without_a_vertex_cannot_be_put_there(write_genie: WriteGenie, run: "Run") -> None:
    run.options = {"vertices": "file"}
    with pytest.raises(InputError, match=r"has no vertex \(see input\.simulate\.vertices\)"):
        run(0, 1, write_genie([Entry(code="1")], tree_name="nRooTracker", vertex=False))


@pytest.mark.skipif(not CASE.is_file(), reason="needs the shared case")
def test_the_nuwro_case() -> None:
    first, second = read(CASE, n=2)
    assert [MODES["QE"], MODES["DIS"]] == [first.state.mode, second.state.mode]
    assert first.state.is_cc
    assert second.state.is_cc
    assert (first.state.nu_pdg, first.state.nu_energy) == (14, 2.0)


def test_other_output_of_generators_is_named(tmp_path: Path) -> None:
    for tree, name in (("gtree", "gntpc"), ("treeout", "nuwro2rootracker"), ("hepmc3_tree", "NuHepMC")):
        with uproot.recreate(tmp_path / f"{tree}.root") as file:
            file[tree] = {"x": np.arange(3)}
        with pytest.raises(InputError, match=name):
            read(tmp_path / f"{tree}.root")
    text = b"HepMC::Version 3.02.05\nHepMC::Asciiv3-START_EVENT_LISTING\n"
    for name, content in (("a.hepmc3", text), ("a.hepmc3.gz", gzip.compress(text))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match="NuHepMC text, which is not read"):
            read(tmp_path / name)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_file_cut_short_is_refused(write_genie: WriteGenie, share: float) -> None:
    path = write_genie([Entry()] * 200)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"a\.gtrac\.root: "):
        read(path, n=200)


@dataclass
class Run:
    """Simulated shards of GENIE's events, in a small part of the argon."""

    path: Path
    options: dict = field(default_factory=dict)

    def __call__(self, first: int, n: int, *files: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        options = {"margin_mm": 300, "seed": 7, "files": files} | self.options
        simulate_shard(self.path, Detector(), first_event=first, n_events=n, **options)
        with h5py.File(self.path) as file:
            return file["events"][:], file["truth/particles"][:], file["truth/deposits"][:]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "out.h5")


def test_shards_are_cut_from_the_entries(write_genie: WriteGenie, run: Run) -> None:
    path = write_genie([Entry(energy=2.0 + i / 4) for i in range(6)])
    events, _, deposits = run(0, 6, path)
    assert events["event_id"].tolist() == list(range(6))
    assert events["nu_energy"].tolist() == [2.0 + i / 4 for i in range(6)]
    later, _, later_deposits = run(4, 2, path)
    assert (later["event_id"] == [4, 5]).all()
    np.testing.assert_array_equal(later["vertex_mm"], events["vertex_mm"][4:])
    assert later_deposits.tobytes() == deposits[deposits["event_id"] >= 4].tobytes()


def test_vertices_are_uniform_in_the_fiducial_volume_or_the_files(write_genie: WriteGenie, run: Run) -> None:
    path = write_genie([Entry()] * 4)
    events, _, _ = run(0, 4, path)
    assert len(np.unique(events["vertex_mm"], axis=0)) == 4
    run.options = {"vertices": "file", "offset_mm": (10.0, 0.0, -500.0)}
    events, _, _ = run(0, 4, path)
    np.testing.assert_allclose(events["vertex_mm"], [(110, -200, 2500)] * 4)


def test_neutrinos_are_kept_in_truth_and_leave_nothing(write_genie: WriteGenie, run: Run) -> None:
    entry = Entry(14, "nu:14;proc:Weak[NC],RES;", final=((14, 1.0), (111, 0.5)))
    _, particles, deposits = run(0, 1, write_genie([entry]))
    assert particles["pdg"].tolist() == deposits["pdg"].tolist() == [14, 111]
    neutrino, pion = deposits
    assert neutrino["energy_mev"] == neutrino["length_mm"] == neutrino["leaves"] == 0
    assert pion["energy_mev"] == pytest.approx(1e3 * np.hypot(0.5, MASS_GEV[111]), rel=0.25)
    assert pion["electromagnetic_mev"] > 0.9 * pion["energy_mev"]


def test_what_geant4_does_not_follow_is_left_out_and_counted(
    write_genie: WriteGenie, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    nucleus, binding = (1000170390, 1, (0.0, 0.0, 0.0, 36.28)), (2000000101, 1, (0.0, 0.0, 0.0, 0.025))
    kaon = (321, 1, (0.0, 0.3, 0.0, float(np.hypot(0.3, MASS_GEV[321]))))
    with caplog.at_level(logging.WARNING):
        _, particles, deposits = run(
            0, 2, write_genie([Entry(extra=(nucleus, binding, kaon)), Entry(extra=(binding,))])
        )
    assert particles["pdg"].tolist() == [13, 2212, 321, 13, 2212]
    assert deposits["energy_mev"][2] > 80
    (record,) = caplog.records
    assert "3 final-state particles that GEANT4 cannot track left out (2 of PDG code 2000000101, 1 of" in record.message


def test_bad_events_are_errors_or_left_out_as_one_likes(
    write_genie: WriteGenie, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    outside = replace(Entry(), vertex=(0.0, 0.0, 9.0))
    path = write_genie([Entry(), Entry(nu=22), outside, Entry()])
    run.options = {"vertices": "file"}
    with pytest.raises(InputError, match=r"entry 1 has no incoming neutrino.*set input\.on_bad_event to skip"):
        run(0, 4, path)
    with pytest.raises(InputError, match=r"entry 2 has its vertex at .*9000\.0\] mm, outside the detector"):
        run(2, 2, path)
    run.options["on_bad_event"] = "skip"
    with caplog.at_level(logging.WARNING):
        events, _, _ = run(0, 4, path)
    assert events["event_id"].tolist() == [0, 3]
    assert "2 events left out; the first: " in caplog.text
    assert "entry 1 has no incoming neutrino" in caplog.text


def test_an_interaction_that_leaves_nothing_is_a_bad_event(write_genie: WriteGenie, run: Run) -> None:
    run.options = {"vertices": "file"}
    with pytest.raises(InputError, match="entry 0 leaves no energy in the detector"):
        run(0, 1, write_genie([Entry(final=((14, 1.9),), code="proc:Weak[NC],QES;")]))
    # 20 keV, which no display shows.
    with pytest.raises(InputError, match=r"entry 0 leaves no energy in the detector \(less than 0.04 MeV\)"):
        run(0, 1, write_genie([Entry(final=((14, 1.9), (22, 2e-5)), code="proc:Weak[NC],QES;")]))


def test_kinetic_energy_of_any_particle() -> None:
    assert Particle(411, 0, 0, 300, float(np.hypot(300, 1869.7))).kinetic == pytest.approx(
        np.hypot(300, 1869.7) - 1869.7
    )
