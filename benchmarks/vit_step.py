"""CPU time of a training step on the vision tower, with and without checkpointing of activations, side by side.

    python benchmarks/vit_step.py results/demo [--rounds 6] [--config config/config.yaml ...]

Every round takes a step (pictures, forward, backward, AdamW) of a batch of the run's events with each, one after the
other on one core, so that other load slows down all of them. Prints the median CPU milliseconds per event and writes
results/vit_step.json beside this file.
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path

import numpy as np
import torch

import nuvlm.models.vlm.jobs  # noqa: F401  # before Hugging Face's libraries: no network
from nuvlm.dataset.pixelmaps import open_pixel_maps
from nuvlm.models.classifier.recipes import make_optimizer
from nuvlm.models.memory import keep_freed_memory
from nuvlm.models.vit.network import VisionClassifier
from nuvlm.models.vit.settings import VitTrainSettings
from nuvlm.workflow.config import parse_config, read_overlays

CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run with pixel maps and a base model")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--config", type=Path, nargs="+", default=[Path("config/config.yaml")])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    section = parse_config(read_overlays(arguments.config)).vit
    settings = VitTrainSettings.model_validate(section.training("vit").settings)
    store = min((arguments.run / "pixelmaps").glob("*.zarr"))
    grey = torch.from_numpy(open_pixel_maps(store)["images"][: settings.recipe.batch_size])
    labels = torch.arange(len(grey)) % 3
    trained = {}
    for kept in (False, True):
        torch.manual_seed(1)
        changed = settings.model_copy(update={"gradient_checkpointing": not kept})
        network = VisionClassifier(arguments.run / "models" / "base", {"views": ["xz", "yz"]}, changed, CPU).train()
        trained["kept" if kept else "computed again"] = network, make_optimizer(network, settings.recipe)
    took: dict[str, list[float]] = {name: [] for name in trained}
    losses: dict[str, list[float]] = {name: [] for name in trained}
    for _ in range(arguments.rounds):
        for name, (network, optimizer) in trained.items():
            torch.manual_seed(2)
            start = time.process_time()
            loss = torch.nn.functional.cross_entropy(network(network.prepare(grey, CPU)), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            took[name].append(time.process_time() - start)
            losses[name].append(loss.item())
    assert losses["kept"] == losses["computed again"], "activations are the same either way"
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread",
        "torch": torch.__version__,
        "images": " x ".join(map(str, grey.shape)),
        # Without the first round, which allocates.
        "cpu_ms_per_event": {name: 1e3 * float(np.median(seconds[1:])) / len(grey) for name, seconds in took.items()},
    }
    text = json.dumps(result, indent=1)
    print(text)
    (Path(__file__).parent / "results" / "vit_step.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
