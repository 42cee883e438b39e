"""Paired comparison of two classifiers on the same events."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from nuvlm.base.classes import CLASSES
from nuvlm.evaluation.dependence import Axis
from nuvlm.evaluation.intervals import LEVEL, RESAMPLES, bootstrap_means

POWER = 0.8
"""Probability with which a difference of the size `detectable` is found."""


def compare(correct: np.ndarray, other: np.ndarray, seed: int, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Difference in accuracy with its paired bootstrap interval, and McNemar's exact test.

    The test uses the events that exactly one of the two classifies correctly: under the null hypothesis each is right
    for half of them (McNemar, Psychometrika 12, 153 (1947); the exact form is a binomial test).

    Args:
        correct: (n,) bool, first classifier is right.
        other: (n,) bool, second classifier is right, same events.

    Returns:
        Counts `both`, `only_first`, `only_second`, `neither`; `difference` in accuracy, first minus second, with
        `difference_interval`; `p_value`; `detectable`, see :func:`detectable_difference` (None without events).
    """
    return compare_all([(correct, other)], seed, resamples)[0]


def compare_all(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]], seed: int, resamples: int = RESAMPLES
) -> list[dict[str, Any]]:
    """:func:`compare` for many pairs on the same events, all with the same resamples."""
    if not pairs:
        return []
    gains = np.stack([first.astype(np.float64) - second for first, second in pairs], axis=1)  # (n, pairs)
    intervals = bootstrap_means(gains, seed, resamples)
    return [_test(*pair) | {"difference_interval": i} for pair, i in zip(pairs, intervals, strict=True)]


def agreement(truth: np.ndarray, correct: np.ndarray, other: np.ndarray, energy: Axis | None) -> dict[str, Any]:
    """Count the events that both, one or neither of two classifiers classifies correctly, by class and by energy.

    Args:
        truth: (n,) index into CLASSES.
        correct, other: as for :func:`compare`.
        energy: bins of neutrino energy; None if unknown.

    Returns:
        `by_class[class]` with a count under each of `both`, `only_first`, `only_second`, `neither`; `by_energy` with
        `edges` (GeV) and a list of counts under each, or None.
    """
    shares = _shares(correct, other)
    return {
        "by_class": {
            name: {which: int((mask & (truth == k)).sum()) for which, mask in shares.items()}
            for k, name in enumerate(CLASSES)
        },
        "by_energy": energy and {**energy.bins, **{which: energy.count(m).tolist() for which, m in shares.items()}},
    }


def detectable_difference(discordant: int, n: int) -> float | None:
    """Smallest difference in accuracy that McNemar's test finds with the probability :data:`POWER`.

    The normal approximation for small differences (Connor, Biometrics 43, 207 (1987)), at the level of the intervals.

    Args:
        discordant: events that exactly one of the two classifiers classifies correctly.
        n: events.
    """
    if not n:
        return None
    quantiles = stats.norm.ppf((1 + LEVEL) / 2) + stats.norm.ppf(POWER)
    return float(quantiles * np.sqrt(discordant) / n)


def _test(correct: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    n = len(correct)
    counts = {which: int(mask.sum()) for which, mask in _shares(correct, other).items()}
    discordant = counts["only_first"] + counts["only_second"]
    p_value = None if n == 0 else float(stats.binomtest(counts["only_first"], discordant).pvalue) if discordant else 1.0
    difference = (counts["only_first"] - counts["only_second"]) / n if n else None
    return {
        "n": n,
        **counts,
        "difference": difference,
        "p_value": p_value,
        "detectable": detectable_difference(discordant, n),
    }


def _shares(correct: np.ndarray, other: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "both": correct & other,
        "only_first": correct & ~other,
        "only_second": ~correct & other,
        "neither": ~correct & ~other,
    }
