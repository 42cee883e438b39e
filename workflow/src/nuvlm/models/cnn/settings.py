"""Settings of the CNN; the defaults are the published ones (arXiv 2509.08461)."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from nuvlm.base.settings import Settings
from nuvlm.models.jobs import FamilySettings, Request

HOW_DATA_ARE_READ = {"memory_mb", "workers"}
"""Settings that change no result."""


class Recipe(Settings):
    """How the network is trained. The recipes of a run share everything else."""

    optimizer: Literal["adam", "adamw"] = "adam"
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 1e-6
    """Constant, or the peak of the schedule."""
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """For adamw only; biases and normalisation parameters do not decay."""
    schedule: Literal["constant", "cosine"] = "constant"
    """After the warm-up. The cosine ends at zero after max_epochs."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    """Epochs in which the learning rate rises from zero."""
    batch_size: Annotated[int, Field(ge=2)] = 16
    """Events per optimiser step, summed over all processes."""
    max_epochs: Annotated[int, Field(ge=1)] = 300
    patience: Annotated[int, Field(ge=1)] = 10
    """Stop after this many epochs without a lower validation loss."""
    max_grad_norm: Annotated[float, Field(gt=0)] | None = None
    """Clip the gradient to this norm; null: no clipping."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    flip: bool = False
    """Mirror training images in x and in y at random (the detector and the beam are symmetric in both)."""
    balanced: bool = False
    """Sample training events so that all classes are equally frequent in an epoch."""
    half_resolution: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Fraction of the training batches shown at half the resolution."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.weight_decay and self.optimizer == "adam":
            raise ValueError("weight_decay has no effect with optimizer 'adam': set it to 0, or use 'adamw'")
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
"""The published network with current training methods."""


class _Common(Settings):
    """Settings shared by all recipes of a run."""

    width: Annotated[float, Field(gt=0, le=4)] = 1.0
    """Multiplies the channels of every layer; 1 gives the published 3.4 M parameters."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    seed: int = 7
    bf16: bool = False
    """Automatic mixed precision: bfloat16 where it is safe, float32 weights."""
    compile: bool = False
    """Compile the network (torch.compile)."""
    processes: Annotated[int, Field(ge=1)] = 1
    """Processes that share each batch (DistributedDataParallel); one per GPU."""
    memory_mb: Annotated[int, Field(ge=1)] = 16000
    """Memory limit of the training pixel maps, MB; beyond it they are read from disk for each batch."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Processes that prepare batches in advance, per training process; 0: no extra processes."""


class TrainSettings(_Common):
    """Settings of one training job."""

    recipe: Recipe = Recipe()


class CnnSettings(_Common, FamilySettings):
    """One network, trained with each recipe: one model per recipe."""

    recipes: Mapping[Annotated[str, Field(pattern="^[a-z0-9_]+$")], Recipe | None] = Field(
        default_factory=lambda: {"published": Recipe(), "tuned": TUNED}
    )
    """Name -> recipe; each gives a model cnn_{name}. null disables a recipe."""
    classify_batch_size: Annotated[int, Field(ge=1)] = 1
    """Batch size for classification; published times are for 1."""
    classify_backend: Literal["torch", "onnx"] = "torch"
    """torch: on a GPU if there is one, as for the published times. onnx: onnxruntime on CPU cores, several times faster
    than torch there."""
    gpus: Annotated[int, Field(ge=0)] = 1
    """GPUs of a training job: equal to `processes`, or 0 to train on CPUs. If not 0, classification and explanation use
    one GPU."""

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
            resumes=True,
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
        """Names of the enabled recipes."""
        return tuple(name for name, recipe in self.recipes.items() if recipe is not None)

    def recipe_settings(self, recipe: str) -> TrainSettings:
        """Settings of the training job of a recipe in `recipe_names`."""
        common = {name: getattr(self, name) for name in _Common.model_fields}
        return TrainSettings.model_validate(common | {"recipe": self.recipes[recipe]})

    @model_validator(mode="before")
    @classmethod
    def _moved(cls, values: Any) -> Any:
        """Explain where keys of older configurations, without recipes, have moved."""
        known = {*Recipe.model_fields, "class_weights"}
        moved = [name for name in values if name in known] if isinstance(values, Mapping) else []
        if "class_weights" in moved:
            raise ValueError("class_weights was removed: set balanced in cnn.recipes.<name>")
        if moved:
            raise ValueError(
                f"{', '.join(moved)}: moved to cnn.recipes.<name>, which has one recipe per CNN; "
                f"for example recipes: {{tuned: {{{moved[0]}: {values[moved[0]]}}}}}"
            )
        return values

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.recipe_names:
            raise ValueError("recipes: all are null, so there is no CNN. Enable at least one recipe")
        clash = [name for name in self.recipe_names if name.endswith("_onnx")]
        if clash:
            raise ValueError(f"recipes: '{clash[0]}' ends in _onnx, reserved for exported models: choose another name")
        if self.gpus not in (0, self.processes):
            raise ValueError(f"gpus ({self.gpus}) must equal processes ({self.processes}), or be 0 to train on CPUs")
        return self
