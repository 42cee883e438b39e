"""Export of the trained CNN to ONNX, for inference without torch."""

import copy
import json
import logging
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from nuvlm.base.files import atomic_path, sha256
from nuvlm.base.manifest import write_manifest
from nuvlm.models.classifier.network import to_float
from nuvlm.models.cnn.network import load_cnn, read_card
from nuvlm.models.cnn.runtime import INPUT, MODEL, OUTPUT, WEIGHTS_DIGEST, open_session
from nuvlm.models.cnn.siamese import SiameseCnn

logger = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""Largest allowed difference between logits of onnxruntime and torch."""


class _FromGreyValues(nn.Module):
    """The network with uint8 pixel maps as input, as they are stored."""

    def __init__(self, network: SiameseCnn) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(to_float(images, images.device))


def export_cnn(model: Path, out: Path) -> None:
    """Write the network of the folder `model` (:func:`nuvlm.models.cnn.training.train_cnn`) to the folder `out`.

    `out` holds ``model.onnx`` and a manifest: input `images`, uint8 (events, views, height, width), output `logits`,
    float32 (events, classes), for any number of events and any size. Its metadata hold the classes and the settings of
    the pixel maps. Its logits are compared with torch's before it is written.

    Raises:
        InputError: the model is missing or altered.
        RuntimeError: logits of onnxruntime and torch differ by more than :data:`TOLERANCE`.
    """
    network = load_cnn(model, torch.device("cpu"))
    card = read_card(model)
    metadata = {
        "classes": json.dumps(card["classes"]),
        "images": json.dumps(card["images"]),
        WEIGHTS_DIGEST: sha256(model / "model.safetensors"),
    }
    with atomic_path(out) as partial:
        partial.mkdir()
        write_onnx(network, partial / MODEL, card["views"], metadata)
        difference = largest_difference(network, partial / MODEL, card["views"], card["images"]["size"])
        logger.info("logits of onnxruntime and torch differ by at most %.2g", difference)
        if not difference <= TOLERANCE:
            raise RuntimeError(f"logits of onnxruntime and torch differ by {difference:.2g}, more than {TOLERANCE}")
        write_manifest(partial)


def write_onnx(network: SiameseCnn, path: Path, views: int, metadata: dict[str, str]) -> None:
    """Write `network`, with uint8 images as input, as an ONNX file with `metadata`."""
    network = copy.deepcopy(network).eval()
    for module in network.modules():
        if hasattr(module, "inplace"):
            # The exporter, which rewrites each operation in place, takes half of the time without.
            module.inplace = False  # type: ignore[assignment]
    # Two events: the exporter would specialise on a batch of one.
    example = torch.zeros(2, views, 64, 96, dtype=torch.uint8)
    any_size = torch.export.Dim.DYNAMIC
    program = torch.onnx.export(
        _FromGreyValues(network),
        (example,),
        dynamo=True,
        dynamic_shapes=({0: any_size, 2: any_size, 3: any_size},),
        input_names=[INPUT],
        output_names=[OUTPUT],
        verbose=False,
    )
    assert program is not None
    proto = program.model_proto
    # The exporter stores paths of this machine.
    for node in proto.graph.node:
        del node.metadata_props[:]
    onnx.helper.set_model_props(proto, metadata)
    onnx.checker.check_model(proto)
    onnx.save_model(proto, path)


def largest_difference(network: SiameseCnn, path: Path, views: int, size: int) -> float:
    """Largest difference between the logits of an ONNX file and of `network`.

    Measured on random images of full and half `size`, in batches of one and three, dense and nearly empty.
    """
    session = open_session(path, threads=torch.get_num_threads())
    random = torch.Generator().manual_seed(1)
    largest = 0.0
    for events, side in ((1, size), (3, -(-size // 2))):
        for lit in (1.0, 0.02):
            shape = (events, views, side, side)
            images = torch.randint(0, 256, shape, generator=random, dtype=torch.uint8)
            images *= torch.rand(shape, generator=random) < lit
            with torch.inference_mode():
                expected = network(to_float(images, torch.device("cpu")))
            found = torch.from_numpy(session(images.numpy()))
            largest = max(largest, float((found - expected).abs().max()))
    return largest
