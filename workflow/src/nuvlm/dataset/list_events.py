"""Building the event table: class, split and part of every event of a run, and what is known about it."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nuvlm.base.classes import CLASSES, classify_truth
from nuvlm.base.errors import InputError, OnBadEvent, remake
from nuvlm.base.files import read_table, write_table
from nuvlm.base.identity import hash_of
from nuvlm.base.logs import track
from nuvlm.base.stores import open_store
from nuvlm.dataset.event_table import NO_PART, SPLITS, read_events
from nuvlm.dataset.pixelmaps import image_settings
from nuvlm.dataset.store_list import read_store_list, write_store_list
from nuvlm.dataset.topology import TOPOLOGY_COLUMNS, find_topology, leading_pion_energy
from nuvlm.dataset.validation import kept_validation
from nuvlm.detector.geometry import Detector
from nuvlm.detector.visible_energy import cosmic_energy
from nuvlm.detector.voxels import open_shard
from nuvlm.simulation.counterfactuals import AS_SIMULATED, NAMES

logger = logging.getLogger(__name__)

TRUTH_COLUMNS = ["nu_pdg", "is_cc", "nu_energy", "inelasticity", "mode", "n_voxels"]
TRUTH_COLUMNS += ["vertex_x_mm", "vertex_y_mm", "vertex_z_mm"]
"""Columns that every source provides, apart from the event's id and class."""
ENERGY_COLUMNS = ["visible_energy", "edge_energy"]
"""Columns from the pixel-map stores, MeV; NaN for pixel maps made elsewhere."""
CHANGE_COLUMNS = ["original", "counterfactual"]
"""Columns of runs with counterfactual events only: the id of the event as simulated, and what is changed."""
WINDOW_COLUMNS = ["centred_by", "window_share"]
"""Columns from the pixel-map stores: what the window is centred on, and the fraction of the charge in it."""


def assign_split(shard: str, event_id: int, *, seed: int, validation: float, test: float) -> str:
    """Split of a labelled event, from a hash of its identity and the seed: it never changes when data is added."""
    uniform = _uniform(shard, event_id, seed)
    if uniform < test:
        return "test"
    return "validation" if uniform < test + validation else "train"


def _uniform(shard: str, event_id: int, seed: int) -> float:
    """A hash of an event's identity and the seed, in [0, 1)."""
    return hash_of(seed, shard, event_id) / 2**64


def limit_training(events: pd.DataFrame, count: int | None, seed: int) -> pd.DataFrame:
    """The event table with `count` of its training events, the same fraction of its validation events, and all others.

    The events with the smallest hash stay, so that a smaller set is a subset of each larger one. Of validation events
    at least 500 stay if there are so many (nuvlm.dataset.validation).

    Args:
        events: the event table.
        count: training events to keep; None for all.
        seed: of the split.

    Raises:
        InputError: there are fewer training events.
    """
    if count is None:
        return events
    sizes = events["split"].value_counts()
    there, validation = int(sizes.get("train", 0)), int(sizes.get("validation", 0))
    if there < count:
        raise InputError(
            f"dataset.train_events asks for {count:,} training events, but of all {len(events):,} events "
            f"{there:,} are for training. Lower it, set it to null to use all of them, or add events."
        )
    limits = {"train": count, "validation": int(kept_validation(validation, there, count))}
    keep = np.ones(len(events), dtype=bool)
    for split, limit in limits.items():
        rows = np.flatnonzero((events["split"] == split).fillna(False))
        names = zip(events["shard"].iloc[rows], events["event_id"].iloc[rows].tolist(), strict=True)
        hashes = np.array([_uniform(shard, event, seed) for shard, event in names])
        keep[rows[np.argsort(hashes, kind="stable")[limit:]]] = False
    return events[keep].reset_index(drop=True)


def assign_parts(events: pd.DataFrame, parts: int) -> np.ndarray:
    """Part of inference of each row of the event table.

    Parts are contiguous, so that each reads few shards.
    """
    predicted = (events["split"] != "train").fillna(True)
    part = np.full(len(events), NO_PART, dtype=np.int64)
    part[predicted] = np.arange(predicted.sum()) * parts // max(int(predicted.sum()), 1)
    return part


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
    train_events: int | None = None,
    on_bad_event: OnBadEvent = "error",
) -> None:
    """Write the event table (docs/formats.md).

    Args:
        shards: shard name -> truth of its events: a voxel shard, of which no voxels are read, or (``.parquet``) the
            table of truth of pixel maps made elsewhere.
        pixel_maps: shard name -> pixel-map store; the column ``row`` is the event's row in it.
        out: the event table.
        detector: geometry of the voxel shards.
        validation, test: fractions of the labelled events.
        seed: of the split.
        parts: number of parts that inference is divided into.
        train: whether models are trained on these events. If not, every labelled event is in the test split.
        train_events: training events to keep, see :func:`limit_training`.
        on_bad_event: as the pixel maps were made with; with ``skip``, events that are not in the store are left out.

    Raises:
        InputError: a store does not belong to its shard; a split lacks a class that training or the scores need; or
            there are fewer than `train_events`.
    """
    tables = []
    for name, path in track(shards.items(), "shards", len(shards)):
        store = open_store(pixel_maps[name], "nuvlm-pixelmaps", ["event_id", *ENERGY_COLUMNS, *WINDOW_COLUMNS])
        stored = store["event_id"][:]
        truth = _read_truth(path) if path.suffix == ".parquet" else _read_shard(path, detector, on_bad_event, stored)
        if not np.array_equal(stored, truth["event_id"]):
            raise InputError(f"{pixel_maps[name]}: holds other events than {path}. {remake(pixel_maps[name])}")
        split = [
            assign_split(name, event, seed=seed, validation=validation, test=test) if train else "test"
            for event in truth["event_id"].tolist()
        ]
        for column in ENERGY_COLUMNS:
            truth[column] = store[column][:]
        truth["centred_by"] = _names(store["centred_by"][:], store.attrs["centred_by"])
        truth["window_share"] = store["window_share"][:]
        table = pd.DataFrame({"shard": name, "row": np.arange(len(truth))}).join(truth[["event_id", "class"]])
        table["split"] = pd.Series(split, dtype="string")
        columns = [*TRUTH_COLUMNS, *ENERGY_COLUMNS, *WINDOW_COLUMNS, "cosmic_energy", "pi0_energy", *TOPOLOGY_COLUMNS]
        tables.append(table.join(truth[[*columns, *(name for name in CHANGE_COLUMNS if name in truth)]]))
    if any("counterfactual" in table for table in tables):
        for table in tables:
            if "counterfactual" not in table:
                table["original"], table["counterfactual"] = table["event_id"], AS_SIMULATED
    events_table = pd.concat(tables, ignore_index=True)
    # An event without a class is neither trained on nor scored, but it is classified.
    events_table["split"] = events_table["split"].where(events_table["class"].notna())
    events_table = limit_training(events_table, train_events, seed)
    events_table.insert(5, "part", assign_parts(events_table, parts))
    _check_counts(events_table, train)
    write_table(out, events_table)


def take_events(
    events: Path,
    pixel_maps: Path,
    out: Path,
    listed: Path,
    *,
    images: Mapping[str, Any],
    made_with: Mapping[str, Any] | None = None,
    seed: int,
    parts: int,
    train_events: int | None,
) -> None:
    """Write the event table and the list of pixel-map stores of a run that takes both from another.

    Args:
        events: event table of the other run.
        pixel_maps: list of stores of the other run.
        out: the event table.
        listed: the list of stores, which stay where they are.
        images: settings of pixel maps that this run expects; those that a store does not state are not compared.
        made_with: see :func:`nuvlm.dataset.store_list.write_store_list`.
        seed: of the split of the other run.
        parts: number of parts that inference is divided into.
        train_events: training events to keep, see :func:`limit_training`.

    Raises:
        InputError: a store is missing, or not the one that was listed; the pixel maps were made with other settings;
            a split lacks a class; or there are fewer than `train_events`.
    """
    stores = read_store_list(pixel_maps)
    for key, value in image_settings(stores).items():
        if key in images and images[key] != value:
            raise InputError(
                f"{next(iter(stores.values()))}: pixel maps with {key} {value}, this run has {images[key]}. Finish the "
                "run of events_from with its present settings, or set those of its pixel maps."
            )
    table = limit_training(read_events(events), train_events, seed)
    table["part"] = assign_parts(table, parts)
    _check_counts(table, train=True)
    write_table(out, table)
    write_store_list(listed, stores, made_with)


def _names(codes: np.ndarray, names: list[str]) -> pd.Series:
    """The name of each code, null for other codes."""
    return pd.Series(np.array([*names, None], dtype=object)[np.minimum(codes, len(names))], dtype="string")


def _read_shard(path: Path, detector: Detector, on_bad_event: OnBadEvent, stored: np.ndarray) -> pd.DataFrame:
    """Truth of the events of a voxel shard; with `on_bad_event` ``skip``, of those among the ids `stored`."""
    with open_shard(path, detector, on_bad_event) as shard:
        events, cosmic = shard.events, cosmic_energy(shard)[:, 0]
        if on_bad_event == "skip":
            kept = np.isin(events["event_id"], stored)
            events, cosmic = events[kept], cosmic[kept]
            if len(events) < len(shard.events):
                logger.warning(
                    "%s: %d of %d events cannot be used and are left out; the logs of smear_and_downsample and "
                    "crop_displays name the first", path, len(shard.events) - len(events), len(shard.events),
                )  # fmt: skip
        particles = shard.truth("particles")
        changes = shard.counterfactuals()
        try:
            topology = find_topology(events["event_id"], particles, shard.truth("deposits"))
        except ValueError as error:
            raise InputError(
                f"{path}: {error}. Correct the program that wrote the file, or leave out its table /truth/deposits."
            ) from error
    truth = pd.DataFrame({"event_id": events["event_id"]})
    truth["class"] = pd.Series(classify_truth(events["nu_pdg"], events["is_cc"]), dtype="string")
    for column in ("nu_pdg", "is_cc", "nu_energy", "inelasticity", "mode", "n_voxels"):
        truth[column] = events[column]
    for axis, label in enumerate("xyz"):
        truth[f"vertex_{label}_mm"] = events["vertex_mm"][:, axis]
    truth["cosmic_energy"] = cosmic
    truth["pi0_energy"] = leading_pion_energy(events["event_id"], particles)
    if changes is not None:
        unknown = np.flatnonzero((changes["kind"] < 0) | (changes["kind"] >= len(NAMES)))
        if len(unknown):
            row = changes[unknown[0]]
            raise InputError(
                f"{path}: /truth/counterfactuals: event {row['event_id']} is of kind {row['kind']}; known are 0 to "
                f"{len(NAMES) - 1}. Correct the program that wrote the file, or leave the table out."
            )
        changes = changes[np.isin(changes["event_id"], events["event_id"])]
        truth["original"] = changes["original"]
        truth["counterfactual"] = _names(changes["kind"], list(NAMES))
    return truth.join(topology)


def _read_truth(path: Path) -> pd.DataFrame:
    """Truth of pixel maps made elsewhere, as their source has written it."""
    truth = read_table(path, "table of truth")
    missing = {"event_id", "class", *TRUTH_COLUMNS} - set(truth.columns)
    if missing:
        raise InputError(f"{path}: has no column {', '.join(sorted(missing))}. {remake(path)}")
    twice = truth["event_id"].duplicated()
    if twice.any():
        raise InputError(f"{path}: event {truth['event_id'][twice].iloc[0]} occurs twice. {remake(path)}")
    unknown = truth["class"].notna() & ~truth["class"].isin(CLASSES)
    if unknown.any():
        event = truth[unknown].iloc[0]
        raise InputError(
            f"{path}: event {event['event_id']} is of class {event['class']!r}; known are {', '.join(CLASSES)}. "
            f"{remake(path)}"
        )
    truth["cosmic_energy"] = np.nan
    truth["pi0_energy"] = np.nan
    return truth.join(find_topology(truth["event_id"].to_numpy(), None, None))


def _check_counts(events: pd.DataFrame, train: bool) -> None:
    """Log the events by class and split, and check that each split that is needed has every class."""
    counts = pd.crosstab(events["class"], events["split"]).reindex(
        index=list(CLASSES), columns=list(SPLITS), fill_value=0
    )
    logger.info("events by class and split:\n%s", counts.to_string())
    unlabelled = int(events["class"].isna().sum())
    if unlabelled:
        logger.info("%d events have no truth or another class: they are classified but not scored", unlabelled)
    if not train:
        return
    for split in SPLITS:
        for label in CLASSES:
            if counts.loc[label, split] == 0:
                raise InputError(
                    f"the {split} split has no {label} event (of {counts.loc[label].sum()} in total; "
                    f"{len(events)} events in {events['shard'].nunique()} shards). Add events of this class, "
                    f"{'lower dataset.test' if split == 'train' else 'raise dataset.' + split}, or set models_from to "
                    "classify with the models of another run."
                )
