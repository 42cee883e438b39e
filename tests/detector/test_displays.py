"""Smearing and downsampling: the fast kernel against the plain one, and both against physics."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuvlm.base.errors import InputError
from nuvlm.base.manifest import verify_manifest
from nuvlm.base.stores import open_store
from nuvlm.detector import displays
from nuvlm.detector.displays import Smearing, smear_and_downsample, smear_reference
from nuvlm.detector.geometry import Detector, Diffusion, drift_distance_mm
from nuvlm.detector.readout import Readout
from nuvlm.detector.smearing import box_shares
from nuvlm.detector.voxels import Voxels
from nuvlm.workflow import paths

SMALL = Detector(x_mm=(-100, 100), y_mm=(-100, 100), z_mm=(0, 200), anodes_mm=(-90, 90), cathodes_mm=(0,))
WIDE = Diffusion(transverse_mm=130, longitudinal_mm=90)


def random_voxels(detector: Detector, n: int, seed: int) -> Voxels:
    rng = np.random.default_rng(seed)
    flat = np.sort(rng.choice(np.prod(detector.shape), n, replace=False))
    x, y, z = np.unravel_index(flat, detector.shape)
    return Voxels(x.astype("u2"), y.astype("u2"), z.astype("u2"), rng.gamma(1, 2, n).astype("f4"))


@pytest.mark.parametrize("pixel_mm", [50, 25, 5])
@pytest.mark.parametrize("behind_anode", ["nearest", "drop"])
@pytest.mark.parametrize("scaling", ["linear", "sqrt"])
def test_kernel_equals_the_reference(pixel_mm, behind_anode, scaling):
    diffusion = Diffusion(scaling=scaling, behind_anode=behind_anode)
    voxels = random_voxels(Detector(), 400, seed=1)
    for found, expected in zip(
        Smearing(Detector(), diffusion, pixel_mm)(voxels),
        smear_reference(voxels, Detector(), diffusion, pixel_mm),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("axis", ["x", "y", "z"])
@pytest.mark.parametrize("diffusion", [Diffusion(scaling="sqrt", behind_anode="drop"), WIDE])
@pytest.mark.parametrize("pixel_mm", [15, 45])  # the last pixels reach over the detector
def test_charge_may_drift_along_any_axis(axis, diffusion, pixel_mm):
    box = {"x_mm": (-60, 60), "y_mm": (-60, 60), "z_mm": (-60, 60), "voxel_mm": (3, 5, 1)}
    detector = Detector(**box, drift_axis=axis, anodes_mm=(-50, 50), cathodes_mm=(0,))
    voxels = random_voxels(detector, 400, seed=3)
    found = Smearing(detector, diffusion, pixel_mm)(voxels)
    for view, expected in zip(found, smear_reference(voxels, detector, diffusion, pixel_mm), strict=True):
        np.testing.assert_allclose(view, expected, rtol=2e-6, atol=1e-9)


def test_events_together_are_what_they_are_alone():
    events = [random_voxels(Detector(), n, seed=n) for n in (3, 500, 1)]
    columns = ("x", "y", "z", "energy")
    together = Voxels(*(np.concatenate([getattr(event, name) for event in events]) for name in columns))
    smear = Smearing(Detector(), Diffusion(), 50)
    views = smear.displays(together, np.array([0, 3, 503, 504]))
    for i, event in enumerate(events):
        for view, alone in zip(views, smear(event), strict=True):
            np.testing.assert_array_equal(view[i], alone)


def test_kernel_equals_the_reference_where_charge_crosses_many_pixels_and_walls():
    voxels = random_voxels(SMALL, 400, seed=2)
    for found, expected in zip(Smearing(SMALL, WIDE, 5)(voxels), smear_reference(voxels, SMALL, WIDE, 5), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-9)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), scaling=st.sampled_from(["linear", "sqrt"]))
def test_energy_away_from_the_walls_is_conserved(seed, scaling):
    voxels = random_voxels(Detector(), 200, seed)
    inside = (voxels.x > 5) & (voxels.x < 1994) & (voxels.y > 2) & (voxels.y < 397) & (voxels.z > 2) & (voxels.z < 1397)
    kept = Voxels(voxels.x[inside], voxels.y[inside], voxels.z[inside], voxels.energy[inside])
    for view in Smearing(Detector(), Diffusion(scaling=scaling), 50)(kept):
        assert view.sum(dtype=np.float64) == pytest.approx(kept.energy.sum(dtype=np.float64), rel=1e-6)


def test_charge_at_the_wall_leaks_out_as_the_formula_says():
    # A voxel that touches the wall at z = 0 leaks w / (b sqrt(2 pi)) of its charge over that edge (b: its size).
    voxels = Voxels(*(np.array([i], dtype="u2") for i in (700 + 299, 200, 0)), np.array([1], dtype="f4"))
    drift, _ = drift_distance_mm(Detector(), np.array([-1000 + 999.5]))
    width = 1.3 * drift[0] / 1000
    _, yz = Smearing(Detector(), Diffusion(), 50)(voxels)
    assert 1 - yz.sum(dtype=np.float64) == pytest.approx(width / (5 * np.sqrt(2 * np.pi)), rel=1e-4)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), width_mm=st.sampled_from([0, 1e-9, 1e-4]))
def test_with_vanishing_diffusion_it_is_plain_downsampling(seed, width_mm):
    voxels = random_voxels(Detector(), 3000, seed)
    xz, yz = Smearing(Detector(), Diffusion(transverse_mm=width_mm, longitudinal_mm=width_mm), 50)(voxels)
    expected = np.zeros((40, 40, 140))  # pixels along x, y, z
    np.add.at(expected, (voxels.x // 50, voxels.y // 10, voxels.z // 10), voxels.energy.astype(np.float64))
    # A ten-thousandth of a millimetre of width moves a hundred-thousandth of a voxel's energy over an edge.
    for view, plain in ((xz, expected.sum(axis=1)), (yz, expected.sum(axis=0))):
        np.testing.assert_allclose(view, plain, rtol=1e-6, atol=1e-9 + 20 * width_mm)


@pytest.mark.parametrize("axis", ["x", "z"])
def test_against_drifting_electrons_one_by_one(axis):
    """The brute-force Monte Carlo: points uniform in a voxel, displaced by the Gaussian, counted in pixels."""
    detector = SMALL.model_copy(update={"drift_axis": axis, "anodes_mm": (10, 190), "cathodes_mm": (100,)})
    if axis == "x":
        detector = SMALL
    along = detector.drift
    rng = np.random.default_rng(6)
    index = np.array([45, 9, 9], dtype="u2")
    voxels = Voxels(*index[:, None], np.array([1], dtype="f4"))
    n = 2_000_000
    low = np.array(detector.origin_mm) + index * detector.voxel_mm
    drift, _ = drift_distance_mm(detector, low[[along]] + detector.voxel_mm[along] / 2)
    longitudinal, transverse = WIDE.widths_mm(drift)
    width = np.full(3, transverse[0])
    width[along] = longitudinal[0]
    points = low + rng.random((n, 3)) * detector.voxel_mm + rng.normal(size=(n, 3)) * width
    inside = ((points >= detector.origin_mm) & (points < [100, 100, 200])).all(axis=1)
    pixel = np.floor((points[inside] - detector.origin_mm) / 25).astype(int)
    for view, axes in zip(Smearing(detector, WIDE, 25)(voxels), ((0, 2), (1, 2)), strict=True):
        counted = np.zeros(view.shape)
        np.add.at(counted, tuple(pixel[:, axes].T), 1 / n)
        # five standard deviations of the counting
        np.testing.assert_allclose(view, counted, atol=5 * np.sqrt(view.max() / n))


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), shift=st.tuples(st.integers(-3, 3), st.integers(-3, 3)))
def test_shifting_across_the_drift_by_whole_pixels_shifts_the_picture(seed, shift):
    # far from the walls, so that nothing leaks
    voxels = random_voxels(SMALL, 100, seed)
    near = Voxels(voxels.x, voxels.y // 4 + np.uint16(14), voxels.z // 4 + np.uint16(14), voxels.energy)
    by_y, by_z = shift
    far = Voxels(
        near.x, (near.y.astype(int) + 2 * by_y).astype("u2"), (near.z.astype(int) + 2 * by_z).astype("u2"), near.energy
    )
    smear = Smearing(SMALL, Diffusion(), 10)
    for a, b, by in zip(smear(near), smear(far), ((0, by_z), (by_y, by_z)), strict=True):
        np.testing.assert_allclose(np.roll(a, by, axis=(0, 1)), b, rtol=1e-5, atol=1e-9)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000))
def test_order_of_voxels_does_not_matter(seed):
    voxels = random_voxels(Detector(), 500, seed)
    order = np.random.default_rng(seed).permutation(500)
    shuffled = Voxels(voxels.x[order], voxels.y[order], voxels.z[order], voxels.energy[order])
    smear = Smearing(Detector(), Diffusion(), 50)
    for a, b in zip(smear(voxels), smear(shuffled), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_behind_the_anodes_charge_drifts_back_or_is_dropped(detector):
    drift, inside = drift_distance_mm(detector, np.array([-999.5, -950, -890, -610, -10, 310, 950]))
    np.testing.assert_allclose(drift, [99.5, 50, 10, 290, 290, 10, 50])
    assert inside.tolist() == [False, False, True, True, True, True, False]
    behind = Voxels(*(np.array([i], dtype="u2") for i in (10, 200, 700)), np.array([1], dtype="f4"))
    assert Smearing(detector, Diffusion(behind_anode="nearest"), 50)(behind)[0].sum() == pytest.approx(1, rel=1e-6)
    assert Smearing(detector, Diffusion(behind_anode="drop"), 50)(behind)[0].sum() == 0


def test_cathodes_stop_the_drift():
    lopsided = Detector(anodes_mm=(-900, 100), cathodes_mm=(0,))
    drift, _ = drift_distance_mm(lopsided, np.array([-10.0, 10.0]))
    assert drift.tolist() == [890, 90], "-10 mm is nearer to the other anode, but a cathode stands between"


def test_shares_of_a_box_sum_to_one_and_do_not_depend_on_the_limit_of_small_widths():
    edges = np.tile(np.arange(-100.0, 101), (3, 1))
    shares = box_shares(np.array([0.2] * 3), np.array([3.7] * 3), np.array([0, 1e-9, 1e-5]), edges)
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(shares[1], shares[0], atol=1e-12)
    np.testing.assert_allclose(shares[2], shares[0], atol=1e-5)


def test_display_store_holds_what_the_kernel_gives(make_shard, make_voxels, detector, tmp_path: Path):
    smear_and_downsample(make_shard(), tmp_path / "a.zarr", detector=detector, diffusion=Diffusion(), pixel_mm=50)
    store = open_store(tmp_path / "a.zarr", "nuvlm-displays")
    assert store["xz"].shape == (6, 40, 140)
    assert store["xz"].dtype == np.float32
    assert store["xz"].chunks == (1, 40, 140)
    assert (tmp_path / "a.zarr/xz/c/0/0/0").is_file()
    xz, yz = Smearing(detector, Diffusion(), 50)(make_voxels(4))
    assert dict(store.attrs)["readout"]["threshold_mev"] == 0
    np.testing.assert_array_equal(store["xz"][4], xz)
    np.testing.assert_array_equal(store["yz"][4], yz)
    assert store["event_id"][:].tolist() == [0, 1, 2, 3, 4, 5]
    assert set(verify_manifest(tmp_path / "a.zarr")["shapes"]) == set(displays.ARRAYS) == set(paths.DISPLAY_ARRAYS)


def test_displays_do_not_depend_on_how_events_are_cut_in_blocks(make_shard, detector, tmp_path: Path, monkeypatch):
    def make(name: str) -> Path:
        smear_and_downsample(shard, tmp_path / name, detector=detector, diffusion=Diffusion(), pixel_mm=50)
        return tmp_path / name / "manifest.json"

    shard = make_shard(n=7)
    whole = make("whole")
    monkeypatch.setattr(displays, "BLOCK_PIXELS", 12_000)  # two events
    assert make("pieces").read_bytes() == whole.read_bytes(), "the manifest holds the checksum of every file"


def test_readout_acts_on_the_displays(make_shard, detector, tmp_path: Path, caplog):
    readout = Readout(threshold_mev=1e6)
    smear_and_downsample(
        make_shard(n=2), tmp_path / "a.zarr", detector=detector, diffusion=Diffusion(), pixel_mm=50, readout=readout
    )
    assert not open_store(tmp_path / "a.zarr", "nuvlm-displays")["xz"][:].any()
    assert "no charge of event 1 is read out" in caplog.text


def test_visible_energy_is_the_sum_over_voxels_before_electronics_and_diffusion(
    make_shard, make_voxels, detector, tmp_path: Path
):
    shard = make_shard(n=3)
    readout = Readout(threshold_mev=1e6)
    for name, how in (("a", {}), ("b", {"readout": readout})):
        smear_and_downsample(shard, tmp_path / name, detector=detector, diffusion=Diffusion(), pixel_mm=50, **how)
        store = open_store(tmp_path / name, "nuvlm-displays")
        for row in range(3):
            voxels = make_voxels(row)
            index = np.stack([voxels.x, voxels.y, voxels.z])
            centre = (index + 0.5) * np.array([[1], [5], [5]])
            near = ((centre < 50) | (centre > np.array([[2000], [2000], [7000]]) - 50)).any(axis=0)
            energy = voxels.energy.astype(np.float64)
            assert store["visible_energy"][row] == pytest.approx(energy.sum(), rel=1e-12)
            assert store["edge_energy"][row] == pytest.approx(energy[near].sum(), rel=1e-12)


@pytest.mark.parametrize("drifted", [None, 0, 1, True])
def test_charge_that_was_read_out_is_summed_to_pixels_where_it_is(
    make_shard, make_voxels, detector, tmp_path: Path, drifted
):
    shard = make_shard(n=3)
    with h5py.File(shard, "r+") as file:
        del file.attrs["drifted"]  # as in older shards
        if drifted is not None:
            file.attrs["drifted"] = drifted
    wide = Diffusion(transverse_mm=100, longitudinal_mm=50, behind_anode="drop")
    smear_and_downsample(shard, tmp_path / "a.zarr", detector=detector, diffusion=wide, pixel_mm=50)
    store = open_store(tmp_path / "a.zarr", "nuvlm-displays")
    assert (store.attrs["diffusion"] is None) == (store.attrs["readout"] is None) == bool(drifted)
    for row in range(3):
        voxels = make_voxels(row)
        plain = np.zeros((40, 140))
        np.add.at(plain, (voxels.x // 50, voxels.z // 10), voxels.energy)
        assert np.allclose(store["xz"][row], plain, rtol=1e-5) == bool(drifted)


def test_charge_that_was_read_out_is_not_read_out_again(make_shard, detector, tmp_path: Path):
    shard = make_shard(n=1)
    with h5py.File(shard, "r+") as file:
        file.attrs["drifted"] = True
    readout = Readout(electron_lifetime_us=2000)
    with pytest.raises(InputError, match=r"a\.h5: its charge was read out already .* Leave display\.readout"):
        smear_and_downsample(
            shard, tmp_path / "a.zarr", detector=detector, diffusion=Diffusion(), pixel_mm=50, readout=readout
        )
    assert not (tmp_path / "a.zarr").exists()
