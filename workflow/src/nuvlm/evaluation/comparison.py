"""Two classifiers on the same events: whose answers are right more often, and could that be chance?"""

from typing import Any

import numpy as np
from scipy import stats

from nuvlm.evaluation.intervals import RESAMPLES, bootstrap


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
    n = len(correct)
    only_first = int((correct & ~other).sum())
    only_second = int((~correct & other).sum())
    discordant = only_first + only_second
    gain = correct.astype(np.float64) - other
    intervals = bootstrap(lambda weights: {"difference": weights @ gain / n}, n, seed, resamples)
    p_value = None if n == 0 else float(stats.binomtest(only_first, discordant).pvalue) if discordant else 1.0
    return {
        "n": n,
        "both": int((correct & other).sum()),
        "only_first": only_first,
        "only_second": only_second,
        "neither": int((~correct & ~other).sum()),
        "difference": float(gain.mean()) if n else None,
        "difference_interval": intervals.get("difference"),
        "p_value": p_value,
    }
