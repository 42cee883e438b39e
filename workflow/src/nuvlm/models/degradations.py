"""Pixel maps made worse on purpose, as a condition says: coarser, noisy, with dead channels, smeared, out of scale.

What is about charge is done to charge, which grey values are taken back to
(:func:`nuvlm.detector.grayscale.energy_of_grey`).
Of maps made elsewhere, whose transfer is not known, grey values are taken to be linear in charge, white as
:data:`WHITE_MEV`, and pixels whose size is not known to be the published ones.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.ndimage import convolve1d

from nuvlm.detector.grayscale import energy_of_grey, grayscale
from nuvlm.detector.smearing import box_shares
from nuvlm.models.conditions import check_condition, degradation

WHITE_MEV, PIXEL_MM = 200.0, 50.0
"""What white and a pixel are taken for where that is not known."""
REACH = 5
"""How many standard deviations charge is smeared over."""


def degrade(condition: str, images: np.ndarray, events: pd.DataFrame, settings: Mapping[str, Any]) -> np.ndarray:
    """Pixel maps under a condition. The same event is degraded in the same way, whatever it is together with.

    Args:
        condition: ``nominal`` leaves the images, and ``labels_permuted``, which changes what is told
            (:func:`nuvlm.models.vlm.prompts.permuted`). ``blank`` makes them black. The others (docs/report.md):

            - ``half_resolution``, ``quarter_resolution``: the mean grey value of 2 x 2 or 4 x 4 pixels, as the
              published test at 256 x 256 does for 512 x 512; black rows and columns fill up a size that they do not
              divide.
            - ``noise_{keV}``: Gaussian noise of that standard deviation on the charge of every pixel of the window;
              what falls below 0 is black.
            - ``dead_{percent}``: each column, in all views the same, is black with that probability. Columns are
              positions along the beam: in both views of a pixel readout their charge comes from the same pads.
            - ``diffusion_{mm}``: charge, spread evenly over each pixel, is convolved with a Gaussian of that width
              along rows and columns.
            - ``scale_{percent}``: all charge times that.

            What is random is drawn anew for each event, and the same draw serves all levels of a kind: a channel that
            is dead at 5 % is dead at 20 %.
        images: uint8 (n, views, size, size).
        events: their n rows of the event table, of which ``shard`` and ``event_id`` are used.
        settings: of the pixel maps (:func:`nuvlm.dataset.pixelmaps.image_settings`).

    Returns:
        uint8, (n, views, size, size) or, at lower resolution, a half or a quarter of the size, rounded up.
    """
    found = degradation(check_condition(condition))
    if condition == "blank":
        return np.zeros_like(images)
    if found is None:
        return images
    kind, level = found
    if kind == "resolution":
        return _average(images, level)
    degraded = np.empty_like(images)
    names = zip(events["shard"], events["event_id"], strict=True)
    for views, (shard, event), out in zip(images, names, degraded, strict=True):
        rng = _generator(kind, str(shard), int(event))
        out[:] = _dead(views, level, rng) if kind == "dead" else _charged(kind, level, views, rng, settings)
    return degraded


def _average(images: np.ndarray, factor: int) -> np.ndarray:
    more = -images.shape[-1] % factor
    if more:
        images = np.pad(images, ((0, 0), (0, 0), (0, more), (0, more)))
    n, views, height, width = images.shape
    # (n, views, h, w) -> (n, views, h / f, f, w / f, f); the mean of a block is at most 255
    blocks = images.reshape(n, views, height // factor, factor, width // factor, factor)
    return np.rint(blocks.mean(axis=(3, 5))).astype(np.uint8)


def _dead(views: np.ndarray, percent: int, rng: np.random.Generator) -> np.ndarray:
    """One event (views, size, size) with dead columns."""
    alive = 100 * rng.random(views.shape[-1]) >= percent
    return views * alive


def _charged(
    kind: str, level: int, views: np.ndarray, rng: np.random.Generator, settings: Mapping[str, Any]
) -> np.ndarray:
    """One event (views, size, size), degraded in its charge."""
    transfer: dict[str, Any] = {"transfer": "linear", "white_mev": WHITE_MEV, "knee_mev": 1.0}
    if settings["transfer"] is not None:
        transfer = {name: settings[name] for name in transfer}
    energy = energy_of_grey(**transfer)[views]
    if kind == "noise":
        energy += 1e-3 * level * rng.standard_normal(energy.shape)
    elif kind == "diffusion":
        shares = _kernel(level / (settings["pixel_mm"] or PIXEL_MM))
        for axis in (-2, -1):
            energy = convolve1d(energy, shares, axis=axis, mode="constant")
    else:
        energy *= level / 100
    return grayscale(np.maximum(energy, 0), **transfer)


def _kernel(width: float) -> np.ndarray:
    """(2 r + 1,) shares of a pixel's charge in the pixels around it, smeared by `width` pixels."""
    reach = int(np.ceil(REACH * width))
    edges = np.arange(-reach, reach + 2, dtype=np.float64)
    return box_shares(np.zeros(1), np.ones(1), np.array([width]), edges[None])[0]


def _generator(kind: str, shard: str, event_id: int) -> np.random.Generator:
    """Random numbers of an event, from its identity."""
    digest = hashlib.sha256(f"{kind}/{shard}/{event_id}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))
