"""The report: one self-contained page, and every number on it as JSON."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from nuvlm.evaluation.names import figure_name, title, without_controls, words
from nuvlm.evaluation.samples import Predictions
from nuvlm.report import wording
from nuvlm.report.controls import conclude
from nuvlm.report.cost import summarise_cost
from nuvlm.report.provenance import provenance
from nuvlm.report.summary import summarise
from nuvlm.storage import atomic_path, read_json, verify, write_json

logger = logging.getLogger(__name__)


def write_report(
    *,
    scores: Path,
    figures: Path,
    gallery: Path,
    predictions: Predictions,
    training: Mapping[str, Path],
    published: Path,
    config: Mapping[str, Any],
    repository: Path,
    page: Path,
    data: Path,
) -> None:
    """Write the report: `page` (HTML, one self-contained file) and `data` (JSON; docs/report.md describes it).

    Args:
        scores: what ``evaluate`` wrote.
        figures: folder of ``draw_figures``.
        gallery: what ``draw_gallery`` wrote.
        predictions: prediction tables of each model under each condition, with their costs beside them.
        training: training.json of each model.
        published: resources/published.yaml.
        config: the configuration as run, all keys.
        repository: the git checkout.
        page: the page to write.
        data: the JSON file to write.

    Raises:
        InputError: a file that the report needs is missing or damaged.
    """
    results = read_json(scores)
    events = read_json(gallery)["events"]
    reference = yaml.safe_load(published.read_text())
    models = list(results["scores"])
    conditions = without_controls(results["scores"][models[0]])
    main = conditions[0]
    cost = {model: summarise_cost(predictions[model][main], training[model]) for model in models}
    headline, sentences = summarise(results, cost, main)
    seen = read_json(next(iter(training.values()))).get("images", {})
    numbers = {
        "format": "nuvlm-report",
        "version": 1,
        "run": config.get("run"),
        "headline": headline,
        "summary": sentences,
        **results,
        "controls": conclude(results),
        "cost": cost,
        "departures": departures(reference["setup"], as_seen(config, seen)),
        "published": reference,
        "gallery": [{key: value for key, value in event.items() if key != "svg"} for event in events],
        "provenance": provenance(config, repository) | {"events": results["events"]},
    }
    html = (
        _environment()
        .get_template("page.html.j2")
        .render(
            numbers,
            models=models,
            conditions=conditions,
            main=main,
            scored=all(results["scores"][model][main]["n"] for model in models),
            displays=[Markup(event["svg"]) for event in events],
            figure=lambda kind, model=None, condition=None: _figure(figures / figure_name(kind, model, condition)),
            statements=wording.STATEMENTS,
            published_row=lambda rows, model: next((rows[key] for key in rows if model.startswith(key)), None),
            config_yaml=yaml.safe_dump(json.loads(json.dumps(config)), sort_keys=False, allow_unicode=True),
        )
    )
    write_json(data, numbers)
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


def _figure(path: Path) -> Markup:
    """A figure of ours as it is: an SVG whose text matplotlib has escaped."""
    return Markup(verify(path, "figure", ours=True).decode())


def _environment() -> Environment:
    environment = Environment(
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
        wording.stated,
        wording.picture,
    ):
        environment.filters[function.__name__] = function
    return environment
