"""Do the models look at the picture? What each control says about that, in a sentence."""

from collections.abc import Mapping
from typing import Any

from nuvlm.models.conditions import CONTROLS
from nuvlm.models.table import title
from nuvlm.report.wording import PLAIN, SIGNIFICANT, percent

MOST = 0.9
"""Share of answers from which they are said to stay."""


def conclude(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every control of every model beside the images as they are.

    Args:
        results: what ``evaluate`` wrote.

    Returns:
        `model`, `control`, `reference` (the condition compared with), `accuracy`, `accuracy_reference`,
        `same_answer` (share of events) and `conclusion`; nothing where no event has known truth.
    """
    rows = []
    for model, changes in results["changes"].items():
        for control in CONTROLS:
            if control not in changes or not changes[control]["n"]:
                continue
            change, score = changes[control], results["scores"][model][control]
            judge = _blank if control == "blank" else _permuted
            rows.append(
                {
                    "model": model,
                    "control": control,
                    "reference": change["reference"],
                    "accuracy": score["accuracy"],
                    "accuracy_reference": results["scores"][model][change["reference"]]["accuracy"],
                    "same_answer": change["same_answer"],
                    "conclusion": judge(title(model), change, score),
                }
            )
    return rows


def _blank(model: str, change: Mapping[str, Any], score: Mapping[str, Any]) -> str:
    """All black images are alike, so a model that is told nothing else gives one answer to all of them."""
    taken = [name for name, of_class in score["by_class"].items() if of_class["selected"]]
    if len(taken) > 1:
        return (
            f"Black images get {len(taken)} different answers: something besides the picture tells the {model} the "
            "events apart. Find out what before trusting any score."
        )
    answer = f"Every black image is taken for {PLAIN[taken[0]]}, and that is right for {percent(score['accuracy'])}"
    if change["difference"] >= 0 or change["p_value"] >= SIGNIFICANT:
        return f"{answer}: the {model} is not significantly better with the picture, so it does not use it."
    return f"{answer}: the {100 * -change['difference']:.1f} points above that come from the picture."


def _permuted(model: str, change: Mapping[str, Any], score: Mapping[str, Any]) -> str:
    stay = f"{percent(change['same_answer'])} of the answers stay"
    if change["p_value"] < SIGNIFICANT:
        return (
            f"{stay}, and the accuracy changes by {100 * abs(change['difference']):.1f} points: the {model} leans on "
            "the order in which the classes are described, not on the picture alone."
        )
    if change["same_answer"] < MOST:
        return (
            f"{stay}: the accuracy does not change significantly, but single answers hang on the order in which the "
            "classes are described."
        )
    return f"{stay}: the order in which the classes are described hardly matters to the {model}."
