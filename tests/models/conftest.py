"""A real, very small Mllama and a real, very small data set, made once for all tests of models with a base model."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from nuvlm.base.classes import CLASSES
from nuvlm.dataset.topology import TOPOLOGY_TYPES
from nuvlm.models.vlm.pretraining import build_base_model
from nuvlm.models.vlm.settings import ScratchSettings
from paths import REPOSITORY
from stores import write_pixel_maps

RESOURCES = REPOSITORY / "resources"
SIZE = 56
SCRATCH = ScratchSettings(
    hidden=64, text_layers=2, vision_layers=1, heads=2, image_size=SIZE, patch_size=14, vocabulary=768, steps=30,
    batch_size=8, learning_rate=3e-3,
)  # fmt: skip
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a base model made from scratch."""
    folder = tmp_path_factory.mktemp("base")
    build_base_model(
        folder / "base", SCRATCH, prompts=RESOURCES / "prompts.yaml",
        vocabulary=RESOURCES / "rationales.yaml", chat_template=RESOURCES / "chat_templates" / "mllama.jinja",
        tensorboard=folder / "tensorboard",
    )  # fmt: skip
    return folder / "base"


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    """An event table and two stores: a bright bar whose direction is the class, at a random place.

    By the truth of the table a high bar is a shower and a broad one a track, both along z from the vertex at the centre
    of the picture. Every sixth event is without such truth.
    """
    folder = tmp_path_factory.mktemp("dataset")
    rng = np.random.default_rng(3)
    tables, stores = [], {}
    for shard in ("a", "b"):
        n = 30
        labels = np.arange(n) % 3
        images = np.zeros((n, 2, SIZE, SIZE), dtype=np.uint8)
        for event, label in enumerate(labels):
            for view in images[event]:
                row, column = rng.integers(4, SIZE - 24, 2)
                height, width = ((4, 20), (20, 4), (10, 10))[label]
                view[row : row + height, column : column + width] = 255
        stores[shard] = folder / f"{shard}.zarr"
        corner_mm = np.full((n, 3), -SIZE // 2 * 50.0)
        ids = write_pixel_maps(stores[shard], images, first_event=1000, corner_mm=corner_mm)
        split = np.array(["train"] * 18 + ["validation"] * 6 + ["test"] * 6)
        tables.append(
            pd.DataFrame(
                {
                    "shard": shard,
                    "row": np.arange(n),
                    "event_id": ids,
                    "class": pd.Series(np.array(CLASSES, dtype=object)[labels], dtype="string"),
                    "split": pd.Series(split, dtype="string"),
                    "centred_by": "charge",
                    "part": np.where(split == "train", -1, 0),
                }
            ).assign(vertex_x_mm=0.0, vertex_y_mm=0.0, vertex_z_mm=0.0, **topology(labels))
        )
    pd.concat(tables, ignore_index=True).to_parquet(folder / "events.parquet")
    return folder / "events.parquet", stores


def topology(labels: np.ndarray) -> dict[str, Any]:
    """Columns of the event table: a shower for class 0, a track for class 1, nothing for 2; unknown for every sixth."""
    known = np.arange(len(labels)) % 6 < 5
    columns = {
        "charged": np.where(labels == 2, 0, 1),
        "track_mm": np.where(labels == 1, 1000, 0),
        "track_leaves": np.where(labels == 1, 1, np.nan),
        "shower_mev": np.where(labels == 0, 800, 0),
        "shower_gap_mm": np.where(labels == 0, 0, np.nan),
    }
    for what, label in (("track", 1), ("shower", 0)):
        for axis, value in zip("xyz", (0, 0, 1), strict=True):
            columns[f"{what}_direction_{axis}"] = np.where(labels == label, value, np.nan)
    return {
        name: pd.Series(np.where(known, columns[name], np.nan)).astype(kind) for name, kind in TOPOLOGY_TYPES.items()
    }
