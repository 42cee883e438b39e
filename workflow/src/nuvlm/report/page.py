"""Write the report: one self-contained HTML page, its numbers as JSON, and LaTeX tables."""

import base64
import hashlib
import json
import logging
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from nuvlm.base.files import atomic_path, read_json, verify, write_json
from nuvlm.evaluation.samples import Predictions
from nuvlm.models.conditions import CONTROLS, shown_in_full
from nuvlm.models.table import title
from nuvlm.report import wording
from nuvlm.report.alt import describe
from nuvlm.report.browser_data import as_script, page_data
from nuvlm.report.controls import conclude
from nuvlm.report.cost import summarise_cost
from nuvlm.report.explained import CHANGES, conclude_counterfactuals, explain_in_words
from nuvlm.report.language import compare_language
from nuvlm.report.names import figure_name, words
from nuvlm.report.provenance import provenance
from nuvlm.report.schema import SCORES, VERSION, check_report
from nuvlm.report.sets import conclude_sets, promised
from nuvlm.report.summary import summarise
from nuvlm.report.tables import latex_tables

SCRIPTS = ("elements.js", "state.js", "tables.js", "choices.js", "display.js", "event_browser.js")
"""Scripts of the page, in the order of execution."""
SHOWN = 12
"""Worst mistakes in the static table, for print and without JavaScript."""

logger = logging.getLogger(__name__)


def write_report(
    *,
    scores: Path,
    figures: Path,
    browser: Path,
    predictions: Predictions,
    training: Mapping[str, Path],
    published: Path,
    config: Mapping[str, Any],
    repository: Path,
    page: Path,
    data: Path,
    tables: Path,
) -> None:
    """Write the page (one self-contained HTML file), report.json and the LaTeX tables.

    Args:
        scores: scores.json of ``evaluate``.
        figures: folder of ``draw_figures``.
        browser: events.json of ``collect_events``.
        predictions: prediction tables of each model under each condition; each has a cost file beside it.
        training: training.json of each model.
        published: resources/published.yaml.
        config: complete configuration.
        repository: the git checkout.
        page: the page to write.
        data: the JSON file to write, a :class:`nuvlm.report.schema.Report`.
        tables: the LaTeX file to write.

    Raises:
        InputError: an input file is missing or damaged.
    """
    results = read_json(scores)
    collected = read_json(browser)
    numbers = report_numbers(
        results, collected, predictions, training, published, config, provenance(config, repository)
    )
    models = list(results["scores"])
    conditions = shown_in_full(results["scores"][models[0]])
    main = conditions[0]
    html = (
        environment()
        .get_template("page.html.j2")
        .render(
            numbers,
            models=models,
            conditions=conditions,
            main=main,
            scored=all(results["scores"][model][main]["n"] for model in models),
            worst=collected["events"][:SHOWN],
            data=page_data(collected, models),
            script=(script := _script()),
            digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            figure=lambda kind, model=None, condition=None: _figure(figures / figure_name(kind, model, condition)),
            alt=lambda kind, model=None, condition=None: describe(kind, results, model, condition),
            score_titles=SCORES,
            shifted=[name for name in results["scores"][models[0]] if name not in (main, *CONTROLS)],
            statements=wording.STATEMENTS,
            kinds_of_change=CHANGES,
            config_yaml=yaml.safe_dump(json.loads(json.dumps(config)), sort_keys=False, allow_unicode=True),
        )
    )
    check_report(numbers)
    write_json(data, numbers)
    with atomic_path(tables) as partial:
        partial.write_text(latex_tables(numbers), encoding="utf-8")
    with atomic_path(page) as partial:
        partial.write_text(html, encoding="utf-8")
    logger.info("%s", numbers["headline"])
    logger.info("%s: %.1f MB", page, page.stat().st_size / 1e6)


def report_numbers(
    results: Mapping[str, Any],
    collected: Mapping[str, Any],
    predictions: Predictions,
    training: Mapping[str, Path],
    published: Path,
    config: Mapping[str, Any],
    origin: Mapping[str, Any],
) -> dict[str, Any]:
    """Collect the content of report.json, a :class:`nuvlm.report.schema.Report`.

    Args:
        results: content of scores.json of ``evaluate``.
        collected: content of events.json of ``collect_events``.
        predictions: prediction tables of each model under each condition; each has a cost file beside it.
        training: training.json of each model.
        published: resources/published.yaml.
        config: complete configuration.
        origin: provenance of the run.
    """
    reference = yaml.safe_load(published.read_text())
    models = list(results["scores"])
    main = shown_in_full(results["scores"][models[0]])[0]
    cost = {model: summarise_cost(predictions[model][main], training[model]) for model in models}
    headline, sentences = summarise(results, cost, main)
    images = read_json(next(iter(training.values()))).get("images", {})
    return {
        "format": "nuvlm-report",
        "version": VERSION,
        "run": config.get("run"),
        "headline": headline,
        "summary": sentences,
        **results,
        "windows": _windows(results["windows"], images.get("centre")),
        "explanations": {
            model: {**measured, "sentences": explain_in_words(model, measured)}
            for model, measured in results["explanations"].items()
        },
        "counterfactuals": (changed := results["counterfactuals"])
        and {**changed, "conclusions": conclude_counterfactuals(changed)},
        "sets": {**results["sets"], "conclusions": conclude_sets(results["sets"])},
        "controls": conclude(results),
        "language": compare_language(results, cost, main),
        "cost": cost,
        "departures": departures(reference["setup"], with_image_settings(config, images)),
        "published": reference,
        "gallery": [_facts(event) for event in collected["events"]],
        "provenance": {**origin, "events": results["events"]},
    }


def with_image_settings(config: Mapping[str, Any], images: Mapping[str, Any]) -> dict[str, Any]:
    """Replace settings without effect by the properties of pixel maps that were made elsewhere.

    Args:
        images: settings of the pixel maps that the models were trained on, from training.json.
    """
    if "source" not in images:
        return dict(config)
    sides = images.get("geometry", {}).get("pixel_mm")
    return {
        **config,
        "input": {**config["input"], "views": ", ".join(view.upper() for view in images["views"])},
        "display": {"pixel_mm": " × ".join(f"{side:.3g}" for side in sides) if sides else "not known"},
        "pixelmap": {"size": images["size"], "zoom": config["pixelmap"].get("zoom", 1)},
    }


def departures(setup: list[dict[str, Any]], config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Find the settings that differ from the published setup.

    Args:
        setup: from resources/published.yaml: `key` of a setting, its description `what`, its published `value`, and
            optional display `names` of values.
        config: complete configuration.

    Returns:
        `what`, `run` and `published` of each setting that differs; keys missing in the configuration are skipped.
    """
    found = []
    for item in setup:
        value: Any = config
        for part in item["key"].split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None and value != item["value"]:
            names = item.get("names", {})
            published = names.get(item["value"], item["value"])
            found.append({"what": item["what"], "run": names.get(value, value), "published": published})
    return found


def _windows(counted: Mapping[str, Any], centre: str | None) -> dict[str, Any]:
    """The windows as counted by ``evaluate``, with the fraction that fell back from `centre`."""
    known = sum(counted["centred_by"].values())
    fell_back = (known - counted["centred_by"].get(centre, 0)) / known if known and centre else None
    return {**counted, "centre": centre, "fell_back": fell_back}


def _facts(event: Mapping[str, Any]) -> dict[str, Any]:
    """An event without its pixels."""
    return {key: value for key, value in event.items() if key != "pixels"} | {"saliency": list(event["saliency"])}


def _script() -> Markup:
    """All scripts of the page, concatenated."""
    folder = resources.files("nuvlm.report")
    return Markup("\n".join((folder / name).read_text(encoding="utf-8") for name in SCRIPTS))


def _figure(path: Path) -> Markup:
    """An SVG of ``draw_figures``, whose text matplotlib has escaped, for embedding."""
    return Markup(verify(path, "figure", require_seal=True).decode())


def environment() -> Environment:
    """Jinja environment of the templates in this package: autoescaping, with the filters of nuvlm.report.wording."""
    templates = Environment(
        loader=PackageLoader("nuvlm", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for function in (
        title,
        words,
        wording.label,
        wording.number,
        wording.significant,
        wording.percent,
        wording.interval,
        wording.percents,
        wording.p_value,
        wording.duration,
        as_script,
        wording.stated,
        wording.picture,
        promised,
    ):
        templates.filters[function.__name__] = function
    return templates
