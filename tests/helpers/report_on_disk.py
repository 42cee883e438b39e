"""The report of a run of `run_on_disk`, written by the real stages."""

import json
import shutil
from pathlib import Path

from explanations_on_disk import write_saliency
from nuvlm.base.files import read_json, write_json
from nuvlm.evaluation.metrics import evaluate
from nuvlm.report.collect_events import collect_events
from nuvlm.report.figures import draw_figures
from nuvlm.report.names import figure_name, figures_of
from nuvlm.report.page import write_report
from nuvlm.workflow.config import Config
from paths import REPOSITORY
from run_on_disk import Run

PUBLISHED = REPOSITORY / "resources" / "published.yaml"


def make_report(
    run: Run,
    folder: Path,
    config: dict | None = None,
    count: int = 600,
    rationales: dict[str, list[Path]] | None = None,
    every_figure: bool = False,
) -> tuple[str, dict]:
    """Score a run, collect `count` events and write its page; with rationales, saliency maps are shown too.

    Figures stand for others of their kind, but where `every_figure` is drawn.

    Returns:
        The page, ``report/index.html`` in `folder`, and what ``report.json`` says.
    """
    rationales = rationales or {}
    saliency: dict[str, list[Path]] = {}
    maps: dict[str, Path] = {}
    for cnn in [model for model in run.predictions if model.startswith("cnn")] if rationales else []:
        saliency[cnn], maps = write_saliency(run, folder, cnn)
    evaluate(
        run.events, run.predictions, folder / "scores.json", resamples=200, explanations=rationales, saliency=saliency,
        repeats=run.repeats, stores=maps,
    )  # fmt: skip
    _draw_once(folder / "scores.json", run.training, folder / "figures", every_figure)
    nominal = {model: conditions["nominal"] for model, conditions in run.predictions.items()}
    shown = {"explanations": rationales, "saliency": saliency, "pixel_maps": maps}
    collect_events(run.events, nominal, run.displays, count, folder / "events.json", seed=7, **shown)
    return make_page(run, folder, folder / "events.json", config)


_DRAWN: dict[str, Path] = {}
"""Kind of figure -> one that this process has drawn, of events with truth."""


def _draw_once(scores: Path, training: dict[str, Path], figures: Path, every_figure: bool) -> None:
    """Draw a figure of each kind, or take one that is there: no test of the page reads their content.

    What they show is tested in test_figures.py.
    """
    results = read_json(scores)
    first = next(iter(results["scores"].values()))
    with_pairs = bool(results["counterfactuals"])
    needed = figures_of(list(results["scores"]), list(first), results["explanations"], counterfactuals=with_pairs)
    if every_figure or not any(score["n"] for score in first.values()):
        draw_figures(scores, training, figures)
        return
    if any(figure.kind not in _DRAWN for figure in needed):
        few = _of_few_models(results)
        write_json(figures.with_suffix(".json"), few)
        draw_figures(figures.with_suffix(".json"), {model: training[model] for model in few["scores"]}, figures)
        drawn = figures_of(list(few["scores"]), list(first)[:1], few["explanations"], counterfactuals=with_pairs)
        _DRAWN.update({figure.kind: figures / figure_name(*figure) for figure in drawn})
    figures.mkdir(exist_ok=True)
    for figure in needed:
        for suffix in (".svg", ".pdf"):
            path = (figures / figure_name(*figure)).with_suffix(suffix)
            if not path.exists():
                shutil.copy(_DRAWN[figure.kind].with_suffix(suffix), path)


def _of_few_models(results: dict) -> dict:
    """Scores with every kind of figure, and few of each: of one model and those that explain, in one condition."""
    models = dict.fromkeys([next(iter(results["scores"])), *results["explanations"]])
    of_first = {model: dict([next(iter(results["scores"][model].items()))]) for model in models}
    pairs = [test for test in results["comparisons"] if {test["first"], test["second"]} <= models.keys()]
    curves = {
        kind: curve | {"models": {model: points for model, points in curve["models"].items() if model in models}}
        for kind, curve in results["robustness"].items()
    }
    return results | {"scores": of_first, "comparisons": pairs, "robustness": curves}


def make_page(run: Run, folder: Path, events: Path, config: dict | None = None) -> tuple[str, dict]:
    """Write the page of a run with scores and figures, with these events."""
    write_report(
        scores=folder / "scores.json",
        figures=folder / "figures",
        browser=events,
        predictions=run.predictions,
        training=run.training,
        published=PUBLISHED,
        config=config or Config().model_dump(mode="json"),
        repository=REPOSITORY,
        page=folder / "report" / "index.html",
        data=folder / "report" / "report.json",
        tables=folder / "report" / "tables.tex",
    )
    return (folder / "report" / "index.html").read_text(), json.loads((folder / "report" / "report.json").read_text())
