"""Degraded pixel maps: what is done to them, that it is as strong as it says, and the same whatever the batch."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtr

from nuvlm.detector.grayscale import energy_of_grey, grayscale
from nuvlm.models.conditions import check_condition, degradation, shown_in_full
from nuvlm.models.degradations import degrade
from nuvlm.models.table import conditions_of

LOG = {"transfer": "log", "white_mev": 200, "knee_mev": 1, "pixel_mm": 50, "views": ["xz", "yz"]}
LINEAR = LOG | {"transfer": "linear"}
UNKNOWN = {"transfer": None, "white_mev": None, "knee_mev": None, "pixel_mm": None, "views": ["xz", "yz"]}
RNG = np.random.default_rng(3)
LEVELLED = ["noise_300", "dead_20", "diffusion_40", "scale_80"]


def events(n: int, first: int = 0) -> pd.DataFrame:
    return pd.DataFrame({"shard": "a", "event_id": np.arange(first, first + n, dtype=np.uint64)})


def maps(n: int, size: int = 48) -> np.ndarray:
    """Images with charge in a tenth of their pixels."""
    grey = RNG.integers(1, 256, (n, 2, size, size), dtype=np.uint8)
    return grey * (RNG.random(grey.shape) < 0.1)


def energy(images: np.ndarray, settings: dict = LOG) -> np.ndarray:
    return energy_of_grey(**{key: settings[key] for key in ("transfer", "white_mev", "knee_mev")})[images]


@pytest.mark.parametrize("transfer", ["log", "linear"])
def test_energy_of_grey_is_the_inverse(transfer: str) -> None:
    settings = {"transfer": transfer, "white_mev": 150.0, "knee_mev": 2.0}
    grey = np.arange(256, dtype=np.uint8)
    assert (grayscale(energy_of_grey(**settings)[grey], **settings) == grey).all()


def test_resolution_averages_grey_values() -> None:
    images = np.zeros((1, 2, 4, 4), dtype=np.uint8)
    images[0, 1, :2, 2:] = [[255, 255], [255, 250]]
    half = degrade("half_resolution", images, events(1), LOG)
    assert half.shape == (1, 2, 2, 2)
    assert half[0, 1].tolist() == [[0, 254], [0, 0]]
    assert degrade("quarter_resolution", images, events(1), LOG)[0].tolist() == [[[0]], [[63]]]
    assert degrade("nominal", images, events(1), LOG) is images
    odd = degrade("half_resolution", np.full((2, 3, 5, 5), 200, np.uint8), events(2), LOG)
    assert odd.shape == (2, 3, 3, 3)
    assert odd[0, 0].tolist() == [[200, 200, 100], [200, 200, 100], [100, 100, 50]]


def test_controls_take_the_picture_away_or_leave_it() -> None:
    images = np.full((1, 2, 4, 4), 7, dtype=np.uint8)
    assert degrade("blank", images, events(1), LOG).shape == images.shape
    assert not degrade("blank", images, events(1), LOG).any()
    assert degrade("labels_permuted", images, events(1), LOG) is images


@pytest.mark.parametrize("condition", LEVELLED)
@pytest.mark.parametrize("settings", [LOG, LINEAR, UNKNOWN], ids=["log", "linear", "unknown"])
def test_an_event_is_degraded_alike_in_every_batch(condition: str, settings: dict) -> None:
    images, table = maps(6), events(6)
    before = images.copy()
    together = degrade(condition, images, table, settings)
    assert (images == before).all()
    assert together.dtype == np.uint8
    assert (together != images).any(axis=(1, 2, 3)).all()
    order = [4, 1, 5]
    alone = [degrade(condition, images[i : i + 1], table.iloc[i : i + 1], settings)[0] for i in order]
    np.testing.assert_array_equal(together[order], alone)


def test_noise_has_its_width_on_black_pixels_and_on_charge() -> None:
    # Linear, 255 for 200 MeV: a grey value is 784 keV, small beside the noise.
    images = np.full((4, 2, 64, 64), 100, dtype=np.uint8)
    noisy = energy(degrade("noise_5000", images, events(4), LINEAR), LINEAR) - energy(images, LINEAR)
    assert noisy.mean() == pytest.approx(0, abs=5 * 5 / np.sqrt(noisy.size))
    assert noisy.std() == pytest.approx(5, rel=0.02)
    dark = degrade("noise_5000", np.zeros_like(images), events(4), LINEAR)
    assert (dark == 0).mean() == pytest.approx(ndtr(0.5 * 200 / 255 / 5), abs=0.02), "what falls below 0 is black"
    half = degrade("noise_5000", images, events(4, first=9), LINEAR)
    assert abs(np.corrcoef(noisy.ravel(), energy(half, LINEAR).ravel())[0, 1]) < 0.05, "events differ"


def test_dead_channels_are_columns_of_both_views_and_stay_dead() -> None:
    images = np.full((200, 2, 50, 50), 9, dtype=np.uint8)
    few, many = (degrade(f"dead_{percent}", images, events(200), LOG) for percent in (5, 20))
    for dead, share in ((few == 0, 0.05), (many == 0, 0.2)):
        columns = dead[:, 0, 0]
        assert (dead == columns[:, None, None]).all()
        assert columns.mean() == pytest.approx(share, abs=0.01)
    assert (many[few == 0] == 0).all()
    assert not degrade("dead_100", images[:1], events(1), LOG).any()


def test_wire_planes_have_their_own_dead_channels() -> None:
    images = np.full((200, 3, 16, 16), 9, dtype=np.uint8)
    dead = (degrade("dead_20", images, events(200), LOG | {"views": ["u", "v", "y"]}) == 0).all(axis=2)
    assert dead.mean(axis=(0, 2)) == pytest.approx(0.2, abs=0.02)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert (dead[:, first] & dead[:, second]).mean() == pytest.approx(0.04, abs=0.01)
    # the charge of a column of wires is on no other plane, so the first plane is as before
    np.testing.assert_array_equal(
        degrade("dead_20", images[:, :2], events(200), LOG)[:, 0] == 0, np.repeat(dead[:, 0, None], 16, axis=1)
    )


def test_diffusion_follows_the_sides_of_a_pixel_that_is_not_square() -> None:
    images = np.zeros((1, 1, 33, 33), dtype=np.uint8)
    images[0, 0, 16, 16] = 255
    settings = UNKNOWN | {"views": ["u"], "geometry": {"pixel_mm": [10.0, 40.0]}}
    grey = degrade("diffusion_20", images, events(1), settings)[0, 0].astype(float)
    across, along = ((grey.sum(axis=axis) * (np.arange(33) - 16) ** 2).sum() / grey.sum() for axis in (0, 1))
    # variances of the Gaussian, of charge within its pixel, and of the pixel; grey values below 0.5 are lost
    assert across == pytest.approx(2.0**2 + 1 / 6, rel=0.15)
    assert along == pytest.approx(0.5**2 + 1 / 6, rel=0.15)


def test_diffusion_keeps_the_charge_and_widens_it_by_its_width() -> None:
    images = np.zeros((1, 2, 41, 41), dtype=np.uint8)
    images[0, :, 20, 20] = 255
    settings = LOG | {"white_mev": 1e4}  # a logarithm keeps the tails
    wide = energy(degrade("diffusion_100", images, events(1), settings), settings)
    along = wide[0, 0].sum(axis=0)
    z = 50 * (np.arange(41) - 20)
    # Of a uniform pixel, smeared and binned again: 2 x 50^2 / 12 more than the Gaussian's own variance.
    assert np.average(z**2, weights=along) == pytest.approx(100**2 + 2 * 50**2 / 12, rel=0.05)
    np.testing.assert_allclose(wide[0, 0], wide[0, 0].T)
    assert wide[0, 0].sum() == pytest.approx(1e4, rel=0.02), "but for rounding"
    one = energy(degrade("diffusion_5", images, events(1), LINEAR), LINEAR)[0, 0]
    # A Gaussian of 0.1 pixels takes 0.1 / sqrt(2 pi) of a pixel over each edge.
    assert one[20, 21] == pytest.approx(200 * 0.1 / np.sqrt(2 * np.pi) * (1 - 0.2 / np.sqrt(2 * np.pi)), rel=0.06)


@pytest.mark.parametrize(("percent", "factor"), [(50, 0.5), (90, 0.9), (110, 1.1)])
def test_scale_multiplies_charge(percent: int, factor: float) -> None:
    images = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    scaled = energy(degrade(f"scale_{percent}", images, events(1), LOG))
    # A grey value is a step of 2 % where the transfer is logarithmic; white is white.
    np.testing.assert_allclose(scaled, np.minimum(factor * energy(images), 200), rtol=0.011, atol=0.011)
    np.testing.assert_array_equal(degrade("scale_100", images, events(1), LOG), images)


def test_where_the_transfer_is_not_known_grey_is_linear() -> None:
    images = np.array([[[[0, 10], [100, 250]]]], dtype=np.uint8)
    assert degrade("scale_90", images, events(1), UNKNOWN)[0, 0].tolist() == [[0, 9], [90, 225]]
    blurred = degrade("diffusion_50", maps(1), events(1), UNKNOWN)
    assert blurred.shape == (1, 2, 48, 48)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("blurred", "unknown condition 'blurred'"),
        ("noise_", "unknown condition"),
        ("noise_0", "whole number above 0"),
        ("noise_1.5", "unknown condition"),
        ("third_resolution", "unknown condition"),
        ("dead_101", "'dead_101': the maximum is 100"),
        ("dead_05", "unknown condition"),
    ],
)
def test_a_name_that_is_none_is_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_condition(name)
    with pytest.raises(ValueError, match=message):
        degrade(name, maps(1), events(1), LOG)


def test_kinds_and_levels() -> None:
    assert degradation("quarter_resolution") == ("resolution", 4)
    assert degradation(check_condition("noise_250")) == ("noise", 250)
    assert [degradation(name) for name in ("nominal", "blank", "labels_permuted")] == [None] * 3


def test_a_model_that_is_told_nothing_has_no_order_of_classes() -> None:
    conditions = ["nominal", "labels_permuted", "blank"]
    assert conditions_of("vlm_small", conditions) == conditions
    assert conditions_of("cnn", conditions) == conditions_of("bdt", conditions) == ["nominal", "blank"]


def test_the_first_condition_and_the_published_ones_are_shown_in_full() -> None:
    assert shown_in_full(["nominal", "noise_200", "half_resolution", "blank"]) == ["nominal", "half_resolution"]
    assert shown_in_full(["scale_90", "dead_5", "nominal"]) == ["scale_90", "nominal"]
