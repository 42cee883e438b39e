"""Pixel maps: a square window of the event display around the interaction, as grayscale images."""

import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr

from nuvlm.base.errors import InputError
from nuvlm.base.files import read_json
from nuvlm.base.manifest import verify_file
from nuvlm.base.stores import open_store

logger = logging.getLogger(__name__)


# Displays or pixel maps of so many bytes are in memory at once.
BLOCK_BYTES = 2**25


SMALLEST = 16
"""Side of the smallest maps that are made or read, pixels."""


def open_pixel_maps(store: str | Path) -> Any:
    """Open a pixel-map store (zarr.Group) after checking its bytes: ``images``, ``event_id``, ``corner_mm``.

    Raises:
        InputError: it is damaged, or its images are not what it says of them.
    """
    opened = open_store(store, "nuvlm-pixelmaps")
    _settings_of(store, opened)
    return opened


def image_settings(stores: Mapping[str, Path]) -> dict[str, Any]:
    """The settings that made the pixel maps, which a model trained on them depends on.

    Raises:
        InputError: the stores were made with different settings, one is missing or damaged, or its images are not what
            it says of them.
    """
    found: dict[str, Any] | None = None
    for name, path in stores.items():
        # No more than is read: this is asked before the images are.
        verify_file(path, "zarr.json")
        verify_file(path, "images/zarr.json")
        settings = _settings_of(path, zarr.open_group(path, mode="r", zarr_format=3))
        if found is not None and settings != found:
            raise InputError(
                f"{path} ({name}): pixel maps of {settings}, others of {found}. All of a run must be alike: make them "
                "anew, or take out what differs."
            )
        found = settings
    return found or {}


def _settings_of(path: str | Path, store: Any) -> dict[str, Any]:
    """The settings in the attributes of an open store, whose images agree with them."""
    attributes, remedy = dict(store.attrs), f"Remove {path} and rerun, or mend the program that wrote it."
    names = ("views", "size", "pixel_mm", "transfer", "white_mev", "knee_mev")
    lacking = [name for name in names if name not in attributes]
    if lacking or "images" not in store:
        raise InputError(f"{path}: no pixel maps; it lacks {', '.join(lacking) or 'images'}. {remedy}")
    settings = {name: attributes[name] for name in names}
    if "source" in attributes:  # made elsewhere: how is not known, so at least by whom
        settings["source"] = attributes["source"]
    images, told = store["images"], (len(settings["views"]), settings["size"], settings["size"])
    if images.dtype != np.uint8 or images.shape[1:] != told:
        raise InputError(
            f"{path}: its images are {images.dtype} {images.shape}; it says that they have {told[0]} views of "
            f"{told[1]} pixels a side, which would be uint8 (events, {', '.join(map(str, told))}). {remedy}"
        )
    if settings["size"] < SMALLEST:
        raise InputError(
            f"{path}: pixel maps with {settings['size']} pixels a side show nothing; {SMALLEST} are the least. Set "
            "pixelmap.size, or make larger ones."
        )
    return settings


def check_images(stores: Mapping[str, Path], training: Path) -> dict[str, Any]:
    """The settings that made the pixel maps, which must be those that the model of `training` (training.json) has seen.

    Raises:
        InputError: naming what differs.
    """
    ours, theirs = image_settings(stores), read_json(training).get("images")
    if not isinstance(theirs, dict):
        raise InputError(
            f"{training}: says nothing of the pixel maps that the model was trained on. Remove {training.parent} and "
            "rerun: the workflow trains it again."
        )
    differing = [
        f"{key} is {ours.get(key)}, the model has seen {theirs.get(key)}"
        for key in ours | theirs
        if ours.get(key) != theirs.get(key)
    ]
    if differing:
        made_elsewhere = "source" in ours
        mend = "Take maps of the same maker and size, and input.views" if made_elsewhere else "Set display and pixelmap"
        raise InputError(
            f"{training.parent}: trained on other pixel maps than these ({next(iter(stores.values()))}): "
            f"{'; '.join(differing)}. {mend} as in the run that trained it, or train anew."
        )
    return ours


def open_rows(store: Path, events: pd.DataFrame) -> tuple[Any, np.ndarray]:
    """The ``images`` (zarr.Array) of a store, checked, and the rows in it of `events`, all of that shard.

    Raises:
        InputError: a damaged store, or one that does not hold the events.
    """
    opened = open_pixel_maps(store)
    ids, rows = np.asarray(opened["event_id"]), events["row"].to_numpy()
    if rows.max() >= len(ids) or not np.array_equal(ids[rows], events["event_id"].to_numpy()):
        raise InputError(f"{store}: does not hold the events of the event table. Remove both and rerun.")
    return opened["images"], rows


def read_blocks(
    stores: Mapping[str, Path], events: pd.DataFrame, at_once: int | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield positions in an event table and the pixel maps there, at most `at_once` events of a shard at a time.

    Args:
        stores: shard name -> pixel-map store.
        events: with the columns shard, row and event_id.
        at_once: what fits in :data:`BLOCK_BYTES`, if None.

    Raises:
        InputError: see :func:`open_shards`.
    """
    for _, positions, images, rows in open_shards(stores, events):
        size = at_once or max(1, BLOCK_BYTES // math.prod(images.shape[1:]))
        for begin in range(0, len(rows), size):
            yield positions[begin : begin + size], _read_rows(images, rows[begin : begin + size])


def open_shards(stores: Mapping[str, Path], events: pd.DataFrame) -> Iterator[tuple[Path, np.ndarray, Any, np.ndarray]]:
    """Yield the store of each shard in an event table, the shard's positions there, and what :func:`open_rows` gives.

    Args:
        stores: shard name -> pixel-map store.
        events: with the columns shard, row and event_id.

    Raises:
        InputError: see :func:`open_rows`; or stores of different sizes.
    """
    expected: tuple[int, ...] | None = None
    for shard, group in events.reset_index(drop=True).groupby("shard", sort=False):
        store = stores[str(shard)]
        images, rows = open_rows(store, group)
        shape = images.shape[1:]
        expected = expected or shape
        if shape != expected:
            raise InputError(
                f"{store}: its pixel maps are {shape}, those of other shards {expected}. Rerun crop_displays for all."
            )
        yield store, group.index.to_numpy(), images, rows


def _read_rows(array: Any, rows: np.ndarray) -> np.ndarray:
    """Events `rows` of a Zarr array, neighbours at once: its own indexing by lists takes thirty times as long."""
    values = np.empty((len(rows), *array.shape[1:]), dtype=array.dtype)
    begins = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
    for begin, end in zip(begins, [*begins[1:], len(rows)], strict=True):
        values[begin:end] = array[rows[begin] : rows[end - 1] + 1]
    return values
