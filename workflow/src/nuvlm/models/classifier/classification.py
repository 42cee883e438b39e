"""Classification of one part of the events under all conditions asked for, by a model that maps images to logits."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nuvlm.base.classes import CLASSES
from nuvlm.base.logs import track
from nuvlm.dataset.event_table import read_part
from nuvlm.dataset.pixelmaps import read_blocks
from nuvlm.models.degradations import degrade
from nuvlm.models.power import EnergyMeter
from nuvlm.models.predictions import Cost, write_predictions

Network = Callable[[np.ndarray], np.ndarray]
"""From uint8 images (events, views, height, width) to logits (events, classes)."""


class Loaded(NamedTuple):
    """A network in memory, and what its cost is measured with (:class:`nuvlm.models.predictions.Cost`)."""

    network: Network
    device: str
    load_seconds: float
    meter: Callable[[], EnergyMeter]
    peak_memory_mb: Callable[[], float]


def classify_images(
    loaded: Loaded,
    events: Path,
    stores: Mapping[str, Path],
    outputs: Mapping[str, Path],
    *,
    part: int,
    settings: Mapping[str, Any],
    batch_size: int,
) -> None:
    """Write the predictions for one part of the event table, a table for each condition.

    Pixel maps are read once; the times are those of the network alone, after a first call that is not counted.

    Args:
        loaded: the network.
        events: the event table.
        stores: shard name -> pixel-map store.
        outputs: condition -> prediction table.
        settings: of the pixel maps (:func:`nuvlm.dataset.pixelmaps.check_images`).

    Raises:
        InputError: damaged files, or a logit that is not a number.
    """
    table = read_part(events, part)
    logits = {condition: np.zeros((len(table), len(CLASSES))) for condition in outputs}
    seconds = {condition: np.zeros(len(table)) for condition in outputs}
    meters = {condition: loaded.meter() for condition in outputs}
    warm: set[tuple[int, ...]] = set()
    blocks = read_blocks(stores, table, batch_size)
    for rows, block in track(blocks, "batches", -(-len(table) // batch_size)):
        for condition in outputs:
            images = degrade(condition, block, table.iloc[rows], settings)
            if images.shape[1:] not in warm:
                # The first call for a shape sets up kernels, which is no event's time.
                loaded.network(images)
                warm.add(images.shape[1:])
            with meters[condition]:
                start = time.perf_counter()
                logits[condition][rows] = loaded.network(images)
                seconds[condition][rows] = (time.perf_counter() - start) / len(rows)
    for condition, out in outputs.items():
        spent = float(seconds[condition].sum())
        cost = Cost(loaded.device, batch_size, len(table), loaded.load_seconds, spent, loaded.peak_memory_mb())
        cost = cost.with_energy(meters[condition].energy)
        write_predictions(out, table, logits[condition], 1.0, seconds[condition], {}, cost)
