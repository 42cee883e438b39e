"""Prediction sets in words: where the promised coverage is not reached."""

from collections.abc import Iterator, Mapping
from typing import Any

from nuvlm.models.conditions import CONTROLS
from nuvlm.models.table import title
from nuvlm.report.names import words
from nuvlm.report.wording import PLAIN, SIGNIFICANT, listed, number, p_value, percent, percents


def conclude_sets(sets: Mapping[str, Any]) -> list[str]:
    """Write a sentence for each kind of coverage below the promise by more than its interval.

    Args:
        sets: what ``evaluate`` wrote (nuvlm.evaluation.conformal).
    """
    return [*_uncalibrated(sets), *_below_promise(sets), *_shifted(sets), *_in_bins(sets)]


def promised(level: float) -> str:
    """A level without superfluous digits: 90 %."""
    return f"{100 * level:.6g} %"


def _uncalibrated(sets: Mapping[str, Any]) -> Iterator[str]:
    few = [f"{n} of {PLAIN[name]}" for name, n in sets["calibrated_on"].items() if n < sets["needed"]]
    if few:
        yield (
            f"To promise {promised(sets['level'])}, {sets['needed']} validation events of a class are needed. There "
            f"are {listed(few)}: {'these classes are' if len(few) > 1 else 'this class is'} in every set, whose "
            "coverage then says nothing of the models."
        )


def _below_promise(sets: Mapping[str, Any]) -> Iterator[str]:
    """Classes under the first condition."""
    level = sets["level"]
    main = {model: next(iter(of_model["conditions"].items())) for model, of_model in sets["models"].items()}
    if not all(measured["n"] for _, measured in main.values()):
        return
    kept = True
    for model, (condition, measured) in main.items():
        for name, of_class in measured["by_class"].items():
            if not _below(of_class, level):
                continue
            kept = False
            n = sets["calibrated_on"][name]
            if of_class["p_value"] < SIGNIFICANT:
                reason = f"more than the choice of {n} validation events explains"
            else:
                reason = f"which the choice of {n} validation events can explain"
            yield (
                f"{title(model)}, {words(condition)}: the sets of {PLAIN[name]} hold the true class for "
                f"{percent(of_class['coverage'])} {percents(of_class['coverage_interval'])}, less than the promised "
                f"{promised(level)}, {reason} ({p_value(of_class['p_value'])})."
            )
    if kept:
        yield (
            f"Under {words(next(iter(main.values()))[0])} no class of a model has less than the promised "
            f"{promised(level)} by more than its interval."
        )


def _shifted(sets: Mapping[str, Any]) -> Iterator[str]:
    """Other conditions than the one with the validation events of the thresholds."""
    level = sets["level"]
    found = []
    for model, of_model in sets["models"].items():
        main, *others = of_model["conditions"]
        shifted = {name: of_model["conditions"][name] for name in others if name not in CONTROLS}
        below = {name: measured for name, measured in shifted.items() if _below(measured, level)}
        if below:
            lowest = min(below, key=lambda name: below[name]["coverage"])
            found.append(
                f"{title(model)} under {', '.join(map(words, below))}, lowest {percent(below[lowest]['coverage'])} "
                f"{percents(below[lowest]['coverage_interval'])}{f' under {words(lowest)}' if len(below) > 1 else ''}"
            )
    if found:
        yield (
            f"With thresholds from {words(main)} validation events the coverage is below {promised(level)} by more "
            f"than its interval for: {'; '.join(found)}."
        )


def _in_bins(sets: Mapping[str, Any]) -> Iterator[str]:
    """Bins of neutrino energy under the first condition."""
    level = sets["level"]
    found = []
    for model, of_model in sets["models"].items():
        bins = [
            (coverage, ends, name, along["edges"][i : i + 2])
            for name, of_class in next(iter(of_model["conditions"].values()))["by_class"].items()
            if (along := of_class["dependence"]["energy"])
            for i, (coverage, ends) in enumerate(zip(along["coverage"], along["coverage_interval"], strict=True))
            if coverage is not None
        ]
        below = [one for one in bins if one[1][1] < level]
        if below:
            coverage, ends, name, (low, high) = min(below, key=lambda one: one[0])
            found.append(
                f"{title(model)} in {len(below)} of {len(bins)} bins, lowest {PLAIN[name]} at {number(low, 1)} to "
                f"{number(high, 1)} GeV ({percent(coverage)} {percents(ends)})"
            )
    if found:
        yield (
            "The promise is an average over all energies. In bins of class and neutrino energy the coverage is below "
            f"{promised(level)} by more than its interval for: {'; '.join(found)}."
        )


def _below(measured: Mapping[str, Any], level: float) -> bool:
    """Whether the coverage is below `level` by more than its interval."""
    ends = measured["coverage_interval"]
    return ends is not None and ends[1] < level
