"""Training the Siamese CNN with a recipe.

:func:`train_cnn` runs in this process, or starts ``python -m nuvlm.models.cnn.training job.json`` in several with
torchrun.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nuvlm.base.errors import InputError
from nuvlm.models.classifier.recipes import steps_per_epoch
from nuvlm.models.classifier.training import ClassifierJob, smallest_share, train_classifier, train_in_process
from nuvlm.models.cnn.network import NETWORKS
from nuvlm.models.cnn.settings import Recipe, TrainSettings
from nuvlm.models.cnn.siamese import SiameseCnn
from nuvlm.models.jobs import TrainingJob
from nuvlm.models.torchrun import run_process


class Job(ClassifierJob):
    """The arguments of :func:`train_cnn`."""

    settings: TrainSettings


def run(job: TrainingJob) -> None:
    """:func:`train_cnn`, as a rule asks for it."""
    train_cnn(
        job.events,
        job.stores,
        job.out,
        job.checkpoint,
        job.tensorboard,
        settings=TrainSettings.model_validate(job.settings),
        threads=job.threads,
        log=job.log,
    )


def train_cnn(
    events: Path,
    stores: Mapping[str, Path],
    out: Path,
    checkpoint: Path,
    tensorboard: Path,
    *,
    settings: TrainSettings,
    threads: int,
    log: Path | None = None,
) -> None:
    """Train a CNN, see :func:`nuvlm.models.classifier.training.train_classifier`.

    Args:
        threads: total of all processes.
        log: log file of the processes started by torchrun.
    """
    job = Job(
        events=events, stores=dict(stores), out=out, checkpoint=checkpoint, tensorboard=tensorboard,
        settings=settings, threads=threads, log=log,
    )  # fmt: skip
    train_classifier(job, "nuvlm.models.cnn.training", _train)


def _train(job: Job) -> None:
    """The training in each process."""
    settings = job.settings

    def check(events: int, images: Mapping[str, Any]) -> None:
        check_shares(events, settings, len(images["views"]), images["size"])

    def make(images: Mapping[str, Any]) -> SiameseCnn:
        return NETWORKS[settings.recipe.network](len(images["views"]), width=settings.width, dropout=settings.dropout)

    train_in_process(job, make, check)


def check_shares(events: int, settings: TrainSettings, views: int, size: int) -> None:
    """Check that every process gets an event of every batch, and that batch normalisation has two values to compare.

    Args:
        events: of the training split.
        views, size: of an event's pixel maps.

    Raises:
        InputError: the smallest batch of an epoch is smaller than the number of processes, or a process gets a single
            event whose last layers have a single pixel.
    """
    recipe = settings.recipe
    shown = -(-size // 2) if recipe.half_resolution else size
    if smallest_share(events, settings) == 1 and _last_pixels(recipe, views, shown) == 1:
        raise InputError(
            f"{events} training events in batches of {recipe.batch_size} give a smallest batch of "
            f"{events // steps_per_epoch(events, recipe)}, too few for cnn.processes {settings.processes} and the "
            f"network {recipe.network!r} at {shown} pixels. Add events, or use a larger batch, fewer processes or a "
            "larger pixelmap.size."
        )


def _last_pixels(recipe: Recipe, views: int, size: int) -> int:
    """Pixels of the last features of the recipe's network."""
    with torch.device("meta"):
        features = NETWORKS[recipe.network](views).eval().features(torch.zeros(1, views, size, size))
    return features.shape[-1] * features.shape[-2]


if __name__ == "__main__":
    run_process(Job, _train, sys.argv[1:])
