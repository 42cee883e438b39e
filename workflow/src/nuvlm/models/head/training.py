"""Training a head on a part of the base model."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nuvlm.base.files import sha256
from nuvlm.base.manifest import MANIFEST
from nuvlm.models.classifier.network import ImageClassifier
from nuvlm.models.classifier.training import ClassifierJob, smallest_share, train_in_process


class HeadJob(ClassifierJob):
    """A training of a head on a part of the base model."""

    base: Path
    zoom: int = 1


def train_head(job: HeadJob, make: Callable[[Mapping[str, Any]], ImageClassifier], **identity: str) -> None:
    """The training in each process.

    Args:
        make, identity: as for :func:`nuvlm.models.classifier.training.train_in_process`.
    """

    def check(events: int, images: Mapping[str, Any]) -> None:
        smallest_share(events, job.settings)

    train_in_process(job, make, check, base=sha256(job.base / MANIFEST), zoom=job.zoom, **identity)
