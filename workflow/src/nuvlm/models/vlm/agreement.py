"""When a claim about an event agrees with the truth, or with another claim."""

import numpy as np

NUMBERS = ("track_cm", "shower_mev", "gap_cm")
"""Claims that are lengths and energies."""
TOLERANCE = 0.25
"""Relative tolerance of a right length or energy."""


def is_right(name: str, claim: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Bool, whether claims of the kind `name` are right; False if the thing does not exist (NaN)."""
    if name in NUMBERS:
        near: np.ndarray = np.abs(claim - true) <= TOLERANCE * true * (1 + 1e-6)  # tables hold float32
        return near
    same: np.ndarray = claim == true
    return same
