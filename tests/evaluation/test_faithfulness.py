"""What rationales are worth: every number on cases done by hand, and on claims whose worth is known."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from explanations_on_disk import claims, rationale_table, topology, write_explanations, write_saliency
from nuvlm.base.classes import CLASSES
from nuvlm.base.errors import InputError
from nuvlm.evaluation.faithfulness import (
    classify,
    count,
    fit_tree,
    judge,
    measure,
    measure_faithfulness,
    measure_saliency,
    read_claims,
    read_explanations,
    topology_claims,
)
from run_on_disk import write_run

TRACK = {"track": True, "track_cm": 100, "leaves": False}
SHOWER = {"shower": True, "shower_mev": 400, "gap": True, "gap_cm": 20}
NEITHER = {"track": False, "shower": False}
TRUTH = [
    {**TRACK, **SHOWER, "charged": 2},
    {**TRACK, "shower": False, "charged": 1},
    {"track": False, **SHOWER, "gap": False, "gap_cm": None, "charged": 0},
    {**TRACK, "leaves": True, **SHOWER, "charged": 4},
]
CLAIMED = [
    {**TRACK, **SHOWER, "track_cm": 124, "shower_mev": 200, "charged": 2},  # near, far, right
    {**TRACK, **SHOWER, "leaves": True, "charged": 3},  # a shower that is not there, and what is said of it
    {**TRACK, "shower": True, "gap": False},  # a track that is not there
    {},  # nothing that can be read
]


def _shares(claimed: list[dict], truth: list[dict]) -> dict[str, tuple[float, float]]:
    said, true = read_claims(claims("claim", claimed), "claim"), read_claims(claims("true", truth), "true")
    shares = count(said, true, np.zeros(len(truth), int), None)
    return {name: (float(above.sum()), float(below.sum())) for name, (above, below) in shares.items()}


def test_shares_by_hand() -> None:
    shares = _shares(CLAIMED, TRUTH)
    assert shares["track.made"] == (3, 4)
    assert shares["track.right"] == (2, 3)
    assert shares["track.precision"] == (2, 3)
    assert shares["track.recall"] == (2, 3)
    assert shares["leaves.right"] == (1, 3), "right, wrong, and of a track that is not there"
    assert shares["leaves.precision"] == (0, 1)
    assert shares["leaves.recall"] == (0, 1)
    assert shares["shower.right"] == shares["shower.precision"] == (2, 3)
    assert shares["shower.recall"] == (2, 3)
    assert shares["gap.right"] == (2, 3), "after one, of a shower that is not there, at the vertex"
    assert shares["gap.precision"] == (1, 2)
    assert shares["gap.recall"] == (1, 2)
    assert shares["track_cm.right"] == (2, 3), "24 % off, exact, and of no track"
    assert shares["shower_mev.right"] == (0, 2)
    assert shares["gap_cm.right"] == (1, 2)
    assert shares["charged.right"] == (1, 2)
    assert shares["charged.within_one"] == (1, 2)
    assert shares["readable"] == (3, 4)
    assert shares["right"] == (2 + 1 + 2 + 2 + 2 + 0 + 1 + 1, 3 * 5 + 2 * 3)


def test_what_truth_does_not_know_is_not_judged() -> None:
    shares = _shares([CLAIMED[0]] * 2, [{}, {"charged": 1}])
    assert shares["track.made"] == (2, 2)
    assert shares["track.right"] == shares["leaves.right"] == shares["gap_cm.right"] == (0, 0)
    assert shares["charged.within_one"] == (1, 1)
    assert shares["right"] == shares["charged.right"] == (0, 1)


@pytest.mark.parametrize(("claimed", "right"), [(125, True), (126, False), (75, True), (74, False)])
def test_a_length_is_right_within_a_quarter(claimed: float, right: bool) -> None:
    shares = _shares([{**TRACK, "track_cm": claimed}], [TRACK])
    assert shares["track_cm.right"] == (right, 1)


def test_each_claim_of_an_event_is_judged() -> None:
    table = claims("claim", CLAIMED).join(claims("true", TRUTH))
    verdicts = {verdict["statement"]: verdict for verdict in judge(table)[1]}
    assert list(verdicts) == ["track", "track_cm", "leaves", "shower", "shower_mev", "gap", "gap_cm", "charged"]
    assert [name for name, verdict in verdicts.items() if verdict["right"]] == ["track", "track_cm"]
    assert verdicts["charged"] == {"statement": "charged", "claimed": 3, "true": 1, "right": False}
    assert verdicts["gap_cm"]["true"] is None
    assert judge(table)[3] == []
    blind = claims("claim", CLAIMED).join(claims("true", [{}] * 4))
    assert {verdict["right"] for verdict in judge(blind)[0]} == {None}


def test_errors_by_hand() -> None:
    truth = {**TRACK, **SHOWER}
    rows = []
    for event, length in enumerate([100, 150, 60, 110]):
        said, blind = truth | {"track_cm": length}, {"track": True, "track_cm": 50}
        rows += [(event, "nominal", said, truth), (event, "text_only", blind, truth)]
    found = measure(rationale_table(rows), None, seed=1, resamples=200)
    assert found["n"] == 4
    assert found["errors"]["track_cm"]["nominal"]["median"] == pytest.approx(0.05)
    assert found["errors"]["track_cm"]["nominal"]["spread"] == pytest.approx(np.quantile([0, 0.5, 0.4, 0.1], 0.68))
    assert found["errors"]["track_cm"]["text_only"] == {"n": 4, "median": -0.5, "spread": 0.5}
    assert found["errors"]["track_cm"]["points"] == [[100, 100], [100, 150], [100, 60], [100, 110]]


def _answers(n: int, skill: float, seed: int = 0) -> pd.DataFrame:
    """Rationales that are true with probability `skill`, and otherwise, and without the picture, those of any event."""
    rng = np.random.default_rng(seed)
    truth = [TRUTH[i] for i in rng.integers(len(TRUTH), size=n)]
    rows = []
    for event, true in enumerate(truth):
        for picture, share in (("nominal", skill), ("text_only", 0.0)):
            said = true if rng.random() < share else truth[rng.integers(n)]
            rows.append((event, picture, said, true))
    return rationale_table(rows)


def test_true_rationales_beat_chance_and_random_ones_are_chance() -> None:
    sighted, guessing = (measure(_answers(300, skill), None, 5, 500)["right"] for skill in (0.8, 0.0))
    assert sighted["nominal"]["value"] > 0.85
    assert sighted["difference_interval"][0] > 0.2
    assert sighted["chance"] == pytest.approx(guessing["chance"], abs=0.05)
    assert guessing["nominal"]["value"] == pytest.approx(guessing["chance"], abs=0.05)
    low, high = guessing["difference_interval"]
    assert low < 0 < high
    assert guessing["nominal"]["interval"][0] < guessing["nominal"]["value"] < guessing["nominal"]["interval"][1]


def test_what_the_answer_alone_tells_is_not_counted_as_seen() -> None:
    # Rationales that know the class and nothing else of their event; in the other half of the test they know the event.
    rng = np.random.default_rng(3)
    answers, seen = rng.choice(list(CLASSES), 300), rng.random(300) < 0.5
    rows = [
        (i, "nominal", {"shower": answer == "nue_cc", "track": said}, {"shower": answer == "nue_cc", "track": said})
        for i, (answer, said) in enumerate(zip(answers, seen.tolist(), strict=True))
    ]
    table = rationale_table(rows)
    table["predicted"] = answers
    found = measure(table, None, 1, 200)["claims"]
    assert found["shower"]["right"]["same_label"] == found["shower"]["right"]["nominal"]["value"] == 1
    assert found["shower"]["right"]["beyond_label"] == 0
    assert found["shower"]["right"]["chance"] < 0.65
    assert found["track"]["right"]["same_label"] == pytest.approx(0.5, abs=0.05)
    low, high = found["track"]["right"]["beyond_label_interval"]
    assert 0.4 < low < found["track"]["right"]["beyond_label"] < high < 0.6


def test_chance_is_the_product_of_how_often_each_is_said_and_true() -> None:
    rows = [(i, "nominal", {"shower": i < 30}, {"shower": i % 2 == 0}) for i in range(100)]
    found = measure(rationale_table(rows), None, 1, 50)["claims"]["shower"]
    assert found["precision"]["chance"] == pytest.approx(0.5, abs=0.01)
    assert found["recall"]["chance"] == pytest.approx(0.3, abs=0.01)
    assert found["right"]["chance"] == pytest.approx(0.3 * 0.5 + 0.7 * 0.5, abs=0.01)
    assert found["right"]["text_only"] is found["right"]["difference"] is None


@pytest.fixture(scope="module")
def run_events(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return topology(pd.read_parquet(write_run(tmp_path_factory.mktemp("run"), n=600, labelled=1).events))


def test_the_tree_knows_muons_and_electrons_by_their_claims(run_events: pd.DataFrame) -> None:
    truth = topology_claims(run_events)
    codes = run_events["class"].map({"nue_cc": 0, "numu_cc": 1, "nc": 2}).to_numpy()
    train = np.arange(len(codes)) < 400
    tree = fit_tree({name: values[train] for name, values in truth.items()}, codes[train])
    assert (classify(tree, truth) == codes)[~train].mean() > 0.8
    said = claims("claim", [{**TRACK, "track_cm": 350, "shower": False, "charged": 1}, {}])
    muon, silent = classify(tree, read_claims(said, "claim"))
    assert muon == 1
    assert 0 <= silent <= 2
    nothing = {name: np.full(3, np.nan) for name in truth}
    assert fit_tree(nothing, np.zeros(3, int)) is None
    assert classify(None, truth).tolist() == [-1] * len(codes)


def test_agreement_counts_unreadable_rationales_as_none(run_events: pd.DataFrame) -> None:
    codes = run_events["class"].map({"nue_cc": 0, "numu_cc": 1, "nc": 2}).to_numpy()
    tree = fit_tree(topology_claims(run_events), codes)
    muon = {**TRACK, "track_cm": 350, "shower": False, "charged": 1}
    rows = [(0, "nominal", muon, muon), (1, "nominal", {}, muon), (2, "nominal", muon, muon), (3, "nominal", muon, {})]
    table = rationale_table(rows, predicted="numu_cc").assign(**{"class": "numu_cc"})
    table.loc[2, "predicted"] = "nue_cc"
    found = measure(table, tree, 1, 50)
    assert found["agreement"]["nominal"]["value"] == 0.5
    assert found["readable"]["nominal"]["value"] == 0.75
    assert (found["tree"]["agreement"]["value"], found["tree"]["agreement"]["n"]) == (2 / 3, 3)
    assert found["tree"]["accuracy"]["value"] == 1


def test_only_test_events_drawn_at_random_count(tmp_path: Path) -> None:
    run = write_run(tmp_path, n=200)
    tables = write_explanations(run, tmp_path)
    events = pd.read_parquet(run.events)
    expected = int((events["split"] == "test").fillna(False).sum())
    measured = measure_faithfulness(events, tables, 1, 200)["vlm"]
    assert measured["n"] == expected
    assert measured["right"]["difference_interval"][0] > 0
    assert measured["tree"]["fitted_on"] == int((events["split"] == "train").fillna(False).sum())
    table = pd.read_parquet(tables["vlm"][0])
    table.assign(chosen=np.where(table["event_id"] % 2 == 0, "sample", "mistake")).to_parquet(tables["vlm"][0])
    odd = set(table["event_id"][table["event_id"] % 2 == 1])
    tested = set(events["event_id"][(events["split"] == "test").fillna(False)])
    assert measure_faithfulness(events, tables, 1, 50)["vlm"]["n"] == expected - len(odd & tested)


def test_without_truth_or_training_events_nothing_is_made_up(tmp_path: Path) -> None:
    run = write_run(tmp_path, n=30, labelled=0)
    found = measure_faithfulness(pd.read_parquet(run.events), write_explanations(run, tmp_path), 1, 50)["vlm"]
    assert found["n"] == 0
    assert found["right"]["nominal"] == {"value": None, "interval": None, "n": 0}
    assert found["tree"]["fitted_on"] is None


def test_what_the_cnn_loses_is_that_of_test_events_drawn_at_random(tmp_path: Path) -> None:
    run = write_run(tmp_path, n=100)
    stores, _ = write_saliency(run, tmp_path)
    events = pd.read_parquet(run.events)
    found = measure_saliency(events, stores, 1, 500)
    # Every other event was drawn; the map's fall goes from 0.2 to 0.6, the random one's from 0 to 0.2.
    counted = np.flatnonzero((events["split"] == "test").fillna(False) & (np.arange(100) % 2 == 0))
    assert found is not None
    assert (found["n"], found["blackened"]) == (len(counted), 0.2)
    assert found["map"] == pytest.approx(0.2 + 0.4 * counted.mean() / 99)
    assert found["difference"] == pytest.approx(0.2 + 0.2 * counted.mean() / 99)
    assert found["difference_interval"][0] < found["difference"] < found["difference_interval"][1]
    assert measure_saliency(events, [], 1) is None


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.drop(columns="claim_gap_cm"), "has no column claim_gap_cm"),
        (lambda t: pd.concat([t, t.iloc[:1]]), r"event \d+ of shard \w+ has two rationales of the picture 'nominal'"),
        (lambda t: t[t["picture"] != "nominal"], r"event \d+ of shard \w+ has a rationale of only one of the pictures"),
    ],
    ids=["no-column", "event-twice", "no-nominal"],
)
def test_a_bad_table_is_named(tmp_path: Path, edit, message: str) -> None:
    run = write_run(tmp_path, n=40)
    tables = write_explanations(run, tmp_path)
    edit(pd.read_parquet(tables["vlm"][0])).to_parquet(tables["vlm"][0])
    with pytest.raises(InputError, match=message):
        measure_faithfulness(pd.read_parquet(run.events), tables, 1, 10)
    tables["vlm"][1].write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"1\.parquet: no readable table of rationales"):
        read_explanations(tables["vlm"][1:])
