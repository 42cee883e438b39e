"""Reading pixel-map stores: their settings, and the images of the rows of an event table."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr

from nuvlm.base.errors import InputError
from nuvlm.base.files import read_json
from nuvlm.base.manifest import verify_manifest
from nuvlm.base.stores import open_store
from nuvlm.detector.geometry import LARGEST_PICTURE

BLOCK_BYTES = 2**25
"""Size of the pixel maps that :func:`read_blocks` reads at once."""
SMALLEST = 16
"""Side of the smallest pixel maps that are accepted, pixels."""


def open_pixel_maps(store: str | Path) -> Any:
    """Open a pixel-map store (zarr.Group) after checking its bytes: ``images``, ``event_id``, ``corner_mm``, ...

    A store that this process has already checked is not read again for the check, see
    :func:`nuvlm.base.manifest.verify_manifest`.

    Raises:
        InputError: it is damaged, or its images do not agree with its attributes.
    """
    opened = open_store(store, "nuvlm-pixelmaps")
    _settings_of(store, opened)
    return opened


def image_settings(stores: Mapping[str, Path], zoom: int | None = None) -> dict[str, Any]:
    """The settings that the pixel maps were made with. A model trained on pixel maps depends on them.

    Only metadata is read and checked; :func:`read_blocks` checks the images.

    Args:
        stores: shard name -> pixel-map store.
        zoom: integer upscaling of pixel maps before the base model's image processor (`pixelmap.zoom`), for ViT, VLM
            head and VLM; it becomes one of the settings.

    Raises:
        InputError: the stores were made with different settings, one is missing or damaged, or its images do not agree
            with its attributes; or the pictures would be larger than :data:`LARGEST_PICTURE`.
    """
    found: dict[str, Any] | None = None
    for name, path in stores.items():
        verify_manifest(path, ["zarr.json", "images/zarr.json"])
        settings = _settings_of(path, zarr.open_group(path, mode="r", zarr_format=3))
        if found is not None and settings != found:
            raise InputError(
                f"{path} ({name}): pixel maps of {settings}, others of {found}. All of a run must be alike: remake "
                "them, or remove those that differ."
            )
        found = settings
    found = found or {}
    if zoom is None:
        return found
    if (side := found.get("size", 0) * zoom) > LARGEST_PICTURE:
        raise InputError(
            f"{next(iter(stores.values()))}: with pixelmap.zoom {zoom}, pixel maps of {found['size']} pixels a side "
            f"give pictures of {side}; {LARGEST_PICTURE} is the maximum. Set pixelmap.zoom to "
            f"{LARGEST_PICTURE // found['size']} or less."
        )
    return found | {"zoom": zoom}


def _settings_of(path: str | Path, store: Any) -> dict[str, Any]:
    """The settings in the attributes of an open store, after a check that its images agree with them."""
    attributes, remedy = dict(store.attrs), f"Remove {path} and rerun, or correct the program that wrote it."
    names = ("views", "size", "pixel_mm", "centre", "transfer", "white_mev", "knee_mev")
    missing = [name for name in names if name not in attributes]
    if missing or "images" not in store:
        raise InputError(f"{path}: not pixel maps; {', '.join(missing) or 'images'} missing. {remedy}")
    settings = {name: attributes[name] for name in names}
    # Made elsewhere: their source is known, and sometimes what a pixel is.
    settings |= {name: attributes[name] for name in ("source", "geometry") if name in attributes}
    images, expected = store["images"], (len(settings["views"]), settings["size"], settings["size"])
    if images.dtype != np.uint8 or images.shape[1:] != expected:
        raise InputError(
            f"{path}: its images are {images.dtype} {images.shape}, but its attributes give {expected[0]} views of "
            f"{expected[1]} pixels a side, that is uint8 (events, {', '.join(map(str, expected))}). {remedy}"
        )
    if settings["size"] < SMALLEST:
        raise InputError(
            f"{path}: pixel maps with {settings['size']} pixels a side are too small; {SMALLEST} is the minimum. Set "
            "pixelmap.size, or make larger ones."
        )
    return settings


def check_images(stores: Mapping[str, Path], training: Path, zoom: int | None = None) -> dict[str, Any]:
    """Check that the pixel maps were made with the settings that a model was trained with, and return them.

    Args:
        stores: shard name -> pixel-map store.
        training: the model's ``training.json``.
        zoom: see :func:`image_settings`; the zoom of a model that does not say is 1.

    Raises:
        InputError: settings differ, or :func:`image_settings` raises; the message names the differences.
    """
    found, trained = image_settings(stores, zoom), read_json(training).get("images")
    if not isinstance(trained, dict):
        raise InputError(
            f"{training}: has no settings of the pixel maps that the model was trained on. Remove {training.parent} "
            "and rerun: the workflow trains it again."
        )
    if zoom is not None:
        trained = {"zoom": 1} | trained
    if unknown := [key for key in found if key not in trained and key != "source"]:
        raise InputError(
            f"{training}: does not say with which {', '.join(unknown)} the pixel maps were made that the model was "
            f"trained on; an older version wrote it. Remove {training.parent} and rerun: the workflow trains it again."
        )
    differing = [
        f"{key} is {found.get(key)}, the model was trained with {trained.get(key)}"
        for key in found | trained
        if found.get(key) != trained.get(key)
    ]
    if differing:
        made_elsewhere = "source" in found
        remedy = (
            "Use maps of the same source, size and pixels (input.wires), and input.views and pixelmap.zoom"
            if made_elsewhere
            else "Set display and pixelmap"
        )
        raise InputError(
            f"{training.parent}: trained on other pixel maps than these ({next(iter(stores.values()))}): "
            f"{'; '.join(differing)}. {remedy} as in the run that trained it, or train again."
        )
    return found


def open_rows(store: Path, events: pd.DataFrame) -> tuple[Any, np.ndarray]:
    """Open a pixel-map store and find events in it.

    Args:
        store: the pixel-map store of one shard.
        events: rows of the event table, all of that shard.

    Returns:
        ``images`` (zarr.Array) of the store, and the row of each event in it.

    Raises:
        InputError: the store is damaged or does not contain the events.
    """
    opened = open_pixel_maps(store)
    ids, rows = np.asarray(opened["event_id"]), events["row"].to_numpy()
    if rows.max() >= len(ids) or not np.array_equal(ids[rows], events["event_id"].to_numpy()):
        raise InputError(f"{store}: does not hold the events of the event table. Remove both and rerun.")
    return opened["images"], rows


def open_shards(stores: Mapping[str, Path], events: pd.DataFrame) -> Iterator[tuple[Path, np.ndarray, Any, np.ndarray]]:
    """Open the store of each shard in an event table.

    Args:
        stores: shard name -> pixel-map store.
        events: with the columns shard, row and event_id.

    Yields:
        The store, the positions of the shard's events in `events`, and what :func:`open_rows` returns.

    Raises:
        InputError: see :func:`open_rows`; or stores with different sizes of images.
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


def read_blocks(
    stores: Mapping[str, Path], events: pd.DataFrame, at_once: int | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Read the pixel maps of an event table, block by block.

    Args:
        stores: shard name -> pixel-map store.
        events: with the columns shard, row and event_id.
        at_once: maximum number of events of a block, which are of one shard; by default as many as fit in
            :data:`BLOCK_BYTES`.

    Yields:
        Positions in `events`, and the pixel maps there: uint8 (events, views, size, size).

    Raises:
        InputError: see :func:`open_shards`.
    """
    for _, positions, images, rows in open_shards(stores, events):
        size = at_once or max(1, BLOCK_BYTES // math.prod(images.shape[1:]))
        for begin in range(0, len(rows), size):
            yield positions[begin : begin + size], _read_rows(images, rows[begin : begin + size])


def _read_rows(array: Any, rows: np.ndarray) -> np.ndarray:
    """Events `rows` of a Zarr array. Consecutive rows are read as slices: 30 times as fast as a list of rows."""
    values = np.empty((len(rows), *array.shape[1:]), dtype=array.dtype)
    begins = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
    for begin, end in zip(begins, [*begins[1:], len(rows)], strict=True):
        values[begin:end] = array[rows[begin] : rows[end - 1] + 1]
    return values
