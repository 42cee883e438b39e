"""Pixel maps made elsewhere: what their sources share. They become a pixel-map store and a table of truth."""

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd

from nuvlm.base.classes import CLASSES
from nuvlm.base.errors import InputError, OnBadEvent
from nuvlm.base.files import write_table
from nuvlm.base.logs import track
from nuvlm.base.stores import create_store

logger = logging.getLogger(__name__)

SMALLEST, LARGEST = 16, 4096
"""Side of a map, pixels; what says that it is larger is taken for a bomb, and never decoded."""
WORDS = {"nue": "nue_cc", "nuecc": "nue_cc", "numu": "numu_cc", "numucc": "numu_cc", "nc": "nc"}
"""What others call our classes, in lower case and without underscores."""


@dataclass(frozen=True)
class PixelMap:
    """One event as its file has it. The defaults stand for truth that is not known."""

    name: str
    """What the file calls it."""
    event_id: int
    images: np.ndarray
    """uint8 (views, size, size)."""
    word: str | None = None
    """What the file calls its class."""
    nu_pdg: int = 0
    is_cc: bool = False
    nu_energy: float = np.nan
    """GeV."""
    inelasticity: float = np.nan
    mode: int = 0


class BadEvent(Exception):
    """Why one event cannot be used."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"event {name} {reason}")


def class_of(word: str | None) -> str | None:
    """Our class for another program's word, None where it is none of ours (a tau neutrino's charged current)."""
    return WORDS.get("".join(word.lower().split()).replace("_", "")) if word else None


def is_number(name: str) -> bool:
    return name.isascii() and name.isdigit()


def event_number(name: str) -> int:
    """The event id of a name: the number that it is, else the first 64 bits of its SHA-256, the same everywhere."""
    if is_number(name) and int(name) < 2**64:
        return int(name)
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8], "big")


def require_distinct(path: Path, names: Sequence[str], ids: Sequence[int]) -> None:
    """Refuse two events of one id.

    Raises:
        InputError: naming both.
    """
    seen: dict[int, str] = {}
    for name, number in zip(names, ids, strict=True):
        if number in seen:
            raise InputError(
                f"{path}: events {seen[number]} and {name} have the same id, {number}. Rename one of them."
            )
        seen[number] = name


def choose_views(path: Path, found: Sequence[str], wanted: Sequence[str] | None) -> list[str]:
    """The views to use, in order: `wanted`, or all that were found.

    Raises:
        InputError: a view that the source does not have.
    """
    missing = [view for view in wanted or () if view not in found]
    if missing:
        raise InputError(
            f"{path}: has no view {', '.join(missing)}; it has {', '.join(found)}. Set input.views to some of these, "
            "or leave it out for all."
        )
    return list(wanted or found)


def write_maps(
    path: Path,
    store: Path,
    truth: Path,
    events: Iterable[PixelMap | BadEvent],
    total: int,
    *,
    source: str,
    views: Sequence[str],
    on_bad_event: OnBadEvent,
) -> pd.DataFrame:
    """Write the pixel-map store and the table of truth (docs/formats.md), event by event: memory stays flat.

    Args:
        path: where the events come from, for messages.
        events: in order; what cannot be used comes as the reason why.
        total: number of `events`.
        source: input.source.
        views: names of the views of every event.
        on_bad_event: `error` stops at an event that cannot be used, `skip` leaves it out and counts it.

    Returns:
        The table of truth.

    Raises:
        InputError: an event that cannot be used, or none that can.
    """
    bad: list[BadEvent] = []
    usable = _usable(path, track(events, "events", total), on_bad_event, bad)
    first = next(usable, None)
    if first is None:
        raise InputError(
            f"{path}: none of {total} events can be used" + (f"; {bad[0]}." if bad else ". Take it out of input.files.")
        )
    attributes = {
        "format": "nuvlm-pixelmaps",
        "version": 1,
        "source": source,
        "views": list(views),
        "size": first.images.shape[-1],
        # Not known of maps that were made elsewhere: how long a pixel is, and how charge became a grey value.
        "pixel_mm": None,
        "centre": None,
        "transfer": None,
        "white_mev": None,
        "knee_mev": None,
    }
    rows, dark = [], []
    with create_store(store, attributes) as out:
        for event in chain([first], usable):
            out.append("images", event.images[None])
            rows.append(_row(event))
            if not event.images.any():
                dark.append(event.name)
        table = _table(rows)
        out.append("event_id", table["event_id"].to_numpy())
        out.append("corner_mm", np.full((len(table), 3), np.nan))
        for name in ("visible_energy", "edge_energy"):
            out.append(name, np.full(len(table), np.nan))
        # Within the store's block: neither of the two appears without the other.
        write_table(truth, table)
    if bad:
        logger.warning("%s: %d of %d events cannot be used and were left out (first: %s)",
                       path, len(bad), total, bad[0])  # fmt: skip
    if dark:
        logger.warning("%s: %d of %d pixel maps are black (first: event %s)", path, len(dark), len(table), dark[0])
    _log_classes(path, table)
    return table


def _usable(
    path: Path, events: Iterable[PixelMap | BadEvent], on_bad_event: OnBadEvent, bad: list[BadEvent]
) -> Iterator[PixelMap]:
    shape: tuple[int, ...] | None = None
    for event in events:
        if isinstance(event, PixelMap):
            reason = _reason(event, shape)
            if reason is None:
                shape = event.images.shape
                yield event
                continue
            event = BadEvent(event.name, reason)
        if on_bad_event == "error":
            raise InputError(f"{path}: {event}. Mend or remove it, or set input.on_bad_event to skip.")
        bad.append(event)


def _reason(event: PixelMap, shape: tuple[int, ...] | None) -> str | None:
    """Why an event that was read cannot be used after all."""
    _, height, width = event.images.shape
    if height != width:
        return f"is {height} x {width} pixels, not square"
    if not SMALLEST <= height <= LARGEST:
        return f"is {height} x {width} pixels; a side of {SMALLEST} to {LARGEST} can be used"
    if shape is not None and event.images.shape != shape:
        return f"is {height} x {width} pixels, those before are {shape[1]} x {shape[2]}"
    return None


def _row(event: PixelMap) -> tuple[object, ...]:
    label = class_of(event.word)
    return (
        event.event_id,
        event.name,
        event.word,
        label,
        event.nu_pdg,
        event.is_cc,
        event.nu_energy,
        event.inelasticity,
        event.mode,
    )


def _table(rows: list[tuple[object, ...]]) -> pd.DataFrame:
    types = {
        "event_id": "uint64",
        "name": "string",
        "word": "string",
        "class": "string",
        "nu_pdg": "int32",
        "is_cc": "uint8",
        "nu_energy": "float32",
        "inelasticity": "float32",
        "mode": "int8",
    }
    columns = zip(*rows, strict=True)
    table = pd.DataFrame(
        {name: pd.Series(list(values), dtype=kind) for (name, kind), values in zip(types.items(), columns, strict=True)}
    )
    # What only deposits in space can tell.
    table["n_voxels"] = pd.Series(pd.NA, index=table.index, dtype="UInt32")
    for column in ("vertex_x_mm", "vertex_y_mm", "vertex_z_mm"):
        table[column] = np.nan
    return table


def _log_classes(path: Path, table: pd.DataFrame) -> None:
    counts = table["class"].value_counts()
    logger.info("%s: %d events: %s", path, len(table), ", ".join(f"{counts.get(c, 0)} {c}" for c in CLASSES))
    without = table[table["class"].isna()]
    if len(without):
        words = Counter(without["word"].fillna("no truth").str.slice(0, 40))
        logger.warning("%s: %d events have none of our classes (%s): they get predictions and no score", path,
                       len(without), ", ".join(f"{word}: {n}" for word, n in words.most_common()))  # fmt: skip
