"""LArCV and SPINE files: every layout gives the same voxels and truth; what contradicts itself is refused."""

import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import uproot

from flipped_bytes import any_flipped_byte_is_harmless_or_named
from image_files import COUNT, LARCV2, LOW_CM, VOXEL_CM, events, write_larcv3, write_spine
from nuvlm.base.errors import InputError
from nuvlm.detector.geometry import Detector
from nuvlm.detector.voxels import MODES, open_shard, voxelize_boxes
from nuvlm.sources import hdf5_rows, larcv_root
from nuvlm.sources.image_truth import GENIE_MODES, LARSOFT_MODES, NeutrinoRow, mode_names, neutrino_truth
from nuvlm.sources.larcv import convert_larcv, recognise_larcv
from nuvlm.sources.larcv_charge import convert_larcv_charge, recognise_larcv_charge
from nuvlm.sources.memberwise import LayoutError, decode_voxels
from nuvlm.sources.shard_writer import DriftedShardWriter, VoxelShardWriter
from nuvlm.sources.voxel_images import choose_product


class Shard:
    """A converted file."""

    def __init__(self, path: Path, detector: Detector, charge=False, **settings) -> None:
        out = path.parent / f"{path.stem}.voxels.h5"
        kind, convert = (DriftedShardWriter, convert_larcv_charge) if charge else (VoxelShardWriter, convert_larcv)
        convert(path, kind(shard=out, detector=detector, **settings))
        with open_shard(out, detector) as shard:
            self.events, self.particles, self.drifted = shard.events, shard.truth("particles"), shard.drifted
            self.blocks = [block for _, block, _ in shard.blocks(1)]
        with h5py.File(out) as file:
            self.conclusions = {row["subject"]: row for row in json.loads(file.attrs["conclusions"])}


def expected(detector, event, factor=1.0):
    """Voxels of an event of `events`, without the code under test."""
    centre = 10 * (LOW_CM + VOXEL_CM * (event.index + 0.5))
    return voxelize_boxes(detector, centre, (3, 3, 3), factor * event.value.astype(np.float64))[0]


def assert_same(block, voxels):
    for name in ("x", "y", "z"):
        np.testing.assert_array_equal(getattr(block, name), getattr(voxels, name))
    np.testing.assert_allclose(block.energy, voxels.energy, rtol=1e-5)


def write(kind: str, path: Path, made):
    """One of the layouts; its truth, and the product of deposits."""
    if kind == "root":
        path.write_bytes(LARCV2.read_bytes())
    elif kind.startswith("larcv3"):
        write_larcv3(path, made, {"cluster3d_pcluster" if "clusters" in kind else "sparse3d_pcluster": 1.0})
    else:
        write_spine(path, made, layout=int(kind[-1]), in_cm="cm" in kind)
    return path


LAYOUTS = ["root", "larcv3", "larcv3 clusters", "spine cm 1", "spine voxels 1", "spine cm 2", "spine voxels 2"]


@pytest.mark.parametrize("kind", LAYOUTS)
def test_every_layout_gives_the_same_voxels_and_truth(tmp_path, detector, kind):
    made = events(12)
    shard = Shard(write(kind, tmp_path / "a.h5", made), detector)
    half = 0.5 if kind.startswith("spine") else 1.0
    assert shard.events["event_id"].tolist() == [event.number for event in made]
    assert not shard.drifted
    for event, block in zip(made, shard.blocks, strict=True):
        assert_same(block, expected(detector, event, half))
    assert shard.events["nu_pdg"].tolist() == [event.nu_pdg for event in made]
    assert shard.events["is_cc"].tolist() == [event.is_cc for event in made]
    assert shard.events["mode"].tolist() == [MODES[LARSOFT_MODES[event.mode]] for event in made]
    np.testing.assert_allclose(shard.events["nu_energy"], 1.5)
    np.testing.assert_allclose(shard.events["vertex_mm"], [10 * event.vertex_cm for event in made], atol=1e-3)
    assert "100% of 12 vertices" in shard.conclusions["axes of the image"]["evidence"]
    assert shard.conclusions["energy unit"]["value"] == "MeV"
    assert recognise_larcv(tmp_path / "a.h5").startswith(
        ("LArCV 2 ROOT: sparse3d", "LArCV 3 HDF5: ", "SPINE HDF5, lay")
    )


def test_the_clusters_of_a_root_file_are_its_sparse_tensor(tmp_path, detector):
    path = write("root", tmp_path / "a.root", None)
    shard = Shard(path, detector, product="cluster3d_pcluster")
    for event, block in zip(events(12), shard.blocks, strict=True):
        assert_same(block, expected(detector, event))


@pytest.mark.parametrize("kind", ["larcv3", "root"])
def test_primary_particles_are_the_final_state(tmp_path, detector, kind):
    path = write(kind, tmp_path / "a.h5", events(2))
    particles = Shard(path, detector).particles
    particles = particles[particles["event_id"] == 41][:2]
    assert particles["pdg"].tolist() == [11, 2212]
    np.testing.assert_allclose(particles["momentum_mev"], [(0, 0, 300), (200, 0, 0)])
    mass = 105.658 if kind == "root" else 0.511  # the file was written with muons, whose energy it has kept
    np.testing.assert_allclose(particles["kinetic_mev"], [np.hypot(300, mass) - mass, 21.08], atol=0.02)


@pytest.mark.parametrize("kind", ["root", "larcv3", "spine"])
def test_charge_is_not_drifted_again(tmp_path, detector, kind):
    made, path = events(12), tmp_path / "a.h5"
    if kind == "larcv3":
        write_larcv3(path, made, {"sparse3d_pcluster": 1.0, "sparse3d_reco": 100.0})
    else:
        write("root" if kind == "root" else "spine cm 1", path, made)
    mev = 1.0 if kind == "spine" else 0.01
    shard = Shard(path, detector, charge=True, mev_per_unit=mev)
    assert shard.drifted
    assert_same(shard.blocks[3], expected(detector, made[3]))
    assert "not drifted again" in shard.conclusions["product"]["value"]
    assert shard.conclusions["product"]["value"].startswith("depositions:" if kind == "spine" else "sparse3d_reco:")
    assert recognise_larcv_charge(path)
    if kind != "spine":
        with pytest.raises(InputError, match=r"sparse3d_reco are not MeV: .* below 208 MeV .* it is about 0\.012"):
            Shard(path, detector, charge=True)


def test_deposits_and_charge_are_not_taken_for_each_other(tmp_path, detector):
    path = write("root", tmp_path / "a.root", None)
    with pytest.raises(
        InputError, match=r"sparse3d_reco holds charge that was read out.* input\.source to larcv_charge"
    ):
        Shard(path, detector, product="sparse3d_reco")
    with pytest.raises(InputError, match=r"has not drifted|have not drifted.* Set input\.source to larcv\."):
        Shard(path, detector, charge=True, product="sparse3d_pcluster")
    with pytest.raises(InputError, match=r"without 'sparse3d_x'; it has .*sparse3d_pcluster_semantics"):
        Shard(path, detector, product="sparse3d_x")
    path = write_larcv3(tmp_path / "b.h5", events(2), {"sparse3d_pcluster": 1.0})
    assert recognise_larcv_charge(path) is None
    with pytest.raises(InputError, match=r"without a product of charge .* Set input\.source to larcv"):
        Shard(path, detector, charge=True)


@pytest.mark.parametrize(
    ("found", "drifted", "chosen"),
    [
        (["cluster3d_pcluster", "sparse3d_pcluster", "sparse3d_pcluster_semantics"], False, "sparse3d_pcluster"),
        (["sparse3d_reco", "sparse3d_reco_chi2", "cluster3d_pcluster"], False, "cluster3d_pcluster"),
        (["sparse3d_reco_hit_charge0", "sparse3d_reco", "sparse3d_reco_nhits"], True, "sparse3d_reco"),
        (["cluster3d_mcst", "sparse3d_fivetypes"], False, "cluster3d_mcst"),
        (["sparse3d_voxels"], False, "sparse3d_voxels"),
        (["depositions", "depositions_label"], False, "depositions_label"),
        (["depositions", "depositions_label"], True, "depositions"),
        (["sparse3d_a", "sparse3d_b"], False, None),
        (["sparse3d_pcluster_index"], False, None),
        ([], True, None),
    ],
)
def test_the_product_is_chosen_by_name(tmp_path, found, drifted, chosen):
    if chosen is None:
        with pytest.raises(InputError, match=r"Set input\.(product|source)|Only sparse 3D"):
            choose_product(tmp_path, "LArCV", found, None, drifted)
    else:
        assert choose_product(tmp_path, "LArCV", found, None, drifted) == chosen


@pytest.mark.parametrize("factor", [1000, 1e-3, 1e4])
def test_values_that_are_not_mev_are_refused_with_the_factor(tmp_path, detector, factor):
    path = write_larcv3(tmp_path / "a.h5", events(3), {"sparse3d_pcluster": factor})
    with pytest.raises(InputError, match=r"are not MeV: half of the sum .* Set input\.mev_per_unit"):
        Shard(path, detector)
    shard = Shard(path, detector, mev_per_unit=1 / factor)
    assert_same(shard.blocks[1], expected(detector, events(3)[1]))


def test_exchanged_axes_are_refused_by_the_vertices(tmp_path, detector):
    path = write_larcv3(tmp_path / "a.h5", events(12))
    with h5py.File(path, "a") as file:
        voxels = file["Data/sparse3d_pcluster_group/voxels"]
        rows = voxels[:]
        x, rest = np.divmod(rows["id"], int(COUNT[1] * COUNT[2]))
        y, z = np.divmod(rest, int(COUNT[2]))
        rows["id"] = (z * 100 + y) * 200 + x  # as LArCV 2 numbers them
        voxels[:] = rows
    with pytest.raises(InputError, match=r"0% of 12 vertices lie within 50 mm of a voxel"):
        Shard(path, detector, on_bad_event="skip")


def test_truth_of_other_events_is_refused(tmp_path, detector, monkeypatch):
    read = larcv_root._Product.numpy
    monkeypatch.setattr(larcv_root._Truth, "numpy", lambda self, *args: read(self, *args) + 1)
    with pytest.raises(
        InputError, match=r"particle_pcluster and sparse3d_pcluster belong to different events \(by run\)"
    ):
        Shard(write("root", tmp_path / "a.root", None), detector)


@pytest.mark.parametrize("gev", [True, False])
def test_neutrino_energies_in_gev_and_mev(tmp_path, detector, gev):
    shard = Shard(write_spine(tmp_path / "a.h5", events(12), gev=gev), detector)
    np.testing.assert_allclose(shard.events["nu_energy"], 1.5)
    assert shard.conclusions["unit of neutrino energies"]["value"] == ("GeV" if gev else "MeV")


def test_several_neutrinos_have_no_class(tmp_path, detector):
    made = events(4)
    made[2] = replace(made[2], neutrinos=2)
    made[3] = replace(made[3], neutrinos=0)
    for path in (write_larcv3(tmp_path / "a.h5", made), write_spine(tmp_path / "b.h5", made)):
        assert Shard(path, detector).events["nu_pdg"].tolist() == [14, 12, 0, 0]


def test_currents_leptons_and_modes():
    truth, defect = neutrino_truth([NeutrinoRow(14, 0, 1, 1.0, lepton_pdg=14)], LARSOFT_MODES)
    assert truth.nu_pdg == 0
    assert "they contradict" in defect
    assert neutrino_truth([NeutrinoRow(14, 32767, 1, 1.0, lepton_pdg=13)], {})[0].is_cc
    assert neutrino_truth([NeutrinoRow(14, 32767, 1, 1.0)], {})[0].nu_pdg == 0
    far = neutrino_truth([NeutrinoRow(-12, 1, 3, 1.7e308, 7.0, (1.7e308, 0, 0))], GENIE_MODES)[0]
    assert (far.nu_pdg, far.is_cc, far.mode) == (-12, False, MODES["DIS"])
    assert np.isnan([far.nu_energy, far.inelasticity, *far.vertex_mm]).all()
    assert mode_names([0, 1, 10], [])[0] == LARSOFT_MODES
    assert mode_names([1, 4, 10], [])[0] == GENIE_MODES
    assert mode_names([1, 10], [1003])[0] == LARSOFT_MODES
    assert mode_names([1, 2, 10], [])[0] == {10: "MEC"}


def test_a_scheme_that_the_modes_contradict_leaves_them_unknown(tmp_path, detector):
    path = write_spine(tmp_path / "a.h5", events(8), scheme=1)
    shard = Shard(path, detector)
    assert (shard.events["mode"] == 0).all()
    assert "contradicts LArSoft's numbers" in shard.conclusions["scattering modes"]["evidence"]


def test_event_numbers_that_repeat_are_replaced_by_the_place(tmp_path, detector):
    made = [replace(event, number=3) for event in events(3)]
    shard = Shard(write_larcv3(tmp_path / "a.h5", made), detector)
    assert shard.events["event_id"].tolist() == [0, 1, 2]
    assert "repeat" in shard.conclusions["event ids"]["evidence"]


def test_events_outside_and_without_voxels(tmp_path, detector, caplog):
    made = events(4)
    made[1] = replace(made[1], index=made[1].index[:0], value=made[1].value[:0])
    path = write_larcv3(tmp_path / "a.h5", made, truth=False)
    assert Shard(path, detector).events["event_id"].tolist() == [40, 42, 43]
    assert "events left out: 1 of 4 (they have no segments)" in caplog.text
    with pytest.raises(InputError, match=r"lie outside the detector|lies outside the detector"):
        Shard(path, detector, offset_mm=(5000, 0, 0))


def test_a_voxel_outside_its_image_is_a_bad_event(tmp_path, detector):
    path = write_larcv3(tmp_path / "a.h5", events(3))
    with h5py.File(path, "a") as file:
        voxels = file["Data/sparse3d_pcluster_group/voxels"]
        rows = voxels[:]
        rows["id"][120] = 2**64 - 1
        voxels[:] = rows
    with pytest.raises(InputError, match=r"event 41 has voxel 18446744073709551615 in an image of 6000000 voxels"):
        Shard(path, detector)
    assert Shard(path, detector, on_bad_event="skip").events["event_id"].tolist() == [40, 42]


def test_blocks_do_not_change_the_result(tmp_path, detector, monkeypatch):
    made = events(40)
    for kind in ("larcv3", "larcv3 clusters", "spine cm 1", "spine cm 2", "root"):
        path = write(kind, tmp_path / "a.h5", made)
        whole = Shard(path, detector)
        monkeypatch.setattr(hdf5_rows, "ROWS_AT_ONCE", 300)
        monkeypatch.setattr(larcv_root, "BLOCK_BYTES", 3000)
        parts = Shard(path, detector)
        monkeypatch.undo()
        assert whole.events.tobytes() == parts.events.tobytes()
        assert all(a.energy.tobytes() == b.energy.tobytes() for a, b in zip(whole.blocks, parts.blocks, strict=True))


def test_files_without_images_are_named(tmp_path, detector):
    with uproot.recreate(tmp_path / "one.root") as file:
        file["image2d_wire_tree"] = {"x": np.arange(3)}
    assert recognise_larcv(tmp_path / "one.root") == "LArCV 2 ROOT; not read: image2d_wire"
    with pytest.raises(InputError, match="LArCV 2 ROOT without a product of energy deposits; it has no sparse 3D"):
        Shard(tmp_path / "one.root", detector)
    with uproot.recreate(tmp_path / "two.root") as file:
        file["partroi_mc_tree"] = {"x": np.arange(3)}
    with pytest.raises(InputError, match="LArCV 1 ROOT; not read: partroi_mc"):
        Shard(tmp_path / "two.root", detector)
    with uproot.recreate(tmp_path / "three.root") as file:
        file["tree"] = {"x": np.arange(3)}
    with pytest.raises(InputError, match="ROOT without trees of LArCV"):
        Shard(tmp_path / "three.root", detector)
    with h5py.File(tmp_path / "four.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(InputError, match="HDF5 of neither LArCV nor SPINE"):
        Shard(tmp_path / "four.h5", detector)
    path = write_spine(tmp_path / "five.h5", events(2))
    with h5py.File(path, "a") as file:
        del file["points"], file["points_label"]
    with pytest.raises(InputError, match=r"layout 1, made by SPINE 0\.9\.2; not read: depositions"):
        Shard(path, detector)
    with h5py.File(path, "a") as file:
        file["info"].attrs["complete"] = False
    with pytest.raises(InputError, match="marked as incomplete"):
        Shard(path, detector)


@pytest.mark.parametrize("kind", ["larcv3", "larcv3 clusters", "spine cm 1", "spine cm 2", "root"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_a_file_cut_short_is_refused(tmp_path, detector, kind, share):
    path = write(kind, tmp_path / "a.h5", events(12))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"a\.h5: "):
        Shard(path, detector)
    assert recognise_larcv(path) is None or kind == "root"


@pytest.mark.parametrize(
    "kind", ["larcv3 clusters", "spine cm 1", "spine cm 2", pytest.param("root", marks=pytest.mark.slow)]
)
def test_any_flipped_byte_is_harmless_or_an_error(tmp_path, detector, kind):
    whole = write(kind, tmp_path / "a.h5", events(12))
    any_flipped_byte_is_harmless_or_named(whole, lambda path: Shard(path, detector, on_bad_event="skip"), 40)


@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        ("extents", lambda rows: rows.__setitem__("first", rows["first"] + 10), "without the one they name"),
        ("extents", lambda rows: rows.__setitem__("n", 2), "several images"),
        ("voxel_extents", lambda rows: rows.__setitem__("n", 2**31), "the maximum is 10000000"),
        ("voxel_extents", lambda rows: rows.__setitem__("first", 2**40), "incomplete"),
        ("voxel_extents", lambda rows: rows.__setitem__("first", 2**63 + 5), "incomplete"),
        ("image_meta", lambda rows: rows.__setitem__("number_of_voxels", 0), r"has an image of \(0, 0, 0\) voxels"),
        ("image_meta", lambda rows: rows.__setitem__("image_sizes", np.nan), "has an image of"),
        ("image_meta", lambda rows: rows.__setitem__("number_of_voxels", 2**63), "has an image of"),
    ],
)
def test_tables_that_do_not_match(tmp_path, detector, table, change, message):
    path = write_larcv3(tmp_path / "a.h5", events(3))
    with h5py.File(path, "a") as file:
        dataset = file[f"Data/sparse3d_pcluster_group/{table}"]
        rows = dataset[:]
        change(rows)
        dataset[:] = rows
    with pytest.raises(InputError, match=message):
        Shard(path, detector)


def test_member_wise_voxels_of_another_layout_are_refused():
    good = bytes.fromhex(
        "40000034400a00007a384fda00000001000000000000000 03e800000 00000002 0000000000000064 0000000000000065"
        " 3e800000 3fa00000".replace(" ", "")
    )
    ids, values = decode_voxels(np.frombuffer(good, dtype=np.uint8))
    assert ids.tolist() == [0, 100, 101]
    assert values.tolist() == [0.25, 0.25, 1.25]
    for bad in (good[:-4], good + b"\0", b"\0" * 20, good.replace(b"\x40\x0a", b"\x00\x0a")):
        with pytest.raises(LayoutError):
            decode_voxels(np.frombuffer(bad, dtype=np.uint8))
