"""Model cards and the data card of a published run, filled from its report."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from nuvlm.models.table import family_name, title
from nuvlm.report.names import words
from nuvlm.report.schema import SCORES
from nuvlm.report.wording import MISSING, PLAIN, interval, number, percent, percents, significant

ARCHITECTURES = {
    "cnn": "A Siamese convolutional network; one branch per view, with shared weights",
    "bdt": "Gradient-boosted decision trees on hand-made quantities of each view",
    "vit": "The vision tower of a vision-language model with a linear head, trained with low-rank adapters",
    "vlm_head": "A vision-language model that reads a prompt about the pixel maps, with a linear head on its last "
    "state, trained with low-rank adapters",
    "vlm": "A vision-language model, fine-tuned with low-rank adapters; it answers a prompt about the pixel maps",
}
"""By family; others are called by their title."""


def model_card(report: Mapping[str, Any], model: str, licence: str, trained_on: str) -> str:
    """The card of one model, in Markdown with the metadata block of model hubs.

    Args:
        report: content of report.json.
        model: a model of the report.
        licence: SPDX identifier.
        trained_on: the run that trained the model.
    """
    scores = report["scores"][model]
    conditions = list(scores)
    main = conditions[0]
    config = report["provenance"]["config"]
    cost, training = report["cost"][model], report["cost"][model]["training"]
    family = family_name(model)
    heading = {
        "license": licence.lower(),
        "library_name": "nuvlm",
        "tags": ["neutrino", "liquid-argon-tpc", family],
        "model-index": [{"name": title(model), "results": [_hub_result(report, scores[main], main)]}],
    }
    sections = [
        f"# {title(model)}, run {trained_on}",
        f"{ARCHITECTURES.get(family, title(model))}. It classifies pixel maps of neutrino events in a liquid-argon TPC "
        f"as {', '.join(PLAIN[name] for name in report['classes'])}.",
        "## Training",
        _table(
            ("", ""),
            [
                ("events", _count(training["events"])),
                ("epochs", significant(training["epochs"])),
                ("parameters", _count(training["parameters"])),
                ("of them trained", _count(training["trainable_parameters"] or training["parameters"])),
                ("device", training["device"] or MISSING),
                ("time", f"{significant(training['seconds'])} s"),
                ("peak memory", f"{significant(training['peak_memory_mb'])} MB"),
            ],
        ),
        "Settings:",
        f"```yaml\n{yaml.safe_dump(_plain(config[family]), sort_keys=False, allow_unicode=True)}```",
        "## Evaluation",
        f"On the test split of this run, {scores[main]['n']:,} events with known truth. In brackets: 95 % bootstrap "
        "intervals. Precision and recall are means over the classes."
        if scores[main]["n"]
        else "No event of this run has known truth, so there are no scores.",
        _table(
            ("condition", *SCORES.values()),
            [
                (words(name), *(f"{number(score[key])} {interval(score[f'{key}_interval'])}" for key in SCORES))
                for name, score in scores.items()
            ],
        ),
        f"By class ({words(main)}):",
        _table(
            ("class", "events", "recall", "precision", "AUC"),
            [
                (
                    PLAIN[name],
                    _count(score["n"]),
                    *(f"{number(score[key])} {interval(score[f'{key}_interval'])}" for key in ("recall", "precision")),
                    number(score["auc"]),
                )
                for name, score in scores[main]["by_class"].items()
            ],
        ),
        "## Calibration",
        _calibration(report["calibration"][model], scores[main]),
        "## Cost of classification",
        _table(
            ("", ""),
            [
                ("device", cost["device"]),
                ("time", f"{significant(cost['ms_per_sample'])} ms an event"),
                ("energy", f"{significant(cost['joules_per_sample'])} J an event ({cost['energy_how']})"),
                ("peak memory", f"{significant(cost['peak_memory_mb'])} MB"),
            ],
        ),
        "## Limits",
        _list(
            [
                f"{_origin(config)} Other detectors, generators and energies need a new evaluation.",
                *(
                    f"From {words(change['reference'])} to {words(name)}, the accuracy changes by "
                    f"{number(100 * change['difference'], 1)} points {percents(change['difference_interval'])}."
                    for name, change in report["changes"][model].items()
                    if change["difference"] is not None
                ),
                *(control["conclusion"] for control in report["controls"] if control["model"] == model),
            ]
        ),
        "## Use",
        f"`make classify FILE=mine.h5 MODELS={trained_on}` with the workflow of this bundle (`code/`).",
    ]
    return f"---\n{yaml.safe_dump(heading, sort_keys=False)}---\n" + "\n\n".join(sections) + "\n"


def data_card(report: Mapping[str, Any], licence: str) -> str:
    """The card of the events of a run, in Markdown.

    Args:
        report: content of report.json.
        licence: SPDX identifier.
    """
    config, windows = report["provenance"]["config"], report["windows"]
    splits = report["events"]
    classes = list(dict.fromkeys([*report["classes"], *(name for counts in splits.values() for name in counts)]))
    sections = [
        f"# Events of run {report['run']}",
        _origin(config),
        "## Events",
        _table(
            ("split", *(PLAIN.get(name, name) for name in classes)),
            [(split, *(_count(counts.get(name, 0)) for name in classes)) for split, counts in splits.items()],
        ),
        "The split is a hash of the event's identity and `dataset.seed`, so it does not change when events are added. "
        "`none` is unknown truth.",
        "## Windows of the pixel maps",
        _table(
            ("", ""),
            [
                ("events", _count(windows["events"])),
                ("to be centred on", windows["centre"] or "made elsewhere"),
                *((f"centred on {name}", _count(count)) for name, count in windows["centred_by"].items()),
                ("fell back", percent(windows["fell_back"])),
                ("less than half of the charge inside", _count(windows["cut"])),
            ],
        ),
        "## Settings",
        "Seeds: " + (", ".join(f"`{key}` {value}" for key, value in report["provenance"]["seeds"].items()) or "none."),
        *(
            f"`{section}`:\n```yaml\n{yaml.safe_dump(_plain(config[section]), sort_keys=False, allow_unicode=True)}```"
            for section in ("input", "detector", "display", "pixelmap", "dataset")
        ),
        "## Files",
        "The bundle has the event table and the predictions. Voxels, displays and pixel maps are not in it; the "
        "workflow makes them again from the configuration. Columns: `code/docs/formats.md`.",
        f"Licence: {licence}.",
    ]
    return "\n\n".join(sections) + "\n"


def _origin(config: Mapping[str, Any]) -> str:
    """Where the events are from, as a sentence."""
    source, simulate = config["input"]["source"], config["input"]["simulate"]
    if source == "simulate":
        return (
            f"{simulate['events']:,} events simulated with GEANT4 (final states: {simulate['final_states']}; "
            f"{simulate['vertices']} vertices; seed {simulate['seed']})."
        )
    files = config["input"]["files"]
    return f"Events read from {len(files)} {'pattern' if len(files) == 1 else 'patterns'} of {source} files."


def _calibration(calibration: Mapping[str, Any], score: Mapping[str, Any]) -> str:
    fitted = calibration["temperatures"]["fitted"]
    return (
        f"Expected calibration error {number(score['ece'])}; with the temperature {number(fitted['temperature'], 2)} "
        f"fitted on {calibration['fitted_on']:,} validation events, {number(fitted['ece'])}."
    )


def _hub_result(report: Mapping[str, Any], score: Mapping[str, Any], condition: str) -> dict[str, Any]:
    return {
        "task": {"type": "image-classification"},
        "dataset": {"name": f"NuVLM run {report['run']}, test split, {condition}", "type": "nuvlm"},
        "metrics": [
            {"type": key, "name": name, "value": round(score[key], 4)}
            for key, name in SCORES.items()
            if score[key] is not None
        ],
    }


def _plain(value: Any) -> Any:
    """Without the types that YAML would name."""
    return json.loads(json.dumps(value))


def _count(value: int | None) -> str:
    return MISSING if value is None else f"{value:,}"


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    header = list(header)
    lines = [header, ["---"] * len(header), *(list(row) for row in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)
