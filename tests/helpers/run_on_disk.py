"""A small run as the stages before the evaluation write it, in the real formats."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd

from nuvlm.base.classes import CLASSES
from nuvlm.base.files import write_json
from nuvlm.base.stores import write_store
from nuvlm.evaluation.samples import Sample
from nuvlm.models.predictions import Cost, write_predictions
from nuvlm.models.table import conditions_of
from nuvlm.models.trainings import split_training

CONDITIONS = ("nominal", "half_resolution", "blank", "labels_permuted")
SHAPE = (40, 40, 140)
PIXEL_MM = 50.0

FOUR_MODELS = MappingProxyType({"cnn_published": 0.6, "cnn_tuned": 2.6, "bdt": 1.2, "vlm": 1.6})
"""The models of a run by the default configuration, for `models` below."""


@dataclass(frozen=True)
class Run:
    """Paths of a run; `displays`, `predictions` and `training` are as the stages take them."""

    events: Path
    predictions: dict[str, dict[str, list[Path]]]
    displays: dict[str, Path]
    training: dict[str, Path]
    repeats: dict[str, list[dict[str, list[Path]]]] = field(default_factory=dict)
    """Model -> predictions of its further trainings."""

    def tables(self) -> list[Path]:
        return [path for conditions in self.predictions.values() for parts in conditions.values() for path in parts]


def sample_of(truth: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray) -> Sample:
    """Predictions in memory; a probability of zero has a low logarithm, as no model gives zero."""
    return Sample(truth, predicted, probabilities, np.log(np.maximum(probabilities, 1e-12)))


def write_run(
    folder: Path,
    n: int = 240,
    labelled: float = 0.9,
    seed: int = 1,
    parts: int = 2,
    models: Mapping[str, float] = MappingProxyType({"cnn": 1.6, "vlm": 0.9}),
) -> Run:
    """Write two shards of `n` events with predictions of a better and a worse model, or of others.

    Args:
        folder: folder to write to.
        n: events in both shards together.
        labelled: fraction of them with known truth.
        seed: random seed.
        parts: number of prediction tables per condition.
        models: separation of the classes for each model, in units of the spread of its answers; ``cnn.2`` is a further
            training of ``cnn``.
    """
    rng = np.random.default_rng(seed)
    events = _events(rng, n, labelled)
    events["part"] = np.where(events["split"].fillna("none") == "train", -1, np.arange(n) * parts // n)
    folder.mkdir(parents=True, exist_ok=True)
    events.to_parquet(folder / "events.parquet", index=False)
    displays = {str(shard): _displays(folder, str(shard), rows) for shard, rows in events.groupby("shard")}
    truth = pd.Categorical(events["class"], categories=list(CLASSES)).codes
    predictions: dict[str, dict[str, list[Path]]] = {}
    for model, skill in models.items():
        predictions[model] = {}
        nominal = rng.normal(size=(n, 3)) + skill * np.eye(4)[truth][:, :3]
        blurred = rng.normal(size=(n, 3)) + (skill - 0.3) * np.eye(4)[truth][:, :3]
        blind = np.tile([0.1, 0.3, 0.2], (n, 1))
        shaken = nominal + rng.normal(scale=0.01, size=(n, 3))
        logits_of = dict(zip(CONDITIONS, (nominal, blurred, blind, shaken), strict=True))
        for condition in conditions_of(model, CONDITIONS):
            logits = logits_of[condition]
            predictions[model][condition] = []
            for part in range(parts):
                rows = np.flatnonzero(events["part"] == part)
                path = folder / "predictions" / model / condition / f"{part}.parquet"
                path.parent.mkdir(parents=True, exist_ok=True)
                cost = Cost("cpu", 8, len(rows), 1.5, 0.004 * len(rows), 300.0 + part)
                seconds = np.full(len(rows), 0.004)
                write_predictions(path, events.iloc[rows], logits[rows], 1.0, seconds, {}, cost)
                predictions[model][condition].append(path)
    repeats: dict[str, list[dict[str, list[Path]]]] = {}
    for name in [name for name in predictions if split_training(name)[1] > 1]:
        repeats.setdefault(split_training(name)[0], []).append(predictions.pop(name))
    training = {model: folder / "models" / model / "training.json" for model in predictions}
    measured = {"seconds": 61.5, "parameters": 170_000, "device": "cpu"}
    history = [{"train_loss": 1.1 / epoch, "validation_loss": 1.2 / epoch} for epoch in range(1, 6)]
    losses = [[step, 2.0 / step] for step in range(10, 60, 10)]
    for model, path in training.items():
        network = {"network": "mobilenet" if model == "cnn_tuned" else "published"} if model.startswith("cnn") else {}
        write_json(path, measured | network | ({"losses": losses} if model == "vlm" else {"history": history}))
    return Run(folder / "events.parquet", predictions, displays, training, repeats)


def _events(rng: np.random.Generator, n: int, labelled: float) -> pd.DataFrame:
    shard = np.where(np.arange(n) < n // 2, "first", "second")
    known = rng.random(n) < labelled
    names = np.where(known, np.array(CLASSES, dtype=object)[rng.choice(3, n, p=(0.37, 0.37, 0.26))], None)
    split = np.where(
        known, rng.choice(np.array(["train", "validation", "test"], dtype=object), n, p=(0.2, 0.1, 0.7)), None
    )
    vertex = rng.uniform((-900, -900, 100), (900, 900, 6000), (n, 3))
    vertex[~known] = np.nan
    deposits = np.random.default_rng(n)
    return pd.DataFrame(
        {
            "shard": shard,
            "row": np.arange(n) - np.where(shard == "first", 0, n // 2),
            "event_id": np.arange(n).astype(np.uint64) + 1000,
            "class": pd.Series(names, dtype="string"),
            "split": pd.Series(split, dtype="string"),
            "nu_pdg": np.where(known, 14, 0),
            "is_cc": known.astype(np.uint8),
            "nu_energy": np.where(known, rng.uniform(0.2, 10, n), np.nan).astype(np.float32),
            "inelasticity": np.where(known, rng.uniform(0, 1, n), np.nan).astype(np.float32),
            "mode": np.where(known, 4, 0).astype(np.int8),
            "n_voxels": np.full(n, 100, dtype=np.uint32),
            "vertex_x_mm": vertex[:, 0],
            "vertex_y_mm": vertex[:, 1],
            "vertex_z_mm": vertex[:, 2],
            "visible_energy": rng.uniform(100, 3000, n),
            "edge_energy": deposits.exponential(10, n),
            "centred_by": pd.Series(np.where(np.arange(n) % 8, "charge", "centroid").astype(object), dtype="string"),
            "window_share": np.where(np.arange(n) % 30, 0.9, 0.4),
            "pi0_energy": np.where(known, np.maximum(deposits.normal(0.2, 0.5, n), 0), np.nan),
        }
    )


def _displays(folder: Path, shard: str, events: pd.DataFrame) -> Path:
    """One straight track from each vertex along z."""
    n = len(events)
    xz, yz = np.zeros((n, SHAPE[0], SHAPE[2]), np.float32), np.zeros((n, SHAPE[1], SHAPE[2]), np.float32)
    vertex = np.nan_to_num(events[["vertex_x_mm", "vertex_y_mm", "vertex_z_mm"]].to_numpy())
    x, y, z = ((vertex - (-1000, -1000, 0)) // PIXEL_MM).astype(int).T
    for i in range(n):
        xz[i, x[i], z[i] : z[i] + 20] = yz[i, y[i], z[i] : z[i] + 20] = 10.5
    path = folder / "displays" / f"{shard}.zarr"
    ids = events["event_id"].to_numpy(np.uint64)
    attributes = {"format": "nuvlm-displays", "version": 1, "pixel_mm": PIXEL_MM, "origin_mm": [-1000.0, -1000.0, 0.0]}
    write_store(path, {"xz": xz, "yz": yz, "event_id": ids, "vertex_mm": vertex.astype(np.float32)}, attributes)
    return path
