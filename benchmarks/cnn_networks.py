"""CPU time of a training step with each network, side by side in one run on one core.

    python benchmarks/cnn_networks.py results/demo [--rounds 4]

Every round takes a step (forward, backward, Adam) of a batch of 32 events of the run with each network, width and
resolution, one after the other, so that other load slows down all of them. Prints the median CPU milliseconds per event
and writes results/cnn_networks.json beside this file.
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from nuvlm.dataset.pixelmaps import open_pixel_maps
from nuvlm.models.classifier.network import count_parameters, to_float
from nuvlm.models.classifier.recipes import halve, make_optimizer
from nuvlm.models.cnn.network import NETWORKS
from nuvlm.models.cnn.settings import Recipe
from nuvlm.models.memory import keep_freed_memory

BATCH = 32
CASES = (("mobilenet", 0.25), ("published", 0.25), ("published", 0.5), ("published", 1.0))
CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run with pixel maps")
    parser.add_argument("--rounds", type=int, default=4)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    store = min((arguments.run / "pixelmaps").glob("*.zarr"))
    grey = torch.from_numpy(open_pixel_maps(store)["images"][:BATCH])
    images = {"full": to_float(grey, CPU), "half": to_float(halve(grey), CPU)}
    labels = torch.arange(len(grey)) % 3
    took: dict[tuple[str, float, str], list[float]] = {}
    parameters: dict[str, int] = {}
    trained = []
    for name, width in CASES:
        network = NETWORKS[name](grey.shape[1], width=width).to(memory_format=torch.channels_last)  # type: ignore
        trained.append((name, width, network, make_optimizer(network, Recipe())))
        parameters[f"{name}, width {width:g}"] = count_parameters(network)
    for _ in range(arguments.rounds):
        for name, width, network, optimizer in trained:
            for resolution, pixels in images.items():
                start = time.process_time()
                loss = cross_entropy(network(pixels), labels)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                took.setdefault((name, width, resolution), []).append(time.process_time() - start)
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread",
        "torch": torch.__version__,
        "images": " x ".join(map(str, grey.shape[1:])),
        "parameters": parameters,
        # Without the first round, which allocates.
        "cpu_ms_per_event": {
            f"{name}, width {width:g}, {resolution} resolution": 1e3 * float(np.median(seconds[1:])) / len(grey)
            for (name, width, resolution), seconds in took.items()
        },
    }
    text = json.dumps(result, indent=1)
    print(text)
    (Path(__file__).parent / "results" / "cnn_networks.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
