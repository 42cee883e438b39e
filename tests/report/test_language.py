"""The section "Does language help?": its numbers and its words, from counts that allow no other."""

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
    training = {"events": 1000, "seconds": 60.0}
    cost = {model: {"training": training | {"epochs": e}} for model, e in zip(("vlm", "vit"), epochs, strict=True)}
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
    assert "seen 2.0 times as many training events" in compared([400], [350], epochs=(4, 2))["conclusion"]


def test_without_both_models_there_is_nothing_to_say() -> None:
    assert compare_language({"scores": {"vlm": {}, "cnn_tuned": {}}, "comparisons": []}, {}, "nominal") == []
