"""Loading a vision-language model from a folder: the same way for training and for classifying."""

import logging
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    AutoProcessor,
    BitsAndBytesConfig,
    MllamaForConditionalGeneration,
    MllamaImageProcessorPil,
    MllamaProcessor,
)

from nuvlm.errors import InputError
from nuvlm.storage import verify_manifest

logger = logging.getLogger(__name__)

Quantization = Literal["nf4", "none"]


def load_processor(base: Path) -> MllamaProcessor:
    """The tokenizer, image processor and chat template of the base model in the folder `base`.

    Raises:
        InputError: where the folder is damaged.
    """
    verify_manifest(base)
    processor: MllamaProcessor = AutoProcessor.from_pretrained(base, local_files_only=True)
    # Not torchvision's image processor where that happens to be installed: the same pixels on every machine.
    processor.image_processor = MllamaImageProcessorPil.from_pretrained(base, local_files_only=True)
    return processor


def load_model(
    base: Path, quantization: Quantization, *, bf16: bool, device_map: str | dict[str, Any]
) -> MllamaForConditionalGeneration:
    """The base model in the folder `base`, which :func:`load_processor` has checked.

    Args:
        quantization: `nf4` is bitsandbytes' 4-bit NormalFloat with double quantisation (QLoRA, arXiv 2305.14314);
            `none` leaves the weights in the computing type.
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
        _check_width(base)
    model = MllamaForConditionalGeneration.from_pretrained(
        base,
        dtype=dtype,
        quantization_config=config,
        device_map=device_map,
        attn_implementation="sdpa",  # Mllama builds 4-D masks, which flash attention does not take
        local_files_only=True,
    )
    if quantization == "nf4":
        _keep_plain_nf4_on_cpu(model)
    logger.info("loaded %s: %.3g M parameters, %s, %s", base, count_parameters(model) / 1e6, quantization, dtype)
    return model


def count_parameters(model: torch.nn.Module) -> int:
    """Parameters of a model, quantised or not."""
    # bitsandbytes packs two 4-bit weights in a byte.
    return sum(p.numel() * (2 if p.dtype == torch.uint8 else 1) for p in model.parameters())


def _keep_plain_nf4_on_cpu(model: torch.nn.Module) -> None:
    """Forbid bitsandbytes to repack the weights for AVX512-BF16 in eval mode.

    Training that goes on from repacked weights crashes or loses its input gradient without a word
    (bitsandbytes 0.50), and a CPU with that extension would compute other numbers than one without.
    """
    import bitsandbytes

    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False


def _check_width(base: Path) -> None:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(base, local_files_only=True)
    for part in (config.text_config, config.vision_config):
        if part.hidden_size % 64:
            raise InputError(
                f"{base}: nf4 needs a width that is a multiple of 64, not {part.hidden_size}. Use quantization: none."
            )
