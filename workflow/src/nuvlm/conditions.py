"""What the classifiers are shown besides the images as they are: degraded pixel maps."""

import numpy as np


def degrade(condition: str, images: np.ndarray) -> np.ndarray:
    """Pixel maps under a condition.

    Args:
        condition: ``nominal`` leaves them; ``half_resolution`` averages 2 x 2 pixels, as the published test at
            256 x 256 does for 512 x 512; a black row and column make an odd size even.
        images: uint8 (events, views, size, size).

    Returns:
        uint8, (events, views, size, size) or half the size, rounded up.
    """
    if condition == "nominal":
        return images
    if condition == "half_resolution":
        if images.shape[-1] % 2:
            images = np.pad(images, ((0, 0), (0, 0), (0, 1), (0, 1)))
        n, views, height, width = images.shape
        # (n, views, h, w) -> (n, views, h / 2, 2, w / 2, 2); the mean of four is at most 255
        blocks = images.reshape(n, views, height // 2, 2, width // 2, 2)
        return np.rint(blocks.mean(axis=(3, 5))).astype(np.uint8)
    raise ValueError(f"unknown condition {condition!r}")
