"""Floating-point operations and weight bytes of a model, counted without its weights.

`torch.utils.flop_counter` runs over the model on the `meta` device, where tensors have shapes but no values: an
11-billion-parameter model takes seconds and no memory. It counts matrix products, two operations per multiply-add,
forward and backward, including what checkpointing recomputes.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from peft import get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedConfig

from nuvlm.models.vlm.adapter import lora_config, stop_gradients_at_inputs
from nuvlm.models.vlm.known_values import KnownValues, placed
from nuvlm.models.vlm.model import meta_model
from nuvlm.models.vlm.recomputation import recompute_tower
from nuvlm.models.vlm.settings import LoraSettings

Inputs = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Arithmetic:
    """Floating-point operations (FLOP) of one batch, and parameters of the model."""

    forward: int
    """FLOP of a forward pass with the logits of the last token only, as in classification."""
    training: int
    """FLOP of a training step: a forward pass with all logits, and the backward pass to the adapters."""
    parameters: int
    """Parameters of the base model."""
    trainable: int
    """Parameters of the adapter."""


def count_arithmetic(
    config: PreTrainedConfig, inputs: Inputs, lora: LoraSettings, *, vision_tower: str, checkpointing: bool
) -> Arithmetic:
    """Count the operations of the model of `config` on a batch.

    Args:
        config: config of the base model.
        inputs: the processor's output for the batch; only shapes matter.
        lora: settings of the adapter.
        vision_tower: regular expression of the vision tower's modules, see :mod:`nuvlm.models.vlm.families`.
        checkpointing: whether activations are recomputed in the backward pass.

    Raises:
        RuntimeError: from torch, for models whose control flow depends on the values of their inputs.
    """
    model = meta_model(config)
    parameters = sum(p.numel() for p in model.parameters())
    inputs = {name: value for name, value in placed(inputs, config, model.dtype).items() if name != "labels"}
    with torch.no_grad(), FlopCounterMode(display=False) as forward, KnownValues():
        model(**inputs, use_cache=False, logits_to_keep=1)
    model.train()
    model = get_peft_model(model, lora_config(model, lora, vision_tower))
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
        if lora.vision:
            recompute_tower(model, vision_tower, use_reentrant=False)
        stop_gradients_at_inputs(model)
    with FlopCounterMode(display=False) as training, KnownValues():
        model(**inputs, use_cache=False).logits.sum().backward()
    return Arithmetic(
        forward=forward.get_total_flops(),
        training=training.get_total_flops(),
        parameters=parameters,
        trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
    )


def weight_bytes(model: torch.nn.Module, quantization: str) -> tuple[int, int]:
    """Bytes of the weights that bitsandbytes quantises, and of those that stay in bfloat16.

    All linear layers except the output layer are quantised. nf4: 4 bits per weight, an 8-bit scale per 64 weights
    and a 32-bit scale per 256 scales (QLoRA, arXiv 2305.14314, section 3). int8: 1 byte per weight and a 32-bit
    scale per row.
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
    """FLOP/s of `device` for products of large square matrices: the floor that speed is compared with."""
    size = 8192 if device.type == "cuda" else 1024
    a = torch.randn(size, size, device=device, dtype=dtype)  # equal numbers take less power, and so a higher clock

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    a @ a  # warm-up: the first product selects a kernel
    wait()
    start, n = time.perf_counter(), 0
    while (taken := time.perf_counter() - start) < seconds or n == 0:
        a @ a
        wait()
        n += 1
    return 2 * size**3 * n / taken
