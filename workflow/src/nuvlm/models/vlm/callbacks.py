"""Callbacks of the fine-tuning: which checkpoints, complete ones, stop on SIGTERM or NaN, progress in the log."""

import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from nuvlm.base.errors import InputError
from nuvlm.base.files import sync, write_json
from nuvlm.base.manifest import write_manifest
from nuvlm.models.checkpoints import SigtermFlag
from nuvlm.models.devices import peak_memory_mb
from nuvlm.models.memory import memory_in_words
from nuvlm.models.vlm.adapter import stop_gradients_at_inputs

logger = logging.getLogger(__name__)

FINGERPRINT = "fingerprint.json"


class MarkComplete(TrainerCallback):  # type: ignore[misc]
    """Adds manifest and fingerprint to a checkpoint once all processes have written their parts."""

    def __init__(self, fingerprint: Mapping[str, Any]) -> None:
        self.fingerprint = dict(fingerprint)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if args.world_size > 1:
            torch.distributed.barrier()  # each process saves its random state, or its shard
        if state.is_world_process_zero:
            assert args.output_dir is not None
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            write_manifest(folder)
            sync(folder)
            write_json(folder / FINGERPRINT, self.fingerprint, sealed=True)


class SaveEarlyAndBest(TrainerCallback):  # type: ignore[misc]
    """Asks for a checkpoint after the first step, and after each evaluation with the lowest loss so far.

    The first one shows that saving works, before hours of work depend on it. transformers keeps the best checkpoint but
    writes none for it, unless `save_steps` is a multiple of `eval_steps`.
    """

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        control.should_save |= state.global_step == 1

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: dict[str, float], **_: Any
    ) -> None:
        control.should_save |= metrics["eval_loss"] < (math.inf if state.best_metric is None else state.best_metric)


class StopAtNan(TrainerCallback):  # type: ignore[misc]
    """Stops training at the first loss or gradient norm that is not finite, before a checkpoint is written."""

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, float], **_: Any
    ) -> None:
        for name in ("loss", "grad_norm", "eval_loss"):
            value = logs.get(name)
            if isinstance(value, float) and not math.isfinite(value):
                raise InputError(
                    f"{args.output_dir}: {name} is {value} at step {state.global_step} of the fine-tuning. Lower "
                    "vlm.finetune.learning_rate; if vlm.finetune.bf16 is true, try false."
                )


class StopGradientsAtInputs(TrainerCallback):  # type: ignore[misc]
    """Calls :func:`stop_gradients_at_inputs` after the trainer has set up gradient checkpointing."""

    def on_train_begin(self, *_: Any, model: PeftModel, **__: Any) -> None:
        stop_gradients_at_inputs(model)


class StopOnSigterm(TrainerCallback):  # type: ignore[misc]
    """Writes a checkpoint and stops training after the step in which any process receives SIGTERM.

    transformers' `enable_jit_checkpoint` also saves, but the process then exits with status 0, and a workflow would
    take the training for finished.
    """

    def __init__(self) -> None:
        self.asked = False
        self._sigterm = SigtermFlag()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._sigterm.__enter__()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.asked = self._sigterm.received
        if args.world_size > 1:
            # The signal reaches processes at different times, but all must stop at the same step.
            asked = torch.tensor(float(self.asked), device=args.device)
            torch.distributed.all_reduce(asked, op=torch.distributed.ReduceOp.MAX)
            self.asked = bool(asked.item())
        if self.asked and state.global_step < state.max_steps:
            control.should_save = True
            control.should_training_stop = True

    def on_train_end(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        self.asked = self.asked and state.global_step < state.max_steps
        self._sigterm.__exit__()


class Progress(TrainerCallback):  # type: ignore[misc]
    """Logs loss, rate, memory and remaining time every `every` steps, and every evaluation."""

    def __init__(self, events_per_step: int, every: int) -> None:
        self.events_per_step = events_per_step
        self.every = every
        self.seconds = 0.0
        """Duration of the steps, without the trainer's set-up before the first."""
        self.step_seconds: list[float] = []
        """Duration of each step, with its data and without evaluations and checkpoints."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        self._start, self._begun = time.monotonic(), state.global_step
        self._mark = self._start

    def on_step_end(self, *_: Any, **__: Any) -> None:
        now = time.monotonic()
        self.step_seconds.append(now - self._mark)
        self._mark = now

    def on_evaluate(self, *_: Any, **__: Any) -> None:
        self._mark = time.monotonic()

    def on_save(self, *_: Any, **__: Any) -> None:
        self._mark = time.monotonic()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.seconds = time.monotonic() - self._start

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, float], **_: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        if "eval_loss" in logs:
            logger.info(
                "validation after step %d: loss %.3f, accuracy %.3f",
                state.global_step, logs["eval_loss"], logs["eval_accuracy"],
            )  # fmt: skip
        if "loss" not in logs or state.global_step % self.every:
            return
        seconds = max(time.monotonic() - self._start, 1e-9)
        rate = (state.global_step - self._begun) / seconds
        logger.info(
            "step %d/%d, loss %.3f, token accuracy %.3f, %.3g events/s, %.3g tokens/s, %.0f s left; %s",
            state.global_step, state.max_steps, logs["loss"], logs.get("mean_token_accuracy", float("nan")),
            rate * self.events_per_step, logs.get("num_tokens", float("nan")) / seconds,
            (state.max_steps - state.global_step) / rate,
            memory_in_words(peak_memory_mb() if torch.cuda.is_available() else None),
        )  # fmt: skip
