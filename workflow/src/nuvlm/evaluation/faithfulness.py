"""Faithfulness of rationales: their statements against the truth, with a black picture, and at chance level.

A rationale makes up to eight statements: presence of a track and whether it leaves the detector; presence of a shower
and whether it begins after a gap; number of charged particles; track length, shower energy, gap length.
The metrics are defined in docs/report.md.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.tree import DecisionTreeClassifier

from nuvlm.base.classes import class_codes
from nuvlm.base.errors import InputError
from nuvlm.base.files import read_table
from nuvlm.base.stores import open_store
from nuvlm.evaluation.intervals import RESAMPLES, bootstrap, fraction
from nuvlm.evaluation.samples import KEY
from nuvlm.models.vlm.agreement import NUMBERS, is_right

Explanations = Mapping[str, Sequence[str | Path]]
"""Tables of rationales (one per part) of each model that writes them."""
Claims = dict[str, np.ndarray]
"""Statements of n rationales, or of the truth: (n,) float64 for each of STATEMENTS; 1 yes, 0 no, NaN not stated,
CONTRADICTED stated in two ways."""
Shares = dict[str, tuple[np.ndarray, np.ndarray]]
"""Per-event numerators and denominators of each metric, (n,) float64 each."""

YES_NO = ("track", "leaves", "shower", "gap")
"""Binary statements."""
STATEMENTS = ("track", "track_cm", "leaves", "shower", "shower_mev", "gap", "gap_cm", "charged")
THING = {name: "shower" if name in ("shower", "shower_mev", "gap", "gap_cm") else "track" for name in STATEMENTS}
THING["charged"] = "charged"
"""Truth that must be known to judge each statement."""
GAP_CM = 5.0
"""The decision tree ignores shorter gaps: they are not visible in pixels of 5 cm, and are not stated."""
CONTRADICTED = -1.0
"""A statement that the same text contradicts: it is made, and never right."""
SHUFFLES = 200
TREE_DEPTH, TREE_LEAF = 4, 10
"""Maximum depth of the decision tree, and minimum number of events per leaf."""
POINTS = 1000
"""Maximum number of pairs of true and claimed values kept for the figure."""


def read_explanations(paths: Sequence[str | Path]) -> pd.DataFrame:
    """Read and concatenate the tables of rationales of all parts (docs/formats.md).

    Raises:
        InputError: a table is missing, damaged or lacks a column, or an event has two rationales of one picture.
    """
    needed = [*KEY, "class", "predicted", "chosen", "picture", "rationale"]
    needed += [f"{prefix}_{name}" for prefix in ("claim", "true") for name in STATEMENTS]
    tables = []
    for path in paths:
        tables.append(read_table(path, "table of rationales"))
        lacking = [column for column in needed if column not in tables[-1]]
        if lacking:
            raise InputError(f"{path}: has no column {', '.join(lacking)}. Remove the explanations and rerun.")
    table = pd.concat(tables, ignore_index=True)
    twice = table.duplicated([*KEY, "picture"])
    if twice.any():
        row = table[twice].iloc[0]
        raise InputError(
            f"event {row['event_id']} of shard {row['shard']} has two rationales of the picture {row['picture']!r}. "
            "Remove the explanations and rerun."
        )
    return table


def measure_faithfulness(
    events: pd.DataFrame, explanations: Explanations, seed: int, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """Measure the rationales of each model on the test events that were drawn at random.

    Args:
        events: the event table.
        explanations: tables of rationales of each model.
        seed: seed of the shuffles and the bootstrap.
        resamples: number of bootstrap resamples.

    Returns:
        :func:`measure` of each model.

    Raises:
        InputError: an input is unusable; names the file or the event.
    """
    train = events[(events["split"] == "train").fillna(False)]
    test = events.loc[(events["split"] == "test").fillna(False), KEY]
    tree = fit_tree(topology_claims(train), class_codes(train["class"]))
    tables = {model: read_explanations(paths) for model, paths in explanations.items()}
    return {
        model: measure(table[table["chosen"] == "sample"].merge(test, on=KEY), tree, seed, resamples)
        for model, table in tables.items()
    }


def measure(
    table: pd.DataFrame, tree: DecisionTreeClassifier | None, seed: int, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """Measure the rationales of one model.

    Args:
        table: one row per event and picture.
        tree: from :func:`fit_tree`; without it agreement is None.
        seed: seed of the shuffles and the bootstrap.
        resamples: number of bootstrap resamples.

    Returns:
        The keys of :class:`nuvlm.report.schema.Explanation`.

    Raises:
        InputError: an event lacks the rationale of the nominal or the black picture.
    """
    pictures = {str(name): rows.set_index(KEY) for name, rows in table.groupby("picture")}
    nominal = pictures.setdefault("nominal", table.iloc[:0].set_index(KEY))
    _check_pictures(pictures)
    truth, chosen = read_claims(nominal, "true"), class_codes(nominal["predicted"])
    claims = {name: read_claims(rows.reindex(nominal.index), "claim") for name, rows in pictures.items()}
    shares = {name: count(claims[name], truth, chosen, tree) for name in ("nominal", "text_only") if name in claims}
    errors = {
        name: {picture: relative_errors(claims[picture][name], truth[name]) for picture in shares} for name in NUMBERS
    }
    anyone = np.zeros(len(nominal), dtype=np.int64)
    same_label, _ = _exchanged(claims["nominal"], truth, chosen, tree, seed, chosen)
    chance, chance_errors = _exchanged(claims["nominal"], truth, chosen, tree, seed, anyone)
    n = len(nominal)
    references = {"difference": shares.get("text_only"), "beyond_label": same_label}
    intervals = {
        name: bootstrap(partial(_differences, shares["nominal"], reference), n, seed, resamples)
        for name, reference in references.items()
        if reference is not None
    }

    def metric(name: str) -> dict[str, Any]:
        shown = {picture: _share(*of_picture[name], seed, resamples) for picture, of_picture in shares.items()}
        answer: dict[str, Any] = {
            "nominal": shown["nominal"],
            "text_only": shown.get("text_only"),
            "same_label": _number(_ratio(*same_label[name])),
            "chance": _number(_ratio(*chance[name])),
        }
        for key, reference in references.items():
            more = _ratio(*shares["nominal"][name]) - _ratio(*reference[name]) if reference else np.nan
            answer |= {key: _number(more), f"{key}_interval": intervals.get(key, {}).get(name)}
        return answer

    implied, true_class = classify(tree, truth), class_codes(nominal["class"])
    known = np.isfinite(truth["track"]) & np.isfinite(truth["shower"]) & (implied >= 0)
    return {
        "n": n,
        "with_truth": int(np.isfinite([truth[name] for name in STATEMENTS]).any(axis=0).sum()),
        "right": metric("right"),
        "readable": metric("readable"),
        "agreement": metric("agreement"),
        "claims": {
            statement: {
                name.split(".")[1]: metric(name) for name in shares["nominal"] if name.split(".")[0] == statement
            }
            for statement in STATEMENTS
        },
        "errors": {
            name: {
                **errors[name],
                "chance": chance_errors[name],
                "points": _pairs(truth[name], claims["nominal"][name]),
            }
            for name in NUMBERS
        },
        "tree": {
            "depth": TREE_DEPTH,
            "fitted_on": None if tree is None else int(tree.tree_.n_node_samples[0]),
            "agreement": _share(known & (implied == chosen), known, seed, resamples),
            "accuracy": _share(known & (implied == true_class), known, seed, resamples),
        },
    }


def measure_saliency(
    events: pd.DataFrame, stores: Sequence[str | Path], seed: int, resamples: int = RESAMPLES
) -> dict[str, Any] | None:
    """Measure the decrease of the probability of the predicted class when salient, or random, pixels are blackened.

    Uses the same events as :func:`measure_faithfulness`.

    Args:
        events: the event table.
        stores: saliency stores (docs/formats.md), one per part.
        seed: seed of the bootstrap.
        resamples: number of bootstrap resamples.

    Returns:
        `n`; `blackened`, fraction of the pixels with charge; mean decrease if the most salient pixels (`map`) or
        `random` ones are blackened, and the `difference`, each with its interval; None without stores.
    """
    falls: dict[str, list[float]] = {"map": [], "random": []}
    test = set(zip(*(events.loc[(events["split"] == "test").fillna(False), key] for key in KEY), strict=True))
    blackened = None
    for path in stores:
        store = open_store(path, "nuvlm-cam")
        blackened = store.attrs["blackened"]
        keys = zip(store.attrs["shard"], store["event_id"][:].tolist(), strict=True)
        drawn = [chosen == "sample" and key in test for key, chosen in zip(keys, store.attrs["chosen"], strict=True)]
        for name, column in zip(store.attrs["fall"], store["fall"][:].T, strict=True):
            falls[name] += column[drawn].astype(np.float64).tolist()
    if blackened is None:
        return None
    values = {name: np.array(fall) for name, fall in falls.items()}
    values["difference"] = values["map"] - values["random"]
    n = len(values["map"])
    intervals = bootstrap(
        lambda weights: {name: weights @ value / n for name, value in values.items()}, n, seed, resamples
    )
    measured: dict[str, Any] = {"n": n, "blackened": blackened}
    for name, value in values.items():
        measured |= {name: float(value.mean()) if n else None, f"{name}_interval": intervals.get(name)}
    return measured


def count(claims: Claims, truth: Claims, chosen: np.ndarray, tree: DecisionTreeClassifier | None) -> Shares:
    """Per-event numerators and denominators of all rationale metrics.

    A statement about a thing that does not exist is wrong; statements with unknown truth are not judged.

    Args:
        claims: statements of n rationales.
        truth: true statements of the same events.
        chosen: (n,) index of the class that the model chose.
        tree: from :func:`fit_tree`.

    Returns:
        `<statement>.made` of all rationales; `<statement>.right` of those made; for binary statements
        `<statement>.precision` and `<statement>.recall` of yes; `charged.within_one`; `right` of all statements;
        `readable` and `agreement` of all rationales.
    """
    shares: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    everything = np.ones(len(chosen), dtype=bool)
    for name in STATEMENTS:
        claim, true = claims[name], truth[name]
        known, made = np.isfinite(truth[THING[name]]), np.isfinite(claim)
        shares[f"{name}.made"] = made, everything
        shares[f"{name}.right"] = known & is_right(name, claim, true), known & made
        if name in YES_NO:
            shares[f"{name}.precision"] = known & (claim == 1) & (true == 1), known & (claim == 1)
            shares[f"{name}.recall"] = (claim == 1) & (true == 1), true == 1
        if name == "charged":
            shares[f"{name}.within_one"] = known & (claim >= 0) & (np.abs(claim - true) <= 1), known & made
    right = [shares[f"{name}.right"] for name in STATEMENTS]
    shares["right"] = np.sum([above for above, _ in right], axis=0), np.sum([below for _, below in right], axis=0)
    readable = np.isfinite(np.stack([claims[name] for name in STATEMENTS])).any(axis=0)
    shares["readable"] = readable, everything
    implied = classify(tree, claims)
    shares["agreement"] = readable & (implied == chosen), implied >= 0
    return {name: (above.astype(np.float64), below.astype(np.float64)) for name, (above, below) in shares.items()}


def judge(table: pd.DataFrame) -> list[list[dict[str, Any]]]:
    """Judge every claim of each rationale.

    Args:
        table: n rationales.

    Returns:
        For each rationale its claims in the order of :data:`STATEMENTS`: `statement`, `claimed`, `true`, `right`.
        `true` is None if the event has no such thing or the truth is unknown; `right` is None in the latter case.
    """
    claims, truth = read_claims(table, "claim"), read_claims(table, "true")
    verdicts: list[list[dict[str, Any]]] = [[] for _ in range(len(table))]
    for name in STATEMENTS:
        known, right = np.isfinite(truth[THING[name]]), is_right(name, claims[name], truth[name])
        for i in np.flatnonzero(np.isfinite(claims[name])):
            verdict = {"statement": name, "claimed": float(claims[name][i]), "true": _number(truth[name][i])}
            verdicts[i].append(verdict | {"right": bool(right[i]) if known[i] else None})
    return verdicts


def relative_errors(claim: np.ndarray, true: np.ndarray) -> dict[str, Any]:
    """Relative errors claimed / true - 1: `n`, `median`, and `spread`, the 68 % quantile of the absolute error."""
    both = np.isfinite(claim) & (claim >= 0) & (true > 0)
    error = claim[both] / true[both] - 1
    if not len(error):
        return {"n": 0, "median": None, "spread": None}
    return {"n": len(error), "median": float(np.median(error)), "spread": float(np.quantile(np.abs(error), 0.68))}


def fit_tree(truth: Claims, classes: np.ndarray) -> DecisionTreeClassifier | None:
    """Fit a shallow decision tree from true statements to the class; None without training events.

    Args:
        truth: true statements of n events; events with unknown truth are left out.
        classes: (n,) index of the true class; -1 if unknown.
    """
    features = _features(truth)
    usable = np.isfinite(features).all(axis=1) & (classes >= 0)
    if not usable.any():
        return None
    tree = DecisionTreeClassifier(max_depth=TREE_DEPTH, min_samples_leaf=TREE_LEAF, random_state=0)
    return tree.fit(features[usable], classes[usable])


def classify(tree: DecisionTreeClassifier | None, claims: Claims) -> np.ndarray:
    """(n,) index of the class that claims imply; -1 without a tree. Missing claims follow the majority branch."""
    features = _features(claims)
    if tree is None or not len(features):
        return np.full(len(features), -1)
    return np.asarray(tree.predict(features), dtype=np.int64)


def topology_claims(events: pd.DataFrame) -> Claims:
    """True statements from the topology columns of the event table (docs/formats.md), unrounded."""
    columns = ("charged", "track_mm", "track_leaves", "shower_mev", "shower_gap_mm")
    charged, track, leaves, shower, gap = (
        events[name].astype("Float64").to_numpy(np.float64, na_value=np.nan)
        if name in events
        else np.full(len(events), np.nan)
        for name in columns
    )
    yes = {"track": track > 0, "shower": shower > 0, "gap": gap > 0}
    known = {"track": np.isfinite(track), "shower": np.isfinite(shower), "gap": np.isfinite(gap)}
    stated = {name: np.where(known[name], yes[name], np.nan) for name in yes}
    stated |= {"leaves": np.where(yes["track"], leaves, np.nan), "charged": charged}
    stated |= {"track_cm": np.where(yes["track"], track / 10, np.nan)}
    return stated | {
        "shower_mev": np.where(yes["shower"], shower, np.nan),
        "gap_cm": np.where(yes["gap"], gap / 10, np.nan),
    }


def read_claims(table: pd.DataFrame, prefix: str) -> Claims:
    """Claims (prefix ``claim``) or truth (prefix ``true``) of a table of rationales."""
    return {
        name: table[f"{prefix}_{name}"].astype("Float64").to_numpy(np.float64, na_value=np.nan) for name in STATEMENTS
    }


def _features(claims: Claims) -> np.ndarray:
    """(n, 5) for the tree: charged particles, length, leaves, energy, gap; 0 if the thing is absent."""
    none = {name: claims[thing] == 0 for name, thing in THING.items()}
    none["gap_cm"] |= (claims["gap"] == 0) | (claims["gap_cm"] < GAP_CM)
    columns = [np.where(none[name], 0, claims[name]) for name in ("track_cm", "leaves", "shower_mev", "gap_cm")]
    return np.stack([claims["charged"], *columns], axis=1)


def _check_pictures(pictures: Mapping[str, pd.DataFrame]) -> None:
    """Check that every event has a rationale of the nominal picture, and of the black one if others have."""
    nominal = pictures["nominal"].index
    for name, rows in pictures.items():
        lost = rows.index.difference(nominal)
        if name == "text_only":
            lost = lost.union(nominal.difference(rows.index))
        if len(lost):
            shard, event = lost[0]
            raise InputError(
                f"event {event} of shard {shard} has a rationale of only one of the pictures nominal and {name}. "
                "Remove the explanations and rerun."
            )


def _exchanged(
    claims: Claims,
    truth: Claims,
    chosen: np.ndarray,
    tree: DecisionTreeClassifier | None,
    seed: int,
    groups: np.ndarray,
) -> tuple[Shares, dict[str, dict[str, float | None]]]:
    """Metrics and errors of rationales exchanged within groups of events, (n,) group of each: means over shuffles."""
    rng = np.random.default_rng(seed)
    shares: dict[str, list[tuple[np.ndarray, np.ndarray]]] = defaultdict(list)
    errors: dict[tuple[str, str], list[float | None]] = defaultdict(list)
    order = np.argsort(groups, kind="stable")
    for _ in range(SHUFFLES):
        source = np.empty_like(order)
        source[order] = np.lexsort([rng.random(len(groups)), groups])
        exchanged = {name: values[source] for name, values in claims.items()}
        for name, share in count(exchanged, truth, chosen, tree).items():
            shares[name].append(share)
        for name in NUMBERS:
            error = relative_errors(exchanged[name], truth[name])
            for key in ("median", "spread"):
                errors[name, key].append(error[key])
    means = {name: np.mean(values, axis=0) for name, values in shares.items()}
    return (
        {name: (mean[0], mean[1]) for name, mean in means.items()},
        {name: {key: _mean(errors[name, key]) for key in ("median", "spread")} for name in NUMBERS},
    )


def _pairs(true: np.ndarray, claim: np.ndarray) -> list[list[float]]:
    """Pairs of true and claimed value."""
    pairs = np.stack([true, claim], axis=1)
    kept: list[list[float]] = pairs[np.isfinite(pairs).all(axis=1) & (claim >= 0)][:POINTS].tolist()
    return kept


def _share(above: np.ndarray, below: np.ndarray, seed: int, resamples: int) -> dict[str, Any]:
    """`value`, `interval`, `n` of a fraction: Clopper-Pearson, or bootstrap if an event counts more than once."""
    if below.max(initial=0) <= 1:
        return fraction(above, below)
    interval = bootstrap(lambda weights: {"": _divide(weights @ above, weights @ below)}, len(above), seed, resamples)
    return {"value": _number(_ratio(above, below)), "interval": interval[""], "n": int(below.sum())}


def _differences(shares: Shares, reference: Shares, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Difference of every metric to `reference`, for many resamples (b, n) at once."""
    return {
        name: _divide(weights @ above, weights @ below) - _divide(*(weights @ part for part in reference[name]))
        for name, (above, below) in shares.items()
    }


def _divide(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full_like(below, np.nan, dtype=np.float64), where=below > 0)


def _ratio(above: np.ndarray, below: np.ndarray) -> float:
    return float(above.sum() / below.sum()) if below.sum() else float("nan")


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None and np.isfinite(value)]
    return float(np.mean(known)) if known else None


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
