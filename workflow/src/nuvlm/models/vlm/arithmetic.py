"""What a model's passes cost in arithmetic, counted without its weights; the floor that speed is judged by.

PyTorch's own counter (`torch.utils.flop_counter`) runs over the model on the `meta` device, where tensors have shapes
and no values: an 11-billion-parameter model takes seconds and no memory. It counts the multiplications of matrices, two
operations an element, forwards and backwards, with what checkpointing computes twice.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from peft import get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForImageTextToText, PreTrainedConfig, PreTrainedModel

from nuvlm.models.vlm.adapter import lora_config, stop_gradients_at_inputs
from nuvlm.models.vlm.settings import LoraSettings

Inputs = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Arithmetic:
    """Of one batch: floating-point operations (FLOP); of the model: parameters."""

    forward: int
    """Of a forward pass with the logits of the last token alone, as classifying needs it."""
    training: int
    """Of a training step: forwards with all logits, and backwards through what leads to an adapter."""
    parameters: int
    """Of the base model."""
    trainable: int
    """Of the adapter."""


def count_arithmetic(
    config: PreTrainedConfig, inputs: Inputs, lora: LoraSettings, *, vision_tower: str, checkpointing: bool
) -> Arithmetic:
    """Count what the model of `config` computes on a batch.

    Args:
        config: the base model's.
        inputs: what the processor makes of the batch; shapes alone matter.
        lora: the adapter.
        vision_tower: regular expression of the vision tower's modules, see :mod:`nuvlm.models.vlm.families`.
        checkpointing: whether activations are computed again on the way back instead of kept.

    Raises:
        RuntimeError: of torch, for models that choose what to compute by the values of their inputs.
    """
    model = meta_model(config)
    parameters = sum(p.numel() for p in model.parameters())
    inputs = {
        name: value.to("meta", model.dtype if value.is_floating_point() else value.dtype)
        for name, value in inputs.items()
        if name != "labels"
    }
    with torch.no_grad(), FlopCounterMode(display=False) as forward:
        model(**inputs, use_cache=False, logits_to_keep=1)
    model.train()
    model = get_peft_model(model, lora_config(lora, vision_tower))
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
        stop_gradients_at_inputs(model)
    with FlopCounterMode(display=False) as training:
        model(**inputs, use_cache=False).logits.sum().backward()
    return Arithmetic(
        forward=forward.get_total_flops(),
        training=training.get_total_flops(),
        parameters=parameters,
        trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
    )


def meta_model(config: PreTrainedConfig) -> PreTrainedModel:
    """The model of `config`, with shapes and no values."""
    with torch.device("meta"):
        # Eager attention multiplies what fused attention does; the masks of the latter look at values.
        model: PreTrainedModel = AutoModelForImageTextToText.from_config(
            config, dtype=torch.bfloat16, attn_implementation="eager"
        )
    return model.eval()


def weight_bytes(model: torch.nn.Module, quantization: str) -> tuple[int, int]:
    """Bytes of a model's weights that bitsandbytes quantises and of those that it leaves in bfloat16.

    All linear layers but the output's are quantised. nf4: four bits a weight, and for every 64 of them a scale that
    double quantisation makes 8 bits, with one of 32 bits for every 256 (QLoRA, arXiv 2305.14314, section 3). int8: one
    byte a weight and a 32-bit scale a row.
    """
    quantised = plain = 0
    linear = {
        id(module.weight): module.weight
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and not name.endswith("lm_head")
    }
    for parameter in model.parameters():
        n = parameter.numel()
        if id(parameter) not in linear or quantization == "none":
            plain += 2 * n
        elif quantization == "nf4":
            blocks = math.ceil(n / 64)
            quantised += n // 2 + blocks + 4 * math.ceil(blocks / 256)
        else:
            quantised += n + 4 * parameter.shape[0]
    return quantised, plain


def matmul_rate(device: torch.device, dtype: torch.dtype, seconds: float = 0.2) -> float:
    """FLOP a second at which `device` multiplies large square matrices: what arithmetic alone would allow."""
    size = 8192 if device.type == "cuda" else 1024
    a = torch.ones(size, size, device=device, dtype=dtype)

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    a @ a  # the first one chooses its kernel
    wait()
    start, n = time.perf_counter(), 0
    while (taken := time.perf_counter() - start) < seconds or n == 0:
        a @ a
        wait()
        n += 1
    return 2 * size**3 * n / taken
