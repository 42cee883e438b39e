"""Settings of the boosted decision tree, which is not in the paper."""

from typing import Annotated

from pydantic import Field

from nuvlm.models.jobs import FamilySettings, Request


class BdtSettings(FamilySettings):
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

    @property
    def first_seed(self) -> int:
        return self.seed

    def training(self, training: str) -> Request:
        settings = self.model_dump(mode="json", exclude={"classify_batch_size", "seeds", "enabled"})
        return Request(
            run="nuvlm.models.bdt.training:run",
            settings=settings | {"seed": self.seed_of(training)},
            environment="report",
            minutes=120,
        )

    def classification(self) -> Request:
        return Request(
            run="nuvlm.models.bdt.classify:run",
            settings={"batch_size": self.classify_batch_size},
            environment="report",
            memory_mb=2000,
        )
