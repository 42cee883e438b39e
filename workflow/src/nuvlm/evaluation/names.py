"""Names: of the figures on disk, and of models and conditions in text.

Light to import: the workflow asks for the names of figures before anything has run.
"""

from collections.abc import Iterable, Sequence

from nuvlm.conditions import CONTROLS

KINDS = ("confusion", "roc", "energy", "scores", "reliability")
"""Figures drawn for each model under each condition."""
OVERVIEWS = ("robustness", "training")
"""Figures drawn once, of all models."""
ACRONYMS = {"tree": "BDT"}
"""Kinds of models whose name is not its own acronym."""

RATIONALES = "rationales"
"""The figure drawn for each model that gives rationales."""


def figure_name(kind: str, model: str | None = None, condition: str | None = None) -> str:
    """File name of one figure."""
    return "_".join(part for part in (kind, model, condition) if part) + ".svg"


def figure_names(models: Sequence[str], conditions: Sequence[str], explaining: Iterable[str] = ()) -> list[str]:
    """File names of all figures of a run; `explaining` are the models that give rationales."""
    drawn = without_controls(conditions)
    of_each = [figure_name(kind, model, condition) for kind in KINDS for model in models for condition in drawn]
    return of_each + [figure_name(kind) for kind in OVERVIEWS] + [figure_name(RATIONALES, name) for name in explaining]


def without_controls(conditions: Iterable[str]) -> list[str]:
    """The conditions that have figures of their own; a control is an accuracy and what that means."""
    return [condition for condition in conditions if condition not in CONTROLS]


def title(model: str) -> str:
    """A model's name as in running text: vlm -> VLM, cnn_wide -> CNN wide, tree -> BDT (boosted decision trees)."""
    kind, _, rest = model.partition("_")
    return " ".join([ACRONYMS.get(kind, kind.upper()), *([words(rest)] if rest else [])])


def words(name: str) -> str:
    """A condition's name as in running text."""
    return name.replace("_", " ")
