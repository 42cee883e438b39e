"""What several tests start from: a small detector's events, written and read with the real formats."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from xdist.scheduler import LoadScopeScheduling

from nuvlm.detector.crop import crop_displays
from nuvlm.detector.displays import smear_and_downsample
from nuvlm.detector.geometry import Detector, Diffusion
from nuvlm.detector.voxels import Event, Voxels, voxelize, write_shard
from nuvlm.workflow.config import Config

# Imported modules stay: searching them for cycles takes a fifth of the time of importing them, and of many tests.
gc.set_threshold(100_000)


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.set_threshold(700, 10, 10)


SHARED = ("tiny_run", "small_run", "exported_cnn")
"""Session fixtures that take long to make: one worker makes each, and runs all tests that use it."""


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Files go to a worker whole, and all that use one of the shared fixtures to the same one."""
    return _BySharedFixture(config, log)


class _BySharedFixture(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        text = (self.config.rootpath / file).read_text()
        return next((name for name in SHARED if name in text), file)


def pytest_report_header(config: pytest.Config) -> str:
    return f"tests with these markers: {config.option.markexpr or 'all'} (make test: all but long and slurm)"


@pytest.fixture
def detector() -> Detector:
    return Detector()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


@pytest.fixture
def make_voxels(detector: Detector) -> Callable[..., Voxels]:
    """Voxels of a random walk that starts at a vertex: a few hundred, some of them behind an outer anode."""

    def make(seed: int, vertex_mm: tuple[float, float, float] = (0, 0, 3000), steps: int = 200) -> Voxels:
        rng = np.random.default_rng(seed)
        path = np.cumsum(rng.normal(0, 30, (steps + 1, 3)), axis=0) + vertex_mm
        return voxelize(detector, path[:-1], path[1:], rng.gamma(2, 2, steps))[0]

    return make


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Compile what prepares events, which copies of the checkout take with them.

    Otherwise the jobs of a run compile it in each copy, ten seconds a job.
    """
    folder, detector, config = tmp_path_factory.mktemp("kernels"), Detector(), Config()
    path = np.cumsum(np.random.default_rng(1).normal(0, 30, (201, 3)), axis=0) + np.array([0, 0, 3000])
    voxels, _ = voxelize(detector, path[:-1], path[1:], np.ones(200))
    write_shard(folder / "a.h5", detector, [Event(0, voxels)])
    stores = folder / "displays.zarr", folder / "pixelmaps.zarr"
    smear_and_downsample(
        folder / "a.h5", stores[0], detector=detector, diffusion=Diffusion(), pixel_mm=config.display.pixel_mm
    )
    crop_displays(*stores, **config.pixelmap.of_maps)


@pytest.fixture
def make_shard(tmp_path: Path, detector: Detector, make_voxels: Callable[..., Voxels]) -> Callable[..., Path]:
    """A voxel shard of `n` events with all three classes in turn."""

    def make(name: str = "a", n: int = 6, first: int = 0, truth: bool = True) -> Path:
        events = []
        for i in range(first, first + n):
            known = {"nu_pdg": (12, 14, 14)[i % 3], "is_cc": i % 3 < 2, "nu_energy": 1.0 + i, "inelasticity": 0.4}
            vertex = {"vertex_mm": (0.0, 0.0, 3000.0)} if truth else {}
            events.append(Event(i, make_voxels(i), **(known if truth else {}), **vertex))
        path = tmp_path / f"{name}.h5"
        write_shard(path, detector, events)
        return path

    return make
