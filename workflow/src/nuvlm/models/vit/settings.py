"""Settings of the vision tower that classifies without language."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from nuvlm.base.settings import Settings
from nuvlm.models.classifier.settings import HOW_DATA_ARE_READ, CommonSettings, TrainingRecipe, TrainingSettings
from nuvlm.models.jobs import FamilySettings, Request
from nuvlm.models.vlm.settings import Background

DEFAULT = TrainingRecipe(
    optimizer="adamw",
    learning_rate=2e-4,
    warmup_epochs=0.03,
    batch_size=8,
    max_epochs=1,
    max_grad_norm=0.3,
)
"""The published fine-tuning of the language model: the same events, as often, with the same step."""


class Adapters(Settings):
    """Low-rank adapters (LoRA, arXiv 2106.09685) in the tower."""

    r: Annotated[int, Field(ge=1)] = 8
    alpha: Annotated[int, Field(ge=1)] = 16
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    target_modules: tuple[str, ...] | None = None
    """Names of the linear layers that get one; null: all of the tower."""


class _Common(CommonSettings):
    recipe: TrainingRecipe = DEFAULT
    adapt: Literal["lora", "all", "head"] = "lora"
    """What is trained besides the head: adapters in the tower, all of its weights, or nothing."""
    lora: Adapters = Adapters()
    quantization: Literal["nf4", "int8", "none"] = "nf4"
    """The tower's weights; as for the language model."""
    background: Background = "black"
    """Of the pictures; as for the language model."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Before the head."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.adapt == "all" and self.quantization != "none":
            raise ValueError("adapt 'all' trains the weights themselves: set quantization to none, or adapt to lora")
        return self


class VitTrainSettings(_Common, TrainingSettings):
    """Settings of the training job."""

    section: ClassVar[str] = "vit"
    recipe_key: ClassVar[str] = "vit.recipe"


class VitSettings(_Common, FamilySettings):
    """The vision tower of the language model's base (`vlm.base`) with a linear head."""

    classify_batch_size: Annotated[int, Field(ge=1)] = 8
    gpus: Annotated[int, Field(ge=0)] = 1
    """GPUs of the training job: equal to `processes`, or 0 to train on CPUs. If not 0, classification and explanation
    use one GPU."""

    @property
    def first_seed(self) -> int:
        return self.seed

    def training(self, training: str) -> Request:
        settings = {name: getattr(self, name) for name in VitTrainSettings.model_fields}
        settings["seed"] = self.seed_of(training)
        checked = VitTrainSettings.model_validate(settings)
        return Request(
            run="nuvlm.models.vit.jobs:train",
            settings=checked.model_dump(mode="json", exclude=HOW_DATA_ARE_READ),
            untracked=self.model_dump(include=HOW_DATA_ARE_READ),
            inputs={"base": "<base>/manifest.json"},
            gpus=self.gpus,
            # The whole base is loaded before its language model is dropped.
            memory_mb=self.memory_mb + 16000 * self.processes,
            minutes=720,
            resumes=True,
            events_factor=self.recipe.max_epochs,
        )

    def classification(self) -> Request:
        return Request(
            run="nuvlm.models.vit.jobs:classify",
            settings={"batch_size": self.classify_batch_size},
            inputs={"base": "<base>/manifest.json"},
            gpus=min(self.gpus, 1),
            memory_mb=16000,
        )

    def explanation(self) -> Request:
        return Request(
            run="nuvlm.models.vit.jobs:explain",
            inputs={"base": "<base>/manifest.json"},
            gpus=min(self.gpus, 1),
            memory_mb=16000,
        )

    @model_validator(mode="after")
    def _check_gpus(self) -> Self:
        if self.gpus not in (0, self.processes):
            raise ValueError(f"gpus ({self.gpus}) must equal processes ({self.processes}), or be 0 to train on CPUs")
        return self
