"""Control conditions: does a model use the picture? One conclusion per model and control."""

from collections.abc import Mapping
from typing import Any

from nuvlm.models.conditions import CONTROLS
from nuvlm.models.table import title
from nuvlm.report.wording import PLAIN, SIGNIFICANT, percent

STABLE = 0.9
"""Answers are called stable if at least this share of them is unchanged."""


def conclude(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Compare every model under every control with the reference condition.

    Args:
        results: what ``evaluate`` wrote.

    Returns:
        `model`, `control`, `reference` (the condition compared with), `accuracy`, `accuracy_reference`,
        `same_answer` (share of events) and `conclusion`; empty if no event has known truth.
    """
    rows = []
    for model, changes in results["changes"].items():
        for control in CONTROLS:
            if control not in changes or not changes[control]["n"]:
                continue
            change, score = changes[control], results["scores"][model][control]
            conclusion = _blank if control == "blank" else _permuted
            rows.append(
                {
                    "model": model,
                    "control": control,
                    "reference": change["reference"],
                    "accuracy": score["accuracy"],
                    "accuracy_reference": results["scores"][model][change["reference"]]["accuracy"],
                    "same_answer": change["same_answer"],
                    "conclusion": conclusion(title(model), change, score),
                }
            )
    return rows


def _blank(model: str, change: Mapping[str, Any], score: Mapping[str, Any]) -> str:
    """Black images are identical, so a model that sees only the image gives the same answer to all of them."""
    taken = [name for name, of_class in score["by_class"].items() if of_class["selected"]]
    if len(taken) > 1:
        return (
            f"Black images get {len(taken)} different answers, so the {model} uses something other than the picture. "
            "Find the leak before trusting any score."
        )
    answer = f"Every black image is classified as {PLAIN[taken[0]]}, which is right for {percent(score['accuracy'])}"
    if change["difference"] >= 0 or change["p_value"] >= SIGNIFICANT:
        return f"{answer}: the {model} is not significantly better with the picture, so it does not use the picture."
    return f"{answer}: the {100 * -change['difference']:.1f} points above this come from the picture."


def _permuted(model: str, change: Mapping[str, Any], score: Mapping[str, Any]) -> str:
    stay = f"{percent(change['same_answer'])} of the answers are unchanged"
    if change["p_value"] < SIGNIFICANT:
        return (
            f"{stay}, and the accuracy changes by {100 * abs(change['difference']):.1f} points: the {model} depends on "
            "the order in which the classes are described."
        )
    if change["same_answer"] < STABLE:
        return (
            f"{stay}: the accuracy does not change significantly, but individual answers depend on the order in which "
            "the classes are described."
        )
    return f"{stay}: the {model} hardly depends on the order in which the classes are described."
