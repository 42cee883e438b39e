"""Where the CNN looks for the class that it chose, and whether that is so.

The map is HiResCAM's (arXiv 2011.08891): Grad-CAM (arXiv 1610.02391), but the gradient is taken where it is instead of
averaged over the image, which in the middle of a network would move the map to places that were not used. It is
checked: blacken what it points at, and the class must lose.
"""

import logging
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from captum.attr import LayerGradientXActivation
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from nuvlm.base.classes import class_codes
from nuvlm.base.logs import track
from nuvlm.base.stores import create_store
from nuvlm.dataset.pixelmaps import check_images, read_blocks
from nuvlm.models.cnn.network import SiameseCnn, load_cnn, to_float
from nuvlm.models.devices import choose_device
from nuvlm.models.explained_events import read_explained

logger = logging.getLogger(__name__)

EVENTS_AT_ONCE = 16
BLACKENED = 0.2
"""Share of an event's pixels with charge that are blackened to check a map."""
CHECKED = ("map", "random")
"""By which order pixels are blackened."""


def explain_cnn(
    model: Path,
    events: Path,
    stores: Mapping[str, Path],
    predictions: Mapping[str, Path],
    out: Path,
    *,
    name: str,
    part: int,
    count: int,
    seed: int,
    threads: int,
) -> None:
    """Write a store (docs/formats.md) of where the CNN looks in those events of one part that are explained.

    Args:
        model: folder of the CNN.
        events: the event table.
        stores: shard name -> pixel-map store.
        predictions: model name -> its prediction table of the part, as the images are.
        name: of this model, whose predictions say which class is explained.
        count, seed: see :func:`nuvlm.models.explained_events.read_explained`.

    Raises:
        InputError: damaged files, or pixel maps made with other settings than those the CNN was trained on.
    """
    torch.set_num_threads(threads)
    images = check_images(stores, model / "training.json")
    device = choose_device()
    network = load_cnn(model, device)
    chosen = read_explained(events, predictions, name, part=part, count=count, seed=seed)
    predicted = class_codes(chosen["predicted"])
    shape = (len(chosen), len(images["views"]), images["size"], images["size"])
    maps = np.zeros(shape, dtype=np.uint8)
    peak = np.zeros(len(chosen), dtype=np.float32)
    fall = np.zeros((len(chosen), len(CHECKED)), dtype=np.float32)
    chance = torch.rand(shape[1:], generator=torch.Generator().manual_seed(seed)).to(device)
    for rows, block in track(read_blocks(stores, chosen, EVENTS_AT_ONCE), "batches"):
        pixels, classes = to_float(torch.from_numpy(block), device), torch.from_numpy(predicted[rows]).to(device)
        heat = hires_cam(network, pixels, classes)
        for column, order in enumerate((heat, chance.expand_as(heat))):
            fall[rows, column] = probability_lost(network, pixels, classes, order).cpu().numpy()
        peak[rows] = heat.amax(dim=(1, 2, 3)).cpu().numpy()
        shades = 255 * heat / heat.amax(dim=(1, 2, 3), keepdim=True).clamp(min=torch.finfo(heat.dtype).tiny)
        maps[rows] = shades.round().byte().cpu().numpy()
    drawn = (chosen["chosen"] == "sample").to_numpy()
    if drawn.any():
        means = ", ".join(f"{name} {mean:.3f}" for name, mean in zip(CHECKED, fall[drawn].mean(axis=0), strict=True))
        logger.info(
            "probability of the class lost with %.0f %% of the pixels, mean of %d events drawn at random: %s",
            100 * BLACKENED, drawn.sum(), means,
        )  # fmt: skip
    attributes = {
        "format": "nuvlm-cam",
        "version": 1,
        "views": images["views"],
        "cell_pixels": cell_pixels(network),
        "blackened": BLACKENED,
        "fall": list(CHECKED),
        "shard": chosen["shard"].tolist(),
        "predicted": chosen["predicted"].tolist(),
        "chosen": chosen["chosen"].tolist(),
    }
    with create_store(out, attributes) as store:
        store.append("maps", maps)
        store.append("peak", peak)
        store.append("fall", fall)
        store.append("event_id", chosen["event_id"].to_numpy())


def hires_cam(network: SiameseCnn, images: Tensor, classes: Tensor) -> Tensor:
    """Where each view speaks for a class, by the last stage of the branch that all views go through.

    A cell of the map is the sum over the channels of activation times gradient of the class's logit there; what speaks
    against the class is cut off at zero. The last stage before the views meet: behind it a cell belongs to no view.

    Args:
        network: in eval mode.
        images: (n, views, size, size), float, 0 to 1.
        classes: (n,) index of the class to explain.

    Returns:
        (n, views, size, size), zero or above, in units of the logit a cell; between the centres of cells, which are
        :func:`cell_pixels` apart, linear.
    """
    n, views, size, _ = images.shape
    # A copy that asks for gradients: captum needs one, and warns where it has to see to it itself.
    pixels = images.clone().requires_grad_()
    cells = LayerGradientXActivation(network, network.branch[-1]).attribute(pixels, target=classes)
    # (n * views, c, h, w) -> (n, views, h, w)
    cells = cells.detach().sum(dim=1).clamp(min=0).reshape(n, views, *cells.shape[-2:])
    # Cell i is centred on pixel i * stride, as every convolution pads by half of its kernel. An interpolation that
    # takes cells for blocks that tile the image, as is usual, would move the map by half of a cell.
    reach = [(side - 1) * cell_pixels(network) + 1 for side in cells.shape[-2:]]
    heat = interpolate(cells, size=reach, mode="bilinear", align_corners=True)
    return pad(heat, (0, size - reach[1], 0, size - reach[0]), mode="replicate")


@torch.inference_mode()
def probability_lost(network: SiameseCnn, images: Tensor, classes: Tensor, order: Tensor) -> Tensor:
    """What the probability of a class falls by when the foremost pixels are blackened (deletion, arXiv 1806.07421).

    Args:
        images: (n, views, size, size), float, 0 to 1.
        classes: (n,) index of the class.
        order: (n, views, size, size); of the pixels with charge the share :data:`BLACKENED` is taken where this is
            highest.

    Returns:
        (n,) -1 to 1.
    """
    lit = images.flatten(1) > 0  # (n, pixels)
    rank = order.flatten(1).masked_fill(~lit, -torch.inf).argsort(dim=1, descending=True).argsort(dim=1)
    kept = rank >= (BLACKENED * lit.sum(dim=1, keepdim=True)).ceil()
    whole, less = (
        network(pixels).softmax(dim=1).gather(1, classes[:, None]).squeeze(1)
        for pixels in (images, images * kept.view_as(images))
    )
    return whole - less


def cell_pixels(network: SiameseCnn) -> int:
    """Pixels of the image from one cell of a branch's last stage to the next."""
    layers = [*network.stem.modules(), *network.branch.modules()]
    return math.prod(layer.stride[0] for layer in layers if isinstance(layer, nn.Conv2d))
