"""Scores of the classifiers on the test split, with uncertainties.

Conventions:

- A class without test events has no recall and no AUC, and is left out of the means over classes.
- The precision of a class that is never predicted is undefined, and counts as 0 in the mean, as in scikit-learn.
- Undefined values are None (null in the file), never 0.
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

from nuvlm.base.classes import CLASSES
from nuvlm.base.errors import InputError
from nuvlm.base.files import write_json
from nuvlm.base.kernels import cached_njit
from nuvlm.base.logs import track
from nuvlm.dataset.event_table import as_simulated, read_events
from nuvlm.detector.geometry import HALF
from nuvlm.evaluation.calibration import calibrate, expected_calibration_error
from nuvlm.evaluation.comparison import agreement, compare_all
from nuvlm.evaluation.conformal import LEVEL, measure_sets
from nuvlm.evaluation.counterfactuals import measure_counterfactuals
from nuvlm.evaluation.cuts import scan_cuts
from nuvlm.evaluation.dependence import Axis, dependence, pion_axis, pions_mistaken, truth_axes
from nuvlm.evaluation.faithfulness import Explanations, measure_faithfulness, measure_saliency
from nuvlm.evaluation.intervals import RESAMPLES, bootstrap, ratio
from nuvlm.evaluation.samples import KEY, Predictions, Sample, labelled_events, read_sample
from nuvlm.evaluation.spectrum import read_spectrum, weigh
from nuvlm.evaluation.trainings import compare_trainings, ensemble, mean_interval, spread
from nuvlm.models.conditions import KINDS, NOMINAL, degradation, shown_in_full

SEED = 20250908
ROC_POINTS = 200
SCORE_EDGES = np.linspace(0, 1, 21)
EFFICIENCIES = (0.8, 0.9)
DIGITS = 10
"""Significant digits of all numbers. The order of a sum, and so its last bits, depends on the CPU; the same predictions
give the same report on all."""

logger = logging.getLogger(__name__)


def evaluate(
    events: Path,
    predictions: Predictions,
    out: Path,
    resamples: int = RESAMPLES,
    explanations: Explanations = MappingProxyType({}),
    saliency: Mapping[str, Sequence[str | Path]] = MappingProxyType({}),
    spectrum: Path | None = None,
    repeats: Mapping[str, Sequence[Mapping[str, Sequence[str | Path]]]] = MappingProxyType({}),
    level: float = LEVEL,
    stores: Mapping[str, Path] = MappingProxyType({}),
) -> None:
    """Score every model under every condition, compare the models, and write all numbers to `out` (JSON).

    The keys are part of report.json and described in nuvlm.report.schema. Without truth in the test split `n` is 0, the
    scores are null, and only predictions are counted.

    Args:
        events: events.parquet.
        predictions: Parquet files of each model under each condition; the first condition is the same for all models.
        out: JSON file to write.
        resamples: number of bootstrap resamples.
        explanations: tables of rationales of each model that writes them.
        saliency: stores of saliency maps of each CNN, one per part.
        spectrum: CSV file of the beam spectrum for `cuts`; None: unweighted.
        repeats: Parquet files of the further trainings of each model; those of `predictions` are of its first.
        level: coverage that prediction sets promise, at least 0.01 and below 1.
        stores: pixel-map store of each shard, for counterfactual events; without, they are left out of all scores, and
            not measured.

    Raises:
        InputError: an input is unusable; names the file and the event.
    """
    every = read_events(events)
    table = as_simulated(every)
    scored = labelled_events(table, "test")
    validation = labelled_events(table, "validation")
    unlabelled = table[table["class"].isna()]
    logger.info("%d of %d events are scored, %d have no truth", len(scored), len(table), len(unlabelled))
    beam, weights = _weights(spectrum, table, {"test": scored, "validation": validation})
    # Model -> condition -> each training.
    trained, validated, without_truth = (
        {
            model: {
                condition: [read_sample(rows, each[condition]) for each in (conditions, *repeats.get(model, ()))]
                for condition in conditions
            }
            for model, conditions in predictions.items()
        }
        for rows in (scored, validation, unlabelled)
    )
    samples = {model: {name: several[0] for name, several in of_model.items()} for model, of_model in trained.items()}
    axes = truth_axes(scored)
    pions = pion_axis(scored), scored["pi0_energy"].to_numpy(np.float64)
    scores: dict[str, dict[str, Any]] = {}
    cells = [
        (model, condition, sample) for model, of_model in samples.items() for condition, sample in of_model.items()
    ]
    for model, condition, sample in track(cells, "samples", len(cells)):
        score = score_sample(sample, resamples)
        if condition in shown_in_full(samples[model]):
            describe_sample(score, sample, axes)
            score["pi0"] = pions_mistaken(sample, *pions)
        score["predicted_without_truth"] = _counts(without_truth[model][condition][0].predicted)
        scores.setdefault(model, {})[condition] = score
        if len(sample):
            logger.info("%s, %s: accuracy %.3f, n = %d", model, condition, score["accuracy"], score["n"])
    calibration, cuts = {}, {}
    for model, conditions in samples.items():
        main = next(iter(conditions))
        chosen = validated[model][main][0]
        calibration[model] = calibrate(chosen, conditions[main])
        cuts[model] = scan_cuts(chosen, conditions[main], weights["validation"], weights["test"])
        if calibration[model]["temperatures"]["fitted"]["temperature"] is None:
            logger.warning("%s: the temperature fit to %d validation events has no minimum", model, len(validation))
    faithfulness = measure_faithfulness(table, explanations, SEED, resamples)
    for model, measured in faithfulness.items():
        logger.info("%s: rationales of %d test events drawn at random", model, measured["n"])
    results = {
        "classes": list(CLASSES),
        "events": _count_events(table),
        "windows": _count_windows(table),
        "scores": scores,
        "robustness": _curves(scores),
        "calibration": calibration,
        "spectrum": beam,
        "cuts": cuts,
        "sets": measure_sets(validated, trained, without_truth, axes, weights["test"], level, SEED, resamples),
        "comparisons": _comparisons(trained, axes["energy"], resamples),
        "trainings": _trainings(trained, resamples),
        "changes": _changes(samples, resamples),
        "explanations": faithfulness,
        "saliency": {model: measure_saliency(table, parts, SEED, resamples) for model, parts in saliency.items()},
        "counterfactuals": measure_counterfactuals(every, predictions, explanations, saliency, stores, SEED, resamples)
        if stores
        else None,
    }
    write_json(out, rounded(results), sealed=True)


def rounded(value: Any) -> Any:
    """`value` with all floats rounded to DIGITS significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list | tuple) else value


def score_sample(sample: Sample, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Compute the overall scores of one model under one condition.

    Args:
        sample: n events with truth.
        resamples: number of bootstrap resamples.

    Returns:
        `n`; the scores of :func:`weighted_scores` with intervals; `ece`; `confusion` (rows: true class); `by_class`
        with `n`, `selected`, recall, precision and AUC of each class.
    """
    truth, predicted, p = sample.truth, sample.predicted, sample.probabilities
    n = len(sample)
    labels = range(len(CLASSES))
    confusion = confusion_matrix(truth, predicted, labels=labels) if n else np.zeros((len(CLASSES),) * 2, dtype=int)
    auc = np.array([roc_auc_score(truth == k, p[:, k]) if _both(truth == k) else np.nan for k in labels])
    values = _summary(confusion[None].astype(np.float64), auc[None])
    intervals = bootstrap(lambda weights: weighted_scores(sample, weights), n, SEED, resamples)
    score: dict[str, Any] = {"n": n}
    for name in values:
        score[name] = _number(values[name][0])
        score[f"{name}_interval"] = intervals.get(name)
    # No interval: the bootstrap of the ECE is biased upwards.
    score["ece"] = _number(expected_calibration_error(sample))
    score["confusion"] = confusion.tolist()
    score["by_class"] = {
        name: {
            "n": int(confusion[k].sum()),
            "selected": int(confusion[:, k].sum()),
            **ratio("recall", confusion[k, k], confusion[k].sum()),
            **ratio("precision", confusion[k, k], confusion[:, k].sum()),
            "auc": _number(auc[k]),
            "auc_interval": intervals.get(f"auc_{k}"),
        }
        for k, name in enumerate(CLASSES)
    }
    return score


def describe_sample(score: dict[str, Any], sample: Sample, axes: Mapping[str, Axis | None]) -> None:
    """Add to `score`, of :func:`score_sample`, the details of a condition that is shown in full.

    These are `score_edges` and, for each class, `roc`, `rejection`, `dependence[quantity]` for each of `axes`, and
    `scores`, histograms of its probability for each true class.
    """
    truth, p = sample.truth, sample.probabilities
    score["score_edges"] = SCORE_EDGES.round(6).tolist()
    for k, name in enumerate(CLASSES):
        score["by_class"][name] |= {
            **_roc(truth == k, p[:, k]),
            "dependence": {quantity: dependence(sample, k, axis) for quantity, axis in axes.items()},
            "scores": {
                other: np.histogram(p[truth == j, k], SCORE_EDGES)[0].tolist() for j, other in enumerate(CLASSES)
            },
        }


def weighted_scores(sample: Sample, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Compute the scores of many bootstrap resamples at once.

    Args:
        sample: n events with truth.
        weights: (b, n), multiplicity of each event in each of b resamples.

    Returns:
        (b,) values of `accuracy`, `precision`, `recall`, `auc` and `auc_{k}` of each class; NaN where undefined.
    """
    k = len(CLASSES)
    cell = np.eye(k * k)[sample.truth * k + sample.predicted]  # (n, 9)
    confusion = (weights @ cell).reshape(-1, k, k)
    auc = np.stack([weighted_auc(sample.truth == c, sample.probabilities[:, c], weights) for c in range(k)], axis=1)
    return _summary(confusion, auc) | {f"auc_{c}": auc[:, c] for c in range(k)}


def weighted_auc(positive: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Compute the area under the ROC curve for many weightings of the same events.

    It is the probability that a positive scores above a negative, ties counting half (Hanley and McNeil,
    Radiology 143, 29 (1982)), which is what scikit-learn's ``roc_auc_score`` gives for each row of `weights`.

    Args:
        positive: (n,) bool.
        score: (n,) higher is more positive.
        weights: (b, n), not negative.

    Returns:
        (b,) areas; NaN if positives or negatives have no weight.
    """
    order = np.argsort(score, kind="stable")
    ties = np.r_[np.diff(score[order]) == 0, False]  # whether the next event scores the same
    with np.errstate(invalid="ignore"):
        area: np.ndarray = _areas(order, ties, positive, weights)
    return area


@cached_njit()
def _areas(order, ties, positive, weights):  # type: ignore[no-untyped-def]
    """One pass over the events in rising order of score, for each weighting."""
    areas = np.empty(len(weights))
    for b in range(len(weights)):
        below, negatives, positives, total, pairs = 0.0, 0.0, 0.0, 0.0, 0.0
        for i in range(len(order)):
            weight = weights[b, order[i]]
            if positive[order[i]]:
                positives += weight
            else:
                negatives += weight
            if not ties[i]:
                pairs += positives * (below + negatives / 2)
                below += negatives
                total += positives
                positives = negatives = 0.0
        areas[b] = pairs / (total * below) if total * below > 0 else np.nan
    return areas


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
    """Mean over the last axis, ignoring NaN; NaN if all are."""
    defined = np.isfinite(values)
    total: np.ndarray = np.where(defined, values, 0).sum(axis=-1)
    return total / np.where(defined.any(axis=-1), defined.sum(axis=-1), np.nan)


def _roc(positive: np.ndarray, score: np.ndarray) -> dict[str, Any]:
    """ROC curve (at most ROC_POINTS points) and background rejection at fixed signal efficiencies."""
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


def _weights(
    spectrum: Path | None, table: pd.DataFrame, splits: Mapping[str, pd.DataFrame]
) -> tuple[dict[str, Any] | None, dict[str, np.ndarray]]:
    """Beam-spectrum summary and per-event weights of each split (1 without a spectrum)."""
    if spectrum is None:
        return None, {split: np.ones(len(rows)) for split, rows in splits.items()}
    beam = read_spectrum(spectrum)
    labelled = table[table["class"].notna()]
    # All splits have the same spectrum, so all labelled events are used to estimate it.
    weight = weigh(beam, labelled["nu_pdg"].to_numpy(), labelled["nu_energy"].to_numpy(np.float64))
    by_row = pd.Series(weight, index=pd.MultiIndex.from_frame(labelled[KEY]))
    weights = {split: by_row.reindex(pd.MultiIndex.from_frame(rows[KEY])).to_numpy() for split, rows in splits.items()}
    test = weights["test"]
    if len(test) and not test.any():
        raise InputError(
            f"{spectrum}: no test event lies within the spectrum. Check that its energies are in GeV and its nu_pdg "
            "occur in the sample, or set report.spectrum to null."
        )
    effective = float(test.sum() ** 2 / (test**2).sum()) if len(test) else 0.0
    summary = {"file": str(spectrum), "effective_events": effective, "left_out": int((test == 0).sum())}
    logger.info(
        "%s: %d test events correspond to %.0f unweighted ones, %d are outside the spectrum",
        spectrum,
        len(test),
        effective,
        summary["left_out"],
    )
    return summary, weights


def _curves(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Accuracy against the level of each kind of degradation, starting at the nominal level."""
    curves: dict[str, dict[str, Any]] = {}
    for model, by_condition in scores.items():
        points: dict[str, list[tuple[int, str]]] = {}
        for condition in by_condition:
            if found := degradation(condition):
                points.setdefault(found[0], []).append((found[1], condition))
        for kind, levels in points.items():
            if NOMINAL in by_condition:
                levels.append((KINDS[kind].nominal, NOMINAL))
            curve = curves.setdefault(kind, {"axis": KINDS[kind].axis, "models": {}})
            curve["models"][model] = [
                {"condition": condition, "level": level}
                | {key: by_condition[condition][key] for key in ("n", "accuracy", "accuracy_interval")}
                for level, condition in sorted(levels)
            ]
    return curves


def _trainings(trained: Mapping[str, Mapping[str, Sequence[Sample]]], resamples: int) -> dict[str, dict[str, Any]]:
    """Number of trainings of each model and, if there are several, their scores and their ensemble by condition."""
    found: dict[str, dict[str, Any]] = {}
    for model, of_model in trained.items():
        n = len(next(iter(of_model.values())))
        found[model] = {"n": n, "conditions": {}}
        for condition, samples in of_model.items() if n > 1 and len(next(iter(of_model.values()))[0]) else ():
            once = [weighted_scores(sample, np.ones((1, len(sample)))) for sample in samples]
            together = score_sample(ensemble(samples), resamples)
            names = [name for name in once[0] if f"{name}_interval" in together]
            found[model]["conditions"][condition] = {
                "scores": {name: spread([_number(values[name][0]) for values in once]) for name in names},
                "accuracy_interval": mean_interval([sample.correct for sample in samples], SEED, resamples),
                "ensemble": {key: together[key] for name in names for key in (name, f"{name}_interval")},
            }
    return found


def _comparisons(
    trained: Mapping[str, Mapping[str, Sequence[Sample]]], energy: Axis | None, resamples: int
) -> list[dict[str, Any]]:
    """All pairs of models under each condition; with disagreement if the condition is shown in full."""
    samples = {
        model: {condition: several[0] for condition, several in of_model.items()} for model, of_model in trained.items()
    }
    cases = [
        (first, second, condition)
        for first, second in combinations(samples, 2)
        for condition in samples[first]
        if condition in samples[second]
    ]
    pairs = [(samples[first][condition], samples[second][condition]) for first, second, condition in cases]
    tests = compare_all([(a.correct, b.correct) for a, b in pairs], SEED, resamples)
    right = {
        (model, condition): [sample.correct for sample in several]
        for model, of_model in trained.items()
        for condition, several in of_model.items()
    }
    repeated = [(right[first, condition], right[second, condition]) for first, second, condition in cases]
    beyond = compare_trainings(repeated, tests, SEED, resamples)
    return [
        {"first": first, "second": second, "condition": condition, **test, **of_trainings}
        | (agreement(a.truth, a.correct, b.correct, energy) if condition in shown_in_full(samples[first]) else {})
        for (first, second, condition), (a, b), test, of_trainings in zip(cases, pairs, tests, beyond, strict=True)
    ]


def _changes(samples: Mapping[str, Mapping[str, Sample]], resamples: int) -> dict[str, dict[str, Any]]:
    """Each condition against the first one for each model, and the fraction of unchanged answers."""
    cases = [
        (model, condition, sample, next(iter(conditions)))
        for model, conditions in samples.items()
        for condition, sample in list(conditions.items())[1:]
    ]
    references = [samples[model][reference] for model, _, _, reference in cases]
    pairs = [(case[2], reference) for case, reference in zip(cases, references, strict=True)]
    tests = compare_all([(a.correct, b.correct) for a, b in pairs], SEED, resamples)
    changes: dict[str, dict[str, Any]] = {model: {} for model in samples}
    for (model, condition, sample, name), reference, test in zip(cases, references, tests, strict=True):
        same = _number(_share(sample.predicted == reference.predicted))
        changes[model][condition] = {"reference": name, "same_answer": same, **test}
    return changes


def _count_events(table: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Number of events by split and class; `none` without truth."""
    splits = table["split"].fillna("none")
    classes = table["class"].fillna("none")
    return {
        str(split): {str(name): int(count) for name, count in rows.value_counts().items()}
        for split, rows in classes.groupby(splits)
    }


def _count_windows(table: pd.DataFrame) -> dict[str, Any]:
    """What the windows of the events are centred on, and how many hold less than half of the charge."""
    found = table["centred_by"].value_counts()
    return {
        "events": len(table),
        "centred_by": {str(name): int(count) for name, count in found.items()},
        "cut": int((table["window_share"] < HALF).sum()),
    }


def _counts(codes: np.ndarray) -> dict[str, int]:
    return dict(zip(CLASSES, np.bincount(codes, minlength=len(CLASSES)).tolist(), strict=True))


def _both(positive: np.ndarray) -> bool:
    return bool(positive.any() and not positive.all())


def _share(mask: np.ndarray) -> float:
    return float(mask.mean()) if len(mask) else float("nan")


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
