"""Tables of a report as a submission to HEPData (https://hepdata-submission.readthedocs.io)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from nuvlm.models.table import title
from nuvlm.report.names import words
from nuvlm.report.schema import SCORES

BOOTSTRAP, EXACT = "95 % bootstrap interval", "95 % Clopper-Pearson interval"
QUANTITIES = {
    "energy": ("Neutrino energy", "GEV"),
    "inelasticity": ("Inelasticity", ""),
    "visible_energy": ("Visible energy", "GEV"),
    "containment": ("Energy near the walls", ""),
    "mode": ("Interaction mode", ""),
}
"""Key of `dependence` -> header and unit of the independent variable."""


@dataclass
class Table:
    """One table of a submission."""

    name: str
    """At most 64 characters."""
    description: str
    observables: Sequence[str]
    independent: list[dict[str, Any]] = field(default_factory=list)
    dependent: list[dict[str, Any]] = field(default_factory=list)

    def column(self, header: str, values: Iterable[Any], units: str = "") -> "Table":
        """Add an independent variable; a value is a number, a text or the two ends of a bin."""
        cells = [
            {"low": value[0], "high": value[1]} if isinstance(value, tuple) else {"value": value} for value in values
        ]
        self.independent.append({"header": _header(header, units), "values": cells})
        return self

    def result(
        self,
        header: str,
        values: Iterable[float | None],
        intervals: Iterable[Sequence[float] | None] | None = None,
        *,
        units: str = "",
        label: str = BOOTSTRAP,
        **qualifiers: str,
    ) -> "Table":
        """Add a dependent variable; `intervals` are the ends of each value's interval, which `label` names."""
        values = list(values)
        ends = list(intervals) if intervals is not None else [None] * len(values)
        self.dependent.append(
            {
                "header": _header(header, units),
                "qualifiers": [{"name": name, "value": value} for name, value in qualifiers.items()],
                "values": [_cell(value, end, label) for value, end in zip(values, ends, strict=True)],
            }
        )
        return self


def tables(report: Mapping[str, Any]) -> Iterator[Table]:
    """The tables of a report with scores.

    Args:
        report: content of report.json.
    """
    scores = report["scores"]
    main = next(iter(next(iter(scores.values()))))
    cells = [(model, condition) for model, of_model in scores.items() for condition in of_model]
    table = Table("Scores", "Scores on the test split, means over the classes.", ["ACC", "PRECISION", "RECALL", "AUC"])
    table.column("Model", [title(model) for model, _ in cells]).column("Condition", [words(name) for _, name in cells])
    found = [scores[model][condition] for model, condition in cells]
    for key, name in SCORES.items():
        table.result(name, [score[key] for score in found], [score[f"{key}_interval"] for score in found])
    yield table.result("Events", [score["n"] for score in found])
    for model, of_model in scores.items():
        yield from _of_model(report, model, of_model[main], main)
    yield _of_sets(report["sets"], main)
    for kind, curve in report["robustness"].items():
        points = [(model, point) for model, of_model in curve["models"].items() for point in of_model]
        yield (
            Table(f"Robustness: {words(kind)}", f"Accuracy against the {curve['axis']}.", ["ACC"])
            .column("Model", [title(model) for model, _ in points])
            .column(curve["axis"], [point["level"] for _, point in points])
            .result("Accuracy", [p["accuracy"] for _, p in points], [p["accuracy_interval"] for _, p in points])
        )
    if pairs := report["comparisons"]:
        yield (
            Table("Comparisons", "Differences of two models on the same events; McNemar's exact test.", ["ACC"])
            .column("First", [title(pair["first"]) for pair in pairs])
            .column("Second", [title(pair["second"]) for pair in pairs])
            .column("Condition", [words(pair["condition"]) for pair in pairs])
            .result(
                "Difference in accuracy",
                *zip(*((p["difference"], p["difference_interval"]) for p in pairs), strict=True),
            )
            .result("p value", [pair["p_value"] for pair in pairs])
            .result("Only the first right", [pair["only_first"] for pair in pairs])
            .result("Only the second right", [pair["only_second"] for pair in pairs])
        )
    cost = report["cost"]
    table = Table("Cost", f"Cost of classification under {words(main)}.", ["TIME"])
    table.column("Model", [title(model) for model in cost]).column("Device", [of["device"] for of in cost.values()])
    table.result("Time per event", [of["ms_per_sample"] for of in cost.values()], units="MS")
    table.result("Energy per event", [of["joules_per_sample"] for of in cost.values()], units="J")
    yield table.result("Peak memory", [of["peak_memory_mb"] for of in cost.values()], units="MB")


def _of_sets(sets: Mapping[str, Any], condition: str) -> Table:
    """Coverage and size of the prediction sets under the first condition."""
    cells = [
        (model, name, of_class)
        for model, of_model in sets["models"].items()
        for name, of_class in of_model["conditions"][condition]["by_class"].items()
    ]
    table = Table(
        "Prediction sets",
        f"Sets with a promised coverage of {sets['level']:g} of each class; {words(condition)}, test split.",
        ["EFF"],
    )
    table.column("Model", [title(model) for model, _, _ in cells]).column("True class", [name for _, name, _ in cells])
    found = [of_class for _, _, of_class in cells]
    table.result(
        "Coverage", [one["coverage"] for one in found], [one["coverage_interval"] for one in found], label=EXACT
    )
    table.result("Mean size", [one["mean_size"] for one in found], [one["mean_size_interval"] for one in found])
    return table.result("Threshold", [sets["models"][model]["threshold"][name] for model, name, _ in cells])


def _of_model(report: Mapping[str, Any], model: str, score: Mapping[str, Any], condition: str) -> Iterator[Table]:
    """The tables of one model under the first condition."""
    name, of_events = title(model), f"{words(condition)}, test split"
    classes: list[str] = report["classes"]
    by_class: Mapping[str, Any] = score["by_class"]
    table = Table(f"Confusion: {name}", f"Events by true and predicted class; {name}, {of_events}.", ["N"])
    table.column("True class", classes)
    for k, predicted in enumerate(classes):
        table.result("Events", [row[k] for row in score["confusion"]], PREDICTED=predicted)
    yield table
    for key in classes:
        if roc := by_class[key]["roc"]:
            yield (
                Table(f"ROC: {name}, {key}", f"ROC curve of {key} against the rest; {name}, {of_events}.", ["EFF"])
                .column("Background efficiency", roc["fpr"])
                .result("Signal efficiency", roc["tpr"], CLASS=key)
            )
        if scan := report["cuts"][model][key]:
            yield (
                Table(f"Cut: {name}, {key}", f"Cut on the probability of {key}; {name}, {of_events}.", ["EFF", "PUR"])
                .column("Cut", scan["cut"])
                .result("Efficiency", scan["efficiency"], CLASS=key)
                .result("Purity", scan["purity"], CLASS=key)
            )
    for quantity, (header, units) in QUANTITIES.items():
        shown = {key: by_class[key]["dependence"][quantity] for key in classes}
        first = shown[classes[0]]
        if first is None:
            continue
        table = Table(f"{header}: {name}", f"Efficiency and purity; {name}, {of_events}.", ["EFF", "PUR"])
        table.column(header, first.get("categories") or list(pairwise(first["edges"])), units)
        for key, values in shown.items():
            for what in ("efficiency", "purity"):
                table.result(what.capitalize(), values[what], values[f"{what}_interval"], label=EXACT, CLASS=key)
        yield table
    if reliability := report["calibration"][model]["temperatures"]["plain"]["reliability"]:
        edges = reliability["edges"]
        yield (
            Table(f"Reliability: {name}", f"Accuracy in bins of the confidence; {name}, {of_events}.", ["ACC"])
            .column("Confidence", list(pairwise(edges)))
            .result("Accuracy", reliability["accuracy"], reliability["accuracy_interval"], label=EXACT)
            .result("Mean confidence", reliability["confidence"])
            .result("Events", reliability["accuracy_n"])
        )


def write_submission(folder: Path, report: Mapping[str, Any], licence: str, reactions: Sequence[str] = ()) -> int:
    """Write ``submission.yaml`` and a file for each table to `folder`; returns the number of tables.

    Args:
        folder: folder to write to.
        report: content of report.json.
        licence: SPDX identifier of the data.
        reactions: HEPData's keywords for the reactions.
    """
    folder.mkdir(parents=True)
    commit = report["provenance"]["commit"] or "unknown"
    documents: list[dict[str, Any]] = [
        {
            "comment": f"{report['headline']} Run {report['run']} of NuVLM, commit {commit}, "
            f"{report['provenance']['date']}."
        }
    ]
    phrases = ["Neutrino", "Liquid argon", "Event classification"]
    for number, table in enumerate(tables(report), 1):
        file = f"table_{number:03d}.yaml"
        content = {"independent_variables": table.independent, "dependent_variables": table.dependent}
        (folder / file).write_text(_yaml(content), encoding="utf-8")
        documents.append(
            {
                "name": table.name,
                "description": table.description,
                "keywords": [
                    {"name": "observables", "values": list(table.observables)},
                    {"name": "reactions", "values": list(reactions)},
                    {"name": "phrases", "values": phrases},
                ],
                "data_license": {"name": licence, "url": f"https://spdx.org/licenses/{licence}.html"},
                "data_file": file,
            }
        )
    text = "".join(f"---\n{_yaml(document)}" for document in documents)
    (folder / "submission.yaml").write_text(text, encoding="utf-8")
    return len(documents) - 1


def _header(name: str, units: str) -> dict[str, str]:
    return {"name": name, "units": units} if units else {"name": name}


def _cell(value: float | None, interval: Sequence[float] | None, label: str) -> dict[str, Any]:
    if value is None:
        return {"value": "-"}
    # HEPData refuses an interval without width, which a bootstrap of equal answers has.
    if interval is None or interval[0] == interval[1]:
        return {"value": value}
    errors = {"minus": interval[0] - value, "plus": interval[1] - value}
    return {"value": value, "errors": [{"asymerror": errors, "label": label}]}


def _yaml(value: Any) -> str:
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True))
