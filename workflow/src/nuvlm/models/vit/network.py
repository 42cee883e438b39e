"""The vision tower of a language model's base with a linear head on the mean of its patches."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from nuvlm.base.errors import InputError
from nuvlm.models.head.network import HeadClassifier, drop_modules, load_trained
from nuvlm.models.vit.settings import Adapters, VitTrainSettings
from nuvlm.models.vlm.families import vision_tower
from nuvlm.models.vlm.features import patch_features
from nuvlm.models.vlm.model import load_processor


class VisionClassifier(HeadClassifier[VitTrainSettings]):
    """The vision tower with a linear head on its patches' mean in each view.

    See :class:`nuvlm.models.head.network.HeadClassifier`.
    """

    def __init__(
        self,
        base: Path,
        images: Mapping[str, Any],
        settings: VitTrainSettings,
        device: torch.device,
        *,
        unpacked: bool = False,
    ) -> None:
        encode = partial(load_processor(base).image_processor, return_tensors="pt")
        super().__init__(base, encode, images, settings, device, unpacked=unpacked)

    def _adapt(self, model: Any, tower_pattern: str, settings: VitTrainSettings) -> nn.Module:
        drop_modules(model, model.get_decoder(), model.get_output_embeddings())
        if settings.adapt == "lora":
            return get_peft_model(model, _lora_config(model, settings.lora))
        vision_tower(model).requires_grad_(settings.adapt == "all")
        whole: nn.Module = model
        return whole

    def _make_features(self, events: int, inputs: dict[str, Tensor]) -> Tensor:
        return patch_features(self.model, inputs, events=events, views=self.views).flatten(1)


def load_vit(folder: Path, base: Path, device: torch.device) -> VisionClassifier:
    """The trained network in `folder`, ready to classify; see :func:`nuvlm.models.head.network.load_trained`."""

    def make(card: Mapping[str, Any]) -> VisionClassifier:
        settings = VitTrainSettings.model_validate(card["settings"])
        return VisionClassifier(base, card["images"], settings, device, unpacked=True)

    return load_trained(folder, base, device, make)


def _lora_config(model: nn.Module, settings: Adapters) -> LoraConfig:
    """The adapters' configuration for peft, with the full names of the tower's layers.

    Raises:
        InputError: the tower lacks a layer that the settings name.
    """
    tower = vision_tower(model)
    inside = {id(module) for module in tower.modules() if isinstance(module, nn.Linear)}
    names = [name for name, module in model.named_modules() if id(module) in inside]
    short = {name: name.rpartition(".")[2] for name in names}
    wanted = settings.target_modules
    missing = [] if wanted is None else sorted({*wanted} - {*short.values()})
    if missing or wanted == ():
        raise InputError(
            f"vit.lora.target_modules: the vision tower has no linear layer named {', '.join(missing) or 'so'}. Name "
            f"some of {', '.join(sorted({*short.values()}))}, or null for all."
        )
    return LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        bias="none",
        target_modules=[name for name in names if wanted is None or short[name] in wanted],
    )
