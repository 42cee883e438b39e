"""The result in plain words, every one of them made from the numbers."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from nuvlm.models.conditions import shown_in_full
from nuvlm.models.table import title
from nuvlm.report.names import words
from nuvlm.report.wording import PLAIN, SIGNIFICANT, number, p_value, percent, significant


def summarise(results: Mapping[str, Any], cost: Mapping[str, Any], condition: str) -> tuple[str, list[str]]:
    """A headline, and the sentences under it.

    Args:
        results: what ``evaluate`` wrote.
        cost: ``summarise_cost`` of each model.
        condition: the one that the summary is about.
    """
    scores = {model: by_condition[condition] for model, by_condition in results["scores"].items()}
    if not all(score["n"] for score in scores.values()):
        return _without_truth(scores)
    ranked = sorted(scores, key=lambda model: -scores[model]["accuracy"])
    sentences = []
    if len(ranked) > 1:
        headline, sentence = _verdict(ranked, scores, results["comparisons"], condition)
        sentences.append(sentence)
        sentences += [_behind(model, ranked[0], scores, results["comparisons"], condition) for model in ranked[2:]]
    else:
        score = scores[ranked[0]]
        headline = f"Of {score['n']:,} test events, the {title(ranked[0])} is {_right(score)}."
    sentences += [_habits(model, scores[model]) for model in ranked]
    changes = results["changes"]
    conditions = dict.fromkeys(
        name for of_model in changes.values() for name in shown_in_full([condition, *of_model])[1:]
    )
    sentences += [
        _changes(name, {model: of_model[name] for model, of_model in changes.items() if name in of_model})
        for name in conditions
    ]
    explained = {model: told for model, told in results["explanations"].items() if told["with_truth"]}
    sentences += [_reasons(model, told) for model, told in explained.items()]
    sentences.append(_speed(cost))
    cnns = [title(model) for model in scores if model.startswith("cnn_")]
    if len(cnns) > 1:
        sentences.append(
            f"{', '.join(cnns[:-1])} and {cnns[-1]} are one network, trained by different recipes: what lies between "
            "them is the training alone."
        )
    if "tree" in scores and len(scores) > 1:
        sentences.append(
            f"The {title('tree')}, boosted decision trees on quantities made by hand from each view, is a control: "
            "what a network is better by is what looking at every pixel buys."
        )
    missing = [name for name, of_class in scores[ranked[0]]["by_class"].items() if not of_class["n"]]
    if missing:
        names = " and ".join(PLAIN[name] for name in missing)
        sentences.append(f"The test split has no {names} event: means over classes are over those that it has.")
    return headline, sentences


def _verdict(
    ranked: list[str], scores: Mapping[str, Any], comparisons: list[dict[str, Any]], condition: str
) -> tuple[str, str]:
    best, second = ranked[:2]
    test, sign = _comparison(best, second, comparisons, condition)
    low, high = sorted(100 * sign * end for end in test["difference_interval"])
    only_best, only_second = (test["only_first"], test["only_second"])[::sign]
    ours, theirs = _right(scores[best]), _right(scores[second]).removeprefix("right ")
    if test["p_value"] < SIGNIFICANT:
        rank = "better" if len(scores) == 2 else "best"
        headline = f"The {title(best)} is the {rank} classifier of {test['n']:,} test events: it is {ours}, "
        sure = "a difference that chance would hardly make"
    else:
        headline = f"The {title(best)} and the {title(second)} cannot be told apart on {test['n']:,} test events: "
        headline += f"the {title(best)} is {ours}, "
        sure = "which chance alone would often make"
    sentence = (
        f"The difference in accuracy is {100 * abs(test['difference']):.1f} points "
        f"(95 % interval {number(low, 1)} to {number(high, 1)}). "
        f"Of the {only_best + only_second} events that exactly one of the two gets right, {only_best} go to the "
        f"{title(best)} and {only_second} to the {title(second)}: {sure} "
        f"(McNemar's exact test, {p_value(test['p_value'])})."
    )
    return f"{headline}the {title(second)} {theirs}.", sentence


def _comparison(
    model: str, other: str, comparisons: list[dict[str, Any]], condition: str
) -> tuple[dict[str, Any], int]:
    """The comparison of two models under a condition, and -1 where it takes them the other way round."""
    test = next(c for c in comparisons if c["condition"] == condition and {c["first"], c["second"]} == {model, other})
    return test, 1 if test["first"] == model else -1


def _behind(model: str, best: str, scores: Mapping[str, Any], comparisons: list[dict[str, Any]], condition: str) -> str:
    test, sign = _comparison(best, model, comparisons, condition)
    low, high = sorted(100 * sign * end for end in test["difference_interval"])
    sure = "" if test["p_value"] < SIGNIFICANT else ", no significant difference"
    return (
        f"The {title(model)} is {_right(scores[model])}, {100 * abs(test['difference']):.1f} points behind the "
        f"{title(best)} (95 % interval {number(low, 1)} to {number(high, 1)}; {p_value(test['p_value'])}{sure})."
    )


def _right(score: Mapping[str, Any]) -> str:
    low, high = score["accuracy_interval"]
    return f"right for {percent(score['accuracy'])} (95 % interval {100 * low:.1f} to {100 * high:.1f})"


def _habits(model: str, score: Mapping[str, Any]) -> str:
    """The ranking power of a model, and the mistake that it makes most, as a share of the true class."""
    sentence = f"{title(model)}: macro AUC {number(score['auc'])}, expected calibration error {number(score['ece'])}"
    names = list(score["by_class"])
    counts = np.array(score["confusion"], dtype=np.float64)
    shares = np.divide(counts, counts.sum(axis=1, keepdims=True), out=np.zeros_like(counts), where=counts > 0)
    np.fill_diagonal(shares, 0)
    if not shares.any():
        return f"{sentence}; no mistakes."
    true, taken = np.unravel_index(shares.argmax(), shares.shape)
    return (
        f"{sentence}; its most frequent mistake is {PLAIN[names[true]]} taken for {PLAIN[names[taken]]} "
        f"({percent(shares[true, taken], 0)} of true {PLAIN[names[true]]})."
    )


def _changes(condition: str, changes: Mapping[str, Mapping[str, Any]]) -> str:
    """What each model makes of another condition."""
    clauses = []
    for model, change in changes.items():
        sign = -1 if change["difference"] < 0 else 1
        low, high = sorted(100 * sign * end for end in change["difference_interval"])
        sure = "" if change["p_value"] < SIGNIFICANT else ", no significant change"
        clauses.append(
            f"the {title(model)} {'loses' if sign < 0 else 'gains'} {100 * abs(change['difference']):.1f} "
            f"(95 % interval {number(low, 1)} to {number(high, 1)}; {p_value(change['p_value'])}{sure})"
        )
    reference = next(iter(changes.values()))["reference"]
    return f"From {words(reference)} to {words(condition)}, in points of accuracy: {'; '.join(clauses)}."


def _reasons(model: str, told: Mapping[str, Any]) -> str:
    """Whether a model's rationales are right more often than without the picture, and than its answer alone tells."""
    right = told["right"]
    if not right["nominal"]["n"]:
        return f"The rationales of the {title(model)} state nothing that can be read."
    low, high = (100 * end for end in right["beyond_label_interval"])
    black = right["text_only"]
    follow = low > 0 and (black is None or right["difference_interval"][0] > 0)
    return (
        f"The rationales of the {title(model)} {'follow' if follow else 'do not measurably follow'} the picture: "
        f"{percent(right['nominal']['value'])} of what they state is right, "
        + (f"{percent(black['value'])} where the picture is black, " if black else "")
        + f"{percent(right['same_label'])} where rationales are exchanged between events with the same answer "
        f"({number(100 * right['beyond_label'], 1)} points beyond that, 95 % interval {number(low, 1)} to "
        f"{number(high, 1)})."
    )


def _speed(cost: Mapping[str, Any]) -> str:
    clauses = [
        f"the {title(model)} takes {significant(of_model['ms_per_sample'])} ms a sample and at most "
        f"{of_model['peak_memory_mb']:,.0f} MB ({of_model['device']})"
        for model, of_model in cost.items()
    ]
    sentence = "; ".join(clauses)
    return f"{sentence[0].upper()}{sentence[1:]}."


def _without_truth(scores: Mapping[str, Any]) -> tuple[str, list[str]]:
    sentences = []
    for model, score in scores.items():
        counts = score["predicted_without_truth"]
        listed = ", ".join(f"{count} {PLAIN[name]}" for name, count in counts.items())
        sentences.append(f"Of {sum(counts.values())} events the {title(model)} takes {listed}.")
    return "No test event has known truth: there are predictions, but nothing to score them against.", sentences
