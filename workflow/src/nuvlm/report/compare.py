"""Compare two finished runs: python -m nuvlm.report.compare results/x results/y."""

import argparse
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from nuvlm.base.errors import InputError
from nuvlm.base.files import atomic_path, read_json, write_json
from nuvlm.base.settings import flatten
from nuvlm.dataset.event_table import read_events
from nuvlm.evaluation.comparison import compare
from nuvlm.evaluation.intervals import RESAMPLES, draws, percentile_interval
from nuvlm.evaluation.metrics import SEED, weighted_scores
from nuvlm.evaluation.samples import KEY, Sample, labelled_events, read_sample
from nuvlm.models.predictions import part_tables
from nuvlm.models.table import title
from nuvlm.report.names import words
from nuvlm.report.page import environment
from nuvlm.report.schema import SCORES
from nuvlm.report.style import arrange, new_figure, to_svg
from nuvlm.report.wording import interval, listed, number, p_value

TRUTH = ["class", "nu_energy", "inelasticity", "vertex_x_mm", "vertex_y_mm", "vertex_z_mm"]
"""Two events with the same name are the same event if these agree."""
COSTS = ("ms_per_sample", "joules_per_sample", "peak_memory_mb")


@dataclass(frozen=True)
class FinishedRun:
    """A run with its report."""

    folder: Path
    report: dict[str, Any]
    events: pd.DataFrame
    """Events of the test split with known truth."""
    table: pd.DataFrame
    """The whole event table."""
    predictions: dict[str, dict[str, list[Path]]]
    """Prediction tables of each model under each condition."""

    @property
    def name(self) -> str:
        return self.folder.name


def read_run(folder: str | Path) -> FinishedRun:
    """Read a finished run, results/{run}.

    Raises:
        InputError: it has no report, no event table or no predictions.
    """
    folder = Path(folder)
    if not (folder / "report" / "report.json").is_file():
        raise InputError(f"{folder}: no finished run (no report/report.json). Finish the run, or give another folder.")
    report = read_json(folder / "report" / "report.json")
    if report.get("format") != "nuvlm-report":
        raise InputError(f"{folder}/report/report.json: not a NuVLM report. Remove it and rerun.")
    events = read_events(folder / "events.parquet")
    predictions: dict[str, dict[str, list[Path]]] = {}
    # The report lists the models and conditions of the run; the folder may hold files of earlier runs.
    for model, conditions in report["scores"].items():
        for condition in conditions:
            parts = part_tables(folder / "predictions" / model / condition, events)
            if not all(path.is_file() for path in parts):
                raise InputError(f"{folder}/predictions/{model}/{condition}: no predictions. Rerun the workflow.")
            predictions.setdefault(model, {})[condition] = parts
    return FinishedRun(folder, report, labelled_events(events, "test"), events, predictions)


def compare_runs(first: FinishedRun, second: FinishedRun, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Compare all models and conditions that both runs have, second minus first.

    If at least half of the smaller test split is also in the other run, only the shared events are used: differences
    are paired and tested with McNemar's exact test. Otherwise all test events are used, the runs are resampled
    independently, and there is no test.

    Returns:
        `runs` (name, date, commit, events), `paired`, `n` of each side, `differences` (model, condition, and for each
        score its value in both, `difference` and `difference_interval`; with `paired` the counts of
        :func:`nuvlm.evaluation.comparison.compare`), `only_first` and `only_second` (in one run only),
        `cost`, `settings` (those that differ).

    Raises:
        InputError: a run has no test event with known truth, or unusable predictions.
    """
    for run in (first, second):
        if not len(run.events):
            raise InputError(f"{run.folder}: no test event has known truth, so there is nothing to compare.")
    shared = first.events.merge(second.events, on=[*KEY, *TRUTH], how="inner")[KEY]  # unknown truth equals unknown
    paired = 2 * len(shared) >= min(len(first.events), len(second.events))
    runs = {"first": first, "second": second}
    tables = {side: shared.merge(run.events, on=KEY) if paired else run.events for side, run in runs.items()}
    differences = []
    for model, condition in _in_both(first, second):
        samples = {side: read_sample(tables[side], run.predictions[model][condition]) for side, run in runs.items()}
        differences.append({"model": model, "condition": condition} | _differ(samples, paired, resamples))
    has = {
        side: {(model, condition) for model, conditions in run.predictions.items() for condition in conditions}
        for side, run in runs.items()
    }
    return {
        "format": "nuvlm-comparison",
        "runs": {side: _describe(run) for side, run in runs.items()},
        "paired": paired,
        "n": {side: len(table) for side, table in tables.items()},
        "differences": differences,
        "only_first": [list(pair) for pair in sorted(has["first"] - has["second"])],
        "only_second": [list(pair) for pair in sorted(has["second"] - has["first"])],
        "cost": {
            model: {side: {name: run.report["cost"][model].get(name) for name in COSTS} for side, run in runs.items()}
            for model in first.report["cost"]
            if model in second.report["cost"]
        },
        "settings": settings_that_differ(
            *({**run.report["provenance"]["config"], "run": None} for run in runs.values())
        ),
    }


def settings_that_differ(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[dict[str, Any]]:
    """`key`, and its value in the `first` and the `second` configuration, of each that is not the same in both."""
    flat = [dict(flatten(settings)) for settings in (first, second)]
    return [
        {"key": key, "first": flat[0].get(key), "second": flat[1].get(key)}
        for key in dict.fromkeys([*flat[0], *flat[1]])
        if flat[0].get(key) != flat[1].get(key)
    ]


def render_text(found: Mapping[str, Any]) -> str:
    """For a terminal."""
    names = {side: run["name"] for side, run in found["runs"].items()}
    lines = [f"{names['second']} minus {names['first']}, {_events(found)}", ""]
    lines.append(f"{'':34}{names['first']:>12.12}{names['second']:>12.12}  difference, 95 % interval")
    for item in found["differences"]:
        for quantity in SCORES:
            change = item[quantity]
            label = f"{title(item['model'])}, {words(item['condition'])}: {quantity}"
            test = f"  {p_value(item['mcnemar']['p_value'])}" if quantity == "accuracy" and item["mcnemar"] else ""
            difference = f"{number(change['difference'])} {interval(change['difference_interval'])}"
            lines.append(f"{label:34}{number(change['first']):>12}{number(change['second']):>12}  {difference}{test}")
    for side in ("first", "second"):
        unpaired = [f"{title(model)} under {words(condition)}" for model, condition in found[f"only_{side}"]]
        if unpaired:
            lines += ["", f"only in {names[side]}: {', '.join(unpaired)}"]
    if found["settings"]:
        lines += ["", f"settings that differ ({names['first']} -> {names['second']}):"]
        lines += [f"  {item['key']}: {item['first']} -> {item['second']}" for item in found["settings"]]
    else:
        lines += ["", "all settings are equal"]
    return "\n".join(lines)


def render_page(found: Mapping[str, Any]) -> str:
    """One self-contained HTML page."""
    figure = Markup(_draw(found)) if found["differences"] else ""
    template = environment().get_template("compare.html.j2")
    return template.render(found, events=_events(found), quantities=SCORES, figure=figure)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m nuvlm.report.compare", description=__doc__)
    parser.add_argument("first", type=Path, help="folder of a finished run, results/x")
    parser.add_argument("second", type=Path, help="folder of another finished run")
    parser.add_argument("--out", type=Path, help="folder to write to (default: results/compare/x_y)")
    options = parser.parse_args(arguments)
    try:
        runs = read_run(options.first), read_run(options.second)
        found = compare_runs(*runs)
        out = options.out or Path("results", "compare", f"{runs[0].name}_{runs[1].name}")
        write_json(out / "compare.json", found)
        with atomic_path(out / "index.html") as partial:
            partial.write_text(render_page(found), encoding="utf-8")
    except InputError as error:
        sys.exit(str(error))
    print(render_text(found))
    print(f"\nThe page: {out / 'index.html'}")


def _in_both(first: FinishedRun, second: FinishedRun) -> Iterator[tuple[str, str]]:
    for model, conditions in first.predictions.items():
        for condition in conditions:
            if condition in second.predictions.get(model, {}):
                yield model, condition


def _differ(samples: Mapping[str, Sample], paired: bool, resamples: int) -> dict[str, Any]:
    """Compare all scores of two samples; paired samples hold the same events in the same order."""
    values = {side: weighted_scores(sample, np.ones((1, len(sample)))) for side, sample in samples.items()}
    # The same seed gives both sides the same resamples.
    seeds = {"first": SEED, "second": SEED if paired else SEED + 1}
    drawn = {side: _resampled(sample, seeds[side], resamples) for side, sample in samples.items()}
    found: dict[str, Any] = {}
    for name in SCORES:
        one, other = (_number(values[side][name][0]) for side in ("first", "second"))
        found[name] = {
            "first": one,
            "second": other,
            "difference": None if one is None or other is None else other - one,
            "difference_interval": percentile_interval(drawn["second"][name] - drawn["first"][name]),
        }
    right = samples["second"].correct, samples["first"].correct
    found["mcnemar"] = compare(*right, SEED, resamples) if paired else None
    return found


def _resampled(sample: Sample, seed: int, resamples: int) -> dict[str, np.ndarray]:
    """(resamples,) values of every score."""
    blocks = [weighted_scores(sample, weights) for weights in draws(len(sample), seed, resamples)]
    return {name: np.concatenate([block[name] for block in blocks]) for name in SCORES}


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _describe(run: FinishedRun) -> dict[str, Any]:
    about = run.report["provenance"]
    return {
        "name": run.name,
        "date": about["date"],
        "commit": about["commit"],
        "uncommitted_changes": about["uncommitted_changes"],
        "test_events": len(run.events),
    }


def _events(found: Mapping[str, Any]) -> str:
    n, runs = found["n"], found["runs"]
    if not found["paired"]:
        return f"on different test events: {n['first']:,} and {n['second']:,}"
    left = [f"{run['test_events'] - n[side]:,} of {run['name']}" for side, run in runs.items()]
    return f"on the same {n['first']:,} test events (not compared: {listed(left)})"


def _draw(found: Mapping[str, Any]) -> str:
    """Draw all differences in accuracy with intervals."""
    items = [item for item in found["differences"] if item["accuracy"]["difference_interval"]]
    with new_figure(6.4, 0.8 + 0.24 * len(items)) as (figure, ax):
        ax.axvline(0, color="#888888", linewidth=1, linestyle=":")
        for row, item in enumerate(items):
            low, high = item["accuracy"]["difference_interval"]
            ax.plot([low, high], [row, row], color="#0072b2")
            ax.plot(item["accuracy"]["difference"], row, "o", color="#0072b2")
        names = [f"{title(item['model'])}, {words(item['condition'])}" for item in items]
        ax.set(yticks=range(len(items)), ylim=(len(items) - 0.5, -0.5), xlabel="difference in accuracy")
        ax.set_yticklabels(names)
        arrange(figure)
        return to_svg(figure, "difference")


if __name__ == "__main__":
    main()
