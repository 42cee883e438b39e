"""The formula of diffusion: the share of a uniform box of charge, convolved with a Gaussian, in each pixel."""

import numpy as np
from scipy.special import ndtr


def box_shares(low: np.ndarray, high: np.ndarray, width: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Share of a uniform box [low, high], convolved with a Gaussian, between consecutive edges.

    With G(u) = u Phi(u) + phi(u), the antiderivative of the normal CDF Phi, the smeared box has the CDF
    F(t) = w / (high - low) (G((t - low) / w) - G((t - high) / w)); without smearing (w = 0) it is the plain ramp.

    Args:
        low, high: (boxes,), in the same unit as the other arguments.
        width: (boxes,) standard deviation; 0 is allowed.
        edges: (boxes, pixels + 1), increasing.

    Returns:
        (boxes, pixels); charge beyond the outer edges is left out.
    """
    low, high, width = low[:, None], high[:, None], width[:, None]
    # Below a millionth of the box size the Gaussian form only loses precision.
    sharp = width < 1e-6 * (high - low)
    safe = np.where(sharp, 1.0, width)
    smeared = safe / (high - low) * (_antiderivative((edges - low) / safe) - _antiderivative((edges - high) / safe))
    plain = np.clip((edges - low) / (high - low), 0.0, 1.0)
    return np.diff(np.where(sharp, plain, smeared), axis=1)


def _antiderivative(u: np.ndarray) -> np.ndarray:
    return u * ndtr(u) + np.exp(-0.5 * u * u) / np.sqrt(2 * np.pi)
