"""Classifying with the boosted tree."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from nuvlm.classes import CLASSES
from nuvlm.degradation import degrade
from nuvlm.energy import EnergyMeter
from nuvlm.events import read_events
from nuvlm.logs import track
from nuvlm.memory import process_peak_mb
from nuvlm.pixelmaps import check_images, read_blocks
from nuvlm.predictions import Cost, write_predictions
from nuvlm.tree.features import Scale, features
from nuvlm.tree.model import load_trees

logger = logging.getLogger(__name__)


def classify_tree(
    model: Path,
    events: Path,
    stores: Mapping[str, Path],
    out: Path,
    *,
    condition: str,
    part: int,
    batch_size: int,
) -> None:
    """Write the tree's predictions for one part of the event table under one condition.

    Raises:
        InputError: damaged files, or pixel maps made with other settings than those the tree was trained on.
    """
    start = time.perf_counter()
    trees = load_trees(model)
    load_seconds = time.perf_counter() - start
    settings = check_images(stores, model / "training.json")
    scale = Scale.of(settings)
    table = read_events(events)
    table = table[table["part"] == part]
    logits = np.zeros((len(table), len(CLASSES)))
    seconds = np.zeros(len(table))
    meter = EnergyMeter()
    for rows, block in track(read_blocks(stores, table, batch_size), "batches"):
        images = degrade(condition, block, table.iloc[rows], settings)
        with meter:
            start = time.perf_counter()
            logits[rows] = trees.logits(features(images, scale))
            seconds[rows] = (time.perf_counter() - start) / len(rows)
    if len(table):
        logger.info("%.0f events/s, features and trees", len(table) / seconds.sum())
    cost = Cost("CPU", batch_size, len(table), load_seconds, float(seconds.sum()), process_peak_mb())
    write_predictions(out, table, logits, 1.0, seconds, {}, cost.with_energy(meter.energy))
