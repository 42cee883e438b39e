"""Reading the event table: every event of a run with its class, split and part, and what is known about it."""

from pathlib import Path

import numpy as np
import pandas as pd

from nuvlm.base.files import read_table
from nuvlm.simulation.counterfactuals import AS_SIMULATED

SPLITS = ("train", "validation", "test")
NO_PART = -1
"""Part of the events that no model classifies, those for training."""


def is_changed(events: pd.DataFrame) -> np.ndarray:
    """(n,) bool, the rows of the event table that are counterfactual events, of which something was changed."""
    if "counterfactual" not in events:
        return np.zeros(len(events), dtype=bool)
    return (events["counterfactual"] != AS_SIMULATED).fillna(False).to_numpy(dtype=bool)


def as_simulated(events: pd.DataFrame) -> pd.DataFrame:
    """Rows of the event table without counterfactual events."""
    changed = is_changed(events)
    return events[~changed].reset_index(drop=True) if changed.any() else events


def read_events(path: str | Path) -> pd.DataFrame:
    """Read the event table; docs/formats.md lists its columns.

    Raises:
        InputError: the file is missing or damaged.
    """
    return read_table(path, "event table")


def read_test_events(path: str | Path) -> dict[str, list[int]]:
    """Shard -> ids of its test events with known truth, of the shards that have some.

    Raises:
        InputError: the table is missing or damaged.
    """
    table = read_events(path)
    tested = table[(table["split"] == "test").fillna(False) & table["class"].notna()]
    return {str(shard): rows["event_id"].tolist() for shard, rows in tested.groupby("shard", sort=False)}


def read_part(path: str | Path, part: int) -> pd.DataFrame:
    """The rows of the event table in one part of inference, numbered from 0.

    Raises:
        InputError: missing or damaged.
    """
    table = read_events(path)
    return table[table["part"] == part].reset_index(drop=True)
