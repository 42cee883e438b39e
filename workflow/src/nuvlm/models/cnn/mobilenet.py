"""A CNN of the published size and kind, with blocks as in MobileNetV2 (arXiv 1801.04381) and V3 (arXiv 1905.02244)."""

from dataclasses import dataclass

from torch import Tensor, nn

from nuvlm.models.cnn.siamese import Layers, SiameseCnn, conv, round_channels


@dataclass(frozen=True)
class Block:
    """One inverted residual block.

    Attributes:
        kernel: size of the depthwise kernel.
        expansion: ratio of inner to input channels.
        channels: output channels at width 1.
        squeeze: squeeze-and-excitation after the depthwise convolution.
        hard_swish: hard-swish activation instead of ReLU6.
        stride: of the depthwise convolution.
    """

    kernel: int
    expansion: float
    channels: int
    squeeze: bool
    hard_swish: bool
    stride: int

    @property
    def words(self) -> str:
        words = [f"inverted residual {self.kernel} x {self.kernel}", f"expansion {self.expansion:g}"]
        words += [f"stride {self.stride}"] * (self.stride > 1) + ["squeeze-and-excitation"] * self.squeeze
        return ", ".join([*words, "hard-swish" if self.hard_swish else "ReLU6"])


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


class SqueezeExcitation(nn.Module):
    """Channel weights from the pooled image (arXiv 1709.01507, with the hard sigmoid of MobileNetV3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = round_channels(channels / 4, 8)
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
    """Expansion, depthwise convolution, channel weights, projection; with a residual connection where shapes match."""

    def __init__(self, inputs: int, block: Block, outputs: int) -> None:
        super().__init__()
        inner = round_channels(inputs * block.expansion, 8)
        activation = nn.Hardswish if block.hard_swish else nn.ReLU6
        layers: list[nn.Module] = []
        if inner != inputs:
            layers += [*conv(inputs, inner, 1), activation(inplace=True)]
        layers += [*conv(inner, inner, block.kernel, block.stride, groups=inner), activation(inplace=True)]
        if block.squeeze:
            layers.append(SqueezeExcitation(inner))
        layers += conv(inner, outputs, 1)
        self.layers = nn.Sequential(*layers)
        self.residual = block.stride == 1 and inputs == outputs
        self.words = block.words

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


def mobilenet(views: int = 2, classes: int = 3, width: float = 1.0, dropout: float = 0.3) -> SiameseCnn:
    """Build the network; it accepts any image size from 16 pixels.

    Args:
        views: images per event.
        classes: number of classes.
        width: multiplies all channels, rounded to multiples of 8.
        dropout: before the last layer.
    """
    stem, head = (round_channels(channels * width, 8) for channels in (STEM_CHANNELS, HEAD_CHANNELS))
    branch, channels = _stack(stem, BRANCH, width)
    trunk, channels = _stack(channels * views, TRUNK, width)
    return SiameseCnn(
        views,
        Layers("convolution 3 x 3, stride 2, ReLU6", *conv(1, stem, 3, 2), nn.ReLU6(inplace=True)),
        branch,
        trunk,
        Layers("convolution 1 x 1, hard-swish", *conv(channels, head, 1), nn.Hardswish(inplace=True)),
        Layers("dropout, linear", nn.Dropout(dropout), nn.Linear(head, classes)),
        name="mobilenet",
    )


def _stack(channels: int, blocks: tuple[Block, ...], width: float) -> tuple[nn.Sequential, int]:
    layers = []
    for block in blocks:
        outputs = round_channels(block.channels * width, 8)
        layers.append(InvertedResidual(channels, block, outputs))
        channels = outputs
    return nn.Sequential(*layers), channels
