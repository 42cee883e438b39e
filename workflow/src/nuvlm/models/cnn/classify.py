"""Classification with a trained CNN, in torch or in ONNX Runtime."""

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch

from nuvlm.dataset.pixelmaps import check_images
from nuvlm.models.classifier.classification import Loaded, Network, classify_images
from nuvlm.models.classifier.network import logits_of
from nuvlm.models.cnn.network import load_cnn, read_card
from nuvlm.models.cnn.runtime import load_exported
from nuvlm.models.devices import choose_device, device_name, energy_meter, peak_memory_mb
from nuvlm.models.jobs import ClassificationJob


def run(job: ClassificationJob) -> None:
    """:func:`classify_cnn`, as a rule asks for it."""
    export = job.inputs.get("export")
    classify_cnn(
        job.folder,
        job.events,
        job.stores,
        job.outputs,
        part=job.part,
        batch_size=job.settings["batch_size"],
        threads=job.threads,
        export=export.parent if export else None,
    )


def classify_cnn(
    model: Path,
    events: Path,
    stores: Mapping[str, Path],
    outputs: Mapping[str, Path],
    *,
    part: int,
    batch_size: int,
    threads: int,
    export: Path | None = None,
) -> None:
    """Write the CNN's predictions for one part of the event table, under each condition of `outputs`.

    Args:
        model: folder of :func:`nuvlm.models.cnn.training.train_cnn`.
        outputs: condition -> prediction table.
        export: folder of :func:`nuvlm.models.cnn.export.export_cnn`, to classify with ONNX Runtime on CPU cores;
            without one, with torch.

    Raises:
        InputError: damaged files, or pixel maps made with other settings than those the CNN was trained on.
    """
    settings = check_images(stores, model / "training.json")
    start = time.perf_counter()
    network, device = _load_torch(model, threads) if export is None else _load_exported(model, export, threads)
    seconds = time.perf_counter() - start
    meter = partial(energy_meter, choose_device() if export is None else torch.device("cpu"))
    loaded = Loaded(network, device, seconds, meter, peak_memory_mb)
    classify_images(loaded, events, stores, outputs, part=part, settings=settings, batch_size=batch_size)


def _load_torch(model: Path, threads: int) -> tuple[Network, str]:
    """The network in torch, on a GPU if there is one, and the name of the device."""
    torch.set_num_threads(threads)
    device = choose_device()
    network = load_cnn(model, device)
    return logits_of(network, device), device_name(device)


def _load_exported(model: Path, export: Path, threads: int) -> tuple[Network, str]:
    """The same in ONNX Runtime."""
    read_card(model)
    return load_exported(export, model / "model.safetensors", threads), "CPU (ONNX Runtime)"
