"""The networks by name: building, loading and describing them."""

import argparse
from collections.abc import Callable, Iterator, Mapping
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
from nuvlm.models.classifier.network import check_finite, count_parameters
from nuvlm.models.cnn.mobilenet import mobilenet
from nuvlm.models.cnn.published import published
from nuvlm.models.cnn.settings import NetworkName
from nuvlm.models.cnn.siamese import SiameseCnn

NETWORKS: dict[NetworkName, Callable[..., SiameseCnn]] = {"published": published, "mobilenet": mobilenet}
"""Name in a recipe -> function that builds the network, with the arguments of :func:`published`."""
BEFORE_NAMES: NetworkName = "mobilenet"
"""The only network of versions whose ``training.json`` names none."""


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
    if card.setdefault("network", BEFORE_NAMES) not in list(NETWORKS):
        raise InputError(
            f"{path}: the network is {card['network']!r}; known are {', '.join(NETWORKS)}. {_again(model)}"
        )
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
        network = _shapes(card["network"], card)  # until the weights are checked
    except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"{model / 'training.json'}: not the settings of a network ({error}). {_again(model)}"
        ) from error
    problem = _misfit(weights, network, card)
    if problem:
        raise InputError(
            f"{path}: does not fit the network in training.json, which is {card['network']!r} and has width "
            f"{settings['width']:g} and {card['views']} views: {problem}. {_again(model)}"
        )
    check_finite(weights, path)
    network.load_state_dict(weights, assign=True)
    network = network.float().to(device)
    return network.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]


def _shapes(name: NetworkName, card: Mapping[str, Any]) -> SiameseCnn:
    """A network without weights, with the sizes that a card gives."""
    settings = card["settings"]
    with torch.device("meta"):
        return NETWORKS[name](card["views"], len(CLASSES), settings["width"], settings["dropout"])


def _misfit(weights: Mapping[str, Tensor], network: SiameseCnn, card: Mapping[str, Any]) -> str | None:
    """What the weights are instead of those of `network`, if they are not."""
    expected, found = network.state_dict(), {name: tuple(value.shape) for name, value in weights.items()}
    odd = [name for name in {**expected, **found} if name not in expected or found.get(name) != expected[name].shape]
    if not odd:
        return None
    for name in NETWORKS:
        if name != card["network"] and found.keys() == _shapes(name, card).state_dict().keys():
            return f"the weights are those of {name!r}"
    last = list(expected)[-2]  # weight of the last layer (classes, channels)
    width = card["settings"]["width"] * found[last][-1] / expected[last].shape[-1] if last in found else 0
    shape = tuple(expected[odd[0]].shape) if odd[0] in expected else None
    return f"the weights have width {width:.3g}, and {odd[0]} is {found.get(odd[0])}, not {shape}"


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
        for layer in [network.head, *(layer for _, layer in named)]
    ]
    training = network.training
    with torch.inference_mode():
        network.eval()(torch.zeros(1, views, size, size))
    network.train(training)
    for handle in handles:
        handle.remove()
    lines = ["| layer | block | output | parameters |", "|---|---|---|---|"]
    lines.append(f"| images | {views} views, each through the branch | 1 x {size} x {size} | |")
    for name, layer in named:
        if name == "trunk 1":
            channels, *sides = shapes[network.branch[-1]]
            lines.append(f"| concatenation | of {views} views | {_by(channels * views, *sides)} | |")
        if name == "classes":
            lines.append(f"| pooling | mean of all pixels | {_by(shapes[network.head][0])} | |")
        lines.append(f"| {name} | {layer.words} | {_by(*shapes[layer])} | {count_parameters(layer):,} |")
    lines.append(f"| total | | | {count_parameters(network):,} |")
    return "\n".join(lines) + "\n"


def _rows(network: SiameseCnn) -> Iterator[tuple[str, nn.Module]]:
    """Name and layer, in forward order."""
    yield "stem", network.stem
    for part, layers in (("branch", network.branch), ("trunk", network.trunk)):
        yield from ((f"{part} {i}", layer) for i, layer in enumerate(layers, 1))
    if len(list(network.head.children())):
        yield "head", network.head
    yield "classes", network.classify


def _by(*lengths: int) -> str:
    return " x ".join(map(str, lengths))


def main() -> None:
    """Print the table of layers: ``python -m nuvlm.models.cnn.network``."""
    parser = argparse.ArgumentParser(description="The layers of the Siamese CNN, their output shapes and parameters.")
    parser.add_argument("network", choices=list(NETWORKS), nargs="?", default="published")
    parser.add_argument("--width", type=float, default=1.0, help="multiplier of all channels (cnn.width)")
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--size", type=int, default=512, help="side of the pixel maps")
    arguments = parser.parse_args()
    network = NETWORKS[arguments.network](views=arguments.views, width=arguments.width)
    print(describe(network, arguments.size), end="")


if __name__ == "__main__":
    main()
