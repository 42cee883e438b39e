"""Training the Siamese CNN with a recipe.

:func:`train_cnn` runs in this process, or starts ``python -m nuvlm.models.cnn.training job.json`` in several with
torchrun.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

from nuvlm.models.classifier.training import ClassifierJob, train_classifier, train_in_process
from nuvlm.models.cnn.network import SiameseCnn
from nuvlm.models.cnn.settings import TrainSettings
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
        job.checkpoints.with_suffix(".pt"),
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
    train_in_process(job, lambda views: SiameseCnn(views, width=settings.width, dropout=settings.dropout))


if __name__ == "__main__":
    run_process(Job, _train, sys.argv[1:])
