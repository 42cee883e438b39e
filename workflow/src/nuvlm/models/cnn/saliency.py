"""Saliency maps of the CNN for the predicted class.

HiResCAM (arXiv 2011.08891): Grad-CAM (arXiv 1610.02391) with the gradient of each cell instead of its mean over the
image. In the middle of a network the mean would mark places that the network did not use.
"""

import math

import torch
from captum.attr import LayerGradientXActivation
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from nuvlm.dataset.pixelmaps import check_images
from nuvlm.models.classifier.network import to_float
from nuvlm.models.classifier.saliency import explain_classifier
from nuvlm.models.cnn.network import SiameseCnn, load_cnn
from nuvlm.models.devices import choose_device
from nuvlm.models.jobs import ExplanationJob


def run(job: ExplanationJob) -> None:
    """Write the saliency maps of the explained events of one part, as a rule asks for it.

    Raises:
        InputError: a file is damaged, or the pixel maps have other settings than the training's.
    """
    torch.set_num_threads(job.threads)
    images = check_images(job.stores, job.folder / "training.json")
    device = choose_device()
    network = load_cnn(job.folder, device)

    def saliency_of(grey: Tensor, classes: Tensor) -> Tensor:
        return hires_cam(network, to_float(grey, device), classes)

    explain_classifier(job, network, saliency_of, images, cell_pixels(network), device)


def hires_cam(network: SiameseCnn, images: Tensor, classes: Tensor) -> Tensor:
    """HiResCAM of each view for a class, at the last stage of the branch, before the views are combined.

    A cell of the map is the sum over channels of activation times gradient of the class's logit, clipped at zero.

    Args:
        network: in eval mode.
        images: (n, views, size, size), float, 0 to 1.
        classes: (n,) index of the class to explain.

    Returns:
        (n, views, size, size), at least 0, in units of the logit per cell; interpolated linearly between the centres of
        cells, which are :func:`cell_pixels` apart.
    """
    n, views, size, _ = images.shape
    # captum needs an input with gradients, and warns if it has to enable them.
    pixels = images.clone().requires_grad_()
    cells = LayerGradientXActivation(network, network.branch[-1]).attribute(pixels, target=classes)
    # (n * views, c, h, w) -> (n, views, h, w)
    cells = cells.detach().sum(dim=1).clamp(min=0).reshape(n, views, *cells.shape[-2:])
    # Cell i is centred on pixel i * stride, as every convolution pads by half of its kernel. The usual interpolation,
    # which treats cells as blocks that tile the image, would shift the map by half a cell.
    reach = [(side - 1) * cell_pixels(network) + 1 for side in cells.shape[-2:]]
    saliency = interpolate(cells, size=reach, mode="bilinear", align_corners=True)
    return pad(saliency, (0, size - reach[1], 0, size - reach[0]), mode="replicate")


def cell_pixels(network: SiameseCnn) -> int:
    """Image pixels between neighbouring cells of the branch's last stage."""
    layers = [*network.stem.modules(), *network.branch.modules()]
    return math.prod(layer.stride[0] for layer in layers if isinstance(layer, nn.Conv2d))
