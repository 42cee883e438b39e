"""The sections on explanations and counterfactual events in sentences, written from the numbers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nuvlm.evaluation.faithfulness import STATEMENTS, YES_NO
from nuvlm.models.table import title
from nuvlm.report import wording
from nuvlm.report.wording import PLAIN, listed, number, percent, percents

THINGS = {"track": "a track", "leaves": "a track that leaves the detector", "shower": "a shower", "gap": "a gap"}
"""Claims of a rationale, as objects of a sentence."""
CHANGES = {
    "without_electron": "without the electron",
    "without_muon": "without the muon",
    "without_photons": "without the photons",
    "electron_after_gap": "with the electron's shower after a gap",
    "photons_after_gap": "with a wider gap before the photons' shower",
    "photons_at_vertex": "with the photons' shower at the vertex",
    "electron_again": "with another shower of the electron",
    "photons_again": "with another shower of the photons",
}
"""Kinds of counterfactual events (nuvlm.simulation.counterfactuals)."""
CLAIMED = {
    "without_electron": ("shower",),
    "without_muon": ("track", "leaves"),
    "without_photons": ("shower",),
    "electron_after_gap": ("gap",),
    "photons_after_gap": ("gap",),
    "photons_at_vertex": ("gap",),
}
"""The claims about what is changed."""
FEW = 10
"""With fewer events a fraction is no sentence."""


def explain_in_words(model: str, measured: Mapping[str, Any]) -> list[str]:
    """What the rationales of a model say, how much of it is true, how much of that comes from the picture, by claim.

    Args:
        model: name.
        measured: :func:`nuvlm.evaluation.faithfulness.measure`.

    Returns:
        Four sentences; one if nothing can be judged.
    """
    claims, n, right = measured["claims"], measured["n"], measured["right"]
    if not (measured["with_truth"] and right["nominal"]["n"]):
        return [f"The rationales of the {title(model)} contain no statement that can be judged."]
    said = [f"{THINGS[name]} {_of(claims[name]['precision']['nominal']['n'], n)}" for name in YES_NO]
    true = [
        f"{THINGS[name]} {percent(share['value'])}"
        for name in YES_NO
        if (share := claims[name]["precision"]["nominal"])["value"] is not None
    ]
    parts = [
        f"{percent(right['nominal']['value'])} {percents(right['nominal']['interval'])} of its statements are true"
    ]
    parts += [f"of these claims, {listed(true)}"] if true else []
    length = claims["track_cm"]["right"]["nominal"]["value"]
    parts += [] if length is None else [f"lengths of tracks are within 25 % in {percent(length)}"]
    beyond = {name: claims[name]["right"] for name in STATEMENTS if claims[name]["right"]["beyond_label_interval"]}
    seen = [name for name, metric in beyond.items() if metric["beyond_label_interval"][0] > 0]
    unseen = [wording.STATEMENTS[name] for name in beyond if name not in seen]
    points = [f"{wording.STATEMENTS[name]} {number(100 * beyond[name]['beyond_label'], 1)}" for name in seen]
    gains = [f"By statement, points from the picture: {listed(points)}."] if points else []
    gains += [f"No gain is measurable for: {listed(unseen)}."] if unseen else []
    return [
        f"In {n:,} test events drawn at random the {title(model)} claims {listed(said)}.",
        "; ".join(parts) + ".",
        f"{percent(right['same_label'])} are true of another event with the same answer: "
        f"{number(100 * right['beyond_label'], 1)} points {percents(right['beyond_label_interval'])} come from the "
        "picture.",
        " ".join(gains) or "No gain is measurable for any statement alone.",
    ]


def conclude_counterfactuals(measured: Mapping[str, Any] | None) -> list[str]:
    """What answers, claims and saliency maps follow, in sentences."""
    if measured is None:
        return []
    return [
        *_answers(measured["answers"]),
        *(sentence for model, kinds in measured["claims"].items() for sentence in _claims(model, kinds)),
        *(sentence for model, groups in measured["saliency"].items() for sentence in _saliency(model, groups)),
    ]


def _answers(answers: Mapping[str, list[Mapping[str, Any]]]) -> Iterator[str]:
    """A sentence for each kind and true class, with all models for which there are enough events."""
    for rows in zip(*answers.values(), strict=True):
        row = rows[0]
        known = [(model, one) for model, one in zip(answers, rows, strict=True) if one["follows"]["n"] >= FEW]
        if known:
            change = CHANGES[row["kind"]]
            before, after = ("not called", "then are") if row["rises"] else ("called", "no longer are")
            followed = [f"{percent(one['follows']['value'])} ({title(model)})" for model, one in known]
            yield (
                f"{change[0].upper()}{change[1:]}, {listed(followed)} of the {PLAIN[row['truth']]} events {before} "
                f"{PLAIN[row['tracked']]} {after}.{_controlled(known)}"
            )


def _controlled(known: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """How many answers change if the shower is drawn again, and for which models more do; empty without a control."""
    controlled = [(model, row) for model, row in known if row["control"]["n"]]
    if not controlled:
        return ""
    shares = [row["control"]["value"] for _, row in controlled]
    beyond = [title(model) for model, row in controlled if row["beyond_control_interval"][0] > 0]
    span = percent(min(shares)) + (f" to {percent(max(shares))}" if len(shares) > 1 else "")
    whose = "all" if 1 < len(beyond) == len(controlled) else listed(beyond) if beyond else "no model"
    return f" With another seed instead {span} do; the change does measurably more for {whose}."


def _claims(model: str, kinds: Mapping[str, Any]) -> Iterator[str]:
    clauses = [
        f"{CHANGES[kind]}, {wording.STATEMENTS[name]}: {percent(share['value'])} {percents(share['interval'])} of "
        f"{share['n']}"
        for kind, statements in CLAIMED.items()
        for name in statements
        if (share := kinds[kind][name]["follows"])["n"] >= FEW
    ]
    if clauses:
        yield f"Right claims of the {title(model)} that the change makes wrong follow it: {'; '.join(clauses)}."


def _saliency(model: str, measured: Mapping[str, Any]) -> Iterator[str]:
    found = measured["groups"]["all"]
    if found["n"] >= FEW:
        yield (
            f"{percent(found['saliency'])} of the saliency of the {title(model)} lies on the particle that is left "
            f"out, {percent(found['charge'])} of the charge and {percent(found['area'])} of the area: beyond the "
            f"charge {_points(found['beyond_charge'], found['beyond_charge_interval'])}, mean of {found['n']} events; "
            f"events whose answer flips without it minus the others: "
            f"{_points(measured['difference'], measured['difference_interval'])}."
        )


def _points(value: float | None, ends: Any) -> str:
    return "not known" if value is None else f"{number(round(100 * value, 1) + 0.0, 1)} points {percents(ends)}"


def _of(k: int, n: int) -> str:
    return f"in {percent(k / n)}" if k else "never"
