"""95 % confidence intervals: Clopper-Pearson for counts, Bonett-Price for paired counts, bootstrap otherwise."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from scipy.stats import norm
from statsmodels.stats.proportion import proportion_confint

LEVEL = 0.95
RESAMPLES = 2000
_BLOCK_BYTES = 32_000_000

Interval = list[float] | None
"""Lower and upper end, or None if undefined."""


def binomial_interval(successes: int, trials: int) -> Interval:
    """Clopper-Pearson interval of `successes / trials`; None without trials."""
    return binomial_intervals(np.array([successes]), np.array([trials]))[0]


def binomial_intervals(successes: np.ndarray, trials: np.ndarray) -> list[Interval]:
    """Clopper-Pearson intervals of (n,) ratios."""
    low, high = proportion_confint(successes, np.maximum(trials, 1), alpha=1 - LEVEL, method="beta")
    ends = zip(trials, low, high, strict=True)
    return [[float(lower), float(upper)] if n else None for n, lower, upper in ends]


def fraction(above: np.ndarray, below: np.ndarray) -> dict[str, Any]:
    """`value`, Clopper-Pearson `interval` and `n` of a fraction of events, each of which counts once at most."""
    k, n = int(above.sum()), int(below.sum())
    return {"value": k / n if n else None, "interval": binomial_interval(k, n), "n": n}


def paired_difference(first: np.ndarray, second: np.ndarray) -> tuple[float | None, Interval]:
    """Difference of two fractions of the same events, `first` minus `second`, and its interval; None without events.

    The interval is Wald's with one event more in each of the two cells that differ, and two more in all (D. G. Bonett
    and R. M. Price, J. Educ. Behav. Stat. 37 (2012) 479). It has a width where no event or every event differs.

    Args:
        first, second: (n,) bool.
    """
    n = len(first)
    if not n:
        return None, None
    up, down = int((first & ~second).sum()), int((second & ~first).sum())
    one, other = (up + 1) / (n + 2), (down + 1) / (n + 2)
    centre = one - other
    half = float(norm.ppf((1 + LEVEL) / 2)) * ((one + other - centre**2) / (n + 2)) ** 0.5
    return (up - down) / n, [max(-1.0, centre - half), min(1.0, centre + half)]


def ratio(name: str, successes: int, trials: int) -> dict[str, Any]:
    """A ratio under `name` and its interval under ``{name}_interval``; None without trials."""
    of_one = ratios(name, np.array([successes]), np.array([trials]))
    return {key: of_one[key][0] for key in (name, f"{name}_interval")}


def ratios(name: str, successes: np.ndarray, trials: np.ndarray) -> dict[str, list[Any]]:
    """(n,) ratios under `name`, their intervals, and the trials under ``{name}_n``."""
    return {
        name: [float(k / n) if n else None for k, n in zip(successes, trials, strict=True)],
        f"{name}_interval": binomial_intervals(np.asarray(successes), np.asarray(trials)),
        f"{name}_n": np.asarray(trials).tolist(),
    }


def bootstrap(
    statistic: Callable[[np.ndarray], dict[str, np.ndarray]], n: int, seed: int, resamples: int = RESAMPLES
) -> dict[str, Interval]:
    """Compute percentile bootstrap intervals of several statistics of the same `n` events.

    The same `seed` and `n` give the same resamples, so that differences between models are paired.

    Args:
        statistic: takes weights (b, n), the multiplicity of each event in each of b resamples, and returns (b,)
            values of each statistic, NaN if undefined (a class that was not drawn).
    """
    blocks = [statistic(weights) for weights in draws(n, seed, resamples)]
    return {
        name: percentile_interval(np.concatenate([block[name] for block in blocks]))
        for name in (blocks[0] if blocks else {})
    }


def bootstrap_means(values: np.ndarray, seed: int, resamples: int = RESAMPLES) -> list[Interval]:
    """Percentile bootstrap interval of the mean of each column of `values`, (n events, m)."""
    n, m = values.shape
    blocks = [weights @ values / n for weights in draws(n, seed, resamples)]
    means = np.concatenate(blocks) if blocks else np.empty((0, m))
    return [percentile_interval(column) for column in means.T]


def percentile_interval(values: np.ndarray) -> Interval:
    """Central 95 % of the finite `values`; None if there are none."""
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return [float(low), float(high)]


def draws(n: int, seed: int, resamples: int) -> Iterator[np.ndarray]:
    """Yield weights (b, n) in blocks of limited size, `resamples` rows in total."""
    if n == 0:
        return
    rng = np.random.default_rng(seed)
    size = max(1, _BLOCK_BYTES // (8 * n))
    for start in range(0, resamples, size):
        rows = min(size, resamples - start)
        drawn = rng.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)
