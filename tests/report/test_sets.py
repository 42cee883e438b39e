"""What is said of prediction sets: each broken promise in words, and no other."""

from collections.abc import Sequence

import numpy as np
import pytest

from nuvlm.evaluation.conformal import measure_sets
from nuvlm.evaluation.dependence import Axis
from nuvlm.evaluation.samples import Sample
from nuvlm.report.sets import conclude_sets, promised
from run_on_disk import sample_of


def of(truth: Sequence[int], p_true: Sequence[float]) -> Sample:
    """Events with a probability of the true class, the rest shared by the others."""
    p = np.array(p_true)
    probabilities = np.repeat((1 - p)[:, None] / 2, 3, axis=1)
    probabilities[np.arange(len(p)), truth] = p
    return sample_of(np.array(truth, dtype=int), probabilities.argmax(axis=1), probabilities)


def even(n: int, covered: float, classes: Sequence[int] = (0, 1, 2)) -> Sample:
    """`n` events of each class; the fraction `covered` of them has a high probability of the true class."""
    p = np.where(np.arange(n) < round(covered * n), 0.8, 0.05)
    return of([k for k in classes for _ in range(n)], np.tile(p, len(classes)))


def conclude(validation: Sample, test: dict[str, Sample], level: float = 0.9) -> tuple[list[str], dict]:
    nothing = of([], [])
    n = len(test["nominal"])
    energy = Axis({"edges": [0.0, 1.0, 2.0]}, np.arange(n) % 2)
    sets = measure_sets(
        {"cnn": {condition: [validation] for condition in test}},
        {"cnn": {condition: [sample] for condition, sample in test.items()}},
        {"cnn": {"nominal": [nothing]}},
        {"energy": energy},
        np.ones(n),
        level,
        seed=0,
        resamples=20,
    )
    return conclude_sets(sets), sets["models"]["cnn"]["conditions"]


GOOD = even(100, 0.92)  # of 100 validation events of a class, 90 % is promised by the 91st: the threshold is 0.8


def test_a_kept_promise_is_said_to_be_kept() -> None:
    lines, found = conclude(GOOD, {"nominal": even(200, 0.9)})
    assert found["nominal"]["coverage"] == pytest.approx(0.9)
    assert lines == ["Under nominal no class of a model has less than the promised 90 % by more than its interval."]


def test_a_broken_promise_is_said_with_its_class_and_what_explains_it() -> None:
    lines, found = conclude(GOOD, {"nominal": even(200, 0.6)})
    assert len([line for line in lines if line.startswith("CNN, nominal: the sets of ")]) == 3
    low, high = found["nominal"]["by_class"]["nc"]["coverage_interval"]
    assert (
        f"CNN, nominal: the sets of NC hold the true class for 60.0 % [{100 * low:.1f}, {100 * high:.1f}], less than "
        "the promised 90 %, more than the choice of 100 validation events explains (p < 0.0001)."
    ) in lines
    assert not any("no class" in line for line in lines)


def test_few_validation_events_can_explain_a_low_coverage() -> None:
    """9 validation events: the coverage that they promise is beta-distributed, 90 % on average, 65 % in one of 50."""
    lines, _ = conclude(even(9, 1.0), {"nominal": even(2000, 0.87)})
    assert len([line for line in lines if "which the choice of 9 validation events can explain (p = 0." in line]) == 3


def test_other_conditions_and_controls() -> None:
    shifted = {"nominal": even(100, 0.95), "noise_200": even(100, 0.7), "dead_5": even(100, 0.5), "blank": even(100, 0)}
    lines, found = conclude(GOOD, shifted)
    low, high = found["dead_5"]["coverage_interval"]
    (line,) = [line for line in lines if line.startswith("With thresholds from nominal validation events")]
    assert line.endswith(
        f"CNN under noise 200, dead 5, lowest 50.0 % [{100 * low:.1f}, {100 * high:.1f}] under dead 5."
    ), "a control is not meant to keep a promise"
    assert found["nominal"]["recalibrated"] is None
    assert found["dead_5"]["recalibrated"]["coverage"] == pytest.approx(0.5), "the same validation events here"


def test_bins_of_energy_with_less_than_the_average() -> None:
    p = np.where(np.arange(300) % 2, 0.8, np.where(np.arange(300) % 6 < 3, 0.05, 0.8))
    lines, found = conclude(GOOD, {"nominal": of([0] * 300, p)})
    along = found["nominal"]["by_class"]["nue_cc"]["dependence"]["energy"]
    assert along["coverage"] == pytest.approx([1 / 3, 1])
    (line,) = [line for line in lines if line.startswith("The promise is an average over all energies")]
    assert "CNN in 1 of 2 bins, lowest νe CC at 0.0 to 1.0 GeV (33.3 %" in line


def test_too_few_validation_events_are_counted() -> None:
    validation = of([0] * 20 + [1] * 8, [0.8] * 28)
    lines, found = conclude(validation, {"nominal": even(50, 0.9)})
    assert lines[0] == (
        "To promise 90 %, 9 validation events of a class are needed. There are 8 of νμ CC and 0 of NC: these classes "
        "are in every set, whose coverage then says nothing of the models."
    )
    assert found["nominal"]["by_class"]["nc"]["coverage"] == 1
    assert len(lines) == 2


def test_without_test_events_no_promise_is_judged() -> None:
    assert conclude(GOOD, {"nominal": of([], []), "dead_5": of([], [])})[0] == []


def test_levels_are_written_without_superfluous_digits() -> None:
    assert [promised(level) for level in (0.9, 0.95, 0.995, 0.6827)] == ["90 %", "95 %", "99.5 %", "68.27 %"]
