"""The power law of learning curves, on drawn test events."""

import numpy as np
import pytest

from nuvlm.evaluation.learning_curve import LEAST_SIZES, fit_power_law

SIZES = (1000, 4000, 16000, 64000, 160000)
A, B, C = 0.1, 0.25, 0.4
SPREAD = 0.005


def draw(rng: np.random.Generator, n: int = 10_000, trainings: int = 3) -> dict[int, list[np.ndarray]]:
    """Which of n events each training has right: events are hard or easy, the same ones at all sizes."""
    difficulty = rng.random(n)
    return {
        size: [
            difficulty > A + B * (size / SIZES[0]) ** -C + SPREAD * rng.normal()
            for _ in range(trainings if size <= 16000 else 1)
        ]
        for size in SIZES
    }


def test_the_law_that_the_events_were_drawn_from_is_found():
    law = fit_power_law(draw(np.random.default_rng(1)), seed=1)
    assert law.unit == 1000
    assert law.deviation == pytest.approx(SPREAD, rel=0.7)
    for events in (*SIZES, np.inf):
        fitted, (low, high) = law.accuracy(events)
        truth = 1 - A - B * (events / 1000) ** -C
        assert low < truth < high
        assert low < fitted < high
    assert law.exponent()[0] < C < law.exponent()[1]
    beyond, within = (np.diff(law.accuracy(events)[1])[0] for events in (np.inf, 16000))
    assert beyond > 1.5 * within, "an extrapolation is less sure"


def test_intervals_hold_the_truth_as_often_as_they_say():
    hits = []
    for seed in range(20):
        law = fit_power_law(draw(np.random.default_rng(seed), n=2000), seed, resamples=40)
        low, high = law.accuracy(171_000)[1]
        hits.append(low < 1 - A - B * 171**-C < high)
    # 95 % of 20 are 19; the probability of fewer than 15 is 0.03 %
    assert sum(hits) >= 15


def test_single_trainings_have_no_deviation_and_the_same_seed_gives_the_same_fit():
    sets = {size: trainings[:1] for size, trainings in draw(np.random.default_rng(2)).items()}
    first, again = (fit_power_law(sets, seed=3, resamples=20) for _ in range(2))
    assert first.deviation is None
    assert (first.draws == again.draws).all()
    assert (first.a, first.b, first.c) == (again.a, again.b, again.c)


def test_too_few_sizes_have_no_fit_and_perfect_models_a_finite_one():
    sets = draw(np.random.default_rng(4), n=500)
    assert fit_power_law(dict(list(sets.items())[: LEAST_SIZES - 1]), seed=1) is None
    law = fit_power_law({size: [np.ones(50, bool)] for size in SIZES}, seed=1, resamples=5)
    assert law.accuracy(np.inf)[0] == pytest.approx(1, abs=1e-3)
