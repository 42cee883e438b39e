"""Two classifiers on the same events: whose answers are right more often, and could that be chance?"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from nuvlm.base.classes import CLASSES
from nuvlm.evaluation.dependence import Axis
from nuvlm.evaluation.intervals import RESAMPLES, bootstrap_means


def compare(correct: np.ndarray, other: np.ndarray, seed: int, resamples: int = RESAMPLES) -> dict[str, Any]:
    """McNemar's exact test and the difference in accuracy with its paired bootstrap interval.

    The test looks only at events that exactly one of the two gets right: if both are equally good, each is
    right on half of them (McNemar, Psychometrika 12, 153 (1947); the exact form is a binomial test).

    Args:
        correct: (n,) bool, whether the first classifier is right.
        other: (n,) bool, whether the second is, for the same events.

    Returns:
        Counts `both`, `only_first`, `only_second`, `neither`; `difference` in accuracy, first minus second, with
        `difference_interval`; `p_value` (None without events).
    """
    return compare_all([(correct, other)], seed, resamples)[0]


def compare_all(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]], seed: int, resamples: int = RESAMPLES
) -> list[dict[str, Any]]:
    """:func:`compare` for many pairs on the same events: every difference is of the same resamples."""
    if not pairs:
        return []
    gains = np.stack([first.astype(np.float64) - second for first, second in pairs], axis=1)  # (n, pairs)
    intervals = bootstrap_means(gains, seed, resamples)
    return [_test(*pair) | {"difference_interval": i} for pair, i in zip(pairs, intervals, strict=True)]


def agreement(truth: np.ndarray, correct: np.ndarray, other: np.ndarray, energy: Axis | None) -> dict[str, Any]:
    """Where two classifiers disagree: how many events both, one or neither gets right, by class and by energy.

    Args:
        truth: (n,) index into CLASSES.
        correct, other: as for :func:`compare`.
        energy: bins of neutrino energy; None where it is not known.

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


def _test(correct: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    n = len(correct)
    counts = {which: int(mask.sum()) for which, mask in _shares(correct, other).items()}
    discordant = counts["only_first"] + counts["only_second"]
    p_value = None if n == 0 else float(stats.binomtest(counts["only_first"], discordant).pvalue) if discordant else 1.0
    difference = (counts["only_first"] - counts["only_second"]) / n if n else None
    return {"n": n, **counts, "difference": difference, "p_value": p_value}


def _shares(correct: np.ndarray, other: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "both": correct & other,
        "only_first": correct & ~other,
        "only_second": ~correct & other,
        "neither": ~correct & ~other,
    }
