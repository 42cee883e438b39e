"""A CNN in torch and in onnxruntime on CPU cores, in one run.

    python benchmarks/cnn_inference.py [--network published] [--size 512] [--width 1] [--threads 1 2] [--rounds N]

Times the network alone on random pixel maps in memory, from uint8 to logits. Every round takes the time of every
method once, one after the other, so that whatever else the machine does slows down all of them; given are the median of
the rounds and the best one, which is the least disturbed, for one event, and the median CPU time of all threads, which
on one thread does not depend on what else the machine does. Prints the result and writes
results/cnn_inference_{network}.json beside this file. The ratios are what carries over to other machines: the published
20 ms a sample were measured on an RTX A5000, batch 1, with 2 x 512 x 512 pixels.
"""

import argparse
import copy
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from nuvlm.models.classifier.network import count_parameters, to_float
from nuvlm.models.cnn.export import write_onnx
from nuvlm.models.cnn.network import NETWORKS
from nuvlm.models.cnn.runtime import open_session
from nuvlm.models.cnn.settings import NetworkName
from nuvlm.models.cnn.siamese import SiameseCnn

VIEWS = 2
EAGER = "torch, eager"
Method = tuple[Callable[[np.ndarray], object], int]


def methods(network: SiameseCnn, onnx: Path, threads: int, compiler: bool) -> dict[str, Method]:
    """What is timed: each takes uint8 images (events, views, size, size), so many events at once."""
    cpu = torch.device("cpu")

    def in_torch(network: torch.nn.Module, dtype: torch.dtype = torch.float32) -> Callable[[np.ndarray], object]:
        def classify(images: np.ndarray) -> object:
            with torch.inference_mode():
                return network(to_float(torch.from_numpy(images), cpu).to(dtype))

        return classify

    eager = in_torch(network)
    last = copy.deepcopy(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    channels_last = in_torch(last)
    bf16 = in_torch(copy.deepcopy(last).to(torch.bfloat16), torch.bfloat16)
    ort, plain = open_session(onnx, threads), open_session(onnx, threads, optimise=False)
    timed: dict[str, Method] = {
        EAGER: (eager, 1),
        "torch, channels last": (channels_last, 1),
        "torch, channels last, bfloat16": (bf16, 1),
        "onnxruntime without graph optimisation": (plain, 1),
        "onnxruntime": (ort, 1),
        "onnxruntime, batch 8": (ort, 8),
    }
    if compiler:
        timed["torch.compile, channels last"] = (in_torch(torch.compile(copy.deepcopy(last))), 1)
    return timed


def as_if_trained(name: NetworkName, width: float) -> SiameseCnn:
    """A network whose activations have the size that batch normalisation gives them, not next to nothing."""
    network = NETWORKS[name](views=VIEWS, width=width).train()
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.inference_mode():
        network(torch.rand(8, VIEWS, 64, 64))
    return network.eval()


def measure(timed: dict[str, Method], size: int, rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds an event of each method: `median` and `best` of the rounds, and `cpu`, the median CPU time."""
    rng = np.random.default_rng(1)
    images = {n: rng.integers(0, 256, (n, VIEWS, size, size), dtype=np.uint8) for _, n in timed.values()}
    wall: dict[str, list[float]] = {name: [] for name in timed}
    cpu: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(rounds):
        for name, (classify, batch) in timed.items():
            # Untimed: sets up kernels, and by its end the threads of the method before have stopped to wait for work.
            classify(images[batch])
            start, start_cpu = time.perf_counter(), time.process_time()
            classify(images[batch])
            wall[name].append(1e3 * (time.perf_counter() - start) / batch)
            cpu[name].append(1e3 * (time.process_time() - start_cpu) / batch)
    kinds = {"median": (np.median, wall), "best": (np.min, wall), "cpu": (np.median, cpu)}
    return {kind: {name: float(take(ms)) for name, ms in took.items()} for kind, (take, took) in kinds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=list(NETWORKS), default="published")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=11)
    arguments = parser.parse_args()
    torch.manual_seed(1)
    network = as_if_trained(arguments.network, arguments.width)
    compiler = shutil.which("g++") is not None
    with tempfile.TemporaryDirectory() as folder:
        onnx = Path(folder) / "model.onnx"
        write_onnx(network, onnx, VIEWS, {})
        measured = {}
        for threads in arguments.threads:
            torch.set_num_threads(threads)
            timed = methods(network, onnx, threads, compiler)
            ms = measure(timed, arguments.size, arguments.rounds)
            ratios = {kind: {name: of[EAGER] / value for name, value in of.items()} for kind, of in ms.items()}
            measured[f"threads_{threads}"] = {"ms_per_event": ms, "eager_over": ratios}
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "images": f"{VIEWS} x {arguments.size} x {arguments.size}",
        "network": arguments.network,
        "width": arguments.width,
        "parameters": count_parameters(network),
        "rounds": arguments.rounds,
        **measured,
    }
    text = json.dumps(result, indent=1)
    print(text)
    (Path(__file__).parent / "results" / f"cnn_inference_{arguments.network}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
