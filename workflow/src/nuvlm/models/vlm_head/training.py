"""Training the language model with a head.

Several processes are ``python -m nuvlm.models.vlm_head.training job.json``.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nuvlm.base.files import sha256
from nuvlm.models.classifier.processes import local_device
from nuvlm.models.classifier.training import train_classifier
from nuvlm.models.head.training import HeadJob, train_head
from nuvlm.models.torchrun import run_process
from nuvlm.models.vlm_head.network import PromptedClassifier
from nuvlm.models.vlm_head.settings import VlmHeadTrainSettings


class Job(HeadJob):
    """A training of the language model with a head."""

    prompts: Path
    settings: VlmHeadTrainSettings


def train_vlm_head(job: Job) -> None:
    """Train, see :func:`nuvlm.models.classifier.training.train_classifier`; only what is trained is written.

    Raises:
        InputError: also for what :class:`nuvlm.models.vlm_head.network.PromptedClassifier` refuses.
    """
    train_classifier(job, "nuvlm.models.vlm_head.training", _train)


def _train(job: Job) -> None:
    """The training in each process."""

    def make(images: Mapping[str, Any]) -> PromptedClassifier:
        return PromptedClassifier(job.base, images, job.settings, local_device(), prompts=job.prompts)

    train_head(job, make, prompts=sha256(job.prompts))


if __name__ == "__main__":
    run_process(Job, _train, sys.argv[1:])
