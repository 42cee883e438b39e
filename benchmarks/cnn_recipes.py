"""Compare training recipes of the CNN on the validation split of a run.

    python benchmarks/cnn_recipes.py results/demo [--network published] [--recipes NAME ...] [--seeds 1 2]
                                     [--epochs 8] [--result FILE]

Trains a network with each recipe below and each seed, and classifies the validation events with the best epoch, at
full and at half the resolution. The test split is not used. Prints the table of docs/cnn.md and writes
results/cnn_recipes.json beside this file after each training; trainings in this file with the same network, recipe and
events are not repeated.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nuvlm.base.classes import CLASSES, class_codes
from nuvlm.base.files import read_json, sha256
from nuvlm.base.logs import setup_logging
from nuvlm.dataset.event_table import read_events
from nuvlm.models.classifier.data import open_images
from nuvlm.models.classifier.processes import ProcessGroup
from nuvlm.models.classifier.trainer import Split, validate
from nuvlm.models.cnn.network import NETWORKS, load_cnn
from nuvlm.models.cnn.settings import Recipe, TrainSettings
from nuvlm.models.cnn.training import train_cnn

RESULT = Path(__file__).parent / "results" / "cnn_recipes.json"
COLUMNS = ("accuracy", "loss", "half_accuracy", "half_loss")

SCALED: dict[str, Any] = {"learning_rate": 1e-3, "batch_size": 32}
FLIP = SCALED | {"flip": True}
COSINE = FLIP | {
    "optimizer": "adamw",
    "learning_rate": 2e-3,
    "weight_decay": 0.05,
    "schedule": "cosine",
    "warmup_epochs": 0.5,
    "max_grad_norm": 1.0,
}
SMOOTH = COSINE | {"label_smoothing": 0.1}
BALANCED = SMOOTH | {"balanced": True}
RECIPES: dict[str, dict[str, Any]] = {
    "published rate, Adam 1e-6": SCALED | {"learning_rate": 1e-6},
    "Adam 1e-3": SCALED,
    "+ flips": FLIP,
    "+ AdamW, warm-up and cosine": COSINE,
    "+ label smoothing 0.1": SMOOTH,
    "+ balanced": BALANCED,
    "+ half resolution 0.2": BALANCED | {"half_resolution": 0.2},
    "+ half resolution 0.3": BALANCED | {"half_resolution": 0.3},
    "+ half resolution 0.5": BALANCED | {"half_resolution": 0.5},
}
"""Each recipe extends the one above; the fractions of half resolution are alternatives."""


def train_and_validate(run: Path, settings: TrainSettings) -> dict[str, float]:
    """Accuracy and loss on the validation split of the folder of a run, at both resolutions, and what training took."""
    stores = {path.stem: path for path in sorted((run / "pixelmaps").glob("*.zarr"))}
    table = read_events(run / "events.parquet")
    rows = table[(table["split"] == "validation") & table["class"].isin(CLASSES)]
    split = Split(open_images(stores, rows, settings.memory_mb), class_codes(rows["class"]))
    cpu = torch.device("cpu")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        start = time.process_time()
        train_cnn(
            run / "events.parquet", stores, folder / "cnn", folder / "checkpoint.pt", folder / "tensorboard",
            settings=settings, threads=1,
        )  # fmt: skip
        seconds = time.process_time() - start
        card = read_json(folder / "cnn" / "training.json")
        network = load_cnn(folder / "cnn", cpu)
    loss, accuracy = validate(network, split, ProcessGroup(0, 1, cpu))
    half_loss, half_accuracy = validate(network, split, ProcessGroup(0, 1, cpu), halved=True)
    return {
        "accuracy": accuracy,
        "loss": loss,
        "half_accuracy": half_accuracy,
        "half_loss": half_loss,
        "best_epoch": card["best_epoch"],
        "cpu_seconds": seconds,
    }


def table_of(trainings: list[dict[str, Any]]) -> str:
    """The means over seeds as a Markdown table, with the standard deviation where there are several."""
    lines = ["| recipe | accuracy | loss | at half resolution: accuracy | loss | CPU s | seeds |"]
    lines.append("|---|---|---|---|---|---|---|")
    for name, recipe in RECIPES.items():
        of = [training for training in trainings if (training["name"], training["recipe"]) == (name, recipe)]
        if not of:
            continue
        cells = []
        for column in COLUMNS:
            values = [training[column] for training in of]
            spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.3f}{spread}")
        seconds = np.mean([training["cpu_seconds"] for training in of])
        lines.append(f"| {name} | {' | '.join(cells)} | {seconds:.0f} | {len(of)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run, with events.parquet and pixelmaps")
    parser.add_argument("--network", choices=list(NETWORKS), default="mobilenet")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES), metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--dropout", type=float, default=0.4)
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    common = {
        "network": arguments.network,
        "events": sha256(arguments.run / "events.parquet"),
        "epochs": arguments.epochs,
        "width": arguments.width,
        "dropout": arguments.dropout,
    }
    trainings = json.loads(arguments.result.read_text())["trainings"] if arguments.result.exists() else []
    with tempfile.TemporaryDirectory() as folder:
        setup_logging(Path(folder) / "cnn_recipes.log")
        for seed in arguments.seeds:
            for name in arguments.recipes:
                key = {"name": name, "seed": seed, **common, "recipe": RECIPES[name]}
                if any(key.items() <= training.items() for training in trainings):
                    continue
                epochs = {"max_epochs": arguments.epochs, "patience": arguments.epochs}
                recipe = Recipe(network=arguments.network, **RECIPES[name], **epochs)
                settings = TrainSettings(width=arguments.width, dropout=arguments.dropout, seed=seed, recipe=recipe)
                trainings.append(key | train_and_validate(arguments.run, settings))
                result = {
                    "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread",
                    "torch": torch.__version__,
                    "trainings": trainings,
                }
                arguments.result.write_text(json.dumps(result, indent=1) + "\n")
    print(table_of([training for training in trainings if common.items() <= training.items()]))


if __name__ == "__main__":
    main()
