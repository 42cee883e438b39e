"""Saliency maps of the CNN for the predicted class.

HiResCAM (arXiv 2011.08891): Grad-CAM (arXiv 1610.02391) with the gradient of each cell instead of its mean over the
image. In the middle of a network the mean would mark places that the network did not use.
"""

import torch
from captum.attr import LayerGradientXActivation
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from nuvlm.dataset.pixelmaps import check_images
from nuvlm.models.classifier.network import to_float
from nuvlm.models.classifier.saliency import explain_classifier
from nuvlm.models.cnn.network import load_cnn
from nuvlm.models.cnn.siamese import SiameseCnn
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

    explain_classifier(job, network, saliency_of, images, cell_pixels(network)[1], device)


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
