"""Features of pictures from the vision tower of any supported model."""

from collections.abc import Mapping
from typing import Any

import torch

from nuvlm.models.vlm.families import vision_tower, whole_model

TEXT = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "cross_attention_mask", "labels")
"""Inputs of the text, which the tower does not take."""


def patch_features(
    model: torch.nn.Module, inputs: Mapping[str, torch.Tensor], *, events: int, views: int
) -> torch.Tensor:
    """The mean of the vision tower's output over the patches of each picture, with gradients where they are wanted.

    The output is that of the tower's last layer, before the projection to the text where the tower includes that
    (families of Qwen). Where pictures are cut into tiles the mean is over all of them, padding included.

    Args:
        model: with or without an adapter.
        inputs: output of a processor, or of its image processor, with pictures of one size.
        events, views: events in the batch, and pictures of each.

    Returns:
        (events, views, width of the tower).

    Raises:
        ValueError: the model does not use its tower on these inputs, or its output is not divisible among pictures.
    """
    whole: Any = whole_model(model)
    images = {name: value for name, value in inputs.items() if name not in TEXT}
    tower = vision_tower(whole)
    found: list[Any] = []
    hook = tower.register_forward_hook(lambda module, arguments, output: found.append(output))
    try:
        if hasattr(whole, "get_image_features"):
            whole.get_image_features(**images, return_dict=True)
        else:  # Mllama: its tower takes the images as they are
            tower(**images)
    finally:
        hook.remove()
    if len(found) != 1:
        raise ValueError(f"the vision tower has run {len(found)} times for one batch")
    output = found[0]
    states = output[0] if isinstance(output, tuple) else getattr(output, "last_hidden_state", output)
    width = states.shape[-1]
    if states.numel() % (events * views * width):
        raise ValueError(
            f"patches of shape {tuple(states.shape)} are not the same number for {events * views} pictures"
        )
    # Any order of pictures, tiles and patches has the pictures first, and one event after the other.
    pooled: torch.Tensor = states.reshape(events, views, -1, width).mean(dim=2)
    return pooled
