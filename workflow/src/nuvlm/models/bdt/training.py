"""Training the boosted decision tree: histogram-based gradient boosting, early stopping on the validation loss."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier

from nuvlm.base.classes import CLASSES, class_codes
from nuvlm.base.errors import InputError
from nuvlm.base.files import atomic_path, write_json
from nuvlm.base.logs import track
from nuvlm.base.manifest import write_manifest
from nuvlm.dataset.event_table import read_events
from nuvlm.dataset.pixelmaps import image_settings, read_blocks
from nuvlm.models.bdt.features import Scale, feature_names, features
from nuvlm.models.bdt.model import WEIGHTS, Trees
from nuvlm.models.bdt.settings import BdtSettings
from nuvlm.models.jobs import TrainingJob
from nuvlm.models.memory import process_peak_mb

logger = logging.getLogger(__name__)

BATCH = 64
"""Events per batch of features."""
TOLERANCE = 1e-6
"""Largest allowed difference from a probability of scikit-learn."""


def run(job: TrainingJob) -> None:
    """:func:`train_bdt`, as a rule asks for it."""
    train_bdt(job.events, job.stores, job.out, settings=BdtSettings(**job.settings))


def train_bdt(events: Path, stores: Mapping[str, Path], out: Path, *, settings: BdtSettings) -> None:
    """Train on the split ``train`` with early stopping on ``validation``; write the best round's trees to folder `out`.

    `out` holds ``model.safetensors`` (:class:`nuvlm.models.bdt.model.Trees`), ``training.json`` (settings, data,
    history and cost) and a manifest.

    Raises:
        InputError: a class is missing in a split, a file is damaged, or pixel maps have different settings.
    """
    start = time.perf_counter()
    table = read_events(events)
    images = image_settings(stores)
    train, validation = (_load(table, stores, images, split) for split in ("train", "validation"))
    counts = {label: int((train[1] == i).sum()) for i, label in enumerate(CLASSES)}
    for split, (_, labels) in (("train", train), ("validation", validation)):
        lacking = [label for i, label in enumerate(CLASSES) if not (labels == i).any()]
        if lacking:
            raise InputError(
                f"{events}: the {split} split has no {', '.join(lacking)} event. Add events of that class."
            )
    features_seconds = time.perf_counter() - start
    logger.info("training on %d events %s, validating on %d; %d features, computed in %.1f s",
                len(train[1]), counts, len(validation[1]), train[0].shape[1], features_seconds)  # fmt: skip

    fitted = HistGradientBoostingClassifier(
        learning_rate=settings.learning_rate,
        max_leaf_nodes=settings.max_leaves,
        min_samples_leaf=settings.min_events_leaf,
        l2_regularization=settings.l2,
        max_iter=settings.max_rounds,
        early_stopping=True,
        n_iter_no_change=settings.patience,
        scoring="loss",
        random_state=settings.seed,
    ).fit(*_turned(*train, images), X_val=validation[0], y_val=validation[1])
    # scikit-learn's scores are negative losses; the first is before the first round.
    train_loss, validation_loss = -fitted.train_score_[1:], -fitted.validation_score_[1:]
    best = int(np.argmin(validation_loss)) + 1
    trees = Trees.of(fitted, best)
    _check(trees, fitted, best, validation[0])
    accuracy = float((trees.logits(validation[0]).argmax(axis=1) == validation[1]).mean())
    seconds = time.perf_counter() - start
    logger.info("%d rounds, best %d: validation loss %.4f, accuracy %.3f; %d nodes",
                len(validation_loss), best, validation_loss[best - 1], accuracy, len(trees.value))  # fmt: skip

    card = {
        "model": "HistGradientBoostingClassifier",
        "classes": list(CLASSES),
        "views": len(images["views"]),
        "settings": settings.model_dump(mode="json"),
        "images": images,
        "features": feature_names(images["views"]),
        # one threshold per inner node, one value per leaf
        "parameters": len(trees.value),
        "class_counts": counts,
        "events": len(train[1]),
        "epochs": len(validation_loss),
        "best_epoch": best,
        "unit": "round of boosting",
        "history": [
            {"train_loss": float(a), "validation_loss": float(b)}
            for a, b in zip(train_loss, validation_loss, strict=True)
        ],
        "seconds": seconds,
        "features_seconds": features_seconds,
        "peak_memory_mb": process_peak_mb(),
        "device": "CPU",
    }
    with atomic_path(out) as partial:
        partial.mkdir()
        trees.save(partial / WEIGHTS)
        write_json(partial / "training.json", card, sealed=True)
        write_manifest(partial)


def _load(
    table: pd.DataFrame, stores: Mapping[str, Path], images: Mapping[str, Any], split: str
) -> tuple[np.ndarray, np.ndarray]:
    """Features (events, features) and class indices (events,) of a split."""
    chosen = table[table["split"] == split]
    labels = class_codes(chosen["class"])
    names, scale = feature_names(images["views"]), Scale.of(images)
    values = np.zeros((len(chosen), len(names)))
    seconds = 0.0
    for rows, block in track(read_blocks(stores, chosen, BATCH), "batches"):
        start = time.perf_counter()
        values[rows] = features(block, scale)
        seconds += time.perf_counter() - start
    logger.info("%s: features of %.0f events/s", split, len(chosen) / max(seconds, 1e-9))
    return values, labels


def _turned(values: np.ndarray, labels: np.ndarray, images: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Training events, and the same turned by 90 degrees around the beam, which exchanges the views XZ and YZ.

    Pixels are much larger than diffusion, so the views differ in nothing else. Views of maps made elsewhere may.
    """
    if images["views"] != ["xz", "yz"] or "source" in images:
        return values, labels
    xz, yz = np.split(values, 2, axis=1)
    return np.concatenate([values, np.concatenate([yz, xz], axis=1)]), np.concatenate([labels, labels])


def _check(trees: Trees, fitted: HistGradientBoostingClassifier, rounds: int, table: np.ndarray) -> None:
    """Check the probabilities against scikit-learn, whose private attributes :class:`Trees` reads."""
    logits = trees.logits(table)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    expected = next(staged for i, staged in enumerate(fitted.staged_predict_proba(table), 1) if i == rounds)
    difference = float(np.abs(p - expected).max())
    if difference > TOLERANCE:
        raise RuntimeError(f"the stored trees differ from scikit-learn's by {difference:.2g} in a probability")
