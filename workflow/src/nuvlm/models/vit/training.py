"""Training the vision tower and its head; several processes are ``python -m nuvlm.models.vit.training job.json``."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nuvlm.base.files import sha256
from nuvlm.base.manifest import MANIFEST
from nuvlm.models.classifier.network import ImageClassifier
from nuvlm.models.classifier.processes import local_device
from nuvlm.models.classifier.training import ClassifierJob, smallest_share, train_classifier, train_in_process
from nuvlm.models.torchrun import run_process
from nuvlm.models.vit.network import VisionClassifier
from nuvlm.models.vit.settings import VitTrainSettings


class HeadJob(ClassifierJob):
    """A training of a head on a part of the base model."""

    base: Path
    zoom: int = 1


class Job(HeadJob):
    """A training of the vision tower."""

    settings: VitTrainSettings


def train_vit(job: Job) -> None:
    """Train, see :func:`nuvlm.models.classifier.training.train_classifier`; only what is trained is written.

    Raises:
        InputError: also if the base model is damaged, or has no layer that the adapters name.
    """
    train_classifier(job, "nuvlm.models.vit.training", _train)


def train_head(job: HeadJob, make: Callable[[Mapping[str, Any]], ImageClassifier], **identity: str) -> None:
    """The training in each process.

    Args:
        make, identity: as for :func:`nuvlm.models.classifier.training.train_in_process`.
    """

    def check(events: int, images: Mapping[str, Any]) -> None:
        smallest_share(events, job.settings)

    train_in_process(job, make, check, base=sha256(job.base / MANIFEST), zoom=job.zoom, **identity)


def _train(job: Job) -> None:
    def make(images: Mapping[str, Any]) -> VisionClassifier:
        return VisionClassifier(job.base, images, job.settings, local_device())

    train_head(job, make)


if __name__ == "__main__":
    run_process(Job, _train, sys.argv[1:])
