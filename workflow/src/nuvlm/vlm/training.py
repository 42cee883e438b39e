"""Fine-tune the vision-language model on pixel maps: QLoRA with TRL's SFTTrainer, on one process or several.

``python -m nuvlm.vlm.training job.json`` is what torchrun starts in each process; `launch` decides whether to use it.
"""

import hashlib
import importlib.metadata
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from peft import LoraConfig
from pydantic import ValidationError
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import SFTConfig, SFTTrainer

from nuvlm.classes import CLASSES
from nuvlm.devices import choose_device, device_name, peak_memory_mb
from nuvlm.errors import InputError
from nuvlm.events import read_events
from nuvlm.logs import setup_logging
from nuvlm.pixelmaps import image_settings
from nuvlm.settings import Settings
from nuvlm.storage import MANIFEST, atomic_path, sha256, write_json, write_manifest
from nuvlm.vlm.dataset import conversations
from nuvlm.vlm.model import count_parameters, load_model, load_processor
from nuvlm.vlm.prompts import check_views, load_prompts
from nuvlm.vlm.settings import FinetuneSettings

# Not __name__, which is "__main__" where torchrun starts this.
logger = logging.getLogger("nuvlm.vlm.training")

FINGERPRINT = "fingerprint.json"
WITHOUT_EFFECT = {"save_steps", "logging_steps", "gpus"}
"""Settings that a checkpoint may be resumed under with another value."""


class Job(Settings):
    """A fine-tuning job, as it is handed to each process."""

    base: Path
    """Folder of the base model."""
    events: Path
    """The event table."""
    stores: dict[str, Path]
    """Shard name -> pixel-map store."""
    out: Path
    """Folder of the adapter."""
    checkpoints: Path
    """Folder of the checkpoints, beside `out`: it outlives a failed job."""
    tensorboard: Path
    prompts: Path
    log: Path | None = None
    settings: FinetuneSettings = FinetuneSettings()


def launch(job: Job) -> None:
    """Run the job in this process, or in as many as it asks for with torchrun.

    Raises:
        InputError: from the job in this process.
        SystemExit: with the exit status of torchrun where it failed, after its processes have said why.
    """
    if job.settings.processes == 1 and (job.settings.strategy == "balanced" or torch.cuda.device_count() <= 1):
        finetune(job)
        return
    # One process that sees several GPUs would become nn.DataParallel: torchrun, for one too.
    with atomic_path(job.checkpoints / "job.json") as partial:
        partial.write_text(job.model_dump_json(indent=1))
    command = [sys.executable, "-m", "torch.distributed.run"]
    command += ["--standalone", f"--nproc-per-node={job.settings.processes}"]
    command += ["-m", "nuvlm.vlm.training", str(job.checkpoints / "job.json")]
    logger.info("starting %s", " ".join(command))
    # The processes find the package where this one did, installed or not.
    source = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))}
    with subprocess.Popen(command, env=environment) as process:
        previous = signal.signal(signal.SIGTERM, lambda number, _: process.send_signal(number))
        try:
            status = process.wait()
        finally:
            signal.signal(signal.SIGTERM, previous)
    if status:
        raise SystemExit(status)


def finetune(job: Job) -> None:
    """Fine-tune on the events of the split `train`; the adapter appears in ``job.out`` whole or not at all.

    Beside the adapter stands ``training.json``: events, steps, seconds, events a second, losses on the training
    and the validation split, trainable parameters, peak memory, versions.

    A job that was stopped goes on from its newest whole checkpoint, and ends with the same adapter. On SIGTERM a
    checkpoint is written and the process ends with status 143. Finished, the checkpoints are removed.

    Raises:
        InputError: a damaged base model or store, texts or a base model for other views than the pixel maps have, or
            checkpoints of other settings or data.
    """
    settings = job.settings
    prompts = load_prompts(job.prompts)
    images = image_settings(job.stores)
    check_views(job.prompts, prompts, images["views"])
    processor = load_processor(job.base)
    _check_base(job.base, len(images["views"]))
    events = read_events(job.events)
    events = events[events["class"].isin(CLASSES)]
    train, validation = (
        conversations(events[events["split"] == split], job.stores, prompts) for split in ("train", "validation")
    )
    if not len(train):
        raise InputError(f"{job.events}: no labelled event in the split train. Add events.")
    fingerprint = _fingerprint(job)
    checkpoint = newest_checkpoint(job.checkpoints, fingerprint)
    model = load_model(job.base, settings.quantization, bf16=settings.bf16, device_map=_device_map(settings))
    trainer = SFTTrainer(
        model=model,
        args=_arguments(job),
        train_dataset=train,
        eval_dataset=validation if len(validation) else None,
        processing_class=processor,
        peft_config=LoraConfig(
            task_type="CAUSAL_LM",
            r=settings.lora.r,
            lora_alpha=settings.lora.alpha,
            lora_dropout=settings.lora.dropout,
            bias="none",
            target_modules=list(settings.lora.target_modules),
            exclude_modules=None if settings.lora.vision else r".*vision_model.*",
        ),
        callbacks=[_MarkWhole(fingerprint)],
    )
    trainable = [p for p in trainer.model.parameters() if p.requires_grad]
    for parameter in trainable:
        # TRL casts the adapter to bfloat16, and a resumed adapter is float32: with float32 from the start a resumed
        # run is the same as an unbroken one, and small updates are not rounded away.
        parameter.data = parameter.data.float()
    logger.info(
        "%d events, %d for validation; %d trainable parameters; effective batch %d",
        len(train), len(validation), sum(p.numel() for p in trainable), settings.global_batch_size,
    )  # fmt: skip
    stop = _StopOnSigterm()
    trainer.add_callback(stop)
    trainer.remove_callback(PrinterCallback)  # _Progress logs the same
    trainer.add_callback(_Progress(settings.global_batch_size))
    start = time.perf_counter()
    result = trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    seconds = time.perf_counter() - start
    if stop.asked:
        step = trainer.state.global_step
        logger.error("stopped at step %d by SIGTERM, checkpoint written: start again to go on", step)
        raise SystemExit(128 + signal.SIGTERM)
    evaluation = trainer.evaluate() if len(validation) else {}
    begun = checkpoint_step(checkpoint) if checkpoint else 0
    seen = (trainer.state.global_step - begun) * settings.global_batch_size
    if trainer.is_world_process_zero():
        summary = {
            "events": len(train),
            "steps": trainer.state.global_step,
            "resumed_from_step": begun,
            "epochs": settings.epochs,
            "seconds": seconds,
            "events_per_second": seen / seconds,
            "train_loss": result.training_loss,
            "validation_loss": evaluation.get("eval_loss"),
            "validation_events": len(validation),
            "losses": [[entry["step"], entry["loss"]] for entry in trainer.state.log_history if "loss" in entry],
            "images": images,
            "parameters": count_parameters(trainer.model),
            "trainable_parameters": sum(p.numel() for p in trainable),
            "peak_memory_mb": peak_memory_mb(),
            "strategy": settings.strategy,
            "processes": trainer.args.world_size,
            "effective_batch": settings.global_batch_size,
            "device": device_name(choose_device()),
            "versions": {
                name: importlib.metadata.version(name)
                for name in ("torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate")
            },
        }
        with atomic_path(job.out) as partial:
            trainer.model.save_pretrained(partial)
            write_json(partial / "training.json", summary)
            write_manifest(partial)
        shutil.rmtree(job.checkpoints, ignore_errors=True)
        logger.info("%.3g events/s; validation loss %s", summary["events_per_second"], summary["validation_loss"])
    trainer.accelerator.wait_for_everyone()


def newest_checkpoint(folder: Path, fingerprint: Mapping[str, str]) -> Path | None:
    """The newest whole checkpoint below `folder`, if there is one.

    Raises:
        InputError: it was made with other settings or from other data; the message names what differs.
    """
    # The fingerprint is written last: a checkpoint without one was cut short.
    whole = [path.parent for path in folder.glob(f"checkpoint-*/{FINGERPRINT}")]
    if not whole:
        return None
    newest = max(whole, key=checkpoint_step)
    found = json.loads((newest / FINGERPRINT).read_text())
    differ = sorted(key for key in {*found, *fingerprint} if found.get(key) != fingerprint.get(key))
    if differ:
        raise InputError(
            f"{newest}: a checkpoint of another training: {', '.join(differ)} differ. Restore them to go on with it, "
            f"or remove {folder} to start anew."
        )
    logger.info("going on from %s", newest)
    return newest


def checkpoint_step(path: Path) -> int:
    return int(path.name.removeprefix("checkpoint-"))


def _check_base(base: Path, views: int) -> None:
    """Refuse a base model made here (`build_base_model`) that has learnt to see another number of views."""
    summary = base / "pretraining.json"
    learnt = json.loads(summary.read_text()).get("views", 2) if summary.exists() else views
    if learnt != views:
        raise InputError(
            f"{base}: made for {learnt} views, but the pixel maps have {views}. Remove it and rerun: it is made again."
        )


def _fingerprint(job: Job) -> dict[str, str]:
    """What the training depends on: each setting, and a digest of the base model, the events, images and texts."""
    settings = job.settings.model_dump(mode="json", exclude=WITHOUT_EFFECT)
    fingerprint = {f"settings.{key}": json.dumps(value) for key, value in settings.items()}
    images = hashlib.sha256()
    for shard, store in sorted(job.stores.items()):
        images.update(f"{shard}\n{sha256(store / MANIFEST)}\n".encode())
    return fingerprint | {
        "base model": sha256(job.base / MANIFEST),
        "events": sha256(job.events),
        "pixel maps": images.hexdigest(),
        "prompts": sha256(job.prompts),
    }


def _device_map(settings: FinetuneSettings) -> str | dict[str, Any]:
    if settings.strategy == "balanced":
        return "balanced"
    if torch.cuda.is_available():
        return {"": int(os.environ.get("LOCAL_RANK", "0"))}
    return {"": "cpu"}


def _arguments(job: Job) -> SFTConfig:
    settings = job.settings
    # transformers takes the folder of the event files from the environment alone.
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(job.tensorboard)
    return SFTConfig(
        output_dir=str(job.checkpoints),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.device_batch_size,
        per_device_eval_batch_size=settings.device_batch_size,
        gradient_accumulation_steps=settings.global_batch_size // (settings.device_batch_size * settings.processes),
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        # Below 1 transformers reads it as the share of all steps; `warmup_ratio` itself is gone.
        warmup_steps=settings.warmup_ratio,
        max_grad_norm=settings.max_grad_norm,
        optim=settings.optimizer,
        bf16=settings.bf16,
        tf32=True if torch.cuda.is_available() else None,
        use_cpu=not torch.cuda.is_available(),
        gradient_checkpointing=settings.gradient_checkpointing,
        assistant_only_loss=True,
        max_length=None,
        save_strategy="steps",
        save_steps=settings.save_steps,
        save_total_limit=2,
        logging_steps=settings.logging_steps,
        eval_strategy="no",
        report_to=["tensorboard"],
        disable_tqdm=True,
        seed=settings.seed,
        data_seed=settings.seed,
        # The rows are made of columns that the model does not take.
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
    )


class _MarkWhole(TrainerCallback):  # type: ignore[misc]
    """Writes the fingerprint into a checkpoint when all else in it is written."""

    def __init__(self, fingerprint: Mapping[str, str]) -> None:
        self.fingerprint = dict(fingerprint)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            assert args.output_dir is not None
            write_json(Path(args.output_dir) / f"checkpoint-{state.global_step}" / FINGERPRINT, self.fingerprint)


class _StopOnSigterm(TrainerCallback):  # type: ignore[misc]
    """Ends training with a checkpoint after the step in which any process was asked to stop."""

    def __init__(self) -> None:
        self.asked = False
        self._previous: Any = None

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._previous = signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if args.world_size > 1:
            # The signal reaches the processes at different times; they must leave the loop at the same step.
            asked = torch.tensor(float(self.asked), device=args.device)
            torch.distributed.all_reduce(asked, op=torch.distributed.ReduceOp.MAX)
            self.asked = bool(asked.item())
        if self.asked and state.global_step < state.max_steps:
            control.should_save = True
            control.should_training_stop = True

    def on_train_end(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        self.asked = self.asked and state.global_step < state.max_steps
        signal.signal(signal.SIGTERM, self._previous)


class _Progress(TrainerCallback):  # type: ignore[misc]
    """Logs what is done, how fast it goes and how long it will take, whenever the loss is logged."""

    def __init__(self, events_per_step: int) -> None:
        self.events_per_step = events_per_step

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        self._start, self._begun = time.monotonic(), state.global_step

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, float], **_: Any
    ) -> None:
        if "loss" not in logs or not state.is_world_process_zero:
            return
        rate = (state.global_step - self._begun) / max(time.monotonic() - self._start, 1e-9)
        logger.info(
            "step %d/%d, loss %.3f, token accuracy %.3f, %.3g events/s, %.0f s left",
            state.global_step, state.max_steps, logs["loss"], logs.get("mean_token_accuracy", float("nan")),
            rate * self.events_per_step, (state.max_steps - state.global_step) / rate,
        )  # fmt: skip


def main(arguments: list[str]) -> None:
    """One process of a job that torchrun started: ``main([path of the job's JSON])``."""
    path = Path(arguments[0])
    try:
        job = Job.model_validate_json(path.read_text())
    except (OSError, ValidationError) as error:
        raise InputError(f"{path}: not a readable fine-tuning job ({error}).") from error
    if job.log is not None:
        setup_logging(job.log)
    finetune(job)


if __name__ == "__main__":
    main(sys.argv[1:])
