"""Classification with the boosted decision trees."""

import time
from collections.abc import Mapping
from pathlib import Path

from nuvlm.dataset.pixelmaps import check_images
from nuvlm.models.bdt.features import Scale, features
from nuvlm.models.bdt.model import load_trees
from nuvlm.models.classifier.classification import Loaded, classify_images
from nuvlm.models.jobs import ClassificationJob
from nuvlm.models.memory import process_peak_mb
from nuvlm.models.power import EnergyMeter


def run(job: ClassificationJob) -> None:
    """:func:`classify_bdt`, as a rule asks for it."""
    classify_bdt(job.folder, job.events, job.stores, job.outputs, part=job.part, batch_size=job.settings["batch_size"])


def classify_bdt(
    model: Path,
    events: Path,
    stores: Mapping[str, Path],
    outputs: Mapping[str, Path],
    *,
    part: int,
    batch_size: int,
) -> None:
    """Write the BDT's predictions for one part of the event table, under each condition of `outputs`.

    Args:
        model: folder of :func:`nuvlm.models.bdt.training.train_bdt`.
        outputs: condition -> prediction table.

    Raises:
        InputError: damaged files, or pixel maps made with other settings than those the BDT was trained on.
    """
    start = time.perf_counter()
    trees = load_trees(model)
    seconds = time.perf_counter() - start
    settings = check_images(stores, model / "training.json")
    scale = Scale.of(settings)
    loaded = Loaded(lambda images: trees.logits(features(images, scale)), "CPU", seconds, EnergyMeter, process_peak_mb)
    classify_images(loaded, events, stores, outputs, part=part, settings=settings, batch_size=batch_size)
