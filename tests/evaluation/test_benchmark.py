"""The public benchmark of explanations: its truth, files of predictions, scores and baselines."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from explanations_on_disk import benchmark_definition, rationale_table, topology
from nuvlm.base.classes import CLASSES
from nuvlm.base.errors import InputError
from nuvlm.base.files import write_table
from nuvlm.evaluation.benchmark import events, score
from nuvlm.evaluation.benchmark.baselines import exchanged_rows, make_baseline, texts_of_run, typical_claims
from nuvlm.evaluation.benchmark.definition import Definition, load_definition
from nuvlm.evaluation.benchmark.events import TRUTH, read_truth, true_claims, truth_table
from nuvlm.evaluation.benchmark.predictions import read_predictions, write_predictions
from nuvlm.evaluation.benchmark.score import render
from nuvlm.evaluation.faithfulness import STATEMENTS
from nuvlm.models.vlm.rationales import load_rationales
from paths import REPOSITORY

FILE = REPOSITORY / "resources" / "faithfulness" / "definition.yaml"
WORDS = load_rationales(REPOSITORY / "resources" / "rationales.yaml")
PER_CLASS = 40


def simulated(n: int = 300, seed: int = 5) -> pd.DataFrame:
    """An event table as a simulation makes it."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"event_id": np.arange(n, dtype=np.uint64), "class": rng.choice(CLASSES, n)})
    table = table.astype({"class": "string"})
    return topology(table.sample(frac=1, random_state=1).reset_index(drop=True))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Definition, pd.DataFrame]:
    """A small version and its truth."""
    folder = tmp_path_factory.mktemp("version")
    definition = load_definition(benchmark_definition(folder / "definition.yaml", per_class=PER_CLASS, simulated=300))
    return definition, truth_table(simulated(), definition, WORDS)


def of_test(truth: pd.DataFrame) -> pd.DataFrame:
    return truth[truth["split"] == "test"].reset_index(drop=True)


def predictions(truth: pd.DataFrame, texts: list[str]) -> pd.DataFrame:
    rows = of_test(truth)
    return pd.DataFrame({"event": rows["event"], "text": texts, "class": rows["class"]}, dtype=object)


def true_texts(truth: pd.DataFrame) -> list[str]:
    rng = np.random.default_rng(1)
    return [WORDS.write(true_claims(row, WORDS), rng) for row in of_test(truth).to_dict("records")]


def scored(small: tuple[Definition, pd.DataFrame], texts: list[str], **columns: object) -> dict:
    definition, truth = small
    return score.score(predictions(truth, texts).assign(**columns), truth, WORDS, definition, resamples=200)


def test_the_definition_agrees_with_the_program_and_the_configuration(tmp_path: Path) -> None:
    definition = load_definition(FILE)
    overlay = yaml.safe_load((REPOSITORY / definition.events.configuration).read_text())
    assert definition.events.truth_sha256 is not None
    assert definition.events.simulated == overlay["input"]["simulate"]["events"]
    assert 3 * definition.events.per_class >= 300
    made = overlay["pixelmap"] | {"pixel_mm": overlay["display"]["pixel_mm"]}
    assert {key: value for key, value in definition.maps.items() if key != "views"} == made
    content = yaml.safe_load(FILE.read_text())
    content["thresholds"]["gap_mm"] = 100
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match=r"other\.yaml: mend these keys:\n.*make a new version"):
        load_definition(tmp_path / "other.yaml")


def test_test_events_are_the_first_of_each_class(small: tuple[Definition, pd.DataFrame]) -> None:
    definition, truth = small
    assert truth["event"].tolist() == [f"v2-{i:05d}" for i in range(300)]
    assert of_test(truth)["class"].value_counts().to_dict() == dict.fromkeys(CLASSES, PER_CLASS)
    for _, rows in truth.groupby("class"):
        assert (rows["split"] == "test").tolist() == [i < PER_CLASS for i in range(len(rows))]
    # the last bits of a simulation do not matter, its numbers do
    made = simulated()
    columns = ["track_mm", "shower_mev", "shower_gap_mm"]
    noisy = made.assign(**(made[columns].astype(float) * (1 + 1e-9)))
    pd.testing.assert_frame_equal(truth_table(noisy, definition, WORDS), truth)
    changed = truth_table(made.assign(**(made[columns].astype(float) * 1.02)), definition, WORDS)
    assert not changed[["track_cm"]].equals(truth[["track_cm"]])
    assert (truth["gap_cm"].dropna() >= 5).all()


def test_another_truth_is_refused_by_name(small: tuple[Definition, pd.DataFrame], tmp_path: Path) -> None:
    definition, truth = small
    with pytest.raises(InputError, match=r"truth\.csv: no readable table of truth .*make faithfulness-events"):
        read_truth(tmp_path, definition)
    content = events._to_csv(truth)
    (tmp_path / TRUTH).write_bytes(content)
    with pytest.raises(InputError, match=r"truth_sha256 is null.*Set it to ([0-9a-f]{64})") as error:
        read_truth(tmp_path, load_definition(benchmark_definition(tmp_path / "a.yaml", truth_sha256=None)))
    digest = str(error.value).split("Set it to ")[1][:64]
    ready = load_definition(benchmark_definition(tmp_path / "b.yaml", truth_sha256=digest))
    read = read_truth(tmp_path, ready)
    pd.testing.assert_frame_equal(read, truth[list(read)], check_dtype=False)
    (tmp_path / TRUTH).write_bytes(content.replace(b"numu_cc", b"nc", 1))
    with pytest.raises(InputError, match=r"truth\.csv is not that of version 2 .*simulation, its settings or the file"):
        read_truth(tmp_path, ready)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda lines: [], "is empty. Give a line for each of the 120 test events"),
        (lambda lines: lines[1:], r"1 of 120 test events are missing, the first is v2-0.*Add them"),
        (lambda lines: [*lines, lines[3]], "line 121: event v2-0.* was in line 4. Leave one"),
        (lambda lines: [*lines[:2], "{", *lines[3:]], "line 3: not JSON"),
        (lambda lines: ["[1]", *lines[1:]], "line 1: not a JSON object"),
        (lambda lines: ['{"event": "v2-00000", "event": "v2-00001", "text": ""}'], "line 1: .*twice"),
        (lambda lines: [lines[0].replace('"text"', '"txt"')], 'line 1: "text": Field required'),
        (lambda lines: [lines[0].replace("}", ', "model": "x"}')], 'line 1: "model": Extra inputs'),
        (lambda lines: [*lines[:4], json.dumps({"event": 17, "text": ""})], 'line 5: "event": .* string'),
        (lambda lines: [json.dumps({"event": "v2-00000", "text": None})], 'line 1: "text": .* string'),
        (lambda lines: [json.dumps({"event": "v2-00000", "text": "x" * 10_001})], "line 1: .*10000 characters"),
        (lambda lines: [lines[0].replace("v2-", "v1-")], "line 1: event 'v1-0.*another version.*this is version 2"),
        (lambda lines: [lines[0].replace("v2-0", "v2-9")], "line 1: event 'v2-9.* is unknown"),
        (lambda lines: [json.dumps({"event": "first", "text": ""})], "line 1: event 'first' is unknown"),
        (lambda lines: [json.dumps({"event": "v2-00299", "text": ""})], "line 1: event 'v2-00299' is for practice"),
        (lambda lines: [json.dumps(json.loads(lines[0]) | {"class": "tau"})], "line 1: .*'tau' is none of nue_cc"),
        (lambda lines: [lines[0], json.dumps({k: v for k, v in json.loads(lines[1]).items() if k != "class"})],
         "line 2: .*some events only"),
    ],
)  # fmt: skip
def test_a_bad_file_is_refused_with_its_line(
    small: tuple[Definition, pd.DataFrame], tmp_path: Path, edit, message: str
) -> None:
    definition, truth = small
    path = tmp_path / "mine.jsonl"
    write_predictions(path, predictions(truth, true_texts(truth)))
    path.write_text("\n".join(edit(path.read_text().splitlines())) + "\n")
    with pytest.raises(InputError, match=rf"mine\.jsonl.*{message}"):
        read_predictions(path, truth, definition)


def test_predictions_come_in_any_order(small: tuple[Definition, pd.DataFrame], tmp_path: Path) -> None:
    definition, truth = small
    given = predictions(truth, true_texts(truth))
    path = tmp_path / "mine.jsonl"
    write_predictions(path, given[::-1])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\n")
    pd.testing.assert_frame_equal(read_predictions(path, truth, definition), given, check_dtype=False)
    with pytest.raises(InputError, match=r"none\.jsonl: no readable file"):
        read_predictions(tmp_path / "none.jsonl", truth, definition)
    path.write_bytes(b'{"event": "\xff"}\n')
    with pytest.raises(InputError, match="line 1: not JSON"):
        read_predictions(path, truth, definition)


def test_true_texts_are_right_and_exchanged_ones_are_the_control(small: tuple[Definition, pd.DataFrame]) -> None:
    _, truth = small
    texts = true_texts(truth)
    found = scored(small, texts)
    assert found["class"]["accuracy"] == found["right"]["value"] == found["text"]["understood_share"] == 1
    for name in ("track", "leaves", "shower", "gap"):
        assert found["claims"][name]["precision"]["value"] == found["claims"][name]["recall"]["value"] == 1
    assert set(found["claims"]) == set(STATEMENTS)
    low, high = found["right"]["beyond_same_class_interval"]
    assert 0.1 < low < found["right"]["beyond_same_class"] < high
    assert found["right"]["same_answer"] == found["right"]["same_class"]
    assert found["right"]["any_event"] < found["right"]["same_class"]

    source = exchanged_rows(of_test(truth)["class"].to_numpy(), np.random.default_rng(2))
    other = scored(small, [texts[i] for i in source])
    low, high = other["right"]["beyond_same_class_interval"]
    assert low < 0.05
    assert high > -0.05
    assert other["right"]["value"] == pytest.approx(found["right"]["same_class"], abs=0.06)
    assert "beyond" in render(other)


def test_one_answer_for_all_does_not_help_against_the_class(
    small: tuple[Definition, pd.DataFrame],
) -> None:
    """Texts with the typical claims of the true class, all with one answer: beyond the answer, not beyond the class."""
    definition, truth = small
    prior = make_baseline("prior", truth, definition, WORDS, run=Path("none"))
    found = scored(small, list(prior["text"]), **{"class": "nc"})
    assert found["right"]["beyond_same_answer"] > 0.05
    assert found["right"]["beyond_same_class"] == pytest.approx(0, abs=1e-9)


def test_without_answers_there_is_no_control_of_the_answer(small: tuple[Definition, pd.DataFrame]) -> None:
    _, truth = small
    found = scored(small, true_texts(truth), **{"class": None})
    assert found["class"] is None
    assert "same_answer" not in found["right"]
    assert found["right"]["beyond_same_class"] > 0.1
    assert "No class is given" in render(found)


def test_contradictions_are_made_and_never_right(small: tuple[Definition, pd.DataFrame]) -> None:
    _, truth = small
    both = "There is no track. A track of 80 cm leaves the detector. Charged particles at the vertex: 0. "
    both += "I count 1 charged at the vertex. There is no electromagnetic shower. A shower of 300 MeV is seen."
    found = scored(small, [both] * len(of_test(truth)))
    assert found["right"]["value"] == 0
    assert found["text"]["contradicted"] == len(of_test(truth))
    for name in ("track", "charged", "shower"):
        assert found["claims"][name]["made"]["value"] == 1
        assert found["claims"][name]["right"]["value"] == 0
    assert found["claims"]["charged"]["within_one"]["value"] == 0
    assert found["errors"]["track_cm"]["n"] == 0


def test_what_is_not_understood_is_counted(small: tuple[Definition, pd.DataFrame]) -> None:
    _, truth = small
    texts = ["", "Purple cheese.", "Perhaps there is a track.", "I see no track. It is lovely."]
    found = scored(small, (texts * len(of_test(truth)))[: len(of_test(truth))])["text"]
    quarter = len(of_test(truth)) // 4
    assert found["understood"] == quarter
    assert found["sentences"] == 4 * quarter
    assert found["hedged"] == quarter
    assert found["empty"] == quarter
    assert found["without_claim"] == 3 * quarter
    json.dumps(scored(small, [""] * len(of_test(truth))), allow_nan=False)


def test_typical_claims_are_those_that_are_right_most_often(small: tuple[Definition, pd.DataFrame]) -> None:
    definition, truth = small
    muons = truth[truth["class"] == "numu_cc"]
    typical = typical_claims(muons, WORDS)
    assert typical.track is True
    assert typical.shower is False
    assert typical.shower_mev is typical.gap is None
    near = np.abs(muons["track_cm"] - typical.track_cm) <= 0.25 * muons["track_cm"]
    assert near.mean() > 0.3
    constant = make_baseline("constant", truth, definition, WORDS, run=Path("none"))
    assert constant["text"].nunique() == 1
    exchanged = make_baseline("exchanged", truth, definition, WORDS, run=Path("none"))
    source = exchanged_rows(np.array(["a", "b", "a", "b", "a", "c"]), np.random.default_rng(0))
    assert (source != np.arange(6)).tolist() == [True] * 5 + [False]
    assert exchanged["text"].nunique() > 50


def test_texts_of_a_run_are_those_about_the_same_events(small: tuple[Definition, pd.DataFrame], tmp_path: Path) -> None:
    definition, truth = small
    run = tmp_path / "mine"
    with pytest.raises(InputError, match=r"mine/explanations/vlm: no explanations\. Make them with snakemake"):
        texts_of_run(run, "vlm", truth, definition, WORDS)
    table = simulated()
    write_table(run / "events.parquet", table)
    rows = [(int(i), picture, {}, {}) for i in table["event_id"] for picture in ("nominal", "text_only")]
    explained = rationale_table(rows, predicted="nc")
    explained["rationale"] = [f"Event {event}: {picture}." for event, picture, *_ in rows]
    write_table(run / "explanations" / "vlm" / "0.parquet", explained)
    found = texts_of_run(run, "vlm", truth, definition, WORDS)
    assert found["event"].tolist() == of_test(truth)["event"].tolist()
    assert found["text"].tolist() == [f"Event {int(name[3:])}: nominal." for name in found["event"]]
    assert set(found["class"]) == {"nc"}
    write_table(run / "explanations" / "vlm" / "0.parquet", explained[explained["event_id"] != 0])
    with pytest.raises(InputError, match=r"has no explanation of v2-00000\. Make them"):
        texts_of_run(run, "vlm", truth, definition, WORDS)
    write_table(run / "events.parquet", simulated(seed=6))
    with pytest.raises(InputError, match=r"mine: event v2-0.* is not that of the benchmark"):
        texts_of_run(run, "vlm", truth, definition, WORDS)
