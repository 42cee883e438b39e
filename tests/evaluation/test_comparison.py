"""McNemar's test and the paired difference."""

import numpy as np
import pytest
from scipy import stats

from nuvlm.evaluation.comparison import agreement, compare, compare_all, detectable_difference
from nuvlm.evaluation.dependence import Axis
from nuvlm.evaluation.intervals import binomial_interval


def _pair(both: int, first: int, second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    counts = (both, first, second, neither)
    return np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)


def test_p_value_by_hand() -> None:
    # 1 of 9 discordant events: two-sided binomial, 2 * (1 + 9) / 2^9.
    result = compare(*_pair(20, 8, 1, 5), seed=0)
    assert (result["both"], result["only_first"], result["only_second"], result["neither"]) == (20, 8, 1, 5)
    assert result["p_value"] == pytest.approx(2 * 10 / 512)
    assert result["difference"] == pytest.approx(7 / 34)


def test_equal_answers_do_not_differ() -> None:
    result = compare(*_pair(30, 0, 0, 10), seed=0)
    assert result["p_value"] == 1
    assert result["difference"] == 0
    assert result["difference_interval"] == [0, 0]


def test_the_interval_is_paired() -> None:
    """Two models that agree on most events differ far more surely than two independent samples would."""
    first, second = _pair(700, 40, 0, 260)
    low, high = compare(first, second, seed=3)["difference_interval"]
    assert 0 < low < 0.04 < high
    independent = 2 * 1.96 * np.sqrt(0.74 * 0.26 / 1000 + 0.7 * 0.3 / 1000)
    assert high - low < 0.4 * independent


def test_clopper_pearson_at_the_ends() -> None:
    # With no success in n the upper end is 1 - (0.025)^(1/n).
    assert binomial_interval(0, 10) == pytest.approx([0, 1 - 0.025**0.1])
    assert binomial_interval(10, 10) == pytest.approx([0.025**0.1, 1])
    assert binomial_interval(0, 0) is None


def test_many_pairs_are_compared_as_each_alone() -> None:
    pairs = [_pair(20, 8, 1, 5), _pair(10, 3, 9, 12)]
    assert compare_all(pairs, seed=4) == [compare(*pair, seed=4) for pair in pairs]


def test_where_two_models_disagree_by_hand() -> None:
    truth = np.array([0, 0, 0, 1, 1, 2])
    first = np.array([True, True, False, False, True, False])
    second = np.array([True, False, True, False, False, True])
    axis = Axis({"edges": [0, 1, 2]}, np.array([0, 1, 1, 0, -1, 1]))
    found = agreement(truth, first, second, axis)
    assert found["by_class"] == {
        "nue_cc": {"both": 1, "only_first": 1, "only_second": 1, "neither": 0},
        "numu_cc": {"both": 0, "only_first": 1, "only_second": 0, "neither": 1},
        "nc": {"both": 0, "only_first": 0, "only_second": 1, "neither": 0},
    }
    assert found["by_energy"] == {
        "edges": [0, 1, 2],
        "both": [1, 0],
        "only_first": [0, 1],
        "only_second": [0, 2],
        "neither": [1, 0],
    }
    assert agreement(truth, first, second, None)["by_energy"] is None


def test_a_detectable_difference_is_found_in_four_of_five_samples() -> None:
    n, discordant = 1000, 100
    difference = detectable_difference(discordant, n)
    assert difference == pytest.approx(0.028, abs=1e-3)
    rng = np.random.default_rng(4)
    shares = (discordant / n + difference) / 2, (discordant / n - difference) / 2
    drawn = rng.multinomial(n, [*shares, 1 - sum(shares)], size=1000)
    p_values = [stats.binomtest(first, first + second).pvalue for first, second, _ in drawn.tolist()]
    # The exact test is a little more cautious than the normal approximation.
    assert 0.72 < np.mean(np.array(p_values) < 0.05) < 0.84


def test_without_events_no_difference_can_be_found() -> None:
    assert detectable_difference(0, 0) is None
