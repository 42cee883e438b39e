"""Text alternatives of the figures: the main numbers, for screen readers."""

from collections.abc import Mapping
from typing import Any

from nuvlm.models.table import title
from nuvlm.report.names import words
from nuvlm.report.wording import PLAIN, number, percent


def describe(kind: str, results: Mapping[str, Any], model: str | None = None, condition: str | None = None) -> str:
    """Describe a figure; "" if its caption is enough.

    Args:
        kind: of figure (nuvlm.report.names).
        results: content of scores.json.
        model, condition: model and condition of the figure, if any.
    """
    if kind == "robustness":
        return "; ".join(f"{title(name)}: {_accuracies(scores)}" for name, scores in results["scores"].items())
    if kind == "sets":
        return _sets(next(iter(results["sets"]["models"][model or ""]["conditions"].values())))
    of_model = results["scores"].get(model, {})
    # Figures per model show the first condition.
    score = of_model.get(condition or next(iter(of_model), None))
    if kind not in _OF_SCORE or not score or not score["n"]:
        return ""
    return _OF_SCORE[kind](score)


def _sets(measured: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{PLAIN[name]}: coverage {percent(of_class['coverage'])}, mean size {number(of_class['mean_size'], 2)}"
        for name, of_class in measured["by_class"].items()
    )


def _accuracies(scores: Mapping[str, Any]) -> str:
    return ", ".join(f"{words(condition)} {percent(score['accuracy'])}" for condition, score in scores.items())


def _confusion(score: Mapping[str, Any]) -> str:
    return (
        f"Recall: {_of_classes(score, 'recall')}. Precision: {_of_classes(score, 'precision')}. "
        f"{score['n']} events, {percent(score['accuracy'])} of them on the diagonal"
    )


def _roc(score: Mapping[str, Any]) -> str:
    return f"Area under the curve: {_of_classes(score, 'auc')}"


def _energy(score: Mapping[str, Any]) -> str:
    sentences = []
    for name, of_class in score["by_class"].items():
        energy = of_class["dependence"]["energy"]
        known = [value for value in energy["efficiency"] if value is not None] if energy else []
        if known:
            edges = energy["edges"]
            sentences.append(
                f"{PLAIN[name]}: efficiency {number(known[0], 2)} in the lowest and {number(known[-1], 2)} in the "
                f"highest of {len(edges) - 1} bins from {number(edges[0], 1)} to {number(edges[-1], 1)} GeV"
            )
    return "; ".join(sentences)


def _reliability(score: Mapping[str, Any]) -> str:
    return (
        f"Accuracy {percent(score['accuracy'])}, expected calibration error {number(score['ece'])}: the mean "
        "distance of the curve from the diagonal"
    )


def _of_classes(score: Mapping[str, Any], quantity: str) -> str:
    return ", ".join(f"{PLAIN[name]} {number(of_class[quantity], 2)}" for name, of_class in score["by_class"].items())


_OF_SCORE = {"confusion": _confusion, "roc": _roc, "energy": _energy, "reliability": _reliability}
