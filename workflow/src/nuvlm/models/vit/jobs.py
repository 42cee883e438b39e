"""The jobs of the vision tower: from what a rule gives to the functions that do the work.

Imported before anything of Hugging Face, so that its libraries ask no server (:mod:`nuvlm.models.vlm.jobs`).
"""

import time
from functools import partial

import nuvlm.models.vlm.jobs  # noqa: F401
from nuvlm.models.jobs import ClassificationJob, ExplanationJob, TrainingJob
from nuvlm.models.vit.settings import VitTrainSettings


def train(job: TrainingJob) -> None:
    """Train the tower's adapters and the head (:func:`nuvlm.models.vit.training.train_vit`)."""
    from nuvlm.models.vit.training import Job, train_vit

    train_vit(
        Job(
            base=job.inputs["base"].parent,
            events=job.events,
            stores=dict(job.stores),
            out=job.out,
            checkpoint=job.checkpoints.with_suffix(".pt"),
            tensorboard=job.tensorboard,
            settings=VitTrainSettings.model_validate(job.settings),
            threads=job.threads,
            log=job.log,
        )
    )


def classify(job: ClassificationJob) -> None:
    """Classify one part under all conditions asked for."""
    import torch

    from nuvlm.dataset.pixelmaps import check_images
    from nuvlm.models.classifier.classification import classify_images
    from nuvlm.models.classifier.network import logits_of
    from nuvlm.models.devices import choose_device, device_name, energy_meter, peak_memory_mb
    from nuvlm.models.vit.network import load_vit

    torch.set_num_threads(job.threads)
    settings = check_images(job.stores, job.folder / "training.json")
    device, start = choose_device(), time.perf_counter()
    network = load_vit(job.folder, job.inputs["base"].parent, device)

    classify_images(
        logits_of(network, device),
        job.events,
        job.stores,
        job.outputs,
        part=job.part,
        settings=settings,
        batch_size=job.settings["batch_size"],
        device=device_name(device),
        load_seconds=time.perf_counter() - start,
        meter=partial(energy_meter, device),
        peak_memory_mb=peak_memory_mb,
    )


def explain(job: ExplanationJob) -> None:
    """Explain chosen events of one part by occlusion (:mod:`nuvlm.models.vit.saliency`)."""
    import torch

    from nuvlm.dataset.pixelmaps import check_images
    from nuvlm.models.classifier.saliency import explain_classifier
    from nuvlm.models.devices import choose_device
    from nuvlm.models.vit.network import load_vit
    from nuvlm.models.vit.saliency import cell_pixels, occlusion

    torch.set_num_threads(job.threads)
    images = check_images(job.stores, job.folder / "training.json")
    device = choose_device()
    network = load_vit(job.folder, job.inputs["base"].parent, device)
    explain_classifier(job, network, partial(occlusion, network), images, cell_pixels(images["size"]), device)
