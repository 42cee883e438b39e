"""What the jobs of a model are given, the same for every family, and what they ask for.

Light to import: rules ask for a :class:`Request` while they are parsed. Its `run` names a function that takes one
:class:`TrainingJob`, :class:`ClassificationJob` or :class:`ExplanationJob`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nuvlm.base.settings import Settings


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
    """Further input files by name; ``<models>`` and ``{model}`` stand for the folder of models and the model."""
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

    def model_names(self, family: str) -> tuple[str, ...]:
        """The family's models in a run: one, unless settings say otherwise."""
        return (family,)

    @abstractmethod
    def training(self, model: str) -> Request:
        """The job that trains `model`."""

    @abstractmethod
    def classification(self) -> Request:
        """The jobs that classify with any model of the family."""

    def explanation(self) -> Request | None:
        """The jobs that explain predictions of the family; None if it does not explain."""
        return None


@dataclass(frozen=True)
class _Job:
    model: str
    """Name of the model."""
    events: Path
    """The event table."""
    stores: Mapping[str, Path]
    """Shard name -> pixel-map store."""
    inputs: Mapping[str, Path]
    """Further input files (:attr:`Request.inputs`)."""
    settings: Mapping[str, Any]
    """:attr:`Request.settings` and :attr:`Request.untracked`."""
    threads: int


@dataclass(frozen=True)
class TrainingJob(_Job):
    out: Path
    """Folder of the model, written whole or not at all."""
    checkpoints: Path
    """File or folder beside it that outlives a failed job."""
    tensorboard: Path
    log: Path


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
