"""Saliency maps of a classifier for the predicted class, and a test of their faithfulness.

A deletion test checks the map: blackening the pixels it ranks highest must lower the probability of the class.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nuvlm.base.classes import class_codes
from nuvlm.base.logs import track
from nuvlm.base.stores import create_store
from nuvlm.dataset.event_table import as_simulated
from nuvlm.dataset.pixelmaps import read_blocks
from nuvlm.models.classifier.network import ImageClassifier
from nuvlm.models.explained_events import read_explained
from nuvlm.models.jobs import ExplanationJob

logger = logging.getLogger(__name__)

EVENTS_AT_ONCE = 16
BLACKENED = 0.2
"""Fraction of an event's pixels with charge that the deletion test blackens."""
CHECKED = ("map", "random")
"""Orders in which pixels are blackened."""


def explain_classifier(
    job: ExplanationJob,
    network: ImageClassifier,
    saliency_of: Callable[[Tensor, Tensor], Tensor],
    images: Mapping[str, Any],
    cell_pixels: int,
    device: torch.device,
) -> None:
    """Write the saliency maps of the explained events of one part as a store (docs/formats.md).

    Args:
        network: in eval mode, on `device`.
        saliency_of: from images, uint8 (n, views, size, size), and class indices (n,), both on `device`, to saliency
            (n, views, size, size), at least 0.
        images: settings of the pixel maps (:func:`nuvlm.dataset.pixelmaps.check_images`).
        cell_pixels: pixels between neighbouring cells of the map before it was interpolated.

    Raises:
        InputError: a file is damaged, or the pixel maps have other settings than the training's.
    """
    explained = read_explained(job.events, job.predictions, job.model, part=job.part, count=job.count, seed=job.seed)
    # A map of an event is compared with what is changed in it.
    chosen = as_simulated(explained)
    predicted = class_codes(chosen["predicted"])
    shape = (len(chosen), len(images["views"]), images["size"], images["size"])
    maps = np.zeros(shape, dtype=np.uint8)
    peak = np.zeros(len(chosen), dtype=np.float32)
    drop = np.zeros((len(chosen), len(CHECKED)), dtype=np.float32)
    random = torch.rand(shape[1:], generator=torch.Generator().manual_seed(job.seed)).to(device)
    for rows, block in track(read_blocks(job.stores, chosen, EVENTS_AT_ONCE), "batches"):
        grey, classes = torch.from_numpy(block).to(device), torch.from_numpy(predicted[rows]).to(device)
        saliency = saliency_of(grey, classes)
        for column, order in enumerate((saliency, random.expand_as(saliency))):
            drop[rows, column] = probability_drop(network, grey, classes, order).cpu().numpy()
        peak[rows] = saliency.amax(dim=(1, 2, 3)).cpu().numpy()
        shades = 255 * saliency / saliency.amax(dim=(1, 2, 3), keepdim=True).clamp(min=torch.finfo(saliency.dtype).tiny)
        maps[rows] = shades.round().byte().cpu().numpy()
    drawn = (chosen["chosen"] == "sample").to_numpy()
    if drawn.any():
        means = ", ".join(f"{name} {mean:.3f}" for name, mean in zip(CHECKED, drop[drawn].mean(axis=0), strict=True))
        logger.info(
            "drop of the class probability with %.0f %% of the pixels blackened, mean of %d random events: %s",
            100 * BLACKENED, drawn.sum(), means,
        )  # fmt: skip
    attributes = {
        "format": "nuvlm-cam",
        "version": 1,
        "views": images["views"],
        "cell_pixels": cell_pixels,
        "blackened": BLACKENED,
        "fall": list(CHECKED),
        "shard": chosen["shard"].tolist(),
        "predicted": chosen["predicted"].tolist(),
        "chosen": chosen["chosen"].tolist(),
    }
    with create_store(job.out, attributes) as store:
        store.append("maps", maps)
        store.append("peak", peak)
        store.append("fall", drop)
        store.append("event_id", chosen["event_id"].to_numpy())


@torch.inference_mode()
def probability_drop(network: ImageClassifier, grey: Tensor, classes: Tensor, order: Tensor) -> Tensor:
    """Drop of a class probability when the highest-ranked pixels are blackened (deletion test, arXiv 1806.07421).

    Args:
        grey: uint8 (n, views, size, size), on the network's device.
        classes: (n,) index of the class.
        order: (n, views, size, size), rank of the pixels; the fraction :data:`BLACKENED` of the pixels with charge
            where it is highest is blackened.

    Returns:
        (n,) -1 to 1.
    """
    lit = grey.flatten(1) > 0  # (n, pixels)
    rank = order.flatten(1).masked_fill(~lit, -torch.inf).argsort(dim=1, descending=True).argsort(dim=1)
    kept = rank >= (BLACKENED * lit.sum(dim=1, keepdim=True)).ceil()
    whole, less = (
        network(network.prepare(pixels, grey.device)).softmax(dim=1).gather(1, classes[:, None]).squeeze(1)
        for pixels in (grey, grey * kept.view_as(grey))
    )
    return whole - less
