"""Which events are explained."""

import numpy as np
import pandas as pd
import pytest

from nuvlm.base.classes import CLASSES
from nuvlm.base.errors import InputError
from nuvlm.models.explained_events import choose_explained

N = 40


@pytest.fixture
def events() -> pd.DataFrame:
    """A part: every fifth event is of the split validation, the others of test."""
    table = pd.DataFrame({"shard": ["a", "b"] * (N // 2), "row": np.arange(N), "event_id": np.arange(N)})
    table["class"] = pd.Series(np.array(CLASSES, dtype=object)[np.arange(N) % 3], dtype="string")
    table["split"] = pd.Series(["validation" if i % 5 == 0 else "test" for i in range(N)], dtype="string")
    return table


def predict(events: pd.DataFrame, wrong: dict[int, float]) -> pd.DataFrame:
    """A prediction table: right but for the events `wrong`, which give the true class such a probability."""
    rows = []
    for event, name in zip(events["event_id"], events["class"], strict=True):
        p = dict.fromkeys(CLASSES, 0.05) | {name: 0.9}
        if event in wrong:
            other = next(label for label in CLASSES if label != name)
            p = dict.fromkeys(CLASSES, 0.0001) | {name: wrong[event], other: 1 - wrong[event]}
        rows.append({f"logp_{label}": np.log(p[label]) for label in CLASSES} | {"predicted": max(p, key=p.__getitem__)})
    return events[["shard", "event_id", "class"]].join(pd.DataFrame(rows))


def test_half_are_the_worst_mistakes_of_any_model_and_the_sample_knows_nothing_of_them(events: pd.DataFrame) -> None:
    models = {"cnn": predict(events, {1: 0.4, 2: 0.01, 10: 0.001}), "vlm": predict(events, {1: 0.02, 3: 0.3, 4: 0.2})}
    chosen = choose_explained(events, models, 6, 7)
    assert len(chosen) == 6
    assert {1, 2, 4} <= set(chosen["event_id"]), "10 is of the split validation, 3 is less wrong than 4"
    assert (chosen["split"] == "test").all()
    assert chosen["event_id"].is_monotonic_increasing
    mistakes = set(chosen[chosen["chosen"] == "mistake"]["event_id"])
    assert mistakes <= {1, 2, 4}
    # Without mistakes the sample goes on in the same order.
    fair = choose_explained(events, {"cnn": predict(events, {})}, 6, 7)
    assert (fair["chosen"] == "sample").all()
    assert set(chosen[chosen["chosen"] == "sample"]["event_id"]) <= set(fair["event_id"]) | {1, 2, 4}
    assert set(fair["event_id"]) < set(choose_explained(events, {"cnn": predict(events, {})}, 12, 7)["event_id"])
    assert set(fair["event_id"]) != set(choose_explained(events, {"cnn": predict(events, {})}, 6, 8)["event_id"])


def test_a_mistake_that_is_drawn_counts_as_drawn(events: pd.DataFrame) -> None:
    wrong = {event: 0.1 for event in range(N)}
    chosen = choose_explained(events, {"vlm": predict(events, wrong)}, 20, 7)
    assert len(chosen) == 20
    first = choose_explained(events, {"vlm": predict(events, {})}, 10, 7)
    assert set(first["event_id"]) <= set(chosen[chosen["chosen"] == "sample"]["event_id"])
    everything = choose_explained(events, {"vlm": predict(events, wrong)}, N, 7)
    assert len(everything) == N * 4 // 5
    assert (everything["chosen"] == "sample").all()


def test_events_without_truth_are_drawn(events: pd.DataFrame) -> None:
    unknown = events.assign(**{"class": pd.array([None] * N, "string"), "split": pd.array([None] * N, "string")})
    chosen = choose_explained(unknown, {"vlm": predict(events, {1: 0.1})}, 7, 7)
    assert (chosen["chosen"] == "sample").all()
    assert len(chosen) == 7


def test_nothing_is_asked_for_or_there(events: pd.DataFrame) -> None:
    models = {"vlm": predict(events, {1: 0.1})}
    for table, count in ((events, 0), (events[:0], 4)):
        chosen = choose_explained(table, models, count, 7)
        assert len(chosen) == 0
        assert "chosen" in chosen


def test_pairs_are_drawn_together(events: pd.DataFrame) -> None:
    """Each event as simulated and three changed ones, without a class."""
    ids = events["event_id"] * 10
    changed = [events.assign(event_id=ids + k, **{"class": pd.NA, "split": pd.NA}) for k in (1, 2, 3)]
    table = pd.concat([events.assign(event_id=ids), *changed]).sort_values("event_id", ignore_index=True)
    table = table.assign(original=table["event_id"] // 10 * 10).astype({"class": "string", "split": "string"})
    table = table[table["original"] % 50 != 0].reset_index(drop=True)  # of the split validation
    answers = {"vlm": predict(table.assign(**{"class": table["class"].fillna("nc")}), {11: 0.01, 21: 0.02})}
    chosen = choose_explained(table, answers, 20, 7)
    assert (chosen.groupby("original").size() == 4).all()
    assert chosen["original"].nunique() == 5


def test_an_event_without_a_prediction_is_named(events: pd.DataFrame) -> None:
    with pytest.raises(InputError, match="predictions of cnn: event 1 of shard b is missing"):
        choose_explained(events, {"cnn": predict(events, {})[2:]}, 4, 7)
