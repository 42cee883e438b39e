"""Headline and summary of the report, written from the numbers."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from nuvlm.models.conditions import shown_in_full
from nuvlm.models.table import family_name, title
from nuvlm.report.names import words
from nuvlm.report.sets import promised
from nuvlm.report.wording import PLAIN, SIGNIFICANT, listed, number, p_value, percent, significant


def summarise(results: Mapping[str, Any], cost: Mapping[str, Any], condition: str) -> tuple[str, list[str]]:
    """Write the headline and the sentences below it.

    Args:
        results: what ``evaluate`` wrote.
        cost: ``summarise_cost`` of each model.
        condition: the condition to summarise.
    """
    scores = {model: by_condition[condition] for model, by_condition in results["scores"].items()}
    if not all(score["n"] for score in scores.values()):
        return _without_truth(scores)
    for model, of_model in results["trainings"].items():
        if condition in of_model["conditions"]:
            scores[model] = scores[model] | {"trainings": of_model["n"], **of_model["conditions"][condition]}
    ranked = sorted(scores, key=lambda model: -_accuracy(scores[model]))
    sentences = []
    if len(ranked) > 1:
        headline, sentence = _verdict(ranked, scores, results["comparisons"], condition)
        sentences.append(sentence)
        sentences += [_behind(model, ranked[0], scores, results["comparisons"], condition) for model in ranked[2:]]
        sentences.append(_left_out(results["trainings"]))
    else:
        score = scores[ranked[0]]
        headline = f"On {score['n']:,} test events, the {title(ranked[0])} is {_right(score)}."
    sentences += [_habits(model, scores[model]) for model in ranked]
    changes = results["changes"]
    conditions = dict.fromkeys(
        name for of_model in changes.values() for name in shown_in_full([condition, *of_model])[1:]
    )
    sentences += [
        _changes(name, {model: of_model[name] for model, of_model in changes.items() if name in of_model})
        for name in conditions
    ]
    sentences.append(_sets(results["sets"], weighted=results["spectrum"] is not None))
    explained = {model: measures for model, measures in results["explanations"].items() if measures["with_truth"]}
    sentences += [_rationales(model, measures["right"]) for model, measures in explained.items()]
    sentences.append(_speed(cost))
    cnns = {model: title(model) for model in scores if family_name(model) == "cnn"}
    networks = {model: cost[model]["training"]["network"] for model in cnns}
    if len(cnns) > 1 and len({*networks.values()}) == 1:
        sentences.append(
            f"{listed([*cnns.values()])} are the same network, trained with different recipes: their differences "
            "are due to the training."
        )
    elif len(cnns) > 1:
        each = ", ".join(f"{name}: {networks[model] or 'not known'}" for model, name in cnns.items())
        sentences.append(
            f"The CNNs differ in network ({each}) and training: their differences are due to both. The network "
            "'published' is that of the paper, layer for layer, with cnn.width times its channels."
        )
    bdts = [model for model in scores if family_name(model) == "bdt"]
    if bdts and len(scores) > 1:
        sentences.append(
            f"The {title(bdts[0])}, boosted decision trees on hand-made features of each view, is the baseline: a "
            "network with a higher accuracy uses information in the pixels beyond these features."
        )
    missing = [name for name, of_class in scores[ranked[0]]["by_class"].items() if not of_class["n"]]
    if missing:
        names = " and ".join(PLAIN[name] for name in missing)
        sentences.append(f"The test split has no {names} event: means over classes leave this class out.")
    return headline, sentences


def _verdict(
    ranked: list[str], scores: Mapping[str, Any], comparisons: list[dict[str, Any]], condition: str
) -> tuple[str, str]:
    best, second = ranked[:2]
    test, sign = _comparison(best, second, comparisons, condition)
    low, high = sorted(100 * sign * end for end in test["mean_difference_interval"])
    only_best, only_second = (test["only_first"], test["only_second"])[::sign]
    score_best, score_second = _right(scores[best]), _right(scores[second]).removeprefix("right ")
    if test["better"]:
        rank = "better" if len(scores) == 2 else "best"
        headline = f"The {title(best)} is the {rank} classifier of {test['n']:,} test events: it is {score_best}, "
        significance = "the difference is significant"
    else:
        headline = f"The {title(best)} and the {title(second)} do not differ significantly on {test['n']:,} test "
        headline += f"events: the {title(best)} is {score_best}, "
        significance = "the difference is not significant"
    sentence = (
        f"The difference in accuracy is {100 * abs(test['mean_difference']):.1f} points "
        f"(95 % interval from test events {number(low, 1)} to {number(high, 1)}{_of_trainings(test, sign)}). "
        f"Exactly one of the two is right for {only_best + only_second} events, the {title(best)} for {only_best} and "
        f"the {title(second)} for {only_second} (McNemar's exact test, {p_value(test['p_value'])}"
        f"{'' if test['trainings'] == [1, 1] else ', first training of each'}): {significance}."
    )
    return f"{headline}the {title(second)} {score_second}.", sentence


def _comparison(
    model: str, other: str, comparisons: list[dict[str, Any]], condition: str
) -> tuple[dict[str, Any], int]:
    """Find the comparison of two models, and its sign: -1 if it lists `other` first."""
    test = next(c for c in comparisons if c["condition"] == condition and {c["first"], c["second"]} == {model, other})
    return test, 1 if test["first"] == model else -1


def _behind(model: str, best: str, scores: Mapping[str, Any], comparisons: list[dict[str, Any]], condition: str) -> str:
    test, sign = _comparison(best, model, comparisons, condition)
    low, high = sorted(100 * sign * end for end in test["mean_difference_interval"])
    sure = "" if test["better"] else ", no significant difference"
    return (
        f"The {title(model)} is {_right(scores[model])}, {100 * abs(test['mean_difference']):.1f} points behind the "
        f"{title(best)} (95 % interval {number(low, 1)} to {number(high, 1)}{_of_trainings(test, sign)}; "
        f"{p_value(test['p_value'])}{sure})."
    )


def _accuracy(score: Mapping[str, Any]) -> float:
    """The mean of all trainings."""
    mean: float = score["scores"]["accuracy"]["mean"] if "trainings" in score else score["accuracy"]
    return mean


def _right(score: Mapping[str, Any]) -> str:
    low, high = score["accuracy_interval"]
    several = ""
    if "trainings" in score:
        deviation = 100 * score["scores"]["accuracy"]["deviation"]
        several = f"mean of {score['trainings']} trainings with a standard deviation of {deviation:.1f} points, "
    return f"right for {percent(_accuracy(score))} ({several}95 % interval {100 * low:.1f} to {100 * high:.1f})"


def _of_trainings(test: Mapping[str, Any], sign: int) -> str:
    """The interval from the spread between trainings, if there is one."""
    if test["training_interval"] is None:
        return ""
    low, high = sorted(100 * sign * end for end in test["training_interval"])
    return f", from the spread between trainings {number(low, 1)} to {number(high, 1)}"


def _left_out(trainings: Mapping[str, Mapping[str, Any]]) -> str:
    """What the comparisons allow for."""
    once = [title(model) for model, of_model in trainings.items() if of_model["n"] == 1]
    if not once:
        return "A model is called better only where the difference is beyond both intervals."
    models = "Every model" if len(once) == len(trainings) else " and ".join(once)
    return (
        f"{models} was trained once: intervals and tests of its differences come from the test events and leave the "
        "training out. Another seed can change an accuracy by some points."
    )


def _habits(model: str, score: Mapping[str, Any]) -> str:
    """AUC, calibration error and the most frequent confusion (as a share of the true class) of a model."""
    sentence = f"{title(model)}: macro AUC {number(score['auc'])}, expected calibration error {number(score['ece'])}"
    names = list(score["by_class"])
    counts = np.array(score["confusion"], dtype=np.float64)
    shares = np.divide(counts, counts.sum(axis=1, keepdims=True), out=np.zeros_like(counts), where=counts > 0)
    np.fill_diagonal(shares, 0)
    if not shares.any():
        return f"{sentence}; no mistakes."
    true, taken = np.unravel_index(shares.argmax(), shares.shape)
    return (
        f"{sentence}; its most frequent mistake is {PLAIN[names[true]]} classified as {PLAIN[names[taken]]} "
        f"({percent(shares[true, taken], 0)} of true {PLAIN[names[true]]})."
    )


def _changes(condition: str, changes: Mapping[str, Mapping[str, Any]]) -> str:
    """Change in accuracy of each model under another condition."""
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


def _sets(sets: Mapping[str, Any], weighted: bool) -> str:
    """How often a prediction set is an answer, and how often this is right."""
    single = {model: of_model["answers"]["single"] for model, of_model in sets["models"].items()}
    clauses = [
        f"{percent(answers['kept'])} with the {title(model)}"
        + (f", of which {percent(answers['accuracy'])} are right" if answers["kept"] else "")
        for model, answers in single.items()
    ]
    return (
        f"Prediction sets that promise a coverage of {promised(sets['level'])} hold a single class for these fractions "
        f"of the events{', weighted to the beam spectrum' if weighted else ''}: {'; '.join(clauses)}."
    )


def _rationales(model: str, right: Mapping[str, Any]) -> str:
    """Whether the rationales are right more often than with a black picture and than the answer alone explains."""
    if not right["nominal"]["n"]:
        return f"The rationales of the {title(model)} contain no statement that can be read."
    low, high = (100 * end for end in right["beyond_label_interval"])
    black = right["text_only"]
    follow = low > 0 and (black is None or right["difference_interval"][0] > 0)
    return (
        f"The rationales of the {title(model)} {'follow' if follow else 'do not measurably follow'} the picture: "
        f"{percent(right['nominal']['value'])} of their statements are right"
        + (f", {percent(black['value'])} with a black picture" if black else "")
        + f", {percent(right['same_label'])} when rationales are exchanged between events with the same answer "
        f"(difference to the last: {number(100 * right['beyond_label'], 1)} points, 95 % interval {number(low, 1)} to "
        f"{number(high, 1)})."
    )


def _speed(cost: Mapping[str, Any]) -> str:
    clauses = [
        f"the {title(model)} needs {significant(of_model['ms_per_sample'])} ms per event and at most "
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
        sentences.append(f"The {title(model)} classifies {sum(counts.values())} events as {listed}.")
    return "No test event has known truth: there are predictions, but no scores.", sentences
