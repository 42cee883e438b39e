"""Prediction tables: class probabilities for the events of one part, and the cost of computing them."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from nuvlm.base.classes import CLASSES
from nuvlm.base.errors import InputError
from nuvlm.base.files import read_json, read_table, write_json, write_table
from nuvlm.dataset.event_table import NO_PART
from nuvlm.models.power import Energy

PROBABILITIES = tuple(f"p_{label}" for label in CLASSES)
LOG_PROBABILITIES = tuple(f"logp_{label}" for label in CLASSES)


@dataclass(frozen=True)
class Cost:
    """Measured cost of classifying one part."""

    device: str
    batch_size: int
    """Events per batch; smaller than configured if that did not fit in memory."""
    events: int
    load_seconds: float
    """Time to load the model."""
    seconds: float
    """Time to classify all events, with the images in memory and the model loaded and warmed up."""
    peak_memory_mb: float
    """Of the device, or of the process on a CPU."""
    energy_j: float | None = None
    """Energy used during `seconds`; None if unknown."""
    energy_measured: bool = False
    """True if from counters; otherwise an estimate."""
    energy_how: str = ""
    """Counters used and power assumed."""

    def with_energy(self, energy: Energy) -> "Cost":
        return replace(self, energy_j=energy.joules, energy_measured=energy.measured, energy_how=energy.how)


def at_temperature(log_probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Log of softmax(T log p) over the classes: Eq. 1 of arXiv 2509.08461. T > 1 sharpens.

    Args:
        log_probabilities: (n, classes), up to a constant per event.

    Returns:
        (n, classes).
    """
    logits = temperature * log_probabilities.astype(np.float64)
    logits = logits - logits.max(axis=1, keepdims=True)
    logp: np.ndarray = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return logp


def write_predictions(
    path: str | Path,
    events: pd.DataFrame,
    log_probabilities: np.ndarray,
    temperature: float,
    seconds: np.ndarray,
    extra: Mapping[str, np.ndarray],
    cost: Cost,
) -> None:
    """Write a prediction table, and its cost to a ``.json`` file beside it.

    Args:
        events: rows of the event table.
        log_probabilities: (events, classes), in the order of CLASSES, up to a constant per event.
        temperature: of the probabilities; the table's log-probabilities are at temperature 1.
        seconds: (events,) time per event: the batch time divided by the batch size.
        extra: additional columns.

    Raises:
        InputError: a log-probability is not finite.
    """
    bad = ~np.isfinite(log_probabilities).all(axis=1)
    if bad.any():
        event = events.iloc[int(np.argmax(bad))]
        raise InputError(
            f"{path}: the prediction is not finite for event {event['event_id']} of shard {event['shard']}. "
            "The training has diverged: train again with a lower learning rate."
        )
    logp = at_temperature(log_probabilities, 1.0)
    p = np.exp(at_temperature(logp, temperature))
    table = events[["event_id", "shard", "row", "class", "centred_by"]].reset_index(drop=True)
    table["predicted"] = pd.Series(np.array(CLASSES, dtype=object)[logp.argmax(axis=1)], dtype="string")
    for column, values in zip(PROBABILITIES + LOG_PROBABILITIES, np.concatenate([p, logp], axis=1).T, strict=True):
        table[column] = values
    table["seconds"] = seconds
    for column, values in extra.items():
        table[column] = values
    write_json(Path(path).with_suffix(".json"), asdict(cost), sealed=True)
    write_table(path, table)


def part_tables(folder: Path, events: pd.DataFrame) -> list[Path]:
    """The prediction tables of the parts of an event table.

    Args:
        folder: of a model under a condition, predictions/{model}/{condition}; it may hold further tables, of an earlier
            run with more parts.
        events: the event table.
    """
    return [folder / f"{part}.parquet" for part in sorted({*events["part"]} - {NO_PART})]


def read_predictions(paths: Iterable[str | Path]) -> pd.DataFrame:
    """Read and concatenate prediction tables.

    Raises:
        InputError: a table is missing or damaged, or an event appears twice.
    """
    tables = []
    for path in paths:
        tables.append(read_table(path, "prediction table"))
        lacking = [column for column in PROBABILITIES + LOG_PROBABILITIES if column not in tables[-1]]
        if lacking:
            raise InputError(f"{path}: has no column {', '.join(lacking)}. Remove the predictions and rerun.")
    table = pd.concat(tables, ignore_index=True)
    twice = table.duplicated(["shard", "event_id"])
    if twice.any():
        event = table[twice].iloc[0]
        raise InputError(
            f"event {event['event_id']} of shard {event['shard']} is in two prediction tables. Remove them and rerun."
        )
    return table


def read_costs(paths: Iterable[str | Path]) -> list[Cost]:
    """Read the costs written beside the tables `paths`.

    Raises:
        InputError: a file is missing or damaged.
    """
    costs = []
    for path in paths:
        file = Path(path).with_suffix(".json")
        try:
            costs.append(Cost(**read_json(file)))
        except TypeError as error:
            raise InputError(f"{file}: not the cost of a prediction table ({error}). Remove it and rerun.") from error
    return costs
