"""How a classifier of pixel maps is trained; the defaults are those of the published CNN (arXiv 2509.08461)."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from nuvlm.base.settings import Settings

WITHOUT_EFFECT = {"memory_mb", "workers", "gradient_checkpointing"}
"""Settings that change no result, and may differ when a checkpoint is resumed."""


class TrainingRecipe(Settings):
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
    batch_size: Annotated[int, Field(ge=1)] = 16
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


class CommonSettings(Settings):
    """Settings shared by all recipes of a run."""

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


class TrainingSettings(CommonSettings):
    """Settings of one training job."""

    section: ClassVar[str]
    """The family's section of the configuration, for messages."""
    recipe_key: ClassVar[str]
    """Where its recipes stand, for messages."""
    recipe: TrainingRecipe = TrainingRecipe()
