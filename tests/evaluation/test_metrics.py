"""Scores against scikit-learn, against formulas done by hand, and on samples that lack something."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, precision_score, recall_score, roc_auc_score

from explanations_on_disk import write_saliency
from nuvlm.base.classes import CLASSES
from nuvlm.base.errors import InputError
from nuvlm.evaluation.metrics import describe_sample, evaluate, score_sample, weighted_auc, weighted_scores
from nuvlm.evaluation.samples import Sample
from nuvlm.simulation.counterfactuals import AS_SIMULATED
from run_on_disk import Run, sample_of, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def results(run: Run) -> dict:
    out = run.events.parent / "scores.json"
    evaluate(run.events, run.predictions, out, resamples=300)
    return json.loads(out.read_text())


def _sample(n: int = 400, seed: int = 0, decimals: int = 8) -> Sample:
    rng = np.random.default_rng(seed)
    truth = rng.choice(3, n, p=(0.5, 0.3, 0.2))
    p = np.round(rng.dirichlet((1, 1, 1), n) * 0.5 + 0.5 * np.eye(3)[rng.permutation(truth)], decimals)
    return sample_of(truth, p.argmax(axis=1), p)


def _tables(run: Run, model: str, condition: str) -> pd.DataFrame:
    predictions = pd.concat([pd.read_parquet(path) for path in run.predictions[model][condition]])
    events = pd.read_parquet(run.events).set_index(["shard", "event_id"])
    joined = predictions.join(events[["split"]], on=["shard", "event_id"])
    return joined[(joined["split"] == "test").fillna(False) & joined["class"].notna()]


@pytest.mark.parametrize("model", ["cnn", "vlm"])
@pytest.mark.parametrize("condition", ["nominal", "half_resolution"])
def test_scores_are_those_of_scikit_learn(run: Run, results: dict, model: str, condition: str) -> None:
    table = _tables(run, model, condition)
    truth, predicted = table["class"].to_numpy(str), table["predicted"].to_numpy(str)
    p = table[[f"p_{name}" for name in CLASSES]].to_numpy()
    score = results["scores"][model][condition]
    assert score["n"] == len(table)
    assert score["accuracy"] == pytest.approx(accuracy_score(truth, predicted))
    assert score["precision"] == pytest.approx(precision_score(truth, predicted, average="macro"))
    assert score["recall"] == pytest.approx(recall_score(truth, predicted, average="macro"))
    binary = np.stack([truth == name for name in CLASSES], axis=1)
    assert score["auc"] == pytest.approx(roc_auc_score(binary, p, average="macro"))
    rows = {true: {taken: 0 for taken in CLASSES} for true in CLASSES}
    for true, taken in zip(truth, predicted, strict=True):
        rows[true][taken] += 1
    assert score["confusion"] == [list(rows[true].values()) for true in CLASSES]


def test_only_the_test_split_with_truth_is_scored(run: Run, results: dict) -> None:
    events = pd.read_parquet(run.events)
    expected = int(((events["split"] == "test").fillna(False)).sum())
    untold = int(events["class"].isna().sum())
    score = results["scores"]["cnn"]["nominal"]
    assert score["n"] == expected
    assert sum(score["predicted_without_truth"].values()) == untold > 0


def test_bootstrap_scores_equal_scikit_learn_on_the_resample() -> None:
    sample = _sample(decimals=2)  # two decimals: many tied scores
    rng = np.random.default_rng(5)
    weights = np.stack([np.bincount(rng.integers(400, size=400), minlength=400) for _ in range(4)]).astype(float)
    fast = weighted_scores(sample, weights)
    for b, weight in enumerate(weights):
        drawn = np.repeat(np.arange(400), weight.astype(int))
        truth, predicted, p = sample.truth[drawn], sample.predicted[drawn], sample.probabilities[drawn]
        assert fast["accuracy"][b] == pytest.approx(accuracy_score(truth, predicted))
        assert fast["precision"][b] == pytest.approx(precision_score(truth, predicted, average="macro"))
        assert fast["recall"][b] == pytest.approx(recall_score(truth, predicted, average="macro"))
        for k in range(3):
            assert fast[f"auc_{k}"][b] == pytest.approx(roc_auc_score(truth == k, p[:, k]))


def test_auc_of_one_sided_weights_is_undefined() -> None:
    positive = np.array([True, True, False])
    auc = weighted_auc(positive, np.array([0.1, 0.9, 0.5]), np.array([[1.0, 1, 0], [1, 1, 1]]))
    assert np.isnan(auc[0])
    assert auc[1] == 0.5


def test_bootstrap_interval_has_the_binomial_width() -> None:
    rng = np.random.default_rng(2)
    truth = rng.integers(3, size=2000)
    predicted = np.where(rng.random(2000) < 0.8, truth, (truth + 1) % 3)
    sample = sample_of(truth, predicted, np.eye(3)[predicted])
    score = score_sample(sample)
    low, high = score["accuracy_interval"]
    assert low < score["accuracy"] < high
    expected = 2 * 1.96 * np.sqrt(score["accuracy"] * (1 - score["accuracy"]) / 2000)
    assert high - low == pytest.approx(expected, rel=0.1)


def test_efficiency_and_purity_sum_up_to_recall_and_precision(results: dict) -> None:
    for name, of_class in results["scores"]["cnn"]["nominal"]["by_class"].items():
        energy = of_class["dependence"]["energy"]
        right = sum(k * n for k, n in zip(energy["efficiency"], energy["efficiency_n"], strict=True) if n)
        assert sum(energy["efficiency_n"]) == of_class["n"], name
        assert sum(energy["purity_n"]) == of_class["selected"], name
        assert right / of_class["n"] == pytest.approx(of_class["recall"])


def test_roc_rejection_is_reached_at_the_efficiency() -> None:
    sample = _sample()
    described = score_sample(sample, 10)
    describe_sample(described, sample, {})
    for k, of_class in enumerate(described["by_class"].values()):
        score = sample.probabilities[:, k]
        signal, background = score[sample.truth == k], score[sample.truth != k]
        passing = np.sort(signal)[::-1][int(np.ceil(0.8 * len(signal))) - 1]
        assert of_class["rejection"]["0.8"] == pytest.approx((background < passing).mean(), abs=1e-9)
        assert of_class["roc"]["fpr"][0] == of_class["roc"]["tpr"][0] == 0
        assert of_class["roc"]["fpr"][-1] == of_class["roc"]["tpr"][-1] == 1


def test_a_class_missing_from_the_test_split_is_left_out_of_the_means() -> None:
    truth = np.array([0, 0, 1, 1])
    predicted = np.array([0, 0, 1, 2])
    sample = sample_of(truth, predicted, np.eye(3)[predicted])
    score = score_sample(sample, 50)
    describe_sample(score, sample, {})
    assert score["by_class"]["nc"]["recall"] is None
    assert score["by_class"]["nc"]["auc"] is None
    assert score["by_class"]["nc"]["roc"] is None
    assert score["recall"] == pytest.approx((1 + 0.5) / 2)
    assert score["precision"] == pytest.approx(1)


def test_a_class_never_predicted_has_no_precision_and_counts_as_zero() -> None:
    truth = np.array([0, 1, 2, 2])
    predicted = np.array([0, 1, 1, 1])
    score = score_sample(sample_of(truth, predicted, np.eye(3)[predicted]), 50)
    assert score["by_class"]["nc"]["precision"] is None
    assert score["precision"] == pytest.approx(precision_score(truth, predicted, average="macro", zero_division=0))


def test_without_truth_nothing_is_scored_and_everything_is_counted(tmp_path: Path) -> None:
    run = write_run(tmp_path, n=20, labelled=0)
    evaluate(run.events, run.predictions, tmp_path / "scores.json")
    results = json.loads((tmp_path / "scores.json").read_text())
    score = results["scores"]["vlm"]["nominal"]
    assert score["n"] == 0
    assert score["accuracy"] is score["auc"] is score["accuracy_interval"] is None
    assert sum(score["predicted_without_truth"].values()) == 20
    assert results["comparisons"][0]["p_value"] is None


def test_curves_of_robustness_go_through_pictures_as_they_are(run: Run, results: dict, tmp_path: Path) -> None:
    assert list(results["robustness"]) == ["resolution"]
    result = {
        model: {
            "nominal": conditions["nominal"],
            "noise_900": conditions["half_resolution"],
            "scale_80": conditions["blank"],
            "noise_50": conditions["nominal"],
        }
        for model, conditions in run.predictions.items()
    }
    evaluate(run.events, result, tmp_path / "scores.json", resamples=300)
    found = json.loads((tmp_path / "scores.json").read_text())
    assert {kind: curve["axis"] for kind, curve in found["robustness"].items()} == {
        "noise": "noise of each pixel (keV)",
        "scale": "energy scale (%)",
    }
    noise, scale = (found["robustness"][kind]["models"]["vlm"] for kind in ("noise", "scale"))
    assert [(point["level"], point["condition"]) for point in noise] == [
        (0, "nominal"),
        (50, "noise_50"),
        (900, "noise_900"),
    ]
    assert [point["level"] for point in scale] == [80, 100]
    of = results["scores"]["vlm"]
    for point, condition in zip((*noise, scale[0]), ("nominal", "nominal", "half_resolution", "blank"), strict=True):
        assert point["accuracy"] == of[condition]["accuracy"]
        assert point["accuracy_interval"] == of[condition]["accuracy_interval"]


def test_conditions_that_are_not_shown_in_full_have_overall_scores_alone(results: dict) -> None:
    for condition, score in results["scores"]["vlm"].items():
        full = condition in ("nominal", "half_resolution")
        assert ("pi0" in score) == full
        assert ("roc" in score["by_class"]["nc"]) == full
        assert score["auc_interval"] is not None
    for result in results["comparisons"]:
        assert ("by_class" in result) == (result["condition"] in ("nominal", "half_resolution"))


def test_disagreement_is_that_of_the_tables(run: Run, results: dict) -> None:
    first, second = (_tables(run, model, "nominal").set_index("event_id") for model in ("cnn", "vlm"))
    right = pd.DataFrame(
        {"first": first["predicted"] == first["class"], "second": second["predicted"] == second["class"]}
    )
    result = results["comparisons"][0]
    for name in CLASSES:
        of_class = right[first["class"] == name]
        assert result["by_class"][name]["only_first"] == int((of_class["first"] & ~of_class["second"]).sum())
        assert sum(result["by_class"][name].values()) == len(of_class)
    assert sum(result["by_energy"]["neither"]) == result["neither"]


def _rewrite(path: Path, edit: object) -> None:
    table = pd.read_parquet(path)
    edit(table).to_parquet(path, index=False)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.assign(p_nc=np.nan), r"event \d+ of shard \w+ has .*nan"),
        (lambda t: t.assign(p_nc=t["p_nc"] + 0.5), "for probabilities"),
        (lambda t: t.assign(predicted="nutau_cc"), "'nutau_cc', not one of nue_cc"),
        (lambda t: t.iloc[:5], "have no prediction, first event"),
        (lambda t: pd.concat([t, t.iloc[:1]]), "is in two prediction tables"),
    ],
    ids=["nan", "no-probability", "unknown-class", "missing-events", "event-twice"],
)
def test_a_bad_prediction_table_is_named(tmp_path: Path, edit: object, message: str) -> None:
    run = write_run(tmp_path, n=40)
    _rewrite(run.predictions["vlm"]["half_resolution"][0], edit)
    with pytest.raises(InputError, match=message):
        evaluate(run.events, run.predictions, tmp_path / "scores.json", resamples=10)
    assert not (tmp_path / "scores.json").exists()


def test_a_cut_off_prediction_table_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path, n=40)
    path = run.predictions["cnn"]["nominal"][1]
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=f"{path}: no readable prediction table"):
        evaluate(run.events, run.predictions, tmp_path / "scores.json", resamples=10)


def test_counterfactual_events_of_a_file_are_left_out_and_not_measured(tmp_path: Path) -> None:
    run = write_run(tmp_path, n=60, parts=1, models={"cnn": 1.6})
    events = pd.read_parquet(run.events)
    kinds = np.where(events["class"].isna(), "without_muon", AS_SIMULATED)
    events.assign(original=events["event_id"], counterfactual=kinds).to_parquet(run.events)
    saliency, _ = write_saliency(run, tmp_path)
    evaluate(run.events, run.predictions, tmp_path / "scores.json", resamples=10, saliency={"cnn": saliency})
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["counterfactuals"] is None
    assert sum(scores["scores"]["cnn"]["nominal"]["predicted_without_truth"].values()) == 0
