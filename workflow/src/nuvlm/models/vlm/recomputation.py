"""Gradient checkpointing (arXiv 1604.06174) of vision towers whose layers do not offer it.

transformers checkpoints only layers of the class `GradientCheckpointingLayer`. Those of Mllama's vision tower are not,
and with an adapter in them all 40 would keep their activations: 21 GiB an event with four tiles.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer


def recompute_layers(model: nn.Module, vision_tower: str) -> None:
    """:func:`recompute_tower`, with the non-reentrant kind, for the layers that transformers checkpoints as well.

    transformers' own switch also makes the embeddings require gradients, which would flow through a frozen tower.
    """
    recompute_tower(model, vision_tower, use_reentrant=False)
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.gradient_checkpointing = True
            module._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)


def recompute_tower(model: nn.Module, vision_tower: str, *, use_reentrant: bool) -> int:
    """Make the layers of the vision tower keep only their inputs in training, and compute the rest again for gradients.

    Layers are the members of the tower's outermost module lists. Those that transformers checkpoints are left to it.
    The non-reentrant kind gives bit-identical gradients, dropout included.

    Args:
        model: with its adapter.
        vision_tower: regular expression of the tower's modules, see :mod:`nuvlm.models.vlm.families`.
        use_reentrant: the kind of checkpointing: that of the text layers.

    Returns:
        the number of layers that were changed.
    """
    done: list[str] = []
    changed = 0
    for name, module in model.named_modules():
        if any(name.startswith(f"{outer}.") for outer in done):
            continue
        if isinstance(module, GradientCheckpointingLayer):
            done.append(name)
        elif isinstance(module, nn.ModuleList) and re.fullmatch(vision_tower, name):
            done.append(name)
            for layer in module:
                if not isinstance(layer, GradientCheckpointingLayer):
                    layer.forward = partial(_recomputed, layer, layer.forward, use_reentrant)
                    changed += 1
    return changed


def _recomputed(
    layer: nn.Module, forward: Callable[..., Any], use_reentrant: bool, /, *args: Any, **kwargs: Any
) -> Any:
    """The result of `forward`, without its activations where gradients are needed."""
    if not (layer.training and torch.is_grad_enabled()):
        return forward(*args, **kwargs)
    n, names = len(args), tuple(kwargs)

    # Reentrant checkpointing passes gradients only to positional arguments.
    def positional(*values: Any) -> Any:
        return forward(*values[:n], **dict(zip(names, values[n:], strict=True)))

    return checkpoint(positional, *args, *kwargs.values(), use_reentrant=use_reentrant)
