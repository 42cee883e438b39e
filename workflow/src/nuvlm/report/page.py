"""The report: one self-contained page, and every number on it as JSON."""

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
from nuvlm.models.conditions import shown_in_full
from nuvlm.report import wording
from nuvlm.report.alt import describe
from nuvlm.report.browser import as_script, page_data
from nuvlm.report.controls import conclude
from nuvlm.report.cost import summarise_cost
from nuvlm.report.names import figure_name, title, words
from nuvlm.report.provenance import provenance
from nuvlm.report.schema import VERSION, check_report
from nuvlm.report.summary import summarise
from nuvlm.report.tables import latex_tables

SCRIPTS = ("elements.js", "state.js", "tables.js", "choices.js", "display.js", "events.js")
"""What the page runs, in this order."""
SHOWN = 12
"""Events, the worst mistakes, that the page has in a table too: in print, and where there is no JavaScript."""

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
    """Write the report: `page` (HTML, one self-contained file), its numbers, and its tables for a paper.

    Args:
        scores: what ``evaluate`` wrote.
        figures: folder of ``draw_figures``.
        browser: what ``collect_events`` wrote.
        predictions: prediction tables of each model under each condition, with their costs beside them.
        training: training.json of each model.
        published: resources/published.yaml.
        config: the configuration as run, all keys.
        repository: the git checkout.
        page: the page to write.
        data: the JSON file to write, a :class:`nuvlm.report.schema.Report`.
        tables: the LaTeX file to write.

    Raises:
        InputError: a file that the report needs is missing or damaged.
    """
    results = read_json(scores)
    collected = read_json(browser)
    reference = yaml.safe_load(published.read_text())
    models = list(results["scores"])
    conditions = shown_in_full(results["scores"][models[0]])
    main = conditions[0]
    cost = {model: summarise_cost(predictions[model][main], training[model]) for model in models}
    headline, sentences = summarise(results, cost, main)
    seen = read_json(next(iter(training.values()))).get("images", {})
    numbers = {
        "format": "nuvlm-report",
        "version": VERSION,
        "run": config.get("run"),
        "headline": headline,
        "summary": sentences,
        **results,
        "controls": conclude(results),
        "cost": cost,
        "departures": departures(reference["setup"], as_seen(config, seen)),
        "published": reference,
        "gallery": [_facts(event) for event in collected["events"]],
        "provenance": provenance(config, repository) | {"events": results["events"]},
    }
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
            statements=wording.STATEMENTS,
            config_yaml=yaml.safe_dump(json.loads(json.dumps(config)), sort_keys=False, allow_unicode=True),
        )
    )
    check_report(numbers)
    write_json(data, numbers)
    with atomic_path(tables) as partial:
        partial.write_text(latex_tables(numbers), encoding="utf-8")
    with atomic_path(page) as partial:
        partial.write_text(html, encoding="utf-8")
    logger.info("%s", headline)
    logger.info("%s: %.1f MB", page, page.stat().st_size / 1e6)


def as_seen(config: Mapping[str, Any], images: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration, with the truth about pixel maps that were made elsewhere instead of settings without effect.

    Args:
        images: settings of the pixel maps that the models have seen, from training.json.
    """
    if "source" not in images:
        return dict(config)
    return {
        **config,
        "input": {**config["input"], "views": ", ".join(view.upper() for view in images["views"])},
        "display": {"pixel_mm": "not known"},
        "pixelmap": {"size": images["size"]},
    }


def departures(setup: list[dict[str, Any]], config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Where a run departs from the published setting.

    Args:
        setup: of resources/published.yaml: the `key` of a setting, `what` it is, its published `value`, and `names`
            where values have better ones.
        config: the configuration as run.

    Returns:
        `what`, `run` and `published` of each setting that differs; a key that the configuration lacks does not.
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


def _facts(event: Mapping[str, Any]) -> dict[str, Any]:
    """An event without its picture."""
    return {key: value for key, value in event.items() if key != "pixels"} | {"heat": list(event["heat"])}


def _script() -> Markup:
    """All scripts of the page as one."""
    folder = resources.files("nuvlm.report")
    return Markup("\n".join((folder / name).read_text(encoding="utf-8") for name in SCRIPTS))


def _figure(path: Path) -> Markup:
    """A figure of ours as it is: an SVG whose text matplotlib has escaped."""
    return Markup(verify(path, "figure", require_seal=True).decode())


def environment() -> Environment:
    """For the templates beside this module: what they are given is escaped, and written by nuvlm.report.wording."""
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
    ):
        templates.filters[function.__name__] = function
    return templates
