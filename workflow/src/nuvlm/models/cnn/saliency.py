"""Saliency maps of the CNN for the predicted class, and a test of their faithfulness.

HiResCAM (arXiv 2011.08891): Grad-CAM (arXiv 1610.02391) with the gradient of each cell instead of its mean over the
image. In the middle of a network the mean would mark places that the network did not use. A deletion test checks the
map: blackening the pixels it ranks highest must lower the probability of the class.
"""

import logging
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
from nuvlm.models.cnn.network import load_cnn, to_float
from nuvlm.models.cnn.siamese import SiameseCnn
from nuvlm.models.devices import choose_device
from nuvlm.models.explained_events import read_explained
from nuvlm.models.jobs import ExplanationJob

logger = logging.getLogger(__name__)

EVENTS_AT_ONCE = 16
BLACKENED = 0.2
"""Fraction of an event's pixels with charge that the deletion test blackens."""
CHECKED = ("map", "random")
"""Orders in which pixels are blackened."""


def run(job: ExplanationJob) -> None:
    """:func:`explain_cnn`, as a rule asks for it."""
    explain_cnn(
        job.folder,
        job.events,
        job.stores,
        job.predictions,
        job.out,
        name=job.model,
        part=job.part,
        count=job.count,
        seed=job.seed,
        threads=job.threads,
    )


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
    """Write the saliency maps of the explained events of one part as a store (docs/formats.md).

    Args:
        model: folder of the CNN.
        events: the event table.
        stores: shard name -> pixel-map store.
        predictions: model name -> its prediction table of the part under the condition nominal.
        name: of this model; the class it predicted is explained.
        count, seed: see :func:`nuvlm.models.explained_events.read_explained`.

    Raises:
        InputError: a file is damaged, or the pixel maps have other settings than the training's.
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
    drop = np.zeros((len(chosen), len(CHECKED)), dtype=np.float32)
    random = torch.rand(shape[1:], generator=torch.Generator().manual_seed(seed)).to(device)
    for rows, block in track(read_blocks(stores, chosen, EVENTS_AT_ONCE), "batches"):
        pixels, classes = to_float(torch.from_numpy(block), device), torch.from_numpy(predicted[rows]).to(device)
        saliency = hires_cam(network, pixels, classes)
        for column, order in enumerate((saliency, random.expand_as(saliency))):
            drop[rows, column] = probability_drop(network, pixels, classes, order).cpu().numpy()
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
        "cell_pixels": cell_pixels(network)[1],
        "blackened": BLACKENED,
        "fall": list(CHECKED),
        "shard": chosen["shard"].tolist(),
        "predicted": chosen["predicted"].tolist(),
        "chosen": chosen["chosen"].tolist(),
    }
    with create_store(out, attributes) as store:
        store.append("maps", maps)
        store.append("peak", peak)
        store.append("fall", drop)
        store.append("event_id", chosen["event_id"].to_numpy())


def hires_cam(network: SiameseCnn, images: Tensor, classes: Tensor) -> Tensor:
    """HiResCAM of each view for a class, at the last stage of the branch, before the views are combined.

    A cell of the map is the sum over channels of activation times gradient of the class's logit, clipped at zero.

    Args:
        network: in eval mode.
        images: (n, views, size, size), float, 0 to 1.
        classes: (n,) index of the class to explain.

    Returns:
        (n, views, size, size), at least 0, in units of the logit per cell; interpolated linearly between the centres of
        cells, see :func:`cell_pixels`.
    """
    n, views, size, _ = images.shape
    # captum needs an input with gradients, and warns if it has to enable them.
    pixels = images.clone().requires_grad_()
    cells = LayerGradientXActivation(network, network.branch[-1]).attribute(pixels, target=classes)
    # (n * views, c, h, w) -> (n, views, h, w)
    cells = cells.detach().sum(dim=1).clamp(min=0).reshape(n, views, *cells.shape[-2:])
    # The usual interpolation, which treats cells as blocks that tile the image, would shift the map.
    first, pitch = cell_pixels(network)
    reach = [(side - 1) * pitch + 1 for side in cells.shape[-2:]]
    saliency = interpolate(cells, size=reach, mode="bilinear", align_corners=True)
    rest = [size - first - length for length in reach]
    return pad(saliency, (first, rest[1], first, rest[0]), mode="replicate")


@torch.inference_mode()
def probability_drop(network: SiameseCnn, images: Tensor, classes: Tensor, order: Tensor) -> Tensor:
    """Drop of a class probability when the highest-ranked pixels are blackened (deletion test, arXiv 1806.07421).

    Args:
        images: (n, views, size, size), float, 0 to 1.
        classes: (n,) index of the class.
        order: (n, views, size, size), rank of the pixels; the fraction :data:`BLACKENED` of the pixels with charge
            where it is highest is blackened.

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


def cell_pixels(network: SiameseCnn) -> tuple[int, int]:
    """The image pixel on which the first cell of the branch's last stage is centred, and pixels between cells."""
    first, pitch = 0.0, 1
    for layer in [*network.stem.modules(), *network.branch.modules()]:
        # In layers that run beside others, as shortcuts do, the stride is 1 and the padding half of the kernel.
        if isinstance(layer, nn.Conv2d | nn.AvgPool2d):
            kernel, stride, padding = (
                int(length[0] if isinstance(length, tuple) else length)
                for length in (layer.kernel_size, layer.stride, layer.padding)
            )
            first += pitch * ((kernel - 1) / 2 - padding)
            pitch *= stride
    return int(first), pitch
