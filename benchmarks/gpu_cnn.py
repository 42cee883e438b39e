"""Training a CNN and classifying with it on one GPU, at full width and 2 x 512 x 512 pixels.

    python benchmarks/gpu_cnn.py [--network published] [--run results/demo] [--modes tf32 bf16]
                                 [--batches 16 64 128 256] [--workers 4] [--device cpu] [--tiny] [--out FILE]

Calls `train_cnn` and `classify_cnn` as the workflow does and reports what they record, on random maps with 1 % lit
pixels or on those of a run (its size and views). For each mode (`fp32`, `tf32`, the default, `bf16`, and compiled) and
batch size:

- training: events/s after the first epoch, in which kernels are chosen and compiled; the fraction of the time spent
  waiting for the loader; events/s with batches already in memory; peak memory of the device.
- classification: ms per sample and peak memory, from grey values to logits. The time to read maps is separate.
- TFLOP/s, and the fraction of the roofline limit: the longer of the counted arithmetic at the device's measured rate
  of large matrix products, and the traffic of the convolutions' inputs and outputs at its copy rate. Training takes
  three times both.

A failed measurement is recorded and the others continue. Results, with machine, versions and commit, are written to
results/gpu_cnn_{network}_{device}.json beside this file after each mode. --tiny runs a tiny network through the same
code, also without a GPU, and only traces the compilation; its numbers have no meaning and are only printed.
"""

import argparse
import importlib.metadata
import json
import logging
import os
import platform
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from gpu import attempt, free, logger
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import nuvlm.models.classifier.trainer as trainer_module
import nuvlm.models.cnn.classify as classify_module
from nuvlm.base.classes import CLASSES
from nuvlm.base.files import write_json
from nuvlm.base.stores import create_store
from nuvlm.dataset.event_table import read_events
from nuvlm.dataset.pixelmaps import image_settings, read_blocks
from nuvlm.models.classifier.network import ImageClassifier, count_parameters
from nuvlm.models.cnn.classify import classify_cnn
from nuvlm.models.cnn.network import NETWORKS, load_cnn
from nuvlm.models.cnn.settings import NetworkName, Recipe, TrainSettings
from nuvlm.models.cnn.training import train_cnn
from nuvlm.models.devices import choose_device, device_name
from nuvlm.models.vlm.arithmetic import matmul_rate

REPOSITORY = Path(__file__).parents[1]
TARGETS = {"events_per_second": 1500.0, "ms_per_event": 1.0}
"""On an H100: training with the loader, and classifying, each in the best mode and with the best batch."""
LIT = 0.01
"""Share of the pixels that are lit in maps made here: a muon of 5 m crosses 1,000 of 262,144 pixels of 5 mm."""


@dataclass(frozen=True)
class Mode:
    """How a network computes."""

    tf32: bool = True
    """Whether float32 is rounded to a mantissa of 10 bits where it is multiplied, as torch does in convolutions."""
    bf16: bool = False
    compile: bool = False
    graphs: bool = False
    """Whether the GPU gets all kernels of a pass at once (CUDA graphs); of classifying alone."""


MODES = {
    "fp32": Mode(tf32=False),
    "tf32": Mode(),
    "bf16": Mode(bf16=True),
    "tf32, compiled": Mode(compile=True),
    "bf16, compiled": Mode(bf16=True, compile=True),
    "bf16, compiled, graphs": Mode(bf16=True, compile=True, graphs=True),
}


@dataclass(frozen=True)
class Scale:
    """What is measured: a network, and how much of it."""

    network: NetworkName
    width: float
    views: int
    size: int
    train: Sequence[int]
    """Batches in training."""
    classify: Sequence[int]
    steps: int
    """Of an epoch with the largest batch; all batches see as many events."""
    workers: int = 0
    threads: int = 1
    epochs: int = 3
    backend: str = "inductor"
    """Of the compiler."""


def full(network: NetworkName, batches: Sequence[int], workers: int) -> Scale:
    """The published size."""
    return Scale(network, 1.0, 2, 512, batches, (1, *batches), 20, workers, threads=os.cpu_count() or 1)


def tiny(network: NetworkName = "published") -> Scale:
    """The same code in seconds."""
    return Scale(network, 0.25, 2, 32, (4,), (1, 4), 2, epochs=2, backend="eager")


@dataclass(frozen=True)
class Maps:
    """Pixel maps to train on and to classify.

    Attributes:
        stores: shard name -> store.
        events: labelled rows of an event table, to be drawn from in turn.
    """

    stores: Mapping[str, Path]
    events: pd.DataFrame

    def table(self, out: Path, train: int, test: int) -> Path:
        """Write an event table with so many events to train on and to classify; where there are fewer, they repeat."""
        rows = np.resize(np.arange(len(self.events)), 2 * len(CLASSES) + train + test)
        table = self.events.iloc[rows].reset_index(drop=True)
        splits = ["validation"] * 2 * len(CLASSES) + ["train"] * train + ["test"] * test
        table["split"] = pd.Series(splits, dtype="string")
        table["part"] = np.where(table["split"] == "test", 0, -1)
        table.to_parquet(out)
        return out


def make_maps(folder: Path, scale: Scale) -> Maps:
    """Maps with pixels lit at random, and classes that mean nothing: a speed does not depend on them."""
    rng = np.random.default_rng(7)
    events = scale.steps * max(scale.train)
    attributes = {"format": "nuvlm-pixelmaps", "version": 1, "views": ["xz", "yz", "u", "v"][: scale.views]}
    attributes |= {
        "size": scale.size,
        "pixel_mm": 5,
        "centre": "charge",
        "transfer": "log",
        "white_mev": 200,
        "knee_mev": 1,
    }
    pixels = scale.views * scale.size**2
    with create_store(folder / "a.zarr", attributes) as store:
        for _ in range(events):
            image = np.zeros(pixels, dtype=np.uint8)
            lit = rng.integers(pixels, size=int(LIT * pixels))
            image[lit] = rng.integers(1, 256, len(lit))
            store.append("images", image.reshape(1, scale.views, scale.size, scale.size))
        store.append("event_id", np.arange(events, dtype=np.uint64))
    table = pd.DataFrame({"shard": "a", "row": np.arange(events), "event_id": np.arange(events, dtype=np.uint64)})
    table["class"] = pd.Series(np.resize(np.array(CLASSES, dtype=object), events), dtype="string")
    table["centred_by"] = pd.Series("charge", index=table.index, dtype="string")
    return Maps({"a": folder / "a.zarr"}, table)


def maps_of(run: Path) -> Maps:
    """Those of a run's folder."""
    events = read_events(run / "events.parquet")
    stores = {name: run / "pixelmaps" / f"{name}.zarr" for name in events["shard"].unique()}
    return Maps(stores, events[events["class"].notna()][["shard", "row", "event_id", "class", "centred_by"]])


@contextmanager
def precision(mode: Mode) -> Iterator[None]:
    """Let float32 be multiplied as the mode says."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = mode.tf32
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@dataclass(frozen=True)
class Floor:
    """What a pass forwards of one event takes at least.

    Attributes:
        operations: floating-point operations, two for a product that is added.
        values: numbers that convolutions read and write, besides weights.
        rate: operations a second.
        bandwidth: bytes a second.
        width: bytes of a number.
    """

    operations: int
    values: int
    rate: float
    bandwidth: float
    width: int

    @property
    def seconds(self) -> float:
        return max(self.operations / self.rate, self.width * self.values / self.bandwidth)

    def compare(self, seconds: float, passes: int) -> dict[str, float]:
        """What an event in `seconds` makes of it; training is as much as three `passes`."""
        return {
            "tflop_per_second": passes * self.operations / seconds / 1e12,
            "fraction_of_floor": passes * self.seconds / seconds,
        }


def count(network: nn.Module, shape: Sequence[int]) -> tuple[int, int]:
    """Operations of a pass forwards of one event of `shape`, and values that its convolutions read and write."""
    values = 0

    def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal values
        values += inputs[0].numel() + output.numel()

    network = network.to("meta").eval()
    hooks = [layer.register_forward_hook(add) for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, *shape, device="meta"))
    for hook in hooks:
        hook.remove()
    return counter.get_total_flops(), values


def copy_rate(device: torch.device, seconds: float = 0.2) -> float:
    """Bytes a second that `device` reads and writes when it copies."""
    source = torch.ones(2**28 if device.type == "cuda" else 2**24, device=device)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    copy()
    start, n = time.perf_counter(), 0
    while (taken := time.perf_counter() - start) < seconds or n == 0:
        copy()
        n += 1
    return 2 * source.numel() * source.element_size() * n / taken


def train(maps: Maps, folder: Path, scale: Scale, mode: Mode, batch: int, floor: Floor) -> dict[str, Any]:
    """Train as the rule does, with its loader and with batches that are there."""
    table = maps.table(folder / "events.parquet", scale.steps * max(scale.train), 0)
    settings = TrainSettings(
        width=scale.width,
        bf16=mode.bf16,
        compile=mode.compile,
        workers=scale.workers,
        recipe=Recipe(network=scale.network, batch_size=batch, max_epochs=scale.epochs, patience=scale.epochs),
    )

    def run(name: str) -> dict[str, Any]:
        free()
        # A separate folder: a checkpoint of other settings would be refused.
        with tempfile.TemporaryDirectory(dir=folder, prefix=name) as out:
            train_cnn(
                table, maps.stores, Path(out) / "cnn", Path(out) / "checkpoint.pt", Path(out) / "tensorboard",
                settings=settings, threads=scale.threads,
            )  # fmt: skip
            card: dict[str, Any] = json.loads((Path(out) / "cnn" / "training.json").read_text())
        return card

    def ready(images: Any, order: Iterable[np.ndarray], workers: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        made: dict[int, np.ndarray] = {}
        for rows in order:
            if len(rows) not in made:
                made[len(rows)] = images.dense(rows)
            yield rows, made[len(rows)]

    def rate(card: Mapping[str, Any]) -> float:
        return float(np.median([card["events"] / entry["seconds"] for entry in card["history"][1:]]))

    card = run("loaded")
    with patch.object(trainer_module, "batches", ready):
        alone = run("ready")
    later = card["history"][1:]
    return {
        "events_per_second": rate(card),
        "waits_for_loader": sum(entry["waited_seconds"] for entry in later) / sum(e["seconds"] for e in later),
        "events_per_second_without_loader": rate(alone),
        "first_epoch_seconds": card["history"][0]["seconds"],
        "peak_memory_mb": card["peak_memory_mb"],
        **floor.compare(1 / rate(alone), 3),
    }


class InMode(ImageClassifier):
    """A trained CNN, cast and compiled as a mode asks."""

    def __init__(self, network: ImageClassifier, mode: Mode, device: torch.device) -> None:
        super().__init__()
        self.dtype = torch.bfloat16 if mode.bf16 else torch.float32
        self.network = network.to(self.dtype)
        how = {"mode": "reduce-overhead"} if mode.graphs and device.type == "cuda" else {}
        self.call = torch.compile(self.network, **how) if mode.compile else self.network

    def forward(self, images: Tensor) -> Tensor:
        """Logits, float32, of images in floats from 0 to 1."""
        logits: Tensor = self.call(images.to(self.dtype)).float()
        return logits


def classify(
    maps: Maps, folder: Path, scale: Scale, model: Path, mode: Mode, batch: int, floor: Floor
) -> dict[str, Any]:
    """Classify as the rule does, with the network as the mode has it."""
    events = maps.table(folder / "events.parquet", 0, 8 * batch)

    def prepared(model: Path, device: torch.device) -> ImageClassifier:
        return InMode(load_cnn(model, device), mode, device)

    with patch.object(classify_module, "load_cnn", prepared):
        out = folder / "predictions.parquet"
        classify_cnn(model, events, maps.stores, {"nominal": out}, part=0, batch_size=batch, threads=scale.threads)
    cost = json.loads(out.with_suffix(".json").read_text())
    seconds = cost["seconds"] / cost["events"]
    return {"ms_per_event": 1e3 * seconds, "peak_memory_mb": cost["peak_memory_mb"], **floor.compare(seconds, 1)}


def read_ms(maps: Maps, folder: Path, batch: int) -> float:
    """Milliseconds that it takes to read an event's maps from their stores, one core."""
    table = read_events(maps.table(folder / "events.parquet", 0, 8 * batch))
    start = time.perf_counter()
    n = sum(len(images) for _, images in read_blocks(maps.stores, table, batch))
    return 1e3 * (time.perf_counter() - start) / n


def measure(
    scale: Scale, maps: Maps, folder: Path, modes: Iterable[str], write: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """All measurements; `write` gets what there is after each mode."""
    device = choose_device()
    images = image_settings(maps.stores)
    shape = (len(images["views"]), images["size"], images["size"])
    network = NETWORKS[scale.network](shape[0], width=scale.width)
    recipe = Recipe(network=scale.network, max_epochs=1)
    operations, values = count(network, shape)
    bandwidth = copy_rate(device)
    model = folder / "model"
    train_cnn(
        maps.table(folder / "events.parquet", 2 * min(scale.train), 0), maps.stores, model, folder / "checkpoint.pt",
        folder / "tensorboard", settings=TrainSettings(width=scale.width, recipe=recipe), threads=scale.threads,
    )  # fmt: skip
    result: dict[str, Any] = {
        "images": " x ".join(map(str, shape)),
        "network": scale.network,
        "width": scale.width,
        "parameters": count_parameters(network),
        "forward_gflop_per_event": operations / 1e9,
        "million_values_per_event": values / 1e6,
        "copied_gb_per_second": bandwidth / 1e9,
        "workers": scale.workers,
        "read_ms_per_event": read_ms(maps, folder, max(scale.classify)),
        "modes": {},
    }
    for name in modes:
        mode = MODES[name]
        with precision(mode):
            dtype = torch.bfloat16 if mode.bf16 else torch.float32
            floor = Floor(operations, values, matmul_rate(device, dtype), bandwidth, dtype.itemsize)
            found = result["modes"][name] = {
                "multiplied_tflop_per_second": floor.rate / 1e12,
                "floor_ms_per_event": 1e3 * floor.seconds,
            }
            if not mode.graphs:
                found["training"] = {
                    str(batch): attempt(
                        lambda mode=mode, batch=batch, floor=floor: train(maps, folder, scale, mode, batch, floor),
                        f"training, {name}, batch {batch}",
                    )
                    for batch in scale.train
                }
            found["classifying"] = {
                str(batch): attempt(
                    lambda mode=mode, batch=batch, floor=floor: classify(
                        maps, folder, scale, model, mode, batch, floor
                    ),
                    f"classifying, {name}, batch {batch}",
                )
                for batch in scale.classify
            }
        result |= compare(result["modes"])
        write(result)
    return result


def compare(modes: Mapping[str, Any]) -> dict[str, Any]:
    """The best of all modes and batches, the best at batch 1, and the targets that are not reached."""

    def best(what: str, key: str, sign: int, batches: Sequence[str] | None = None) -> dict[str, Any] | None:
        found = [
            {"mode": mode, "batch": int(batch), key: measured[key]}
            for mode, of in modes.items()
            for batch, measured in of.get(what, {}).items()
            if key in measured and (batches is None or batch in batches)
        ]
        return max(found, key=lambda one: sign * one[key], default=None)

    training = best("training", "events_per_second", 1)
    classifying = best("classifying", "ms_per_event", -1)
    reached = {
        "events_per_second": training and training["events_per_second"] >= TARGETS["events_per_second"],
        "ms_per_event": classifying and classifying["ms_per_event"] <= TARGETS["ms_per_event"],
    }
    return {
        "best": {
            "training": training,
            "classifying": classifying,
            "classifying, batch 1": best("classifying", "ms_per_event", -1, ["1"]),
        },
        "missed": [name for name in TARGETS if not reached[name]],
    }


def machine() -> dict[str, Any]:
    """What it ran on, and which code."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True).stdout.strip()

    return {
        "device": device_name(choose_device()),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "numpy", "zarr")},
        "cuda": torch.version.cuda,
        "commit": git("rev-parse", "HEAD") or None,
        "changed_since": bool(git("status", "--porcelain")),
        "targets": TARGETS,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=list(NETWORKS), default="published")
    parser.add_argument("--run", type=Path, help="folder of a run whose maps are taken; without one, maps made here")
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES))
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 64, 128, 256])
    parser.add_argument("--workers", type=int, default=4, help="processes that make batches in training")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a tiny network, to see that all of this runs")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    logger.setLevel(logging.INFO)
    if arguments.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch looks for GPUs
    elif not torch.cuda.is_available():
        parser.error("no GPU is there. --device cpu goes without one, and with --tiny is quick.")
    network, batches = arguments.network, arguments.batches
    scale = tiny(network) if arguments.tiny else full(network, batches, arguments.workers)
    out = arguments.out
    if out is None and not arguments.tiny:
        name = re.sub(r"[^a-z0-9]+", "_", device_name(choose_device()).lower())
        out = Path(__file__).parent / "results" / f"gpu_cnn_{network}_{name}.json"
    head = machine() | {"tiny": arguments.tiny, "maps": str(arguments.run or f"{LIT:.0%} lit at random")}

    def write(result: dict[str, Any]) -> None:
        if out is not None:
            write_json(out, head | result)

    compiler = partial(torch.compile, backend=scale.backend)
    with tempfile.TemporaryDirectory() as folder, patch.object(torch, "compile", compiler):
        maps = make_maps(Path(folder), scale) if arguments.run is None else maps_of(arguments.run)
        result = measure(scale, maps, Path(folder), arguments.modes, write)
    print(json.dumps(head | result, indent=1))


if __name__ == "__main__":
    main()
