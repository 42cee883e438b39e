"""Memory reckoned on tensors without values, against what a real fine-tuning allocates and against known numbers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from benchmark_scripts import load_benchmark
from nuvlm.dataset.event_table import read_events
from nuvlm.dataset.pixelmaps import image_settings
from nuvlm.models.vlm import footprint as footprint_module
from nuvlm.models.vlm.dataset import conversations
from nuvlm.models.vlm.footprint import GIB, Footprint, count_footprint
from nuvlm.models.vlm.model import load_processor
from nuvlm.models.vlm.prompts import prompts_for
from nuvlm.models.vlm.random_base import build_random_base
from nuvlm.models.vlm.rehearsal import write_scenes
from nuvlm.models.vlm.settings import FinetuneSettings, HubSettings, LoraSettings
from nuvlm.models.vlm.training import Job, finetune
from paths import REPOSITORY
from tiny_shape import PUBLISHED, SHAPES, make_tiny_shape

RESOURCES = REPOSITORY / "resources"
BATCH = 4
# Wide enough for activations to be most of the memory.
TEXT = {
    "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 6, "num_attention_heads": 4,
    "num_key_value_heads": 2, "cross_attention_layers": [1, 4],
}  # fmt: skip
VISION = {
    "hidden_size": 128, "num_hidden_layers": 6, "num_global_layers": 2, "intermediate_size": 512, "attention_heads": 4,
    "image_size": 224, "vision_output_dim": 256, "intermediate_layers_indices": [1],
}  # fmt: skip


def allocated(work: Callable[[], Any]) -> int:
    """The most that torch's allocator had given out during the training steps of `work`, from its own records.

    Loading comes before: transformers loads weights in threads, whose peak depends on the machine. So does the scratch
    space of oneDNN's convolutions: with AMX, that of the patch embedding here takes more than the rest of the step.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    live = peak = 0
    is_training = False
    convolved_until = 0
    for event in sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        is_training |= event.name() == "aten::embedding"
        if event.name() == "aten::mkldnn_convolution":
            convolved_until = event.start_ns() + event.duration_ns()
        if event.name() == "[memory]":
            live += event.nbytes()
            if event.start_ns() > convolved_until:
                peak = max(peak, live) if is_training else 0
    return peak


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tiles", "changes"),
    [
        pytest.param(4, {}, id="published"),
        pytest.param(4, {"gradient_checkpointing": False}, id="all kept", marks=pytest.mark.long),
        pytest.param(4, {"gradient_checkpointing": False, "bf16": False}, id="float32", marks=pytest.mark.long),
        pytest.param(
            4,
            {"gradient_checkpointing": False, "lora": LoraSettings(vision=False)},
            id="tower frozen",
            marks=pytest.mark.long,
        ),
        pytest.param(
            1,
            {"gradient_checkpointing": False, "lora": LoraSettings(dropout=0.0, target_modules=("q_proj", "v_proj"))},
            id="no dropout",
        ),
        pytest.param(1, {"gradient_checkpointing": False, "quantization": "none"}, id="unquantised"),
    ],
)
def test_a_training_allocates_what_is_reckoned(tmp_path: Path, tiles: Any, changes: dict[str, Any]) -> None:
    # Batches that loader processes make ahead are no memory of a device: without them.
    settings = FinetuneSettings(
        strategy="single", processes=1, gpus=0, workers=0, global_batch_size=BATCH, device_batch_size=BATCH, **changes
    )
    name = make_tiny_shape(tmp_path / "shapes", TEXT, VISION)
    build_random_base(
        tmp_path / "base", HubSettings(model=name, max_tiles=tiles), shapes=tmp_path / "shapes",
        chat_templates=RESOURCES / "chat_templates", prompts=RESOURCES / "prompts.yaml",
        vocabulary=RESOURCES / "rationales.yaml", quantization=settings.quantization, bf16=settings.bf16,
    )  # fmt: skip
    events, stores = write_scenes(tmp_path, 224, train=2 * BATCH, test=0)
    job = Job(
        base=tmp_path / "base", events=events, stores=stores, out=tmp_path / "adapter", settings=settings,
        checkpoints=tmp_path / "checkpoints", tensorboard=tmp_path / "tensorboard", prompts=RESOURCES / "prompts.yaml",
    )  # fmt: skip
    texts = prompts_for(job.prompts, image_settings(stores), job.settings.background)
    rows = conversations(read_events(events), stores, texts, background=job.settings.background)
    collate = DataCollatorForVisionLanguageModeling(load_processor(job.base), assistant_only_loss=True)
    inputs = collate([rows[i] for i in range(BATCH)])
    reckoned = count_footprint(AutoConfig.from_pretrained(job.base), inputs, settings, "cpu")
    assert reckoned.tower + reckoned.text + reckoned.passing > 0.8 * reckoned.allocated
    assert reckoned.allocated == pytest.approx(allocated(lambda: finetune(job)), rel=0.1)


@pytest.fixture
def reckon(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Footprint]:
    """Footprint of the published model, two views and 258 tokens, with or without checkpointing of the tower."""
    floor = load_benchmark("vlm_floor", monkeypatch)
    config = AutoConfig.from_pretrained(SHAPES / PUBLISHED.replace("/", "--"))

    def count(tiles: int, batch: int, *, tower: bool = True, shallow: bool = False, **changes: Any) -> Footprint:
        if not tower:
            monkeypatch.setattr(footprint_module, "recompute_tower", lambda *_, **__: 0)
        shape = floor.with_tiles(config, tiles)
        if shallow:
            shape.text_config.num_hidden_layers, shape.text_config.cross_attention_layers = 4, [3]
            shape.vision_config.num_hidden_layers = shape.vision_config.num_global_layers = 2
            shape.vision_config.intermediate_layers_indices = [1] * len(shape.vision_config.intermediate_layers_indices)
        event = floor.one_event(shape, 258, 2)
        inputs = {name: value.expand(batch, *value.shape[1:]) for name, value in event.items()}
        inputs["labels"] = torch.zeros_like(inputs["input_ids"])
        return count_footprint(shape, inputs, FinetuneSettings(device_batch_size=batch, **changes))

    return count


@pytest.mark.long
def test_the_published_model(reckon: Callable[..., Footprint]) -> None:
    """The tower's activations are what does not fit: counted by hand, and known from other reckonings."""
    published = reckon(4, 2)
    assert published.optimizer == 8 * 29_491_200
    assert published.weights / GIB == pytest.approx(4.64 + 2.05, rel=0.01)
    assert published.allocated / GIB == pytest.approx(15, rel=0.15)
    # 40 inputs of layers, 2 x 2 pictures of 4 x 1,608 patches, 1280 numbers in float32 of which some are shared
    inputs = 40 * 4 * 4 * 1608 * 1280 * 4
    assert published.tower == pytest.approx(inputs, rel=0.35)
    frozen = reckon(4, 2, lora=LoraSettings(vision=False))
    assert frozen.allocated / GIB == pytest.approx(14, rel=0.15)
    kept = reckon(4, 2, tower=False)
    assert kept.tower > 8 * published.tower
    assert reckon(4, 1, tower=False).tower == pytest.approx(kept.tower / 2, rel=0.01)


def test_processes_share_what_deepspeed_shares(reckon: Callable[..., Footprint]) -> None:
    """And nothing of torch stays changed."""
    before = torch.nn.functional.linear, torch.nn.functional.layer_norm, torch.is_autocast_enabled
    alone = reckon(1, 1, shallow=True, strategy="ddp", processes=4)
    assert before == (torch.nn.functional.linear, torch.nn.functional.layer_norm, torch.is_autocast_enabled)
    shared = reckon(1, 1, shallow=True, strategy="deepspeed", processes=4)
    assert shared.weights == alone.weights
    assert shared.optimizer == alone.optimizer // 4
    assert shared.adapter < alone.adapter
