"""Conversion of the energy in a pixel to a grey value, and back."""

import numpy as np


def grayscale(energy_mev: np.ndarray, *, transfer: str, white_mev: float, knee_mev: float) -> np.ndarray:
    """Grey value (uint8) of the energy in each pixel (MeV); a pixel without energy is black.

    ``linear``: E / white. ``log``: ln(1 + E / knee) / ln(1 + white / knee), which keeps a minimum-ionising
    track visible beside the core of a shower. Both are clipped to 0..1, multiplied by 255 and rounded.
    """
    # Most pixels are empty, or so faint that they are black: below half a grey value.
    faintest = _energy_of_level(np.array(0.4 / 255), transfer=transfer, white_mev=white_mev, knee_mev=knee_mev)
    lit = np.flatnonzero(energy_mev > faintest)
    energy = energy_mev.reshape(-1)[lit].astype(np.float64)
    level = np.log1p(energy / knee_mev) / np.log1p(white_mev / knee_mev) if transfer == "log" else energy / white_mev
    grey = np.zeros(energy_mev.shape, dtype=np.uint8)
    grey.reshape(-1)[lit] = np.rint(255 * np.clip(level, 0, 1))
    return grey


def energy_of_grey(*, transfer: str, white_mev: float, knee_mev: float) -> np.ndarray:
    """(256,) energy in a pixel (MeV) for each grey value: the inverse of :func:`grayscale`, up to rounding."""
    return _energy_of_level(np.arange(256) / 255, transfer=transfer, white_mev=white_mev, knee_mev=knee_mev)


def _energy_of_level(level: np.ndarray, *, transfer: str, white_mev: float, knee_mev: float) -> np.ndarray:
    """Energy in a pixel (MeV) of a level from 0 (black) to 1 (white)."""
    if transfer == "log":
        return knee_mev * np.expm1(level * np.log1p(white_mev / knee_mev))
    if transfer == "linear":
        return white_mev * level
    raise ValueError(f"unknown transfer {transfer!r}: log or linear")
