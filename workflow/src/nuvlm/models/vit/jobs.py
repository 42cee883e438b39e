"""The jobs of the vision tower; see :mod:`nuvlm.models.head.jobs`."""

from functools import partial

from nuvlm.models.head.jobs import classify_with, explain_with, of_training
from nuvlm.models.jobs import ClassificationJob, ExplanationJob, TrainingJob
from nuvlm.models.vit.settings import VitTrainSettings


def train(job: TrainingJob) -> None:
    """Train the tower's adapters and the head (:func:`nuvlm.models.vit.training.train_vit`)."""
    from nuvlm.models.vit.training import Job, train_vit

    train_vit(Job(settings=VitTrainSettings.model_validate(job.settings), **of_training(job)))


def classify(job: ClassificationJob) -> None:
    """Classify one part under all conditions asked for."""
    from nuvlm.models.vit.network import load_vit

    classify_with(partial(load_vit, job.folder, job.inputs["base"].parent), job)


def explain(job: ExplanationJob) -> None:
    """Explain chosen events of one part by occlusion (:mod:`nuvlm.models.head.saliency`)."""
    from nuvlm.models.vit.network import load_vit

    explain_with(partial(load_vit, job.folder, job.inputs["base"].parent), job)
