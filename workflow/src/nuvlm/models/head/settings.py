"""Settings that heads on the language model's base share."""

from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from nuvlm.models.classifier.settings import WITHOUT_EFFECT, CommonSettings, TrainingRecipe, TrainingSettings
from nuvlm.models.jobs import FamilySettings, Request
from nuvlm.models.vlm.settings import Background, Quantization, inference_needs, training_needs

DEFAULT = TrainingRecipe(
    optimizer="adamw",
    learning_rate=2e-4,
    warmup_epochs=0.03,
    batch_size=8,
    max_epochs=1,
    max_grad_norm=0.3,
)
"""The published fine-tuning of the language model: the same events, as often, with the same step."""


class HeadSettings(CommonSettings):
    """A part of the language model's base with a linear head."""

    recipe: TrainingRecipe = DEFAULT
    quantization: Quantization = "nf4"
    """The base model's weights; as for the language model."""
    background: Background = "black"
    """Of the pictures; as for the language model."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Before the head."""
    gradient_checkpointing: bool = True
    """Compute the activations of layers again for their gradients instead of keeping them: less memory, a third more
    work, the same gradients."""

    @property
    def loads_bf16(self) -> bool:
        """Whether the base model's weights are loaded in bfloat16."""
        return self.bf16


class HeadFamilySettings(HeadSettings, FamilySettings):
    """A family with one model: a part of the language model's base (`vlm.base`) with a linear head."""

    training_settings: ClassVar[type[TrainingSettings]]
    classify_batch_size: Annotated[int, Field(ge=1)] = 8
    """Events in a batch that is classified or explained."""
    gpus: Annotated[int, Field(ge=0)] = 1
    """GPUs of the training job: equal to `processes`, or 0 to train on CPUs. If not 0, classification and explanation
    use one GPU."""

    @property
    def first_seed(self) -> int:
        return self.seed

    @property
    def inputs(self) -> dict[str, str]:
        """Further inputs of every job."""
        return {"base": "<base>/manifest.json"}

    def training(self, training: str) -> Request:
        settings = {name: getattr(self, name) for name in self.training_settings.model_fields}
        settings["seed"] = self.seed_of(training)
        checked = self.training_settings.model_validate(settings)
        # The whole base is loaded, also where its language model is dropped then; on CPUs by every process.
        needs = training_needs(self.gpus)
        needs["memory_mb"] = self.memory_mb + max(needs["memory_mb"], 16000 * self.processes)
        return Request(
            run=f"nuvlm.models.{checked.section}.jobs:train",
            settings=checked.model_dump(mode="json", exclude=WITHOUT_EFFECT),
            untracked=self.model_dump(include=WITHOUT_EFFECT),
            inputs=self.inputs,
            gpus=self.gpus,
            resumes=True,
            events_factor=self.recipe.max_epochs,
            **needs,
        )

    def classification(self) -> Request:
        return self._inference("classify", {"batch_size": self.classify_batch_size})

    def explanation(self) -> Request:
        return self._inference("explain", {})

    def _inference(self, job: str, settings: dict[str, int]) -> Request:
        gpus = min(self.gpus, 1)
        return Request(
            run=f"nuvlm.models.{self.training_settings.section}.jobs:{job}",
            settings=settings,
            inputs=self.inputs,
            gpus=gpus,
            **inference_needs(gpus),
        )

    @model_validator(mode="after")
    def _check_gpus(self) -> Self:
        if self.gpus not in (0, self.processes):
            raise ValueError(f"gpus ({self.gpus}) must equal processes ({self.processes}), or be 0 to train on CPUs")
        return self
