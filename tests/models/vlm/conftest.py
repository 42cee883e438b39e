"""A real, very small Mllama and a real, very small data set, made once for all tests of this folder."""

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
from nuvlm.models.vlm.settings import FinetuneSettings, LoraSettings, ScratchSettings
from nuvlm.models.vlm.training import Job, finetune
from paths import REPOSITORY
from stores import write_pixel_maps

PROMPTS = REPOSITORY / "resources" / "prompts.yaml"
VOCABULARY = REPOSITORY / "resources" / "rationales.yaml"
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
def vocabulary_file() -> Path:
    return VOCABULARY


@pytest.fixture(scope="session")
def chat_template() -> Path:
    return CHAT_TEMPLATE


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a base model made from scratch."""
    folder = tmp_path_factory.mktemp("base")
    build_base_model(
        folder / "base", SCRATCH, prompts=PROMPTS, vocabulary=VOCABULARY, chat_template=CHAT_TEMPLATE,
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


@pytest.fixture
def grounded(job: Job) -> Job:
    """The same job, with answers that go on with a rationale."""
    return ground(job)


@pytest.fixture(scope="module")
def fluent(base: Path, dataset: tuple[Path, dict[str, Path]], tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A finished fine-tuning with rationales, long enough for the model to speak in their words."""
    job = ground(make_job(base, dataset, tmp_path_factory.mktemp("fluent")))
    settings = job.settings.model_copy(update={"epochs": 30.0, "device_batch_size": 12, "global_batch_size": 12})
    job = job.model_copy(update={"settings": settings})
    finetune(job)
    return job


@pytest.fixture(scope="module")
def tuned_briefly(base: Path, dataset: tuple[Path, dict[str, Path]], tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A short fine-tuning with rationales."""
    job = ground(make_job(base, dataset, tmp_path_factory.mktemp("tuned_briefly")))
    job = job.model_copy(update={"settings": job.settings.model_copy(update={"epochs": 2.0})})
    finetune(job)
    return job


def ground(job: Job) -> Job:
    settings = job.settings.model_copy(update={"rationales": "grounded"})
    return job.model_copy(update={"settings": settings, "vocabulary": VOCABULARY})


@pytest.fixture
def job(base: Path, dataset: tuple[Path, dict[str, Path]], tmp_path: Path) -> Job:
    """A fine-tuning job of a few steps: nf4, LoRA, checkpoints every four steps."""
    return make_job(base, dataset, tmp_path)


def make_job(base: Path, dataset: tuple[Path, dict[str, Path]], folder: Path) -> Job:
    events, stores = dataset
    return Job(
        base=base,
        events=events,
        stores=stores,
        out=folder / "adapter",
        checkpoints=folder / "checkpoints",
        tensorboard=folder / "tensorboard",
        prompts=PROMPTS,
        settings=FinetuneSettings(
            processes=1, gpus=0, workers=0, bf16=False, gradient_checkpointing=False, epochs=4, global_batch_size=6,
            device_batch_size=6, learning_rate=5e-3, save_steps=4, logging_steps=2, lora=LoraSettings(dropout=0.05),
        ),
    )  # fmt: skip
