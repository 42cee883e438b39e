"""Efficiency and purity against true quantities: energy, y, visible energy, containment, mode."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from nuvlm.base.classes import CLASSES
from nuvlm.detector.voxels import MODES
from nuvlm.evaluation.intervals import ratio, ratios
from nuvlm.evaluation.samples import Sample

CONTAINED_MEV = 5.0
"""Events with less energy (MeV) at the detector boundary are contained: half the loss of a minimum-ionising particle
in 5 cm at 2.1 MeV/cm."""
PER_BIN = 60
"""Intended number of events per bin."""
NC = CLASSES.index("nc")
NUE_CC = CLASSES.index("nue_cc")


@dataclass(frozen=True)
class Axis:
    """A true quantity in bins."""

    bins: dict[str, list[Any]]
    """`edges`, rising, the last one inclusive; or `categories`, names."""
    where: np.ndarray
    """(n,) bin of each event, -1 if it has none."""

    def __len__(self) -> int:
        return len(self.bins["edges"]) - 1 if "edges" in self.bins else len(self.bins["categories"])

    def count(self, mask: np.ndarray) -> np.ndarray:
        """(bins,) events of `mask`, (n,) bool, in each bin."""
        counts: np.ndarray = np.bincount(self.where[mask & (self.where >= 0)], minlength=len(self))
        return counts


def truth_axes(events: pd.DataFrame) -> dict[str, Axis | None]:
    """Bin the quantities that efficiency and purity are shown against; None if unknown for all events.

    Args:
        events: rows of the event table.

    Returns:
        `energy` and `visible_energy` (GeV), `inelasticity`; `containment` and `mode`, in categories.
    """
    energy, y = (events[name].to_numpy(np.float64) for name in ("nu_energy", "inelasticity"))
    visible = events["visible_energy"].to_numpy(np.float64) / 1000
    edge = events["edge_energy"].to_numpy(np.float64)
    leaving = np.where(np.isfinite(edge), (edge >= CONTAINED_MEV).astype(int), -1)
    mode = events["mode"].to_numpy(np.int64)
    return {
        "energy": _along(energy, energy_edges(energy)),
        "inelasticity": _along(y, np.linspace(0, 1, bins_for(y) + 1)),
        "visible_energy": _along(visible, quantile_edges(visible)),
        "containment": _among(["contained", "leaving"], leaving),
        "mode": _among(list(MODES), np.where(mode == MODES["unknown"], -1, mode)),
    }


def pion_axis(events: pd.DataFrame) -> Axis | None:
    """Bin the energy (GeV) of the leading neutral pion of neutral-current events; None if unknown for all events."""
    energy = events["pi0_energy"].to_numpy(np.float64)
    energy = np.where((events["class"] == "nc").to_numpy(bool) & (energy > 0), energy, np.nan)
    return _along(energy, quantile_edges(energy, PER_BIN // 3))


def dependence(sample: Sample, k: int, axis: Axis | None) -> dict[str, Any] | None:
    """Efficiency and purity of class `k` in the bins of `axis`, with exact intervals."""
    if axis is None:
        return None
    true, selected = sample.truth == k, sample.predicted == k
    right = axis.count(true & selected)
    return {
        **axis.bins,
        **ratios("efficiency", right, axis.count(true)),
        **ratios("purity", right, axis.count(selected)),
    }


def pions_mistaken(sample: Sample, axis: Axis | None, pi0_energy: np.ndarray) -> dict[str, Any] | None:
    """Fraction of neutral-current events classified as nu_e CC, against the energy of their neutral pion.

    Args:
        sample: n events with truth.
        axis: of :func:`pion_axis`.
        pi0_energy: (n,) GeV, 0 without a neutral pion, NaN if unknown.

    Returns:
        `edges` (GeV) and `mistaken`, the fraction in each bin; `without`, the same for events without a neutral pion.
        None if no event is known to have one.
    """
    if axis is None:
        return None
    mistaken = sample.predicted == NUE_CC
    none = (sample.truth == NC) & (pi0_energy == 0)
    everything = np.ones(len(sample), dtype=bool)
    return {
        **axis.bins,
        **ratios("mistaken", axis.count(mistaken), axis.count(everything)),
        "without": ratio("mistaken", int((none & mistaken).sum()), int(none.sum())) | {"mistaken_n": int(none.sum())},
    }


def energy_edges(energy: np.ndarray, most: int = 10) -> np.ndarray:
    """Edges (GeV) of equal bins from 0 to the highest energy, rounded up."""
    known = energy[np.isfinite(energy)]
    top = float(np.ceil(known.max())) if len(known) else 1.0
    return np.linspace(0, max(top, 1.0), bins_for(energy, most=most) + 1)


def quantile_edges(values: np.ndarray, per_bin: int = PER_BIN) -> np.ndarray:
    """Edges of bins with equal numbers of events; fewer bins if values repeat, none without values."""
    known = values[np.isfinite(values)]
    if not len(known):
        return np.empty(0)
    edges = np.unique(np.quantile(known, np.linspace(0, 1, bins_for(values, per_bin) + 1)))
    return edges if len(edges) > 1 else edges[0] + np.array([0.0, 1.0])


def bins_for(values: np.ndarray, per_bin: int = PER_BIN, most: int = 10) -> int:
    """Number of bins (2 to `most`) with about `per_bin` finite values each."""
    return int(np.clip(np.isfinite(values).sum() // per_bin, 2, most))


def _along(values: np.ndarray, edges: np.ndarray) -> Axis | None:
    """Numeric axis; a value on an edge belongs to the bin above, on the last edge to the last bin."""
    known = np.isfinite(values)
    if not known.any():
        return None
    where = np.searchsorted(edges, values, side="right") - 1
    where = np.where(values == edges[-1], len(edges) - 2, where)
    where = np.where(known & (where < len(edges) - 1), where, -1)
    return Axis({"edges": edges.tolist()}, where)


def _among(names: list[str], codes: np.ndarray) -> Axis | None:
    """Category axis with the `names` that occur."""
    present = np.unique(codes[codes >= 0])
    if not len(present):
        return None
    where = np.where(codes >= 0, np.searchsorted(present, codes), -1)
    return Axis({"categories": [names[code] for code in present]}, where)
