"""Prediction sets: thresholds against the quantile of the definition, coverage of exchangeable events, edge cases."""

import json
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from math import ceil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from crepes import ConformalClassifier
from hypothesis import given, settings
from hypothesis import strategies as st

from nuvlm.base.classes import CLASSES
from nuvlm.base.errors import InputError
from nuvlm.evaluation.conformal import (
    chance_of_coverage,
    events_needed,
    prediction_sets,
    single_class,
    thresholds,
)
from nuvlm.evaluation.cuts import measure_answers
from nuvlm.evaluation.metrics import evaluate
from nuvlm.evaluation.samples import Sample
from run_on_disk import sample_of, write_run

LEVELS = (0.5, 0.57, 0.7, 0.8, 0.9, 0.95, 0.99)


def drawn(n: int, seed: int, skill: float = 1.5, step: float = 0.0) -> Sample:
    """Events of unequal classes; with `step` the probabilities have few values, as those of trees."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(3, n, p=(0.6, 0.3, 0.1))
    logits = rng.normal(size=(n, 3)) + skill * np.eye(3)[truth]
    if step:
        logits = np.round(logits / step) * step
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return sample_of(truth, p.argmax(axis=1), p)


def by_definition(sample: Sample, level: float) -> list[float]:
    """1 - the ceil((n + 1) level)-th smallest score 1 - p of each class; 0 where there is none."""
    limits = []
    for k in range(3):
        scores = np.sort(1 - sample.probabilities[sample.truth == k, k])
        rank = ceil((len(scores) + 1) * Fraction(str(level)))
        limits.append(1 - scores[rank - 1] if rank <= len(scores) else 0.0)
    return limits


@settings(deadline=None)
@given(n=st.integers(0, 130), seed=st.integers(0, 1000), level=st.sampled_from(LEVELS), step=st.sampled_from((0, 0.5)))
def test_thresholds_are_those_of_the_definition(n: int, seed: int, level: float, step: float) -> None:
    sample = drawn(n, seed, step=step)
    assert thresholds(sample, level) == pytest.approx(by_definition(sample, level), abs=1e-12)


def test_whole_numbers_of_events_are_not_lost_to_rounding() -> None:
    """9 events are the fewest that 90 % needs, and 1 - 0.9 is not 0.1 in a computer."""
    for level, needed in ((0.5, 1), (0.8, 4), (0.9, 9), (0.95, 19), (0.99, 99)):
        assert events_needed(level) == needed
        for n, lowest in ((needed, 0.2), (needed - 1, 0.0)):
            p = np.linspace(0.2, 0.9, n) if n else np.empty(0)
            sample = sample_of(np.zeros(n, int), np.zeros(n, int), np.stack([p, 1 - p, 0 * p], axis=1))
            assert thresholds(sample, level)[0] == pytest.approx(lowest), (level, n)


def test_the_sets_are_those_of_the_library() -> None:
    # Two decimals: equal probabilities are equal to the last bit, as the library takes no other for equal.
    validation, test = (
        replace(one, probabilities=one.probabilities.round(2)) for one in (drawn(400, 1), drawn(300, 2))
    )
    for level in LEVELS:
        true = validation.probabilities[np.arange(400), validation.truth]
        library = ConformalClassifier().fit(-true, bins=validation.truth)
        p_values = np.stack(
            [library.predict_p(-test.probabilities[:, k], np.full(300, k), smoothing=False) for k in range(3)], axis=1
        )
        sets = prediction_sets(test, thresholds(validation, level))
        assert (sets == (p_values > 1 - level + 1e-9)).all()


@pytest.mark.parametrize("step", [0.0, 1.0])
def test_exchangeable_events_have_the_promised_coverage_of_each_class(step: float) -> None:
    """Over many validation and test samples; with ties the coverage may be above, never below."""
    covered, events = np.zeros(3, int), np.zeros(3, int)
    for seed in range(300):
        both = drawn(400, seed, step=step)
        validation, test = (
            Sample(
                *(values[part] for values in (both.truth, both.predicted, both.probabilities, both.log_probabilities))
            )
            for part in (slice(200), slice(200, None))
        )
        sets = prediction_sets(test, thresholds(validation, 0.8))
        for k in range(3):
            covered[k] += sets[test.truth == k, k].sum()
            events[k] += (test.truth == k).sum()
    # Test events of one draw share their thresholds: the 300 draws are independent, their events are not.
    error = 4 * np.sqrt(0.8 * 0.2 / 300 / np.array([40, 20, 7]) * 2)
    assert (covered / events > 0.8 - error).all()
    if not step:
        assert (covered / events < 0.8 + error + [1 / 121, 1 / 61, 1 / 21]).all()


@given(
    seed=st.integers(0, 1000),
    levels=st.lists(st.floats(0.01, 0.99), min_size=2, max_size=2),
    step=st.sampled_from((0, 1)),
)
@settings(deadline=None, max_examples=50)
def test_a_higher_level_never_shrinks_a_set(seed: int, levels: Sequence[float], step: float) -> None:
    validation, test = drawn(150, seed, step=step), drawn(100, seed + 1, step=step)
    low, high = (prediction_sets(test, thresholds(validation, level)) for level in sorted(levels))
    assert (high >= low).all()


def test_equal_probabilities_stay_together() -> None:
    """All validation events have one value: events that differ from it by rounding alone are like them."""
    p = np.tile([0.3, 0.6, 0.1], (60, 1))
    validation = sample_of(np.arange(60) % 3, np.ones(60, int), p)
    limits = thresholds(validation, 0.9)
    assert limits == pytest.approx([0.3, 0.6, 0.1])
    near = sample_of(np.zeros(2, int), np.ones(2, int), np.array([[0.1 * 3 - 1e-16, 0.6, 0.1], [0.2999, 0.6001, 0.1]]))
    assert prediction_sets(near, limits).tolist() == [[True, True, True], [False, True, True]]


def test_saturated_and_vanishing_probabilities_are_told_apart() -> None:
    """1 - p would make all of them 1."""
    p = np.geomspace(1e-30, 1e-20, 19)
    validation = sample_of(np.zeros(19, int), np.ones(19, int), np.stack([p, 1 - p, 0 * p], axis=1))
    limits = thresholds(validation, 0.9)
    assert limits[0] == p[1]
    assert prediction_sets(validation, limits)[:, 0].sum() == 18


def test_probabilities_that_exceed_1_by_rounding() -> None:
    """A report with a threshold above 1 would not be written."""
    p = np.full(19, 1 + 5e-7)
    validation = sample_of(np.zeros(19, int), np.zeros(19, int), np.stack([p, 0 * p, 0 * p], axis=1))
    assert thresholds(validation, 0.9)[0] == 1
    assert prediction_sets(validation, thresholds(validation, 0.9))[:, 0].all()


def test_a_single_class_need_not_be_the_most_probable_one() -> None:
    test = sample_of(np.zeros(1, int), np.ones(1, int), np.array([[0.4, 0.6, 0.0]]))
    sets = prediction_sets(test, np.array([0.2, 0.8, 0.5]))
    assert single_class(sets).tolist() == [0]
    assert single_class(np.array([[0, 0, 0], [1, 0, 1], [0, 0, 1]], bool)).tolist() == [-1, -1, 2]


def test_the_chance_of_a_coverage_is_that_of_simulated_promises() -> None:
    n, m, level = 30, 50, 0.9
    rng = np.random.default_rng(0)
    scores = rng.random((20000, n + m))
    limit = np.sort(scores[:, :n], axis=1)[:, ceil(31 * level) - 1]
    covered = (scores[:, n:] <= limit[:, None]).sum(axis=1)
    for k in (36, 40, 44, 48):
        assert chance_of_coverage(np.arange(m) < k, n, level) == pytest.approx((covered <= k).mean(), abs=0.015)
    assert chance_of_coverage(np.ones(0, bool), n, level) is None
    assert chance_of_coverage(np.ones(m, bool), 8, level) is None


def test_answers_by_hand_with_weights() -> None:
    truth = np.array([0, 0, 1, 1, 2, 2])
    answer = np.array([0, -1, 1, 0, 2, -1])
    plain = measure_answers(answer, truth, np.ones(6), seed=0, resamples=200)
    assert plain["kept"] == pytest.approx(4 / 6)
    assert plain["accuracy"] == pytest.approx(3 / 4)
    assert plain["by_class"]["nue_cc"]["efficiency"] == pytest.approx(1 / 2)
    assert plain["by_class"]["nue_cc"]["purity"] == pytest.approx(1 / 2)
    assert plain["kept_interval"][0] < 4 / 6 < plain["kept_interval"][1]
    weights = np.array([2.0, 1, 1, 1, 0, 1])
    weighted = measure_answers(answer, truth, weights, seed=0, resamples=20)
    assert weighted["kept"] == pytest.approx(4 / 6)
    assert weighted["by_class"]["nue_cc"]["efficiency"] == pytest.approx(2 / 3)
    assert weighted["by_class"]["nue_cc"]["purity"] == pytest.approx(2 / 3)
    assert weighted["by_class"]["nc"]["purity"] is None, "no weight"
    again = measure_answers(answer, truth, 7 * weights, seed=0, resamples=20)
    assert (again["kept"], again["accuracy"]) == pytest.approx((weighted["kept"], weighted["accuracy"])), "any unit"
    nobody = measure_answers(np.full(6, -1), truth, np.ones(6), seed=0, resamples=20)
    assert (nobody["kept"], nobody["accuracy"], nobody["accuracy_interval"]) == (0, None, None)
    empty = measure_answers(truth[:0], truth[:0], np.ones(0), seed=0)
    assert (empty["kept"], empty["kept_interval"]) == (None, None)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """A run with three trainings of one model, 2 of its 200 validation events of one class."""
    folder = tmp_path_factory.mktemp("run")
    run = write_run(folder, n=2000, models={"cnn": 1.6, "cnn.2": 1.2, "cnn.3": 1.4, "vlm": 0.9})
    events = pd.read_parquet(run.events)
    nc = np.flatnonzero(((events["class"] == "nc") & (events["split"] == "validation")).fillna(False))
    events.loc[nc[2:], ["class", "split"]] = None
    events.to_parquet(run.events, index=False)
    evaluate(run.events, run.predictions, folder / "scores.json", resamples=100, repeats=run.repeats, level=0.8)
    return json.loads((folder / "scores.json").read_text()) | {"folder": folder}


def test_a_class_with_too_few_validation_events_is_in_every_set(results: dict) -> None:
    sets = results["sets"]
    assert (sets["level"], sets["needed"], sets["calibrated_on"]["nc"]) == (0.8, 4, 2)
    for of_model in sets["models"].values():
        assert of_model["threshold"]["nc"] == 0
        nc = of_model["conditions"]["nominal"]["by_class"]["nc"]
        assert (nc["coverage"], nc["p_value"]) == (1, None)
        assert of_model["threshold"]["nue_cc"] > 0
        assert of_model["without_truth"]["single"]["nue_cc"] == 0, "NC is in the set, too"


def test_sets_count_every_event_in_every_way(results: dict) -> None:
    for model, of_model in results["sets"]["models"].items():
        for condition, found in of_model["conditions"].items():
            score = results["scores"][model][condition]
            assert found["n"] == sum(found["sizes"]) == score["n"]
            assert (
                np.sum([of_class["sizes"] for of_class in found["by_class"].values()], axis=0).tolist()
                == (found["sizes"])
            )
            assert found["mean_size"] == pytest.approx(np.dot(found["sizes"], range(4)) / found["n"])
            assert found["mean_size_interval"][0] < found["mean_size"] < found["mean_size_interval"][1] or (
                condition == "blank"
            )
            hits = sum(of_class["coverage"] * of_class["n"] for of_class in found["by_class"].values())
            assert found["coverage"] == pytest.approx(hits / found["n"])
        nominal = of_model["conditions"]["nominal"]
        assert set(nominal["dependence"]) == set(results["scores"][model]["nominal"]["by_class"]["nc"]["dependence"])
        for one in (nominal, *nominal["by_class"].values()):
            along = one["dependence"]["energy"]
            assert sum(along["coverage_n"]) == one["n"]
            assert np.dot(along["coverage"], along["coverage_n"]) == pytest.approx(one["coverage"] * one["n"])
            assert np.dot(along["mean_size"], along["coverage_n"]) == pytest.approx(one["mean_size"] * one["n"])
        assert sum(of_model["without_truth"]["sizes"]) == sum(results["events"]["none"].values())
        answers = of_model["answers"]
        assert answers["single"]["kept"] == pytest.approx(nominal["sizes"][1] / nominal["n"])
        assert answers["most_probable"]["kept"] == 1
        assert answers["most_probable"]["accuracy"] == pytest.approx(results["scores"][model]["nominal"]["accuracy"])
        for name, of_class in answers["most_probable"]["by_class"].items():
            score = results["scores"][model]["nominal"]["by_class"][name]
            assert (of_class["efficiency"], of_class["purity"]) == pytest.approx((score["recall"], score["precision"]))


def test_each_condition_has_the_first_one_s_thresholds_and_its_own(results: dict) -> None:
    folder = results["folder"]
    events = pd.read_parquet(folder / "events.parquet")
    for condition in ("nominal", "half_resolution"):
        tables = pd.concat(
            pd.read_parquet(folder / "predictions" / "vlm" / condition / f"{part}.parquet") for part in (0, 1)
        )
        table = events[["shard", "event_id", "split"]].merge(tables, on=["shard", "event_id"])
        table = table[table["class"].notna() & table["split"].notna()]
        known = sample_of(
            pd.Categorical(table["class"], list(CLASSES)).codes.astype(int),
            np.zeros(len(table), int),
            table[[f"p_{name}" for name in CLASSES]].to_numpy(),
        )
        chosen, test = (
            replace(known, truth=known.truth[rows], probabilities=known.probabilities[rows])
            for rows in (table["split"] == "validation", table["split"] == "test")
        )
        own = by_definition(chosen, 0.8)
        if condition == "nominal":
            first = own
        found = results["sets"]["models"]["vlm"]["conditions"][condition]
        for limits, measured in ((first, found), (own, found["recalibrated"] or found)):
            inside = test.probabilities >= np.array(limits) - 1e-12
            assert measured["coverage"] == pytest.approx(inside[np.arange(len(test)), test.truth].mean())
            assert measured["mean_size"] == pytest.approx(inside.sum(axis=1).mean())


def test_each_training_has_its_own_thresholds(results: dict) -> None:
    trainings = results["sets"]["models"]["cnn"]["trainings"]
    for condition, found in results["sets"]["models"]["cnn"]["conditions"].items():
        for quantity in ("coverage", "mean_size"):
            values = trainings[condition][quantity]["values"]
            assert values[0] == pytest.approx(found[quantity])
            assert len(set(values)) == 3 or condition == "blank"
    # Worse trainings keep the promise with larger sets.
    assert trainings["nominal"]["mean_size"]["values"][1] > trainings["nominal"]["mean_size"]["values"][0]
    assert trainings["nominal"]["coverage"]["values"] == pytest.approx([0.86] * 3, abs=0.08), "NC is always covered"
    assert results["sets"]["models"]["vlm"]["trainings"] == {}


def test_without_validation_or_test_events(tmp_path: Path) -> None:
    run = write_run(tmp_path, n=60)
    events = pd.read_parquet(run.events)
    for split, others in (("validation", "test"), ("test", "train")):
        events.assign(split=events["split"].replace(split, others)).to_parquet(
            tmp_path / "events2.parquet", index=False
        )
        evaluate(tmp_path / "events2.parquet", run.predictions, tmp_path / "scores.json", resamples=10)
        sets = json.loads((tmp_path / "scores.json").read_text())["sets"]
        for of_model in sets["models"].values():
            nominal = of_model["conditions"]["nominal"]
            if split == "validation":
                assert set(sets["calibrated_on"].values()) == set(of_model["threshold"].values()) == {0}
                assert (nominal["coverage"], nominal["mean_size"]) == (1, 3)
                assert (of_model["answers"]["single"]["kept"], of_model["answers"]["single"]["accuracy"]) == (0, None)
            else:
                assert (nominal["n"], nominal["sizes"]) == (0, [0, 0, 0, 0])
                assert nominal["coverage"] is nominal["mean_size"] is nominal["by_class"]["nc"]["p_value"] is None


@pytest.mark.parametrize(("value", "message"), [(np.nan, "diverged"), (None, "no prediction")])
def test_a_validation_event_without_probabilities_is_named(tmp_path: Path, value: float | None, message: str) -> None:
    """Under a condition, too, that only the sets use validation events of."""
    run = write_run(tmp_path, n=60)
    events = pd.read_parquet(run.events)
    event = events[(events["split"] == "validation").fillna(False)].iloc[0]
    for path in run.predictions["vlm"]["half_resolution"]:
        table = pd.read_parquet(path)
        this = table["event_id"] == event["event_id"]
        if value is None:
            table = table[~this]
        else:
            table.loc[this, "p_nc"] = value
        table.to_parquet(path, index=False)
    with pytest.raises(
        InputError,
        match=rf"half_resolution: .*event {event['event_id']} .*{message}|{message}.*event {event['event_id']}",
    ):
        evaluate(run.events, run.predictions, tmp_path / "scores.json", resamples=10)
