"""Unit and axes of reconstructed hits, from what only the right ones agree with.

Programs changed units (mm, then cm) and axes (drift along z, then x) under the same column names. Two quantities do not
depend on names: neighbouring pixels are 3 to 5 mm apart, and along the drift a coordinate changes in proportion to the
drift time, by 1.6 mm/us at 0.5 kV/cm.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nuvlm.base.errors import InputError

UNITS_MM = {"cm": 10.0, "mm": 1.0, "m": 1000.0}
PITCH_MM = (2.5, 6.5)
"""Distances of neighbouring pixels: 3.7 to 4.4 mm in LArPix anodes."""
VELOCITY_MM_US = (0.4, 2.6)
"""Drift velocities at 0.1 to 1 kV/cm (W. Walkowiak, NIM A 449 (2000) 288)."""
FEW = 50
"""Pairs of hits that a conclusion needs."""
SHARP = 0.01
"""Width of the window, in the logarithm of a ratio, in which the velocities of pairs of hits must agree."""
LEAST_SHARE, LEAST_RATIO = 0.1, 3.0
"""Share of the pairs that must agree, and how often that of any other axis: pairs may be of different anodes."""


@dataclass(frozen=True)
class HitFrame:
    """Unit, and the column of each axis."""

    mm: float
    """Unit of the columns, mm."""
    columns: tuple[int, int, int]
    """Index of the column that holds x, y, z."""
    pitch_mm: float
    """Distance of neighbouring pixels; 0 where it is unknown."""
    unit: tuple[str, str]
    """Its name, and the evidence."""
    axes: tuple[str, str]
    """Which columns are which axes, and the evidence."""

    def position_mm(self, hits: np.ndarray) -> np.ndarray:
        """Positions (hits, 3), mm, from the columns x, y, z of the file."""
        position = np.empty((len(hits), 3))
        for axis, column in enumerate(self.columns):
            np.multiply(hits["xyz"[column]], self.mm, out=position[:, axis])
        return position


def decide_frame(
    path: Path,
    columns: np.ndarray,
    time: np.ndarray | None,
    group: np.ndarray,
    drift: int,
    bounds: np.ndarray | None,
) -> HitFrame:
    """Decide on unit and axes.

    Args:
        path: the file, for messages.
        columns: (hits, 3), x, y, z of some hits in the file's unit.
        time: (hits,), drift times, us; None if unknown.
        group: (hits,), equal for hits of one event and anode, which are contiguous.
        drift: the configured drift axis.
        bounds: (2, 3), low and high corner of the detector in the file's unit, as the file states them, or None.

    Raises:
        InputError: the evidence is contradictory, or agrees with no unit.
    """
    good = np.isfinite(columns).all(axis=1)
    columns, group = columns[good], group[good]
    along, speed, share = _drift(columns, time[good], group) if time is not None else (None, 0.0, 0.0)
    held = drift if along is None else along
    order = [0, 1, 2]
    order[drift], order[held] = held, drift
    across = [axis for axis in range(3) if axis != held]
    pitches = [_pitch(columns[:, axis], group) for axis in across]
    known = [pitch for pitch in pitches if pitch]
    evidence = {}
    if known:
        if max(known) > 1.5 * min(known):
            raise InputError(
                f"{path}: neighbouring hits are {known[0]:.3g} apart along {'xyz'[across[0]]} and {known[1]:.3g} along "
                f"{'xyz'[across[1]]}; pixels are square. The columns have different units, or drift is not along "
                f"{'xyz'[held]}: correct the file."
            )
        evidence[f"pixels {' and '.join(f'{pitch:.3g}' for pitch in known)} apart"] = _units(known, PITCH_MM)
    if along is not None:
        evidence[f"drift velocity {speed:.3g} per us"] = _units([speed], VELOCITY_MM_US)
    _check_bounds(path, columns, bounds)
    what = ", ".join(evidence)
    fitting = set.intersection(*map(set, evidence.values())) if evidence else {"cm"}
    if len(fitting) != 1:
        found = "; ".join(f"{name} means {' or '.join(units) or 'no known unit'}" for name, units in evidence.items())
        raise InputError(f"{path}: the unit of the hits is unclear: {found}. Correct the file: hits must be in cm.")
    (unit,) = fitting
    mm = UNITS_MM[unit]
    names = "xyz"
    exchanged = along is not None and along != drift
    axes = f"{names[held]} and {names[drift]} exchanged" if exchanged else "as they are called"
    return HitFrame(
        mm,
        (order[0], order[1], order[2]),
        mm * float(np.mean(known)) if known else 0.0,
        (unit, what or "as documented; too few hits to check"),
        (
            axes,
            "as documented; too few hits with a drift time to check"
            if along is None
            else f"{share:.0%} of neighbouring hits have a distance along {names[along]} in proportion to drift time",
        ),
    )


def _units(values: Sequence[float], limits: tuple[float, float]) -> list[str]:
    low, high = limits
    return [unit for unit, mm in UNITS_MM.items() if all(low <= mm * value <= high for value in values)]


def _drift(columns: np.ndarray, time: np.ndarray, group: np.ndarray) -> tuple[int | None, float, float]:
    """The drift axis, the distance per us, and the share of pairs of hits that agree with it; None if unknown.

    Hits of one anode have the same origin of the drift, so that their distances along it are proportional to the
    difference of their times, exactly. Along other axes, they are only similar in straight tracks.
    """
    step, apart = np.diff(time), np.abs(np.diff(columns, axis=0))
    with np.errstate(invalid="ignore"):
        pairs = (group[1:] == group[:-1]) & (np.abs(step) > 0.3) & np.isfinite(step)
    if pairs.sum() < FEW:
        return None, 0.0, 0.0
    found: list[tuple[float, int, float]] = []
    for axis in range(3):
        moved = pairs & (apart[:, axis] > 0)
        ratio = np.sort(np.log(apart[moved, axis] / np.abs(step[moved])))
        if len(ratio):
            inside = np.searchsorted(ratio, ratio + SHARP, side="right") - np.arange(len(ratio))
            at = int(inside.argmax())
            middle = float(np.median(ratio[at : at + inside[at]]))
            found.append((float(inside[at] / pairs.sum()), axis, float(np.exp(middle))))
    (share, axis, speed), *others = sorted([*found, (0.0, 0, 0.0)], reverse=True)
    clear = share > LEAST_SHARE and share > LEAST_RATIO * max((other for other, *_ in others), default=0.0)
    return (axis, speed, share) if clear else (None, 0.0, share)


def _pitch(values: np.ndarray, group: np.ndarray) -> float:
    """Distance of neighbouring pixels along one axis, in the file's unit; 0 if too few hits are neighbours."""
    if not len(values):
        return 0.0
    order = np.lexsort((values, group))
    values, group = values[order], group[order]
    apart = np.diff(values)[group[1:] == group[:-1]]
    apart = apart[apart > 1e-4 * (values.max() - values.min())]  # more than rounding
    return float(np.median(apart)) if len(apart) >= FEW else 0.0


def _check_bounds(path: Path, columns: np.ndarray, bounds: np.ndarray | None) -> None:
    if bounds is None or not len(columns):
        return
    slack = 0.1 * (bounds[1] - bounds[0])
    inside = ((columns >= bounds[0] - slack) & (columns <= bounds[1] + slack)).all(axis=1).mean()
    if inside < 0.5:
        low, high = np.quantile(columns, (0.05, 0.95), axis=0)
        raise InputError(
            f"{path}: {1 - inside:.0%} of the hits lie outside the detector that the file describes: they span "
            f"{np.round(low, 1).tolist()} to {np.round(high, 1).tolist()}, lar_detector_bounds are "
            f"{np.round(bounds[0], 1).tolist()} to {np.round(bounds[1], 1).tolist()}. Correct the file."
        )
