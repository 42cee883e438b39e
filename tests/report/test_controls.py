"""What the controls are taken to mean: each conclusion from counts that allow no other."""

import re

import numpy as np
import pytest

from nuvlm.base.classes import CLASSES
from nuvlm.evaluation.comparison import compare
from nuvlm.evaluation.metrics import score_sample
from nuvlm.evaluation.samples import Sample
from nuvlm.report.controls import conclude
from run_on_disk import sample_of

TRUTH = np.repeat(np.arange(3), (60, 50, 40))


def answers(predicted: np.ndarray) -> Sample:
    return sample_of(TRUTH, predicted, np.eye(3)[predicted])


def concluded(control: str, nominal: np.ndarray, shown: np.ndarray) -> str:
    samples = {"nominal": answers(nominal), control: answers(shown)}
    change = compare(samples[control].correct, samples["nominal"].correct, 1, 50)
    change |= {"reference": "nominal", "same_answer": float((nominal == shown).mean())}
    scores = {name: score_sample(sample, 50) for name, sample in samples.items()}
    (row,) = conclude({"scores": {"vlm": scores}, "changes": {"vlm": {control: change}}})
    return row["conclusion"]


def some_wrong(every: int) -> np.ndarray:
    predicted = TRUTH.copy()
    predicted[::every] = (predicted[::every] + 1) % len(CLASSES)
    return predicted


@pytest.mark.parametrize(
    ("control", "nominal", "shown", "conclusion"),
    [
        ("blank", TRUTH, np.zeros(150, int), "classified as νe CC, which is right for 40.0 %: the 60.0 points above"),
        ("blank", np.zeros(150, int), np.zeros(150, int), "it does not use the picture"),
        ("blank", np.full(150, 2), np.zeros(150, int), "it does not use the picture"),
        ("blank", TRUTH, TRUTH, "3 different answers, so the VLM uses something other"),
        ("labels_permuted", TRUTH, some_wrong(50), "98.0 % of the answers are unchanged: the VLM hardly depends"),
        ("labels_permuted", TRUTH, some_wrong(5), "80.0 % .* changes by 20.0 points: the VLM depends on the order"),
        ("labels_permuted", some_wrong(5), np.roll(some_wrong(5), 1), "individual answers depend on the order"),
    ],
)
def test_the_conclusion_follows_the_counts(
    control: str, nominal: np.ndarray, shown: np.ndarray, conclusion: str
) -> None:
    assert re.search(conclusion, concluded(control, nominal, shown))


def test_without_truth_there_is_nothing_to_conclude() -> None:
    change = {"n": 0, "reference": "nominal", "same_answer": None}
    assert conclude({"scores": {}, "changes": {"vlm": {"blank": change}}}) == []
