"""A CNN that trains in seconds, on pixel maps of simple shapes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nuvlm.base.classes import CLASSES
from nuvlm.models.cnn.classify import classify_cnn
from nuvlm.models.cnn.settings import Recipe, TrainSettings
from nuvlm.models.cnn.training import Job, train_cnn
from nuvlm.models.predictions import read_predictions
from stores import write_pixel_maps

SMALL = {"learning_rate": 3e-3, "batch_size": 8, "max_epochs": 3, "flip": True}
SPLITS = ["train"] * 72 + ["validation"] * 12 + ["test"] * 12


def write_data(folder: Path, classes: list[str] | None = None) -> Path:
    """Pixel maps with a vertical bar, a horizontal one or a square, and their event table: 72, 12 and 12 events."""
    n = len(SPLITS)
    rng = np.random.default_rng(3)
    images = np.zeros((n, 2, 64, 64), dtype=np.uint8)
    for i, image in enumerate(images):
        a, b = rng.integers(4, 28, 2)
        height, width = ((30, 4), (4, 30), (14, 14))[i % 3]
        image[:, a : a + height, b : b + width] = rng.integers(150, 255)
    ids = write_pixel_maps(folder / "a.zarr", images)
    events = pd.DataFrame({"shard": "a", "row": np.arange(n), "event_id": ids})
    events["class"] = pd.Series(classes or [CLASSES[i % 3] for i in range(n)], dtype="string")
    events["split"] = pd.Series(SPLITS, dtype="string")
    events["centred_by"] = "charge"
    events["part"] = [-1 if split == "train" else 0 for split in SPLITS]
    events.to_parquet(folder / "events.parquet")
    return folder


def settings(**changes: Any) -> TrainSettings:
    """Those of a small network; `changes` are of the training or of its recipe."""
    recipe = Recipe(**(SMALL | {name: value for name, value in changes.items() if name in Recipe.model_fields}))
    others = {name: value for name, value in changes.items() if name not in Recipe.model_fields}
    return TrainSettings(**({"width": 0.25, "dropout": 0.1} | others), recipe=recipe)


def job(folder: Path, name: str = "cnn", **changes: Any) -> Job:
    return Job(
        events=folder / "events.parquet", stores={"a": folder / "a.zarr"}, out=folder / name,
        checkpoint=folder / "checkpoints" / "checkpoint.pt", tensorboard=folder / "tensorboard",
        settings=settings(**changes), threads=1,
    )  # fmt: skip


def train(folder: Path, name: str = "cnn", **changes: Any) -> dict[str, Any]:
    """Train on the data of :func:`write_data`, and return what the model's card says."""
    run(job(folder, name, **changes))
    return json.loads((folder / name / "training.json").read_text())


def classify(folder: Path, out: str = "0.parquet", **changes: Any) -> pd.DataFrame:
    """Predictions of the network that :func:`train` has written for the events of part 0, not of the split train."""
    condition = changes.pop("condition", "nominal")
    keywords = {"part": 0, "batch_size": 1, "threads": 1} | changes
    classify_cnn(
        folder / "cnn", folder / "events.parquet", {"a": folder / "a.zarr"}, {condition: folder / out}, **keywords
    )
    return read_predictions([folder / out])


def run(job: Job) -> None:
    arguments = dict(job)
    paths = [arguments.pop(name) for name in ("events", "stores", "out", "checkpoint", "tensorboard")]
    train_cnn(*paths, **arguments)
