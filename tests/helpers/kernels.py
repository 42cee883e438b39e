"""Compiled code of a new checkout."""

from pathlib import Path

import numpy as np

from nuvlm.detector.crop import crop_displays
from nuvlm.detector.displays import smear_and_downsample
from nuvlm.detector.geometry import Detector, Diffusion
from nuvlm.detector.voxels import Event, voxelize, write_shard
from nuvlm.workflow.config import Config


def compile_kernels(folder: Path) -> None:
    """Compile what prepares events, which copies of the checkout take with them.

    Otherwise all first jobs of a run compile it at the same time, ten seconds each, and those of another copy again.

    Args:
        folder: for the stores of one event.
    """
    detector, config = Detector(), Config()
    path = np.cumsum(np.random.default_rng(1).normal(0, 30, (201, 3)), axis=0) + np.array([0, 0, 3000])
    voxels, _ = voxelize(detector, path[:-1], path[1:], np.ones(200))
    write_shard(folder / "a.h5", detector, [Event(0, voxels)])
    smear_and_downsample(
        folder / "a.h5", folder / "displays.zarr", detector=detector, diffusion=Diffusion(),
        pixel_mm=config.display.pixel_mm,
    )  # fmt: skip
    crop_displays(folder / "displays.zarr", folder / "pixelmaps.zarr", **config.pixelmap.of_maps)
