"""Training a classifier of pixel maps with a recipe, in one or more processes, with early stopping and exact resume."""

import logging
import shutil
from collections.abc import Callable, Mapping
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
from nuvlm.models.classifier.data import open_images
from nuvlm.models.classifier.network import ImageClassifier
from nuvlm.models.classifier.processes import join
from nuvlm.models.classifier.recipes import steps_per_epoch
from nuvlm.models.classifier.settings import WITHOUT_EFFECT, TrainingSettings
from nuvlm.models.classifier.trainer import Split, Training
from nuvlm.models.compiler import require_c_compiler
from nuvlm.models.devices import choose_device
from nuvlm.models.memory import keep_freed_memory
from nuvlm.models.torchrun import ProcessJob, torchrun

logger = logging.getLogger(__name__)


class ClassifierJob(ProcessJob):
    """A training, as each of its processes gets it as JSON."""

    events: Path
    stores: dict[str, Path]
    out: Path
    checkpoint: Path
    tensorboard: Path
    settings: TrainingSettings
    threads: int


def train_classifier(job: ClassifierJob, module: str, train: Callable[[Any], None]) -> None:
    """Train on the split ``train``, stop on ``validation``, and write the best network to the folder ``job.out``.

    The folder holds ``model.safetensors``, ``training.json`` (settings, data, history and cost) and a manifest. Events
    without a class are ignored. The best network has the lowest cross-entropy on the validation events, without label
    smoothing or augmentation for every recipe.

    ``job.checkpoint`` is written after each epoch, and on SIGTERM after the current step; it is removed at the end. On
    CPU cores a resumed training ends with exactly the losses and weights of an uninterrupted one.

    Args:
        module: that torchrun starts in each of several processes, with the job's file as its argument.
        train: the work of one process, :func:`train_in_process` with a network.

    Raises:
        InputError: a class has no training event, there are no validation events, stores are damaged, the checkpoint
            is damaged or belongs to another training, a loss is not finite, or there are too many processes.
        SystemExit: status 143 after SIGTERM.
    """
    if job.settings.processes == 1:
        train(job)
        return
    path = job.checkpoint.with_suffix(".json")
    with atomic_path(path) as partial:
        partial.write_text(job.model_dump_json(indent=1))
    torchrun(module, path, job.settings.processes)
    path.unlink(missing_ok=True)


def train_in_process(
    job: ClassifierJob,
    make_network: Callable[[Mapping[str, Any]], ImageClassifier],
    check: Callable[[int, Mapping[str, Any]], object],
    zoom: int | None = None,
    **identity: str,
) -> None:
    """The training in each process.

    Args:
        make_network: settings of the pixel maps (:func:`nuvlm.dataset.pixelmaps.image_settings`) -> network with its
            initial weights, drawn from torch's generator.
        check: refuses a number of training events, and settings of the pixel maps, that the network cannot learn from.
        zoom: for networks on the base model, see :func:`nuvlm.dataset.pixelmaps.image_settings`.
        identity: further digests of what the result depends on.
    """
    settings = job.settings
    images = image_settings(job.stores, zoom)
    _check_compiler(settings)
    table = read_events(job.events)
    table = table[table["class"].isin(CLASSES)]
    splits = {split: table[table["split"] == split] for split in ("train", "validation")}
    check_targets(splits, job.events)
    check(len(splits["train"]), images)
    torch.set_num_threads(max(1, job.threads // settings.processes))
    keep_freed_memory()
    torch.backends.cuda.matmul.allow_tf32 = True  # the default for cuDNN's convolutions
    torch.backends.cudnn.deterministic = True
    with join(settings.processes, settings.section) as group, SigtermFlag() as sigterm:
        memory_mb = settings.memory_mb // group.size
        data = {
            name: Split(open_images(job.stores, rows, memory_mb), class_codes(rows["class"]))
            for name, rows in splits.items()
        }
        torch.manual_seed(settings.seed)
        network = make_network(images)
        training = Training(
            settings,
            network,
            job.checkpoint,
            _fingerprint(job) | identity | ({} if zoom is None else {"zoom": zoom}),
            group,
            sigterm,
            data["train"],
            data["validation"],
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
            f"{events}: no event of class {', '.join(missing)} in the split train, so it cannot be learnt. "
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


def smallest_share(events: int, settings: TrainingSettings) -> int:
    """Events of the smallest batch of an epoch that a process gets.

    Raises:
        InputError: a process would get none.
    """
    smallest = events // steps_per_epoch(events, settings.recipe)
    if share := smallest // settings.processes:
        return share
    raise InputError(
        f"{events} training events in batches of {settings.recipe.batch_size} give a smallest batch of {smallest}, too "
        f"few for {settings.section}.processes {settings.processes}. Add events, or use a larger batch or fewer "
        "processes."
    )


def _check_compiler(settings: TrainingSettings) -> None:
    key = f"{settings.section}.compile"
    if settings.compile and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise InputError(f"{key} needs a C++ compiler, and none was found: install one, or set {key} to false.")
    if settings.compile and choose_device().type == "cuda":
        require_c_compiler(key)


def _fingerprint(job: ClassifierJob) -> dict[str, Any]:
    settings = job.settings.model_dump(mode="json", exclude=WITHOUT_EFFECT)
    recipe = settings.pop("recipe")
    settings |= {f"recipe.{key}": value for key, value in recipe.items()}
    return fingerprint(settings, job.events, job.stores)
