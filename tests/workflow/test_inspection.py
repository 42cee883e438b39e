"""make inspect: what is said about files of every kind, and that it is what a run would see."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from PIL import Image

from nuvlm.base.errors import InputError
from nuvlm.detector.geometry import Detector
from nuvlm.report.pictures import terminal_picture
from nuvlm.workflow.inspection import inspect_file, main, only_source, recognise, render
from paths import REPOSITORY, SHARED

VALUES = yaml.safe_load((REPOSITORY / "config" / "config.yaml").read_text())
CASES = SHARED / "cases"


@pytest.fixture
def pixel_maps(tmp_path: Path) -> Path:
    folder = tmp_path / "maps"
    folder.mkdir()
    for event in range(3):
        for view in ("xz", "yz"):
            image = np.zeros((32, 32), dtype=np.uint8)
            image[10 + event, 5:20] = 200
            Image.fromarray(image).save(folder / f"{event}_{view}.png")
        (folder / f"{event}_pid.txt").write_text(("nuecc", "numucc", "nc")[event])
    return folder


def test_a_voxel_shard_is_recognised_counted_and_drawn(make_shard, tmp_path, monkeypatch, capsys):
    shard = make_shard("mine", n=4)
    monkeypatch.chdir(REPOSITORY)
    main([str(shard), "--out", str(tmp_path / "out")])
    text = capsys.readouterr().out
    assert "(source voxels)" in text
    assert "4; of the first 4: 2 nue_cc, 1 numu_cc, 1 nc; 4 with a vertex" in text
    assert f"make classify SOURCE=voxels FILE={shard}" in text
    picture = np.asarray(Image.open(tmp_path / "out" / "mine.png").convert("L"))
    assert len(np.unique(picture)) > 10


def test_the_pictures_are_those_of_a_run(make_shard, tmp_path):
    from nuvlm.base.stores import open_store
    from nuvlm.detector.crop import crop_displays
    from nuvlm.detector.displays import smear_and_downsample
    from nuvlm.detector.geometry import Diffusion
    from nuvlm.workflow.config import parse_config

    shard = make_shard("mine", n=3)
    (tmp_path / "a").mkdir()
    found = inspect_file(shard, VALUES, tmp_path / "a")
    settings = parse_config(VALUES)
    smear_and_downsample(shard, tmp_path / "d.zarr", detector=Detector(), diffusion=Diffusion(), pixel_mm=50)
    crop_displays(tmp_path / "d.zarr", tmp_path / "m.zarr", **settings.pixelmap.of_maps)
    np.testing.assert_array_equal(found.images, open_store(tmp_path / "m.zarr", "nuvlm-pixelmaps")["images"][:])


def test_ready_pixel_maps(pixel_maps, tmp_path):
    found = inspect_file(pixel_maps, VALUES, tmp_path)
    assert found.source == "png"
    assert found.seen.total == 3
    assert dict(found.seen.classes) == {"nue_cc": 1, "numu_cc": 1, "nc": 1}
    assert found.pixel_mm is None
    assert "make classify SOURCE=png" in render(found, None)


def test_a_file_of_no_known_kind_is_described_and_refused(tmp_path, capsys):
    path = tmp_path / "foreign.h5"
    with h5py.File(path, "w") as file:
        file["hits/x"] = np.zeros(5)
    assert not recognise(path)
    with pytest.raises(InputError, match=r"no source recognises it; it holds: hits/x \(5,\) float64"):
        only_source(path)
    with pytest.raises(SystemExit) as status:
        main([str(path), "--config", str(REPOSITORY / "config" / "config.yaml")])
    assert status.value.code == 1
    assert "not recognised by any source" in capsys.readouterr().out


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.h5: no such file or folder"):
        only_source(tmp_path / "none.h5")


@pytest.mark.skipif(not CASES.exists(), reason="needs the sample files")
def test_an_offset_is_proposed_and_used(tmp_path):
    path = CASES / "c1_zbeam_ok.h5"
    refused = inspect_file(path, VALUES, tmp_path)
    assert refused.source == "larndsim"
    assert "OFFSET=0,0,3500" in refused.refused
    (tmp_path / "again").mkdir()
    found = inspect_file(path, VALUES, tmp_path / "again", offset_mm=(0, 0, 3500))
    assert found.refused is None
    assert f"make classify SOURCE=larndsim FILE={path} OFFSET=0,0,3500" in render(found, None)
    np.testing.assert_allclose(found.inside_mev, found.seen.energy_mev, rtol=1e-3)
    assert {c.subject for c in found.conclusions} >= {"energy loss", "axes"}
    assert json.dumps([c.subject for c in found.conclusions])


def test_a_picture_for_a_terminal_is_as_bright_as_the_image():
    image = np.zeros((4, 6), dtype=np.uint8)
    image[1, 2], image[2, 5] = 90, 255
    lines = terminal_picture(image, 10).split("\n")
    assert len(lines) == 2
    assert "48;2;90;90;90m" in lines[0]
    assert "38;2;255;255;255;" in lines[1]
    assert len(terminal_picture(image, 3).split("\n")) == 1
