"""Do answers, claims and saliency follow a particle of the simulation? Measured with counterfactual events.

Each counterfactual event (:mod:`nuvlm.simulation.counterfactuals`) is paired with the event that it was made from: the
same event but for one particle, in the same window. Explained events that were chosen because a model is wrong about
them do not count. The control is the same event with the shower drawn again: how many answers change with a change that
argues for no other answer.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from nuvlm.base.classes import CLASSES, class_codes
from nuvlm.base.stores import open_store
from nuvlm.dataset.event_table import NO_PART
from nuvlm.dataset.pixelmaps import image_settings, read_blocks
from nuvlm.detector.grayscale import energy_of_grey
from nuvlm.evaluation.faithfulness import STATEMENTS, Claims, Explanations, read_claims, read_explanations
from nuvlm.evaluation.intervals import RESAMPLES, bootstrap, bootstrap_means, fraction, paired_difference
from nuvlm.evaluation.samples import KEY, Predictions, Sample, read_sample
from nuvlm.models.explained_events import SAMPLE
from nuvlm.models.head.cells import cell_pixels
from nuvlm.models.vlm.agreement import is_right
from nuvlm.simulation.counterfactuals import AS_SIMULATED, CONTROLS, KINDS

SaliencyMaps = dict[tuple[str, int], Callable[[], np.ndarray]]
"""Shard and id of an event -> its map, read when it is needed."""
AT_ONCE = 64
"""Pairs whose pixel maps are in memory at the same time."""


class Expected(NamedTuple):
    """What physics expects of a kind of counterfactual events."""

    truths: tuple[str, ...]
    """Classes of the events as simulated that are counted."""
    tracked: str
    """The class whose probability should change."""
    rises: bool


EXPECTED = {
    "without_electron": Expected(("nue_cc",), "nue_cc", False),
    "without_muon": Expected(("numu_cc",), "numu_cc", False),
    "without_photons": Expected(("numu_cc", "nc"), "nue_cc", False),
    "electron_after_gap": Expected(("nue_cc",), "nue_cc", False),
    "photons_after_gap": Expected(("numu_cc", "nc"), "nue_cc", False),
    "photons_at_vertex": Expected(("numu_cc", "nc"), "nue_cc", True),
}
"""An electron starts at the vertex; photons begin their shower after a gap. Nothing is expected of the controls."""


def measure_counterfactuals(
    events: pd.DataFrame,
    predictions: Predictions,
    explanations: Explanations,
    saliency: Mapping[str, Sequence[str | Path]],
    stores: Mapping[str, Path],
    seed: int,
    resamples: int = RESAMPLES,
) -> dict[str, Any] | None:
    """Measure how answers, claims and saliency maps follow what is changed in the events.

    Args:
        events: the event table.
        predictions: prediction tables of each model under each condition; the first one is used.
        explanations: tables of rationales of each model that writes them.
        saliency: stores of saliency maps of each model that has them; tables of rationales may have maps, too.
        stores: pixel-map store of each shard.
        seed: of the bootstrap.
        resamples: number of bootstrap resamples.

    Returns:
        The keys of :class:`nuvlm.report.schema.Counterfactuals`; None in a run without counterfactual events.

    Raises:
        InputError: an input is unusable; names the file or the event.
    """
    if "counterfactual" not in events:
        return None
    events = events[events["part"] != NO_PART].reset_index(drop=True)
    pairs = pair(events)
    places = pd.Series(np.arange(len(events)), index=pd.MultiIndex.from_frame(events[KEY]))
    first, second = (places.loc[pd.MultiIndex.from_frame(rows[KEY])].to_numpy() for rows in pairs)
    samples = {model: read_sample(events, next(iter(tables.values()))) for model, tables in predictions.items()}
    answers = {model: (_take(sample, first), _take(sample, second)) for model, sample in samples.items()}
    rationales = {model: read_explanations(tables) for model, tables in explanations.items()}
    maps = {model: _stored_maps(paths) for model, paths in saliency.items()}
    maps |= {model: _written_maps(table) for model, table in rationales.items() if "saliency" in table}
    return {
        "pairs": {kind: int((pairs[1]["counterfactual"] == kind).sum()) for kind in KINDS},
        "answers": {model: list(_answers(pairs, *of_model, seed, resamples)) for model, of_model in answers.items()},
        "claims": {model: _claims(pairs[1], table) for model, table in rationales.items()},
        "saliency": {
            model: measure_overlap(pairs, *answers[model], of_model, stores, seed, resamples)
            for model, of_model in maps.items()
        },
    }


def pair(events: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The events as simulated and changed, row by row, one row a pair; without pairs whose original was left out."""
    changed = events[events["counterfactual"].isin(list(KINDS))]
    originals = events[events["counterfactual"] == AS_SIMULATED].set_index(KEY)
    index = pd.MultiIndex.from_frame(changed[["shard", "original"]], names=KEY)
    known = index.isin(originals.index)
    return originals.loc[index[known]].reset_index(), changed[known].reset_index(drop=True)


def _take(sample: Sample, rows: np.ndarray) -> Sample:
    """The predictions of some events, which may repeat."""
    return Sample(*(getattr(sample, field.name)[rows] for field in fields(Sample)))


def _answers(
    pairs: tuple[pd.DataFrame, pd.DataFrame], before: Sample, after: Sample, seed: int, resamples: int
) -> Iterator[dict[str, Any]]:
    """Yield the answers of one model for each kind and class of the events as simulated."""
    for kind, (truths, tracked, rises) in EXPECTED.items():
        column = CLASSES.index(tracked)
        controls = _control(pairs[1], CONTROLS.get(KINDS[kind].particles, ""))
        for truth in truths:
            rows = np.flatnonzero((pairs[1]["counterfactual"] == kind) & (pairs[0]["class"] == truth))
            first, second = before.predicted[rows], after.predicted[rows]
            called, then = first == column, second == column
            # Only an answer that the change argues against can follow it.
            concerned = ~called if rises else called
            control = controls[rows]
            both = concerned & (control >= 0)
            again = (after.predicted[control] == column) == rises
            beyond, beyond_interval = paired_difference((then == rises)[both], again[both])
            shift = (after.probabilities - before.probabilities)[rows, column]
            yield {
                "kind": kind,
                "truth": truth,
                "tracked": tracked,
                "rises": rises,
                "before": fraction(called, np.ones_like(called)),
                "after": fraction(then, np.ones_like(then)),
                "follows": fraction(concerned & (then == rises), concerned),
                "control": fraction(both & again, both),
                "beyond_control": beyond,
                "beyond_control_interval": beyond_interval,
                "changed": fraction(first != second, np.ones_like(called)),
                "answers_after": dict(zip(CLASSES, np.bincount(second[concerned], minlength=3).tolist(), strict=True)),
                "shift": float(shift.mean()) if len(shift) else None,
                "shift_interval": bootstrap_means(shift[:, None], seed, resamples)[0] if len(shift) else None,
            }


def _control(changed: pd.DataFrame, control: str) -> np.ndarray:
    """(n,) for each of `changed` the row in which its event is changed in the way `control`; -1 without one."""
    names = pd.MultiIndex.from_frame(changed[["shard", "original"]])
    rows = np.flatnonzero(changed["counterfactual"] == control)
    found = names[rows].get_indexer(names)
    return np.append(rows, -1)[found]


def _claims(changed: pd.DataFrame, rationales: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """By kind and statement: right claims that the change makes wrong, and those that it does not concern.

    `follows`: of right claims that would be wrong of the changed event, those that the rationale of the changed event
    makes right; `stays`: of right claims that are still true, those that are made again. A thing that is not there is
    stated right if nothing is said of it.
    """
    nominal = rationales[(rationales["picture"] == "nominal") & (rationales["chosen"] == SAMPLE)].set_index(KEY)
    one, other = (
        pd.MultiIndex.from_frame(changed[["shard", name]], names=KEY).isin(nominal.index)
        for name in ("original", "event_id")
    )
    changed = changed[one & other]
    tables = [
        nominal.loc[pd.MultiIndex.from_frame(changed[["shard", name]], names=KEY)] for name in ("original", "event_id")
    ]
    (claim, true), (claim_then, true_then) = ((read_claims(t, "claim"), read_claims(t, "true")) for t in tables)
    found: dict[str, dict[str, Any]] = {}
    for kind in KINDS:
        rows = (changed["counterfactual"] == kind).to_numpy()
        found[kind] = {}
        for name in STATEMENTS:
            right = rows & _agree(name, claim, true)
            right_then = _agree(name, claim_then, true_then)
            still = _agree(name, true, true_then)
            found[kind][name] = {
                "follows": fraction(right & ~still & right_then, right & ~still),
                "stays": fraction(right & still & right_then, right & still),
            }
    return found


def _agree(name: str, claims: Claims, truth: Claims) -> np.ndarray:
    """(n,) bool: a claim is right, or neither says anything."""
    nothing = np.isnan(claims[name]) & np.isnan(truth[name])
    agree: np.ndarray = nothing | is_right(name, claims[name], truth[name])
    return agree


def measure_overlap(
    pairs: tuple[pd.DataFrame, pd.DataFrame],
    before: Sample,
    after: Sample,
    maps: SaliencyMaps,
    stores: Mapping[str, Path],
    seed: int,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Measure how much of a saliency map lies on the particle that is left out.

    Pairs of events without an electron, a muon or photons count if the answer for the event as simulated was the class
    that the particle argues for. Each pixel with charge counts with the fraction of its charge that the particle has
    left there.

    Args:
        pairs: see :func:`pair`.
        before, after: predictions of the model for them.
        maps: its saliency maps of the events as simulated, for the class that was answered.
        stores: pixel-map store of each shard.
        seed: of the bootstrap.
        resamples: number of bootstrap resamples.

    Returns:
        `groups`, of `all` pairs and those whose answer `flips` or `stays`: `n`, means of the `saliency`, of the
        `charge` and of the `area` on the particle, and of the differences `beyond_charge` and `beyond_area` with their
        intervals; `difference` of `beyond_charge`, `flips` minus `stays`, with its interval.
    """
    answers = {kind: of.tracked for kind, of in EXPECTED.items() if KINDS[kind].change == "left out"}
    left_out = pairs[1]["counterfactual"].isin(list(answers)).to_numpy(dtype=bool)
    tracked = class_codes(pairs[1]["counterfactual"].map(answers).astype("string"))
    names = list(zip(pairs[0]["shard"], pairs[0]["event_id"].tolist(), strict=True))
    mapped = np.array([name in maps for name in names], dtype=bool)
    rows = np.flatnonzero(left_out & (before.predicted == tracked) & mapped)
    settings = image_settings(stores)
    energy = energy_of_grey(**{name: settings[name] for name in ("transfer", "white_mev", "knee_mev")})
    shares = np.full((len(rows), 3), np.nan)
    for begin in range(0, len(rows), AT_ONCE):
        some = rows[begin : begin + AT_ONCE]
        first, second = (energy[_images(table.iloc[some].reset_index(drop=True), stores)] for table in pairs)
        for i, row in enumerate(some):
            shares[begin + i] = overlap(_of_size(maps[names[row]](), first[i].shape), first[i], second[i])
    flips = after.predicted[rows] != before.predicted[rows]
    known = np.isfinite(shares).all(axis=1)  # not so of an empty map
    shares, flips = shares[known], flips[known]
    groups = {"all": np.ones_like(flips), "flips": flips, "stays": ~flips}
    beyond, sign = shares[:, 0] - shares[:, 1], np.stack([flips, ~flips]).astype(np.float64)

    def difference(weights: np.ndarray) -> dict[str, np.ndarray]:
        with np.errstate(invalid="ignore"):  # a group may be empty
            means = [(weights * group) @ beyond / (weights @ group) for group in sign]
        return {"difference": means[0] - means[1]}

    value = difference(np.ones((1, len(beyond))))["difference"][0]
    return {
        "groups": {name: _mean_overlap(shares[group], seed, resamples) for name, group in groups.items()},
        "difference": float(value) if np.isfinite(value) else None,
        "difference_interval": bootstrap(difference, len(beyond), seed, resamples).get("difference"),
    }


def overlap(saliency: np.ndarray, before: np.ndarray, after: np.ndarray) -> tuple[float, float, float]:
    """Fractions of the saliency, the charge and the area that lie on what is left out; NaN for an empty map.

    Args:
        saliency: at least 0; counted in pixels with charge.
        before, after: energy in each pixel of the event and of the event without the particle, same shape, MeV.
    """
    lit = before > 0
    charge, weight = before[lit], saliency[lit]
    part = np.clip(1 - after[lit] / charge, 0, 1)
    if not weight.sum():
        return np.nan, np.nan, np.nan
    return float(part @ weight / weight.sum()), float(part @ charge / charge.sum()), float(part.mean())


def _stored_maps(paths: Sequence[str | Path]) -> SaliencyMaps:
    """Of stores of saliency maps (docs/formats.md), of events that were drawn."""
    maps: SaliencyMaps = {}
    for path in paths:
        store = open_store(path, "nuvlm-cam")
        keys = zip(store.attrs["shard"], store["event_id"][:].tolist(), strict=True)
        drawn = [chosen == SAMPLE for chosen in store.attrs["chosen"]]
        maps |= {key: partial(store["maps"].__getitem__, row) for row, key in enumerate(keys) if drawn[row]}
    return maps


def _written_maps(table: pd.DataFrame) -> SaliencyMaps:
    """Of a table of rationales, of events that were drawn."""
    rows = table[table["saliency"].notna() & (table["chosen"] == SAMPLE)]
    keys = zip(rows["shard"], rows["event_id"].tolist(), strict=True)
    return {key: partial(np.asarray, values) for key, values in zip(keys, rows["saliency"], strict=True)}


def _of_size(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """float64 of `shape` (views, size, size): a map, or one value for each cell of the views, in their order."""
    if values.shape != shape:
        side = cell_pixels(shape[1])
        cells = -(-shape[1] // side)
        values = np.kron(values.reshape(shape[0], cells, cells), np.ones((1, side, side)))[:, : shape[1], : shape[2]]
    return values.astype(np.float64)


def _images(events: pd.DataFrame, stores: Mapping[str, Path]) -> np.ndarray:
    """uint8 (n, views, size, size), in the order of `events`."""
    images: dict[int, np.ndarray] = {}
    for where, block in read_blocks(stores, events, AT_ONCE):
        images.update(zip(np.arange(len(events))[where].tolist(), block, strict=True))
    return np.stack([images[i] for i in range(len(events))])


def _mean_overlap(shares: np.ndarray, seed: int, resamples: int) -> dict[str, Any]:
    """Means over (n, 3) of :func:`overlap`."""
    columns = np.concatenate([shares, shares[:, :1] - shares[:, 1:]], axis=1)
    intervals = bootstrap_means(columns, seed, resamples) if len(shares) else [None] * 5
    names = ("saliency", "charge", "area", "beyond_charge", "beyond_area")
    found: dict[str, Any] = {"n": len(shares)}
    for i, name in enumerate(names):
        found[name] = float(columns[:, i].mean()) if len(shares) else None
        if name.startswith("beyond"):
            found[f"{name}_interval"] = intervals[i]
    return found
