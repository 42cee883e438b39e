"""Pixel-map stores of given images, in the real format, and what is in them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from nuvlm.base.stores import write_store
from nuvlm.dataset.pixelmaps import read_blocks


def write_pixel_maps(
    path: Path,
    images: np.ndarray,
    first_event: int = 0,
    views: Sequence[str] = ("xz", "yz"),
    corner_mm: np.ndarray | None = None,
) -> np.ndarray:
    """Write `images`, uint8 (events, views, size, size), and return the ids of their events."""
    ids = np.arange(first_event, first_event + len(images), dtype=np.uint64)
    attributes = {"format": "nuvlm-pixelmaps", "version": 1, "views": list(views), "size": images.shape[-1]}
    attributes |= {"pixel_mm": 50, "centre": "charge", "transfer": "log", "white_mev": 200, "knee_mev": 1}
    corners = {} if corner_mm is None else {"corner_mm": corner_mm}
    write_store(path, {"images": images, "event_id": ids, **corners}, attributes)
    return ids


def read_pixel_maps(stores: Mapping[str, Path], events: pd.DataFrame) -> np.ndarray:
    """Pixel maps of the rows of an event table, in their order: uint8 (events, views, size, size)."""
    positions, blocks = zip(*read_blocks(stores, events), strict=True)
    return np.concatenate(blocks)[np.argsort(np.concatenate(positions))]
