"""Systematic uncertainties: how far efficiencies and background move with each nuisance, on the same events.

Formulas are in docs/systematics.md. Efficiency: the share of the events of a class that is predicted as that class;
background: the share of the other events that is predicted as nu_e CC; purity: the share of the events predicted as a
class that belongs to it. A prediction is the class with the highest probability. An event that a variation has lost
(its charge is not read out) is predicted as nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nuvlm.base.classes import CLASSES
from nuvlm.base.errors import InputError
from nuvlm.dataset.topology import count_particles
from nuvlm.detector.geometry import Detector
from nuvlm.detector.voxels import open_shard
from nuvlm.evaluation.intervals import LEVEL, RESAMPLES, draws, percentile_interval
from nuvlm.evaluation.nuisances import COUNTS, MINUS, NOMINAL, PLUS, TRUTH, Nuisance, Reweighting

LOST = -1
"""Prediction of an event that a variation does not have."""
BACKGROUND = f"background_{CLASSES[0]}"
IN_COVARIANCE = (*(f"efficiency_{name}" for name in CLASSES), BACKGROUND)
"""Quantities of the covariance matrix, in its order."""
QUANTITIES = (*IN_COVARIANCE, *(f"purity_{name}" for name in CLASSES))
LEAST_MEV = {"n_proton": 20.0}
"""Kinetic energy from which particles are counted, as in the tables of the sampler (docs/simulation.md)."""


@dataclass(frozen=True)
class Varied:
    """What a model answers in a variation."""

    predicted: np.ndarray
    """(n,) index into CLASSES, or LOST; the n events are those of the nominal sample."""
    weights: np.ndarray
    """(n,) of the events; 1 where nothing is reweighted."""


def weights_of(
    events: pd.DataFrame, shards: Mapping[str, Path], detector: Detector, nuisances: Sequence[Nuisance]
) -> dict[str, np.ndarray]:
    """Variation -> weights (n,) of the events, of each nuisance that reweights them.

    Args:
        events: n rows of the event table.
        shards: shard -> its voxels, of which the final states are read if particles are counted.
        detector: their geometry.
        nuisances: which reweight, or do not.

    Raises:
        InputError: the truth by which a nuisance reweights is unknown, or it gives all events the same weight, which
            changes no efficiency; names the nuisance.
    """
    weighted = [(nuisance, nuisance.weights) for nuisance in nuisances if nuisance.weights is not None]
    wanted = {column: nuisance.name for nuisance, weights in weighted for column in weights.columns}
    known = events.reindex(columns=[name for name in TRUTH if name in wanted])
    truth = {name: known[name].to_numpy(object if name == "class" else np.float64) for name in TRUTH if name in wanted}
    if counts := [name for name in wanted if name in COUNTS]:
        tables = []
        for name, path in shards.items():
            with open_shard(path, detector, "skip") as shard:
                ids, particles = shard.events["event_id"], shard.truth("particles")
            if particles is None:
                raise InputError(
                    f"nuisance {wanted[counts[0]]} counts particles of the final state, which {path} does not have "
                    "(/truth/particles). Remove the nuisance."
                )
            columns = {of: count_particles(ids, particles, COUNTS[of], LEAST_MEV.get(of, 0)) for of in counts}
            tables.append(pd.DataFrame({"shard": name, "event_id": ids} | columns))
        joined = events[["shard", "event_id"]].merge(pd.concat(tables), on=["shard", "event_id"], how="left")
        truth |= {name: joined[name].to_numpy(np.float64) for name in counts}
    for name, values in truth.items():
        if pd.isna(values).all():
            raise InputError(
                f"nuisance {wanted[name]} reweights by {name}, which is unknown for all test events. Remove the "
                "nuisance."
            )
    found = {}
    for nuisance, weights in weighted:
        for variation, factor in nuisance.variations.items():
            found[variation] = factors(truth | {"event_id": events["event_id"].to_numpy()}, weights, float(factor))
            if np.ptp(found[variation]) == 0:
                raise InputError(
                    f"nuisance {nuisance.name}: its weights choose none or all of the {len(events)} test events, so no "
                    "efficiency would change. Mend weights, or remove the nuisance."
                )
    return found


def factors(truth: Mapping[str, np.ndarray], reweighting: Reweighting, factor: float) -> np.ndarray:
    """Weights (n,) of events for a factor on some of them.

    Args:
        truth: column -> (n,) values; a value that is unknown is NaN or None.
        reweighting: which events, and how.
        factor: of one standard deviation.
    """
    chosen = None
    for column, wanted in reweighting.where.items():
        values = truth[column]
        if isinstance(wanted, str | float | int):
            holds = values == wanted
        else:
            holds = np.isfinite(values)
            holds &= True if wanted.low is None else values >= wanted.low
            holds &= True if wanted.high is None else values < wanted.high
        chosen = holds if chosen is None else chosen & holds
    first = next(iter(truth.values()))
    chosen = np.ones(len(first), dtype=bool) if chosen is None else np.asarray(chosen, dtype=bool)
    power = np.ones(len(first)) if reweighting.per is None else np.nan_to_num(truth[reweighting.per].astype(np.float64))
    weights: np.ndarray = np.where(chosen, factor**power, 1.0)
    return weights


def measure(
    truth: np.ndarray,
    answers: Mapping[str, Mapping[str, Varied]],
    nuisances: Sequence[Nuisance],
    seed: int,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Shifts, covariance and comparison of models.

    Args:
        truth: (n,) index into CLASSES of each event.
        answers: model -> variation -> answers; ``nominal`` and both variations of each nuisance, or its one.
        nuisances: in the order of the report.
        seed: of the bootstrap. All models and variations have the same resamples, so differences are paired.
        resamples: their number.

    Returns:
        `models[model]` with `nominal` (quantity -> `value`, `statistical`, `interval`), `shifts[nuisance]`
        (`plus`, `minus` and `shift`: quantity -> `value`, `error`, `interval`, `resolved`), `covariance` (matrix in the
        order of `quantities`), `total` (quantity -> `systematic`, `noise`, `statistical`), `movement` and `lost`
        (variation -> events); `quantities`; `least`, see :func:`_compare`. Values that are undefined are None.
    """
    models: dict[str, Any] = {}
    movements: dict[str, tuple[float, np.ndarray]] = {}
    for model, varied in answers.items():
        values, drawn = _values(truth, varied, seed, resamples)
        models[model], movements[model] = _of_model(values, drawn, nuisances)
        models[model]["lost"] = {
            name: int((answer.predicted == LOST).sum()) for name, answer in varied.items() if name != NOMINAL
        }
    return {
        "events": {name: int((truth == k).sum()) for k, name in enumerate(CLASSES)},
        "quantities": list(IN_COVARIANCE),
        "models": models,
        "least": _compare(movements),
    }


def covariance(shifts: np.ndarray) -> np.ndarray:
    """Covariance matrix (q, q) of independent nuisances: the sum of the outer products of their shifts.

    V_ij = sum over k of d_ki d_kj, the linear propagation of uncertainties (R. Barlow, arXiv hep-ex/0207026).

    Args:
        shifts: (nuisances, q), for one standard deviation each.
    """
    matrix: np.ndarray = shifts.T @ shifts
    return matrix


def symmetrise(plus: np.ndarray, minus: np.ndarray | None) -> np.ndarray:
    """The shift of one standard deviation: half the difference of both sides; of a one-sided nuisance, all of it."""
    return plus if minus is None else (plus - minus) / 2


def _values(
    truth: np.ndarray, varied: Mapping[str, Varied], seed: int, resamples: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Variation -> quantities (q,), and those of the resamples (resamples, q)."""
    n = len(truth)
    is_class = np.eye(len(CLASSES))[truth]  # (n, classes)
    columns = []
    for answer in varied.values():
        chosen = (answer.predicted[:, None] == np.arange(len(CLASSES))) * answer.weights[:, None]
        true = is_class * answer.weights[:, None]
        right, other = chosen * is_class, 1 - is_class[:, :1]
        columns += [right, chosen[:, :1] * other, right, true, answer.weights[:, None] * other, chosen]
    # (n, variations x 2 x quantities): numerators, then denominators, of each variation.
    table = np.concatenate(columns, axis=1)

    def quantities(sums: np.ndarray) -> np.ndarray:
        parts = sums.reshape(len(sums), len(varied), 2, len(QUANTITIES))
        with np.errstate(invalid="ignore", divide="ignore"):
            ratios: np.ndarray = np.where(parts[:, :, 1] > 0, parts[:, :, 0] / parts[:, :, 1], np.nan)
        return ratios

    once = quantities(table.sum(axis=0, keepdims=True))[0]
    drawn = np.concatenate([quantities(weights @ table) for weights in draws(n, seed, resamples)])
    return dict(zip(varied, once, strict=True)), {name: drawn[:, i] for i, name in enumerate(varied)}


def _of_model(
    values: Mapping[str, np.ndarray], drawn: Mapping[str, np.ndarray], nuisances: Sequence[Nuisance]
) -> tuple[dict[str, Any], tuple[float, np.ndarray]]:
    """The results of a model, and its movement: without noise, and of the resamples (see :func:`_compare`)."""
    nominal, q = values[NOMINAL], len(IN_COVARIANCE)
    shifts: dict[str, Any] = {}
    found, errors = np.zeros((len(nuisances), len(QUANTITIES))), np.zeros((len(nuisances), len(QUANTITIES)))
    squares = np.zeros(len(drawn[NOMINAL]))
    for k, nuisance in enumerate(nuisances):
        sides = {variation.removeprefix(f"{nuisance.name}_"): variation for variation in nuisance.variations}
        moved = {side: values[name] - nominal for side, name in sides.items()}
        again = {side: drawn[name] - drawn[NOMINAL] for side, name in sides.items()}
        moved["shift"] = symmetrise(moved[PLUS], moved.get(MINUS))
        again["shift"] = symmetrise(again[PLUS], again.get(MINUS))
        shifts[nuisance.name] = {side: _described(moved[side], again[side]) for side in moved}
        found[k], errors[k] = moved["shift"], _error(again["shift"])
        squares += np.nansum(again["shift"][:, :q] ** 2, axis=1)
    statistical = _error(drawn[NOMINAL])
    noise = np.sqrt((errors**2).sum(axis=0))
    total = np.sqrt((found**2).sum(axis=0))
    excess = float(np.nansum(noise[:q] ** 2))
    # The square of a measured shift exceeds that of the true one by its variance; a resample's, by twice of it.
    movement = float(np.nansum(total[:q] ** 2)) - excess
    return {
        "nominal": {
            name: {
                "value": _number(nominal[i]),
                "statistical": _number(statistical[i]),
                "interval": percentile_interval(drawn[NOMINAL][:, i]),
            }
            for i, name in enumerate(QUANTITIES)
        },
        "shifts": shifts,
        "covariance": [[_number(value) for value in row] for row in covariance(found[:, :q])],
        "total": {
            name: {
                "systematic": _number(total[i]),
                "noise": _number(noise[i]),
                "statistical": _number(statistical[i]),
            }
            for i, name in enumerate(QUANTITIES)
        },
        "movement": float(np.sqrt(max(movement, 0.0))),
    }, (movement, squares - 2 * excess)


def _described(moved: np.ndarray, again: np.ndarray) -> dict[str, Any]:
    """Quantity -> shift, its statistical error, its 95 % interval, and whether that excludes 0."""
    errors = _error(again)
    described = {}
    for i, name in enumerate(QUANTITIES):
        interval = percentile_interval(again[:, i])
        resolved = interval is not None and not interval[0] <= 0 <= interval[1]
        described[name] = {
            "value": _number(moved[i]), "error": _number(errors[i]), "interval": interval, "resolved": resolved,
        }  # fmt: skip
    return described


def _compare(movements: Mapping[str, tuple[float, np.ndarray]]) -> dict[str, Any] | None:
    """The model that moves least, and whether the others move more beyond the errors of the differences.

    The movement squared is the trace of the covariance matrix minus its statistical part.

    Returns:
        `model`; `others[model]`: the 95 % interval of its movement squared minus that of the least; `claimed`: all of
        these intervals exclude 0. None if there is only one model.
    """
    if len(movements) < 2:
        return None
    least = min(movements, key=lambda model: movements[model][0])
    others = {
        model: percentile_interval(again - movements[least][1])
        for model, (_, again) in movements.items()
        if model != least
    }
    claimed = all(interval is not None and interval[0] > 0 for interval in others.values())
    return {"model": least, "others": others, "claimed": claimed, "level": LEVEL}


def _error(drawn: np.ndarray) -> np.ndarray:
    """Standard deviation (q,) of resamples (resamples, q), over those that are defined."""
    defined = np.isfinite(drawn)
    count = np.maximum(defined.sum(axis=0), 1)
    mean = np.where(defined, drawn, 0).sum(axis=0) / count
    error: np.ndarray = np.sqrt(np.where(defined, (drawn - mean) ** 2, 0).sum(axis=0) / count)
    return np.where(defined.any(axis=0), error, np.nan)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
