"""Recombination against published values, and the electronics effect by effect."""

from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmark_scripts import load_benchmark
from nuvlm.base.files import read_json
from nuvlm.detector.geometry import Detector
from nuvlm.detector.readout import MIP_MEV_PER_CM, Electronics, Readout, Recombination
from paths import REPOSITORY

MODELS = ("birks", "modified_box")
SMALL = Detector(x_mm=(-100, 100), y_mm=(-50, 50), z_mm=(0, 100), anodes_mm=(-90, 90), cathodes_mm=(0,))


@pytest.mark.parametrize(
    ("model", "dedx", "expected"),
    [
        # by hand: 0.800 / (1 + 0.0486 x 2.1 / (1.396 x 0.5))
        ("birks", 2.1, 0.698),
        ("birks", 20.0, 0.334),
        # by hand: ln(0.93 + b) / b with b = 0.212 x 2.1 / (1.396 x 0.5) = 0.638, and b = 6.074
        ("modified_box", 2.1, 0.705),
        ("modified_box", 20.0, 0.320),
    ],
)
def test_recombination_by_hand(model, dedx, expected):
    assert Recombination(model=model).survival(np.array([dedx]))[0] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("model", MODELS)
def test_the_models_agree_where_both_were_measured(model):
    # ArgoNeuT fitted both to the same stopping protons and deuterons, 2 to 25 MeV/cm
    dedx = np.linspace(2, 25, 50)
    birks, box = (Recombination(model=name).survival(dedx) for name in MODELS)
    np.testing.assert_allclose(birks, box, rtol=0.06)


@pytest.mark.parametrize("model", MODELS)
@settings(deadline=None)
@given(dedx=st.floats(1e-6, 1e4), factor=st.floats(1, 100))
@example(dedx=1.25, factor=1.234375)  # around the maximum of the box model
def test_denser_ionisation_never_leaves_more_and_never_more_than_all(model, dedx, factor):
    low, high = Recombination(model=model).survival(np.array([dedx, dedx * factor]))
    assert 0 < high <= low * (1 + 1e-12)
    assert low <= 1


@pytest.mark.parametrize("model", MODELS)
def test_a_minimum_ionising_step_keeps_its_energy_and_a_stopping_proton_does_not(model):
    visible = Recombination(model=model).visible_energy(
        np.array([MIP_MEV_PER_CM, 20.0, 3.0, 0.0]), np.array([10.0, 10, 0, 10])
    )
    assert visible[0] == pytest.approx(MIP_MEV_PER_CM)
    assert visible[1] < 0.5 * 20
    assert visible[2] == pytest.approx(3, rel=1e-12), "a deposit without length keeps its energy"
    assert visible[3] == 0.0


def read(readout, detector=SMALL, x=(20, 95), energy=(1.0, 1.0), event=1):
    n = len(x)
    y = z = np.full(n, 4, dtype="u2")
    return Electronics(detector, readout)(
        np.array(x, "u2"), y, z, np.array(energy, "f4"), np.array([0, n]), np.array([event], "u8")
    )


def test_without_any_effect_nothing_changes():
    np.testing.assert_array_equal(read(Readout(), energy=(0.3, 7.0)), np.array([0.3, 7.0], "f4"))


def test_electrons_are_lost_on_the_way():
    # voxels at x = -79.5 and -4.5 mm: 10.5 and 85.5 mm from the anode at -90 mm
    found = read(Readout(electron_lifetime_us=50, drift_velocity_mm_us=1.5))
    np.testing.assert_allclose(found, np.exp(-np.array([10.5, 85.5]) / 1.5 / 50), rtol=1e-6)


def test_threshold_acts_on_what_arrives():
    lossy = {"electron_lifetime_us": 50, "drift_velocity_mm_us": 1.5}
    assert read(Readout(threshold_mev=0.5, **lossy)).tolist() == [pytest.approx(0.8694, abs=1e-4), 0]


def test_energy_scale_acts_on_what_was_read_out():
    assert read(Readout(energy_scale=0.5, threshold_mev=0.6), energy=(1.0, 0.5)).tolist() == [0.5, 0]
    assert Readout(energy_scale=1.01).has_effects


def test_noise_has_its_width_and_belongs_to_the_event():
    n = 10_000
    readout = Readout(noise_mev=0.1)
    noise = read(readout, x=np.arange(n) % 200, energy=np.full(n, 50)) - 50
    assert noise.std() == pytest.approx(0.1, rel=0.03)
    assert abs(noise.mean()) < 5 * 0.1 / np.sqrt(n)
    assert not np.array_equal(read(readout, event=1), read(readout, event=2))
    # the same event, alone and after another one
    columns = [np.array([3, 3], "u2")] * 3
    both = Electronics(SMALL, readout)(*columns, np.ones(2, "f4"), np.array([0, 1, 2]), np.array([8, 9], "u8"))
    one = [column[:1] for column in columns]
    alone = Electronics(SMALL, readout)(*one, np.ones(1, "f4"), np.array([0, 1]), np.array([9], "u8"))
    assert both[1] == alone[0]


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_dead_channels_are_a_share_of_the_channels_for_all_depths_of_a_drift_volume(axis):
    detector = Detector(
        x_mm=(-50, 50), y_mm=(-50, 50), z_mm=(-50, 50), drift_axis=axis, anodes_mm=(-50, 50), cathodes_mm=(0,),
        voxel_mm=(1, 1, 1),
    )  # fmt: skip
    index = [i.ravel().astype("u2") for i in np.indices(detector.shape)]
    n = len(index[0])
    electronics = Electronics(detector, Readout(dead_channels=0.1))
    dead = electronics(*index, np.ones(n, "f4"), np.array([0, n]), np.array([1], "u8")).reshape(detector.shape) == 0
    assert dead.mean() == pytest.approx(0.1, abs=0.01)
    dead = np.moveaxis(dead, detector.drift, 0)
    for half in (dead[:50], dead[50:]):
        assert (half == half[0]).all(), "a channel is dead for all charge that drifts to it"
    assert not np.array_equal(dead[0], dead[-1]), "the other anode has other channels"


def test_the_comparison_with_larnest_is_of_these_formulas(monkeypatch):
    """docs/physics.md shows the committed numbers; LArNEST's are checked where nestpy is installed."""
    script = load_benchmark("recombination", monkeypatch)
    result = read_json(script.RESULT)
    assert script.table(result) in (REPOSITORY / "docs/physics.md").read_text()
    for row in result["rows"]:
        assert row["mev_per_cm"] == pytest.approx(script.mean_loss(row["electron_mev"]), rel=1e-6)
        for model in MODELS:
            assert row[model] == pytest.approx(script.averaged(model, row["electron_mev"]), rel=1e-6)
        # Electrons of more than 0.1 MeV are where the charge is.
        if row["electron_mev"] >= 0.1:
            relative = row["larnest"] / result["rows"][-2]["larnest"]
            assert relative == pytest.approx(row["birks"] / result["rows"][-2]["birks"], rel=0.1)
    if find_spec("nestpy"):
        assert script.measure()["rows"] == [pytest.approx(row, rel=1e-3) for row in result["rows"]]
