"""Space charge: the kernel against the reference, charge where the map says, and maps that cannot be right."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuvlm.base.errors import InputError
from nuvlm.base.stores import open_store
from nuvlm.detector import space_charge
from nuvlm.detector.displays import smear_and_downsample
from nuvlm.detector.geometry import Detector, Diffusion, drift_cells, drift_distance_mm
from nuvlm.detector.readout import Readout, SpaceCharge
from nuvlm.detector.space_charge import (
    DisplacementMap,
    SpaceChargeDisplacement,
    displace_reference,
    example_map,
    expected_maximum_mm,
    read_displacement_map,
    write_map,
)
from nuvlm.detector.voxels import Voxels, open_shard, voxelize
from nuvlm.workflow.config import Config, check_space_charge

SMALL = Detector(
    x_mm=(-100, 100), y_mm=(-50, 50), z_mm=(0, 100), voxel_mm=(1, 5, 5), anodes_mm=(-90, 90), cathodes_mm=(0,)
)


def bumpy(
    detector: Detector, size_mm: float, seed: int = 1, points: tuple[int, int, int] = (9, 4, 5)
) -> DisplacementMap:
    """A map of random values on a grid somewhat larger than the detector: physical or not."""
    rng = np.random.default_rng(seed)
    box = np.array(detector.box_mm, dtype=float)
    low, high = box[:, 0] - 7, box[:, 1] + 3
    return DisplacementMap(low, (high - low) / (np.array(points) - 1), rng.uniform(-size_mm, size_mm, (*points, 3)))


def drawn(detector: Detector, n: int, seed: int) -> Voxels:
    rng = np.random.default_rng(seed)
    flat = np.sort(rng.choice(np.prod(detector.shape), n, replace=False))
    x, y, z = np.unravel_index(flat, detector.shape)
    return Voxels(x.astype("u2"), y.astype("u2"), z.astype("u2"), rng.gamma(1, 2, n).astype("f4"))


def as_dict(voxels: Voxels) -> dict[tuple[int, int, int], float]:
    rows = zip(voxels.x.tolist(), voxels.y.tolist(), voxels.z.tolist(), voxels.energy.tolist(), strict=True)
    return {(x, y, z): energy for x, y, z, energy in rows}


@given(size=st.floats(0, 60), seed=st.integers(0, 1000), axis=st.sampled_from("xyz"))
@settings(max_examples=25, deadline=None)
def test_kernel_equals_the_reference(size, seed, axis):
    box = {"x_mm": (-60, 60), "y_mm": (-60, 60), "z_mm": (-60, 60), "voxel_mm": (3, 5, 1)}
    detector = Detector(**box, drift_axis=axis, anodes_mm=(-50, 50), cathodes_mm=(0,))
    grid = bumpy(detector, size, seed)
    events = [drawn(detector, n, seed + n) for n in (1, 300, 7)]
    begins = np.cumsum([0, *map(len, events)])
    together = Voxels(*(np.concatenate([getattr(e, name) for e in events]) for name in ("x", "y", "z", "energy")))
    found, ends = SpaceChargeDisplacement(grid, detector)(together, begins)
    assert len(ends) == len(begins)
    for event, begin, end in zip(events, ends[:-1], ends[1:], strict=True):
        one = Voxels(*(getattr(found, name)[begin:end] for name in ("x", "y", "z", "energy")))
        expected = displace_reference(event, grid, detector)
        assert as_dict(one).keys() == expected.keys()
        for key, energy in as_dict(one).items():
            assert energy == pytest.approx(expected[key], rel=1e-6)
        flat = np.ravel_multi_index((one.x.astype(int), one.y, one.z), detector.shape)
        assert (np.diff(flat) > 0).all(), "each voxel once, in order"


def test_without_displacement_nothing_changes():
    voxels = drawn(SMALL, 500, 3)
    found, begins = SpaceChargeDisplacement(bumpy(SMALL, 0), SMALL)(voxels, np.array([0, 200, 500]))
    assert begins.tolist() == [0, 200, 500]
    for name in ("x", "y", "z", "energy"):
        np.testing.assert_array_equal(getattr(found, name), getattr(voxels, name))


def test_charge_lies_where_the_map_says_on_average():
    """A straight track of many voxels: rounding to voxels averages out."""
    grid = example_map(SMALL, 20)
    start, end = np.array([[-89.0, -40.0, 1.0]]), np.array([[-1.0, 40.0, 99.0]])
    voxels, _ = voxelize(SMALL, start, end, np.array([100.0]))
    displacement = SpaceChargeDisplacement(grid, SMALL)
    moved, _ = displacement(voxels, np.array([0, len(voxels)]))
    assert displacement.lost_mev == 0
    depth = (np.linspace(-89, -1, 10_001) + 90) / 90  # of the longest drift, away from the anode at -90 mm
    expected = 20 * 1.5 * np.sqrt(3) * np.mean(depth - depth**3)
    mean = [np.average(v.x, weights=v.energy) for v in (voxels, moved)]
    assert mean[1] - mean[0] == pytest.approx(expected, abs=0.2)
    assert np.average(moved.y, weights=moved.energy) == pytest.approx(np.average(voxels.y, weights=voxels.energy))


# Its planes are on no grid coarser than 1 mm, 4,000 points.
ODD = Detector(x_mm=(0, 100), z_mm=(0, 4000), drift_axis="z", anodes_mm=(0, 3999), cathodes_mm=(2000,))


@pytest.mark.parametrize("detector", [Detector(), SMALL, Detector(anodes_mm=(0,), cathodes_mm=()), ODD])
def test_example_map_is_written_read_and_zero_at_every_plane(detector, tmp_path: Path):
    path = tmp_path / "map.h5"
    write_map(path, example_map(detector, 8))
    grid = read_displacement_map(SpaceCharge(map=str(path)), detector)
    along = detector.drift
    profile = grid.displacement_mm.max(axis=tuple({0, 1, 2} - {along}))[:, along]
    assert np.abs(grid.displacement_mm).max() == pytest.approx(8, rel=0.02)
    for plane in (*detector.anodes_mm, *detector.cathodes_mm):
        assert np.interp(plane, grid.axis(along), profile) == pytest.approx(0, abs=1e-6)
    # Farther from the anode, on both sides of it.
    for cell in drift_cells(detector):
        middle = (cell.low + cell.high) / 2
        assert np.interp(middle, grid.axis(along), profile) * (middle - cell.anode) >= 0
    scaled = read_displacement_map(SpaceCharge(map=str(path), scale=-0.5), detector)
    np.testing.assert_allclose(scaled.displacement_mm, -0.5 * grid.displacement_mm)


def test_in_the_published_detector_the_effect_is_below_a_voxel():
    assert expected_maximum_mm(300, 0.5) == pytest.approx(0.05, abs=0.01)
    # 2.56 m and 0.273 kV/cm: MicroBooNE measured some centimetres (arXiv 2008.09765); ions also flow with the liquid.
    assert 30 < expected_maximum_mm(2560, 0.273) < 200


@pytest.mark.parametrize("detector", [Detector(), Detector(anodes_mm=(-200, 700), cathodes_mm=()), SMALL])
def test_drift_cells_have_the_anodes_of_the_drift_distance(detector):
    cells = drift_cells(detector)
    _, high = detector.box_mm[detector.drift]
    assert [cells[0].low, *(cell.high for cell in cells)] == [*(cell.low for cell in cells), high]
    for cell in cells:
        at = np.linspace(cell.low, cell.high, 12)[1:-1]
        np.testing.assert_allclose(drift_distance_mm(detector, at)[0], np.abs(at - cell.anode))


def change(path: Path, what: str) -> None:
    with h5py.File(path, "r+") as file:
        values = file["displacement"]
        if what == "format":
            file.attrs["format"] = "root"
        elif what == "version":
            file.attrs["version"] = 2
        elif what == "unit":
            values.attrs["unit"] = "cm"
        elif what == "unit of an axis":
            file["y"].attrs["unit"] = "m"
        elif what == "no unit":
            del values.attrs["unit"]
        elif what == "sign":
            values.attrs["quantity"] = "true - reconstructed"
        elif what == "number":
            values[3, 2, 1, 0] = np.nan
        elif what == "infinite":
            values[3, 2, 1, 0] = np.inf
        elif what == "in cm":
            for name in "xyz":
                file[name][:] /= 10
        elif what == "short":
            file["z"][:] *= 0.9
        elif what == "backwards":
            file["x"][:] = file["x"][()][::-1]
        elif what == "irregular":
            file["y"][3] += 1
        elif what in ("in metres", "leaves", "anode", "cathode", "crosses"):
            x, y, _ = np.meshgrid(*(file[name][()] for name in "xyz"), indexing="ij")
            moved = values[()]
            if what == "in metres":
                moved *= 1000
            elif what == "leaves":
                moved[..., 1] = np.where(y > 0, 30, -30)
            elif what == "anode":
                moved[..., 1] = 12 * (1 - np.abs(y) / 50)
            elif what == "cathode":
                moved[..., 0] = np.where(np.abs(x) < 5, 6, 0)
            else:
                moved[..., 0] = np.where(np.abs(x + 20) < 3, 40, 0)
            values[:] = moved
        elif what in ("exchanged", "components"):
            kept = values[()], dict(values.attrs)
            del file["displacement"]
            file["displacement"] = kept[0].transpose(2, 1, 0, 3) if what == "exchanged" else kept[0][..., :2]
            file["displacement"].attrs.update(kept[1])
        elif what == "no table":
            del file["z"]
        else:
            raise AssertionError(what)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("format", "its attribute 'format' is 'root'"),
        ("version", "reads version 1"),
        ("unit", "/displacement is 'cm', not 'mm'. Multiply its values by 10"),
        ("unit of an axis", "/y is 'm', not 'mm'. Multiply its values by 1000"),
        ("no unit", "/displacement is None, not 'mm'. Convert it"),
        ("sign", "invert it"),
        ("number", r"not finite numbers; the first is [3, 2, 1, 0]"),
        ("infinite", "not finite numbers"),
        ("in cm", "/x runs from -10 to 10 mm and does not cover the detector, -100 to 100 mm. If /x is in cm"),
        ("short", "/z runs from 0 to 90 mm and does not cover the detector"),
        ("backwards", "/x must be two or more increasing numbers at equal distances"),
        ("irregular", "/y must be two or more increasing numbers at equal distances"),
        ("in metres", "more than the longest drift, 90 mm. Check the unit"),
        ("leaves", "are reconstructed outside the detector"),
        ("anode", "at the anode at -90 mm the displacement is up to 12 mm"),
        ("cathode", "at the cathode at 0 mm the displacement is up to 6 mm"),
        ("crosses", "are reconstructed in another drift volume"),
        ("exchanged", "Exchange its axes"),
        ("components", "three components"),
        ("no table", "there is no table of numbers /z"),
    ],
)
def test_a_map_that_cannot_be_right_is_refused_with_the_remedy(what, words, tmp_path: Path):
    path = tmp_path / "map.h5"
    # Different numbers of points along y and z, so that exchanged axes show.
    grid = example_map(SMALL, 4, points=11)
    write_map(
        path, grid._replace(spacing_mm=grid.spacing_mm * [1, 1, 2], displacement_mm=grid.displacement_mm[:, :, ::2])
    )
    assert read_displacement_map(SpaceCharge(map=str(path)), SMALL)
    change(path, what)
    with pytest.raises(InputError) as error:
        read_displacement_map(SpaceCharge(map=str(path)), SMALL)
    assert str(path) in str(error.value)
    assert words in str(error.value)


def test_a_scale_that_leads_too_far_is_refused(tmp_path: Path):
    path = tmp_path / "map.h5"
    write_map(path, example_map(SMALL, 4))
    with pytest.raises(InputError, match=r"\(with scale 30\) is 11\d\.\d mm, more than"):
        read_displacement_map(SpaceCharge(map=str(path), scale=30), SMALL)


def test_a_map_of_many_variations_is_read_once(tmp_path: Path, monkeypatch):
    path = tmp_path / "map.h5"
    write_map(path, example_map(SMALL, 4, points=5))
    read, scales = space_charge.read_displacement_map, []
    monkeypatch.setattr(
        space_charge,
        "read_displacement_map",
        lambda setting, detector: scales.append(setting.scale) or read(setting, detector),
    )
    box = SMALL.model_dump() | {"voxel_mm": (5, 5, 5)}
    configs = [
        Config(
            detector=box,
            display={"pixel_mm": 5, "readout": {"space_charge": {"map": str(path), "scale": scale}, "energy_scale": k}},
            input={"source": "voxels", "files": ["a.h5"]},
        )
        for k in (1, 1.1, 1.2)
        for scale in (1, 2, 0)
    ]
    check_space_charge(configs)
    assert scales == [1, 2]


def test_a_grid_that_needs_too_much_memory_is_refused(tmp_path: Path, monkeypatch):
    path = tmp_path / "map.h5"
    write_map(path, example_map(SMALL, 4, points=5))
    monkeypatch.setattr(space_charge, "MOST_POINTS", 500)
    with pytest.raises(InputError, match=r"map\.h5: the grid has 525 points; the maximum is 500\."):
        read_displacement_map(SpaceCharge(map=str(path)), SMALL)


def test_files_that_are_no_maps(tmp_path: Path):
    missing, text, cut = tmp_path / "missing.h5", tmp_path / "text.h5", tmp_path / "cut.h5"
    text.write_text("x y z dx dy dz\n")
    write_map(cut, example_map(SMALL, 4))
    cut.write_bytes(cut.read_bytes()[:-5000])
    for path, words in ((missing, "no such file"), (text, "not HDF5"), (cut, "truncated")):
        with pytest.raises(InputError, match=words) as error:
            read_displacement_map(SpaceCharge(map=str(path)), SMALL)
        assert str(path) in str(error.value)


def test_displays_are_displaced_and_energies_are_not(make_shard, detector, tmp_path: Path, caplog):
    path, shard = tmp_path / "map.h5", make_shard(n=3)
    write_map(path, example_map(detector, 60))
    stores, still = {}, Diffusion(transverse_mm=0, longitudinal_mm=0)
    for name, setting in {"off": SpaceCharge(), "zero": SpaceCharge(map=str(path), scale=0),
                          "on": SpaceCharge(map=str(path))}.items():  # fmt: skip
        readout = Readout(space_charge=setting)
        out = tmp_path / f"{name}.zarr"
        smear_and_downsample(shard, out, detector=detector, diffusion=still, pixel_mm=50, readout=readout)
        stores[name] = open_store(out, "nuvlm-displays")
    for name in ("xz", "yz", "visible_energy"):
        np.testing.assert_array_equal(stores["off"][name][:], stores["zero"][name][:])
    np.testing.assert_array_equal(stores["off"]["visible_energy"][:], stores["on"]["visible_energy"][:])
    assert not np.array_equal(stores["off"]["xz"][:], stores["on"]["xz"][:])
    # The displacement is along x: along y and z nothing moves, and nothing is lost.
    np.testing.assert_allclose(stores["off"]["yz"][:], stores["on"]["yz"][:], rtol=1e-4, atol=0.05)
    with open_shard(shard, detector) as opened:
        total = sum(float(block.energy.sum()) for _, block, _ in opened.blocks())
    assert float(stores["on"]["xz"][:].sum()) == pytest.approx(total, rel=1e-3)
    assert "displaced out of the detector" not in caplog.text


def test_charge_that_is_displaced_out_of_the_detector_is_counted(tmp_path: Path, caplog):
    voxels = drawn(SMALL, 400, 5)
    displacement = SpaceChargeDisplacement(bumpy(SMALL, 60), SMALL)
    found, _ = displacement(voxels, np.array([0, 400]))
    assert 0 < displacement.lost_mev < displacement.all_mev
    assert found.energy.sum() + displacement.lost_mev == pytest.approx(voxels.energy.sum(), rel=1e-5)
    displacement.log(tmp_path / "a.h5")
    assert "are displaced out of the detector" in caplog.text


def test_charge_that_was_read_out_is_refused(make_shard, detector, tmp_path: Path):
    path, shard = tmp_path / "map.h5", make_shard(n=2)
    write_map(path, example_map(detector, 5))
    with h5py.File(shard, "r+") as file:
        file.attrs["drifted"] = True
    with pytest.raises(InputError, match="its charge was read out already"):
        smear_and_downsample(
            shard, tmp_path / "a.zarr", detector=detector, diffusion=Diffusion(), pixel_mm=50,
            readout=Readout(space_charge=SpaceCharge(map=str(path))),
        )  # fmt: skip
