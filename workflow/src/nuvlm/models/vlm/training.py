"""Fine-tune the vision-language model on pixel maps: QLoRA with TRL's SFTTrainer, on one process or several.

``python -m nuvlm.models.vlm.training job.json`` is what torchrun starts in each process; :func:`launch` decides
whether to use it.
"""

import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from accelerate.utils import gather_object
from peft.utils.integrations import gather_params_ctx
from pydantic import ValidationError
from transformers import AutoConfig, PrinterCallback
from trl import SFTConfig
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from nuvlm.base.classes import CLASSES
from nuvlm.base.errors import InputError
from nuvlm.base.files import atomic_path, read_json, sha256, write_json
from nuvlm.base.logs import setup_logging
from nuvlm.base.manifest import MANIFEST, verify_manifest, write_manifest
from nuvlm.base.settings import Settings
from nuvlm.dataset.event_table import read_events
from nuvlm.dataset.pixelmaps import image_settings
from nuvlm.models.checkpoints import check_fingerprint, fingerprint
from nuvlm.models.devices import choose_device, device_name, peak_memory_mb
from nuvlm.models.torchrun import torchrun
from nuvlm.models.vlm.adapter import check_targets, lora_config, stop_gradients_at_inputs
from nuvlm.models.vlm.arithmetic import Arithmetic, count_arithmetic, matmul_rate, meta_model
from nuvlm.models.vlm.callbacks import (
    FINGERPRINT,
    MarkWhole,
    Progress,
    StopAtNan,
    StopGradientsAtInputs,
    StopOnSigterm,
)
from nuvlm.models.vlm.dataset import conversations
from nuvlm.models.vlm.families import family_of
from nuvlm.models.vlm.model import count_parameters, load_model, load_processor, source
from nuvlm.models.vlm.prompts import answer_tokens, check_views, load_prompts
from nuvlm.models.vlm.rationales import Rationales, load_rationales
from nuvlm.models.vlm.settings import FinetuneSettings
from nuvlm.models.vlm.trainer import RationaleTrainer

# Not __name__, which is "__main__" where torchrun starts this.
logger = logging.getLogger("nuvlm.models.vlm.training")

WITHOUT_EFFECT = {"save_steps", "logging_steps", "gpus", "nodes"}
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
    vocabulary: Path | None = None
    """How truth is put into words, for grounded rationales."""
    deepspeed: Path | None = None
    """DeepSpeed's own configuration, for the strategy of that name."""
    log: Path | None = None
    settings: FinetuneSettings = FinetuneSettings()


def launch(job: Job) -> None:
    """Run the job in this process, or in as many as it asks for with torchrun.

    Raises:
        InputError: from the job in this process.
        SystemExit: see :func:`nuvlm.models.torchrun.torchrun`.
    """
    settings = job.settings
    # One process that sees several GPUs would become nn.DataParallel: torchrun, for one too.
    alone = settings.strategy == "balanced" or torch.cuda.device_count() <= 1
    if settings.processes == 1 and settings.strategy != "deepspeed" and alone:
        finetune(job)
        return
    path = job.checkpoints / "job.json"
    with atomic_path(path) as partial:
        partial.write_text(job.model_dump_json(indent=1))
    torchrun("nuvlm.models.vlm.training", path, settings.processes, settings.nodes)


def finetune(job: Job) -> None:
    """Fine-tune on the events of the split `train`; the adapter appears in ``job.out`` whole or not at all.

    Beside the adapter stands ``training.json``: events, steps, the loss of every step and on the validation split,
    trainable parameters, versions; seconds, events and text tokens a second since the last start, how much of the
    arithmetic floor that is, and the peak memory of the process that took most.

    A job that was stopped goes on from its newest whole checkpoint, and ends with the same adapter. On SIGTERM a
    checkpoint is written and the process ends with status 143. Finished, the checkpoints are removed.

    Raises:
        InputError: a damaged base model or store, texts or a base model for other views than the pixel maps have,
            checkpoints that are damaged or of other settings or data, or a loss that is not a number.
    """
    settings = job.settings
    if settings.strategy == "deepspeed" and importlib.util.find_spec("deepspeed") is None:
        raise InputError("strategy: deepspeed needs the package deepspeed. Install nuvlm[deepspeed], or use ddp.")
    prompts = load_prompts(job.prompts)
    vocabulary = _vocabulary(job)
    images = image_settings(job.stores)
    check_views(job.prompts, prompts, images["views"])
    processor = load_processor(job.base)
    _check_base(job.base, len(images["views"]))
    events = read_events(job.events)
    events = events[events["class"].isin(CLASSES)]
    train, validation = (
        conversations(events[events["split"] == split], job.stores, prompts, vocabulary)
        for split in ("train", "validation")
    )
    if not len(train):
        raise InputError(f"{job.events}: no labelled event in the split train. Add events.")
    identity = _fingerprint(job)
    checkpoint = newest_checkpoint(job.checkpoints, identity)
    check_targets(
        meta_model(AutoConfig.from_pretrained(job.base, local_files_only=True)),
        settings.lora,
        family_of(job.base).vision_tower,
    )
    for torn in job.checkpoints.glob("checkpoint-*"):
        # Cut short. The trainer counts it among those that it keeps, and might remove a whole one in its place.
        if not (torn / FINGERPRINT).exists():
            shutil.rmtree(torn, ignore_errors=True)
    # Before the arguments: with DeepSpeed's stage 3 every model made after them is spread over all processes.
    event = DataCollatorForVisionLanguageModeling(processor, assistant_only_loss=True)([train[0]])
    arithmetic = _count_arithmetic(job, event)
    arguments = _arguments(job)
    if settings.strategy == "deepspeed":
        # Before the model: stage 3 spreads its weights over the processes while they are loaded.
        importlib.import_module("deepspeed").init_distributed()
    model = load_model(job.base, settings.quantization, bf16=settings.bf16, device_map=_device_map(settings))
    trainer = RationaleTrainer(
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=validation if len(validation) else None,
        processing_class=processor,
        peft_config=lora_config(settings.lora, family_of(job.base).vision_tower),
        callbacks=[StopAtNan(), MarkWhole(identity)],
    )
    if vocabulary is not None:
        trainer.weigh_rationales(
            answer_tokens(processor.tokenizer, prompts, separated=True).end, settings.rationale_loss
        )
    if not (settings.strategy == "deepspeed" and settings.zero_stage == 3):  # TRL makes that one reentrant
        stop_gradients_at_inputs(trainer.model)
        trainer.add_callback(StopGradientsAtInputs())
    trainable = [p for p in trainer.model.parameters() if p.requires_grad]
    for parameter in trainable:
        # TRL casts the adapter to bfloat16, and a resumed adapter is float32: with float32 from the start a resumed
        # run is the same as an unbroken one, and small updates are not rounded away.
        parameter.data = parameter.data.float()
    parameters, trained = count_parameters(trainer.model), sum(p.numel() for p in trainable)
    logger.info(
        "%d events, %d for validation; %d trainable parameters; effective batch %d",
        len(train), len(validation), trained, settings.global_batch_size,
    )  # fmt: skip
    stop = StopOnSigterm()
    trainer.add_callback(stop)
    trainer.remove_callback(PrinterCallback)  # Progress logs the same
    progress = Progress(settings.global_batch_size, settings.logging_steps)
    trainer.add_callback(progress)
    start = time.perf_counter()
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    except UnpicklingError as error:  # torch's word for anything but tensors and plain values
        raise InputError(
            f"{checkpoint}: it holds more than a checkpoint of ours ({error}). Remove {job.checkpoints} and rerun."
        ) from error
    seconds = time.perf_counter() - start
    if stop.asked:
        step = trainer.state.global_step
        logger.error("stopped at step %d by SIGTERM, checkpoint written: start again to go on", step)
        raise SystemExit(128 + signal.SIGTERM)
    evaluation = trainer.evaluate() if len(validation) else {}
    begun = checkpoint_step(checkpoint) if checkpoint else 0
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    here = [entry for entry in history if entry["step"] > begun]  # not before an earlier process was stopped
    memory = max(gather_object([peak_memory_mb()]))
    if trainer.is_world_process_zero():
        rate = len(here) * settings.global_batch_size / progress.seconds
        summary = {
            "events": len(train),
            "steps": trainer.state.global_step,
            "resumed_from_step": begun,
            "epochs": settings.epochs,
            "seconds": seconds,
            "events_per_second": rate,
            "tokens_per_second": (here[-1]["num_tokens"] if here else 0) / progress.seconds,
            **_against_floor(settings, arithmetic, rate),
            "train_loss": sum(entry["loss"] for entry in history) / len(history),
            "validation_loss": evaluation.get("eval_loss"),
            "validation_events": len(validation),
            "losses": [[entry["step"], entry["loss"]] for entry in history],
            "images": images,
            "rationales": settings.rationales,
            "base_model": source(job.base),
            "parameters": parameters,
            "trainable_parameters": trained,
            "peak_memory_mb": memory,
            "strategy": settings.strategy,
            "processes": trainer.args.world_size,
            "effective_batch": settings.global_batch_size,
            "device": device_name(choose_device()),
            "versions": {
                name: importlib.metadata.version(name)
                for name in ("torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate")
            },
        }
    # Stage 3 of DeepSpeed leaves each process a piece of every matrix.
    with gather_params_ctx(trainable):
        _check_replicas(trainable)
        if trainer.is_world_process_zero():
            # peft makes a set of the names, which each process would write in another order.
            trainer.model.peft_config["default"].target_modules = sorted(settings.lora.target_modules)
            with atomic_path(job.out) as partial:
                trainer.model.save_pretrained(partial)
                write_json(partial / "training.json", summary, sealed=True)
                write_manifest(partial)
    if trainer.is_world_process_zero():
        shutil.rmtree(job.checkpoints, ignore_errors=True)
        logger.info(
            "%.3g events/s, %.3g tokens/s, %.0f MB, fraction of the arithmetic floor %s; validation loss %s",
            rate, summary["tokens_per_second"], memory, summary["fraction_of_floor"], summary["validation_loss"],
        )  # fmt: skip
    trainer.accelerator.wait_for_everyone()


def _count_arithmetic(job: Job, event: Mapping[str, torch.Tensor]) -> Arithmetic | None:
    """What training computes on one `event`, as the collator gives it to the model; None where it cannot be counted."""
    try:
        return count_arithmetic(
            AutoConfig.from_pretrained(job.base, local_files_only=True), event, job.settings.lora,
            vision_tower=family_of(job.base).vision_tower, checkpointing=job.settings.gradient_checkpointing,
        )  # fmt: skip
    except RuntimeError as error:
        logger.warning("no arithmetic floor for this model: %s", str(error).splitlines()[0])
        return None


def _against_floor(
    settings: FinetuneSettings, arithmetic: Arithmetic | None, events_per_second: float
) -> dict[str, float | None]:
    """How near a training comes to what its GPUs could do if they did nothing but multiply matrices.

    Args:
        settings: of the training.
        arithmetic: of one event.
        events_per_second: of all processes.
    """
    if arithmetic is None:
        return {"tflop_per_event": None, "fraction_of_floor": None}
    devices = max(1, torch.cuda.device_count()) if settings.strategy == "balanced" else settings.processes
    rate = devices * matmul_rate(choose_device(), torch.bfloat16 if settings.bf16 else torch.float32)
    return {
        "tflop_per_event": arithmetic.training / 1e12,
        "fraction_of_floor": events_per_second * arithmetic.training / rate,
    }


def _check_replicas(parameters: list[torch.nn.Parameter]) -> None:
    """Refuse to end where the processes have come to different adapters: only one of them is written."""
    digest = hashlib.sha256()
    for parameter in parameters:
        digest.update(parameter.detach().float().cpu().numpy().tobytes())  # numpy has no bfloat16
    if len(set(gather_object([digest.hexdigest()]))) > 1:
        raise RuntimeError("the processes have trained different adapters")


def newest_checkpoint(folder: Path, expected: Mapping[str, Any]) -> Path | None:
    """The newest whole checkpoint below `folder`, if there is one.

    Raises:
        InputError: it is damaged, or was made with other settings or from other data; the message names what differs.
    """
    # The fingerprint is written last: a checkpoint without one was cut short.
    whole = [path.parent for path in folder.glob(f"checkpoint-*/{FINGERPRINT}")]
    if not whole:
        return None
    newest = max(whole, key=checkpoint_step)
    found = read_json(newest / FINGERPRINT)
    check_fingerprint(newest, found, expected, remove=folder)
    verify_manifest(newest)
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


def _fingerprint(job: Job) -> dict[str, Any]:
    settings = job.settings.model_dump(mode="json", exclude=WITHOUT_EFFECT)
    values = {f"settings.{key}": json.dumps(value) for key, value in settings.items()}
    values |= {"base model": sha256(job.base / MANIFEST), "prompts": sha256(job.prompts)}
    if settings["rationales"] == "grounded":
        assert job.vocabulary is not None
        values["vocabulary"] = sha256(job.vocabulary)
    return fingerprint(values, job.events, job.stores)


def _vocabulary(job: Job) -> Rationales | None:
    """What rationales are made of, None where answers end with the label."""
    if job.settings.rationales == "none":
        return None
    if job.vocabulary is None:
        raise InputError("rationales: grounded needs a vocabulary. Set vlm.vocabulary, or rationales: none.")
    return load_rationales(job.vocabulary)


def _device_map(settings: FinetuneSettings) -> str | dict[str, Any] | None:
    if settings.strategy == "deepspeed" and settings.zero_stage == 3:
        return None
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
        deepspeed=str(job.deepspeed) if settings.strategy == "deepspeed" else None,
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
        logging_steps=1,  # every loss is kept; Progress writes some of them to the log
        logging_nan_inf_filter=False,  # it would put the mean of the others in the place of a NaN
        eval_strategy="no",
        report_to=["tensorboard"],
        disable_tqdm=True,
        seed=settings.seed,
        data_seed=settings.seed,
        # The rows are made of columns that the model does not take.
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
    )


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
