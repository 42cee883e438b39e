"""Prediction sets: classes of an event with a promised coverage, by split conformal prediction.

The set of an event holds every class whose probability reaches the threshold of that class. Thresholds are chosen on
validation events (Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, Springer 2005), for each class
on its events (Mondrian, or class-conditional). If validation and test events are exchangeable, at least the fraction
`level` of the true events of each class have it in their set, whatever the model and the abundance of the class.

Of all sets with this coverage of each class, thresholds on the true probabilities give those of the smallest mean size
(Sadinle, Lei and Wasserman, JASA 114, 223 (2019)). The adaptive sets of Romano, Sesia and Candès (arXiv 2006.02544)
are larger and depend on random numbers. p-values are those of crepes (Boström, PMLR 230 (2024)).
"""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

import numpy as np
from crepes import ConformalClassifier
from scipy import stats

from nuvlm.base.classes import CLASSES
from nuvlm.evaluation.cuts import measure_answers
from nuvlm.evaluation.dependence import Axis
from nuvlm.evaluation.intervals import RESAMPLES, percentile_interval, ratio, ratios
from nuvlm.evaluation.samples import Sample
from nuvlm.evaluation.trainings import spread

LEVEL = 0.9
"""Promised coverage."""
ROUNDING = 1e-9
"""Relative difference of probabilities that are equal: an event at a threshold must not fall below it by rounding."""

Trained = Mapping[str, Mapping[str, Sequence[Sample]]]
"""Samples of the trainings of each model under each condition, of the same events in the same order."""


def measure_sets(
    validation: Trained,
    test: Trained,
    without_truth: Trained,
    axes: Mapping[str, Axis | None],
    weights: np.ndarray,
    level: float,
    seed: int,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Calibrate the sets of every model on validation events, and measure them on n test events.

    Args:
        validation, test: predictions for the events of each split with known truth.
        without_truth: predictions for events of unknown truth.
        axes: true quantities of the test events in bins.
        weights: (n,) weights of `answers`. Sets and coverage are those of the sample as it is.
        level: coverage to promise, at least 0.01 and below 1.
        seed: of the bootstrap.
        resamples: number of bootstrap resamples.

    Returns:
        `level`; `needed`, see :func:`events_needed`; `calibrated_on`, validation events of each class; and for each of
        `models`: `threshold` of each class, from the first training under the first condition. `conditions`, measures
        of these sets under each condition, and of `recalibrated` ones with thresholds from the same condition.
        `without_truth`, events by the size of their set, and those of one class by class. `answers`, see
        :func:`nuvlm.evaluation.cuts.measure_answers`: `most_probable` class, and `single`, where other than one class
        in the set is an abstention. `trainings`: coverage and mean size of each training under each condition.
    """
    truth = next(iter(next(iter(validation.values())).values()))[0].truth
    calibrated_on = {name: int((truth == k).sum()) for k, name in enumerate(CLASSES)}
    models = {}
    for model, of_model in test.items():
        main = next(iter(of_model))
        limits = [thresholds(sample, level) for sample in validation[model][main]]
        conditions, trainings = {}, {}
        for condition, samples in of_model.items():
            sets = [prediction_sets(sample, limit) for sample, limit in zip(samples, limits, strict=True)]
            conditions[condition] = _under_condition(
                sets[0], samples[0].truth, axes if condition == main else None, calibrated_on, level, seed, resamples
            )
            conditions[condition]["recalibrated"] = None
            if condition != main:
                own = prediction_sets(samples[0], thresholds(validation[model][condition][0], level))
                conditions[condition]["recalibrated"] = _measure(own, samples[0].truth, None, seed, resamples)
            if len(samples) > 1 and len(samples[0]):
                trainings[condition] = {
                    "coverage": spread([float(_covered(one, samples[0].truth).mean()) for one in sets]),
                    "mean_size": spread([float(one.sum(axis=1).mean()) for one in sets]),
                }
        first, unknown = of_model[main][0], prediction_sets(without_truth[model][main][0], limits[0])
        answers = {"most_probable": first.predicted, "single": single_class(prediction_sets(first, limits[0]))}
        models[model] = {
            "threshold": dict(zip(CLASSES, limits[0].tolist(), strict=True)),
            "conditions": conditions,
            "without_truth": {
                "sizes": _sizes(unknown).tolist(),
                "single": {name: int((single_class(unknown) == k).sum()) for k, name in enumerate(CLASSES)},
            },
            "answers": {
                name: measure_answers(answer, first.truth, weights, seed, resamples) for name, answer in answers.items()
            },
            "trainings": trainings,
        }
    return {"level": level, "needed": events_needed(level), "calibrated_on": calibrated_on, "models": models}


def thresholds(validation: Sample, level: float) -> np.ndarray:
    """Lowest probability of each class with which it is in a set.

    Of the probabilities of the true class of the n validation events of a class it is the ceil((n + 1) `level`)-th
    highest, and 0 if n is below :func:`events_needed`: then the class is in every set.

    Args:
        validation: n events with truth.
        level: coverage to promise, at least 0.01 and below 1.

    Returns:
        (3,), in the order of CLASSES.
    """
    true = np.take_along_axis(validation.probabilities, validation.truth[:, None], axis=1)[:, 0]
    # Like the score 1 - p, but different for probabilities near 0.
    calibrated = ConformalClassifier().fit(-true, bins=validation.truth)
    limits = np.zeros(len(CLASSES))
    for k in range(len(CLASSES)):
        candidates = np.unique(np.append(true[validation.truth == k], 0.0))
        # p-values without random numbers; equal probabilities count in favour of the class.
        p_values = calibrated.predict_p(-candidates, bins=np.full(len(candidates), k), smoothing=False)
        # A table may hold probabilities that exceed 1 by rounding.
        limits[k] = min(candidates[p_values > 1 - level + ROUNDING].min(), 1.0)
    return limits


def prediction_sets(sample: Sample, limits: np.ndarray) -> np.ndarray:
    """(n, 3) bool, the classes in the set of each event.

    Args:
        sample: n events, with or without truth.
        limits: (3,), of :func:`thresholds`.
    """
    inside: np.ndarray = sample.probabilities >= limits * (1 - ROUNDING)
    return inside


def single_class(sets: np.ndarray) -> np.ndarray:
    """(n,) the class of the sets (n, 3) of one class, -1 for the others."""
    return np.where(sets.sum(axis=1) == 1, sets.argmax(axis=1), -1)


def events_needed(level: float) -> int:
    """Validation events of a class without which only a set of all classes can promise `level`.

    The smallest n with (n + 1) `level` <= n.
    """
    return ceil(level / (1 - level) - ROUNDING)


def chance_of_coverage(covered: np.ndarray, calibrated_on: int, level: float) -> float | None:
    """Probability of so few covered test events of a class, or fewer, if the promise holds.

    A promise is an average over samples of validation events. With one sample of n, the coverage has a beta
    distribution with parameters k = ceil((n + 1) `level`) and n + 1 - k (Vovk, Machine Learning 92, 349 (2013)), so
    that the number of covered test events is beta-binomial.

    Args:
        covered: bool, for each test event of the class, whether its set holds it.
        calibrated_on: validation events of the class.
        level: promised coverage.

    Returns:
        None without test events, and where the class is in every set.
    """
    if not len(covered) or calibrated_on < events_needed(level):
        return None
    rank = ceil((calibrated_on + 1) * level - ROUNDING)
    return float(stats.betabinom.cdf(covered.sum(), len(covered), rank, calibrated_on + 1 - rank))


def _under_condition(
    sets: np.ndarray,
    truth: np.ndarray,
    axes: Mapping[str, Axis | None] | None,
    calibrated_on: Mapping[str, int],
    level: float,
    seed: int,
    resamples: int,
) -> dict[str, Any]:
    """:func:`_measure` for all events and, under `by_class`, for each class with its `p_value`."""
    by_class = {}
    for k, name in enumerate(CLASSES):
        by_class[name] = _measure(sets, truth, axes, seed, resamples, k)
        by_class[name]["p_value"] = chance_of_coverage(sets[truth == k, k], calibrated_on[name], level)
    return _measure(sets, truth, axes, seed, resamples) | {"by_class": by_class}


def _measure(
    sets: np.ndarray,
    truth: np.ndarray,
    axes: Mapping[str, Axis | None] | None,
    seed: int,
    resamples: int,
    k: int | None = None,
) -> dict[str, Any]:
    """Coverage and sizes of the sets of all events, or of the true events of class `k`; with `axes` in their bins."""
    mask = np.ones(len(truth), dtype=bool) if k is None else truth == k
    covered, sizes = _covered(sets, truth) & mask, _sizes(sets[mask])
    n = int(mask.sum())
    return {
        "n": n,
        **ratio("coverage", int(covered.sum()), n),
        "mean_size": float(_mean_size(sizes)) if n else None,
        # The sizes of n events drawn with replacement are multinomial.
        "mean_size_interval": percentile_interval(
            _mean_size(np.random.default_rng(seed).multinomial(n, sizes / n, resamples)) if n else np.empty(0)
        ),
        "sizes": sizes.tolist(),
        "dependence": None
        if axes is None
        else {name: _along(sets, covered, mask, axis) for name, axis in axes.items()},
    }


def _along(sets: np.ndarray, covered: np.ndarray, mask: np.ndarray, axis: Axis | None) -> dict[str, Any] | None:
    """Coverage and mean size of the events of `mask` in the bins of `axis`."""
    if axis is None:
        return None
    n = axis.count(mask)
    classes = np.sum([axis.count(mask & inside) for inside in sets.T], axis=0)
    return {
        **axis.bins,
        **ratios("coverage", axis.count(covered), n),
        "mean_size": [float(total / events) if events else None for total, events in zip(classes, n, strict=True)],
    }


def _covered(sets: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(n,) bool, the set holds the true class."""
    return sets[np.arange(len(truth)), truth]


def _sizes(sets: np.ndarray) -> np.ndarray:
    """Events with a set of no, one, two and three classes."""
    return np.bincount(sets.sum(axis=1), minlength=len(CLASSES) + 1)


def _mean_size(sizes: np.ndarray) -> np.ndarray:
    """Mean size of sets, from the numbers of :func:`_sizes` on the last axis."""
    return sizes @ np.arange(len(CLASSES) + 1) / sizes.sum(axis=-1)
