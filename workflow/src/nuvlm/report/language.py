"""Does language help? Paired comparisons of VLM, VLM head and ViT."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from nuvlm.models.table import family_name, title
from nuvlm.report.wording import number, p_value

PAIRS = {
    ("vlm", "vit"): "which has the same vision tower and no language",
    ("vlm", "vlm_head"): "the same language model with a linear head in place of an answer in words",
    ("vlm_head", "vit"): "which has the same vision tower and head and no language",
}
"""Families to compare, the one with more language first, and what the second one is."""
EQUAL = 0.9, 1.1
"""Ratios that are called equal."""


def compare_language(results: Mapping[str, Any], cost: Mapping[str, Any], condition: str) -> list[dict[str, Any]]:
    """Compare every pair of models of the families in :data:`PAIRS` under `condition`.

    Args:
        results: what ``evaluate`` wrote.
        cost: ``summarise_cost`` of each model.

    Returns:
        see :class:`nuvlm.report.schema.Language`; empty without truth.
    """
    models = results["scores"]
    tests = {(c["first"], c["second"]): c for c in results["comparisons"] if c["condition"] == condition and c["n"]}
    rows = []
    for pair, language, tower in product(PAIRS, models, models):
        if (family_name(language), family_name(tower)) != pair:
            continue
        first, second = (language, tower) if (language, tower) in tests else (tower, language)
        if (first, second) not in tests:
            continue
        test, sign = tests[first, second], 1 if first == language else -1
        training = {model: cost[model]["training"] for model in (language, tower)}
        row = {
            "first": language,
            "second": tower,
            "difference": sign * test["mean_difference"],
            "difference_interval": _signed(test["mean_difference_interval"], sign),
            "training_interval": _signed(test["training_interval"], sign),
            "trainings": test["trainings"][::sign],
            "better": test["better"] and (language, tower)[(test["better"] == "first") != (first == language)],
            "p_value": test["p_value"],
            "detectable": test["detectable"],
            "events": {model: round((of["events"] or 0) * (of["epochs"] or 0)) for model, of in training.items()},
            "seconds": {model: of["seconds"] for model, of in training.items()},
            "trained": {model: of["trainable_parameters"] for model, of in training.items()},
        }
        one_device = len({of["device"] for of in training.values()}) == 1
        rows.append(row | {"conclusion": _conclude(row, one_device)})
    return rows


def _ratio(values: Mapping[str, float | None], row: Mapping[str, Any]) -> float | None:
    """The first model's value over the second one's; None if one is not known or zero."""
    first, second = values[row["first"]], values[row["second"]]
    return first / second if first and second else None


def _signed(ends: Sequence[float] | None, sign: int) -> list[float] | None:
    return None if ends is None else sorted(sign * end for end in ends)


def _conclude(row: Mapping[str, Any], one_device: bool) -> str:
    language, tower = title(row["first"]), title(row["second"])
    kind = PAIRS[family_name(row["first"]), family_name(row["second"])]
    points = 100 * row["difference"]
    low, high = (100 * end for end in row["difference_interval"])
    more = (
        f"{number(abs(points), 1)} points {'more' if points > 0 else 'less'} accurate than"
        if points
        else "as accurate as"
    )
    found = (
        f"The {language} is {more} the {tower}, {kind} (95 % interval of the difference {number(low, 1)} to "
        f"{number(high, 1)} from test events"
    )
    if row["training_interval"] is not None:
        low, high = (100 * end for end in row["training_interval"])
        found += f", {number(low, 1)} to {number(high, 1)} from the spread between trainings"
    sentences = [f"{found}; McNemar's test of the first trainings, {p_value(row['p_value'])})."]
    if row["better"]:
        sentences.append(f"The {title(row['better'])} is better beyond these uncertainties.")
    elif row["detectable"]:
        sentences.append(
            f"This is no significant difference: with these events one of {number(100 * row['detectable'], 1)} points "
            "would be found with a probability of 80 %."
        )
    else:
        sentences.append("Their first trainings are right for the same events.")
    seen, took = (_ratio(row[of], row) for of in ("events", "seconds"))
    data, computing = (None if ratio is None else EQUAL[0] < ratio < EQUAL[1] for ratio in (seen, took))
    if data:
        sentences.append("Both have seen the same number of training events, within 10 %.")
    elif seen is not None:
        sentences.append(
            f"The {language} has seen {number(seen, 2)} times as many training events, so the comparison is not at "
            "equal data."
        )
    if not one_device:
        sentences.append("They were trained on different devices: their times do not compare.")
    elif computing:
        sentences.append("Their trainings took the same time, within 10 %.")
    elif took is not None:
        sentences.append(
            f"The training of the {language} took {number(took, 2)} times as long: the computing is not equal."
        )
    if min(row["trainings"]) == 1:
        sentences.append("With one training of a model the spread between trainings is not part of the intervals.")
    return " ".join(sentences)
