"""A real, very small Mllama and a real, very small data set, made once for all tests of this folder."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from nuvlm.classes import CLASSES
from nuvlm.vlm.base import build_base_model
from nuvlm.vlm.settings import FinetuneSettings, LoraSettings, ScratchSettings
from nuvlm.vlm.training import Job
from paths import REPOSITORY
from stores import write_pixel_maps

PROMPTS = REPOSITORY / "resources" / "prompts.yaml"
CHAT_TEMPLATE = REPOSITORY / "resources" / "chat_templates" / "mllama.jinja"
SIZE = 56
SCRATCH = ScratchSettings(
    hidden=64, text_layers=2, vision_layers=1, heads=2, image_size=SIZE, patch_size=14, vocabulary=768, steps=30,
    batch_size=8, learning_rate=3e-3,
)  # fmt: skip
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def prompts_file() -> Path:
    return PROMPTS


@pytest.fixture(scope="session")
def chat_template() -> Path:
    return CHAT_TEMPLATE


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a base model made from scratch."""
    folder = tmp_path_factory.mktemp("base")
    build_base_model(
        folder / "base", SCRATCH, prompts=PROMPTS, chat_template=CHAT_TEMPLATE, tensorboard=folder / "tensorboard"
    )
    return folder / "base"


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    """An event table and two stores: a bright bar whose direction is the class, at a random place."""
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
        ids = write_pixel_maps(stores[shard], images, first_event=1000)
        split = np.array(["train"] * 18 + ["validation"] * 6 + ["test"] * 6)
        tables.append(
            pd.DataFrame(
                {
                    "shard": shard,
                    "row": np.arange(n),
                    "event_id": ids,
                    "class": pd.Series(np.array(CLASSES, dtype=object)[labels], dtype="string"),
                    "split": pd.Series(split, dtype="string"),
                    "part": np.where(split == "train", -1, 0),
                }
            )
        )
    pd.concat(tables, ignore_index=True).to_parquet(folder / "events.parquet")
    return folder / "events.parquet", stores


@pytest.fixture
def job(base: Path, dataset: tuple[Path, dict[str, Path]], tmp_path: Path) -> Job:
    """A fine-tuning job of a few steps: nf4, LoRA, checkpoints every four steps."""
    events, stores = dataset
    return Job(
        base=base,
        events=events,
        stores=stores,
        out=tmp_path / "adapter",
        checkpoints=tmp_path / "checkpoints",
        tensorboard=tmp_path / "tensorboard",
        prompts=PROMPTS,
        settings=FinetuneSettings(
            processes=1, gpus=0, bf16=False, gradient_checkpointing=False, epochs=4, global_batch_size=6,
            device_batch_size=6, learning_rate=5e-3, save_steps=4, logging_steps=2, lora=LoraSettings(dropout=0.05),
        ),
    )  # fmt: skip
