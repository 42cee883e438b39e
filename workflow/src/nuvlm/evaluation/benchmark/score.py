"""Score texts about events of the benchmark: ``make faithfulness PREDICTIONS=file.jsonl`` (docs/faithfulness.md)."""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nuvlm.base.errors import InputError
from nuvlm.base.files import sha256, write_json
from nuvlm.evaluation.benchmark.definition import FILE, RUN, SEED, VOCABULARY, Definition, load_definition
from nuvlm.evaluation.benchmark.events import default_folder, read_truth
from nuvlm.evaluation.benchmark.predictions import read_predictions
from nuvlm.evaluation.faithfulness import CONTRADICTED, STATEMENTS, measure
from nuvlm.evaluation.intervals import RESAMPLES, ratio
from nuvlm.models.vlm.free_text import FreeText, Reading
from nuvlm.models.vlm.rationales import Rationales, load_rationales

COUNTED = ("sentences", "understood", "denied", "hedged", "unclear")


def score(
    predictions: pd.DataFrame,
    truth: pd.DataFrame,
    words: Rationales,
    definition: Definition,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """The scores of texts about the test events.

    Args:
        predictions: of :func:`nuvlm.evaluation.benchmark.predictions.read_predictions`.
        truth: of :func:`nuvlm.evaluation.benchmark.events.read_truth`.

    Returns:
        `n`; `class`, accuracy of the answers, or None; `right`, of all claims; `claims`, for each the scores of the
        definition; `errors` of lengths and energies; `text`, what of the texts was understood. Each score has `value`,
        `interval`, `n`, its value in each of the controls, and for the first two controls the difference to it with its
        interval: `beyond_same_answer`, `beyond_same_class`. Intervals are of 95 %.
    """
    true = truth[truth["split"] == "test"].reset_index(drop=True)
    free_text = FreeText(words)
    readings = [free_text.read(text) for text in predictions["text"]]
    table = true[["class"]].assign(
        event_id=np.arange(len(true)), shard="benchmark", picture="nominal", predicted=predictions["class"].to_numpy()
    )
    table = table.join(_claimed(readings)).join(true[list(STATEMENTS)].add_prefix("true_"))
    answered = bool(predictions["class"].notna().all())
    by_class = measure(table.assign(predicted=table["class"]), None, SEED, resamples)
    by_answer = measure(table, None, SEED, resamples) if answered else None
    return {
        "format": "nuvlm-faithfulness",
        "version": definition.version,
        "n": len(true),
        "class": _accuracy(predictions, true) if answered else None,
        "right": _metric(by_class["right"], by_answer and by_answer["right"]),
        "claims": {
            name: {
                kind: _metric(found, by_answer and by_answer["claims"][name][kind])
                for kind, found in by_class["claims"][name].items()
                if kind in definition.scores
            }
            for name in STATEMENTS
        },
        "errors": {
            name: {
                "n": found["nominal"]["n"],
                "median": found["nominal"]["median"],
                "spread": found["nominal"]["spread"],
            }
            for name, found in by_class["errors"].items()
        },
        "text": _understood(predictions, readings),
    }


def _claimed(readings: list[Reading]) -> pd.DataFrame:
    """Columns of claims as float64: NaN where nothing is claimed, CONTRADICTED where a text contradicts itself."""
    rows = []
    for reading in readings:
        stated = {name: np.nan if value is None else float(value) for name, value in vars(reading.claims).items()}
        rows.append(stated | dict.fromkeys(reading.contradicted, CONTRADICTED))
    return pd.DataFrame(rows, columns=list(STATEMENTS), dtype=np.float64).add_prefix("claim_")


def _accuracy(predictions: pd.DataFrame, true: pd.DataFrame) -> dict[str, Any]:
    right = int((predictions["class"].to_numpy() == true["class"].to_numpy()).sum())
    return ratio("accuracy", right, len(true))


def _metric(by_class: Mapping[str, Any], by_answer: Mapping[str, Any] | None) -> dict[str, Any]:
    shown = dict(by_class["nominal"]) | {"any_event": by_class["chance"]}
    for control, found in (("same_answer", by_answer), ("same_class", by_class)):
        if found is not None:
            shown |= {
                control: found["same_label"],
                f"beyond_{control}": found["beyond_label"],
                f"beyond_{control}_interval": found["beyond_label_interval"],
            }
    return shown


def _understood(predictions: pd.DataFrame, readings: list[Reading]) -> dict[str, Any]:
    totals = {name: sum(getattr(reading, name) for reading in readings) for name in COUNTED}
    empty = int((predictions["text"].str.strip() == "").sum())
    silent = sum(not reading.understood for reading in readings)
    return totals | {
        "understood_share": totals["understood"] / totals["sentences"] if totals["sentences"] else None,
        "contradicted": sum(bool(reading.contradicted) for reading in readings),
        "without_claim": silent,
        "empty": empty,
    }


def render(found: Mapping[str, Any]) -> str:
    """The scores as a table for a terminal, in percent."""
    text, accuracy = found["text"], found["class"]
    lines = [f"Benchmark of explanations, version {found['version']}: {found['n']} test events", ""]
    answered = accuracy is not None
    if answered:
        lines.append(f"class: {_percent(accuracy['accuracy'])} % right {_interval(accuracy['accuracy_interval'])}")
    share = _percent(text["understood_share"])
    lines.append(
        f"text: {share} % of {text['sentences']} sentences understood; {text['denied']} denied in unknown words, "
        f"{text['hedged']} not asserted, {text['unclear']} beside unknown words; {text['contradicted']} texts "
        f"contradict themselves, {text['without_claim']} claim nothing"
    )
    lines += [
        "",
        f"{'claim':<12}{'made':>8}{'right':>8}{'precision':>11}{'recall':>8}{'exchanged':>11}   beyond [95 %]",
    ]
    lines += [f"{'':<47}{'same answer' if answered else 'same class':>11}"]
    rows: dict[str, Mapping[str, Any]] = {name: kinds for name, kinds in found["claims"].items()}
    rows["all"] = {"right": found["right"]}
    control = "same_answer" if answered else "same_class"
    for name, kinds in rows.items():
        right = kinds["right"]
        cells = [
            _percent(kinds[kind]["value"]) if kind in kinds else "" for kind in ("made", "right", "precision", "recall")
        ]
        beyond = f"{_percent(right[f'beyond_{control}'])} {_interval(right[f'beyond_{control}_interval'])}"
        widths = zip(cells, (8, 8, 11, 8), strict=True)
        row = "".join(f"{cell:>{width}}" for cell, width in widths)
        lines.append(f"{name:<12}{row}{_percent(right[control]):>11}   {beyond}")
    if answered:
        right = found["right"]
        lines += ["", f"all, beyond texts exchanged within the true class: {_percent(right['beyond_same_class'])} "
                      f"{_interval(right['beyond_same_class_interval'])}"]  # fmt: skip
    else:
        lines += [
            "",
            "No class is given, so texts are exchanged within the true class, not between events of one answer.",
        ]
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _interval(ends: list[float] | None) -> str:
    return "" if ends is None else f"[{_percent(ends[0])}, {_percent(ends[1])}]"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m nuvlm.evaluation.benchmark.score", description=__doc__)
    parser.add_argument("predictions", type=Path, help="a line of JSON for each test event")
    parser.add_argument("--events", type=Path, default=default_folder(RUN), help="folder of the truth and the maps")
    parser.add_argument("--definition", type=Path, default=FILE)
    parser.add_argument("--vocabulary", type=Path, default=VOCABULARY)
    parser.add_argument("--out", type=Path, help="JSON to write (default: beside the predictions, .scores.json)")
    options = parser.parse_args(arguments)
    out = options.out or options.predictions.with_suffix(".scores.json")
    try:
        definition, words = load_definition(options.definition), load_rationales(options.vocabulary)
        truth = read_truth(options.events, definition)
        predictions = read_predictions(options.predictions, truth, definition)
        found = score(predictions, truth, words, definition)
        read_with = {"predictions_sha256": sha256(options.predictions), "vocabulary_sha256": sha256(options.vocabulary)}
        write_json(out, found | read_with)
    except InputError as error:
        sys.exit(str(error))
    print(render(found))
    print(f"\nAll scores: {out}")


if __name__ == "__main__":
    main()
