"""Several trainings of a model: spread, ensemble, and what is better beyond seeds and test events."""

import numpy as np
import pytest
from scipy import stats

from nuvlm.evaluation.comparison import compare
from nuvlm.evaluation.samples import Sample
from nuvlm.evaluation.trainings import compare_trainings, ensemble, spread, training_interval


def right(rng: np.random.Generator, *accuracies: float, n: int = 2000) -> list[np.ndarray]:
    """Where trainings with these accuracies are right."""
    return [rng.permutation(np.arange(n) < round(accuracy * n)) for accuracy in accuracies]


def compared(first: list[np.ndarray], second: list[np.ndarray]) -> dict:
    (found,) = compare_trainings([(first, second)], [compare(first[0], second[0], 1, 200)], 1, 200)
    return found


def test_the_training_interval_is_that_of_welch() -> None:
    first, second = [0.71, 0.74, 0.72], [0.70, 0.66, 0.69, 0.68]
    expected = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    assert training_interval(first, second) == pytest.approx([expected.low, expected.high])
    assert training_interval([0.75, 0.75], [0.5, 0.5]) == [0.25, 0.25], "trees that a seed does not change"
    assert training_interval([0.7], [0.6, 0.5]) is None


def test_better_is_beyond_both_intervals() -> None:
    rng = np.random.default_rng(3)
    alike = compared(right(rng, 0.74, 0.75, 0.76), right(rng, 0.65, 0.66, 0.64))
    assert alike["better"] == "first"
    assert alike["mean_difference"] == pytest.approx(0.1)
    # The first trainings differ as much; others say that this was the seed.
    seeds = compared(right(rng, 0.75, 0.62, 0.73), right(rng, 0.65, 0.70, 0.60))
    assert seeds["mean_difference_interval"][0] > 0 > seeds["training_interval"][0]
    assert seeds["better"] is None
    # Few events: trainings agree, events do not suffice.
    events = compared(right(rng, 0.75, 0.75, n=60), right(rng, 0.70, 0.70, n=60))
    assert events["training_interval"][0] > 0 > events["mean_difference_interval"][0]
    assert events["better"] is None


def test_single_trainings_are_compared_by_their_test_and_have_no_training_interval() -> None:
    rng = np.random.default_rng(3)
    first, second = right(rng, 0.65), right(rng, 0.75)
    found, test = compared(first, second), compare(first[0], second[0], 1, 200)
    assert found["trainings"] == [1, 1]
    assert found["training_interval"] is None
    assert (found["mean_difference"], found["better"]) == (pytest.approx(test["difference"]), "second")
    assert found["mean_difference_interval"] == pytest.approx(test["difference_interval"])
    assert compared(first, first)["better"] is None


def test_without_events_nothing_is_better() -> None:
    nothing = [np.empty(0, dtype=bool)] * 2
    found = compared(nothing, nothing)
    assert (found["better"], found["mean_difference"], found["training_interval"]) == (None, None, None)
    assert compare_trainings([], [], 1) == []


def test_an_ensemble_has_the_mean_probability() -> None:
    p = np.array([[[0.6, 0.3, 0.1], [0.2, 0.5, 0.3]], [[0.1, 0.8, 0.1], [0.2, 0.3, 0.5]]])
    truth = np.array([0, 2])
    samples = [Sample(truth, of_one.argmax(axis=1), of_one**5, np.log(of_one)) for of_one in p]
    together = ensemble(samples)
    np.testing.assert_allclose(together.probabilities, p.mean(axis=0))
    np.testing.assert_allclose(np.exp(together.log_probabilities), p.mean(axis=0))
    assert together.predicted.tolist() == [1, 1]
    assert together.truth is truth


def test_the_spread_is_that_of_one_training() -> None:
    assert spread([0.7, 0.8]) == {
        "values": [0.7, 0.8], "mean": pytest.approx(0.75), "deviation": pytest.approx(np.std([0.7, 0.8], ddof=1)),
    }  # fmt: skip
    assert spread([0.7])["deviation"] is None
    assert spread([0.7, None])["mean"] is None
