"""What the classifiers are shown besides the images as they are: the names of conditions, read in one place.

A condition is ``nominal``, a control, or a degradation of a kind and a level: ``noise_200``. How images are degraded
stands in :mod:`nuvlm.models.degradations`. Nothing heavy is imported: the configuration is checked with it.
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
"""How many pixels are averaged along each axis."""


class Kind(NamedTuple):
    """A way in which pictures get worse."""

    nominal: int
    """Level of pictures as they are."""
    most: int
    axis: str
    """What a level is, with its unit."""


KINDS = {
    "resolution": Kind(1, max(RESOLUTIONS.values()), "side of a pixel (times nominal)"),
    "noise": Kind(0, 1_000_000, "noise of each pixel (keV)"),
    "dead": Kind(0, 100, "dead channels (%)"),
    "diffusion": Kind(0, 1000, "further diffusion (mm)"),
    "scale": Kind(100, 1000, "energy scale (%)"),
}
"""Kinds of degradation; their levels are in the unit that `axis` names."""
_LEVELLED = "|".join(kind for kind in KINDS if kind != "resolution")
PATTERN = rf"^({'|'.join((NOMINAL, *RESOLUTIONS, *CONTROLS))}|({_LEVELLED})_[1-9][0-9]*)$"
"""Of the names of conditions."""


def check_condition(name: str) -> str:
    """Give back the name of a condition.

    Raises:
        ValueError: there is no such condition, or its level is beyond what is possible.
    """
    if not re.fullmatch(PATTERN, name):
        raise ValueError(
            f"unknown condition {name!r}: there are {', '.join((NOMINAL, *RESOLUTIONS, *CONTROLS))}, and with a level, "
            "a whole number above 0, noise_{keV}, dead_{percent}, diffusion_{mm}, scale_{percent}"
        )
    found = degradation(name)
    if found and found[1] > KINDS[found[0]].most:
        raise ValueError(f"condition {name!r}: {KINDS[found[0]].most} is the most, {KINDS[found[0]].axis}")
    return name


def degradation(condition: str) -> tuple[str, int] | None:
    """Kind and level of a degradation, None of ``nominal`` and the controls: ``noise_200`` is ("noise", 200)."""
    if condition in RESOLUTIONS:
        return "resolution", RESOLUTIONS[condition]
    kind, _, level = condition.rpartition("_")
    return (kind, int(level)) if level.isdigit() else None


def shown_in_full(conditions: Iterable[str]) -> list[str]:
    """The conditions that have all scores and figures: the first one, and those of the published tables.

    Of the others there are overall scores, and their place in the curves of robustness.
    """
    first, *others = conditions
    return [first, *(name for name in others if name in PUBLISHED)]
