"""Speed of the CNN's data path, compared with the network's, in one run on one core.

    python benchmarks/cnn_loader.py results/demo/voxels/sim00000.h5 [--rounds 5]

The workflow's stages make pixel maps from the shard's events: as in the demo (5 cm pixels, 112 x 112), as published
(5 cm, 512 x 512), and at the readout pitch (5 mm). Every round measures all of these in turn, so that other load
affects all of them. Results are medians over rounds in microseconds per event: `wall`, and `cpu`, the CPU time of the
training process:

    floor                     black images written to allocated memory (memset), the lower limit
    numpy, kernel             images from coordinates, with plain NumPy and with the kernel of `classifier.data`
    memory, stored            batches of images in memory, or read from disk for each batch
    memory_1, stored_1        the same, prepared by one worker process; `cpu` is the remaining time of the trainer
    network                   forward, backward and a step of Adam, on one thread

Prints the result and writes results/cnn_loader.json beside this file. Memory is scaled to 190,000 events.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numba
import numpy as np
import pandas as pd
import torch

from nuvlm.detector.crop import crop_displays
from nuvlm.detector.displays import smear_and_downsample
from nuvlm.detector.geometry import Detector, Diffusion
from nuvlm.detector.voxels import open_shard
from nuvlm.models.classifier.data import Images, SparseImages, StoredImages, batches, read_sparse
from nuvlm.models.classifier.network import to_float
from nuvlm.models.cnn.network import NETWORKS

CROP = {"centre": "charge", "transfer": "log", "white_mev": 200, "knee_mev": 1}
# pixel side (mm), window (pixels), width of the network, events a batch, and of the network's
CASES = ((50, 112, 0.25, 32, 32), (50, 512, 1.0, 16, 2), (5, 512, 1.0, 16, 2))
EVENTS = 190_000
H100_EVENTS_PER_SECOND = 1_500
BATCHES = {"memory": 120, "memory_1": 120, "stored": 12, "stored_1": 30}
Times = dict[str, list[tuple[float, float]]]


def open_pixel_maps(shard: Path, folder: Path, pixel_mm: float, size: int) -> StoredImages:
    displays, maps = folder / "displays.zarr", folder / "maps.zarr"
    smear_and_downsample(shard, displays, detector=Detector(), diffusion=Diffusion(), pixel_mm=pixel_mm)
    crop_displays(displays, maps, size=size, **CROP)
    with open_shard(shard, Detector()) as voxels:
        ids = voxels.events["event_id"]
    return StoredImages({"one": maps}, pd.DataFrame({"shard": "one", "row": np.arange(len(ids)), "event_id": ids}))


def training_step(views: int, width: float, batch: np.ndarray) -> Callable[[], None]:
    torch.manual_seed(1)
    network = NETWORKS["mobilenet"](views=views, width=width).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-6)
    labels = torch.arange(len(batch)) % 3

    def step() -> None:
        images = to_float(torch.from_numpy(batch), torch.device("cpu"))
        loss = torch.nn.functional.cross_entropy(network(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def by_numpy(images: SparseImages, rows: np.ndarray, out: np.ndarray) -> None:
    out.fill(0)
    for row, image in zip(rows, out.reshape(len(rows), -1), strict=True):
        span = slice(*images.span[row])
        image[np.cumsum(images.gap[span], dtype=np.int64)] = images.value[span]


def timed(made: Iterator[object], events: int) -> tuple[float, float]:
    """Wall and CPU time, microseconds an event, from the first batch to the last; `events` are in those between."""
    next(made)
    start, start_cpu = time.perf_counter(), time.process_time()
    for _ in made:
        pass
    return 1e6 * (time.perf_counter() - start) / events, 1e6 * (time.process_time() - start_cpu) / events


def measure(
    memory: SparseImages, stored: StoredImages, width: float, batch: int, trained: int, rounds: int
) -> dict[str, dict[str, float]]:
    rng = np.random.default_rng(1)
    opened: dict[str, Images] = {"memory": memory, "stored": stored}
    out = np.empty((batch, *memory.shape), dtype=np.uint8)
    step = training_step(memory.shape[0], width, memory.dense(np.arange(trained)))
    step()
    times: Times = {}
    for _ in range(rounds):
        order = [rng.integers(0, len(memory), batch) for _ in range(max(BATCHES.values()))]
        repeated = {
            "floor": (out.fill(0) for _ in order),
            "numpy": (by_numpy(memory, rows, out) for rows in order),
            "kernel": (memory.dense(rows, out) for rows in order),
        }
        for name, made in repeated.items():
            times.setdefault(name, []).append(timed(made, (len(order) - 1) * batch))
        for name, n in BATCHES.items():
            kind, _, workers = name.partition("_")
            made = batches(opened[kind], order[:n], int(workers or 0))
            times.setdefault(name, []).append(timed(made, (n - 1) * batch))
        times.setdefault("network", []).append(timed((step() for _ in range(2)), trained))
    medians = {name: np.median(taken, axis=0) for name, taken in times.items()}
    return {kind: {name: float(of[i]) for name, of in medians.items()} for i, kind in enumerate(("wall", "cpu"))}


def case(
    shard: Path, pixel_mm: float, size: int, width: float, batch: int, trained: int, rounds: int
) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        stored = open_pixel_maps(shard, Path(folder), pixel_mm, size)
        memory = read_sparse(stored)
        lit = np.array([np.count_nonzero(memory.dense(np.array([row]))) for row in range(len(memory))])
        microseconds = measure(memory, stored, width, batch, trained, rounds)
    n = len(memory)
    cpu = microseconds["cpu"]
    return {
        "pixel_mm": pixel_mm,
        "images": " x ".join(map(str, memory.shape)),
        "width": width,
        "batch": batch,
        "network_batch": trained,
        "events": n,
        "lit_pixels_per_event": float(lit.mean()),
        "bytes_per_event": memory.nbytes / n,
        "bytes_per_event_standard_error": 3 * float(lit.std()) / n**0.5,
        "megabytes_of_190000": {
            "sparse": EVENTS * memory.nbytes / n / 1e6,
            "sparse_uint32_pixel": EVENTS * (8 + 5 * float(lit.mean())) / 1e6,
            "dense": EVENTS * int(np.prod(memory.shape)) / 1e6,
        },
        "microseconds_per_event": microseconds,
        "events_per_second": {name: 1e6 / microseconds["wall"][name] for name in microseconds["wall"]},
        "network_over": {name: cpu["network"] / cpu[name] for name in ("memory", "stored")},
        "cores_for_1500_per_second": {name: H100_EVENTS_PER_SECOND * cpu[name] / 1e6 for name in ("memory", "stored")},
    }


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shard", type=Path, help="a voxel shard")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result = {
        "machine": f"{platform.machine()}, {processor()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numba": numba.__version__,
        "rounds": arguments.rounds,
        "cases": [case(arguments.shard, *settings, arguments.rounds) for settings in CASES],
    }
    text = json.dumps(result, indent=1)
    print(text)
    (Path(__file__).parent / "results" / "cnn_loader.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
