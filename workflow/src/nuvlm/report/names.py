"""Names: of the figures on disk, and of models and conditions in text.

Light to import: the workflow asks for the names of figures before anything has run.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from nuvlm.models.conditions import shown_in_full

KINDS = ("confusion", "roc", "energy", "dependence", "scores")
"""Figures drawn for each model under each condition that is shown in full."""
OF_MODEL = ("reliability", "cuts")
"""Figures drawn for each model, under the first condition."""
OVERVIEWS = ("robustness", "pi0", "disagreement", "training")
"""Figures drawn once, of all models."""
RATIONALES = "rationales"
"""The figure drawn for each model that gives rationales."""


class FigureOf(NamedTuple):
    """What one figure shows."""

    kind: str
    model: str | None = None
    condition: str | None = None


def figure_name(kind: str, model: str | None = None, condition: str | None = None) -> str:
    """File name of one figure; its PDF has the same with another suffix."""
    return "_".join(part for part in (kind, model, condition) if part) + ".svg"


def figures_of(models: Sequence[str], conditions: Sequence[str], explaining: Iterable[str] = ()) -> list[FigureOf]:
    """All figures of a run; `explaining` are the models that give rationales."""
    drawn = shown_in_full(conditions)
    of_each = [FigureOf(kind, model, condition) for kind in KINDS for model in models for condition in drawn]
    of_each += [FigureOf(kind, model) for kind in OF_MODEL for model in models]
    return [*of_each, *map(FigureOf, OVERVIEWS), *(FigureOf(RATIONALES, model) for model in explaining)]


def figure_names(models: Sequence[str], conditions: Sequence[str], explaining: Iterable[str] = ()) -> list[str]:
    """File names of all figures of a run."""
    return [figure_name(*figure) for figure in figures_of(models, conditions, explaining)]


def words(name: str) -> str:
    """A condition's name as in running text."""
    return name.replace("_", " ")
