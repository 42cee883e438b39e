"""What the classifiers are shown besides the images as they are: degraded pixel maps, and controls."""

from collections.abc import Iterable
from typing import Literal, get_args

import numpy as np

Condition = Literal["nominal", "half_resolution", "blank", "labels_permuted"]
CONTROLS = ("blank", "labels_permuted")
"""Conditions that ask whether a model looks at the picture; the others ask how it bears worse ones."""
VLM_ALONE = ("labels_permuted",)
"""Conditions for the models that are told something."""


def conditions_of(model: str, conditions: Iterable[str]) -> list[str]:
    """Those of `conditions` that are for `model`, in their order."""
    return [name for name in conditions if model.startswith("vlm") or name not in VLM_ALONE]


def degrade(condition: str, images: np.ndarray) -> np.ndarray:
    """Pixel maps under a condition.

    Args:
        condition: ``nominal`` leaves them, and ``labels_permuted``, which changes what is told
            (:func:`nuvlm.vlm.prompts.permuted`); ``half_resolution`` averages 2 x 2 pixels, as the published test at
            256 x 256 does for 512 x 512; a black row and column make an odd size even; ``blank`` makes them black.
        images: uint8 (events, views, size, size).

    Returns:
        uint8, (events, views, size, size) or half the size, rounded up.
    """
    if condition not in get_args(Condition):
        raise ValueError(f"unknown condition {condition!r}")
    if condition == "blank":
        return np.zeros_like(images)
    if condition == "half_resolution":
        if images.shape[-1] % 2:
            images = np.pad(images, ((0, 0), (0, 0), (0, 1), (0, 1)))
        n, views, height, width = images.shape
        # (n, views, h, w) -> (n, views, h / 2, 2, w / 2, 2); the mean of four is at most 255
        blocks = images.reshape(n, views, height // 2, 2, width // 2, 2)
        return np.rint(blocks.mean(axis=(3, 5))).astype(np.uint8)
    return images
