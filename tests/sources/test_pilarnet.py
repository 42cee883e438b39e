"""PILArNet-M files: voxels without a neutrino, of both widths of clusters; damaged files."""

import h5py
import numpy as np
import pytest

from image_files import events, write_pilarnet
from nuvlm.base.errors import InputError
from nuvlm.detector.voxels import open_shard, voxelize_boxes
from nuvlm.sources import pilarnet
from nuvlm.sources.pilarnet import convert_pilarnet, recognise_pilarnet
from nuvlm.sources.shard_writer import VoxelShardWriter

OFFSET = (-300.0, -150.0, 0.0)


def convert(path, detector, **settings):
    out = path.with_suffix(".voxels.h5")
    convert_pilarnet(path, VoxelShardWriter(shard=out, detector=detector, **({"offset_mm": OFFSET} | settings)))
    with open_shard(out, detector) as shard:
        return shard.events, [block for _, block, _ in shard.blocks(1)]


@pytest.mark.parametrize("width", [5, 6])
def test_voxels_are_boxes_of_3_mm_without_truth(tmp_path, detector, width, monkeypatch):
    monkeypatch.setattr(pilarnet, "AT_ONCE", 3)
    made = events(7)
    path = write_pilarnet(tmp_path / "a.h5", made, width)
    rows, blocks = convert(path, detector)
    assert rows["event_id"].tolist() == list(range(7))
    assert (rows["nu_pdg"] == 0).all()
    assert np.isnan(rows["vertex_mm"]).all()
    for event, block in zip(made, blocks, strict=True):
        wanted, _ = voxelize_boxes(detector, 3 * (event.index + 0.5) + OFFSET, (3, 3, 3), event.value)
        np.testing.assert_array_equal(block.z, wanted.z)
        np.testing.assert_allclose(block.energy, wanted.energy, rtol=1e-5)
    assert recognise_pilarnet(path) == "PILArNet-M HDF5: 7 events"


def test_without_an_offset_the_cube_lies_outside(tmp_path, detector):
    path = write_pilarnet(tmp_path / "a.h5", events(2), origin=400)
    with pytest.raises(InputError, match=r"outside the detector.*offset_mm"):
        convert(path, detector, offset_mm=(0, 0, 0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row[:-1], "numbers for its voxels, not 8 each"),
        (lambda row: row + 10000, "outside the cube of 768 voxels"),
        (lambda row: row[:-8], "clusters that do not add up to its 109 voxels"),
        (lambda row: row * np.nan, "outside the cube"),
    ],
)
def test_events_that_cannot_be_used(tmp_path, detector, change, message):
    path = write_pilarnet(tmp_path / "a.h5", events(3))
    with h5py.File(path, "a") as file:
        file["point"][1] = change(file["point"][1])
    with pytest.raises(InputError, match=f"entry 1 has .*{message}"):
        convert(path, detector)
    assert convert(path, detector, on_bad_event="skip")[0]["event_id"].tolist() == [0, 2]


def test_other_files_are_refused(tmp_path, detector):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["point"] = np.zeros((3, 8))
    with pytest.raises(InputError, match="not PILArNet-M"):
        convert(tmp_path / "a.h5", detector)
    (tmp_path / "b.h5").write_text("no HDF5")
    with pytest.raises(InputError, match="not HDF5"):
        convert(tmp_path / "b.h5", detector)
    for name in ("a.h5", "b.h5", "c.h5"):
        assert recognise_pilarnet(tmp_path / name) is None
    path = write_pilarnet(tmp_path / "d.h5", events(3))
    with h5py.File(path, "a") as file:
        for i in range(3):
            row = file["point"][i]
            row[3::8] *= 1000
            file["point"][i] = row
    with pytest.raises(InputError, match=r"not MeV.* Set input\.mev_per_unit"):
        convert(path, detector)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_file_cut_short_is_refused(tmp_path, detector, share):
    path = write_pilarnet(tmp_path / "a.h5", events(30))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"a\.h5: "):
        convert(path, detector)
