"""CPU time of the ViT and of the VLM head: training steps with and without checkpointing, and classification.

    python benchmarks/heads.py results/demo [--rounds 6] [--config config/config.yaml ...]

Every round takes a step (pictures, forward, backward, AdamW) of a batch of the run's events with each, one after the
other on one core, so that other load slows down all of them. Prints the median CPU milliseconds per event and writes
results/heads.json beside this file.
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import nuvlm.models.vlm.jobs  # noqa: F401  # before Hugging Face's libraries: no network
from nuvlm.dataset.pixelmaps import image_settings, open_pixel_maps
from nuvlm.models.classifier.recipes import make_optimizer
from nuvlm.models.head.network import HeadClassifier
from nuvlm.models.memory import keep_freed_memory
from nuvlm.models.vit.network import VisionClassifier
from nuvlm.models.vit.settings import VitTrainSettings
from nuvlm.models.vlm_head.network import PromptedClassifier
from nuvlm.models.vlm_head.settings import VlmHeadTrainSettings
from nuvlm.workflow.config import Config, parse_config, read_overlays

CPU = torch.device("cpu")
CLASSIFIED = "classification"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run with pixel maps and a base model")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--config", type=Path, nargs="+", default=[Path("config/config.yaml")])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    config = parse_config(read_overlays(arguments.config))
    store = min((arguments.run / "pixelmaps").glob("*.zarr"))
    images, base = image_settings({"maps": store}), arguments.run / "models" / "base"
    grey = torch.from_numpy(open_pixel_maps(store)["images"][: config.vit.recipe.batch_size])
    labels = torch.arange(len(grey)) % 3
    took: dict[str, dict[str, list[float]]] = {}
    parameters = {}
    for model in ("vit", "vlm_head"):
        trained: dict[str, tuple[HeadClassifier[Any], Any]] = {}
        for name, checkpointing in (("kept", False), ("computed again", True)):
            torch.manual_seed(1)
            network = make(config, model, base, images, gradient_checkpointing=checkpointing).train()
            trained[name] = network, make_optimizer(network, config.vit.recipe)
        parameters[model] = network.card()["trainable_parameters"]
        unpacked = make(config, model, base, images, unpacked=True).eval()
        times = took[model] = {name: [] for name in (*trained, CLASSIFIED)}
        losses: dict[str, list[float]] = {name: [] for name in trained}
        for _ in range(arguments.rounds):
            for name, (network, optimizer) in trained.items():
                torch.manual_seed(2)
                start = time.process_time()
                loss = torch.nn.functional.cross_entropy(network(network.prepare(grey, CPU)), labels)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                times[name].append(time.process_time() - start)
                losses[name].append(loss.item())
            start = time.process_time()
            with torch.inference_mode():
                unpacked(unpacked.prepare(grey, CPU))
            times[CLASSIFIED].append(time.process_time() - start)
        assert losses["kept"] == losses["computed again"], "activations are the same either way"
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread",
        "torch": torch.__version__,
        "images": " x ".join(map(str, grey.shape)),
        "trainable_parameters": parameters,
        # Without the first round, which allocates.
        "cpu_ms_per_event": {
            model: {name: 1e3 * float(np.median(seconds[1:])) / len(grey) for name, seconds in times.items()}
            for model, times in took.items()
        },
    }
    text = json.dumps(result, indent=1)
    print(text)
    (Path(__file__).parent / "results" / "heads.json").write_text(text + "\n")


def make(
    config: Config, model: str, base: Path, images: dict[str, Any], *, unpacked: bool = False, **changes: bool
) -> HeadClassifier[Any]:
    """The network of a model, with its settings in the configuration."""
    if model == "vit":
        settings = VitTrainSettings.model_validate(config.vit.training(model).settings | changes)
        return VisionClassifier(base, images, settings, CPU, unpacked=unpacked)
    of_head = VlmHeadTrainSettings.model_validate(config.vlm_head.training(model).settings | changes)
    prompts = Path(config.vlm_head.prompts)
    return PromptedClassifier(base, images, of_head, CPU, prompts=prompts, unpacked=unpacked)


if __name__ == "__main__":
    main()
