"""Degraded pixel maps for the conditions: lower resolution, noise, dead channels, diffusion, energy scale.

Noise, diffusion and energy scale act on the charge, recovered from grey values with
:func:`nuvlm.detector.grayscale.energy_of_grey`. For maps made elsewhere, grey values are assumed to be linear in charge
with white at :data:`WHITE_MEV`, and a pixel size that is unknown to be :data:`PIXEL_MM`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.ndimage import convolve1d

from nuvlm.base.identity import hash_of
from nuvlm.detector.grayscale import energy_of_grey, grayscale
from nuvlm.detector.smearing import box_shares
from nuvlm.models.conditions import check_condition, degradation

WHITE_MEV, PIXEL_MM = 200.0, 50.0
"""Charge of a white pixel and side of a pixel, assumed where they are unknown."""
PROJECTIONS = ("xz", "yz")
"""Views whose columns are the same channels."""
REACH = 5
"""Cut-off of the diffusion kernel, standard deviations."""


def degrade(condition: str, images: np.ndarray, events: pd.DataFrame, settings: Mapping[str, Any]) -> np.ndarray:
    """Pixel maps under a condition. The result for an event does not depend on its batch.

    Args:
        condition: ``nominal`` and ``labels_permuted`` (a change of the prompt,
            :func:`nuvlm.models.vlm.prompts.permuted`) leave the images unchanged; ``blank`` makes them black. The
            others (docs/report.md):

            - ``half_resolution``, ``quarter_resolution``: the mean grey value of 2 x 2 or 4 x 4 pixels, as in the
              published test at 256 x 256 for 512 x 512; other sizes are padded with black rows and columns.
            - ``noise_{keV}``: Gaussian noise of that standard deviation on the charge of every pixel of the window;
              negative results are black.
            - ``dead_{percent}``: each column is black with that probability, the same in XZ and YZ. Their columns are
              positions along z: in a pixel readout the charge of both views comes from the same pads. Other views, such
              as wire planes, have their own channels.
            - ``diffusion_{mm}``: the charge, uniform within each pixel, is convolved with a Gaussian of that width
              along rows and columns.
            - ``scale_{percent}``: multiplies all charge.

            Random numbers are drawn for each event, the same for all levels of a kind: a channel that is dead at 5 %
            is also dead at 20 %.
        images: uint8 (n, views, size, size).
        events: the n rows of the event table; ``shard`` and ``event_id`` are used.
        settings: of the pixel maps (:func:`nuvlm.dataset.pixelmaps.image_settings`).

    Returns:
        uint8 (n, views, size, size); at lower resolution with half or a quarter of the size, rounded up.
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
    for index, (shard, event) in enumerate(names):
        rng = _generator(kind, str(shard), int(event))
        if kind == "dead":
            degraded[index] = _dead(images[index], level, rng, settings["views"])
        else:
            degraded[index] = _charged(kind, level, images[index], rng, settings)
    return degraded


def _average(images: np.ndarray, factor: int) -> np.ndarray:
    more = -images.shape[-1] % factor
    if more:
        images = np.pad(images, ((0, 0), (0, 0), (0, more), (0, more)))
    n, views, height, width = images.shape
    # (n, views, h, w) -> (n, views, h / f, f, w / f, f); the mean of a block is at most 255
    blocks = images.reshape(n, views, height // factor, factor, width // factor, factor)
    return np.rint(blocks.mean(axis=(3, 5))).astype(np.uint8)


def _dead(views: np.ndarray, percent: int, rng: np.random.Generator, names: Sequence[str]) -> np.ndarray:
    """One event (views, size, size) with dead columns."""
    alive: dict[str, np.ndarray] = {}
    degraded = np.empty_like(views)
    for index, name in enumerate(names):
        # The second letter of xz and yz is the axis of their columns.
        channels = name[1] if name in PROJECTIONS else name
        if channels not in alive:
            alive[channels] = np.greater_equal(100 * rng.random(views.shape[-1]), percent)
        degraded[index] = views[index] * alive[channels]
    return degraded


def _charged(
    kind: str, level: int, views: np.ndarray, rng: np.random.Generator, settings: Mapping[str, Any]
) -> np.ndarray:
    """One event (views, size, size) with degraded charge."""
    transfer: dict[str, Any] = {"transfer": "linear", "white_mev": WHITE_MEV, "knee_mev": 1.0}
    if settings["transfer"] is not None:
        transfer = {name: settings[name] for name in transfer}
    energy_of = energy_of_grey(**transfer)
    if kind == "scale":  # from grey value to grey value, without the energies of all pixels
        return grayscale(energy_of * (level / 100), **transfer)[views]
    energy = energy_of[views]
    if kind == "noise":
        energy += 1e-3 * level * rng.standard_normal(energy.shape)
    else:
        for axis, side_mm in zip((-1, -2), _sides_mm(settings), strict=True):
            energy = convolve1d(energy, _kernel(level / side_mm), axis=axis, mode="constant")
    return grayscale(np.maximum(energy, 0), **transfer)


def _sides_mm(settings: Mapping[str, Any]) -> tuple[float, float]:
    """Width and height of a pixel."""
    if "geometry" in settings:
        width, height = settings["geometry"]["pixel_mm"]
        return width, height
    side = settings["pixel_mm"] or PIXEL_MM
    return side, side


def _kernel(width: float) -> np.ndarray:
    """(2 r + 1,) fractions of a pixel's charge in the pixels around it, for diffusion by `width` pixels."""
    reach = int(np.ceil(REACH * width))
    edges = np.arange(-reach, reach + 2, dtype=np.float64)
    return box_shares(np.zeros(1), np.ones(1), np.array([width]), edges[None])[0]


def _generator(kind: str, shard: str, event_id: int) -> np.random.Generator:
    """Random generator seeded by the identity of the event."""
    return np.random.default_rng(hash_of(kind, shard, event_id, bits=128))
