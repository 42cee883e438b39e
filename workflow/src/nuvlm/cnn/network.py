"""The Siamese CNN of arXiv 2509.08461: one branch for all views, then a common trunk.

The paper gives the kinds of blocks and the size (3.4 M parameters), not the table of layers; this one follows
MobileNetV2 (arXiv 1801.04381) and V3 (arXiv 1905.02244), whose blocks it names.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Block:
    """One inverted residual block.

    Attributes:
        kernel: side of the depthwise kernel.
        expansion: inner channels over input channels.
        channels: output channels at width 1.
        squeeze: whether squeeze-and-excitation follows the depthwise convolution.
        hard_swish: activation, hard-swish or ReLU6.
        stride: of the depthwise convolution.
    """

    kernel: int
    expansion: float
    channels: int
    squeeze: bool
    hard_swish: bool
    stride: int


STEM_CHANNELS = 16
BRANCH = (
    Block(3, 1, 16, False, False, 1),
    Block(3, 4, 24, False, False, 2),
    Block(3, 3, 24, False, False, 1),
    Block(5, 3, 40, True, False, 2),
    Block(5, 3, 40, True, False, 1),
    Block(3, 6, 80, False, True, 2),
    Block(3, 2.5, 80, False, True, 1),
)
TRUNK = (
    Block(3, 4, 112, True, True, 1),
    Block(3, 6, 112, True, True, 1),
    Block(5, 6, 160, True, True, 2),
    Block(5, 6, 160, True, True, 1),
    Block(5, 6, 160, True, True, 1),
    Block(5, 3, 160, True, True, 1),
)
HEAD_CHANNELS = 1280


def _round_channels(channels: float) -> int:
    """To a multiple of 8, which hardware likes, never below 8."""
    return max(8, int(channels + 4) // 8 * 8)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]


class SqueezeExcitation(nn.Module):
    """Weigh channels by what the whole image holds (arXiv 1709.01507, with V3's hard sigmoid)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = _round_channels(channels / 4)
        self.weigh = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, inner, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, channels, 1),
            nn.Hardsigmoid(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weigh(x)


class InvertedResidual(nn.Module):
    """Expand, filter each channel, weigh, project; added to its input where shapes allow."""

    def __init__(self, inputs: int, block: Block, outputs: int) -> None:
        super().__init__()
        inner = _round_channels(inputs * block.expansion)
        activation = nn.Hardswish if block.hard_swish else nn.ReLU6
        layers: list[nn.Module] = []
        if inner != inputs:
            layers += [*_conv(inputs, inner, 1), activation(inplace=True)]
        layers += [*_conv(inner, inner, block.kernel, block.stride, groups=inner), activation(inplace=True)]
        if block.squeeze:
            layers.append(SqueezeExcitation(inner))
        layers += _conv(inner, outputs, 1)
        self.layers = nn.Sequential(*layers)
        self.residual = block.stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


class SiameseCnn(nn.Module):
    """Classifies the views of an event together; works for any image size of 32 pixels or more.

    Args:
        views: images an event.
        classes: number of classes.
        width: multiplier of all channels.
        dropout: before the last layer.
    """

    def __init__(self, views: int = 2, classes: int = 3, width: float = 1.0, dropout: float = 0.2) -> None:
        super().__init__()
        channels = _round_channels(STEM_CHANNELS * width)
        self.stem = nn.Sequential(*_conv(1, channels, 3, 2), nn.ReLU6(inplace=True))
        self.branch, channels = _stack(channels, BRANCH, width)
        self.trunk, channels = _stack(channels * views, TRUNK, width)
        head = _round_channels(HEAD_CHANNELS * width)
        self.head = nn.Sequential(*_conv(channels, head, 1), nn.Hardswish(inplace=True))
        self.classify = nn.Sequential(nn.Dropout(dropout), nn.Linear(head, classes))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (events, classes) of images (events, views, height, width), float, 0 to 1."""
        events, views, height, width = images.shape
        # (events, views, h, w) -> (events * views, 1, h, w): every view goes through the same branch
        x = self.branch(self.stem(images.reshape(events * views, 1, height, width)))
        # (events * views, c, h', w') -> (events, views * c, h', w')
        x = self.head(self.trunk(x.reshape(events, views * x.shape[1], *x.shape[2:])))
        return self.classify(x.mean(dim=(2, 3)))


def _stack(channels: int, blocks: tuple[Block, ...], width: float) -> tuple[nn.Sequential, int]:
    layers = []
    for block in blocks:
        outputs = _round_channels(block.channels * width)
        layers.append(InvertedResidual(channels, block, outputs))
        channels = outputs
    return nn.Sequential(*layers), channels


def count_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def to_float(images: Tensor, device: torch.device) -> Tensor:
    """Grey values (uint8) on the device as floats from 0 to 1."""
    return images.to(device, non_blocking=True).float().div_(255)
