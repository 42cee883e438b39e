"""The definition of the benchmark: resources/faithfulness/definition.yaml."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from nuvlm.base.settings import Settings
from nuvlm.dataset.topology import SHOWER_MEV, TRACK_MM
from nuvlm.evaluation.faithfulness import STATEMENTS
from nuvlm.models.vlm.agreement import TOLERANCE
from nuvlm.models.vlm.prompts import read_texts
from nuvlm.models.vlm.rationales import GAP_MM

FILE = Path("resources/faithfulness/definition.yaml")
VOCABULARY = Path("resources/rationales.yaml")
RUN = Path("results/faithfulness")
"""Run that simulates the events."""
SEED = 17
"""Seed of shuffles and bootstrap."""
CONTROLS = ("same_answer", "same_class", "any_event")
SCORES = ("made", "right", "precision", "recall", "within_one")
COMPUTED_WITH = {"track_mm": TRACK_MM, "shower_mev": SHOWER_MEV, "gap_mm": GAP_MM, "tolerance": TOLERANCE}
Count = Annotated[int, Field(ge=1)]


class Events(Settings):
    """The rule that makes the events."""

    configuration: str
    simulated: Count
    per_class: Count
    truth_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None
    """Digest of the table of truth; null in a version that is being prepared."""


class Definition(Settings):
    """A version of the benchmark."""

    version: Count
    events: Events
    maps: Mapping[str, Any]
    """Settings of the pixel maps (:func:`nuvlm.dataset.pixelmaps.image_settings`)."""
    thresholds: Mapping[str, float]
    claims: Mapping[str, str]
    controls: Mapping[str, str]
    scores: Mapping[str, str]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if dict(self.thresholds) != COMPUTED_WITH:
            raise ValueError(
                f"thresholds: this program computes with {COMPUTED_WITH}. Score with the release of this version, or "
                "make a new version"
            )
        for key, names in (("claims", STATEMENTS), ("controls", CONTROLS), ("scores", SCORES)):
            if set(getattr(self, key)) != set(names):
                raise ValueError(f"{key}: give exactly {', '.join(names)}")
        return self

    def name(self, event_id: int) -> str:
        """The public name of a simulated event: its version and its id."""
        return f"v{self.version}-{event_id:05d}"

    def judge_name(self, name: str) -> Literal["this version", "other version", "no event"]:
        """Whether a name can be one of this version's events."""
        found = re.fullmatch(r"v(\d+)-\d{5,}", name)
        if found is None:
            return "no event"
        return "this version" if int(found[1]) == self.version else "other version"


def load_definition(path: Path = FILE) -> Definition:
    """Read and check a definition.

    Raises:
        InputError: names the file and the key to correct.
    """
    return read_texts(path, Definition, str(FILE))
