"""Building the event table: class, split and part of every event of a run."""

import hashlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from nuvlm.base.classes import CLASSES, classify_truth
from nuvlm.base.errors import InputError, OnBadEvent
from nuvlm.base.files import read_table, write_table
from nuvlm.base.logs import track
from nuvlm.dataset.event_table import DEPOSIT_COLUMNS, SPLITS, TRUTH_COLUMNS
from nuvlm.dataset.pixelmaps import open_pixel_maps
from nuvlm.dataset.topology import TOPOLOGY_COLUMNS, find_topology, leading_pion_energy
from nuvlm.detector.geometry import Detector
from nuvlm.detector.voxels import Voxels, open_shard

logger = logging.getLogger(__name__)

EDGE_MM = 50.0
"""Energy nearer to a wall of the detector than this is at its edge, mm: a pixel as published."""


def assign_split(shard: str, event_id: int, *, seed: int, validation: float, test: float) -> str:
    """Split of a labelled event: a hash of its identity and the seed, so it never moves when data is added."""
    digest = hashlib.sha256(f"{seed}/{shard}/{event_id}".encode()).digest()
    uniform = int.from_bytes(digest[:8], "big") / 2**64
    if uniform < test:
        return "test"
    return "validation" if uniform < test + validation else "train"


def list_events(
    shards: Mapping[str, Path],
    pixel_maps: Mapping[str, Path],
    out: Path,
    *,
    detector: Detector,
    validation: float,
    test: float,
    seed: int,
    parts: int,
    train: bool,
    on_bad_event: OnBadEvent = "error",
) -> None:
    """Write the event table (docs/formats.md).

    Args:
        shards: shard name -> what is known of its events: a voxel shard, or (``.parquet``) the table of truth that
            comes with pixel maps made elsewhere.
        pixel_maps: shard name -> pixel-map store, whose rows the table counts.
        validation, test: shares of the labelled events.
        parts: pieces that inference is cut in.
        train: whether models are trained on these events. If not, every labelled event is for testing.
        on_bad_event: as the pixel maps were made with.

    Raises:
        InputError: a store does not belong to its shard, or a split lacks a class that training or the
            scores need; the message says how many there are and what to change.
    """
    tables = []
    for name, path in track(shards.items(), "shards", len(shards)):
        truth = _read_truth(path) if path.suffix == ".parquet" else _read_shard(path, detector, on_bad_event)
        stored = open_pixel_maps(pixel_maps[name])["event_id"][:]
        if not np.array_equal(stored, truth["event_id"]):
            raise InputError(f"{pixel_maps[name]}: holds other events than {path}. Remove it and rerun.")
        split = [
            assign_split(name, event, seed=seed, validation=validation, test=test) if train else "test"
            for event in truth["event_id"].tolist()
        ]
        table = pd.DataFrame({"shard": name, "row": np.arange(len(truth))}).join(truth[["event_id", "class"]])
        table["split"] = pd.Series(split, dtype="string")
        tables.append(table.join(truth[TRUTH_COLUMNS + DEPOSIT_COLUMNS + TOPOLOGY_COLUMNS]))
    events_table = pd.concat(tables, ignore_index=True)
    # An event without a class can neither train nor score; it is still classified.
    events_table["split"] = events_table["split"].where(events_table["class"].notna())
    predicted = events_table["split"] != "train"
    predicted = predicted.fillna(True)
    # Contiguous pieces: a part reads few shards.
    part = np.full(len(events_table), -1, dtype=np.int64)
    part[predicted] = np.arange(predicted.sum()) * parts // max(int(predicted.sum()), 1)
    events_table.insert(5, "part", part)
    _check_counts(events_table, train)
    write_table(out, events_table)


def _read_shard(path: Path, detector: Detector, on_bad_event: OnBadEvent) -> pd.DataFrame:
    """What a voxel shard knows of its events."""
    with open_shard(path, detector, on_bad_event) as shard:
        edge = _at_edge(detector)
        rows, energy, edge_energy = zip(
            *(
                (rows, _sums(block.energy, begins), _sums(block.energy * edge(block), begins))
                for rows, block, begins in shard.blocks()
            ),
            strict=True,
        )
        events = shard.events[np.concatenate(rows)]
        particles = shard.truth("particles")
        try:
            topology = find_topology(events["event_id"], particles, shard.truth("deposits"))
        except ValueError as error:
            raise InputError(
                f"{path}: {error}. Mend the program that wrote the file, or leave out its table /truth/deposits."
            ) from error
    truth = pd.DataFrame({"event_id": events["event_id"]})
    truth["class"] = pd.Series(classify_truth(events["nu_pdg"], events["is_cc"]), dtype="string")
    for column in ("nu_pdg", "is_cc", "nu_energy", "inelasticity", "mode", "n_voxels"):
        truth[column] = events[column]
    for axis, label in enumerate("xyz"):
        truth[f"vertex_{label}_mm"] = events["vertex_mm"][:, axis]
    truth["visible_energy"] = np.concatenate(energy)
    truth["edge_energy"] = np.concatenate(edge_energy)
    truth["pi0_energy"] = leading_pion_energy(events["event_id"], particles)
    return truth.join(topology)


def _at_edge(detector: Detector) -> Callable[[Voxels], np.ndarray]:
    """Says of each voxel whether its centre is nearer to a wall of the detector than EDGE_MM."""
    near = []
    for (low, high), size, n in zip(detector.box_mm, detector.voxel_mm, detector.shape, strict=True):
        centre = low + (np.arange(n) + 0.5) * size
        near.append(np.minimum(centre - low, high - centre) < EDGE_MM)
    return lambda voxels: near[0][voxels.x] | near[1][voxels.y] | near[2][voxels.z]


def _sums(values: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """(events,) sums of what stands between one of `begins` (events + 1,) and the next."""
    sums: np.ndarray = np.add.reduceat(values.astype(np.float64), begins[:-1])
    return sums


def _read_truth(path: Path) -> pd.DataFrame:
    """What is known of pixel maps made elsewhere, as their source has written it."""
    truth = read_table(path, "table of truth")
    missing = {"event_id", "class", *TRUTH_COLUMNS} - set(truth.columns)
    if missing:
        raise InputError(f"{path}: has no column {', '.join(sorted(missing))}. Remove it and rerun.")
    twice = truth["event_id"].duplicated()
    if twice.any():
        raise InputError(f"{path}: event {truth['event_id'][twice].iloc[0]} occurs twice. Remove it and rerun.")
    unknown = truth["class"].notna() & ~truth["class"].isin(CLASSES)
    if unknown.any():
        event = truth[unknown].iloc[0]
        raise InputError(
            f"{path}: event {event['event_id']} is of class {event['class']!r}, none of {', '.join(CLASSES)}. "
            "Remove it and rerun."
        )
    truth[DEPOSIT_COLUMNS] = np.nan
    return truth.join(find_topology(truth["event_id"].to_numpy(), None, None))


def _check_counts(events: pd.DataFrame, train: bool) -> None:
    counts = pd.crosstab(events["class"], events["split"]).reindex(
        index=list(CLASSES), columns=list(SPLITS), fill_value=0
    )
    logger.info("events by class and split:\n%s", counts.to_string())
    unlabelled = int(events["class"].isna().sum())
    if unlabelled:
        logger.info("%d events have no truth, or none of our classes: they get predictions and no score", unlabelled)
    if not train:
        return
    for split in SPLITS:
        for label in CLASSES:
            if counts.loc[label, split] == 0:
                raise InputError(
                    f"the {split} split has no {label} event (of {counts.loc[label].sum()} in all; "
                    f"{len(events)} events in {events['shard'].nunique()} shards). Add events of this class, "
                    f"{'lower dataset.test' if split == 'train' else 'raise dataset.' + split}, or set models_from to "
                    "classify with the models of another run."
                )
