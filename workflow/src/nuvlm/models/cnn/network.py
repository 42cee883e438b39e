"""The Siamese CNN of arXiv 2509.08461: a branch with shared weights for each view, then a common trunk.

The paper gives the types of blocks and the size (3.4 M parameters), but no layer table. These layers follow MobileNetV2
(arXiv 1801.04381) and V3 (arXiv 1905.02244), which the paper refers to.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from nuvlm.base.classes import CLASSES
from nuvlm.base.errors import InputError
from nuvlm.base.files import read_json
from nuvlm.base.manifest import verify_manifest
from nuvlm.models.classifier.network import ImageClassifier, count_parameters


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
    """Round to a multiple of 8 (efficient on hardware), at least 8."""
    return max(8, int(channels + 4) // 8 * 8)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]


class SqueezeExcitation(nn.Module):
    """Channel weights from the pooled image (arXiv 1709.01507, with the hard sigmoid of MobileNetV3)."""

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
    """Expansion, depthwise convolution, channel weights, projection; with a residual connection where shapes match."""

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


class SiameseCnn(ImageClassifier):
    """Classifies all views of an event together. Accepts any image size from 32 pixels.

    Args:
        views: images per event.
        classes: number of classes.
        width: multiplies all channels.
        dropout: before the last layer.
    """

    def __init__(self, views: int = 2, classes: int = 3, width: float = 1.0, dropout: float = 0.2) -> None:
        super().__init__()
        self.views = views
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
        # (events, views, h, w) -> (events * views, 1, h, w): all views share the branch
        x = self.branch(self.stem(images.reshape(events * views, 1, height, width)))
        # (events * views, c, h', w') -> (events, views * c, h', w')
        x = self.head(self.trunk(x.reshape(events, views * x.shape[1], *x.shape[2:]))).mean(dim=(2, 3))
        if self.training:
            # With only black maps the batch variance is zero and gradients would overflow: block them.
            x = x * images.any()
        return self.classify(x)


def _stack(channels: int, blocks: tuple[Block, ...], width: float) -> tuple[nn.Sequential, int]:
    layers = []
    for block in blocks:
        outputs = _round_channels(block.channels * width)
        layers.append(InvertedResidual(channels, block, outputs))
        channels = outputs
    return nn.Sequential(*layers), channels


def read_card(model: Path) -> dict[str, Any]:
    """``training.json`` of the CNN in the folder `model`, checked to hold everything needed to use the model.

    Raises:
        InputError: a file is missing or altered, a field is missing, or the classes differ.
    """
    verify_manifest(model)
    path = model / "training.json"
    card = read_json(path)
    needed = {"views": int, "classes": list, "images": dict, "settings": dict}
    lacking = [name for name, kind in needed.items() if not isinstance(card.get(name), kind)]
    if "settings" not in lacking:
        numbers = ("width", "dropout")
        lacking += [f"settings.{name}" for name in numbers if not isinstance(card["settings"].get(name), int | float)]
    if lacking:
        raise InputError(f"{path}: no usable value of {', '.join(lacking)}. {_again(model)}")
    if card["classes"] != list(CLASSES):
        raise InputError(f"{path}: the classes are {card['classes']}, not {list(CLASSES)}. {_again(model)}")
    return card


def load_cnn(model: Path, device: torch.device) -> SiameseCnn:
    """The network of a folder that :func:`nuvlm.models.cnn.training.train_cnn` wrote, ready to classify.

    Raises:
        InputError: a file is missing or altered, the weights do not fit the network in ``training.json``, or are not
            finite.
    """
    card, path = read_card(model), model / "model.safetensors"
    settings = card["settings"]
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path}: unreadable weights ({error}). {_again(model)}") from error
    try:
        with torch.device("meta"):  # shapes only, until the weights are checked
            network = SiameseCnn(card["views"], len(CLASSES), settings["width"], settings["dropout"])
    except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"{model / 'training.json'}: not the settings of a network ({error}). {_again(model)}"
        ) from error
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    if found != expected:
        odd = next(name for name in expected | found if expected.get(name) != found.get(name))
        head = found.get("head.0.weight", (0,))[0]
        raise InputError(
            f"{path}: does not fit the network in training.json, which has width {settings['width']:g} and "
            f"{card['views']} views: the weights have width {head / HEAD_CHANNELS:g}, and {odd} is {found.get(odd)}, "
            f"not {expected.get(odd)}. {_again(model)}"
        )
    bad = [name for name, value in weights.items() if not torch.isfinite(value).all()]
    if bad:
        raise InputError(
            f"{path}: {len(bad)} of {len(weights)} weight arrays (first: {bad[0]}) are not finite. The training has "
            "diverged: train again with a lower learning rate."
        )
    network.load_state_dict(weights, assign=True)
    network = network.float().to(device)
    return network.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]


def _again(model: Path) -> str:
    return f"Remove {model} and rerun: the workflow trains the model again."


def describe(network: SiameseCnn, size: int = 512) -> str:
    """The layers of `network` as a Markdown table, with output shape (channels, height, width) and parameters.

    Args:
        size: side of the images, pixels.

    Returns:
        One row per layer in forward order, and a row with the total.
    """
    views = network.views
    shapes: dict[nn.Module, tuple[int, ...]] = {}
    named = list(_rows(network))
    handles = [
        layer.register_forward_hook(lambda layer, _, output: shapes.update({layer: tuple(output.shape[1:])}))
        for _, layer, _ in named
    ]
    training = network.training
    with torch.inference_mode():
        network.eval()(torch.zeros(1, views, size, size))
    network.train(training)
    for handle in handles:
        handle.remove()
    lines = ["| layer | block | output | parameters |", "|---|---|---|---|"]
    lines.append(f"| images | {views} views, each through the branch | 1 x {size} x {size} | |")
    for name, layer, what in named:
        if name == "trunk 1":
            channels, *sides = shapes[network.branch[-1]]
            lines.append(f"| concatenation | of {views} views | {_by(channels * views, *sides)} | |")
        if name == "classes":
            lines.append(f"| pooling | mean of all pixels, dropout | {_by(shapes[network.head][0])} | |")
        lines.append(f"| {name} | {what} | {_by(*shapes[layer])} | {count_parameters(layer):,} |")
    lines.append(f"| total | | | {count_parameters(network):,} |")
    return "\n".join(lines) + "\n"


def _rows(network: SiameseCnn) -> Iterator[tuple[str, nn.Module, str]]:
    """Name, layer and description."""
    yield "stem", network.stem, "convolution 3 x 3, stride 2, ReLU6"
    for part, blocks, layers in (("branch", BRANCH, network.branch), ("trunk", TRUNK, network.trunk)):
        for i, (block, layer) in enumerate(zip(blocks, layers, strict=True), 1):
            words = [f"inverted residual {block.kernel} x {block.kernel}", f"expansion {block.expansion:g}"]
            words += [f"stride {block.stride}"] * (block.stride > 1) + ["squeeze-and-excitation"] * block.squeeze
            words += ["hard-swish" if block.hard_swish else "ReLU6"]
            yield f"{part} {i}", layer, ", ".join(words)
    yield "head", network.head, "convolution 1 x 1, hard-swish"
    yield "classes", network.classify, "linear"


def _by(*lengths: int) -> str:
    return " x ".join(map(str, lengths))


def main() -> None:
    """Print the table of layers: ``python -m nuvlm.models.cnn.network``."""
    parser = argparse.ArgumentParser(description="The layers of the Siamese CNN, their output shapes and parameters.")
    parser.add_argument("--width", type=float, default=1.0, help="multiplier of all channels (cnn.width)")
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--size", type=int, default=512, help="side of the pixel maps")
    arguments = parser.parse_args()
    print(describe(SiameseCnn(views=arguments.views, width=arguments.width), arguments.size), end="")


if __name__ == "__main__":
    main()
