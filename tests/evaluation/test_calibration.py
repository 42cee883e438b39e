"""Temperatures and calibration, against numbers done by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuvlm.evaluation.calibration import (
    calibrate,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability,
)
from nuvlm.evaluation.metrics import evaluate
from nuvlm.evaluation.samples import Sample
from run_on_disk import sample_of, write_run


def drawn(n: int, temperature: float, seed: int = 0) -> Sample:
    """Events whose class is drawn with the probabilities at `temperature`."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, 3))
    p = np.exp(temperature * logits)
    p /= p.sum(axis=1, keepdims=True)
    truth = (rng.random(n)[:, None] > p.cumsum(axis=1)).sum(axis=1)
    return Sample(truth, logits.argmax(axis=1), p, logits)


def test_calibration_error_by_hand() -> None:
    # Bin 0.9-1.0: two events at 0.95, one right: gap 0.45. Bin 0.5-0.6: two at 0.55, both right: gap 0.45.
    p = np.array([[0.95, 0.05, 0], [0.95, 0.05, 0], [0.55, 0.45, 0], [0.55, 0.45, 0]])
    sample = sample_of(np.array([0, 1, 0, 0]), np.zeros(4, dtype=int), p)
    assert expected_calibration_error(sample) == pytest.approx(0.45)


def test_calibration_error_of_perfect_probabilities_is_small() -> None:
    assert expected_calibration_error(drawn(20000, 1.0)) < 0.015


def test_likelihood_by_hand() -> None:
    p = np.array([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1]])
    sample = sample_of(np.array([0, 2]), p.argmax(axis=1), p)
    assert negative_log_likelihood(sample, 1.0) == pytest.approx(-(np.log(0.5) + np.log(0.1)) / 2)
    # T = 2 squares: 0.25 / (0.25 + 0.09 + 0.04) and 0.01 / (0.01 + 0.64 + 0.01)
    assert negative_log_likelihood(sample, 2.0) == pytest.approx(-(np.log(0.25 / 0.38) + np.log(0.01 / 0.66)) / 2)


def test_the_fitted_temperature_by_hand() -> None:
    # Two classes in play, log-odds 1 for one of them, right three times of four: T = ln 3 makes the odds 3 to 1.
    logits = np.tile([1.0, 0.0, -1e6], (4, 1))
    sample = Sample(np.array([0, 0, 0, 1]), np.zeros(4, dtype=int), np.full((4, 3), 1 / 3), logits)
    assert fit_temperature(sample) == pytest.approx(np.log(3), rel=1e-4)


@settings(deadline=None)
@given(temperature=st.floats(0.3, 8), seed=st.integers(0, 100))
def test_the_fit_finds_the_temperature_that_the_events_were_drawn_with(temperature: float, seed: int) -> None:
    found = fit_temperature(drawn(4000, temperature, seed))
    assert found == pytest.approx(temperature, rel=0.3)


def test_reliability_by_hand() -> None:
    p = np.array([[0.95, 0.05, 0], [0.91, 0, 0.09], [0.4, 0.35, 0.25], [0.2, 0.5, 0.3]])
    result = reliability(sample_of(np.array([0, 1, 0, 1]), p.argmax(axis=1), p))
    assert result["accuracy_n"] == [0, 0, 0, 0, 1, 1, 0, 0, 0, 2]
    assert result["confidence"][4:6] == pytest.approx([0.4, 0.5])
    assert result["confidence"][9] == pytest.approx(0.93)
    assert result["accuracy"][9] == 0.5
    assert result["accuracy"][0] is result["accuracy_interval"][0] is result["confidence"][0] is None


def test_each_temperature_has_its_diagram() -> None:
    p = np.array([[0.5, 0.25, 0.25]] * 6 + [[0.25, 0.5, 0.25]] * 4)
    sample = sample_of(np.array([0] * 5 + [1] * 5), p.argmax(axis=1), p)
    result = calibrate(sample, sample)["temperatures"]
    # At T = 5 a confidence of 1 / 2 becomes 2^5 / (2^5 + 1 + 1) = 16 / 17.
    assert result["plain"]["reliability"]["confidence"][5] == 0.5
    assert result["published"]["reliability"]["confidence"][9] == pytest.approx(16 / 17)
    (fitted,) = (value for value in result["fitted"]["reliability"]["confidence"] if value is not None)
    assert fitted == pytest.approx(0.9, abs=1e-3), "9 of 10 are right"


def test_a_temperature_that_does_not_exist_is_none() -> None:
    right = sample_of(np.arange(3), np.arange(3), 0.8 * np.eye(3) + 0.2 / 3)
    assert fit_temperature(right) is None
    wrong = sample_of(np.arange(3), np.roll(np.arange(3), 1), np.roll(0.8 * np.eye(3) + 0.2 / 3, 1, axis=0))
    assert fit_temperature(wrong) is None
    nothing = sample_of(np.zeros(0, dtype=int), np.zeros(0, dtype=int), np.zeros((0, 3)))
    assert fit_temperature(nothing) is None
    result = calibrate(nothing, right)["temperatures"]
    assert result["fitted"] == {"temperature": None, "ece": None, "nll": None, "reliability": None}
    assert result["plain"]["ece"] == pytest.approx(1 - (0.8 + 0.2 / 3))
    unmeasured = {"temperature": 5, "ece": None, "nll": None, "reliability": None}
    assert calibrate(right, nothing)["temperatures"]["published"] == unmeasured


def test_the_fit_is_made_on_validation_and_measured_on_test(tmp_path: Path) -> None:
    run = write_run(tmp_path, n=600)
    evaluate(run.events, run.predictions, tmp_path / "scores.json", resamples=10)
    results = json.loads((tmp_path / "scores.json").read_text())
    for model, calibration in results["calibration"].items():
        assert calibration["fitted_on"] == sum(results["events"]["validation"].values())
        result = calibration["temperatures"]
        assert (result["plain"]["temperature"], result["published"]["temperature"]) == (1, 5)
        # The tables were written with T = 1.
        assert result["plain"]["ece"] == pytest.approx(results["scores"][model]["nominal"]["ece"])
        assert result["published"]["nll"] > result["plain"]["nll"]
        assert result["fitted"]["temperature"] not in (1, 5)
