"""The training loop: epochs, steps, validation, early stopping, checkpoints and resuming."""

import hashlib
import json
import logging
import math
import signal
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter

from nuvlm.base.classes import CLASSES
from nuvlm.base.errors import InputError
from nuvlm.base.logs import track
from nuvlm.models.checkpoints import SigtermFlag
from nuvlm.models.classifier.checkpoint import read_checkpoint, write_checkpoint
from nuvlm.models.classifier.data import Images, batches
from nuvlm.models.classifier.network import ImageClassifier, channels_last, count_parameters
from nuvlm.models.classifier.processes import ProcessGroup
from nuvlm.models.classifier.recipes import (
    Batch,
    draw_epoch,
    draw_flips,
    flip,
    halve,
    learning_rate,
    make_optimizer,
    peak_rate,
    seed_torch,
    steps_per_epoch,
)
from nuvlm.models.classifier.settings import TrainingSettings
from nuvlm.models.devices import device_name, peak_memory_mb

logger = logging.getLogger(__name__)

VALIDATION_BATCH, VALIDATION_PIXELS = 64, 2**22
"""Largest validation batch in events, and in pixels of all views, which limits the memory of large maps."""
CHECKPOINT_SECONDS = 600.0
"""A checkpoint is written after every epoch, and within an epoch when the last one is this old."""


@dataclass(frozen=True)
class Split:
    """The events of a split.

    Attributes:
        images: of (events,).
        labels: (events,) int64, class indices.
    """

    images: Images
    labels: np.ndarray


@dataclass
class Progress:
    """Progress within an epoch.

    Attributes:
        losses: mean over the batch, for each step.
        seconds: total time of the steps.
        waited: part of `seconds` spent waiting for batches.
        rate: learning rate of the last step.
    """

    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    waited: float = 0.0
    rate: float = 0.0


class Training:
    """A training from its first step, or from a checkpoint, to its last step.

    Args:
        network: on the CPU, with its initial weights.
        checkpoint: file to write checkpoints to, and to resume from if it exists.
        fingerprint: of the training, :func:`nuvlm.models.checkpoints.fingerprint`.
        group: the processes that share each batch.
        sigterm: whether SIGTERM was received.
        train, validation: the two splits.
    """

    def __init__(
        self,
        settings: TrainingSettings,
        network: ImageClassifier,
        checkpoint: Path,
        fingerprint: dict[str, Any],
        group: ProcessGroup,
        sigterm: SigtermFlag,
        train: Split,
        validation: Split,
    ) -> None:
        self.settings, self.recipe = settings, settings.recipe
        self.checkpoint, self.fingerprint = checkpoint, fingerprint
        self.group, self.sigterm, self.train, self.validation = group, sigterm, train, validation
        self.steps = steps_per_epoch(len(train.labels), self.recipe)
        self.network = channels_last(network.to(group.device))
        self.forward = group.wrap(self.network)
        if self.settings.compile:
            # One graph per resolution and batch size: a dynamic graph is not always possible.
            self.forward = torch.compile(self.forward, dynamic=False)  # type: ignore[assignment]
        self.optimizer = make_optimizer(self.network, self.recipe)
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Tensor] = {}
        self.progress = Progress()
        self.saved = time.monotonic()
        if checkpoint.exists():
            self._resume()
        self._info(
            "training on %d events, validating on %d; %d parameters, %d processes, %s, %s",
            len(train.labels), len(validation.labels), count_parameters(self.network), group.size,
            group.device, self.precision,
        )  # fmt: skip

    @property
    def precision(self) -> str:
        return "bfloat16 (automatic mixed precision)" if self.settings.bf16 else "float32"

    def run(self, tensorboard: Path) -> None:
        """Train to the last epoch or until early stopping.

        Args:
            tensorboard: folder for the history.

        Raises:
            InputError: a loss or gradient is not finite.
            SystemExit: on SIGTERM, after writing a checkpoint.
        """
        writer = SummaryWriter(str(tensorboard), purge_step=len(self.history)) if self.group.rank == 0 else None
        while (epoch := len(self.history)) < self.recipe.max_epochs and self._since_best() < self.recipe.patience:
            self._epoch(epoch)
            entry = self._validate(epoch)
            self.history.append(entry)
            self.progress = Progress()
            if self._since_best() == 0:
                self.best = {name: value.detach().clone() for name, value in self.network.learnt().items()}
            self._save()
            if writer is not None:
                for name, value in entry.items():
                    writer.add_scalar(name, value, epoch)
            self._info(
                "epoch %d of at most %d: loss %.4f, validation loss %.4f, accuracy %.3f, %.0f events/s",
                epoch + 1, self.recipe.max_epochs, entry["train_loss"], entry["validation_loss"],
                entry["validation_accuracy"], len(self.train.labels) / entry["seconds"],
            )  # fmt: skip
        if writer is not None:
            writer.close()

    def _epoch(self, epoch: int) -> None:
        """The remaining steps of an epoch."""
        drawn = draw_epoch(self.train.labels, self.recipe, self.settings.seed, epoch)
        left = drawn[len(self.progress.losses) :]
        made = batches(self.train.images, [self.group.share(batch.rows) for batch in left], self.settings.workers)
        self.network.train()
        start = time.perf_counter()
        last: Tensor | None = None  # loss of the previous step, not yet transferred
        losses: list[float] = []  # of this process, since the start or the last checkpoint
        for batch, (rows, images) in zip(self._track(left), made, strict=True):
            self.progress.waited += time.perf_counter() - start
            step = len(self.progress.losses) + len(losses) + (last is not None)
            current = self._step(epoch, step, batch, rows, images)
            if last is not None:
                losses.append(self._finite(last, epoch, step))
            last = current
            self.progress.seconds += time.perf_counter() - start
            start = time.perf_counter()
            asked, due = self.group.any(self.sigterm.received, time.monotonic() - self.saved > CHECKPOINT_SECONDS)
            if asked or due:
                losses.append(self._finite(last, epoch, step + 1))
                self._add_losses(losses)
                last, losses = None, []
                self._save()
                if asked:
                    self._leave(epoch, step + 1)
        if last is not None:
            losses.append(self._finite(last, epoch, len(drawn)))
        self.progress.seconds += time.perf_counter() - start
        self._add_losses(losses)

    def _step(self, epoch: int, step: int, batch: Batch, rows: np.ndarray, images: np.ndarray) -> Tensor:
        """One step of the optimiser with this process's share of a batch.

        Returns:
            (2,): contribution of this share to the mean loss of the batch, and the norm of the batch's gradient.
        """
        seed, device = self.settings.seed, self.group.device
        grey = torch.from_numpy(images).to(device, non_blocking=True)
        if batch.halved:
            grey = halve(grey)
        if self.recipe.flip:
            chosen = self.group.share(draw_flips(len(batch.rows), grey.shape[1], seed, epoch, step))
            grey = flip(grey, torch.from_numpy(chosen).to(device))
        x = self.network.prepare(grey, device)
        target = torch.from_numpy(self.train.labels[rows]).to(device)
        self.progress.rate = learning_rate(self.recipe, epoch * self.steps + step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.progress.rate
        seed_torch(seed, epoch, step, self.group.rank)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.settings.bf16):
            logits = self.forward(x)
        summed = F.cross_entropy(logits.float(), target, label_smoothing=self.recipe.label_smoothing, reduction="sum")
        loss = summed / len(batch.rows)
        self.optimizer.zero_grad(set_to_none=True)
        # DistributedDataParallel averages gradients over processes; their sum is needed, also for unequal shares.
        (loss * self.group.size).backward()
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.recipe.max_grad_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.network.parameters(), self.recipe.max_grad_norm, norm)
        self.optimizer.step()
        return torch.stack([loss.detach(), norm])

    def _finite(self, outcome: Tensor, epoch: int, steps: int) -> float:
        """The loss in the output of :meth:`_step`; raises InputError if the loss or the gradient is not finite."""
        loss, norm = outcome.tolist()
        if not math.isfinite(loss + norm):
            raise InputError(
                f"the loss is not a number in epoch {epoch + 1}, step {steps} (loss {loss}, gradient {norm}): lower "
                f"learning_rate of its recipe in {self.settings.recipe_key}, or set max_grad_norm there"
                + (f"; or disable {self.settings.section}.bf16" if self.settings.bf16 else "")
                + f". Remove {self.checkpoint}, if it exists, to start again."
            )
        return float(loss)

    def _add_losses(self, losses: list[float]) -> None:
        """Sum the processes' losses of each step and append them to the progress."""
        self.progress.losses += [math.fsum(parts) for parts in zip(*self.group.gather(losses), strict=True)]

    def _validate(self, epoch: int) -> dict[str, float]:
        """Validate after an epoch and return its entry of the history."""
        self.group.sync_buffers(self.network)
        loss, accuracy = validate(self.network, self.validation, self.group, self.settings.workers)
        sizes = [len(batch.rows) for batch in draw_epoch(self.train.labels, self.recipe, self.settings.seed, epoch)]
        entry = {
            "train_loss": float(np.average(self.progress.losses, weights=sizes)),
            "validation_loss": loss,
            "validation_accuracy": accuracy,
            "learning_rate": self.progress.rate,
            "seconds": self.progress.seconds,
            "waited_seconds": self.progress.waited,
        }
        if self.recipe.half_resolution:
            loss, accuracy = validate(self.network, self.validation, self.group, self.settings.workers, halved=True)
            entry |= {"half_validation_loss": loss, "half_validation_accuracy": accuracy}
        if not np.isfinite(list(entry.values())).all():
            raise InputError(
                f"the validation loss is not a number after epoch {epoch + 1} ({loss}): lower learning_rate of its "
                f"recipe in {self.settings.recipe_key}."
            )
        # Wall times differ between processes: all use the values of rank 0.
        return self.group.gather(entry)[0]

    def card(self, images: dict[str, Any]) -> dict[str, Any]:
        """Content of ``training.json``."""
        labels, epochs = self.train.labels, len(self.history)
        seconds = sum(entry["seconds"] for entry in self.history)
        return {
            "classes": list(CLASSES),
            "views": self.train.images.shape[0],
            "settings": self.settings.model_dump(mode="json"),
            "images": images,
            **self.network.card(),
            "parameters": count_parameters(self.network),
            "class_counts": {label: int((labels == i).sum()) for i, label in enumerate(CLASSES)},
            "events": len(labels),
            "validation_events": len(self.validation.labels),
            "epochs": epochs,
            "best_epoch": epochs - self._since_best(),
            "stopped_early": self._since_best() >= self.recipe.patience,
            "steps": epochs * self.steps,
            "peak_learning_rate": peak_rate(self.recipe, epochs * self.steps, self.steps),
            "history": self.history,
            "seconds": seconds,
            "events_per_second": len(labels) * epochs / seconds,
            "loader_share": sum(entry["waited_seconds"] for entry in self.history) / seconds,
            "processes": self.group.size,
            "precision": self.precision,
            "compiled": self.settings.compile,
            "peak_memory_mb": max(self.group.gather(peak_memory_mb())),
            "device": device_name(self.group.device),
            "torch": torch.__version__,
        }

    def check_replicas(self) -> None:
        """Raise if the networks of the processes differ, as only one of them is written."""
        digest = hashlib.sha256()
        for value in self.network.learnt().values():
            digest.update(value.cpu().numpy().tobytes())
        if len(set(self.group.gather(digest.hexdigest()))) > 1:
            raise RuntimeError("the networks of the processes differ")

    def _since_best(self) -> int:
        losses = [entry["validation_loss"] for entry in self.history]
        return len(losses) - 1 - int(np.argmin(losses)) if losses else 0

    def _save(self) -> None:
        if self.group.rank == 0:
            state = {
                "network": self.network.learnt(),
                "optimizer": self.optimizer.state_dict(),
                "best": self.best,
                "history": json.dumps(self.history),
                "progress": json.dumps(asdict(self.progress)),
            }
            write_checkpoint(self.checkpoint, self.fingerprint, state)
        self.saved = time.monotonic()

    def _resume(self) -> None:
        state = read_checkpoint(self.checkpoint, self.fingerprint, self.group.device)
        self.network.load_learnt(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best, self.history = state["best"], json.loads(state["history"])
        self.progress = Progress(**json.loads(state["progress"]))
        self._info(
            "resuming after epoch %d and %d steps, from %s",
            len(self.history), len(self.progress.losses), self.checkpoint,
        )  # fmt: skip

    def _leave(self, epoch: int, steps: int) -> None:
        self.group.any(False)  # torchrun ends all processes when one exits: wait for the checkpoint
        if self.group.rank == 0:
            logger.error(
                "stopped by SIGTERM in epoch %d after step %d of %d; checkpoint written, rerun to resume",
                epoch + 1, steps, self.steps,
            )  # fmt: skip
        raise SystemExit(128 + signal.SIGTERM)

    def _track(self, left: list[Batch]) -> Iterable[Batch]:
        return track(left, "batches") if self.group.rank == 0 else left

    def _info(self, message: str, *values: object) -> None:
        if self.group.rank == 0:
            logger.info(message, *values)


def validate(
    network: ImageClassifier, split: Split, group: ProcessGroup, workers: int = 0, *, halved: bool = False
) -> tuple[float, float]:
    """Mean cross-entropy and accuracy of `network` on a split, in float32, computed by all processes of `group`.

    Args:
        network: on the device of `group`.
        workers: see :func:`nuvlm.models.classifier.data.batches`.
        halved: show images at half the resolution.
    """
    network.eval()
    size = max(1, min(VALIDATION_BATCH, VALIDATION_PIXELS // math.prod(split.images.shape)))
    mine = group.share(np.arange(len(split.labels)))
    loss, right = 0.0, 0
    with torch.inference_mode():
        order = [mine[begin : begin + size] for begin in range(0, len(mine), size)]
        for rows, images in batches(split.images, order, workers):
            target = torch.from_numpy(split.labels[rows]).to(group.device)
            grey = torch.from_numpy(images).to(group.device, non_blocking=True)
            logits = network(network.prepare(halve(grey) if halved else grey, group.device))
            loss += float(F.cross_entropy(logits, target, reduction="sum"))
            right += int((logits.argmax(dim=1) == target).sum())
    parts = group.gather((loss, right))
    events = len(split.labels)
    return math.fsum(part[0] for part in parts) / events, sum(part[1] for part in parts) / events
