"""A recipe step by step: order of events, augmentation, optimiser, learning rate.

Random numbers of a step are seeded by the training's seed, the epoch and the step, so a resumed training needs no
stored generator state. Dropout is also seeded by the rank of the process.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from nuvlm.models.classifier.settings import TrainingRecipe


@dataclass(frozen=True)
class Batch:
    """The events of one optimiser step, for all processes together.

    Attributes:
        rows: (events,) int64, positions in the training split.
        halved: whether the images are shown at half the resolution.
    """

    rows: np.ndarray
    halved: bool


def steps_per_epoch(events: int, recipe: TrainingRecipe) -> int:
    return math.ceil(events / recipe.batch_size)


def draw_epoch(labels: np.ndarray, recipe: TrainingRecipe, seed: int, epoch: int) -> list[Batch]:
    """The batches of an epoch, with as many draws as there are training events.

    Without `balanced` each event is drawn once. With it each class is drawn equally often, to within one event: events
    of frequent classes are left out, events of rare classes repeat, and an event repeats only after all others of its
    class have been drawn as often. The selection changes every epoch.

    Batch sizes differ by at most one event, so that no batch is too small for batch normalisation. Batches at half the
    resolution are spread evenly over the epoch, so that its running means keep both resolutions in this proportion.

    Args:
        labels: (events,) class indices.
        recipe: of which balanced, batch_size and half_resolution are used.
        seed: of the training.
        epoch: from 0.
    """
    rng = random_numbers(seed, epoch)
    order = _balanced(labels, rng) if recipe.balanced else rng.permutation(len(labels))
    count = steps_per_epoch(len(order), recipe)
    passed = np.floor(rng.random() + recipe.half_resolution * np.arange(count + 1))
    return [
        Batch(rows, bool(halved)) for rows, halved in zip(np.array_split(order, count), np.diff(passed), strict=True)
    ]


def _balanced(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    classes = rng.permutation(np.unique(labels))  # the first classes get the remainder
    drawn = []
    for i, label in enumerate(classes):
        rows = np.flatnonzero(labels == label)
        quota = len(labels) // len(classes) + (i < len(labels) % len(classes))
        drawn.append(np.concatenate([rng.permutation(rows) for _ in range(math.ceil(quota / len(rows)))])[:quota])
    return rng.permutation(np.concatenate(drawn))


def draw_flips(events: int, views: int, seed: int, epoch: int, step: int) -> np.ndarray:
    """Views of a batch to mirror: bool (events, views), each true with probability 1/2."""
    return random_numbers(seed, epoch, step).random((events, views)) < 0.5


def flip(images: Tensor, chosen: Tensor) -> Tensor:
    """Mirror the rows (x or y, never the beam) of the `chosen` (events, views) of `images` (events, views, h, w)."""
    return torch.where(chosen[..., None, None], images.flip(2), images)


def halve(images: Tensor) -> Tensor:
    """The condition ``half_resolution`` of :func:`nuvlm.models.degradations.degrade`, on the images' device.

    Args:
        images: uint8 (events, views, size, size).

    Returns:
        uint8, half the size, rounded up.
    """
    odd = images.shape[-1] % 2
    grey = nn.functional.pad(images.float(), (0, odd, 0, odd))
    # Exact in float32; torch and NumPy both round halves to even.
    return nn.functional.avg_pool2d(grey, 2).round().to(torch.uint8)


def make_optimizer(network: nn.Module, recipe: TrainingRecipe) -> torch.optim.Optimizer:
    """Adam (arXiv 1412.6980), or AdamW (arXiv 1711.05101), without decay of biases and normalisation parameters."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    if recipe.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=recipe.learning_rate)
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate)


def learning_rate(recipe: TrainingRecipe, step: int, steps_per_epoch: int) -> float:
    """The learning rate of a step, counted from 0 over all epochs.

    It rises linearly to the full rate at the last warm-up step. After that it is constant, or falls to zero at the end
    of max_epochs as a cosine (arXiv 1608.03983, without restarts).
    """
    warmup = _warmup_steps(recipe, steps_per_epoch)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    if recipe.schedule == "constant":
        return recipe.learning_rate
    done = (step - warmup) / (recipe.max_epochs * steps_per_epoch - warmup)
    return recipe.learning_rate * (1 + math.cos(math.pi * done)) / 2


def peak_rate(recipe: TrainingRecipe, steps: int, steps_per_epoch: int) -> float:
    """The highest learning rate of the first `steps` (at least 1) steps."""
    last_of_warmup = max(_warmup_steps(recipe, steps_per_epoch), 1) - 1
    return learning_rate(recipe, min(last_of_warmup, steps - 1), steps_per_epoch)


def _warmup_steps(recipe: TrainingRecipe, steps_per_epoch: int) -> int:
    return round(recipe.warmup_epochs * steps_per_epoch)


def seed_torch(seed: int, epoch: int, step: int, rank: int) -> None:
    """Seed torch's generator, which dropout uses, for one step of one process."""
    (state,) = np.random.SeedSequence([seed % 2**64, epoch, step, rank + 1]).generate_state(1, np.uint64)
    torch.manual_seed(int(state))


def random_numbers(seed: int, *of: int) -> np.random.Generator:
    return np.random.default_rng([seed % 2**64, *of])
