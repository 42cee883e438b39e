"""Load a vision-language model from a folder, in the same way for training and classifying."""

import json
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForImageTextToText,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)

from nuvlm.base.errors import InputError
from nuvlm.base.manifest import verify_manifest
from nuvlm.models.vlm.processors import read_processor
from nuvlm.models.vlm.settings import Quantization

logger = logging.getLogger(__name__)


def load_processor(base: Path) -> ProcessorMixin:
    """The tokenizer, image processor and chat template of the base model in the folder `base`.

    Raises:
        InputError: the folder is damaged, or :func:`nuvlm.models.vlm.processors.read_processor` refuses the model.
    """
    verify_manifest(base)
    return read_processor(base)


def check_pretrained_views(base: Path, views: int) -> None:
    """Refuse a base model from `build_base_model` that was pre-trained with another number of views.

    Raises:
        InputError: names both numbers.
    """
    summary = base / "pretraining.json"
    trained = json.loads(summary.read_text()).get("views", 2) if summary.exists() else views
    if trained != views:
        raise InputError(
            f"{base}: made for {trained} views, but the pixel maps have {views}. Remove it and rerun to make it again."
        )


def load_model(
    base: Path, quantization: Quantization, *, bf16: bool, device_map: str | dict[str, Any] | None
) -> PreTrainedModel:
    """The base model in the folder `base`, already verified by :func:`load_processor`.

    Args:
        quantization: `nf4` is bitsandbytes' 4-bit NormalFloat with double quantisation (QLoRA, arXiv 2305.14314);
            `int8` its 8-bit integers with outliers in 16 bits (LLM.int8, arXiv 2208.07339); `none` keeps the
            weights in the compute type.
        bf16: compute in bfloat16 instead of float32.
        device_map: as for accelerate; `balanced` distributes the layers over all GPUs.
    """
    dtype = torch.bfloat16 if bf16 else torch.float32
    config = quantization_config(quantization, dtype)
    if quantization == "int8":
        # Every pass would warn about the cast to float16, which is part of LLM.int8.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    stored = _stored_quantization(base)
    if stored is not None:
        _check_stored(base, stored, config)
    model: PreTrainedModel = AutoModelForImageTextToText.from_pretrained(
        base,
        dtype=dtype,
        # Even None would replace what the folder says.
        **({"quantization_config": config} if stored is None else {}),
        device_map=device_map,
        attn_implementation="sdpa",  # Mllama uses 4-D masks, which flash attention does not support
        local_files_only=True,
        use_safetensors=True,  # the alternative is a pickle
    )
    if quantization == "nf4":
        _keep_plain_nf4_on_cpu(model)
    elif quantization == "int8":
        _give_int8_rows(model)
    logger.info("loaded %s: %.3g M parameters, %s, %s", base, count_parameters(model) / 1e6, quantization, dtype)
    return model


def quantization_config(quantization: Quantization, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """How transformers quantises the weights, see :func:`load_model`; None if it does not.

    Args:
        dtype: type to compute in.
    """
    if quantization == "nf4":
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_use_double_quant=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=dtype,
        )
    return BitsAndBytesConfig(load_in_8bit=True) if quantization == "int8" else None


def meta_model(config: PreTrainedConfig) -> PreTrainedModel:
    """The model of `config` on the meta device: shapes without values."""
    with torch.device("meta"):
        # Eager attention: the masks of fused attention depend on values.
        model: PreTrainedModel = AutoModelForImageTextToText.from_config(
            config, dtype=torch.bfloat16, attn_implementation="eager"
        )
    return model.eval()


def source(base: Path) -> dict[str, Any] | None:
    """Name and commit of a downloaded model; None for one from `build_base_model`."""
    file = base / "source.json"
    return json.loads(file.read_text()) if file.exists() else None


def count_parameters(model: torch.nn.Module) -> int:
    """Parameters of a model, quantised or not."""
    # bitsandbytes packs two 4-bit weights into a byte; DeepSpeed stores the size of a partitioned weight in ds_numel.
    return sum(getattr(p, "ds_numel", p.numel()) * (2 if p.dtype == torch.uint8 else 1) for p in model.parameters())


def _stored_quantization(base: Path) -> dict[str, Any] | None:
    """How the weights in the folder are quantised already; None if they are not."""
    stored: dict[str, Any] | None = json.loads((base / "config.json").read_text()).get("quantization_config")
    return stored


def _check_stored(base: Path, stored: dict[str, Any], wanted: BitsAndBytesConfig | None) -> None:
    """Refuse weights that are quantised in another way than the settings ask for: transformers would take them.

    Raises:
        InputError: names what differs.
    """
    asked = {} if wanted is None else wanted.to_dict()
    differ = [key for key in sorted({*stored, *asked}) if stored.get(key) != asked.get(key)]
    if differ:
        raise InputError(
            f"{base}: its weights are already quantised, in another way than vlm.finetune.quantization and bf16 ask "
            f"for ({', '.join(f'{key}: {stored.get(key)}, asked {asked.get(key)}' for key in differ[:3])}). Use the "
            "settings that it was written with, remove it and rerun to make it again, or choose an unquantised model."
        )


def _keep_plain_nf4_on_cpu(model: torch.nn.Module) -> None:
    """Keep bitsandbytes from repacking the weights for AVX512-BF16 in eval mode.

    Training with repacked weights crashes or silently loses the input gradient (bitsandbytes 0.50), and CPUs with and
    without that extension would give different numbers.
    """
    import bitsandbytes

    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False


def _give_int8_rows(model: torch.nn.Module) -> None:
    """Flatten the input of LLM.int8 layers to two dimensions.

    bitsandbytes 0.50 supports at most three: with five, as between Mllama's vision tower and its text model, it
    searches for outliers along the wrong dimension and fails or gives wrong results.
    """
    import bitsandbytes

    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear8bitLt):
            module.forward = partial(_in_rows, module.forward)


def _in_rows(forward: Callable[[torch.Tensor], torch.Tensor], values: torch.Tensor) -> torch.Tensor:
    """Apply `forward` with all but the last dimension flattened, and restore the shape."""
    return forward(values.flatten(0, -2)).unflatten(0, values.shape[:-1])
