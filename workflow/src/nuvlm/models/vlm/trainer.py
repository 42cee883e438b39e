"""TRL's SFTTrainer with separate loss weights for label and rationale, accuracy, and batches made ahead.

TRL computes the loss in chunks of tokens, so the logits of a whole batch never exist.
"""

import os
import signal
from collections.abc import Callable
from functools import partial
from threading import Thread
from typing import Any

import torch
import trl.trainer.utils
from safetensors import SafetensorError
from torch.utils.data import DataLoader
from trl import SFTTrainer

from nuvlm.base.errors import InputError
from nuvlm.models.vlm.batches import out_of_memory


def loss_weights(labels: torch.Tensor, *, separator: int, rationale: float) -> torch.Tensor:
    """Loss weight of each token, so that a long rationale does not dominate the label.

    TRL averages over all tokens, of which the label has a few out of about forty. Here the rationale, the tokens after
    the separator, has the share `rationale` of its event's loss; the tokens up to the separator have the rest.

    Args:
        labels: (n, length) token ids of the answers, -100 elsewhere.
        separator: token that ends the label.
        rationale: share of the rationale, above 0 and below 1. Without a rationale, because the event's truth is not
            known, the end token is masked from the loss.

    Returns:
        (n, length), 0 where labels are -100; each row sums to its number of supervised tokens, which TRL divides by.
    """
    supervised = labels != -100
    later = supervised & ~label_tokens(labels, separator)
    n_supervised, n_later = supervised.sum(dim=1, keepdim=True), later.sum(dim=1, keepdim=True)
    share = torch.where(n_later > 1, rationale, 0.0)
    each = torch.where(later, share / n_later.clamp(min=1), (1 - share) / (n_supervised - n_later).clamp(min=1))
    return each * n_supervised * supervised


def label_tokens(labels: torch.Tensor, separator: int | None) -> torch.Tensor:
    """Which tokens belong to the answer up to the end of its label: (n, length), bool.

    Args:
        labels: (n, length) token ids of the answers, -100 elsewhere.
        separator: token that ends the label; None if nothing follows the label.
    """
    if separator is None:
        return labels != -100
    ends = (labels == separator).long()
    return (labels != -100) & (ends.cumsum(dim=1) == ends)


def begin_worker(seed: Callable[[int], None] | None, worker: int) -> None:
    """Begin a process of a loader, which works on while the training writes its checkpoint on SIGTERM.

    Slurm sends SIGTERM to every process of a job. torch's loader would end its workers then, and the training with
    them, in the middle of a step.

    Args:
        seed: the trainer's own function for the beginning of a worker.
        worker: number of the worker.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # and in the threads that are made from now on
    Thread(target=_obey_the_parent, daemon=True).start()
    if seed is not None:
        seed(worker)


def _obey_the_parent() -> None:
    """End this process on SIGTERM from its parent, and from nobody else."""
    while True:
        if signal.sigwaitinfo({signal.SIGTERM}).si_pid == os.getppid():
            os._exit(0)


def score_supervised_tokens_only() -> None:
    """Let TRL's loss leave out the prompt's tokens on a CPU too, as it does on a GPU.

    Where it has no Triton kernels, TRL computes logits of every token, so that shapes stay the same from batch to
    batch; that matters to compilers only.
    """
    # Read in one place: whether tokens are left out. On the meta device nothing can be, as there are no values.
    trl.trainer.utils._use_triton = lambda device: device.type != "meta"


class RationaleTrainer(SFTTrainer):  # type: ignore[misc]
    """An SFTTrainer whose loss is weighted by :func:`loss_weights` after a call of `weigh_rationales`.

    In an evaluation the loss is the mean over events, and `eval_accuracy` is the share of events whose label, decoded
    greedily, is the true one.
    """

    _weights: dict[str, Any] | None = None

    def __init__(self, *arguments: Any, **values: Any) -> None:
        super().__init__(*arguments, **values)
        score_supervised_tokens_only()

    def _get_dataloader(self, *arguments: Any, **values: Any) -> DataLoader[Any]:
        loader = super()._get_dataloader(*arguments, **values)
        inner = getattr(loader, "base_dataloader", loader)  # of accelerate's wrapper
        inner.worker_init_fn = partial(begin_worker, inner.worker_init_fn)
        return loader

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """0: transformers would count all parameters anew after every step, and nothing reads the number."""
        return 0

    def weigh_rationales(self, separator: int, rationale: float) -> None:
        """Weight tokens with :func:`loss_weights` from now on."""
        self._weights = {"separator": separator, "rationale": rationale}

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        weights = self._weights

        def observed(**batch: Any) -> Any:
            outputs, labels = model(**batch), batch["labels"]
            device = outputs.log_probs.device
            if weights is not None:
                each = loss_weights(labels, **weights)[:, 1:]  # nothing predicts the first token
                outputs.log_probs = outputs.log_probs * each.to(device)
            if not self.model.training:
                # The mean over events, whatever their batches. TRL divides by the number of tokens.
                n_tokens = (labels[:, 1:] != -100).sum(dim=1, keepdim=True).to(device)
                outputs.log_probs = outputs.log_probs * n_tokens.sum() / (len(labels) * n_tokens.clamp(min=1))
                # Of the tokens before, the true ones are given: all are right exactly if greedy decoding gives them.
                of_label = label_tokens(labels, None if weights is None else weights["separator"])[:, 1:]
                right = (outputs.is_top1.bool() | ~of_label.to(device)).all(dim=1)
                self._metrics["eval"]["accuracy"] += self.accelerator.gather_for_metrics(right.float()).tolist()
            return outputs

        return super().compute_loss(observed, inputs, return_outputs, num_items_in_batch)

    def _save_checkpoint(self, *arguments: Any, **values: Any) -> None:
        """Write a checkpoint.

        Raises:
            InputError: it cannot be written; the message names the folder.
        """
        try:
            super()._save_checkpoint(*arguments, **values)
        except (OSError, SafetensorError, RuntimeError) as error:  # of Python, safetensors and torch
            if out_of_memory(error):
                raise
            raise InputError(
                f"{self.args.output_dir}: the checkpoint of step {self.state.global_step} cannot be written ({error}). "
                "Free space there or mend its permissions, then rerun."
            ) from error
