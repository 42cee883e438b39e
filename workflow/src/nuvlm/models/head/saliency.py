"""Saliency of the vision tower by occlusion: how much the class's score falls when a cell of a view is black.

It needs nothing of the tower's inside, so it works for every base. (Its image processor, which cuts and scales the
pictures, has no gradient.)
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from nuvlm.models.classifier.network import ImageClassifier
from nuvlm.models.head.cells import cell_pixels

Score = Callable[[Tensor, Tensor], Tensor]
"""From uint8 (n, views, size, size) and the index of a class of each event to (n,) log-probabilities."""
AT_ONCE = 64
"""Pictures with a black cell in one pass, where nothing else is asked for."""


def occlusion(network: ImageClassifier, grey: Tensor, classes: Tensor, *, at_once: int = AT_ONCE) -> Tensor:
    """Fall of the log-probability of a class when a cell is black (occlusion, arXiv 1311.2901), clipped at zero.

    Args:
        network: in eval mode.
        grey: uint8 (n, views, size, size).
        classes: (n,) index of the class to explain.
        at_once: pictures with a black cell in one pass.

    Returns:
        (n, views, size, size), at least 0; interpolated linearly between the centres of cells.
    """
    size = grey.shape[-1]
    fall = occlude_cells(partial(_score, network), grey, classes, at_once=at_once)
    reach = fall.shape[-1] * cell_pixels(size)
    return interpolate(fall, size=(reach, reach), mode="bilinear")[..., :size, :size]


@torch.inference_mode()
def occlude_cells(score: Score, grey: Tensor, classes: Tensor, *, at_once: int = AT_ONCE) -> Tensor:
    """Fall of the log-probability of a class when a cell is black, clipped at zero: (n, views, cells, cells).

    Cells without charge are black already, and are not tried.
    """
    size = grey.shape[-1]
    side = cell_pixels(size)
    lit = avg_pool2d(grey.float(), side, ceil_mode=True) > 0  # (n, views, cells, cells)
    places = lit.nonzero()
    whole = score(grey, classes)
    fall = torch.zeros(lit.shape, device=grey.device)
    for some in places.split(at_once):
        event, view, row, column = some.T
        hidden = grey[event].clone()
        for i, (v, r, c) in enumerate(zip(view, row * side, column * side, strict=True)):
            hidden[i, v, r : r + side, c : c + side] = 0
        fall[event, view, row, column] = whole[event] - score(hidden, classes[event])
    return fall.clamp(min=0)


@torch.inference_mode()
def _score(network: ImageClassifier, grey: Tensor, classes: Tensor) -> Tensor:
    """(n,) log-probability of each event's class."""
    logits = network(network.prepare(grey, grey.device))
    return logits.log_softmax(dim=1).gather(1, classes[:, None]).squeeze(1)
