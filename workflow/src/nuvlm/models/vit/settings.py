"""Settings of the vision tower that classifies without language."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from nuvlm.base.settings import Settings
from nuvlm.models.classifier.settings import TrainingSettings
from nuvlm.models.head.settings import HeadFamilySettings, HeadSettings


class Adapters(Settings):
    """Low-rank adapters (LoRA, arXiv 2106.09685) in the tower."""

    r: Annotated[int, Field(ge=1)] = 8
    alpha: Annotated[int, Field(ge=1)] = 16
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    target_modules: tuple[str, ...] | None = None
    """Names of the linear layers that get one; null: all of the tower."""


class _Vit(HeadSettings):
    adapt: Literal["lora", "all", "head"] = "lora"
    """What is trained besides the head: adapters in the tower, all of its weights, or nothing."""
    lora: Adapters = Adapters()

    @property
    def loads_bf16(self) -> bool:
        # Trained weights stay in float32; automatic mixed precision rounds them for each product.
        return self.bf16 and self.adapt != "all"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.adapt == "all" and self.quantization != "none":
            raise ValueError("adapt 'all' trains the weights themselves: set quantization to none, or adapt to lora")
        return self


class VitTrainSettings(_Vit, TrainingSettings):
    """Settings of the training job."""

    section: ClassVar[str] = "vit"
    recipe_key: ClassVar[str] = "vit.recipe"


class VitSettings(_Vit, HeadFamilySettings):
    """The vision tower of the language model's base (`vlm.base`) with a linear head."""

    training_settings: ClassVar[type[TrainingSettings]] = VitTrainSettings
