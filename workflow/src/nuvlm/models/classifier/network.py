"""What the training loop asks of a network that classifies pixel maps."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nuvlm.base.errors import InputError


class ImageClassifier(nn.Module):
    """A network from the pixel maps of events to logits (events, classes).

    Its parameters that require gradients, and its buffers, are what a training changes and what is written.
    """

    uses_all_parameters = True
    """Whether every parameter that is trained acts on every output, so that each step gives it a gradient."""

    def prepare(self, grey: Tensor, device: torch.device) -> Any:
        """The input of :meth:`forward` from grey values, uint8 (events, views, size, size): floats from 0 to 1."""
        return to_float(grey, device)

    def learnt(self) -> dict[str, Tensor]:
        """What training changes: name -> parameter or buffer."""
        # Other entries, and frozen parameters, are those of a base model: quantised weights have several.
        kept = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        kept |= {name for name, _ in self.named_buffers()}
        return {name: value for name, value in self.state_dict().items() if name in kept}

    def load_learnt(self, values: dict[str, Tensor]) -> None:
        """Restore what :meth:`learnt` returned.

        Raises:
            RuntimeError: names or shapes differ.
        """
        missing = self.learnt().keys() - values.keys()
        unexpected = self.load_state_dict(values, strict=False).unexpected_keys
        if missing or unexpected:
            raise RuntimeError(f"weights missing: {sorted(missing)[:3]}, unknown: {sorted(unexpected)[:3]}")

    def card(self) -> dict[str, Any]:
        """What :meth:`forward` cannot be rebuilt without, for ``training.json``."""
        return {}


def logits_of(network: ImageClassifier, device: torch.device) -> Callable[[np.ndarray], np.ndarray]:
    """A function from uint8 images (events, views, size, size) to float32 logits (events, classes)."""

    def logits(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            found: np.ndarray = network(network.prepare(torch.from_numpy(images), device)).cpu().numpy()
        return found

    return logits


def check_finite(weights: Mapping[str, Tensor], path: Path) -> None:
    """Refuse weights that are not finite.

    Raises:
        InputError: names the file and the first array.
    """
    bad = [name for name, value in weights.items() if not torch.isfinite(value).all()]
    if bad:
        raise InputError(
            f"{path}: {len(bad)} of {len(weights)} weight arrays (first: {bad[0]}) are not finite. The training has "
            "diverged: train again with a lower learning rate."
        )


def channels_last(network: ImageClassifier) -> ImageClassifier:
    """Lay the weights of convolutions in two dimensions out with the channels last, which is faster.

    As ``network.to(memory_format=torch.channels_last)``, which fails with convolutions in three dimensions. Not
    ``contiguous``: it keeps the strides of sides of one, and layers choose how to compute by the strides.
    """
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.to(memory_format=torch.channels_last)
    return network


def count_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def to_float(images: Tensor, device: torch.device) -> Tensor:
    """Move grey values (uint8) to the device and scale them to floats from 0 to 1."""
    return images.to(device, non_blocking=True).float().div_(255)
