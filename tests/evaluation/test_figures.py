"""Figures: all of them, well-formed, with what they should show, the same every time."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from explanations_on_disk import write_explanations
from nuvlm.evaluation.figures import draw_figures
from nuvlm.evaluation.metrics import evaluate
from nuvlm.evaluation.names import figure_name, figure_names, title
from nuvlm.storage import write_json
from run_on_disk import CONDITIONS, Run, write_run


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
    names = figure_names(["cnn", "vlm"], CONDITIONS, explaining=["vlm"])
    assert sorted(path.name for path in figures.iterdir()) == sorted(names)


def test_every_figure_fits_into_a_page(figures: Path) -> None:
    ids: set[str] = set()
    for path in figures.iterdir():
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
    names = figure_names(["cnn", "vlm"], CONDITIONS, explaining=["vlm"])
    assert sorted(p.name for p in (tmp_path / "figures").iterdir()) == sorted(names)
    assert "no test event with known truth" in _texts(tmp_path / "figures" / figure_name("roc", "cnn", "nominal"))
    assert "no history recorded" in _texts(tmp_path / "figures" / "training.svg")


def test_model_names_in_text() -> None:
    assert title("vlm") == "VLM"
    assert title("cnn_wide") == "CNN wide"
