"""File names of the figures; titles of models and conditions.

Light to import: the rules use it while they are parsed.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from nuvlm.models.conditions import shown_in_full

KINDS = ("confusion", "roc", "energy", "dependence", "scores")
"""Figures of each model under each condition shown in full."""
OF_MODEL = ("reliability", "cuts", "sets")
"""Figures of each model under the first condition."""
OVERVIEWS = ("robustness", "pi0", "disagreement", "training")
"""Figures of all models together."""
OF_RATIONALES = ("claims", "rationales")
"""Figures of each model that gives rationales."""
COUNTERFACTUALS = "counterfactuals"
"""Figure of all models, in runs with counterfactual events."""


class FigureOf(NamedTuple):
    """Kind of a figure, and the model and condition that it shows."""

    kind: str
    model: str | None = None
    condition: str | None = None


def figure_name(kind: str, model: str | None = None, condition: str | None = None) -> str:
    """File name of the SVG of a figure; the PDF differs in the suffix only."""
    return "_".join(part for part in (kind, model, condition) if part) + ".svg"


def figures_of(
    models: Sequence[str], conditions: Sequence[str], explaining: Iterable[str] = (), *, counterfactuals: bool = False
) -> list[FigureOf]:
    """All figures of a run; `explaining` are the models that give rationales."""
    drawn = shown_in_full(conditions)
    of_each = [FigureOf(kind, model, condition) for kind in KINDS for model in models for condition in drawn]
    of_each += [FigureOf(kind, model) for kind in OF_MODEL for model in models]
    of_each += [FigureOf(kind, model) for kind in OF_RATIONALES for model in explaining]
    return [*of_each, *map(FigureOf, OVERVIEWS), *([FigureOf(COUNTERFACTUALS)] if counterfactuals else [])]


def figure_names(models: Sequence[str], conditions: Sequence[str], explaining: Iterable[str] = ()) -> list[str]:
    """File names of all figures of a run."""
    return [figure_name(*figure) for figure in figures_of(models, conditions, explaining)]


def words(name: str) -> str:
    """Title of a condition: half_resolution -> half resolution."""
    return name.replace("_", " ")
