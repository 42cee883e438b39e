"""The section "Does language help?": its numbers and its words, from counts that allow no other."""

from itertools import combinations

import numpy as np
import pytest

from nuvlm.evaluation.comparison import compare
from nuvlm.evaluation.trainings import compare_trainings
from nuvlm.report.language import compare_language


def compared(vlm: list[int], vit: list[int], n: int = 500, epochs: tuple[float, float] = (4, 4)) -> dict:
    """The row for trainings of both that are right for these numbers of events."""
    pairs = [[np.arange(n) < right for right in model] for model in (vit, vlm)]
    test = compare(pairs[0][0], pairs[1][0], 1, 200)
    more = compare_trainings([tuple(pairs)], [test], 1, 200)[0]
    results = {
        "scores": {"bdt": {}, "vit": {}, "vlm": {}},
        "comparisons": [{"first": "vit", "second": "vlm", "condition": "nominal", **test, **more}],
    }
    training = {"events": 1000, "trainable_parameters": 5000, "device": "CPU"}
    cost = {
        model: {"training": training | {"epochs": e, "seconds": 15.0 * e}}
        for model, e in zip(("vlm", "vit"), epochs, strict=True)
    }
    (row,) = compare_language(results, cost, "nominal")
    return row


def test_the_difference_is_that_of_the_language_model() -> None:
    row = compared(vlm=[400], vit=[350])
    assert (row["first"], row["second"], row["better"]) == ("vlm", "vit", "vlm")
    assert row["difference"] == pytest.approx(0.1)
    assert 0 < row["difference_interval"][0] < 0.1 < row["difference_interval"][1]
    assert "The VLM is 10.0 points more accurate than the ViT" in row["conclusion"]
    assert "The VLM is better beyond these uncertainties." in row["conclusion"]
    assert "spread between trainings is not part" in row["conclusion"]


def test_without_a_significant_difference_it_says_which_one_could_be_found() -> None:
    row = compared(vlm=[400], vit=[402])
    assert row["better"] is None
    assert row["difference"] == pytest.approx(-0.004)
    assert "0.4 points less accurate" in row["conclusion"]
    assert "one of 0.8 points would be found with a probability of 80 %" in row["conclusion"]


def test_a_difference_within_the_spread_between_trainings_is_not_called_one() -> None:
    row = compared(vlm=[400, 300, 350], vit=[320, 340, 330])
    assert row["better"] is None
    assert row["training_interval"][0] < 0 < row["training_interval"][1]
    assert "not part of the intervals" not in row["conclusion"]


def test_unequal_training_is_said() -> None:
    unequal = compared([400], [350], epochs=(4, 2))["conclusion"]
    assert "has seen 2.00 times as many training events, so the comparison is not at equal data." in unequal
    assert "The training of the VLM took 2.00 times as long: the computing is not equal" in unequal
    equal = compared([400], [350])["conclusion"]
    assert "the same number of training events, within 10 %. Their trainings took the same time, within" in equal


def test_every_pair_that_differs_in_language_is_compared() -> None:
    models = ("bdt", "vit", "vlm_head", "vlm")
    right = dict(zip(models, (450, 350, 380, 400), strict=True))
    results = {"scores": {model: {} for model in models}, "comparisons": []}
    for first, second in combinations(models, 2):
        pair = [np.arange(500) < right[model] for model in (first, second)]
        test = compare(*pair, 1, 200)
        more = compare_trainings([([pair[0]], [pair[1]])], [test], 1, 200)[0]
        results["comparisons"].append({"first": first, "second": second, "condition": "nominal", **test, **more})
    training = {"events": 1000, "epochs": 4, "seconds": None, "trainable_parameters": 5000, "device": "CPU"}
    cost = {model: {"training": training} for model in models} | {"vit": {"training": training | {"device": "GPU"}}}
    rows = compare_language(results, cost, "nominal")
    found = {(row["first"], row["second"]): row for row in rows}
    assert {pair: round(row["difference"], 6) for pair, row in found.items()} == {
        ("vlm", "vit"): 0.1, ("vlm", "vlm_head"): 0.04, ("vlm_head", "vit"): 0.06,
    }  # fmt: skip
    assert "than the VLM head, the same language model with a linear head" in found["vlm", "vlm_head"]["conclusion"]
    assert "no language" in found["vlm_head", "vit"]["conclusion"]
    assert "trained on different devices" in found["vlm_head", "vit"]["conclusion"]
    assert "as long" not in found["vlm", "vlm_head"]["conclusion"], "nothing is said of times that are not known"


def test_models_that_are_right_for_the_same_events_are_as_right() -> None:
    conclusion = compared(vlm=[400], vit=[400])["conclusion"]
    assert "The VLM is as accurate as the ViT" in conclusion
    assert "Their first trainings are right for the same events." in conclusion


def test_without_both_models_there_is_nothing_to_say() -> None:
    assert compare_language({"scores": {"vlm": {}, "cnn_tuned": {}}, "comparisons": []}, {}, "nominal") == []
