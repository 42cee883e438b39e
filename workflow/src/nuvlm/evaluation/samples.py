"""Predictions of a classifier joined with the truth of the same events, and checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from nuvlm.base.classes import CLASSES, class_codes
from nuvlm.base.errors import InputError
from nuvlm.models.predictions import LOG_PROBABILITIES, PROBABILITIES, read_predictions

KEY = ["shard", "event_id"]

Predictions = Mapping[str, Mapping[str, Sequence[str | Path]]]
"""Prediction tables (one per part) of each model under each condition."""


@dataclass(frozen=True)
class Sample:
    """Predictions of one model under one condition, event by event."""

    truth: np.ndarray
    """(n,) index into CLASSES; -1 if unknown."""
    predicted: np.ndarray
    """(n,) index into CLASSES."""
    probabilities: np.ndarray
    """(n, 3), in the order of CLASSES."""
    log_probabilities: np.ndarray
    """(n, 3), in the order of CLASSES, at temperature 1."""

    def __len__(self) -> int:
        return len(self.truth)

    @property
    def correct(self) -> np.ndarray:
        """(n,) bool, the prediction is right."""
        same: np.ndarray = self.predicted == self.truth
        return same


def labelled_events(events: pd.DataFrame, split: str) -> pd.DataFrame:
    """Rows of the event table in `split` with known truth; scores use those of ``test``."""
    return events[(events["split"] == split).fillna(False) & events["class"].notna()].reset_index(drop=True)


def read_sample(events: pd.DataFrame, parts: Sequence[str | Path]) -> Sample:
    """Read the predictions in `parts` for `events` (rows of the event table), in their order.

    Raises:
        InputError: an event has no or two predictions, or an invalid class or probability.
    """
    where = Path(parts[0]).parent
    joined = events[[*KEY, "class"]].merge(
        read_predictions(parts)[[*KEY, "predicted", *PROBABILITIES, *LOG_PROBABILITIES]],
        on=KEY,
        how="left",
        validate="one_to_one",
    )
    missing = joined[joined["predicted"].isna()]
    if len(missing):
        raise InputError(
            f"{where}: {len(missing)} of {len(events)} events have no prediction, first {_name(missing.iloc[0])}. "
            "The predictions belong to another event table: remove them and rerun."
        )
    unknown = joined[~joined["predicted"].isin(CLASSES)]
    if len(unknown):
        raise InputError(
            f"{where}: {_name(unknown.iloc[0])} is predicted as {unknown.iloc[0]['predicted']!r}, "
            f"not one of {', '.join(CLASSES)}. Remove the predictions and rerun."
        )
    p = joined[list(PROBABILITIES)].to_numpy(np.float64)
    # NaN fails every comparison.
    good = ((p >= 0) & (p <= 1 + 1e-6)).all(axis=1) & (np.abs(p.sum(axis=1) - 1) < 1e-3)
    if not good.all():
        first = int(np.argmin(good))
        raise InputError(
            f"{where}: {_name(joined.iloc[first])} has {', '.join(f'{value:g}' for value in p[first])} for "
            "probabilities. The model has diverged, or another program wrote the table: train or classify again."
        )
    logp = joined[list(LOG_PROBABILITIES)].to_numpy(np.float64)
    if not np.isfinite(logp).all():
        first = int(np.argmin(np.isfinite(logp).all(axis=1)))
        raise InputError(
            f"{where}: {_name(joined.iloc[first])} has {', '.join(f'{value:g}' for value in logp[first])} for "
            "log-probabilities. Remove the predictions and rerun."
        )
    return Sample(class_codes(joined["class"]), class_codes(joined["predicted"]), p, logp)


def _name(event: "pd.Series[str]") -> str:
    return f"event {event['event_id']} of shard {event['shard']}"
