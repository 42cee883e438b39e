"""Settings of the CNN; the defaults are the published ones (arXiv 2509.08461)."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from nuvlm.models.classifier.settings import WITHOUT_EFFECT, CommonSettings, TrainingRecipe, TrainingSettings
from nuvlm.models.jobs import FamilySettings, Request
from nuvlm.models.trainings import split_training

NetworkName = Literal["published", "mobilenet"]


class Recipe(TrainingRecipe):
    """Which network is trained, and how. The recipes of a run share everything else."""

    network: NetworkName = "published"
    """`published`: that of the paper, layer for layer; `mobilenet`: of the same size, with blocks as in MobileNetV3."""


TUNED = Recipe(
    network="mobilenet",
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
"""A current network of the published size, with current training methods."""


class _Common(CommonSettings):
    """Settings shared by all recipes of a run."""

    width: Annotated[float, Field(gt=0, le=4)] = 1.0
    """Multiplies the channels of every layer; 1 gives the 3.4 M parameters of the published network."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3
    """Before the last layer."""


class TrainSettings(_Common, TrainingSettings):
    """Settings of one training job."""

    section: ClassVar[str] = "cnn"
    recipe_key: ClassVar[str] = "cnn.recipes"
    recipe: Recipe = Recipe()


class CnnSettings(_Common, FamilySettings):
    """One model per recipe."""

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
        return tuple(f"{family}_{recipe}" for recipe in self.recipe_names if self.enabled)

    @property
    def first_seed(self) -> int:
        return self.seed

    def training(self, training: str) -> Request:
        recipe = split_training(training)[0].partition("_")[2]
        settings = self.recipe_settings(recipe).model_copy(update={"seed": self.seed_of(training)})
        return Request(
            run="nuvlm.models.cnn.training:run",
            settings=settings.model_dump(mode="json", exclude=WITHOUT_EFFECT),
            untracked=self.model_dump(include=WITHOUT_EFFECT),
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
            raise ValueError(
                "recipes: all are null, so there is no CNN. Enable at least one recipe, or set enabled to false"
            )
        clash = [name for name in self.recipe_names if name.endswith("_onnx")]
        if clash:
            raise ValueError(f"recipes: '{clash[0]}' ends in _onnx, reserved for exported models: choose another name")
        if self.gpus not in (0, self.processes):
            raise ValueError(f"gpus ({self.gpus}) must equal processes ({self.processes}), or be 0 to train on CPUs")
        return self
