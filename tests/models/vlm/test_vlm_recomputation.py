"""What training keeps of the vision tower: with checkpointing the inputs of its layers and nothing else."""

from collections.abc import Callable

import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import MllamaConfig, MllamaForConditionalGeneration
from transformers.modeling_layers import GradientCheckpointingLayer

from nuvlm.models.vlm.adapter import lora_config, stop_gradients_at_inputs
from nuvlm.models.vlm.families import tower_pattern
from nuvlm.models.vlm.recomputation import recompute_tower
from nuvlm.models.vlm.settings import LoraSettings

TOWER = r".*vision_model.*"
MLP = 136
"""Width of the tower's MLP, which no other tensor of the model has."""


@pytest.fixture
def make_model() -> Callable[[], nn.Module]:
    """A Mllama with random weights, open gates and an adapter that has an effect, always the same."""

    def make() -> nn.Module:
        torch.manual_seed(3)
        config = MllamaConfig(
            text_config={
                "hidden_size": 64, "num_hidden_layers": 3, "intermediate_size": 96, "num_attention_heads": 4,
                "num_key_value_heads": 2, "vocab_size": 90, "cross_attention_layers": [1], "pad_token_id": 0,
            },
            vision_config={
                "hidden_size": 64, "num_hidden_layers": 3, "num_global_layers": 2, "intermediate_size": MLP,
                "attention_heads": 4, "patch_size": 14, "image_size": 56, "vision_output_dim": 128,
                "intermediate_layers_indices": [1], "max_num_tiles": 1, "supported_aspect_ratios": [[1, 1]],
            },
        )  # fmt: skip
        whole = MllamaForConditionalGeneration(config)
        with torch.no_grad():
            for name, parameter in whole.named_parameters():
                if "gate" in name and parameter.numel() == 1:
                    parameter.fill_(0.7)
        assert tower_pattern(whole) == r"(.*\.)?model\.vision_model(\..*)?"
        model = get_peft_model(whole, lora_config(whole, LoraSettings(dropout=0.2), TOWER))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.1)
        return model.train()

    return make


def inputs() -> dict[str, Tensor]:
    torch.manual_seed(4)
    ids = torch.randint(1, 89, (2, 6))
    return {
        "input_ids": ids,
        "labels": ids,
        "pixel_values": torch.randn(2, 2, 1, 3, 56, 56),
        "aspect_ratio_ids": torch.ones(2, 2, dtype=torch.long),
        "aspect_ratio_mask": torch.ones(2, 2, 1, dtype=torch.long),
        "cross_attention_mask": torch.ones(2, 6, 2, 1, dtype=torch.long),
    }


def step(model: nn.Module) -> tuple[dict[str, Tensor], int]:
    """Gradients of a training step, and how many tensors as wide as the tower's MLP were kept for them."""
    kept = 0

    def keep(value: Tensor) -> Tensor:
        nonlocal kept
        kept += value.shape[-1:] == (MLP,) and value.ndim > 2
        return value

    torch.manual_seed(5)
    with saved_tensors_hooks(keep, lambda value: value):
        loss = model(**inputs(), use_cache=False).loss
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}, kept


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradients_stay_and_the_activations_go(make_model: Callable[[], nn.Module], use_reentrant: bool) -> None:
    expected, kept = step(make_model())
    assert kept > 0
    model = make_model()
    model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
    if use_reentrant:
        model.enable_input_require_grads()
    else:
        stop_gradients_at_inputs(model)
    assert step(model)[1] == kept, "transformers leaves the tower as it is"
    model.zero_grad()
    assert recompute_tower(model, TOWER, use_reentrant=use_reentrant) == 5
    found, kept = step(model)
    assert kept == 0
    assert any("vision_model" in name and value.any() for name, value in found.items())
    assert set(found) >= set(expected)
    for name, value in expected.items():
        if use_reentrant:  # which adds gradients in another order
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-7)
        else:
            assert torch.equal(found[name], value), name


def test_a_pass_without_gradients_is_not_run_through_checkpoints(
    make_model: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("checkpoint() outside of training")

    model = make_model()
    recompute_tower(model, TOWER, use_reentrant=False)
    monkeypatch.setattr("nuvlm.models.vlm.recomputation.checkpoint", refuse)
    with pytest.raises(AssertionError, match="outside of training"):
        model(**inputs())
    with torch.no_grad():
        model(**inputs())
    model.eval()(**inputs())


def test_layers_that_transformers_checkpoints_are_left_to_it() -> None:
    class Layer(GradientCheckpointingLayer):
        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.ModuleList([nn.Linear(2, 2)])

        def forward(self, x: Tensor) -> Tensor:
            return self.experts[0](x)

    model = nn.Module()
    model.vision_model = nn.Module()
    model.vision_model.layers = nn.ModuleList([Layer()])
    model.vision_model.blocks = nn.ModuleList([nn.Sequential(nn.Linear(2, 2), nn.ModuleList([nn.Linear(2, 2)]))])
    model.text = nn.ModuleList([nn.Linear(2, 2)])
    assert recompute_tower(model, TOWER, use_reentrant=False) == 1, "one block, not the lists within layers"
