"""Does a probability mean what it says, and which temperature makes it so?

A temperature T multiplies log-probabilities before the softmax over the classes, as in Eq. 1 of arXiv 2509.08461: above
1 sharpens. (Guo et al., arXiv 1706.04599, divide by theirs.) It changes no decision.
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
"""Between which temperatures the fit looks."""


def calibrate(validation: Sample, test: Sample) -> dict[str, Any]:
    """Calibration of a model at T = 1, the published 5, and the one that is best on the validation split.

    Returns:
        `fitted_on` (events of the validation split) and `temperatures`, for each of ``plain``, ``published`` and
        ``fitted``: `temperature`, and `ece`, `nll` and `reliability` on `test`. All None where there is nothing to fit
        or to test.
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
    """The temperature of the lowest negative log-likelihood; None where there is no such.

    That is so without events, and where every event is right, or none better than by guessing: then the likelihood
    grows for ever as T goes to infinity, or to 0.
    """
    logp = sample.log_probabilities
    true = np.take_along_axis(logp, sample.truth[:, None], axis=1)[:, 0]
    # The slope of the likelihood as T goes to infinity, and at 0; without events there is none.
    if not (len(sample) and (logp.max(axis=1) > true).any() and true.mean() > logp.mean()):
        return None
    # Convex in T: a mean of log-sum-exps of linear functions of T, less a linear one.
    found = minimize_scalar(
        lambda log_t: negative_log_likelihood(sample, float(np.exp(log_t))),
        bounds=np.log(LIMITS),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(found.x))


def negative_log_likelihood(sample: Sample, temperature: float) -> float:
    """Mean of -ln p of the true class, p being softmax(T log p) of the sample; 1.099 is a guess among three classes."""
    truth = np.take_along_axis(at_temperature(sample.log_probabilities, temperature), sample.truth[:, None], axis=1)
    return float(-truth.mean())


def expected_calibration_error(sample: Sample) -> float:
    """Mean distance of confidence from accuracy, in ten bins of confidence weighted by their events.

    Confidence is the probability of the predicted class (Guo et al., arXiv 1706.04599). NaN without events.
    """
    if not len(sample):
        return float("nan")
    confidence, where = confidence_bins(sample)
    gap = np.bincount(where, weights=sample.correct - confidence, minlength=len(CONFIDENCE_EDGES) - 1)
    return float(np.abs(gap).sum() / len(sample))


def confidence_bins(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """(n,) probability of the predicted class, and the bin of CONFIDENCE_EDGES it falls in."""
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
    told = replace(sample, probabilities=np.exp(at_temperature(sample.log_probabilities, temperature)))
    return {
        "ece": expected_calibration_error(told),
        "nll": negative_log_likelihood(sample, temperature),
        "reliability": reliability(told),
    }
