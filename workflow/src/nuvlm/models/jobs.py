"""What the jobs of a model are given, the same for every family, and what they ask for.

Light to import: rules ask for a :class:`Request` while they are parsed. Its `run` names a function that takes one
:class:`TrainingJob`, :class:`ClassificationJob` or :class:`ExplanationJob`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from nuvlm.base.settings import Settings
from nuvlm.models.trainings import split_training, training_name


@dataclass(frozen=True)
class Request:
    """What a rule needs to start jobs of one model."""

    run: str
    """``nuvlm.package.module:function``, looked up when the job runs."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Plain values; a change runs the job again."""
    untracked: Mapping[str, Any] = field(default_factory=dict)
    """Options that cannot change a result; a change runs nothing again."""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Further input files by name. ``<models>``, ``<base>`` and ``{model}`` stand for the folder of models, the base
    model's folder and the model."""
    environment: str = "gpu"
    """File in workflow/envs."""
    gpus: int = 0
    nodes: int = 1
    memory_mb: int = 4000
    minutes: int = 60
    resumes: bool = False
    """Whether a retry continues from a checkpoint. It needs no more time then, and no more memory: what is configured
    may be all that the nodes and partitions have."""
    events_factor: float = 1.0
    """Passes over the events, for the plan."""

    @property
    def threads(self) -> int:
        """Eight a GPU. On a CPU one, as small jobs side by side are faster than threads within one."""
        return max(1, 8 * self.gpus)


class FamilySettings(Settings, ABC):
    """A family's section of the configuration: its models and their jobs."""

    seeds: Annotated[int, Field(ge=1)] | tuple[int, ...] = 1
    """Trainings of each model: their number, with seeds that follow `seed`, or their seeds, of which `seed` is the
    first. The spread between them is part of the report's uncertainties."""
    enabled: bool = True
    """Whether a run has models of this family."""

    def model_names(self, family: str) -> tuple[str, ...]:
        """The family's models in a run: one, unless settings say otherwise."""
        return (family,) if self.enabled else ()

    def training_names(self, family: str) -> tuple[str, ...]:
        """All trainings of the family's models, see :mod:`nuvlm.models.trainings`."""
        return tuple(name for model in self.model_names(family) for name in self.trainings_of(model))

    def trainings_of(self, model: str) -> tuple[str, ...]:
        """The trainings of one of the family's models."""
        return tuple(training_name(model, number + 1) for number in range(len(self.all_seeds)))

    @property
    def explanations_per_event(self) -> int:
        """Explanations computed for each explained event."""
        return 1

    @property
    @abstractmethod
    def first_seed(self) -> int:
        """The seed of the first training."""

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """The seed of each training of a model."""
        if isinstance(self.seeds, tuple):
            return self.seeds
        return tuple(range(self.first_seed, self.first_seed + self.seeds))

    def seed_of(self, training: str) -> int:
        """The seed of a training."""
        return self.all_seeds[split_training(training)[1] - 1]

    @model_validator(mode="after")
    def _check_seeds(self) -> Self:
        if len({*self.all_seeds}) != len(self.all_seeds):
            raise ValueError(f"seeds {list(self.all_seeds)}: one repeats, which would train the same model again")
        if self.all_seeds[:1] != (self.first_seed,):
            raise ValueError(
                f"seeds {list(self.all_seeds)}: the first must be the seed of the section, {self.first_seed}"
            )
        return self

    @abstractmethod
    def training(self, training: str) -> Request:
        """The job of a training."""

    @abstractmethod
    def classification(self) -> Request:
        """The jobs that classify with any model of the family."""

    def explanation(self) -> Request | None:
        """The jobs that explain predictions of the family; None if it does not explain."""
        return None


@dataclass(frozen=True)
class _Job:
    model: str
    """Name of the training."""
    events: Path
    """The event table."""
    stores: Mapping[str, Path]
    """Shard name -> pixel-map store."""
    inputs: Mapping[str, Path]
    """Further input files (:attr:`Request.inputs`)."""
    settings: Mapping[str, Any]
    """:attr:`Request.settings` and :attr:`Request.untracked`."""
    threads: int
    zoom: int = field(default=1, kw_only=True)
    """Integer upscaling of pixel maps before the base model's image processor (ViT, VLM head, VLM)."""


@dataclass(frozen=True)
class TrainingJob(_Job):
    out: Path
    """Folder of the model, written whole or not at all."""
    checkpoints: Path
    """Folder that outlives a failed job, of this training alone."""
    tensorboard: Path
    log: Path

    @property
    def checkpoint(self) -> Path:
        """A file in place of `checkpoints`. Its name keeps the dot of cnn_tuned.2, a second training's."""
        return self.checkpoints.with_name(f"{self.checkpoints.name}.pt")


@dataclass(frozen=True)
class ClassificationJob(_Job):
    folder: Path
    """Folder of the trained model."""
    outputs: Mapping[str, Path]
    """Condition -> prediction table to write."""
    part: int


@dataclass(frozen=True)
class ExplanationJob(_Job):
    folder: Path
    """Folder of the trained model."""
    out: Path
    """Table or store to write."""
    part: int
    predictions: Mapping[str, Path]
    """Model -> its prediction table of this part, under `condition`."""
    condition: str
    count: int
    """Events to explain."""
    seed: int
