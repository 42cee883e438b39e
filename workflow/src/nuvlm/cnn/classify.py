"""Classifying with a trained CNN."""

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from nuvlm.classes import CLASSES
from nuvlm.cnn.network import SiameseCnn, to_float
from nuvlm.conditions import degrade
from nuvlm.devices import choose_device, device_name, peak_memory_mb
from nuvlm.events import read_events
from nuvlm.logs import track
from nuvlm.pixelmaps import check_images, read_blocks
from nuvlm.predictions import Cost, write_predictions
from nuvlm.storage import verify_manifest

logger = logging.getLogger(__name__)


def load_cnn(model: Path, device: torch.device) -> SiameseCnn:
    """The network of a folder that :func:`nuvlm.cnn.training.train_cnn` wrote, ready to classify.

    Raises:
        InputError: a file is missing or altered.
    """
    verify_manifest(model)
    card = json.loads((model / "training.json").read_text())
    network = SiameseCnn(card["views"], len(card["classes"]), card["settings"]["width"], card["settings"]["dropout"])
    network.load_state_dict(load_file(model / "model.safetensors"))
    return network.to(device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]


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
) -> None:
    """Write the CNN's predictions for one part of the event table under one condition.

    Raises:
        InputError: damaged files, or pixel maps made with other settings than those the CNN was trained on.
    """
    torch.set_num_threads(threads)
    device = choose_device()
    start = time.perf_counter()
    network = load_cnn(model, device)
    load_seconds = time.perf_counter() - start
    check_images(stores, model / "training.json")
    table = read_events(events)
    table = table[table["part"] == part]
    logp = np.zeros((len(table), len(CLASSES)))
    seconds = np.zeros(len(table))
    warm = False
    with torch.inference_mode():
        for rows, block in track(read_blocks(stores, table, batch_size), "batches"):
            images = torch.from_numpy(degrade(condition, block))
            if not warm:
                _classify(network, images, device)  # the first call sets up kernels, which is no event's time
                warm = True
            start = time.perf_counter()
            logp[rows] = _classify(network, images, device)
            seconds[rows] = (time.perf_counter() - start) / len(rows)
    cost = Cost(device_name(device), batch_size, len(table), load_seconds, float(seconds.sum()), peak_memory_mb())
    write_predictions(out, table, logp, 1.0, seconds, {}, cost)


def _classify(network: SiameseCnn, images: torch.Tensor, device: torch.device) -> np.ndarray:
    return network(to_float(images, device)).double().log_softmax(dim=1).cpu().numpy()
