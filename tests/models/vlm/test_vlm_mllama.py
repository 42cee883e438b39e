"""The pass that leaves out what is the same for all events or read by no one, against Mllama's own."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import get_peft_model
from transformers import AutoConfig, MllamaForConditionalGeneration

from nuvlm.models.vlm.adapter import lora_config
from nuvlm.models.vlm.dataset import to_pictures
from nuvlm.models.vlm.model import load_processor
from nuvlm.models.vlm.prompts import answer_tokens, load_prompts, permuted
from nuvlm.models.vlm.scoring import Encoder, Scorer
from nuvlm.models.vlm.settings import LoraSettings
from nuvlm.models.vlm.shapes import draw_scene
from tiny_models import open_gates, take_four_tiles

SHAPES: dict[str, dict[str, Any]] = {
    "images last": {"num_hidden_layers": 2, "cross_attention_layers": [1]},
    "images from the start": {"num_hidden_layers": 3, "cross_attention_layers": [0, 2]},
    "every other layer, as in the demo": {"num_hidden_layers": 4, "cross_attention_layers": [1, 3]},
    "text last and fewer keys than heads, as in the 11B": {
        "num_hidden_layers": 5,
        "cross_attention_layers": [2],
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "several layers of images at the end": {"num_hidden_layers": 5, "cross_attention_layers": [1, 3, 4]},
}


def make(base: Path, shape: dict[str, Any], tiles: int) -> MllamaForConditionalGeneration:
    """A Mllama of this shape with random weights and open gates."""
    config = AutoConfig.from_pretrained(base)
    for name, value in shape.items():
        setattr(config.text_config, name, value)
    if tiles == 4:
        take_four_tiles(config)
    torch.manual_seed(0)
    model = MllamaForConditionalGeneration(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.normal_(std=0.1)
    open_gates(model)
    return model.eval()


@pytest.fixture(scope="module")
def pictures() -> list[Any]:
    rng = np.random.default_rng(11)
    return [to_pictures(draw_scene(rng, 56)[0], "black") for _ in range(3)]


def own_pass(model: Any, answers: Any) -> Scorer:
    plain = Scorer(model, answers)
    plain._reader = None
    return plain


@pytest.mark.parametrize("tiles", [1, 4])
@pytest.mark.parametrize("shape", list(SHAPES))
def test_scores_are_those_of_the_model_s_own_pass(
    base: Path, prompts_file: Path, pictures: list[Any], shape: str, tiles: int
) -> None:
    model, processor, prompts = make(base, SHAPES[shape], tiles), load_processor(base), load_prompts(prompts_file)
    processor.image_processor.max_image_tiles = tiles
    answers = answer_tokens(processor.tokenizer, prompts)
    inputs = Encoder(processor, prompts)(pictures)
    assert inputs["pixel_values"].shape[2] == tiles
    expected = own_pass(model, answers)(inputs)
    assert np.ptp(expected.joint, axis=0).max() > 1e-3, "the events differ"
    scorer = Scorer(model, answers)
    for found in (scorer(inputs), scorer(inputs)):  # the second time with what the first has kept
        np.testing.assert_allclose(found, expected, atol=2e-5)


def test_an_adapter_is_part_of_the_pass(base: Path, prompts_file: Path, pictures: list[Any]) -> None:
    model, processor = make(base, SHAPES["every other layer, as in the demo"], 1), load_processor(base)
    prompts = load_prompts(prompts_file)
    answers = answer_tokens(processor.tokenizer, prompts)
    inputs = Encoder(processor, prompts)(pictures)
    without = Scorer(model, answers)(inputs).joint
    tuned = get_peft_model(model, lora_config(model, LoraSettings(), r".*vision_model.*")).eval()
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    found = Scorer(tuned, answers)(inputs)
    np.testing.assert_allclose(found, own_pass(tuned, answers)(inputs), atol=2e-5)
    assert np.abs(found.joint - without).max() > 1e-2


def test_another_text_is_read_anew_and_two_at_once_are_refused(
    base: Path, prompts_file: Path, pictures: list[Any]
) -> None:
    model, processor, prompts = make(base, SHAPES["images last"], 1), load_processor(base), load_prompts(prompts_file)
    answers = answer_tokens(processor.tokenizer, prompts)
    scorer = Scorer(model, answers)
    first = Encoder(processor, prompts)(pictures)
    second = Encoder(processor, permuted(prompts))(pictures)
    scorer(first)
    np.testing.assert_allclose(scorer(second), own_pass(model, answers)(second), atol=2e-5)
    assert first["input_ids"].shape == second["input_ids"].shape
    mixed = {name: torch.cat([value[:1], second[name][1:]]) for name, value in first.items()}
    with pytest.raises(ValueError, match="same for every event"):
        scorer(mixed)
