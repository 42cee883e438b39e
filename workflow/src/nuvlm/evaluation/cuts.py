"""Selection by a cut on the probability of a class: scan of the cut, and the best cut."""

from typing import Any

import numpy as np

from nuvlm.base.classes import CLASSES
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
