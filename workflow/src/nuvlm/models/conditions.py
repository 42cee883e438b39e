"""Names of the conditions under which classifiers are tested.

A condition is ``nominal``, a control, or a degradation with a kind and a level: ``noise_200``. :mod:`degradations
<nuvlm.models.degradations>` applies them to images. Light to import: the configuration is checked with it.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

NOMINAL = "nominal"
PUBLISHED = (NOMINAL, "half_resolution")
"""Conditions of the published tables."""
CONTROLS = ("blank", "labels_permuted")
"""Conditions that test whether a model uses the picture; the others test its robustness to degradation."""
PROMPT_CONDITIONS = ("labels_permuted",)
"""Conditions for prompted models only."""
RESOLUTIONS = {"half_resolution": 2, "quarter_resolution": 4}
"""Condition -> pixels averaged along each axis."""


class Kind(NamedTuple):
    """A kind of degradation."""

    nominal: int
    """Level without degradation."""
    maximum: int
    axis: str
    """Label of an axis of levels, with the unit."""
    drawn: bool = False
    """Whether it draws random numbers, for each shard and event id."""


KINDS = {
    "resolution": Kind(1, max(RESOLUTIONS.values()), "side of a pixel (times nominal)"),
    "noise": Kind(0, 1_000_000, "noise of each pixel (keV)", drawn=True),
    "dead": Kind(0, 100, "dead channels (%)", drawn=True),
    "diffusion": Kind(0, 1000, "further diffusion (mm)"),
    "scale": Kind(100, 1000, "energy scale (%)"),
}
"""Kinds of degradation; their levels are in the unit that `axis` names."""
_LEVELLED = "|".join(kind for kind in KINDS if kind != "resolution")
PATTERN = rf"^({'|'.join((NOMINAL, *RESOLUTIONS, *CONTROLS))}|({_LEVELLED})_[1-9][0-9]*)$"
"""Regular expression of the names of conditions."""


def check_condition(name: str) -> str:
    """Return the name of a condition if it is valid.

    Raises:
        ValueError: unknown condition, or a level above the maximum.
    """
    if not re.fullmatch(PATTERN, name):
        raise ValueError(
            f"unknown condition {name!r}; known: {', '.join((NOMINAL, *RESOLUTIONS, *CONTROLS))}, and with a level, "
            "a whole number above 0, noise_{keV}, dead_{percent}, diffusion_{mm}, scale_{percent}"
        )
    found = degradation(name)
    if found and found[1] > KINDS[found[0]].maximum:
        raise ValueError(f"condition {name!r}: the maximum is {KINDS[found[0]].maximum}, {KINDS[found[0]].axis}")
    return name


def degradation(condition: str) -> tuple[str, int] | None:
    """Kind and level of a degradation: ``noise_200`` -> ("noise", 200); None for ``nominal`` and the controls."""
    if condition in RESOLUTIONS:
        return "resolution", RESOLUTIONS[condition]
    kind, _, level = condition.rpartition("_")
    return (kind, int(level)) if level.isdigit() else None


def shown_in_full(conditions: Iterable[str]) -> list[str]:
    """The conditions with all scores and figures: the first one, and those of the published tables.

    The others have overall scores and a point in the robustness curves.
    """
    first, *others = conditions
    return [first, *(name for name in others if name in PUBLISHED)]
