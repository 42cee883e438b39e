"""Training the vision tower and its head; several processes are ``python -m nuvlm.models.vit.training job.json``."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nuvlm.base.files import sha256
from nuvlm.base.manifest import MANIFEST
from nuvlm.models.classifier.processes import local_device
from nuvlm.models.classifier.training import ClassifierJob, smallest_share, train_classifier, train_in_process
from nuvlm.models.torchrun import run_process
from nuvlm.models.vit.network import VisionClassifier
from nuvlm.models.vit.settings import VitTrainSettings


class Job(ClassifierJob):
    """A training of the vision tower."""

    base: Path
    settings: VitTrainSettings


def train_vit(job: Job) -> None:
    """Train, see :func:`nuvlm.models.classifier.training.train_classifier`; only what is trained is written.

    Raises:
        InputError: also if the base model is damaged, or has no layer that the adapters name.
    """
    train_classifier(job, "nuvlm.models.vit.training", _train)


def _train(job: Job) -> None:
    """The training in each process."""

    def make(views: int) -> VisionClassifier:
        return VisionClassifier(job.base, views, job.settings, local_device())

    def check(events: int, images: Mapping[str, Any]) -> None:
        smallest_share(events, job.settings)

    train_in_process(job, make, check, base=sha256(job.base / MANIFEST))


if __name__ == "__main__":
    run_process(Job, _train, sys.argv[1:])
