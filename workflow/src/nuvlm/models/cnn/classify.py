"""Classifying with a trained CNN."""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from nuvlm.base.classes import CLASSES
from nuvlm.base.logs import track
from nuvlm.dataset.event_table import read_events
from nuvlm.dataset.pixelmaps import check_images, read_blocks
from nuvlm.models.cnn.network import load_cnn, read_card, to_float
from nuvlm.models.cnn.runtime import load_exported
from nuvlm.models.degradations import degrade
from nuvlm.models.devices import choose_device, device_name, energy_meter, peak_memory_mb
from nuvlm.models.predictions import Cost, write_predictions

logger = logging.getLogger(__name__)

Network = Callable[[np.ndarray], np.ndarray]
"""From uint8 images (events, views, height, width) to logits (events, classes)."""


def classify_cnn(
    model: Path,
    events: Path,
    stores: Mapping[str, Path],
    out: Path,
    *,
    condition: str,
    part: int,
    batch_size: int,
    threads: int,
    export: Path | None = None,
) -> None:
    """Write the CNN's predictions for one part of the event table under one condition.

    Args:
        model: folder of :func:`nuvlm.models.cnn.training.train_cnn`.
        export: folder of :func:`nuvlm.models.cnn.export.export_cnn`, to classify with onnxruntime on CPU cores;
            without one, with torch.

    Raises:
        InputError: damaged files, or pixel maps made with other settings than those the CNN was trained on.
    """
    settings = check_images(stores, model / "training.json")
    start = time.perf_counter()
    network, device = _load_torch(model, threads) if export is None else _load_exported(model, export, threads)
    load_seconds = time.perf_counter() - start
    table = read_events(events)
    table = table[table["part"] == part]
    logits = np.zeros((len(table), len(CLASSES)))
    seconds = np.zeros(len(table))
    meter, warm = energy_meter(choose_device() if export is None else torch.device("cpu")), False
    for rows, block in track(read_blocks(stores, table, batch_size), "batches"):
        images = degrade(condition, block, table.iloc[rows], settings)
        if not warm:
            network(images)  # the first call sets up kernels, which is no event's time
            warm = True
        with meter:
            start = time.perf_counter()
            logits[rows] = network(images)
            seconds[rows] = (time.perf_counter() - start) / len(rows)
    cost = Cost(device, batch_size, len(table), load_seconds, float(seconds.sum()), peak_memory_mb())
    write_predictions(out, table, logits, 1.0, seconds, {}, cost.with_energy(meter.energy))


def _load_torch(model: Path, threads: int) -> tuple[Network, str]:
    """The network in torch, on a GPU where there is one, and the name of the device."""
    torch.set_num_threads(threads)
    device = choose_device()
    network = load_cnn(model, device)

    def logits(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            found: np.ndarray = network(to_float(torch.from_numpy(images), device)).cpu().numpy()
        return found

    return logits, device_name(device)


def _load_exported(model: Path, export: Path, threads: int) -> tuple[Network, str]:
    """The same in onnxruntime."""
    read_card(model)
    return load_exported(export, model / "model.safetensors", threads), "CPU (ONNX Runtime)"
