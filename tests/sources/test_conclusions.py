"""What a reader concludes about its file: in the log, and in the store that is written."""

import json
import logging

import h5py
import numpy as np
import zarr

from nuvlm.base.conclusions import Conclusions
from nuvlm.base.stores import open_store
from nuvlm.detector.displays import smear_and_downsample
from nuvlm.detector.geometry import Diffusion
from nuvlm.sources.interactions import Interaction
from nuvlm.sources.ready_maps import PixelMap, PixelMapWriter
from nuvlm.sources.shard_writer import VoxelShardWriter

FOUND = {"subject": "length unit", "value": "cm", "evidence": "dE/dx of 2.1 MeV/cm"}


def test_conclusions_are_logged_and_kept_in_the_shard(tmp_path, detector, caplog):
    writer = VoxelShardWriter(shard=tmp_path / "out.h5", detector=detector)
    start = np.tile(np.array([0.0, 0, 3000]), (2, 1))

    def events():
        yield Interaction(1, start, start + 2.5, np.ones(2), "event 1")
        writer.conclude(tmp_path / "in.h5", "axes", "z along the beam", "all events")

    with caplog.at_level(logging.INFO):
        writer.conclude(tmp_path / "in.h5", "length unit", "cm", "dE/dx of 2.1 MeV/cm")
        writer.write(tmp_path / "in.h5", events(), 1)
    with h5py.File(tmp_path / "out.h5") as file:
        found = json.loads(file.attrs["conclusions"])
    assert found[:2] == [FOUND, {"subject": "axes", "value": "z along the beam", "evidence": "all events"}]
    assert found[2]["subject"] == "energy loss"  # of the writer
    assert f"{tmp_path / 'in.h5'}: length unit: cm (dE/dx of 2.1 MeV/cm)" in caplog.messages


def test_conclusions_are_kept_in_a_pixel_map_store(tmp_path):
    writer = PixelMapWriter(store=tmp_path / "out.zarr", truth=tmp_path / "out.parquet")
    writer.conclude(tmp_path / "in.h5", "length unit", "cm", "dE/dx of 2.1 MeV/cm")
    maps = PixelMap("1", 1, np.ones((2, 16, 16), dtype=np.uint8))
    writer.write(tmp_path / "in.h5", [maps], 1, source="png", views=["xz", "yz"])
    assert json.loads(zarr.open_group(tmp_path / "out.zarr", mode="r").attrs["conclusions"])[0] == FOUND


def test_conclusions_about_a_shard_of_another_program_are_kept_with_its_displays(tmp_path, make_shard, detector):
    shard, displays = make_shard(truth=False), tmp_path / "displays.zarr"
    found = Conclusions()
    found.add(shard, "energies", "in MeV", "0.4 MeV a voxel")
    smear_and_downsample(shard, displays, detector=detector, diffusion=Diffusion(), pixel_mm=50, conclusions=found)
    kept = json.loads(open_store(displays, "nuvlm-displays").attrs["conclusions"])
    assert kept == [{"subject": "energies", "value": "in MeV", "evidence": "0.4 MeV a voxel"}]
