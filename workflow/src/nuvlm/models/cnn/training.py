"""Training the Siamese CNN with a recipe, in one or more processes, with early stopping and exact resume.

:func:`train_cnn` runs in this process, or starts ``python -m nuvlm.models.cnn.training job.json`` in several with
torchrun.
"""

import logging
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import save_file

from nuvlm.base.classes import CLASSES, class_codes
from nuvlm.base.errors import InputError
from nuvlm.base.files import atomic_path, write_json
from nuvlm.base.manifest import write_manifest
from nuvlm.dataset.event_table import read_events
from nuvlm.dataset.pixelmaps import image_settings
from nuvlm.models.checkpoints import SigtermFlag, fingerprint
from nuvlm.models.cnn.data import open_images
from nuvlm.models.cnn.processes import join
from nuvlm.models.cnn.recipes import steps_per_epoch
from nuvlm.models.cnn.settings import TrainSettings
from nuvlm.models.cnn.trainer import Split, Training
from nuvlm.models.compiler import require_c_compiler
from nuvlm.models.devices import choose_device
from nuvlm.models.jobs import TrainingJob
from nuvlm.models.memory import keep_freed_memory
from nuvlm.models.torchrun import ProcessJob, run_process, torchrun

# Not __name__, which is "__main__" in processes started by torchrun.
logger = logging.getLogger("nuvlm.models.cnn.training")

WITHOUT_EFFECT = {"memory_mb", "workers"}
"""Settings that do not change the result and may differ when a checkpoint is resumed."""


class Job(ProcessJob):
    """The arguments of :func:`train_cnn`, passed to each process as JSON."""

    events: Path
    stores: dict[str, Path]
    out: Path
    checkpoint: Path
    tensorboard: Path
    settings: TrainSettings
    threads: int


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
    """Train on the split ``train``, stop on ``validation``, and write the best network to the folder `out`.

    `out` holds ``model.safetensors``, ``training.json`` (settings, data, history and cost) and a manifest. Events
    without a class are ignored. The best network has the lowest cross-entropy on the validation events, without label
    smoothing or augmentation for every recipe.

    `checkpoint` is written after each epoch, and on SIGTERM after the current step; it is removed at the end. On CPU
    cores a resumed training ends with exactly the losses and weights of an uninterrupted one.

    Args:
        threads: total of all processes.
        log: log file of the processes started by torchrun.

    Raises:
        InputError: a class has no training event, there are no validation events, stores are damaged, the checkpoint
            is damaged or belongs to another training, a loss is not finite, or there are too many processes.
        SystemExit: status 143 after SIGTERM.
    """
    job = Job(
        events=events, stores=dict(stores), out=out, checkpoint=checkpoint, tensorboard=tensorboard,
        settings=settings, threads=threads, log=log,
    )  # fmt: skip
    if settings.processes == 1:
        _train(job)
        return
    path = checkpoint.with_suffix(".json")
    with atomic_path(path) as partial:
        partial.write_text(job.model_dump_json(indent=1))
    torchrun("nuvlm.models.cnn.training", path, settings.processes)
    path.unlink(missing_ok=True)


def _train(job: Job) -> None:
    """The training in each process."""
    settings = job.settings
    images = image_settings(job.stores)
    _check_compiler(settings)
    table = read_events(job.events)
    table = table[table["class"].isin(CLASSES)]
    splits = {split: table[table["split"] == split] for split in ("train", "validation")}
    check_targets(splits, job.events)
    check_shares(len(splits["train"]), settings)
    torch.set_num_threads(max(1, job.threads // settings.processes))
    keep_freed_memory()
    torch.backends.cuda.matmul.allow_tf32 = True  # the default for cuDNN's convolutions
    torch.backends.cudnn.deterministic = True
    with join(settings.processes) as group, SigtermFlag() as sigterm:
        memory_mb = settings.memory_mb // group.size
        data = {
            name: Split(open_images(job.stores, rows, memory_mb), class_codes(rows["class"]))
            for name, rows in splits.items()
        }
        training = Training(
            settings, job.checkpoint, _fingerprint(job), group, sigterm, data["train"], data["validation"]
        )
        training.run(job.tensorboard)
        training.check_replicas()
        card = training.card(images)  # a collective operation
        if group.rank == 0:
            with atomic_path(job.out) as partial:
                partial.mkdir()
                best = {name: value.contiguous() for name, value in training.best.items()}
                save_file(best, partial / "model.safetensors")
                write_json(partial / "training.json", card, sealed=True)
                write_manifest(partial)
            job.checkpoint.unlink(missing_ok=True)


def check_targets(splits: Mapping[str, pd.DataFrame], events: Path) -> None:
    """Check that the splits suffice for training and for choosing the best network.

    Args:
        splits: ``train`` and ``validation``: rows of the event table with a class.
        events: the table's file, for the message.

    Raises:
        InputError: a class has no training event, or there are no validation events.
    """
    counts = splits["train"]["class"].value_counts()
    if missing := [label for label in CLASSES if not counts.get(label, 0)]:
        raise InputError(
            f"{events}: no event of class {', '.join(missing)} in the split train, so the CNN cannot learn it. "
            "Add such events, or change dataset.seed or the fractions of the other splits."
        )
    if not len(splits["validation"]):
        raise InputError(
            f"{events}: no labelled event in the split validation. Add events, or increase dataset.validation."
        )
    if missing := sorted({*CLASSES} - {*splits["validation"]["class"]}):
        logger.warning(
            "no event of class %s in the split validation: it does not count in choosing the best epoch",
            ", ".join(missing),
        )


def check_shares(events: int, settings: TrainSettings) -> None:
    """Check that every process gets an event of every batch, and that batch normalisation has at least two.

    Raises:
        InputError: the smallest batch of an epoch is smaller than 2 or than the number of processes.
    """
    smallest = events // steps_per_epoch(events, settings.recipe)
    if smallest < max(2, settings.processes):
        raise InputError(
            f"{events} training events in batches of {settings.recipe.batch_size} give a smallest batch of {smallest}, "
            f"too few for cnn.processes {settings.processes}. Add events, or use a larger batch or fewer processes."
        )


def _check_compiler(settings: TrainSettings) -> None:
    if settings.compile and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise InputError(
            "cnn.compile needs a C++ compiler, and none was found: install one, or set cnn.compile to false."
        )
    if settings.compile and choose_device().type == "cuda":
        require_c_compiler("cnn.compile")


def _fingerprint(job: Job) -> dict[str, Any]:
    settings = job.settings.model_dump(mode="json", exclude=WITHOUT_EFFECT)
    recipe = settings.pop("recipe")
    settings |= {f"recipe.{key}": value for key, value in recipe.items()}
    return fingerprint(settings, job.events, job.stores)


if __name__ == "__main__":
    run_process(Job, _train, sys.argv[1:])
