"""Calibration of probabilities, and the fit of a temperature.

The temperature T multiplies log-probabilities before the softmax over the classes, as in Eq. 1 of arXiv 2509.08461: T
above 1 sharpens. (Guo et al., arXiv 1706.04599, divide by T.) It changes no decision.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from nuvlm.evaluation.intervals import ratios
from nuvlm.evaluation.samples import Sample
from nuvlm.models.predictions import at_temperature

PUBLISHED_TEMPERATURE = 5.0
CONFIDENCE_EDGES = np.linspace(0, 1, 11)
LIMITS = (1e-3, 1e3)
"""Range of the temperature fit."""


def calibrate(validation: Sample, test: Sample) -> dict[str, Any]:
    """Measure the calibration at T = 1, at the published T = 5, and at T fitted on the validation split.

    Returns:
        `fitted_on` (events of the validation split) and `temperatures`, for each of ``plain``, ``published`` and
        ``fitted``: `temperature`, and `ece`, `nll` and `reliability` on `test`. None without a fit or
        without test events.
    """
    temperatures = {"plain": 1.0, "published": PUBLISHED_TEMPERATURE, "fitted": fit_temperature(validation)}
    return {
        "fitted_on": len(validation),
        "temperatures": {
            name: {"temperature": t}
            | (_measure(test, t) if t and len(test) else {"ece": None, "nll": None, "reliability": None})
            for name, t in temperatures.items()
        },
    }


def fit_temperature(sample: Sample) -> float | None:
    """Fit the temperature that minimises the negative log-likelihood; None if there is no minimum.

    There is none without events, if every event is right (T would go to infinity), or if the probabilities are not
    better than guessing (T would go to 0).
    """
    logp = sample.log_probabilities
    true = np.take_along_axis(logp, sample.truth[:, None], axis=1)[:, 0]
    # Slopes of the likelihood for T to infinity, and at 0.
    if not (len(sample) and (logp.max(axis=1) > true).any() and true.mean() > logp.mean()):
        return None
    # Convex in T: a mean of log-sum-exp of linear functions of T minus a linear function.
    found = minimize_scalar(
        lambda log_t: negative_log_likelihood(sample, float(np.exp(log_t))),
        bounds=np.log(LIMITS),
        method="bounded",
        options={"xatol": 1e-6},
    )
    # Beyond five digits the minimum depends on how a CPU rounds.
    return float(f"{np.exp(found.x):.5g}")


def negative_log_likelihood(sample: Sample, temperature: float) -> float:
    """Mean of -ln p of the true class, p being softmax(T log p) of the sample; ln 3 = 1.099 for guessing."""
    truth = np.take_along_axis(at_temperature(sample.log_probabilities, temperature), sample.truth[:, None], axis=1)
    return float(-truth.mean())


def expected_calibration_error(sample: Sample) -> float:
    """Mean absolute difference of confidence and accuracy in ten bins of confidence, weighted by events.

    Confidence is the probability of the predicted class (Guo et al., arXiv 1706.04599). NaN without events.
    """
    if not len(sample):
        return float("nan")
    confidence, where = confidence_bins(sample)
    gap = np.bincount(where, weights=sample.correct - confidence, minlength=len(CONFIDENCE_EDGES) - 1)
    return float(np.abs(gap).sum() / len(sample))


def confidence_bins(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """(n,) probability of the predicted class, and its bin of CONFIDENCE_EDGES."""
    confidence = np.take_along_axis(sample.probabilities, sample.predicted[:, None], axis=1)[:, 0]
    where = np.clip(np.digitize(confidence, CONFIDENCE_EDGES) - 1, 0, len(CONFIDENCE_EDGES) - 2)
    return confidence, where


def reliability(sample: Sample) -> dict[str, Any]:
    """Accuracy against confidence: `edges` of the bins, and in each the mean `confidence`, and `accuracy`."""
    confidence, where = confidence_bins(sample)
    bins = len(CONFIDENCE_EDGES) - 1
    n = np.bincount(where, minlength=bins)
    right = np.bincount(where, weights=sample.correct, minlength=bins).astype(int)
    total = np.bincount(where, weights=confidence, minlength=bins)
    return {
        "edges": CONFIDENCE_EDGES.round(6).tolist(),
        "confidence": [float(total[i] / n[i]) if n[i] else None for i in range(bins)],
        **ratios("accuracy", right, n),
    }


def _measure(sample: Sample, temperature: float) -> dict[str, Any]:
    scaled = replace(sample, probabilities=np.exp(at_temperature(sample.log_probabilities, temperature)))
    return {
        "ece": expected_calibration_error(scaled),
        "nll": negative_log_likelihood(sample, temperature),
        "reliability": reliability(scaled),
    }
