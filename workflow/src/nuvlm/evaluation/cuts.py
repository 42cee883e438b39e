"""Selection of events of a class: by a cut on its probability, and by answers that may be abstentions."""

from typing import Any

import numpy as np

from nuvlm.base.classes import CLASSES
from nuvlm.evaluation.intervals import RESAMPLES, bootstrap
from nuvlm.evaluation.samples import Sample

CUTS = np.linspace(0, 0.99, 100)
"""Events with at least this probability are selected."""
FIGURES_OF_MERIT = ("significance", "product")
"""s / sqrt(s + b), and efficiency times purity."""


def scan_cuts(
    validation: Sample, test: Sample, validation_weights: np.ndarray, test_weights: np.ndarray
) -> dict[str, dict[str, Any]]:
    """Scan the cut on the probability of each class; choose the best one on the validation split.

    Args:
        validation, test: predictions of one model under one condition.
        validation_weights, test_weights: (n,) event weights in any unit, scaled here to a mean of 1, so that
            `significance` is that of the number of events in the split.

    Returns:
        For each class: `cut`; `efficiency`, `purity`, `significance` and `product` at each, on the test split; and
        `best[significance, product]`: `cut`, the four values on the test split, and `chosen_on`, the number of
        validation events. Purity and product are None if nothing is selected, all are None if the class has no weight;
        a best cut is None if the validation split has no event of the class.
    """
    found = {}
    for k, name in enumerate(CLASSES):
        chosen = _scan(validation, validation_weights, k)
        measured = _scan(test, test_weights, k)
        of_class: dict[str, Any] = {"cut": CUTS.round(6).tolist()}
        of_class |= {quantity: [_number(value) for value in values] for quantity, values in measured.items()}
        of_class["best"] = {}
        for merit in FIGURES_OF_MERIT:
            if not np.isfinite(chosen[merit]).any():
                of_class["best"][merit] = None
                continue
            best = int(np.nanargmax(chosen[merit]))
            at_best = {quantity: _number(values[best]) for quantity, values in measured.items()}
            of_class["best"][merit] = {"cut": float(CUTS[best].round(6)), **at_best, "chosen_on": len(validation)}
        found[name] = of_class
    return found


def measure_answers(
    answer: np.ndarray, truth: np.ndarray, weights: np.ndarray, seed: int, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """Measure a selection of events by an answer that may be an abstention.

    Args:
        answer: (n,) index into CLASSES; -1 for an abstention.
        truth: (n,) index into CLASSES.
        weights: (n,) event weights in any unit.
        seed: of the bootstrap.
        resamples: number of bootstrap resamples.

    Returns:
        `kept`, the fraction of events with an answer, and `accuracy` of these; `efficiency` and `purity` of each class,
        the fraction of its true events that get it as an answer, and the fraction of these answers that are right. All
        with bootstrap intervals, and None if there is no event to divide by.
    """
    classes = range(len(CLASSES))
    parts = {"all": answer >= -1, "kept": answer >= 0, "right": answer == truth}
    for k in classes:
        parts |= {f"true_{k}": truth == k, f"given_{k}": answer == k, f"right_{k}": (answer == k) & (truth == k)}
    cells = np.stack(list(parts.values()), axis=1) * weights[:, None]  # (n, 12)

    def measure(drawn: np.ndarray) -> dict[str, np.ndarray]:
        sums = dict(zip(parts, (drawn @ cells).T, strict=True))
        with np.errstate(divide="ignore", invalid="ignore"):
            found = {"kept": sums["kept"] / sums["all"], "accuracy": sums["right"] / sums["kept"]}
            for k in classes:
                found[f"efficiency_{k}"] = sums[f"right_{k}"] / sums[f"true_{k}"]
                found[f"purity_{k}"] = sums[f"right_{k}"] / sums[f"given_{k}"]
        return found

    values = {name: _number(value[0]) for name, value in measure(np.ones((1, len(truth)))).items()}
    ends = bootstrap(measure, len(truth), seed, resamples)

    def quoted(quantity: str, name: str) -> dict[str, Any]:
        return {quantity: values[name], f"{quantity}_interval": ends.get(name)}

    return {
        **quoted("kept", "kept"),
        **quoted("accuracy", "accuracy"),
        "by_class": {
            name: quoted("efficiency", f"efficiency_{k}") | quoted("purity", f"purity_{k}")
            for k, name in enumerate(CLASSES)
        },
    }


def _scan(sample: Sample, weights: np.ndarray, k: int) -> dict[str, np.ndarray]:
    """The four quantities at each of CUTS, NaN if undefined."""
    total = weights.sum()
    weights = weights * (len(sample) / total) if total > 0 else weights
    # An event at a cut must not fall below it by rounding.
    where = np.searchsorted(CUTS, sample.probabilities[:, k] + 1e-9, side="right") - 1
    signal, everything = (
        np.bincount(where, weights * mask, minlength=len(CUTS))[::-1].cumsum()[::-1]
        for mask in (sample.truth == k, np.ones(len(sample)))
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        efficiency = signal / signal[0]
        selected = np.where(everything > 1e-9 * len(sample), everything, np.nan)
        purity = np.where(np.isfinite(efficiency), signal / selected, np.nan)
        significance = np.where(np.isfinite(efficiency), signal / np.sqrt(selected), np.nan)
    return {
        "efficiency": efficiency,
        "purity": purity,
        "significance": significance,
        "product": efficiency * purity,
    }


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
