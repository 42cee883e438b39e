"""Training the Siamese CNN by a recipe, in one process or several, with early stopping and exact resume.

``python -m nuvlm.models.cnn.training job.json`` is what torchrun starts in each process; :func:`train_cnn` decides
whether to use it.
"""

import logging
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from nuvlm.base.classes import CLASSES, class_codes
from nuvlm.base.errors import InputError
from nuvlm.base.files import atomic_path, write_json
from nuvlm.base.logs import setup_logging
from nuvlm.base.manifest import write_manifest
from nuvlm.base.settings import Settings
from nuvlm.dataset.event_table import read_events
from nuvlm.dataset.pixelmaps import image_settings
from nuvlm.models.checkpoints import SigtermFlag, fingerprint
from nuvlm.models.cnn.data import open_images
from nuvlm.models.cnn.processes import join
from nuvlm.models.cnn.recipes import steps_per_epoch
from nuvlm.models.cnn.settings import TrainSettings
from nuvlm.models.cnn.trainer import Split, Training
from nuvlm.models.memory import keep_freed_memory
from nuvlm.models.torchrun import torchrun

# Not __name__, which is "__main__" where torchrun starts this.
logger = logging.getLogger("nuvlm.models.cnn.training")

WITHOUT_EFFECT = {"memory_mb", "workers"}
"""Settings that a checkpoint may be resumed under with another value."""


class Job(Settings):
    """A training job, as it is handed to each process: the arguments of :func:`train_cnn`."""

    events: Path
    stores: dict[str, Path]
    out: Path
    checkpoint: Path
    tensorboard: Path
    settings: TrainSettings
    threads: int
    log: Path | None = None


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

    `out` holds ``model.safetensors``, ``training.json`` (what was trained, how, on what, and what it took) and a
    manifest. Events without a class are left out. Best is the lowest plain cross-entropy, without smoothing, of the
    validation events as they are, whatever the recipe shows in training: recipes are compared by the same number.

    After each epoch, and on SIGTERM after the step at hand, `checkpoint` holds all that is needed to go on. A training
    that goes on ends, on CPU cores, with the same losses and weights bit for bit. The checkpoint is removed at the end.

    Args:
        threads: of all processes together.
        log: file that the processes write to which are started beside this one.

    Raises:
        InputError: no event of a class to train on, or none to validate on; damaged stores; a checkpoint that is
            damaged, or of other settings or data; a loss that is not a number; more processes than GPUs or events.
        SystemExit: with status 143 where it was stopped by SIGTERM.
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
    """What each process does."""
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
    torch.backends.cuda.matmul.allow_tf32 = True  # as cuDNN does for convolutions by itself
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
        card = training.card(images)  # all processes have a part in it
        if group.rank == 0:
            with atomic_path(job.out) as partial:
                partial.mkdir()
                best = {name: value.contiguous() for name, value in training.best.items()}
                save_file(best, partial / "model.safetensors")
                write_json(partial / "training.json", card, sealed=True)
                write_manifest(partial)
            job.checkpoint.unlink(missing_ok=True)


def check_targets(splits: Mapping[str, pd.DataFrame], events: Path) -> None:
    """Refuse splits that a network cannot learn from, or cannot be chosen on.

    Args:
        splits: ``train`` and ``validation``, rows of the event table that have a class.
        events: the table's file, for the message.

    Raises:
        InputError: a class has no training event, or there is nothing to validate on.
    """
    counts = splits["train"]["class"].value_counts()
    if missing := [label for label in CLASSES if not counts.get(label, 0)]:
        raise InputError(
            f"{events}: no event of class {', '.join(missing)} in the split train, which the CNN would never name. "
            "Add events of it; if there are some, change dataset.seed or the share of the other splits."
        )
    if not len(splits["validation"]):
        raise InputError(f"{events}: no labelled event in the split validation. Add events, or raise its share.")
    if missing := sorted({*CLASSES} - {*splits["validation"]["class"]}):
        logger.warning("no event of class %s in the split validation: the CNN is chosen without it", ", ".join(missing))


def check_shares(events: int, settings: TrainSettings) -> None:
    """Refuse batches of which some process would have no event, or which are too small for batch normalisation.

    Raises:
        InputError: the smallest batch of an epoch of so many `events` has less than 2, or than there are processes.
    """
    smallest = events // steps_per_epoch(events, settings.recipe)
    if smallest < max(2, settings.processes):
        raise InputError(
            f"{events} training events in batches of {settings.recipe.batch_size} leave some batch with {smallest}, "
            f"too few for cnn.processes {settings.processes}. Add events, or take a larger batch or fewer processes."
        )


def _check_compiler(settings: TrainSettings) -> None:
    if settings.compile and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise InputError("cnn.compile needs a C++ compiler, and there is none: install one, or set it to false.")


def _fingerprint(job: Job) -> dict[str, Any]:
    settings = job.settings.model_dump(mode="json", exclude=WITHOUT_EFFECT)
    recipe = settings.pop("recipe")
    settings |= {f"recipe.{key}": value for key, value in recipe.items()}
    return fingerprint(settings, job.events, job.stores)


def main(arguments: list[str]) -> None:
    """One process of a job that torchrun started: ``main([path of the job's JSON])``."""
    path = Path(arguments[0])
    try:
        job = Job.model_validate_json(path.read_text())
    except (OSError, ValidationError) as error:
        raise InputError(f"{path}: not a readable training job ({error}).") from error
    if job.log is not None:
        setup_logging(job.log)
    _train(job)


if __name__ == "__main__":
    main(sys.argv[1:])
