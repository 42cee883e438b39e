"""The vision tower of a language model with a linear head on the mean of its patches, and its folder."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from nuvlm.base.classes import CLASSES
from nuvlm.base.errors import InputError
from nuvlm.base.files import read_json, sha256
from nuvlm.base.manifest import MANIFEST, verify_manifest
from nuvlm.models.classifier.network import ImageClassifier, check_finite
from nuvlm.models.vit.settings import Adapters, VitTrainSettings
from nuvlm.models.vlm.dataset import to_pictures
from nuvlm.models.vlm.families import family_of, vision_tower
from nuvlm.models.vlm.features import patch_features
from nuvlm.models.vlm.model import load_model, load_processor
from nuvlm.models.vlm.recomputation import recompute_layers


class VisionClassifier(ImageClassifier):
    """Logits from the vision tower of `base`: its patches' mean in each view, a normalisation and a linear layer.

    The pictures are those that the language model sees: the same image processor makes them.

    Args:
        base: folder of the base model.
        views: pictures of an event.
        settings: of the training.
        device: to load the weights on.
        unpacked: unpack quantised weights once, instead of in every pass: to classify. The adapters were trained beside
            the rounded weights, which stay as they are.
    """

    def __init__(
        self, base: Path, views: int, settings: VitTrainSettings, device: torch.device, *, unpacked: bool = False
    ) -> None:
        super().__init__()
        self.views = views
        self._pictures = load_processor(base).image_processor
        self._background = settings.background
        self._base = sha256(base / MANIFEST)
        tower_pattern = family_of(base).vision_tower
        # Trained weights stay in float32; automatic mixed precision rounds them for each product.
        model = load_model(
            base, settings.quantization, bf16=settings.bf16 and settings.adapt != "all", device_map={"": device}
        )
        if unpacked and settings.quantization != "none":
            model = model.dequantize()
        _drop_language(model)
        model.requires_grad_(False)
        if settings.adapt == "lora":
            model = get_peft_model(model, _adapters(model, settings.lora))
        elif settings.adapt == "all":
            vision_tower(model).requires_grad_(True)
        if settings.gradient_checkpointing and settings.adapt != "head":
            recompute_layers(model, tower_pattern)
        self.model = model
        width = self._features(self.prepare(torch.zeros(1, views, 64, 64, dtype=torch.uint8), device)).shape[-1]
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Dropout(settings.dropout), nn.Linear(width, len(CLASSES)))

    def prepare(self, grey: Tensor, device: torch.device) -> tuple[int, dict[str, Tensor]]:
        """Number of events, and the image processor's output for grey values, uint8 (events, views, size, size)."""
        pictures = [to_pictures(views, self._background) for views in grey.cpu().numpy()]
        made = self._pictures(pictures, return_tensors="pt")
        return len(grey), {name: value.to(device) for name, value in made.items() if isinstance(value, Tensor)}

    def forward(self, prepared: tuple[int, dict[str, Tensor]]) -> Tensor:
        """Logits (events, classes) of the output of :meth:`prepare`."""
        logits: Tensor = self.head(self._features(prepared))
        return logits

    def _features(self, prepared: tuple[int, dict[str, Tensor]]) -> Tensor:
        """(events, views * width of the tower), float32."""
        events, inputs = prepared
        kind = self.model.dtype
        cast = {name: value.to(kind) if value.is_floating_point() else value for name, value in inputs.items()}
        return patch_features(self.model, cast, events=events, views=self.views).flatten(1).float()

    def card(self) -> dict[str, Any]:
        """The base, whose weights are not written again."""
        return {
            "base_sha256": self._base,
            "trainable_parameters": sum(value.numel() for value in self.learnt().values()),
        }


def load_vit(folder: Path, base: Path, device: torch.device) -> VisionClassifier:
    """The trained network in `folder`, ready to classify.

    Args:
        base: folder of the base model that it was trained with.

    Raises:
        InputError: a file is missing or altered, the weights do not fit, or the base is another one.
    """
    verify_manifest(folder)
    card, path = read_json(folder / "training.json"), folder / "model.safetensors"
    again = f"Remove {folder} and rerun: the workflow trains the model again."
    if card.get("classes") != list(CLASSES):
        raise InputError(f"{folder}: the classes are {card.get('classes')}, not {list(CLASSES)}. {again}")
    if card.get("base_sha256") != sha256(base / MANIFEST):
        raise InputError(f"{folder}: it was trained with another base model than {base}. {again}")
    settings = VitTrainSettings.model_validate(card["settings"])
    network = VisionClassifier(base, card["views"], settings, device, unpacked=True)
    try:
        weights = load_file(path)
        network.load_learnt(weights)
    except (SafetensorError, RuntimeError) as error:
        raise InputError(f"{path}: does not fit the base model and training.json ({error}). {again}") from error
    check_finite(weights, path)
    return network.to(device).eval()


def _drop_language(model: Any) -> None:
    """Free the language model, which the tower does not need."""
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    for name, module in list(model.named_modules()):
        if module is decoder or module is head:
            model.set_submodule(name, nn.Identity())


def _adapters(model: nn.Module, settings: Adapters) -> LoraConfig:
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
