"""Settings of the CNN; the defaults are the published ones (arXiv 2509.08461)."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from nuvlm.base.settings import Settings
from nuvlm.models.jobs import FamilySettings, Request

HOW_DATA_ARE_READ = {"memory_mb", "workers"}
"""Settings that change no result."""


class Recipe(Settings):
    """How the network is trained: all that distinguishes two models of the same network."""

    optimizer: Literal["adam", "adamw"] = "adam"
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 1e-6
    """Of the published recipe the only one; the highest one of a schedule."""
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Of adamw; neither biases nor normalisations decay."""
    schedule: Literal["constant", "cosine"] = "constant"
    """After the warm-up. The cosine ends at zero after max_epochs."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    """Epochs in which the learning rate rises from zero."""
    batch_size: Annotated[int, Field(ge=2)] = 16
    """Events an optimiser step, of all processes together."""
    max_epochs: Annotated[int, Field(ge=1)] = 300
    patience: Annotated[int, Field(ge=1)] = 10
    """Stop after this many epochs without a better validation loss."""
    max_grad_norm: Annotated[float, Field(gt=0)] | None = None
    """Longer gradients are clipped to this norm; null leaves them."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    flip: bool = False
    """Mirror training images along x and along y at random (the detector and the beam allow both)."""
    balanced: bool = False
    """Draw training events so that the classes are equally frequent in an epoch."""
    half_resolution: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the training batches that are shown at half the resolution."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.weight_decay and self.optimizer == "adam":
            raise ValueError("weight_decay has no effect with optimizer 'adam': set it to 0, or take 'adamw'")
        return self


TUNED = Recipe(
    optimizer="adamw",
    learning_rate=1e-3,
    weight_decay=0.05,
    schedule="cosine",
    warmup_epochs=1,
    batch_size=64,
    max_epochs=40,
    patience=10,
    max_grad_norm=1.0,
    label_smoothing=0.1,
    flip=True,
    balanced=True,
    half_resolution=0.3,
)
"""What the published network can do when it is trained as networks are today."""


class _Common(Settings):
    """What all recipes of a run share."""

    width: Annotated[float, Field(gt=0, le=4)] = 1.0
    """Multiplier of the channels of every layer; 1 gives the published 3.4 M parameters."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    seed: int = 7
    bf16: bool = False
    """Compute in bfloat16 where that is safe, weights stay float32 (automatic mixed precision)."""
    compile: bool = False
    """Compile the network (torch.compile)."""
    processes: Annotated[int, Field(ge=1)] = 1
    """That share each batch (DistributedDataParallel), one a GPU."""
    memory_mb: Annotated[int, Field(ge=1)] = 16000
    """Most that the training pixel maps may take in memory; more are read from disk as they are needed."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Processes that make batches while the network computes, of each training process; 0: the process itself."""


class TrainSettings(_Common):
    """What one training job is told."""

    recipe: Recipe = Recipe()


class CnnSettings(_Common, FamilySettings):
    """One network, trained by each recipe: as many models."""

    recipes: Mapping[Annotated[str, Field(pattern="^[a-z0-9_]+$")], Recipe | None] = Field(
        default_factory=lambda: {"published": Recipe(), "tuned": TUNED}
    )
    """Name -> how it is trained; each makes a model, cnn_{name}. null leaves one out."""
    classify_batch_size: Annotated[int, Field(ge=1)] = 1
    """Events a batch when classifying; published times are for one."""
    classify_backend: Literal["torch", "onnx"] = "torch"
    """What classifies: torch, on a GPU where there is one, as the published times were taken; or onnxruntime, on CPU
    cores, several times faster than torch there."""
    gpus: Annotated[int, Field(ge=0)] = 1
    """GPUs that a training job asks for: as many as there are processes, or 0 for CPUs. With any, classifying and
    explaining take one."""

    def model_names(self, family: str) -> tuple[str, ...]:
        return tuple(f"{family}_{recipe}" for recipe in self.recipe_names)

    def training(self, model: str) -> Request:
        settings = self.recipe_settings(model.partition("_")[2])
        return Request(
            run="nuvlm.models.cnn.training:run",
            settings=settings.model_dump(mode="json", exclude=HOW_DATA_ARE_READ),
            untracked=self.model_dump(include=HOW_DATA_ARE_READ),
            gpus=self.gpus,
            # The pixel maps, and the network with its batches in each process.
            memory_mb=self.memory_mb + 8000 * self.processes,
            minutes=720,
            events_factor=settings.recipe.max_epochs,
        )

    def classification(self) -> Request:
        onnx = self.classify_backend == "onnx"
        return Request(
            run="nuvlm.models.cnn.classify:run",
            settings={"batch_size": self.classify_batch_size},
            inputs={"export": "<models>/{model}_onnx/model.onnx"} if onnx else {},
            # Classifying has one event in hand, or a few: one GPU is enough.
            gpus=0 if onnx else min(self.gpus, 1),
            memory_mb=8000,
        )

    def explanation(self) -> Request:
        return Request(run="nuvlm.models.cnn.saliency:run", gpus=min(self.gpus, 1), memory_mb=8000)

    @property
    def recipe_names(self) -> tuple[str, ...]:
        """Names of the recipes that are not left out."""
        return tuple(name for name, recipe in self.recipes.items() if recipe is not None)

    def recipe_settings(self, recipe: str) -> TrainSettings:
        """Settings of the training job of a recipe, one of `recipe_names`."""
        common = {name: getattr(self, name) for name in _Common.model_fields}
        return TrainSettings.model_validate(common | {"recipe": self.recipes[recipe]})

    @model_validator(mode="before")
    @classmethod
    def _moved(cls, values: Any) -> Any:
        """Say where the keys of configurations from before there were recipes have gone."""
        known = {*Recipe.model_fields, "class_weights"}
        moved = [name for name in values if name in known] if isinstance(values, Mapping) else []
        if "class_weights" in moved:
            raise ValueError("class_weights is no longer there: set balanced in cnn.recipes.<name>")
        if moved:
            raise ValueError(
                f"{', '.join(moved)}: moved to cnn.recipes.<name>, as each CNN is trained by a recipe of its own; "
                f"for example recipes: {{tuned: {{{moved[0]}: {values[moved[0]]}}}}}"
            )
        return values

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.recipe_names:
            raise ValueError("recipes: none is left, so that there is no CNN. Leave at least one that is not null")
        clash = [name for name in self.recipe_names if name.endswith("_onnx")]
        if clash:
            raise ValueError(f"recipes: '{clash[0]}' ends in _onnx, as exported models do: choose another name")
        if self.gpus not in (0, self.processes):
            raise ValueError(
                f"gpus ({self.gpus}) must be processes ({self.processes}), one for each, or 0 to train on CPUs"
            )
        return self
