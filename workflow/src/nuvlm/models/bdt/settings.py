"""Settings of the boosted decision tree, which is not in the paper."""

from typing import Annotated

from pydantic import Field

from nuvlm.base.settings import Settings


class BdtSettings(Settings):
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.05
    max_leaves: Annotated[int, Field(ge=2, le=256)] = 8
    """Leaves per tree."""
    min_events_leaf: Annotated[int, Field(ge=1)] = 20
    """Minimum of training events per leaf."""
    l2: Annotated[float, Field(ge=0)] = 1.0
    """L2 penalty on leaf values."""
    max_rounds: Annotated[int, Field(ge=1)] = 1000
    """Boosting rounds; each adds one tree per class."""
    patience: Annotated[int, Field(ge=1)] = 20
    """Stop after this many rounds without a lower validation loss."""
    classify_batch_size: Annotated[int, Field(ge=1)] = 64
    """Batch size for classification."""
    seed: int = 7
