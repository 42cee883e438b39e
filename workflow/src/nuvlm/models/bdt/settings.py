"""Settings of the boosted tree; nothing of it is published."""

from typing import Annotated

from pydantic import Field

from nuvlm.base.settings import Settings


class BdtSettings(Settings):
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.05
    max_leaves: Annotated[int, Field(ge=2, le=256)] = 8
    """Of each tree."""
    min_events_leaf: Annotated[int, Field(ge=1)] = 20
    """Training events in a leaf, at least."""
    l2: Annotated[float, Field(ge=0)] = 1.0
    """Penalty on the values of the leaves."""
    max_rounds: Annotated[int, Field(ge=1)] = 1000
    """Of boosting; each adds a tree a class."""
    patience: Annotated[int, Field(ge=1)] = 20
    """Stop after this many rounds without a better validation loss."""
    classify_batch_size: Annotated[int, Field(ge=1)] = 64
    """Events a batch when classifying."""
    seed: int = 7
