"""Training the vision tower and its head; several processes are ``python -m nuvlm.models.vit.training job.json``."""

import sys
from collections.abc import Mapping
from typing import Any

from nuvlm.models.classifier.processes import local_device
from nuvlm.models.classifier.training import train_classifier
from nuvlm.models.head.training import HeadJob, train_head
from nuvlm.models.torchrun import run_process
from nuvlm.models.vit.network import VisionClassifier
from nuvlm.models.vit.settings import VitTrainSettings


class Job(HeadJob):
    """A training of the vision tower."""

    settings: VitTrainSettings


def train_vit(job: Job) -> None:
    """Train, see :func:`nuvlm.models.classifier.training.train_classifier`; only what is trained is written.

    Raises:
        InputError: also if the base model is damaged, or has no layer that the adapters name.
    """
    train_classifier(job, "nuvlm.models.vit.training", _train)


def _train(job: Job) -> None:
    def make(images: Mapping[str, Any]) -> VisionClassifier:
        return VisionClassifier(job.base, images, job.settings, local_device())

    train_head(job, make)


if __name__ == "__main__":
    run_process(Job, _train, sys.argv[1:])
