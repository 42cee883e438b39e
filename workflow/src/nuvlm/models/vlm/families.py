"""What a vision-language model consists of, asked of its class in transformers instead of known by its name.

Any type that transformers maps to image-text-to-text is tried. :mod:`nuvlm.models.vlm.processors` reads its processor,
:mod:`nuvlm.models.vlm.probe` checks with the loaded weights that images, texts and scores work.
"""

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from nuvlm.base.errors import InputError
from nuvlm.models.vlm.model import meta_model
from nuvlm.models.vlm.processors import refused


@dataclass(frozen=True)
class Family:
    """Properties of a family of models."""

    model_type: str
    vision_tower: str
    """Regular expression of the names of the vision tower's modules, also with an adapter."""


def family_of(folder: Path, where: Path | str | None = None) -> Family:
    """The family of the model whose config.json is in `folder`; its weights are not read.

    Args:
        where: the model's name for messages.

    Raises:
        InputError: it is no image-text-to-text model of transformers, or has no vision tower.
    """
    return _family(
        str(where or folder), folder, (folder / "config.json").read_bytes(), model_type(folder / "config.json")
    )


@lru_cache(maxsize=8)
def _family(where: str, folder: Path, config: bytes, kind: str) -> Family:
    if kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise refused(where, "family", f"'{kind}' is no model in transformers that reads images and writes text")
    try:
        settings = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (StrictDataclassError, ValueError, TypeError, KeyError) as error:
        raise refused(where, "config.json", f"transformers does not accept it ({error})") from error
    return Family(kind, tower_pattern(meta_model(settings), where))


def model_type(config: Path) -> str:
    """The `model_type` in a model's config.json.

    Raises:
        InputError: it is not a model's config.
    """
    try:
        return str(json.loads(config.read_text(encoding="utf-8"))["model_type"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{config}: not the config of a model in the format of transformers ({error!r}). Check vlm.hub.model."
        ) from error


def whole_model(model: Any) -> PreTrainedModel:
    """The model itself, of one with or without an adapter."""
    whole: PreTrainedModel = model.get_base_model() if hasattr(model, "get_base_model") else model
    return whole


def vision_tower(model: torch.nn.Module, where: Path | str = "model") -> torch.nn.Module:
    """The module that encodes images, of a model with or without an adapter.

    In some families, such as Qwen's, it includes the projection to the width of the text.

    Raises:
        InputError: the model has none.
    """
    whole = whole_model(model)
    tower: torch.nn.Module = whole.get_encoder(modality="image")
    if tower is whole or tower is whole.base_model:
        raise refused(where, "vision tower", "transformers names no module of it that encodes images")
    return tower


def tower_pattern(model: torch.nn.Module, where: Path | str = "model") -> str:
    """Regular expression of the names of the vision tower's modules, also with an adapter.

    Raises:
        InputError: see :func:`vision_tower`.
    """
    whole = whole_model(model)
    tower = vision_tower(whole, where)
    name = next(name for name, module in whole.named_modules() if module is tower)
    return rf"(.*\.)?{re.escape(name)}(\..*)?"
