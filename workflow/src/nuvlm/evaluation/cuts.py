"""A cut on the probability of a class instead of the most probable class: what it selects, and which one is best."""

from typing import Any

import numpy as np

from nuvlm.base.classes import CLASSES
from nuvlm.evaluation.samples import Sample

CUTS = np.linspace(0, 0.99, 100)
"""Cuts that are tried: what has this probability or more is selected."""
FIGURES_OF_MERIT = ("significance", "product")
"""s / sqrt(s + b), and efficiency times purity."""


def scan_cuts(
    validation: Sample, test: Sample, validation_weights: np.ndarray, test_weights: np.ndarray
) -> dict[str, dict[str, Any]]:
    """Every cut on the probability of each class; the best of each figure of merit is chosen on the validation split.

    Args:
        validation, test: of one model under one condition.
        validation_weights, test_weights: (n,) what each event counts, in any unit. They are scaled to a mean of 1, so
            that `significance` is that of as many events as the split has.

    Returns:
        For each class: `cut`; `efficiency`, `purity`, `significance` and `product` at each, on the test split; and
        `best[significance, product]`: `cut` and the four there, on the test split, and `chosen_on`, the events of the
        validation split. Purity and product are None where nothing is selected, all where the class has no weight;
        a best cut is None where the validation split has no event of the class.
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
    """The four quantities at each of CUTS, NaN where they are not defined."""
    total = weights.sum()
    weights = weights * (len(sample) / total) if total > 0 else weights
    # Of rounding alone no event may fall below a cut that it is at.
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
