"""The base model made from scratch, and the scenes that it learns to describe."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from nuvlm.storage import verify_manifest
from nuvlm.vlm.base import build_base_model
from nuvlm.vlm.model import load_processor
from nuvlm.vlm.settings import ScratchSettings
from nuvlm.vlm.shapes import draw_scene

SMALL = ScratchSettings(
    hidden=64, text_layers=2, vision_layers=1, heads=2, image_size=28, patch_size=14, vocabulary=600, steps=3,
    batch_size=2,
)  # fmt: skip


def test_same_seed_same_model(prompts_file: Path, chat_template: Path, tmp_path: Path) -> None:
    models = []
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        settings = SMALL.model_copy(update={"seed": seed})
        build_base_model(
            tmp_path / name, settings, prompts=prompts_file, chat_template=chat_template, tensorboard=tmp_path / "tb"
        )
        verify_manifest(tmp_path / name)
        models.append(load_file(tmp_path / name / "model.safetensors"))
    a, b, c = models
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], c[name]) for name in a)


def test_images_reach_the_text_from_the_start(base: Path) -> None:
    """Zero gates, the default of the class, would keep a frozen base blind for ever."""
    weights = load_file(base / "model.safetensors")
    gates = {name: value for name, value in weights.items() if "cross_attn_attn_gate" in name}
    assert gates
    assert all(value.abs().min() > 0.5 for value in gates.values())


def test_pretraining_teaches(base: Path) -> None:
    summary = json.loads((base / "pretraining.json").read_text())
    assert summary["token_accuracy"] > 0.6


def test_tokenizer_loses_no_text(base: Path) -> None:
    tokenizer = load_processor(base).tokenizer
    text = "Müon νμ → 0.5 GeV,\n\n  it's 1234567 tracks"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


@pytest.mark.parametrize("size", [28, 112])
def test_scenes_are_pictures_with_words(size: int) -> None:
    rng = np.random.default_rng(5)
    described = set()
    for _ in range(50):
        views, text = draw_scene(rng, size)
        assert views.shape == (2, size, size)
        assert views.dtype == np.uint8
        assert text.startswith("There are ")
        described.add(text)
    assert len(described) > 40


def test_both_views_show_the_same_scene() -> None:
    """The common axis of the views is the horizontal one: their column sums are those of one cube."""
    rng = np.random.default_rng(6)
    for _ in range(20):
        top, side = draw_scene(rng, 64)[0]
        assert np.array_equal(top.any(axis=0), side.any(axis=0))
