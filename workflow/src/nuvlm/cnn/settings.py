"""Settings of the CNN; the defaults are the published ones (arXiv 2509.08461)."""

from typing import Annotated, Literal

from pydantic import Field

from nuvlm.settings import Settings


class CnnSettings(Settings):
    width: Annotated[float, Field(gt=0, le=4)] = 1.0
    """Multiplier of the channels of every layer; 1 gives the published 3.4 M parameters."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 1e-6
    batch_size: Annotated[int, Field(ge=2)] = 16
    max_epochs: Annotated[int, Field(ge=1)] = 300
    patience: Annotated[int, Field(ge=1)] = 10
    """Stop after this many epochs without a better validation loss."""
    flip: bool = False
    """Mirror training images along x and along y at random (the detector and the beam allow both)."""
    class_weights: bool = False
    """Weigh the classes of the loss by the inverse of their frequency."""
    classify_batch_size: Annotated[int, Field(ge=1)] = 1
    """Events a batch when classifying; published times are for one."""
    classify_backend: Literal["torch", "onnx"] = "torch"
    """What classifies: torch, on a GPU where there is one, as the published times were taken; or onnxruntime, on CPU
    cores, several times faster than torch there."""
    gpus: Annotated[int, Field(ge=0)] = 1
    """GPUs that the jobs ask for; 0 runs them on a CPU."""
    seed: int = 7
