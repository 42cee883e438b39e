"""Scores of the classifiers on the test split, with their uncertainties.

Conventions, where a number could mean two things:

- A class without an event in the test split has no recall and no AUC; the means over classes leave it out.
- The precision of a class that is never predicted is not defined; it counts as 0 in the mean, as in scikit-learn.
- Where nothing can be measured a value is None (null in the file), never 0.
"""

import logging
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix, roc_auc_score, roc_curve

from nuvlm.classes import CLASSES
from nuvlm.evaluation.calibration import CONFIDENCE_EDGES, calibrate, confidence_bins, expected_calibration_error
from nuvlm.evaluation.comparison import compare
from nuvlm.evaluation.faithfulness import Explanations, measure_faithfulness, measure_heat
from nuvlm.evaluation.intervals import RESAMPLES, Interval, binomial_interval, bootstrap
from nuvlm.evaluation.samples import Predictions, Sample, labelled_events, read_sample
from nuvlm.events import read_events
from nuvlm.storage import write_json

SEED = 20250908
ROC_POINTS = 200
SCORE_EDGES = np.linspace(0, 1, 21)
EFFICIENCIES = (0.8, 0.9)

logger = logging.getLogger(__name__)


def evaluate(
    events: Path,
    predictions: Predictions,
    out: Path,
    resamples: int = RESAMPLES,
    explanations: Explanations = MappingProxyType({}),
    heat: Sequence[str | Path] = (),
) -> None:
    """Score every model under every condition, compare them, and write it all to `out` (JSON).

    The file holds `classes`; `events`, how many by split and class; `scores[model][condition]`; `calibration[model]`,
    under the first condition;
    `comparisons`, every two models under each condition; `changes[model][condition]`, each condition against the
    first one; `explanations[model]`, what its rationales are worth; `heat`, what the CNN loses where it looks. The
    keys are described in docs/report.md. Without truth in the test split `n` is 0, the scores are null, and only what
    was predicted is counted.

    Args:
        events: events.parquet.
        predictions: Parquet files of each model under each condition; the first condition is the same for all models.
        out: the file to write.
        resamples: of the bootstrap.
        explanations: tables of rationales of each model that gives any.
        heat: stores of where the CNN looks, of all parts.

    Raises:
        InputError: naming the file and event that cannot be used.
    """
    table = read_events(events)
    scored = labelled_events(table, "test")
    validation = labelled_events(table, "validation")
    untold = table[table["class"].isna()]
    logger.info("%d of %d events are scored, %d have no truth", len(scored), len(table), len(untold))
    samples = {
        model: {condition: read_sample(scored, parts) for condition, parts in conditions.items()}
        for model, conditions in predictions.items()
    }
    scores: dict[str, dict[str, Any]] = {}
    for model, conditions in samples.items():
        scores[model] = {}
        for condition, sample in conditions.items():
            score = score_sample(sample, scored["nu_energy"].to_numpy(np.float64), resamples)
            blind = read_sample(untold, predictions[model][condition])
            score["predicted_without_truth"] = _counts(blind.predicted)
            scores[model][condition] = score
            if len(sample):
                logger.info("%s, %s: accuracy %.3f, n = %d", model, condition, score["accuracy"], score["n"])
    calibration = {}
    for model, conditions in samples.items():
        main = next(iter(conditions))
        calibration[model] = calibrate(read_sample(validation, predictions[model][main]), conditions[main])
        if calibration[model]["temperatures"]["fitted"]["temperature"] is None:
            logger.warning("%s: no temperature fits the %d validation events", model, len(validation))
    faithfulness = measure_faithfulness(table, explanations, SEED, resamples)
    for model, measured in faithfulness.items():
        logger.info("%s: rationales of %d test events drawn at random", model, measured["n"])
    comparisons = [
        {"first": first, "second": second, "condition": condition}
        | compare(samples[first][condition].correct, samples[second][condition].correct, SEED, resamples)
        for first, second in combinations(samples, 2)
        for condition in samples[first]
        if condition in samples[second]
    ]
    write_json(
        out,
        {
            "classes": list(CLASSES),
            "events": _count_events(table),
            "scores": scores,
            "calibration": calibration,
            "comparisons": comparisons,
            "changes": {model: _changes(conditions, resamples) for model, conditions in samples.items()},
            "explanations": faithfulness,
            "heat": measure_heat(table, heat, SEED, resamples),
        },
        sealed=True,
    )


def score_sample(sample: Sample, energy: np.ndarray, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Every score of one model under one condition.

    Args:
        sample: n events with truth.
        energy: (n,) neutrino energy, GeV; NaN where not known.
        resamples: of the bootstrap.

    Returns:
        `n`; `accuracy`, `precision`, `recall`, `auc` and the interval of each; `ece`; `confusion` (rows are the
        truth); `by_class` with the same for each class, its ROC, efficiency and purity against energy and its score
        distributions; `reliability`.
    """
    truth, predicted, p = sample.truth, sample.predicted, sample.probabilities
    n = len(sample)
    labels = range(len(CLASSES))
    confusion = confusion_matrix(truth, predicted, labels=labels) if n else np.zeros((len(CLASSES),) * 2, dtype=int)
    auc = np.array([roc_auc_score(truth == k, p[:, k]) if _both(truth == k) else np.nan for k in labels])
    values = _summary(confusion[None].astype(np.float64), auc[None])
    intervals = bootstrap(lambda weights: weighted_scores(sample, weights), n, SEED, resamples)
    score: dict[str, Any] = {"n": n}
    for name in ("accuracy", "precision", "recall", "auc"):
        score[name] = _number(values[name][0])
        score[f"{name}_interval"] = intervals.get(name)
    # No interval: resampling adds to the distance from the diagonal, so a bootstrap of it is biased upwards.
    score["ece"] = _number(expected_calibration_error(sample))
    score["confusion"] = confusion.tolist()
    edges = energy_edges(energy)
    score["by_class"] = {
        name: {
            "n": int(confusion[k].sum()),
            "selected": int(confusion[:, k].sum()),
            **_ratio("recall", confusion[k, k], confusion[k].sum()),
            **_ratio("precision", confusion[k, k], confusion[:, k].sum()),
            "auc": _number(auc[k]),
            "auc_interval": intervals.get(f"auc_{k}"),
            **_roc(truth == k, p[:, k]),
            "energy": _energy_dependence(truth == k, predicted == k, energy, edges),
            "scores": {
                other: np.histogram(p[truth == j, k], SCORE_EDGES)[0].tolist() for j, other in enumerate(CLASSES)
            },
        }
        for k, name in enumerate(CLASSES)
    }
    score["score_edges"] = SCORE_EDGES.round(6).tolist()
    score["reliability"] = _reliability(sample)
    return score


def weighted_scores(sample: Sample, weights: np.ndarray) -> dict[str, np.ndarray]:
    """The scores of many bootstrap resamples at once.

    Args:
        sample: n events with truth.
        weights: (b, n), how often each event counts in each of b resamples.

    Returns:
        (b,) values of `accuracy`, `precision`, `recall`, `auc` and `auc_{k}` of each class; NaN where undefined.
    """
    k = len(CLASSES)
    cell = np.eye(k * k)[sample.truth * k + sample.predicted]  # (n, 9)
    confusion = (weights @ cell).reshape(-1, k, k)
    auc = np.stack([weighted_auc(sample.truth == c, sample.probabilities[:, c], weights) for c in range(k)], axis=1)
    return _summary(confusion, auc) | {f"auc_{c}": auc[:, c] for c in range(k)}


def weighted_auc(positive: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of many weightings of the same events.

    It is the probability that a positive scores above a negative, ties counting half (Hanley and McNeil,
    Radiology 143, 29 (1982)), which is what scikit-learn's ``roc_auc_score`` gives for each row of `weights`.

    Args:
        positive: (n,) bool.
        score: (n,) higher is more positive.
        weights: (b, n), not negative.

    Returns:
        (b,) areas; NaN where one side has no weight.
    """
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(score[order]) > 0])  # first event of each group of equal scores
    sorted_weights = weights[:, order]
    positives = np.add.reduceat(sorted_weights * positive[order], starts, axis=1)  # (b, groups)
    negatives = np.add.reduceat(sorted_weights * ~positive[order], starts, axis=1)
    below = np.cumsum(negatives, axis=1) - negatives / 2
    with np.errstate(invalid="ignore"):
        area: np.ndarray = (positives * below).sum(axis=1) / (positives.sum(axis=1) * negatives.sum(axis=1))
    return area


def energy_edges(energy: np.ndarray) -> np.ndarray:
    """Edges (GeV) of equal bins from 0 to the highest energy, rounded up, with some 60 events each: 2 to 10 bins."""
    known = energy[np.isfinite(energy)]
    top = float(np.ceil(known.max())) if len(known) else 1.0
    return np.linspace(0, max(top, 1.0), int(np.clip(len(known) // 60, 2, 10)) + 1)


def _summary(confusion: np.ndarray, auc: np.ndarray) -> dict[str, np.ndarray]:
    """Accuracy and means over the classes present, from confusion (b, k, k) and AUC (b, k)."""
    right = np.diagonal(confusion, axis1=1, axis2=2)  # (b, k)
    true, selected = confusion.sum(axis=2), confusion.sum(axis=1)
    present = true > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = np.where(present, right / true, np.nan)
        precision = np.where(present, np.where(selected > 0, right / selected, 0.0), np.nan)
        return {
            "accuracy": right.sum(axis=1) / confusion.sum(axis=(1, 2)),
            "precision": _mean_defined(precision),
            "recall": _mean_defined(recall),
            "auc": _mean_defined(auc),
        }


def _mean_defined(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is not NaN; NaN where all is."""
    defined = np.isfinite(values)
    total: np.ndarray = np.where(defined, values, 0).sum(axis=-1)
    return total / np.where(defined.any(axis=-1), defined.sum(axis=-1), np.nan)


def _roc(positive: np.ndarray, score: np.ndarray) -> dict[str, Any]:
    """The ROC curve, thinned, and the background rejection at fixed signal efficiencies."""
    if not _both(positive):
        return {"roc": None, "rejection": {f"{efficiency:g}": None for efficiency in EFFICIENCIES}}
    false, true, _ = roc_curve(positive, score)
    kept = np.unique(np.linspace(0, len(false) - 1, min(len(false), ROC_POINTS)).round().astype(int))
    return {
        "roc": {"fpr": false[kept].round(5).tolist(), "tpr": true[kept].round(5).tolist()},
        "rejection": {
            f"{efficiency:g}": float(1 - false[np.searchsorted(true, efficiency - 1e-12)])
            for efficiency in EFFICIENCIES
        },
    }


def _energy_dependence(true: np.ndarray, selected: np.ndarray, energy: np.ndarray, edges: np.ndarray) -> dict[str, Any]:
    """Efficiency and purity of one class in bins of true neutrino energy, with exact intervals."""

    def fill(mask: np.ndarray) -> np.ndarray:
        return np.histogram(energy[mask & np.isfinite(energy)], edges)[0]

    right, all_true, all_selected = fill(true & selected), fill(true), fill(selected)
    return {
        "edges_gev": edges.tolist(),
        **_ratios("efficiency", right, all_true),
        **_ratios("purity", right, all_selected),
    }


def _reliability(sample: Sample) -> dict[str, Any]:
    confidence, where = confidence_bins(sample)
    bins = len(CONFIDENCE_EDGES) - 1
    n = np.bincount(where, minlength=bins)
    right = np.bincount(where, weights=sample.correct, minlength=bins).astype(int)
    total = np.bincount(where, weights=confidence, minlength=bins)
    return {
        "edges": CONFIDENCE_EDGES.round(6).tolist(),
        "confidence": [_number(total[i] / n[i]) if n[i] else None for i in range(bins)],
        **_ratios("accuracy", right, n),
    }


def _ratio(name: str, successes: int, trials: int) -> dict[str, Any]:
    return {
        name: float(successes / trials) if trials else None,
        f"{name}_interval": binomial_interval(successes, trials),
    }


def _ratios(name: str, successes: np.ndarray, trials: np.ndarray) -> dict[str, list[Any]]:
    pairs = [_ratio(name, int(k), int(n)) for k, n in zip(successes, trials, strict=True)]
    intervals: list[Interval] = [pair[f"{name}_interval"] for pair in pairs]
    return {name: [pair[name] for pair in pairs], f"{name}_interval": intervals, f"{name}_n": trials.tolist()}


def _changes(conditions: Mapping[str, Sample], resamples: int) -> dict[str, Any]:
    """Every condition against the first one, for the same model, and the share of answers that stay."""
    reference, *others = conditions
    return {
        condition: {
            "reference": reference,
            "same_answer": _number(_share(conditions[condition].predicted == conditions[reference].predicted)),
        }
        | compare(conditions[condition].correct, conditions[reference].correct, SEED, resamples)
        for condition in others
    }


def _count_events(table: pd.DataFrame) -> dict[str, dict[str, int]]:
    """How many events of each class each split holds; those without truth stand under `none`."""
    splits = table["split"].fillna("none")
    classes = table["class"].fillna("none")
    return {
        str(split): {str(name): int(count) for name, count in rows.value_counts().items()}
        for split, rows in classes.groupby(splits)
    }


def _counts(codes: np.ndarray) -> dict[str, int]:
    return dict(zip(CLASSES, np.bincount(codes, minlength=len(CLASSES)).tolist(), strict=True))


def _both(positive: np.ndarray) -> bool:
    return bool(positive.any() and not positive.all())


def _share(mask: np.ndarray) -> float:
    return float(mask.mean()) if len(mask) else float("nan")


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
