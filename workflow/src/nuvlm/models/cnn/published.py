"""The CNN of arXiv 2509.08461, layer for layer, as in the authors' public code: 3,389,483 parameters at width 1.

Its block is the inverted residual of MobileNetV2 (arXiv 1801.04381), modified: the expansion is a 3 x 3 convolution,
squeeze-and-excitation (arXiv 1709.01507) comes after the projection, and every block has a shortcut. Pools halve the
image; no block has a stride.
"""

from typing import NamedTuple

from torch import Tensor, nn

from nuvlm.models.cnn.siamese import Layers, SiameseCnn, conv, round_channels

STEM_CHANNELS = 32
BRANCH_CHANNELS = 12
HEAD_CHANNELS = 256
SQUEEZE = 16
"""Ratio of the channels of a block to the inner ones of its squeeze-and-excitation."""
WHITE = 255.0
"""Grey values are not normalised."""


class Group(NamedTuple):
    """Blocks of the trunk with the same output channels."""

    channels: int
    blocks: int
    squeeze: bool
    """Squeeze-and-excitation, and hard-swish instead of ReLU6."""
    pool: bool
    """An average pool before the first block."""


TRUNK = (
    Group(32, 3, squeeze=False, pool=True),
    Group(48, 4, squeeze=False, pool=True),
    Group(64, 3, squeeze=True, pool=False),
    Group(96, 3, squeeze=True, pool=True),
    Group(160, 1, squeeze=True, pool=False),
)
EXPANSION = 6
"""Of the blocks in the trunk."""


class SqueezeExcitation(nn.Module):
    """Channel weights from the pooled image (arXiv 1709.01507)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // SQUEEZE)
        self.weigh = nn.Sequential(
            nn.Linear(channels, inner), nn.ReLU(inplace=True), nn.Linear(inner, channels), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weigh(x.mean(dim=(2, 3)))[..., None, None]


class ModifiedInvertedResidual(nn.Module):
    """Expansion, depthwise convolution, projection, channel weights; added to the input or its projection."""

    def __init__(self, inputs: int, outputs: int, expansion: int, squeeze: bool) -> None:
        super().__init__()
        inner = expansion * inputs
        activation = nn.Hardswish if squeeze else nn.ReLU6
        layers = [*conv(inputs, inner, 3), nn.ReLU6(inplace=True)]
        layers += [*conv(inner, inner, 3, groups=inner), activation(inplace=True)]
        layers += conv(inner, outputs, 1)
        if squeeze:
            layers.append(SqueezeExcitation(outputs))
        self.layers = nn.Sequential(*layers)
        self.shortcut = nn.Sequential() if inputs == outputs else nn.Sequential(*conv(inputs, outputs, 1))
        words = ["modified inverted residual 3 x 3", f"expansion {expansion}"]
        self.words = ", ".join([*words, "squeeze-and-excitation, hard-swish" if squeeze else "ReLU6"])

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.layers(x)


def published(views: int = 2, classes: int = 3, width: float = 1.0, dropout: float = 0.3) -> SiameseCnn:
    """Build the network; it accepts any image size from 4 pixels.

    Args:
        views: images per event.
        classes: number of classes.
        width: multiplies all channels, rounded to multiples of 4.
        dropout: before the last layer.
    """

    def scaled(channels: int) -> int:
        return round_channels(channels * width, 4)

    stem, channels, head = scaled(STEM_CHANNELS), scaled(BRANCH_CHANNELS), scaled(HEAD_CHANNELS)
    branch = nn.Sequential(
        ModifiedInvertedResidual(stem, channels, 2, squeeze=False),
        Layers("average pool 2", nn.AvgPool2d(2)),
    )
    trunk: list[nn.Module] = []
    channels *= views
    for group in TRUNK:
        if group.pool:
            trunk.append(Layers("average pool 2, padding 1", nn.AvgPool2d(2, padding=1)))
        for _ in range(group.blocks):
            trunk.append(ModifiedInvertedResidual(channels, scaled(group.channels), EXPANSION, group.squeeze))
            channels = scaled(group.channels)
    return SiameseCnn(
        views,
        Layers("convolution 5 x 5, stride 2, ReLU6", *conv(1, stem, 5, 2), nn.ReLU6(inplace=True)),
        branch,
        nn.Sequential(*trunk),
        nn.Sequential(),
        Layers(
            "linear, ReLU6, dropout, linear",
            nn.Linear(channels, head), nn.ReLU6(inplace=True), nn.Dropout(dropout), nn.Linear(head, classes),
        ),
        name="published",
        white=WHITE,
    )  # fmt: skip
