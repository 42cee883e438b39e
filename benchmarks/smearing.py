"""Smearing and downsampling against plain binning and against a dense filter, on the same events in one run.

    python benchmarks/smearing.py results/demo/voxels/sim00000.h5 [--events 100]

Prints the time an event of: the kernel; `np.bincount` of both views without smearing; the slow reference; and, once,
`scipy.ndimage.gaussian_filter` of the whole detector, which is also wrong (see docs/physics.md). The ratios are what
carries over to other machines.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from nuvlm.detector import Detector, Diffusion
from nuvlm.displays import Smearing, smear_reference
from nuvlm.voxels import Voxels, open_shard

PIXEL_MM = 50


def read_events(path: Path, detector: Detector, n: int) -> list[Voxels]:
    events = []
    with open_shard(path, detector) as shard:
        for rows, block in shard.blocks():
            begins = (shard.events["first_voxel"][rows] - shard.events["first_voxel"][rows][0]).astype(int)
            for begin, count in zip(begins, shard.events["n_voxels"][rows].astype(int), strict=True):
                span = slice(begin, begin + count)
                events.append(Voxels(block.x[span], block.y[span], block.z[span], block.energy[span]))
    return events[:n]


def bin_views(voxels: Voxels, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Both views by np.bincount, no smearing."""
    n_x, n_y, n_z = shape
    z = voxels.z // 10
    xz = np.bincount((voxels.x // 50).astype(np.int64) * n_z + z, voxels.energy, n_x * n_z)
    yz = np.bincount((voxels.y // 10).astype(np.int64) * n_z + z, voxels.energy, n_y * n_z)
    return xz.reshape(n_x, n_z), yz.reshape(n_y, n_z)


def seconds(work: Callable[[Voxels], object], events: list[Voxels]) -> float:
    """Total of the best of several times of each event."""
    total = 0.0
    for event in events:
        times = []
        for _ in range(7):
            start = time.perf_counter()
            work(event)
            times.append(time.perf_counter() - start)
        total += min(times)
    return total


def dense_filter(voxels: Voxels, detector: Detector) -> None:
    grid = np.zeros(detector.shape, dtype=np.float32)
    grid[voxels.x, voxels.y, voxels.z] = voxels.energy
    smeared = gaussian_filter(grid, (0.27, 0.078, 0.078), truncate=4)
    smeared.sum(axis=1), smeared.sum(axis=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shard", type=Path)
    parser.add_argument("--events", type=int, default=100)
    parser.add_argument("--dense", action="store_true", help="time the dense filter too: 10 GB and a minute")
    arguments = parser.parse_args()
    detector, diffusion = Detector(), Diffusion()
    events = read_events(arguments.shard, detector, arguments.events)
    smearing = Smearing(detector, diffusion, PIXEL_MM)
    shape = detector.display_shape(PIXEL_MM)
    kernel = seconds(smearing, events)
    plain = seconds(lambda event: bin_views(event, shape), events)
    reference = seconds(lambda event: smear_reference(event, detector, diffusion, PIXEL_MM), events[:3])
    n_voxels = sum(len(event) for event in events)
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "events": len(events),
        "voxels_per_event": n_voxels / len(events),
        "kernel_ms_per_event": 1e3 * kernel / len(events),
        "bincount_ms_per_event": 1e3 * plain / len(events),
        "kernel_million_voxels_per_second": 1e-6 * n_voxels / kernel,
        "bincount_over_kernel": plain / kernel,
        "reference_ms_per_event": 1e3 * reference / 3,
    }
    if arguments.dense:
        start = time.perf_counter()
        dense_filter(events[0], detector)
        result["dense_filter_s_per_event"] = time.perf_counter() - start
        result["dense_filter_over_kernel"] = result["dense_filter_s_per_event"] / (kernel / len(events))
    text = json.dumps(result, indent=1)
    print(text)
    out = Path(__file__).parent / "results" / "smearing.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(text + "\n")


if __name__ == "__main__":
    main()
