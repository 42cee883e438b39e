"""Files that were once read wrong: each is read right, marked, or refused with a remedy."""

import json

import h5py
import numpy as np
import pytest

from nuvlm.base.errors import InputError
from nuvlm.base.stores import open_store
from nuvlm.detector.crop import crop_displays
from nuvlm.detector.displays import smear_and_downsample
from nuvlm.detector.geometry import Detector, Diffusion
from nuvlm.detector.voxels import open_shard
from nuvlm.sources.edepsim import convert_edepsim
from nuvlm.sources.larndsim import convert_larndsim
from nuvlm.sources.shard_writer import VoxelShardWriter
from paths import SHARED

CASES = SHARED / "cases"
pytestmark = pytest.mark.skipif(not CASES.exists(), reason="needs the sample files")


def convert(tmp_path, name, offset=(0, 0, 3500), **settings):
    out = tmp_path / f"{name}.voxels.h5"
    reader = convert_edepsim if name.endswith(".root") else convert_larndsim
    reader(CASES / name, VoxelShardWriter(shard=out, detector=Detector(), offset_mm=offset, **settings))
    with open_shard(out, Detector()) as shard, h5py.File(out) as file:
        found = json.loads(file.attrs["conclusions"])
        return shard.events, [block for _, block, _ in shard.blocks(1)], [c["subject"] for c in found if c.get("doubt")]


@pytest.mark.parametrize("name", ["c1_zdrift_vertices.h5", "c1_zdrift_plain.h5"])
def test_exchanged_axes_are_read_as_the_right_ones(tmp_path, name):
    right, voxels, doubts = convert(tmp_path, "c1_zbeam_ok.h5")
    events, same, marked = convert(tmp_path, name)
    assert not doubts
    assert marked == ["axes of the segments"]
    for one, other in zip(voxels, same, strict=True):
        for axis in ("x", "y", "z", "energy"):
            np.testing.assert_allclose(getattr(one, axis), getattr(other, axis), rtol=1e-5)
    if "plain" not in name:
        np.testing.assert_allclose(events["vertex_mm"], right["vertex_mm"])


@pytest.mark.parametrize("name", ["c1_zbeam_ok.h5", "c1_zdrift_vertices.h5", "c3_vertices_mm.h5"])
def test_a_forgotten_offset_is_proposed(tmp_path, name):
    with pytest.raises(InputError, match=r"lie outside the detector.*OFFSET=0,0,3500"):
        convert(tmp_path, name, (0, 0, 0))


def test_vertices_of_another_numbering_or_unit_lie_at_their_charge(tmp_path):
    for name, offset in (("c2_dumptree2023.h5", (0, 0, 0)), ("c3_vertices_mm.h5", (0, 0, 3500))):
        events, voxels, doubts = convert(tmp_path, name, offset)
        assert len(doubts) == 1
        for event, block in zip(events, voxels, strict=True):
            assert abs(5 * int(block.z.min()) - event["vertex_mm"][2]) <= 5


def test_spills_keep_their_ids_and_count_the_rock(tmp_path):
    events, _, doubts = convert(tmp_path, "c4_spill_with_rock.h5", (0, 0, 0))
    assert len(events) == 20
    assert 2**64 - 2 in events["event_id"].tolist()
    assert doubts == ["vertices outside", "events left out"]


def test_rock_events_are_seen_where_their_charge_is(tmp_path):
    convert(tmp_path, "c4_spill_with_rock.h5", (0, 0, 0))
    shard, displays, maps = tmp_path / "c4_spill_with_rock.h5.voxels.h5", tmp_path / "a.zarr", tmp_path / "b.zarr"
    smear_and_downsample(shard, displays, detector=Detector(), diffusion=Diffusion(), pixel_mm=50)
    crop_displays(displays, maps, size=112, centre="charge", transfer="log", white_mev=100, knee_mev=1)
    store = open_store(maps, "nuvlm-pixelmaps")
    images, share = store["images"][:], store["window_share"][:]
    assert len(images) == 20
    assert images.any(axis=(2, 3)).all(), "no view is black"
    # A muon of 6 m that enters at the middle of a window of 5.6 m.
    assert share.min() > 0.45


def test_merged_files_and_impossible_truth(tmp_path):
    events, _, doubts = convert(tmp_path, "e1_hadd.root", (0, 0, 0))
    assert events["event_id"].tolist() == list(range(6))
    assert doubts == ["event ids"]
    events, _, doubts = convert(tmp_path, "y1_garbage_y.h5", (0, 0, 0))
    assert "impossible truth" in doubts
    assert not (np.abs(events["inelasticity"] - 0.5) > 0.5).any()


@pytest.mark.parametrize(("name", "kind"), [("g1_genie_fsi.gtrac.root", "gRooTracker"), ("g2_nuwro.root", "Tracker")])
def test_files_of_another_kind_are_named(tmp_path, name, kind):
    with pytest.raises(InputError, match=f"It is .*{kind}"):
        convert(tmp_path, name)
