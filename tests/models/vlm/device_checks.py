"""What differs on a device that is not the CPU; test_vlm_device.py runs this file.

Pinned memory, the place of every tensor, random numbers in recomputed layers.
"""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from nuvlm.models import devices
from standin_device import build

build()
DEVICES = {"cpu": torch.device("cpu"), "standin": torch.device("standin", 0)}


def test_what_the_stand_in_refuses_as_a_gpu_does() -> None:
    here, there = torch.ones(3, 4), torch.ones(3, 4).to("standin")
    with pytest.raises(RuntimeError, match="same device"):
        there + here
    with pytest.raises(RuntimeError, match="same device"):
        torch.cat([there, here])
    with pytest.raises(TypeError, match="convert"):
        there.numpy()
    assert (there + torch.tensor(1.0)).device == DEVICES["standin"]
    assert there[torch.tensor([0, 2])].device == DEVICES["standin"]


def test_expanded_tensors_are_pinned_which_torch_cannot() -> None:
    text = torch.arange(3).expand(4, 3)
    with pytest.raises(RuntimeError, match="more than one element"):
        text.pin_memory()
    found = devices.pinned({"text": text, "pixels": torch.ones(4, 2)})
    assert all(value.is_pinned() for value in found.values())
    assert torch.equal(found["text"], text)


def test_dropout_is_drawn_again_by_the_generator_of_the_device() -> None:
    """Recomputation must restore it: otherwise gradients belong to other masks than the loss."""
    layer = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Dropout(0.5)).to("standin").train()
    x = torch.randn(8, 64).to("standin")
    gradients = []
    for recomputed in (False, True):
        torch.manual_seed(3)
        layer.zero_grad()
        out = checkpoint(layer, x, use_reentrant=False) if recomputed else layer(x)
        out.square().sum().backward()
        gradients.append(layer[0].weight.grad.cpu().clone())
    assert torch.equal(*gradients)
