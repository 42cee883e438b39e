"""Accuracy against the number of training events: a power law, and how well it is known.

The error of a classifier falls with the number n of training events as a + b n^-c (Hestness et al., arXiv 1712.00409;
a is what remains with any number of events).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from nuvlm.evaluation.intervals import Interval, bootstrap, percentile_interval

RESAMPLES = 500
LEAST_SIZES = 4
"""Training sets of different sizes that a fit of three parameters needs."""
STEEPEST = 2.0
"""Largest exponent c; errors of classifiers fall more slowly (arXiv 1712.00409)."""


@dataclass(frozen=True)
class PowerLaw:
    """Parameters of 1 - accuracy = a + b n^-c, n in units of the smallest training set, with 95 % intervals."""

    unit: int
    """Training events of the smallest set."""
    a: float
    b: float
    c: float
    draws: np.ndarray
    """(resamples, 3) parameters of fits to resampled test events and trainings."""
    deviation: float | None
    """Standard deviation of the accuracy between trainings; None if no size was trained on more than once."""

    def accuracy(self, events: float) -> tuple[float, Interval]:
        """Accuracy with a number of training events, infinite too, and its interval."""
        drawn = 1 - _error(self.draws.T[:, :, None], np.array([events / self.unit]))[:, 0]
        fitted = 1 - _error(np.array([self.a, self.b, self.c])[:, None, None], np.array([events / self.unit]))
        return float(fitted[0, 0]), percentile_interval(drawn)

    def exponent(self) -> Interval:
        """Interval of c."""
        return percentile_interval(self.draws[:, 2])


def _error(parameters: np.ndarray, n: np.ndarray) -> np.ndarray:
    """a + b n^-c, for parameters (3, ...)."""
    a, b, c = parameters
    error: np.ndarray = a + b * n**-c
    return error


def fit_power_law(
    correct: Mapping[int, Sequence[np.ndarray]], seed: int, resamples: int = RESAMPLES
) -> PowerLaw | None:
    """Fit the power law to the mean accuracies of a model.

    The test events are the same for all sizes, and are resampled together; each mean gets the noise of its trainings,
    normal with the standard deviation between trainings of one size, pooled over the sizes that have several.

    Args:
        correct: training events -> (n,) bool of each training, which of the same n test events it classifies rightly.
        seed: of the resampling.

    Returns:
        None with fewer than LEAST_SIZES sizes.
    """
    if len(correct) < LEAST_SIZES:
        return None
    sizes = sorted(correct)
    x = np.array(sizes) / sizes[0]
    means = np.stack([np.mean(correct[size], axis=0) for size in sizes], axis=1)
    deviation = _pooled([[float(np.mean(training)) for training in correct[size]] for size in sizes])
    of_training = (deviation or 0.0) / np.sqrt([len(correct[size]) for size in sizes])
    # Never zero, as of a few events that are all right.
    sigma = np.sqrt(np.maximum(means.var(axis=0), 0.25 / len(means)) / len(means) + of_training**2)
    best = _fit(x, 1 - means.mean(axis=0), sigma, None)
    rng, drawn = np.random.default_rng(seed), []

    def keep(weights: np.ndarray) -> dict[str, np.ndarray]:
        drawn.append(1 - weights @ means / len(means))
        return {}

    bootstrap(keep, len(means), seed, resamples)
    errors = np.concatenate(drawn)
    errors += rng.normal(size=errors.shape) * of_training
    draws = np.array([_fit(x, error, sigma, best) for error in errors])
    a, b, c = map(float, best)
    return PowerLaw(sizes[0], a, b, c, draws, deviation)


def _pooled(accuracies: Sequence[Sequence[float]]) -> float | None:
    """Standard deviation between the values of a group, pooled over the groups; None if all have one value."""
    freedom = sum(len(values) - 1 for values in accuracies)
    if not freedom:
        return None
    squares = sum(float(np.var(values)) * len(values) for values in accuracies)
    return float(np.sqrt(squares / freedom))


def _fit(n: np.ndarray, error: np.ndarray, sigma: np.ndarray, start: np.ndarray | None) -> np.ndarray:
    """(3,) a, b, c of the least squares, from several starts if none is given."""
    starts = [start] if start is not None else [
        np.array([share * error.min(), max(error[0] - share * error.min(), 1e-3), c])
        for share in (0.0, 0.5, 0.9)
        for c in (0.2, 0.5, 1.0)
    ]  # fmt: skip
    upper = (1.0, 1.0, STEEPEST)
    fits = [
        least_squares(
            lambda p: (_error(p, n) - error) / sigma,
            np.clip(begin, 1e-9, np.array(upper) - 1e-9),
            jac=lambda p: (np.array([n**0, n ** -p[2], -p[1] * n ** -p[2] * np.log(n)]) / sigma).T,
            bounds=(0.0, upper),
        )
        for begin in starts
    ]
    found: np.ndarray = min(fits, key=lambda fit: fit.cost).x
    return found
