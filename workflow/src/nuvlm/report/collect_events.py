"""Collect the events of the event browser: images, truth, predictions, rationales, saliency maps."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from nuvlm.base.classes import CLASSES
from nuvlm.base.errors import InputError
from nuvlm.base.files import write_json
from nuvlm.base.logs import track
from nuvlm.base.stores import open_store
from nuvlm.dataset.event_table import read_events
from nuvlm.dataset.pixelmaps import open_pixel_maps
from nuvlm.detector.voxels import MODES
from nuvlm.evaluation.faithfulness import Explanations, judge, read_explanations
from nuvlm.evaluation.samples import Sample, labelled_events, read_sample
from nuvlm.models.explained_events import choose_explained
from nuvlm.models.predictions import read_predictions
from nuvlm.report.sparse import Sparse, coarsen, encode, encode_map, find_filled, log_levels, log_values, size_of
from nuvlm.sources.ready_maps import MapAxes

WRONG, DISAGREE, CORRECT, NO_TRUTH = "all wrong", "disagreement", "all correct", "no truth"
# Pixels with less energy are not drawn: they hold the tail of the diffusion, not a deposit.
THRESHOLD_MEV = 0.05
BUDGET = 22_000_000
"""Maximum size of all events in the page, bytes: figures and tables add up to 8 MB more."""
COARSEST = 16
BRIGHT = 0.005
"""Fraction of pixels with the brightest colour; otherwise a few outliers would leave all others dark."""
CELLS = 32
"""Cells along a side of a saliency map, which is smooth."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Frame:
    """Properties that all events of a run share: views and axes."""

    drawn: str
    """`display` (energies, in cm) or `pixel map` (grey values, in pixels)."""
    pixel: float
    """Side of a pixel in units of the axes."""
    views: list[dict[str, Any]]
    """For each: `name`, `title`, labels `x` and `y`, `shape` (rows, columns), `origin` (x, y) of the first pixel,
    `axes` (which of the vertex's coordinates are x and y), whether rows go `up`, and of pixel maps `units`, the wires,
    ticks or whatever the axes count in a pixel, along x and y."""


def collect_events(
    events: Path,
    predictions: Mapping[str, Sequence[str | Path]],
    stores: Mapping[str, Path],
    count: int,
    out: Path,
    *,
    seed: int,
    displays: bool = True,
    explanations: Explanations = MappingProxyType({}),
    saliency: Mapping[str, Sequence[str | Path]] = MappingProxyType({}),
    pixel_maps: Mapping[str, Path] = MappingProxyType({}),
    budget: int = BUDGET,
) -> None:
    """Collect up to `count` events for the report, worst mistakes first, and write them to `out` (JSON).

    If there are more than `count` test events, they are selected like the events to explain: half are the worst
    mistakes, the others are drawn at random with `seed`.

    Args:
        events: events.parquet.
        predictions: prediction tables of each model under the first condition.
        stores: display store, or pixel-map store, of each shard.
        count: maximum number of events.
        out: `available` (number of candidate events), `frame`, `scale` and `events`, see docs/formats.md.
        seed: seed of the random selection.
        displays: stores are displays; otherwise pixel maps made elsewhere are shown.
        explanations: tables of rationales of each model that writes them.
        saliency: stores of saliency maps of each CNN (docs/formats.md), one per part.
        pixel_maps: pixel-map store of each shard, which locates saliency maps within the display.
        budget: maximum size of all events in bytes; above it, blocks of 2 x 2 pixels are merged, repeatedly.

    Raises:
        InputError: an input is unusable; names the file and the event.
    """
    table = read_events(events)
    scored = labelled_events(table, "test")
    shown = scored if len(scored) else table[table["class"].isna()].reset_index(drop=True)
    available = len(shown)
    if available > count:
        answers = {model: read_predictions(parts) for model, parts in predictions.items()}
        shown = choose_explained(shown, answers, count, seed)
    samples = {model: read_sample(shown, parts) for model, parts in predictions.items()}
    rationales = {model: _by_event(read_explanations(parts)) for model, parts in explanations.items()}
    saliency_maps = {model: _SaliencyMaps(parts) for model, parts in saliency.items()}
    corners = _Corners(pixel_maps) if displays else None
    reader = _Reader(stores, displays)
    entries: list[dict[str, Any]] = []
    images: list[list[Sparse]] = []
    for index, outcome in track(rank(list(samples.values())), "events"):
        event = shown.iloc[index]
        key = (str(event["shard"]), int(event["event_id"]))
        images.append(reader.read(event))
        assert reader.frame is not None
        entry = _describe(event) | {
            "outcome": outcome,
            "models": {
                model: {
                    "predicted": CLASSES[sample.predicted[index]],
                    "p": dict(zip(CLASSES, sample.probabilities[index].tolist(), strict=True)),
                }
                for model, sample in samples.items()
            },
            "explanations": {model: by_event.get(key, []) for model, by_event in rationales.items()},
            "drawn": reader.frame.drawn,
            "views": [view["name"] for view in reader.frame.views],
            "saliency": {},
        }
        for model, of_model in saliency_maps.items():
            if (maps := of_model.of(*key)) is not None:
                corner_mm = corners.of(key[0], int(event["row"])) if corners else None
                entry["saliency"][model] = _place(maps, corner_mm, reader.frame)
        entries.append(entry)
    content: dict[str, Any] = {"available": available, "frame": None, "scale": None}
    if reader.frame is not None:
        room = budget - len(json.dumps(entries))
        coded, step, scale = _code(images, reader.frame, room)
        for entry, pixels in zip(entries, coded, strict=True):
            entry["pixels"] = pixels
        views = [view | {"shape": list(image.shape)} for view, image in zip(reader.frame.views, images[0], strict=True)]
        content |= {"frame": {"drawn": reader.frame.drawn, "pixel": reader.frame.pixel * step, "views": views}}
        content |= {"scale": scale | {"step": step}}
    write_json(out, content | {"events": entries}, sealed=True)
    logger.info("%d of %d events, %.1f MB", len(entries), available, out.stat().st_size / 1e6)


def rank(samples: Sequence[Sample]) -> list[tuple[int, str]]:
    """Index and outcome of every event, worst mistakes first.

    Events are sorted by the mean probability of the true class over the models, lowest first; without truth, by the
    mean confidence.

    Args:
        samples: predictions of each model for the same n events.
    """
    truth = samples[0].truth
    if not len(truth):
        return []
    p = np.stack([sample.probabilities for sample in samples])  # (models, n, classes)
    if (truth < 0).any():
        order = np.argsort(p.max(axis=2).mean(axis=0), kind="stable")
        return [(int(i), NO_TRUTH) for i in order]
    votes = np.stack([sample.correct for sample in samples]).sum(axis=0)
    of_truth = np.take_along_axis(p, truth[None, :, None], axis=2)[..., 0].mean(axis=0)
    outcomes = {0: WRONG, len(samples): CORRECT}
    return [(int(i), outcomes.get(int(votes[i]), DISAGREE)) for i in np.argsort(of_truth, kind="stable")]


class _Reader:
    """Reads the images of events; opens each store once."""

    def __init__(self, stores: Mapping[str, Path], displays: bool) -> None:
        self._stores, self._displays = stores, displays
        self._opened: dict[str, Any] = {}
        self.frame: Frame | None = None

    def read(self, event: "pd.Series[Any]") -> list[Sparse]:
        """The filled pixels of each view of an event.

        Raises:
            InputError: the store has another event in this row, or other views than the previous stores.
        """
        shard, row = str(event["shard"]), int(event["row"])
        path = self._stores[shard]
        if shard not in self._opened:
            store = open_store(path, "nuvlm-displays") if self._displays else open_pixel_maps(path)
            frame = _display_frame(store) if self._displays else _map_frame(store)
            if self.frame is not None and frame != self.frame:
                raise InputError(
                    f"{path}: its views differ from those of other stores of this run. Remove all stores and rerun."
                )
            arrays = [store[view] for view in ("xz", "yz")] if self._displays else [store["images"]]
            self._opened[shard], self.frame = (arrays, store["event_id"][:]), frame
        arrays, ids = self._opened[shard]
        if self._displays:
            # Displays may have events that are left out of the pixel maps, which `row` refers to.
            row = int(np.flatnonzero(ids == event["event_id"])[0]) if (ids == event["event_id"]).any() else len(ids)
        if ids[row : row + 1].tolist() != [event["event_id"]]:
            raise InputError(f"{path}: row {row} is not event {event['event_id']}. Remove the store and rerun.")
        if self._displays:
            return [find_filled(array[row], THRESHOLD_MEV) for array in arrays]
        return [find_filled(image, 1) for image in arrays[0][row]]


def _display_frame(store: Any) -> Frame:
    x, y, z = (float(value) / 10 for value in store.attrs["origin_mm"])
    titles = {"xz": "XZ view, from above", "yz": "YZ view, from the side"}
    views = [
        {
            "name": name,
            "title": titles[name],
            "x": "z (cm), along the beam",
            "y": f"{name[0]} (cm)",
            "origin": [z, start],
            "shape": list(store[name].shape[1:]),
            "axes": [2, axis],
            "up": True,
        }
        for name, start, axis in (("xz", x, 0), ("yz", y, 1))
    ]
    return Frame("display", float(store.attrs["pixel_mm"]) / 10, views)


def _map_frame(store: Any) -> Frame:
    axes = asdict(MapAxes()) | store.attrs.get("axes", {})
    views = [
        {
            "name": name,
            "title": f"{name.upper()} view",
            "x": axes["columns"],
            "y": axes["rows"],
            "origin": [0, 0],
            "shape": list(store["images"].shape[2:]),
            "axes": None,
            "up": axes["up"],
            "units": [axes["columns_per_pixel"], axes["rows_per_pixel"]],
        }
        for name in store.attrs["views"]
    ]
    return Frame("pixel map", 1, views)


def _code(images: list[list[Sparse]], frame: Frame, room: int) -> tuple[list[list[str]], int, dict[str, Any]]:
    """Encode all images in at most `room` bytes; also return the merged pixels per side, and the scale of the levels.

    `images` are replaced by the encoded, possibly coarser, ones.
    """
    energies, step = frame.drawn == "display", 1
    while True:
        highest = max((float(image.values.max()) for views in images for image in views if len(image.index)), default=0)
        if energies:
            highest = max(highest, 10 * THRESHOLD_MEV)
            values = log_values(THRESHOLD_MEV, highest)
        else:
            values = np.arange(1, 256)
        coded = [
            [
                encode(image, log_levels(image.values, THRESHOLD_MEV, highest) if energies else image.values)
                for image in views
            ]
            for views in images
        ]
        if size_of(coded) <= room or step == COARSEST:
            break
        step *= 2
        images[:] = [[coarsen(image, total=energies) for image in views] for views in images]
    scale: dict[str, Any] = {"values": [float(f"{value:.4g}") for value in values]}
    if energies:
        filled = np.concatenate([image.values for views in images for image in views])
        bright = float(np.quantile(filled, 1 - BRIGHT)) if len(filled) else highest
        scale |= {"rounding": float((values[1] / values[0]) ** 0.5 - 1), "bright": max(bright, 10 * THRESHOLD_MEV)}
    return coded, step, scale


class _SaliencyMaps:
    """The saliency maps of a CNN, for the events that are explained."""

    def __init__(self, paths: Sequence[str | Path]) -> None:
        self._where: dict[tuple[str, int], tuple[Any, int]] = {}
        for path in paths:
            store = open_store(path, "nuvlm-cam")
            maps, events = store["maps"], zip(store.attrs["shard"], store["event_id"][:].tolist(), strict=True)
            self._where |= {event: (maps, row) for row, event in enumerate(events)}

    def of(self, shard: str, event_id: int) -> np.ndarray | None:
        """uint8 (views, size, size), 255 at the most salient pixel; None if the event is not explained."""
        if (shard, event_id) not in self._where:
            return None
        maps, row = self._where[shard, event_id]
        return np.asarray(maps[row])


class _Corners:
    """Positions of pixel maps in the detector."""

    def __init__(self, pixel_maps: Mapping[str, Path]) -> None:
        self._pixel_maps = pixel_maps
        self._corners: dict[str, np.ndarray] = {}

    def of(self, shard: str, row: int) -> np.ndarray:
        """(3,) lower corner of the pixel map of an event, mm."""
        if shard not in self._corners:
            self._corners[shard] = open_pixel_maps(self._pixel_maps[shard])["corner_mm"][:]
        corner: np.ndarray = self._corners[shard][row]
        return corner


def _place(maps: np.ndarray, corner_mm: np.ndarray | None, frame: Frame) -> list[dict[str, Any]]:
    """Saliency map of each view: `cells`, lower corner `x`, `y` and `side` on the axes."""
    placed = []
    for image, view in zip(maps, frame.views, strict=True):
        cells, width = encode_map(image, CELLS)
        x, y = (0.0, 0.0) if corner_mm is None else (float(corner_mm[axis]) / 10 for axis in view["axes"])
        side = -(-len(image) // width) * width * frame.pixel
        placed.append({"cells": cells, "x": x, "y": y, "side": side})
    return placed


def _by_event(table: pd.DataFrame) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """The rationales of each event with their judged claims; that of the unchanged picture comes first."""
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    rows = zip(table["shard"], table["event_id"], table["picture"], table["rationale"], judge(table), strict=True)
    for shard, event_id, picture, rationale, claims in rows:
        of_event = found.setdefault((str(shard), int(event_id)), [])
        of_event.append({"picture": picture, "rationale": rationale, "claims": claims})
    return {key: sorted(rationales, key=lambda one: one["picture"] != "nominal") for key, rationales in found.items()}


def _describe(event: "pd.Series[Any]") -> dict[str, Any]:
    """Identity and truth of an event; unknown values are None."""
    modes = {code: name for name, code in MODES.items()}
    return {
        "shard": str(event["shard"]),
        "event_id": int(event["event_id"]),
        "truth": None if pd.isna(event["class"]) else str(event["class"]),
        "mode": modes[int(event["mode"])] if int(event["mode"]) else None,
        "nu_energy_gev": _known(event["nu_energy"]),
        "inelasticity": _known(event["inelasticity"]),
        "visible_energy_gev": _known(event["visible_energy"] / 1000),
        "vertex_cm": [_known(event[f"vertex_{axis}_mm"] / 10) for axis in "xyz"],
    }


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
