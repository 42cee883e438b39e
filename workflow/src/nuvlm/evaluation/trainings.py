"""Several trainings of a model, which differ in the seed: their spread, their ensemble, and what is beyond both it and
the uncertainty from the test events."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from nuvlm.evaluation.intervals import LEVEL, RESAMPLES, Interval, bootstrap_means
from nuvlm.evaluation.samples import Sample


def spread(values: Sequence[float | None]) -> dict[str, Any]:
    """Values of a score, one of each training: `values`, `mean`, and `deviation`, their standard deviation.

    Mean and deviation are None if a value is; the deviation of a single training is None, too.
    """
    known = [value for value in values if value is not None]
    whole = len(known) == len(values)
    return {
        "values": list(values),
        "mean": float(np.mean(known)) if whole else None,
        "deviation": float(np.std(known, ddof=1)) if whole and len(known) > 1 else None,
    }


def ensemble(samples: Sequence[Sample]) -> Sample:
    """The mean probability of several trainings at temperature 1, and the class where it is highest."""
    p = np.mean([np.exp(sample.log_probabilities) for sample in samples], axis=0)
    p = p / p.sum(axis=1, keepdims=True)
    return Sample(samples[0].truth, p.argmax(axis=1), p, np.log(np.maximum(p, np.finfo(np.float64).tiny)))


def mean_interval(correct: Sequence[np.ndarray], seed: int, resamples: int = RESAMPLES) -> Interval:
    """Bootstrap interval, over test events, of the mean accuracy of some trainings.

    Args:
        correct: (n,) bool of each training, on the same events.
    """
    return bootstrap_means(np.mean(correct, axis=0)[:, None], seed, resamples)[0]


def compare_trainings(
    pairs: Sequence[tuple[Sequence[np.ndarray], Sequence[np.ndarray]]],
    tests: Sequence[Mapping[str, Any]],
    seed: int,
    resamples: int = RESAMPLES,
) -> list[dict[str, Any]]:
    """What the trainings of two models add to the test of the first training of each.

    Args:
        pairs: (n,) bool of each training of the first model and of the second, where it is right.
        tests: :func:`nuvlm.evaluation.comparison.compare` of the first training of each.

    Returns:
        `trainings`, their numbers; `mean_difference` in accuracy, first minus second, with `mean_difference_interval`,
        from test events, and `training_interval`, see :func:`training_interval`; and `better`: ``first``, ``second`` or
        None. A model is better where the difference is beyond both intervals. Where a model has one training there is
        no training interval, and this uncertainty is left out; between single trainings McNemar's test decides.
    """
    if not pairs:
        return []
    gains = np.stack([np.mean(first, axis=0) - np.mean(second, axis=0) for first, second in pairs], axis=1)
    found = []
    for (first, second), gain, of_events, test in zip(
        pairs, gains.T, bootstrap_means(gains, seed, resamples), tests, strict=True
    ):
        accuracies = (
            [[float(np.mean(correct)) for correct in model] for model in (first, second)] if len(gain) else [[]]
        )
        of_trainings = training_interval(*accuracies) if len(gain) else None
        if len(first) == len(second) == 1:
            sure = test["p_value"] is not None and test["p_value"] < 1 - LEVEL
        else:
            sure = all(ends is None or ends[0] > 0 or ends[1] < 0 for ends in (of_events, of_trainings))
        difference = float(gain.mean()) if len(gain) else None
        found.append(
            {
                "trainings": [len(first), len(second)],
                "mean_difference": difference,
                "mean_difference_interval": of_events,
                "training_interval": of_trainings,
                "better": ("first" if difference > 0 else "second") if sure and difference else None,
            }
        )
    return found


def training_interval(first: Sequence[float], second: Sequence[float]) -> Interval:
    """Interval of the difference of two models' mean accuracies from the spread between trainings.

    Welch's interval (Biometrika 34, 28 (1947)), which allows for few trainings and different spreads.

    Args:
        first, second: accuracy of each training, all on the same events.

    Returns:
        None if a model has one training.
    """
    if min(len(first), len(second)) < 2:
        return None
    squares = [float(np.var(values, ddof=1)) / len(values) for values in (first, second)]
    difference, error = float(np.mean(first) - np.mean(second)), float(np.sqrt(sum(squares)))
    if error == 0:
        return [difference, difference]
    terms = (square**2 / (len(values) - 1) for square, values in zip(squares, (first, second), strict=True))
    reach = float(stats.t.ppf((1 + LEVEL) / 2, sum(squares) ** 2 / sum(terms))) * error
    return [difference - reach, difference + reach]
