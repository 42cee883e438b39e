"""Figures: all of them, well-formed, with what they should show, the same every time."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from explanations_on_disk import write_explanations
from nuvlm.base.files import write_json
from nuvlm.evaluation.metrics import evaluate
from nuvlm.models.table import title
from nuvlm.report.figures import draw_figures
from nuvlm.report.names import COUNTERFACTUALS, KINDS, OF_MODEL, OF_RATIONALES, OVERVIEWS, figure_name, figure_names
from paths import REPOSITORY
from run_on_disk import CONDITIONS, Run, write_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    run = write_run(folder)
    rationales = write_explanations(run, folder)
    evaluate(run.events, run.predictions, folder / "scores.json", resamples=100, explanations=rationales)
    return run


@pytest.fixture(scope="module")
def figures(run: Run) -> Path:
    out = run.events.parent / "figures"
    draw_figures(run.events.parent / "scores.json", run.training, out)
    return out


def _texts(path: Path) -> list[str]:
    return [
        "".join(element.itertext()).strip()
        for element in ElementTree.parse(path).iter()
        if element.tag.endswith("text")
    ]


def test_what_is_drawn_is_what_was_named(figures: Path) -> None:
    assert {path.name for path in figures.iterdir()} == _files()


def _files() -> set[str]:
    names = figure_names(["cnn", "vlm"], CONDITIONS, explaining=["vlm"])
    return {*names, *(Path(name).with_suffix(".pdf").name for name in names)}


def test_every_figure_fits_into_a_page(figures: Path) -> None:
    ids: set[str] = set()
    for path in figures.glob("*.svg"):
        text = path.read_text()
        ElementTree.fromstring(text)
        # The page sets the size and the colour of the text; nothing is loaded, styled or run from inside.
        assert re.match(r"<svg [^>]*viewBox", text)
        assert "currentColor" in text
        assert "<style" not in text
        assert "<script" not in text
        assert not re.search(r'href="(?!#|data:)', text)
        own = set(re.findall(r' id="([^"]+)"', text))
        assert not own & ids, "two figures on one page share an id"
        assert set(re.findall(r"url\(#([^)]+)\)", text)) <= own
        ids |= own


def test_every_figure_is_ready_for_print(figures: Path) -> None:
    for path in figures.glob("*.pdf"):
        content = path.read_bytes()
        assert content.startswith(b"%PDF-")
        assert content.endswith(b"%%EOF\n")
        # Where the table of its parts begins, and where it says that each does.
        begin = int(content.split(b"startxref")[1].split()[0])
        parts = re.findall(rb"(\d{10}) \d{5} n", content[begin:])
        for number, offset in enumerate(parts, 1):
            assert content[int(offset) :].startswith(b"%d 0 obj" % number), path.name
        assert b"/FontFile2" in content, "fonts are embedded, as TrueType"
        assert b"/Type3" not in content
        assert b"0.0039215686" not in content, "text is black"
        assert b"0 0 0   " in content
        assert not re.search(rb"Date|/Creator|/Producer|matplotlib", content)


def test_the_confusion_figure_shows_the_counts(run: Run, figures: Path) -> None:
    counts = json.loads((run.events.parent / "scores.json").read_text())["scores"]["cnn"]["nominal"]["confusion"]
    shown = _texts(figures / figure_name("confusion", "cnn", "nominal"))
    for row in counts:
        for count in row:
            assert shown.count(str(count)) >= 2, "once in each of the two normalisations"
        assert f"{row[0] / sum(row):.2f}" in shown


def test_axes_have_units(figures: Path) -> None:
    assert "true neutrino energy (GeV)" in _texts(figures / figure_name("energy", "vlm", "nominal"))
    assert {"true length of the track (cm)", "true energy of the shower (MeV)"} <= set(
        _texts(figures / figure_name("rationales", "vlm"))
    )


def test_levels_of_degradation_are_on_the_axis(run: Run, tmp_path: Path) -> None:
    found = {
        model: {"nominal": of["nominal"], "noise_900": of["half_resolution"], "dead_20": of["blank"]}
        for model, of in run.predictions.items()
    }
    evaluate(run.events, found, tmp_path / "scores.json", resamples=50)
    draw_figures(tmp_path / "scores.json", run.training, tmp_path)
    texts = _texts(tmp_path / figure_name("robustness"))
    assert {"noise of each pixel (keV)", "900", "dead channels (%)", "20", "accuracy", "CNN", "VLM"} <= set(texts)
    assert not (tmp_path / figure_name("roc", "cnn", "noise_900")).exists()


def test_unknown_truth_is_stated(run: Run, tmp_path: Path) -> None:
    events = pd.read_parquet(run.events)
    unknown = ["visible_energy", "edge_energy", "pi0_energy", "nu_energy"]
    events.assign(**dict.fromkeys(unknown, np.nan)).to_parquet(tmp_path / "events.parquet")
    nominal = {model: {"nominal": conditions["nominal"]} for model, conditions in run.predictions.items()}
    evaluate(tmp_path / "events.parquet", nominal, tmp_path / "scores.json", resamples=50)
    draw_figures(tmp_path / "scores.json", run.training, tmp_path)
    texts = _texts(tmp_path / figure_name("dependence", "cnn", "nominal"))
    assert texts.count("unknown for these events") == 4, "visible energy and containment, efficiency and purity"
    assert "DIS" in texts
    assert "no neutral-current event with a known neutral pion" in _texts(tmp_path / figure_name("pi0"))
    assert "no degraded condition" in _texts(tmp_path / figure_name("robustness"))
    for figure in (figure_name("disagreement"), figure_name("sets", "cnn")):
        assert "energy unknown for these events" in _texts(tmp_path / figure)


def test_the_best_cut_is_marked(run: Run, figures: Path) -> None:
    cuts = json.loads((run.events.parent / "scores.json").read_text())["cuts"]["cnn"]
    texts = _texts(figures / figure_name("cuts", "cnn"))
    for of_class in cuts.values():
        best = of_class["best"]["product"]
        assert f"{best['cut']:.2f}: {best['product']:.3g}" in texts


def test_coverage_and_size_of_sets_are_drawn_with_the_promise(figures: Path) -> None:
    texts = _texts(figures / figure_name("sets", "cnn"))
    assert {"coverage", "mean number of classes", "promised"} <= set(texts)
    assert texts.count("true neutrino energy (GeV)") == 2


def test_training_curves_of_epochs_and_of_steps(figures: Path) -> None:
    texts = _texts(figures / "training.svg")
    assert {"epoch", "step", "train loss", "validation loss"} <= set(texts)


def test_the_same_scores_give_the_same_bytes(run: Run, figures: Path, tmp_path: Path) -> None:
    draw_figures(run.events.parent / "scores.json", run.training, tmp_path)
    for path in figures.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


def test_without_truth_or_history_every_figure_is_still_there(tmp_path: Path) -> None:
    run = write_run(tmp_path, n=12, labelled=0)
    rationales = write_explanations(run, tmp_path)
    evaluate(run.events, run.predictions, tmp_path / "scores.json", explanations=rationales)
    write_json(run.training["vlm"], {"seconds": 3.0})
    draw_figures(tmp_path / "scores.json", run.training, tmp_path / "figures")
    assert {path.name for path in (tmp_path / "figures").iterdir()} == _files()
    assert "no test event with known truth" in _texts(tmp_path / "figures" / figure_name("roc", "cnn", "nominal"))
    assert "no history recorded" in _texts(tmp_path / "figures" / "training.svg")


@pytest.mark.parametrize("kind", [*KINDS, *OF_MODEL, *OVERVIEWS, *OF_RATIONALES, COUNTERFACTUALS])
def test_every_kind_of_figure_has_a_caption(kind: str) -> None:
    assert (REPOSITORY / "workflow" / "report" / f"{kind}.rst").read_text().strip()


def test_model_names_in_text() -> None:
    assert title("vlm") == "VLM"
    assert title("cnn_wide") == "CNN wide"
