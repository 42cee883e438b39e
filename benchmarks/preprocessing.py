"""From voxel shard to pixel maps, disk to disk, beside merely reading the one and writing the other.

    python benchmarks/preprocessing.py results/demo/voxels/sim00000.h5 [--memory]

In one run, on one core, in CPU seconds: `smear_and_downsample` and `crop_displays`, what h5py takes to read the
shard's voxels, and what zarr takes to write the same pixel maps; for several pixel and crop sizes, and for events of
more and fewer voxels. Beside them the kernel alone, `np.bincount` of both views without smearing, and
`scipy.ndimage.gaussian_filter` of the whole detector (10 GB, and wrong, see docs/physics.md). Then both stages as jobs,
each in a separate process with all imports, on a shard of 5,000 events, and what 190,000 events take. With --memory,
the peak memory of both stages on shards of 1,000 and 10,000 events. The ratios are what carries over to other machines.
Writes results/preprocessing.json beside this file.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import zarr
from scipy.ndimage import gaussian_filter
from zarr.codecs import ZstdCodec

from nuvlm.detector.crop import crop_displays
from nuvlm.detector.displays import Smearing, smear_and_downsample
from nuvlm.detector.geometry import Detector, Diffusion
from nuvlm.detector.voxels import Event, Voxels, open_shard, write_shard

DETECTOR = Detector()
SHARD_EVENTS, PUBLISHED_EVENTS = 5_000, 190_000
PLAIN = "zarr.core.codec_pipeline.BatchedCodecPipeline"
CROP = {"centre": "charge", "transfer": "log", "white_mev": 200, "knee_mev": 1}
# Which events, pixel side (mm), crop size (pixels).
CASES = (
    ("all", 50, 112),
    ("all", 50, 512),
    ("all", 50, 1024),
    ("small", 50, 512),
    ("large", 50, 512),
    ("all", 5, 512),
)


def read_events(path: Path, n: int) -> list[Event]:
    events = []
    with open_shard(path, DETECTOR) as shard:
        for rows, block, begins in shard.blocks():
            for i, row in enumerate(rows):
                span = slice(begins[i], begins[i + 1])
                voxels = Voxels(block.x[span], block.y[span], block.z[span], block.energy[span])
                vertex = tuple(shard.events["vertex_mm"][row].tolist())
                events.append(Event(int(shard.events["event_id"][row]), voxels, vertex_mm=vertex))
    return events[:n]


def write_repeated(path: Path, events: list[Event], n: int) -> None:
    """Write a shard of `n` events, those of `events` over and over."""
    write_shard(path, DETECTOR, (replace(events[i % len(events)], event_id=i) for i in range(n)))


def seconds(work: Callable[[], object], repeat: int) -> float:
    """The best of several CPU times."""
    times = []
    for _ in range(repeat):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def fresh(folder: Path) -> Path:
    """A new folder: to remove an old store would be timed too."""
    return Path(tempfile.mkdtemp(dir=folder))


def run_stages(shard: Path, folder: Path, pixel_mm: float, size: int) -> None:
    displays = folder / "displays.zarr"
    smear_and_downsample(shard, displays, detector=DETECTOR, diffusion=Diffusion(), pixel_mm=pixel_mm)
    crop_displays(displays, folder / "maps.zarr", size=size, **CROP)


def read_voxels(shard: Path) -> list[np.ndarray]:
    with h5py.File(shard) as file:
        return [file["events"][:], *(file[f"voxels/{name}"][:] for name in ("x", "y", "z", "energy"))]


def write_images(images: np.ndarray, folder: Path) -> None:
    with zarr.config.set({"codec_pipeline.path": PLAIN}):
        array = zarr.create_group(folder / "plain.zarr").create_array(
            "images",
            shape=images.shape,
            dtype=images.dtype,
            chunks=(1, *images.shape[1:]),
            shards=images.shape,
            compressors=ZstdCodec(level=3, checksum=True),
            config={"write_empty_chunks": True},
        )
        array[:] = images


def disk_to_disk(shard: Path, pixel_mm: float, size: int, repeat: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run_stages(shard, folder, pixel_mm, size)  # compiles, and makes the images
        images = zarr.open_group(folder / "maps.zarr", mode="r")["images"][:]
        stages = seconds(lambda: run_stages(shard, fresh(folder), pixel_mm, size), repeat)
        read = seconds(lambda: read_voxels(shard), repeat)
        write = seconds(lambda: write_images(images, fresh(folder)), repeat)
    n = len(images)
    return {
        "pixel_mm": pixel_mm,
        "size": size,
        "voxels_per_event": len(read_voxels(shard)[1]) / n,
        "stages_ms_per_event": 1e3 * stages / n,
        "read_ms_per_event": 1e3 * read / n,
        "write_ms_per_event": 1e3 * write / n,
        "ratio": stages / (read + write),
    }


def bin_views(voxels: Voxels, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Both views by np.bincount, no smearing."""
    n_x, n_y, n_z = shape
    z = voxels.z // 10
    xz = np.bincount((voxels.x // 50).astype(np.int64) * n_z + z, voxels.energy, n_x * n_z)
    yz = np.bincount((voxels.y // 10).astype(np.int64) * n_z + z, voxels.energy, n_y * n_z)
    return xz.reshape(n_x, n_z), yz.reshape(n_y, n_z)


def dense_filter(voxels: Voxels) -> None:
    grid = np.zeros(DETECTOR.shape, dtype=np.float32)
    grid[voxels.x, voxels.y, voxels.z] = voxels.energy
    smeared = gaussian_filter(grid, (0.27, 0.078, 0.078), truncate=4)
    smeared.sum(axis=1), smeared.sum(axis=0)


def kernel(events: list[Event], repeat: int) -> dict[str, float]:
    smearing, shape = Smearing(DETECTOR, Diffusion(), 50), DETECTOR.display_shape(50)
    voxels = [event.voxels for event in events]
    block = Voxels(*(np.concatenate([getattr(v, name) for v in voxels]) for name in ("x", "y", "z", "energy")))
    begins = np.concatenate([[0], np.cumsum([len(v) for v in voxels])])
    smearing.displays(block, begins)
    smeared = seconds(lambda: smearing.displays(block, begins), repeat) / len(events)
    binned = seconds(lambda: [bin_views(v, shape) for v in voxels], repeat) / len(events)
    dense = seconds(lambda: dense_filter(voxels[0]), 1)
    return {
        "voxels_per_event": len(block) / len(events),
        "kernel_ms_per_event": 1e3 * smeared,
        "million_voxels_per_second": 1e-6 * len(block) / len(events) / smeared,
        "bincount_over_kernel": binned / smeared,
        "dense_filter_over_kernel": dense / smeared,
    }


def start_stage(stage: str, shard: Path, *options: str) -> str:
    """What :func:`run_stage` prints in a process, with stores beside the shard."""
    command = [sys.executable, __file__, str(shard), "--stage", stage, "--folder", str(shard.parent), *options]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def jobs(events: list[Event]) -> dict[str, float]:
    """CPU seconds of both stages on a shard, each a process, and what those of PUBLISHED_EVENTS in such shards take."""
    with tempfile.TemporaryDirectory() as name:
        shard = Path(name) / "a.h5"
        write_repeated(shard, events, SHARD_EVENTS)
        result = {"events_per_shard": float(SHARD_EVENTS)}
        for stage in ("smear", "crop"):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            start_stage(stage, shard, "--size", "112")
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            result[f"{stage}_cpu_seconds"] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    result["ms_per_event"] = 1e3 * (result["smear_cpu_seconds"] + result["crop_cpu_seconds"]) / SHARD_EVENTS
    return result | {"cpu_seconds_of_190000_events": PUBLISHED_EVENTS * result["ms_per_event"] / 1e3}


def peak_memory(events: list[Event], n: int) -> dict[str, float]:
    """Peak memory (MB) of each stage, a process each, on a shard of `n` events."""
    with tempfile.TemporaryDirectory() as name:
        shard = Path(name) / "a.h5"
        write_repeated(shard, events, n)
        result = {"events": float(n)}
        for stage in ("smear", "crop"):
            result[f"{stage}_mb"] = float(start_stage(stage, shard))
    return result


def run_stage(stage: str, shard: Path, folder: Path, size: int) -> None:
    displays = folder / "displays.zarr"
    if stage == "smear":
        smear_and_downsample(shard, displays, detector=DETECTOR, diffusion=Diffusion(), pixel_mm=50)
    else:
        crop_displays(displays, folder / "maps.zarr", size=size, **CROP)
    # Unlike getrusage's, Linux's high-water mark begins with this program, not with the one that started it.
    status = Path("/proc/self/status").read_text()
    print(int(status.split("VmHWM:")[1].split()[0]) / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shard", type=Path)
    parser.add_argument("--memory", action="store_true", help="measure the peak memory too: some minutes")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--stage", choices=("smear", "crop"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, default=512, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage:
        run_stage(arguments.stage, arguments.shard, arguments.folder, arguments.size)
        return
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # one core, for all that is compared

    events = read_events(arguments.shard, 500)
    result: dict[str, object] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "zarr": zarr.__version__},
        "kernel": kernel(events, arguments.repeat),
    }
    print(json.dumps(result["kernel"], indent=1))
    rows = []
    order = sorted(events, key=lambda event: len(event.voxels))
    third = len(order) // 3
    with tempfile.TemporaryDirectory() as name:
        shards = {}
        for label, chosen in (("all", events), ("small", order[:third]), ("large", order[-third:])):
            shards[label] = Path(name) / f"{label}.h5"
            write_repeated(shards[label], chosen, 1_000)
        for label, pixel_mm, size in CASES:
            row = disk_to_disk(shards[label], pixel_mm, size, arguments.repeat)
            rows.append({"events": label, **row})
            print(label, "  ".join(f"{key} {value:.3g}" for key, value in row.items()))
    result["disk_to_disk"] = rows
    result["jobs"] = jobs(events)
    print(result["jobs"])
    if arguments.memory:
        result["memory"] = [peak_memory(events, n) for n in (1_000, 10_000)]
        print(result["memory"])
    path = Path(__file__).parent / "results" / "preprocessing.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
