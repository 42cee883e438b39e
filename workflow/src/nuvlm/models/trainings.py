"""Names of the trainings of a model, which differ in the seed: ``cnn_tuned``, ``cnn_tuned.2``, ``cnn_tuned.3``.

The first is called like the model, so that a further training renames no file.
"""

SEPARATOR = "."
"""Not part of any name of a model."""


def training_name(model: str, number: int) -> str:
    """The name of a model's training, counted from 1."""
    return model if number == 1 else f"{model}{SEPARATOR}{number}"


def split_training(name: str) -> tuple[str, int]:
    """The model and the number, from 1, of a training."""
    model, _, number = name.partition(SEPARATOR)
    return model, int(number or 1)
