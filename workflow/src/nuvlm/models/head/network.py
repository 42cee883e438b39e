"""A part of a language model's base with a linear head."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from nuvlm.base.classes import CLASSES
from nuvlm.base.errors import InputError
from nuvlm.base.files import read_json, sha256
from nuvlm.base.manifest import MANIFEST, verify_manifest
from nuvlm.models.classifier.network import ImageClassifier, check_finite
from nuvlm.models.head.settings import HeadSettings
from nuvlm.models.vlm.dataset import to_pictures
from nuvlm.models.vlm.families import family_of
from nuvlm.models.vlm.model import load_model
from nuvlm.models.vlm.recomputation import recompute_layers

Trained = TypeVar("Trained", bound=HeadSettings)
Network = TypeVar("Network", bound=ImageClassifier)
Encode = Callable[[Sequence[Sequence[Image.Image]]], Mapping[str, Any]]
"""From the pictures of each event to inputs of the model."""


class HeadClassifier(ImageClassifier, ABC, Generic[Trained]):
    """Logits by a normalisation and a linear layer on features that a part of the model `base` makes of the pictures.

    The pictures are those that the language model sees.

    Args:
        base: folder of the base model.
        encode: makes the model's inputs.
        images: settings of the pixel maps (:func:`nuvlm.dataset.pixelmaps.image_settings`).
        settings: of the training.
        device: to load the weights on.
        unpacked: unpack quantised weights once, instead of in every pass: to classify. The adapters were trained beside
            the rounded weights, which stay as they are.
    """

    uses_all_parameters = False  # a tower may have layers that nothing uses, such as LLaVA's last

    def __init__(
        self,
        base: Path,
        encode: Encode,
        images: Mapping[str, Any],
        settings: Trained,
        device: torch.device,
        *,
        unpacked: bool,
    ) -> None:
        super().__init__()
        self.views = len(images["views"])
        self._encode = encode
        self._background, self._zoom = settings.background, images.get("zoom", 1)
        self._base = sha256(base / MANIFEST)
        tower_pattern = family_of(base).vision_tower
        model: Any = load_model(base, settings.quantization, bf16=settings.loads_bf16, device_map={"": device})
        if unpacked and settings.quantization != "none":
            model = model.dequantize()
        self.model: Any = self._adapt(model.requires_grad_(False), tower_pattern, settings)
        if settings.gradient_checkpointing and any(value.requires_grad for value in self.model.parameters()):
            recompute_layers(self.model, tower_pattern)
        with torch.no_grad():
            black = self.prepare(torch.zeros(1, self.views, 64, 64, dtype=torch.uint8), device)
            width = self._features(black).shape[-1]
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Dropout(settings.dropout), nn.Linear(width, len(CLASSES)))

    def prepare(self, grey: Tensor, device: torch.device) -> tuple[int, dict[str, Tensor]]:
        """Number of events, and the model's inputs for grey values, uint8 (events, views, size, size)."""
        pictures = [to_pictures(views, self._background, self._zoom) for views in grey.cpu().numpy()]
        made = self._encode(pictures)
        return len(grey), {name: value.to(device) for name, value in made.items() if isinstance(value, Tensor)}

    def forward(self, prepared: tuple[int, dict[str, Tensor]]) -> Tensor:
        """Logits (events, classes) of the output of :meth:`prepare`."""
        logits: Tensor = self.head(self._features(prepared))
        return logits

    @abstractmethod
    def _adapt(self, model: Any, tower_pattern: str, settings: Trained) -> nn.Module:
        """`model`, which is frozen, without what is not needed and with what is trained."""

    @abstractmethod
    def _make_features(self, events: int, inputs: dict[str, Tensor]) -> Tensor:
        """Features (events, width) of the model's inputs."""

    def _features(self, prepared: tuple[int, dict[str, Tensor]]) -> Tensor:
        """(events, width), float32."""
        events, inputs = prepared
        kind = self.model.dtype
        cast = {name: value.to(kind) if value.is_floating_point() else value for name, value in inputs.items()}
        return self._make_features(events, cast).float()

    def card(self) -> dict[str, Any]:
        """The base, whose weights are not written again."""
        return {
            "base_sha256": self._base,
            "trainable_parameters": sum(value.numel() for value in self.learnt().values()),
        }


def load_trained(
    folder: Path, base: Path, device: torch.device, make: Callable[[Mapping[str, Any]], Network]
) -> Network:
    """The trained network in `folder`, ready to classify.

    Args:
        base: folder of the base model that it was trained with.
        make: from the content of training.json to a network with unpacked weights.

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
    network = make(card)
    try:
        weights = load_file(path)
        network.load_learnt(weights)
    except (SafetensorError, RuntimeError) as error:
        raise InputError(f"{path}: does not fit the base model and training.json ({error}). {again}") from error
    check_finite(weights, path)
    return network.to(device).eval()


def drop_modules(model: Any, *unneeded: nn.Module | None) -> None:
    """Free modules of a model that are not needed."""
    for name, module in list(model.named_modules()):
        if any(module is other for other in unneeded):
            model.set_submodule(name, nn.Identity())
