"""Classifying with the boosted tree."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from nuvlm.base.classes import CLASSES
from nuvlm.base.logs import track
from nuvlm.dataset.event_table import read_events
from nuvlm.dataset.pixelmaps import check_images, read_blocks
from nuvlm.models.bdt.features import Scale, features
from nuvlm.models.bdt.model import load_trees
from nuvlm.models.degradations import degrade
from nuvlm.models.memory import process_peak_mb
from nuvlm.models.power import EnergyMeter
from nuvlm.models.predictions import Cost, write_predictions

logger = logging.getLogger(__name__)


def classify_bdt(
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
