"""The jobs of a head on a part of the base model: from what a rule gives to the functions that do the work.

Imported before anything of Hugging Face, so that its libraries ask no server (:mod:`nuvlm.models.vlm.jobs`).
"""

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import nuvlm.models.vlm.jobs  # noqa: F401
from nuvlm.models.jobs import ClassificationJob, ExplanationJob, TrainingJob

if TYPE_CHECKING:
    import torch

    from nuvlm.models.classifier.network import ImageClassifier

    Load = Callable[[torch.device], ImageClassifier]
    """Loads the trained network on a device."""


def of_training(job: TrainingJob) -> dict[str, Any]:
    """What :class:`nuvlm.models.head.training.HeadJob` takes from a job, without the settings."""
    return {
        "base": job.inputs["base"].parent,
        "events": job.events,
        "stores": dict(job.stores),
        "out": job.out,
        "checkpoint": job.checkpoint,
        "tensorboard": job.tensorboard,
        "threads": job.threads,
        "zoom": job.zoom,
        "log": job.log,
    }


def classify_with(load: "Load", job: ClassificationJob) -> None:
    """Classify one part with the network that `load` returns."""
    import torch

    from nuvlm.dataset.pixelmaps import check_images
    from nuvlm.models.classifier.classification import Loaded, classify_images
    from nuvlm.models.classifier.network import logits_of
    from nuvlm.models.devices import choose_device, device_name, energy_meter, peak_memory_mb

    torch.set_num_threads(job.threads)
    settings = check_images(job.stores, job.folder / "training.json", job.zoom)
    device, start = choose_device(), time.perf_counter()
    network = logits_of(load(device), device)
    seconds = time.perf_counter() - start
    loaded = Loaded(network, device_name(device), seconds, partial(energy_meter, device), peak_memory_mb)
    size = job.settings["batch_size"]
    classify_images(loaded, job.events, job.stores, job.outputs, part=job.part, settings=settings, batch_size=size)


def explain_with(load: "Load", job: ExplanationJob) -> None:
    """Explain chosen events of one part with the network that `load` returns."""
    import torch

    from nuvlm.dataset.pixelmaps import check_images
    from nuvlm.models.classifier.saliency import explain_classifier
    from nuvlm.models.devices import choose_device
    from nuvlm.models.head.cells import cell_pixels
    from nuvlm.models.head.saliency import AT_ONCE, occlusion

    torch.set_num_threads(job.threads)
    images = check_images(job.stores, job.folder / "training.json", job.zoom)
    device = choose_device()
    network = load(device)
    look = partial(occlusion, network, at_once=job.settings.get("batch_size", AT_ONCE))
    explain_classifier(job, network, look, images, cell_pixels(images["size"]), device)
