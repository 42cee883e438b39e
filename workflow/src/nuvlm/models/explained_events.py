"""Which events are explained: the worst mistakes, and events drawn at random, which alone may be counted."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from nuvlm.base.classes import CLASSES
from nuvlm.base.errors import InputError
from nuvlm.base.identity import hash_of
from nuvlm.dataset.event_table import read_events
from nuvlm.models.predictions import read_predictions

MISTAKE, SAMPLE = "mistake", "sample"


def read_explained(
    events: Path, predictions: Mapping[str, Path], model: str, *, part: int, count: int, seed: int
) -> pd.DataFrame:
    """The events of a part to be explained, with the class that a model predicted.

    Args:
        events: the event table.
        predictions: model -> its prediction table of this part.
        model: model whose predictions are explained.
        part, count, seed: see :func:`choose_explained`.

    Returns:
        Rows of the event table with the columns `chosen` and `predicted`.

    Raises:
        InputError: a table is damaged, or an event has no prediction or an unknown class.
    """
    tables = {name: read_predictions([path]) for name, path in predictions.items()}
    table = read_events(events)
    chosen = choose_explained(table[table["part"] == part], tables, count, seed)
    chosen = chosen.merge(
        tables[model][["shard", "event_id", "predicted"]], on=["shard", "event_id"], validate="one_to_one"
    )
    foreign = ~chosen["predicted"].isin(CLASSES)
    if foreign.any():
        event = chosen[foreign].iloc[0]
        raise InputError(
            f"{predictions[model]}: unknown class of event {event['event_id']} of shard {event['shard']}. Remove it "
            "and rerun."
        )
    return chosen


def choose_explained(
    events: pd.DataFrame, predictions: Mapping[str, pd.DataFrame], count: int, seed: int
) -> pd.DataFrame:
    """Choose up to `count` events of the split test, or without truth, to be explained.

    Up to half of `count` are the worst mistakes: a wrong prediction of any model with the lowest probability of the
    true class (at temperature 1). The others are a random sample, in the order of a hash of event and seed, independent
    of predictions; an event in both counts as part of the sample. Counterfactual events have the hash of their
    original, so that they are drawn together. If there are at most `count` events, all are the sample.

    Args:
        events: rows of the event table.
        predictions: model -> its prediction table, which holds these events.
        count: maximum number of events.
        seed: of the sample.

    Returns:
        Rows of `events`, in their order, with the column `chosen`: ``mistake`` or ``sample``.

    Raises:
        InputError: an event without a prediction.
    """
    # Events without a class have no split.
    events = events[events["split"].fillna("test") == "test"].reset_index(drop=True)
    lowest = np.zeros(len(events))  # log-probability of the true class, lowest of all wrong predictions
    for model, table in predictions.items():
        joined = events[["shard", "event_id", "class"]].merge(
            table.drop(columns="class"), on=["shard", "event_id"], how="left", validate="one_to_one"
        )
        missing = joined["predicted"].isna()
        if missing.any():
            event = joined[missing].iloc[0]
            raise InputError(
                f"predictions of {model}: event {event['event_id']} of shard {event['shard']} is missing. They were "
                "made from another event table: remove them and rerun."
            )
        for name in joined["class"].dropna().unique():
            wrong = ((joined["class"] == name) & (joined["predicted"] != name)).fillna(False).to_numpy(dtype=bool)
            lowest[wrong] = np.minimum(lowest[wrong], joined[f"logp_{name}"].to_numpy()[wrong])
    worst = np.argsort(lowest, kind="stable")
    mistakes = worst[lowest[worst] < 0][: count // 2].tolist()
    identities = zip(events["shard"], events.get("original", events["event_id"]), strict=True)
    drawn = [hash_of("explain", seed, shard, event) for shard, event in identities]
    chosen = dict.fromkeys(mistakes, MISTAKE)
    for row in sorted(range(len(events)), key=drawn.__getitem__):
        if row not in chosen and len(chosen) >= count:
            break
        chosen[row] = SAMPLE
    rows = sorted(chosen)
    return (
        events.iloc[rows].assign(chosen=pd.array([chosen[row] for row in rows], dtype="string")).reset_index(drop=True)
    )
