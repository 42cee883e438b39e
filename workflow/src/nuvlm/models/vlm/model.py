"""Loading a vision-language model from a folder: the same way for training and for classifying."""

import json
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)

from nuvlm.base.manifest import verify_manifest
from nuvlm.models.vlm.families import family_of

logger = logging.getLogger(__name__)

Quantization = Literal["nf4", "int8", "none"]


def load_processor(base: Path) -> ProcessorMixin:
    """The tokenizer, image processor and chat template of the base model in the folder `base`.

    The tokenizer's end token is the one that ends an answer in the chat template.

    Raises:
        InputError: where the folder is damaged, or the model's family is not known.
    """
    verify_manifest(base)
    family = family_of(base)
    processor: ProcessorMixin = AutoProcessor.from_pretrained(base, local_files_only=True)
    # Not torchvision's image processor where that happens to be installed: the same pixels on every machine.
    processor.image_processor = AutoImageProcessor.from_pretrained(base, backend="pil", local_files_only=True)
    processor.tokenizer.eos_token = family.end_of_answer
    return processor


def load_model(
    base: Path, quantization: Quantization, *, bf16: bool, device_map: str | dict[str, Any] | None
) -> PreTrainedModel:
    """The base model in the folder `base`, which :func:`load_processor` has checked.

    Args:
        quantization: `nf4` is bitsandbytes' 4-bit NormalFloat with double quantisation (QLoRA, arXiv 2305.14314);
            `int8` its 8-bit integers with outliers in 16 bits (LLM.int8, arXiv 2208.07339); `none` leaves the
            weights in the computing type.
        bf16: compute in bfloat16 instead of float32.
        device_map: as accelerate takes it; `balanced` spreads the layers over all GPUs.
    """
    dtype = torch.bfloat16 if bf16 else torch.float32
    config = None
    if quantization == "nf4":
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_use_double_quant=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=dtype,
        )
    elif quantization == "int8":
        config = BitsAndBytesConfig(load_in_8bit=True)
        # It warns of the cast to float16, which LLM.int8 always does, in every pass.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    model: PreTrainedModel = AutoModelForImageTextToText.from_pretrained(
        base,
        dtype=dtype,
        quantization_config=config,
        device_map=device_map,
        attn_implementation="sdpa",  # Mllama builds 4-D masks, which flash attention does not take
        local_files_only=True,
        use_safetensors=True,  # the other format is a pickle
    )
    if quantization == "nf4":
        _keep_plain_nf4_on_cpu(model)
    elif quantization == "int8":
        _give_int8_rows(model)
    logger.info("loaded %s: %.3g M parameters, %s, %s", base, count_parameters(model) / 1e6, quantization, dtype)
    return model


def meta_model(config: PreTrainedConfig) -> PreTrainedModel:
    """The model of `config` on the meta device: shapes without values."""
    with torch.device("meta"):
        # Eager attention: the masks of fused attention depend on values.
        model: PreTrainedModel = AutoModelForImageTextToText.from_config(
            config, dtype=torch.bfloat16, attn_implementation="eager"
        )
    return model.eval()


def source(base: Path) -> dict[str, Any] | None:
    """Where a fetched model came from: its name and the commit on the hub; None for one made here."""
    file = base / "source.json"
    return json.loads(file.read_text()) if file.exists() else None


def count_parameters(model: torch.nn.Module) -> int:
    """Parameters of a model, quantised or not."""
    # bitsandbytes packs two 4-bit weights in a byte; of a weight spread over processes, DeepSpeed keeps the size.
    return sum(getattr(p, "ds_numel", p.numel()) * (2 if p.dtype == torch.uint8 else 1) for p in model.parameters())


def _keep_plain_nf4_on_cpu(model: torch.nn.Module) -> None:
    """Forbid bitsandbytes to repack the weights for AVX512-BF16 in eval mode.

    Training that goes on from repacked weights crashes or loses its input gradient without a word
    (bitsandbytes 0.50), and a CPU with that extension would compute other numbers than one without.
    """
    import bitsandbytes

    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False


def _give_int8_rows(model: torch.nn.Module) -> None:
    """Show the LLM.int8 layers their input as rows.

    bitsandbytes 0.50 takes at most three dimensions: with five, as between Mllama's vision tower and its text, it looks
    for outliers along a wrong one, and fails or computes something else.
    """
    import bitsandbytes

    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear8bitLt):
            module.forward = partial(_in_rows, module.forward)


def _in_rows(forward: Callable[[torch.Tensor], torch.Tensor], values: torch.Tensor) -> torch.Tensor:
    """`forward` over the last dimension, the others put together and taken apart again."""
    return forward(values.flatten(0, -2)).unflatten(0, values.shape[:-1])
