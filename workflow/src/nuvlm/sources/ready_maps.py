"""From ready pixel maps to a pixel-map store and a truth table: common to all readers of pixel maps."""

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import PrivateAttr

from nuvlm.base.classes import CLASSES
from nuvlm.base.conclusions import Conclusions, Record
from nuvlm.base.errors import InputError, OnBadEvent
from nuvlm.base.files import write_table
from nuvlm.base.logs import track
from nuvlm.base.settings import Settings
from nuvlm.base.stores import create_store
from nuvlm.sources.wire_pixels import WirePixels

logger = logging.getLogger(__name__)

SMALLEST, LARGEST = 16, 4096
"""Side of a pixel map, pixels. A larger one is taken for a decompression bomb and not decoded."""
BRIGHT = 200
"""Median grey value of a pixel map from which its charge is dark: 255 where most pixels are empty."""
CLASS_OF_LABEL = {"nue": "nue_cc", "nuecc": "nue_cc", "numu": "numu_cc", "numucc": "numu_cc", "nc": "nc"}
"""Class labels of other programs (lower case, no underscores) -> classes of NuVLM."""


@dataclass(frozen=True)
class PixelMap:
    """The pixel maps and the truth of one event. The defaults mean unknown."""

    name: str
    """Name in the file or folder."""
    event_id: int
    images: np.ndarray
    """uint8 (views, size, size)."""
    label: str | None = None
    """Class label in the file."""
    nu_pdg: int = 0
    is_cc: bool = False
    nu_energy: float = np.nan
    """GeV."""
    inelasticity: float = np.nan
    mode: int = 0
    """Scattering mode, a value of :data:`nuvlm.detector.voxels.MODES`."""
    vertex_mm: tuple[float, float, float] = (np.nan, np.nan, np.nan)
    """In the coordinates of the source's detector."""


@dataclass(frozen=True)
class MapAxes:
    """What the columns and rows of all maps of a source are: labels of the axes in the report."""

    columns: str = "column"
    rows: str = "row"
    columns_per_pixel: float = 1
    """Such as wires in a pixel: numbers along the axis are multiples of it."""
    rows_per_pixel: float = 1
    up: bool = False
    """Whether the first row is drawn at the bottom."""


WIRES_AND_TIME = MapAxes("wire", "time tick", up=True)
"""Axes of wire planes."""


class BadEvent(Exception):
    """An event that cannot be used, and the reason."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"event {name} {reason}")


class PixelMapWriter(Settings):
    """Writes the pixel maps of one file or folder to one pixel-map store and one truth table (docs/formats.md)."""

    store: Path
    truth: Path
    views: tuple[str, ...] | None = None
    """The views to use, in this order; None for all."""
    on_bad_event: OnBadEvent = "error"
    """``error`` stops at an event that cannot be used; ``skip`` leaves it out and counts it."""
    wires: WirePixels = WirePixels()
    """How hits on wires become pixels."""
    _conclusions: Conclusions = PrivateAttr(default_factory=Conclusions)

    def conclude(self, path: Path, subject: str, value: str, evidence: str, doubt: bool = False) -> None:
        """Record what the reader concluded about `path`, before :meth:`write`: logged, and kept in the store."""
        self._conclusions.add(path, subject, value, evidence, doubt)

    def choose_views(self, path: Path, found: Sequence[str]) -> list[str]:
        """The views to use, in order: :attr:`views`, or all of `found`.

        Raises:
            InputError: a chosen view does not exist.
        """
        missing = [view for view in self.views or () if view not in found]
        if missing:
            raise InputError(
                f"{path}: has no view {', '.join(missing)}; it has {', '.join(found)}. Set input.views to some of "
                "these, or leave it out to use all."
            )
        return list(self.views or found)

    def write(
        self,
        path: Path,
        events: Iterable[PixelMap | BadEvent],
        total: int,
        *,
        source: str,
        views: Sequence[str],
        axes: MapAxes = MapAxes(),
        geometry: Mapping[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Write the store and the truth table, event by event: memory stays constant.

        Args:
            path: the input file or folder, for messages.
            events: `total` of them, in order. The images of one are not used after the next is asked for.
            source: name of the source, kept in the store: models refuse maps of another source.
            views: names of the views of every event.
            axes: what columns and rows are.
            geometry: what a pixel is, if the source knows it, kept in the store: models refuse maps with another.

        Returns:
            The truth table.

        Raises:
            InputError: an event cannot be used, or none can.
        """
        bad: list[BadEvent] = []
        usable = _usable(path, track(events, "events", total), self.on_bad_event, bad)
        first = next(usable, None)
        if first is None:
            reason = f"; {bad[0]}." if bad else ". Remove it from input.files."
            raise InputError(f"{path}: none of {total} events can be used{reason}")
        attributes: dict[str, Any] = {
            "format": "nuvlm-pixelmaps",
            "version": 1,
            "source": source,
            "views": list(views),
            "size": first.images.shape[-1],
            # Unknown for ready maps: the side of a pixel, and how charge was turned into grey values.
            "pixel_mm": None,
            "centre": None,
            "centred_by": [],
            "transfer": None,
            "white_mev": None,
            "knee_mev": None,
            "axes": asdict(axes),
        }
        if geometry is not None:
            attributes["geometry"] = dict(geometry)
        rows, black = [], []
        look = _Look()
        with create_store(self.store, attributes) as out:
            for event in chain([first], usable):
                out.append("images", event.images[None])
                rows.append(_row(event))
                look.add(event)
                if not event.images.any():
                    black.append(event.name)
            table = _table(rows)
            out.append("event_id", table["event_id"].to_numpy())
            out.append("corner_mm", np.full((len(table), 3), np.nan))
            for name in ("visible_energy", "edge_energy", "window_share"):
                out.append(name, np.full(len(table), np.nan))
            out.append("centred_by", np.full(len(table), 255, dtype=np.uint8))
            # Inside the block of the store, so that neither output appears without the other.
            write_table(self.truth, table)
            if bad:
                value = f"{len(bad)} of {total} events cannot be used and were left out"
                self.conclude(path, "events left out", value, f"first: {bad[0]}", doubt=True)
            if black:
                value = f"{len(black)} of {len(table)} pixel maps are black"
                self.conclude(path, "images", value, f"first: event {black[0]}", doubt=True)
            look.conclude(path, views, self.conclude)
            for what, unknown in (
                ("class", table["class"].isna()),
                ("neutrino", table["nu_pdg"] == 0),
                ("mode", table["mode"] == 0),
                ("neutrino energy", table["nu_energy"].isna()),
                ("inelasticity", table["inelasticity"].isna()),
            ):
                if unknown.any():
                    self.conclude(path, "unknown truth", what, f"in {unknown.sum()} of {len(table)} events")
            attributes["conclusions"] = self._conclusions.to_json()
        _log_classes(path, table)
        return table


class _Look:
    """What images of energy deposits look like: mostly dark, and different from view to view and event to event."""

    def __init__(self) -> None:
        self._n = self._bright = 0
        self._same_views: list[str] = []
        self._repeated: list[str] = []
        self._seen: set[int] = set()

    def add(self, event: PixelMap) -> None:
        """Add the images of an event."""
        self._n += 1
        self._bright += bool(2 * np.count_nonzero(event.images > BRIGHT) > event.images.size)
        if not event.images.any():
            return
        if len(event.images) > 1 and (event.images[1:] == event.images[0]).all():
            self._same_views.append(event.name)
        digest = hash(event.images.tobytes())
        if digest in self._seen:
            self._repeated.append(event.name)
        self._seen.add(digest)

    def conclude(self, path: Path, views: Sequence[str], record: Record) -> None:
        """Record what is unusual.

        Raises:
            InputError: most images are bright, so that dark pixels must be those with charge.
        """
        if self._bright > 0.5 * self._n:
            raise InputError(
                f"{path}: most pixels are bright in {self._bright} of {self._n} events: the images are inverted. "
                "Pixels without charge must be black (0): invert them."
            )
        for names, what in (
            (self._same_views, f"the views {', '.join(views)} are the same image"),
            (self._repeated, "the images are those of another event"),
        ):
            if names:
                value = f"in {len(names)} of {self._n} events, {what}"
                record(path, "images", value, f"first: event {names[0]}", doubt=True)


def class_of(label: str | None) -> str | None:
    """The class for a label of another program; None for other labels (such as tau-neutrino charged current)."""
    return CLASS_OF_LABEL.get("".join(label.lower().split()).replace("_", "")) if label else None


def is_number(name: str) -> bool:
    """Whether a name consists of ASCII digits."""
    return name.isascii() and name.isdigit()


def event_number(name: str) -> int:
    """Event id of a named event: the number if the name is one, else the first 64 bits of the name's SHA-256."""
    if is_number(name) and int(name) < 2**64:
        return int(name)
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8], "big")


def require_distinct(path: Path, names: Sequence[str], ids: Sequence[int]) -> None:
    """Check that event ids are unique.

    Raises:
        InputError: two events have the same id.
    """
    seen: dict[int, str] = {}
    for name, number in zip(names, ids, strict=True):
        if number in seen:
            raise InputError(
                f"{path}: events {seen[number]} and {name} have the same id, {number}. Rename one of them."
            )
        seen[number] = name


def _usable(
    path: Path, events: Iterable[PixelMap | BadEvent], on_bad_event: OnBadEvent, bad: list[BadEvent]
) -> Iterator[PixelMap]:
    shape: tuple[int, ...] | None = None
    for event in events:
        if isinstance(event, PixelMap):
            reason = _wrong_shape(event, shape)
            if reason is None:
                shape = event.images.shape
                yield event
                continue
            event = BadEvent(event.name, reason)
        if on_bad_event == "error":
            raise InputError(f"{path}: {event}. Correct or remove it, or set input.on_bad_event to skip.")
        bad.append(event)


def _wrong_shape(event: PixelMap, shape: tuple[int, ...] | None) -> str | None:
    """Reason why the shape of an event's maps cannot be used; `shape` is that of the events before."""
    _, height, width = event.images.shape
    if height != width:
        return f"is {height} x {width} pixels, not square"
    if not SMALLEST <= height <= LARGEST:
        return f"is {height} x {width} pixels; a side of {SMALLEST} to {LARGEST} can be used"
    if shape is not None and event.images.shape != shape:
        return f"is {height} x {width} pixels, those before are {shape[1]} x {shape[2]}"
    return None


def _row(event: PixelMap) -> tuple[object, ...]:
    return (
        event.event_id,
        event.name,
        event.label,
        class_of(event.label),
        event.nu_pdg,
        event.is_cc,
        event.nu_energy,
        event.inelasticity,
        event.mode,
        *event.vertex_mm,
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
        "vertex_x_mm": "float64",
        "vertex_y_mm": "float64",
        "vertex_z_mm": "float64",
    }
    columns = zip(*rows, strict=True)
    table = pd.DataFrame(
        {name: pd.Series(list(values), dtype=kind) for (name, kind), values in zip(types.items(), columns, strict=True)}
    )
    # Needs deposits in space.
    table["n_voxels"] = pd.Series(pd.NA, index=table.index, dtype="UInt32")
    return table


def _log_classes(path: Path, table: pd.DataFrame) -> None:
    counts = table["class"].value_counts()
    logger.info("%s: %d events: %s", path, len(table), ", ".join(f"{counts.get(c, 0)} {c}" for c in CLASSES))
    without = table[table["class"].isna()]
    if len(without):
        labels = Counter(without["word"].fillna("no truth").str.slice(0, 40))
        logger.warning("%s: %d events belong to none of the three classes (%s): they get predictions and no score",
                       path, len(without), ", ".join(f"{label}: {n}" for label, n in labels.most_common()))  # fmt: skip
