"""The page and its numbers: complete, self-contained, escaped, true to the files they come from."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from explanations_on_disk import write_explanations
from nuvlm.base.errors import InputError
from nuvlm.base.files import read_json, write_json
from nuvlm.models.conditions import CONTROLS
from nuvlm.report import explained as sentences
from nuvlm.report.cost import summarise_cost
from nuvlm.report.page import departures, with_image_settings, write_report
from nuvlm.simulation.counterfactuals import KINDS
from nuvlm.workflow.config import Config
from paths import REPOSITORY
from report_on_disk import PUBLISHED, make_page, make_report
from run_on_disk import FOUR_MODELS, Run, write_run

pytestmark = pytest.mark.slow


class Page(HTMLParser):
    """Collects what a test asks of a page, and fails where tags do not close."""

    VOID = frozenset({"meta", "link", "br", "img", "input", "hr"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.anchors: list[str] = []
        self.links: list[str] = []
        self.text: list[str] = []
        self.unlabelled = 0
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        if values.get("id"):
            self.ids.append(values["id"] or "")
        if values.get("role") == "img" and not values.get("aria-label"):
            self.unlabelled += 1
        for name in ("src", "href", "xlink:href"):
            link = values.get(name)
            if link and tag != "use":
                (self.anchors if link.startswith("#") else self.links).append(link)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return write_run(folder)


@pytest.fixture(scope="module")
def report(run: Run, folder: Path) -> tuple[str, dict]:
    return make_report(run, folder, every_figure=True)


def test_the_page_needs_nothing_but_itself(report: tuple[str, dict]) -> None:
    html, _ = report
    page = Page(html)
    published = yaml.safe_load(PUBLISHED.read_text())["source"]["url"]
    assert {link for link in page.links if not link.startswith("data:")} == {published}
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)


def test_the_page_is_well_formed_and_readable_aloud(report: tuple[str, dict]) -> None:
    page = Page(report[0])
    assert len(page.ids) == len(set(page.ids))
    assert {anchor[1:] for anchor in page.anchors if "=" not in anchor} <= set(page.ids)
    assert page.unlabelled == 0


def test_numbers_on_the_page_are_those_of_the_file(report: tuple[str, dict]) -> None:
    html, numbers = report
    text = " ".join(Page(html).text)
    for by_condition in numbers["scores"].values():
        for condition, score in by_condition.items():
            for name in ("accuracy",) if condition in CONTROLS else ("accuracy", "precision", "recall", "auc"):
                low, high = score[f"{name}_interval"]
                assert low <= score[name] <= high
                assert f"{score[name]:.3f}" in text
                assert f"[{low:.3f}, {high:.3f}]" in text
    assert numbers["headline"] in text
    assert numbers["provenance"]["versions"]["numpy"] in text


def test_the_summary_says_what_the_numbers_say(report: tuple[str, dict]) -> None:
    _, numbers = report
    cnn, vlm = (numbers["scores"][model]["nominal"]["accuracy"] for model in ("cnn", "vlm"))
    test = numbers["comparisons"][0]
    assert cnn > vlm
    assert test["p_value"] < 0.05, "the sample is made so that the CNN is better"
    assert numbers["headline"].startswith("The CNN is the better classifier")
    assert f"{100 * cnn:.1f} %" in numbers["headline"]
    assert f"{100 * vlm:.1f} %" in numbers["headline"]
    assert f"{100 * (cnn - vlm):.1f} points" in numbers["summary"][0]
    assert f"the CNN for {test['only_first']} and the VLM for {test['only_second']}" in numbers["summary"][0]


def test_each_control_has_a_row_and_a_conclusion(report: tuple[str, dict]) -> None:
    html, numbers = report
    rows = {(row["model"], row["control"]): row for row in numbers["controls"]}
    assert list(rows) == [("cnn", "blank"), ("vlm", "blank"), ("vlm", "labels_permuted")]
    text = " ".join(" ".join(Page(html).text).split())
    for (model, control), row in rows.items():
        assert row["conclusion"] in text
        assert row["accuracy"] == numbers["scores"][model][control]["accuracy"]
        assert row["accuracy_reference"] == numbers["scores"][model]["nominal"]["accuracy"]


def test_temperatures_are_on_the_page(report: tuple[str, dict]) -> None:
    html, numbers = report
    section = " ".join(Page(html.split("<h3>Temperature</h3>")[1].split("</section>")[0].join(["<a>", "</a>"])).text)
    for of_model in numbers["calibration"].values():
        for result in of_model["temperatures"].values():
            assert f"{result['ece']:.3f}" in section
            assert f"{result['nll']:.3f}" in section


def test_prediction_sets_are_on_the_page(report: tuple[str, dict]) -> None:
    """The events are too few for 90 %, which the page says; all sets are of three classes."""
    html, numbers = report
    sets = numbers["sets"]
    section = html.split('<h3 id="sets">')[1].split("</section>")[0]
    text = " ".join(re.sub(r"<[^>]+>", " ", section).split())
    assert "so that 90 % of the true events of each class" in text
    assert min(sets["calibrated_on"].values()) < sets["needed"] == 9
    assert sets["conclusions"][0].startswith("To promise 90 %, 9 validation events of a class are needed. There are ")
    for sentence in sets["conclusions"]:
        assert sentence in text
    for model in ("cnn", "vlm"):
        for condition in ("nominal", "half_resolution"):
            found = sets["models"][model]["conditions"][condition]
            low, high = found["coverage_interval"]
            assert f"{100 * found['coverage']:.1f} % [{100 * low:.1f}, {100 * high:.1f}]" in text
    cuts = " ".join(re.sub(r"<[^>]+>", " ", html.split("<h3>Abstention</h3>")[1].split("</section>")[0]).split())
    kept = sets["models"]["cnn"]["answers"]["single"]["kept"]
    assert f"CNN {kept:.3f}" in cuts
    assert any(f"{100 * kept:.1f} % with the CNN" in line for line in numbers["summary"])


def test_swapped_models_swap_the_verdict(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    swapped = {"cnn": run.predictions["vlm"], "vlm": run.predictions["cnn"]}
    _, numbers = make_report(Run(run.events, swapped, run.displays, run.training), tmp_path, count=1)
    test = numbers["comparisons"][0]
    assert numbers["headline"].startswith("The VLM is the better classifier")
    assert f"the VLM for {test['only_second']} and the CNN for {test['only_first']}" in numbers["summary"][0]


def test_several_trainings_have_a_spread_an_ensemble_and_a_part_in_the_verdict(tmp_path: Path) -> None:
    models = {"cnn": 1.6, "cnn.2": 1.5, "cnn.3": 1.7, "vlm": 0.9, "vlm.2": 0.8, "bdt": 0.9}
    html, numbers = make_report(write_run(tmp_path, models=models), tmp_path)
    trained = numbers["trainings"]
    assert {model: of_model["n"] for model, of_model in trained.items()} == {"cnn": 3, "vlm": 2, "bdt": 1}
    assert trained["bdt"]["conditions"] == {}
    spread = numbers["sets"]["models"]["cnn"]["trainings"]["nominal"]["mean_size"]
    assert len(spread["values"]) == 3
    assert "all, mean of 3 trainings" in html
    nominal = trained["cnn"]["conditions"]["nominal"]
    accuracy = nominal["scores"]["accuracy"]
    assert accuracy["values"][0] == numbers["scores"]["cnn"]["nominal"]["accuracy"]
    assert accuracy["mean"] == pytest.approx(np.mean(accuracy["values"]))
    assert nominal["ensemble"]["accuracy"] > accuracy["mean"], "independent mistakes average out"
    summary, text = " ".join(numbers["summary"]), " ".join(" ".join(Page(html).text).split())
    assert (
        f"mean of 3 trainings with a standard deviation of {100 * accuracy['deviation']:.1f} points"
        in numbers["headline"]
    )
    assert "BDT was trained once: " in summary
    assert "mean of 3 trainings" in text
    assert "ensemble of 2" in text
    found = {(test["first"], test["second"]): test for test in numbers["comparisons"] if test["condition"] == "nominal"}
    assert found["cnn", "vlm"]["trainings"] == [3, 2]
    assert found["cnn", "vlm"]["training_interval"] is not None
    assert found["cnn", "bdt"]["training_interval"] is None
    low, high = found["cnn", "vlm"]["training_interval"]
    assert f"from the spread between trainings {100 * low:.1f} to {100 * high:.1f}" in summary.replace(
        "\N{MINUS SIGN}", "-"
    )
    tables = (tmp_path / "report" / "tables.tex").read_text()
    assert f"{accuracy['mean']:.3f} $\\pm$ {accuracy['deviation']:.3f}" in tables


def test_one_training_of_each_is_said_to_leave_the_training_out(report: tuple[str, dict]) -> None:
    html, numbers = report
    assert any(line.startswith("Every model was trained once: intervals") for line in numbers["summary"])
    assert "which leave the training out where a model was trained once" in " ".join(" ".join(Page(html).text).split())


def test_three_models_are_all_compared(tmp_path: Path) -> None:
    run = write_run(tmp_path, models={"cnn": 1.6, "vlm": 0.5, "bdt": 2.4})
    html, numbers = make_report(run, tmp_path)
    tests = [test for test in numbers["comparisons"] if test["condition"] == "nominal"]
    assert {(test["first"], test["second"]) for test in tests} == {("cnn", "vlm"), ("cnn", "bdt"), ("vlm", "bdt")}
    scores = {model: of_model["nominal"]["accuracy"] for model, of_model in numbers["scores"].items()}
    assert scores["bdt"] > scores["cnn"] > scores["vlm"]
    assert numbers["headline"].startswith("The BDT is the best classifier")
    assert "BDT" in numbers["summary"][0]
    assert "CNN" in numbers["summary"][0]
    behind = numbers["summary"][1]
    assert behind.startswith(f"The VLM is right for {100 * scores['vlm']:.1f} %")
    assert f"{100 * (scores['bdt'] - scores['vlm']):.1f} points behind the BDT" in behind
    text = " ".join(" ".join(Page(html).text).split())
    assert "CNN, VLM and BDT compared" in text
    assert any(sentence.startswith("The BDT, boosted decision trees") for sentence in numbers["summary"])
    assert all(set(event["models"]) == {"cnn", "vlm", "bdt"} for event in numbers["gallery"])
    assert {(row["model"], row["control"]) for row in numbers["controls"]} >= {("bdt", "blank")}


def test_the_four_models_of_a_run_read_well(tmp_path: Path) -> None:
    run = write_run(tmp_path, models=FOUR_MODELS)
    html, numbers = make_report(run, tmp_path, rationales=write_explanations(run, tmp_path))
    summary, text = numbers["summary"], " ".join(" ".join(Page(html).text).split())
    assert "CNN published, CNN tuned, BDT and VLM compared" in text
    assert numbers["headline"].startswith("The CNN tuned is the best classifier")
    behind = [line.split(" is right")[0] for line in summary if "points behind the CNN tuned" in line]
    assert behind == ["The BDT", "The CNN published"]
    assert "The CNNs differ in network (CNN published: published, CNN tuned: mobilenet) and" in " ".join(summary)
    (changed,) = [line for line in summary if line.startswith("From nominal to half resolution, in points")]
    assert [changed.count(f"the {name} ") for name in ("CNN published", "CNN tuned", "BDT", "VLM")] == [1] * 4
    assert len(numbers["comparisons"]) == 6 * 3, "every two, under each condition that both have"
    table = html.split("<h3>Table 1")[1].split("</table>")[0]
    rows = re.findall(r'<tr class="published"><th scope="row"><span.*?>(.*?)</span></th><td>published, (v\d)', table)
    each = [("CNN published", "v2"), ("CNN published", "v4"), ("VLM", "v2"), ("VLM", "v4"), ("ViT", "v4")]
    assert rows == each, "the other CNN is not the published one, and there is no ViT here"
    assert "v4: version 4" in text
    assert "in version 2 cannot all hold" in text
    for cnn in ("cnn_published", "cnn_tuned"):
        assert numbers["saliency"][cnn]["n"] > 0
    for cnn in ("CNN published", "CNN tuned"):
        assert f"{cnn}: saliency" in text
    assert {tuple(event["saliency"]) for event in numbers["gallery"]} == {("cnn_published", "cnn_tuned")}


def test_equal_models_do_not_differ(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    same = {"cnn": run.predictions["cnn"], "vlm": run.predictions["cnn"]}
    _, numbers = make_report(Run(run.events, same, run.displays, run.training), tmp_path, count=0)
    assert "do not differ significantly" in numbers["headline"]
    assert "p = 1)" in numbers["summary"][0]


def test_cost_is_what_the_parts_measured(folder: Path, report: tuple[str, dict]) -> None:
    cost = report[1]["cost"]["vlm"]
    assert cost["ms_per_sample"] == pytest.approx(4)
    assert cost["peak_memory_mb"] == 301, "the largest of two parts"
    assert cost["training"]["parameters"] == 170_000
    assert cost["training"]["events"] is None, "not in training.json"


def test_cost_weighs_parts_by_their_events(tmp_path: Path) -> None:
    parts = [tmp_path / "0.parquet", tmp_path / "1.parquet"]
    for path, events, seconds in zip(parts, (90, 10), (0.9, 1.1), strict=True):
        cost = {"device": "cpu", "batch_size": 1, "events": events, "load_seconds": 1, "seconds": seconds}
        write_json(path.with_suffix(".json"), cost | {"peak_memory_mb": 5})
    write_json(tmp_path / "training.json", {})
    assert summarise_cost(parts, tmp_path / "training.json")["ms_per_sample"] == pytest.approx(20)


def test_provenance_counts_every_event(folder: Path, report: tuple[str, dict]) -> None:
    events = pd.read_parquet(folder / "events.parquet")
    counted = report[1]["provenance"]["events"]
    assert sum(sum(split.values()) for split in counted.values()) == len(events)
    assert counted["test"]["nc"] == int(((events["split"] == "test") & (events["class"] == "nc")).fillna(False).sum())
    assert report[1]["provenance"]["seeds"]["dataset.seed"] == 7


def test_departures_follow_the_config() -> None:
    setup = yaml.safe_load(PUBLISHED.read_text())["setup"]
    config = Config().model_dump(mode="json")
    config["vlm"]["base"], config["pixelmap"]["size"] = "scratch", 128
    found = {item["what"]: item for item in departures(setup, config)}
    assert found["Vision-language model"]["run"] == "small Mllama trained from scratch"
    assert found["Window (pixels)"] == {"what": "Window (pixels)", "run": 128, "published": 512}
    assert "Pixel (mm)" not in found
    assert "Views" not in found
    maps = {"views": ["u", "v", "z"], "size": 500, "pixel_mm": None, "source": "cvn"}
    found = {item["what"]: item for item in departures(setup, with_image_settings(config, maps))}
    assert found["Views"]["run"] == "U, V, Z"
    assert found["Pixel (mm)"]["run"] == "not known"
    assert found["Window (pixels)"]["run"] == 500
    assert with_image_settings(config, {"views": ["xz", "yz"], "size": 112, "pixel_mm": 50}) == config
    unchanged = departures(setup, Config().model_dump(mode="json"))
    assert not {"Vision-language model", "Window (pixels)"} & {item["what"] for item in unchanged}


def test_every_published_setting_is_a_key_of_the_config() -> None:
    config = Config().model_dump(mode="json")
    for item in yaml.safe_load(PUBLISHED.read_text())["setup"]:
        value = config
        for part in item["key"].split("."):
            value = value[part]


def test_names_from_files_are_escaped(tmp_path: Path) -> None:
    run = write_run(tmp_path, n=40)
    evil = "<script>alert(1)</script>"
    for path in (run.events, *run.tables()):
        pd.read_parquet(path).replace({"shard": {"first": evil, "second": evil + "2"}}).to_parquet(path, index=False)
    displays = {evil: run.displays["first"], evil + "2": run.displays["second"]}
    html, numbers = make_report(Run(run.events, run.predictions, displays, run.training), tmp_path)
    assert numbers["gallery"][0]["shard"].startswith(evil)
    assert evil not in html
    assert "&lt;script&gt;alert(1)" in html


def test_own_files_without_truth_get_a_report(tmp_path: Path) -> None:
    html, numbers = make_report(write_run(tmp_path, n=16, labelled=0), tmp_path, count=4)
    page = Page(html)
    assert "No test event has known truth" in numbers["headline"]
    assert "The CNN classifies 16 events as" in numbers["summary"][0]
    assert {anchor[1:] for anchor in page.anchors if "=" not in anchor} <= set(page.ids)
    assert len(numbers["gallery"]) == 4
    assert numbers["gallery"][0]["truth"] is None


@pytest.fixture(scope="module")
def explained(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict]:
    folder = tmp_path_factory.mktemp("explained")
    run = write_run(folder)
    evil = "A track of <img src=x onerror=alert(1)> & <script>alert(2)</script>"
    return make_report(run, folder, rationales=write_explanations(run, folder, rationale=evil))


def test_what_rationales_are_worth_is_on_the_page(explained: tuple[str, dict]) -> None:
    html, numbers = explained
    result = numbers["explanations"]["vlm"]
    page = Page(html)
    assert page.unlabelled == 0
    assert {anchor[1:] for anchor in page.anchors if "=" not in anchor} <= set(page.ids)
    section = html.split('<section id="explanations">')[1].split("</section>")[0]
    text = " ".join(" ".join(Page(f"<a>{section}</a>").text).split())
    for claim in result["claims"].values():
        for share in claim.values():
            for shown in (share["nominal"], share["text_only"]):
                if shown["n"] and share is not claim["made"]:
                    assert f"{100 * shown['value']:.1f} %" in text
    assert f"{100 * result['agreement']['chance']:.1f} %" in text
    assert f"{100 * result['errors']['track_cm']['nominal']['spread']:.0f} %" in text
    assert f"a difference of {numbers['saliency']['cnn']['difference']:.3f}" in text


def test_the_summary_says_whether_rationales_follow_the_picture(explained: tuple[str, dict], tmp_path: Path) -> None:
    (sentence,) = [line for line in explained[1]["summary"] if "rationales" in line]
    right = explained[1]["explanations"]["vlm"]["right"]
    assert sentence.startswith("The rationales of the VLM follow the picture: ")
    assert f"{100 * right['nominal']['value']:.1f} % of their statements are right" in sentence
    assert f"(difference to the last: {100 * right['beyond_label']:.1f} points" in sentence
    run = write_run(tmp_path)
    rationales = write_explanations(run, tmp_path)
    for path in rationales["vlm"]:
        table = pd.read_parquet(path)
        nominal = table[table["picture"] == "nominal"]
        same = pd.concat([nominal, nominal.assign(picture="text_only")])
        same.to_parquet(path, index=False)
    _, numbers = make_report(run, tmp_path, count=0, rationales=rationales)
    (sentence,) = [line for line in numbers["summary"] if "rationales" in line]
    assert "do not measurably follow the picture" in sentence
    assert numbers["explanations"]["vlm"]["right"]["difference"] == 0


def events_data(html: str) -> dict:
    """What the page draws events from."""
    return json.loads(html.split('<script id="events-data" type="application/json">')[1].split("</script>")[0])


def test_claims_are_marked_and_words_are_harmless(explained: tuple[str, dict]) -> None:
    html, numbers = explained
    assert "<img src=x" not in html
    assert "<script>alert(2)" not in html
    data = events_data(html)
    assert len(data["events"]) == len(numbers["gallery"])
    for event, shown in zip(numbers["gallery"], data["events"], strict=True):
        result, drawn = event["explanations"]["vlm"], shown["explanations"][0]["rationales"]
        assert [one["text"] for one in drawn] == [one["rationale"] for one in result]
        for claims, words in ((one["claims"], two["claims"]) for one, two in zip(result, drawn, strict=True)):
            assert [claim["right"] for claim in claims] == [right for _, right, _ in words]
            assert [true is not None for _, _, true in words] == [claim["right"] is False for claim in claims]
    first = [event["explanations"][0]["rationales"][0] for event in data["events"]]
    assert {right for rationale in first for _, right, _ in rationale["claims"]} == {True, False}
    assert all(event["saliency"] == ["cnn"] for event in numbers["gallery"])


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict]:
    """A run of which the events without a class are others, changed."""
    folder = tmp_path_factory.mktemp("changed")
    run = write_run(folder, labelled=0.5)
    rationales = write_explanations(run, folder)
    events = pd.read_parquet(run.events)
    without, test = events["class"].isna(), (events["split"] == "test").fillna(False)
    events["original"], events["counterfactual"] = events["event_id"], "as_simulated"
    for shard, rows in events[without].groupby("shard"):
        originals = events[test & (events["shard"] == shard)]["event_id"].to_numpy()
        # All kinds of some events: each has its control.
        events.loc[rows.index, "original"] = np.resize(np.repeat(originals, len(KINDS)), len(rows))
        events.loc[rows.index, "counterfactual"] = np.resize(list(KINDS), len(rows))
    events.to_parquet(run.events, index=False)
    return make_report(run, folder, rationales=rationales)


def test_what_follows_a_changed_event_is_on_the_page(
    changed: tuple[str, dict], explained: tuple[str, dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    html, numbers = changed
    found = numbers["counterfactuals"]
    assert sum(found["pairs"].values()) > 50
    assert numbers["events"].get("none") is None, "changed events are not counted among those without truth"
    page = Page(html)
    assert page.unlabelled == 0
    section = html.split('<section id="counterfactuals">')[1].split("</section>")[0]
    text = " ".join(" ".join(Page(f"<a>{section}</a>").text).split())
    assert found["conclusions"]
    assert all(sentence in text for sentence in found["conclusions"])
    for rows in found["answers"].values():
        for row in rows:
            if row["follows"]["n"]:
                assert f"{100 * row['follows']['value']:.1f} %" in text
                assert sum(row["answers_after"].values()) == row["follows"]["n"]
                assert f"NC {row['answers_after']['nc']}" in text or not row["answers_after"]["nc"]
            if row["control"]["n"]:
                assert f"{100 * row['control']['value']:.1f} %" in text
    assert any(row["control"]["n"] for row in rows)
    monkeypatch.setattr(sentences, "FEW", 1)
    with_control = [text for text in sentences.conclude_counterfactuals(found) if "another seed" in text]
    control = r"With another seed instead \d+\.\d %( to \d+\.\d %)? do; the change does measurably more for [^.]+\.$"
    assert all(re.search(control, text) for text in with_control)
    assert any("electron's shower after a gap" in text for text in with_control)
    assert explained[1]["counterfactuals"] is None
    assert 'id="counterfactuals"' not in explained[0]


def test_four_sentences_tell_what_rationales_are_worth(explained: tuple[str, dict]) -> None:
    html, numbers = explained
    measured = numbers["explanations"]["vlm"]
    said, true, picture, by_claim = measured["sentences"]
    assert (
        f"claims a track in {100 * measured['claims']['track']['precision']['nominal']['n'] / measured['n']:.1f} %"
        in said
    )
    assert true.startswith(f"{100 * measured['right']['nominal']['value']:.1f} %")
    assert f"{100 * measured['right']['beyond_label']:.1f} points" in picture
    assert "number of charged particles" in by_claim
    text = " ".join(Page(html).text)
    assert all(" ".join(sentence.split()) in " ".join(text.split()) for sentence in measured["sentences"])


def test_without_explanations_the_page_is_silent_about_them(report: tuple[str, dict]) -> None:
    html, numbers = report
    assert numbers["explanations"] == {}
    assert "#explanations" not in html
    assert not any(event["explanations"] or event["saliency"] for event in events_data(html)["events"])


def test_rationales_that_cannot_be_read_are_said_to_be_so(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    rationales = write_explanations(run, tmp_path)
    for path in rationales["vlm"]:
        table = pd.read_parquet(path)
        table[[name for name in table if name.startswith("claim_")]] = pd.NA
        table.astype(pd.read_parquet(path).dtypes).to_parquet(path, index=False)
    html, numbers = make_report(run, tmp_path, rationales=rationales)
    assert "The rationales of the VLM contain no statement that can be read." in numbers["summary"]
    assert numbers["explanations"]["vlm"]["readable"]["nominal"]["value"] == 0
    assert not any(event["explanations"][0]["rationales"][0]["claims"] for event in events_data(html)["events"])
    assert "The truth is unknown" not in html


def test_rationales_of_own_files_without_truth_are_shown_unjudged(tmp_path: Path) -> None:
    run = write_run(tmp_path, n=16, labelled=0)
    html, numbers = make_report(run, tmp_path, rationales=write_explanations(run, tmp_path))
    assert "The truth is unknown, so rationales cannot be judged" in html
    assert not any("rationales" in line for line in numbers["summary"])
    claims = [claim for event in numbers["gallery"] for claim in event["explanations"]["vlm"][1]["claims"]]
    assert claims
    assert {claim["right"] for claim in claims} == {None}


def test_a_missing_figure_is_named(run: Run, folder: Path, report: tuple[str, dict], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.svg: no readable figure"):
        write_report(
            scores=folder / "scores.json",
            figures=tmp_path,
            browser=folder / "events.json",
            predictions=run.predictions,
            training=run.training,
            published=PUBLISHED,
            config=Config().model_dump(mode="json"),
            repository=REPOSITORY,
            page=tmp_path / "page.html",
            data=tmp_path / "page.json",
            tables=tmp_path / "page.tex",
        )
    assert list(tmp_path.iterdir()) == []


def test_pixel_maps_made_elsewhere_are_not_given_lengths(
    run: Run, folder: Path, report: tuple[str, dict], tmp_path: Path
) -> None:
    """Their axes count pixels, and the page says nothing of walls, vertices, cm and MeV."""
    collected = read_json(folder / "events.json")
    for entry in collected["events"]:
        entry |= {"drawn": "pixel map", "views": ["u"], "visible_energy_gev": None, "vertex_cm": [None] * 3}
        entry |= {"pixels": entry["pixels"][:1]}
    view = {"name": "u", "title": "U view", "x": "wire", "y": "time tick", "axes": None, "up": True}
    collected["frame"] = {"drawn": "pixel map", "pixel": 1, "views": [view | {"origin": [0, 0], "shape": [40, 140]}]}
    collected["scale"] = {"values": list(range(1, 256)), "step": 1}
    write_json(tmp_path / "events.json", collected)
    html, _ = make_page(run, folder, tmp_path / "events.json")
    Page(html)
    section = html.split('<section id="events">')[1].split('<section id="cost">')[0]
    assert "axes count pixels" in section
    data = events_data(html)
    result = re.sub(r"<[^>]+>", " ", section) + json.dumps(
        [data["scale"]["label"], data["scale"]["note"], data["frame"]]
    )
    assert not re.findall(
        r"\bcm\b|MeV|visible|vertex|wall", result + json.dumps([one["facts"] for one in data["events"]])
    )
    assert ["Eν", f"{collected['events'][0]['nu_energy_gev']:.2f} GeV"] in data["events"][0]["facts"]


def test_figures_are_described_in_numbers(report: tuple[str, dict]) -> None:
    html, numbers = report
    score = numbers["scores"]["cnn"]["nominal"]
    recall = score["by_class"]["nc"]["recall"]
    (label,) = re.findall(r'aria-label="CNN, nominal: confusion matrices[^"]*"', html)
    assert f"NC {recall:.2f}" in label
    assert f"{100 * score['accuracy']:.1f} %" in label
