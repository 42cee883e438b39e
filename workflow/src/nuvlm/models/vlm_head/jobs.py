"""The jobs of the language model with a head; see :mod:`nuvlm.models.head.jobs`."""

from functools import partial
from typing import Any

from nuvlm.models.head.jobs import classify_with, explain_with, of_training
from nuvlm.models.jobs import ClassificationJob, ExplanationJob, TrainingJob
from nuvlm.models.vlm_head.settings import VlmHeadTrainSettings


def train(job: TrainingJob) -> None:
    """Train the adapters and the head (:func:`nuvlm.models.vlm_head.training.train_vlm_head`)."""
    from nuvlm.models.vlm_head.training import Job, train_vlm_head

    settings = VlmHeadTrainSettings.model_validate(job.settings)
    train_vlm_head(Job(prompts=job.inputs["prompts"], settings=settings, **of_training(job)))


def classify(job: ClassificationJob) -> None:
    """Classify one part under all conditions asked for."""
    classify_with(_loader(job), job)


def explain(job: ExplanationJob) -> None:
    """Explain chosen events of one part by occlusion (:mod:`nuvlm.models.head.saliency`)."""
    explain_with(_loader(job), job)


def _loader(job: ClassificationJob | ExplanationJob) -> Any:
    from nuvlm.models.vlm_head.network import load_vlm_head

    return partial(load_vlm_head, job.folder, job.inputs["base"].parent, job.inputs["prompts"])
