"""Fine-tune the vision-language model on pixel maps: QLoRA with TRL's SFTTrainer, in one process or several.

:func:`finetune_vlm` starts the processes; torchrun runs ``python -m nuvlm.models.vlm.training job.json`` in each.
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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from accelerate.utils import gather_object
from accelerate.utils.memory import clear_device_cache
from peft.utils.integrations import gather_params_ctx
from transformers import AutoConfig, PrinterCallback
from trl import SFTConfig

from nuvlm.base.classes import CLASSES
from nuvlm.base.errors import InputError
from nuvlm.base.files import atomic_path, read_json, sha256, write_json
from nuvlm.base.manifest import MANIFEST, verify_manifest, write_manifest
from nuvlm.dataset.event_table import read_events
from nuvlm.dataset.pixelmaps import image_settings
from nuvlm.models.checkpoints import check_fingerprint, fingerprint
from nuvlm.models.compiler import require_c_compiler
from nuvlm.models.devices import choose_device, device_memory_mb, device_name, peak_memory_mb, supports_tf32
from nuvlm.models.torchrun import ProcessJob, run_process, torchrun
from nuvlm.models.vlm.adapter import lora_config, stop_gradients_at_inputs
from nuvlm.models.vlm.batches import out_of_memory
from nuvlm.models.vlm.callbacks import (
    FINGERPRINT,
    MarkComplete,
    Progress,
    SaveEarlyAndBest,
    StopAtNan,
    StopGradientsAtInputs,
    StopOnSigterm,
)
from nuvlm.models.vlm.collate import EventCollator
from nuvlm.models.vlm.dataset import conversations
from nuvlm.models.vlm.families import family_of
from nuvlm.models.vlm.model import (
    check_pretrained_views,
    count_parameters,
    load_model,
    load_processor,
    meta_model,
    source,
)
from nuvlm.models.vlm.probe import probe
from nuvlm.models.vlm.prompts import answer_tokens, prompts_for
from nuvlm.models.vlm.rationales import Rationales, load_rationales
from nuvlm.models.vlm.recomputation import recompute_tower
from nuvlm.models.vlm.settings import FinetuneSettings
from nuvlm.models.vlm.tiles import published_tiles
from nuvlm.models.vlm.trainer import RationaleTrainer

# Not __name__, which is "__main__" where torchrun starts this.
logger = logging.getLogger("nuvlm.models.vlm.training")

WITHOUT_EFFECT = {"save_steps", "logging_steps", "gpus", "nodes", "device_batch_size", "workers"}
"""Settings that may change when a checkpoint is resumed: they change no step of the optimiser."""
TOO_LARGE = "too_large"
"""File beside the checkpoints by which a process says that its batch did not fit."""
REFUSED = "does_not_fit.json"
"""File beside the checkpoints: the training whose events do not even fit one by one, and on which device."""


class Job(ProcessJob):
    """A fine-tuning job, as passed to each process."""

    base: Path
    """Folder of the base model."""
    events: Path
    """The event table."""
    stores: dict[str, Path]
    """Shard name -> pixel-map store."""
    out: Path
    """Folder of the adapter."""
    checkpoints: Path
    """Folder of the checkpoints, beside `out`, so that they survive a failed job."""
    tensorboard: Path
    prompts: Path
    vocabulary: Path | None = None
    """Phrasings of grounded rationales."""
    deepspeed: Path | None = None
    """DeepSpeed's configuration file, for `strategy: deepspeed`."""
    zoom: int = 1
    """Of the pictures, see :func:`nuvlm.models.vlm.dataset.to_pictures`."""
    settings: FinetuneSettings = FinetuneSettings()


class DoesNotFitError(InputError):
    """A training step ran out of memory."""


def finetune_vlm(job: Job) -> None:
    """Run the job in this process, or with torchrun in the number of processes that it asks for.

    Where a batch does not fit in memory, the job goes on from its newest checkpoint with smaller ones, see
    :func:`with_fitting_batches`. A retry of a job of which no single event fits ends at once, on the same device.

    Raises:
        InputError: from the job in this process; a single event does not fit.
        SystemExit: see :func:`nuvlm.models.torchrun.torchrun`.
    """
    refused, device = job.checkpoints / REFUSED, choose_device()
    memory_mb = device_memory_mb(device)
    if refused.exists() and read_json(refused) == {"training": _fingerprint(job), "memory_mb": memory_mb}:
        raise _nothing_fits(job, f"in an earlier attempt on a {device_name(device)}")
    try:
        with_fitting_batches(job, _start)
    except DoesNotFitError:
        if memory_mb is not None:  # a retry on a CPU gets more memory
            refused.parent.mkdir(parents=True, exist_ok=True)
            write_json(refused, {"training": _fingerprint(job), "memory_mb": memory_mb})
        raise


def with_fitting_batches(job: Job, run: Callable[[Job], None]) -> None:
    """Run the job, with the next smaller batch for a device and more accumulation whenever a step does not fit.

    Each step of the optimiser is that of the same events and, but for rounding and for dropout's masks, the same.

    Args:
        run: runs the job, and raises :class:`DoesNotFitError` when out of memory.

    Raises:
        DoesNotFitError: a single event does not fit; the message says what to change.
    """
    while True:
        size = job.settings.device_batch_size
        try:
            return run(job)
        except DoesNotFitError as error:
            if size == 1:
                raise _nothing_fits(job, str(error)) from error
        # After the except block: the traceback no longer holds the model.
        clear_device_cache(garbage_collection=True)
        share = job.settings.global_batch_size // job.settings.processes
        smaller = next(n for n in range(size // 2, 0, -1) if share % n == 0)
        logger.warning(
            "a training step with %d events on a device does not fit in its memory; continuing with %d, and %d "
            "batches accumulated: set vlm.finetune.device_batch_size to %d to save this attempt",
            size, smaller, share // smaller, smaller,
        )  # fmt: skip
        settings = job.settings.model_copy(update={"device_batch_size": smaller})
        job = job.model_copy(update={"settings": settings})


def _nothing_fits(job: Job, what: str) -> DoesNotFitError:
    """The error that names the settings that would save most memory."""
    settings = job.settings
    changes = {
        "vlm.finetune.gradient_checkpointing: true": not settings.gradient_checkpointing,
        "vlm.finetune.quantization: nf4": settings.quantization != "nf4",
        "vlm.hub.max_tiles: 1 (a part of the vision tower's work)": published_tiles(job.base) != 1,
        "vlm.finetune.lora.vision: false (the tower stays frozen)": settings.lora.vision,
        "vlm.finetune.strategy: balanced with more GPUs": settings.strategy != "balanced",
        "fewer of vlm.finetune.lora.target_modules": True,
        "vlm.prompts: a shorter text": True,
    }
    first = [change for change, possible in changes.items() if possible][:3]
    return DoesNotFitError(
        f"fine-tuning: a single event does not fit in memory ({what}). Set {'; or '.join(first)}; or use a GPU with "
        "more memory. Repeating the job as it is would fail in the same way."
    )


def _start(job: Job) -> None:
    """Run the job in this process or in several."""
    settings = job.settings
    # A single process that sees several GPUs would use nn.DataParallel, so torchrun starts that one, too.
    one_device = settings.strategy == "balanced" or torch.cuda.device_count() <= 1
    if settings.processes == 1 and settings.strategy != "deepspeed" and one_device:
        finetune(job)
        return
    path = job.checkpoints / "job.json"
    with atomic_path(path) as partial:
        partial.write_text(job.model_dump_json(indent=1))
    too_large = job.checkpoints / TOO_LARGE
    too_large.unlink(missing_ok=True)
    try:
        torchrun("nuvlm.models.vlm.training", path, settings.processes, settings.nodes)
    except SystemExit as stopped:
        if not too_large.exists():
            raise
        raise DoesNotFitError(too_large.read_text()) from stopped


def finetune(job: Job) -> None:
    """Fine-tune on the events of the split `train`; ``job.out`` appears complete or not at all.

    ``training.json`` beside the adapter holds events, steps, the loss of every step and on the validation split,
    trainable parameters, versions; seconds, those of each step, events/s and text tokens/s since the last start, and
    the largest peak memory of a process.

    On a GPU Triton compiles kernels of the loss: the compiler is tried before the model is loaded.

    An interrupted job resumes from its newest complete checkpoint and gives the same adapter. On SIGTERM a checkpoint
    is written and the process exits with status 143. Checkpoints are removed at the end.

    Raises:
        InputError: a damaged base model or store; texts or a base model for views other than those of the pixel maps;
            checkpoints that are damaged or belong to other settings or data; a loss that is not finite; no C compiler
            for a GPU.
        DoesNotFitError: a training step does not fit in memory.
    """
    settings = job.settings
    if choose_device().type == "cuda":
        require_c_compiler("Fine-tuning")
    if settings.strategy == "deepspeed" and importlib.util.find_spec("deepspeed") is None:
        raise InputError("strategy: deepspeed needs the package deepspeed. Install nuvlm[deepspeed] or use ddp.")
    for caution in settings.cautions:
        logger.warning("%s", caution)
    vocabulary = _vocabulary(job)
    images = image_settings(job.stores, job.zoom)
    prompts = prompts_for(job.prompts, images, settings.background)
    processor = load_processor(job.base)
    check_pretrained_views(job.base, len(images["views"]))
    events = read_events(job.events)
    events = events[events["class"].isin(CLASSES)]
    held_out = events[events["split"] == "validation"]
    watched = held_out.sample(min(settings.eval_events, len(held_out)), random_state=settings.seed)
    train, validation, watched = (
        conversations(chosen, job.stores, prompts, vocabulary, background=settings.background, zoom=job.zoom)
        for chosen in (events[events["split"] == "train"], held_out, watched)
    )
    if not len(train):
        raise InputError(f"{job.events}: no labelled event in the split train. Add events.")
    identity = _fingerprint(job)
    checkpoint = newest_checkpoint(job.checkpoints, identity)
    tower = family_of(job.base).vision_tower
    # Before the weights are loaded: target modules that the model lacks.
    adapter = lora_config(meta_model(AutoConfig.from_pretrained(job.base, local_files_only=True)), settings.lora, tower)
    for incomplete in job.checkpoints.glob("checkpoint-*"):
        # The trainer would count it towards save_total_limit and might remove a complete one instead.
        if not (incomplete / FINGERPRINT).exists():
            shutil.rmtree(incomplete, ignore_errors=True)
    arguments = _arguments(job, evaluate=len(watched) > 0)
    if settings.strategy == "deepspeed":
        # Before the model: stage 3 partitions the weights over the processes while they are loaded.
        importlib.import_module("deepspeed").init_distributed()
    model = load_model(job.base, settings.quantization, bf16=settings.bf16, device_map=_device_map(settings))
    # A checkpoint says that the model has passed. With a reentrant strategy each process has a part of every matrix, so
    # the model cannot run by itself.
    if checkpoint is None and not _reentrant(settings):
        with _memory_errors():
            probe(model, processor, prompts, len(images["views"]), images["size"] * job.zoom)
    trainer = RationaleTrainer(
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=watched if len(watched) else None,
        processing_class=processor,
        data_collator=EventCollator(processor),
        peft_config=adapter,
        callbacks=[StopAtNan(), SaveEarlyAndBest(), MarkComplete(identity)],
    )
    if vocabulary is not None:
        trainer.weigh_rationales(
            answer_tokens(processor.tokenizer, prompts, separated=True).end, settings.rationale_loss
        )
    if settings.gradient_checkpointing and settings.lora.vision:
        recompute_tower(trainer.model, tower, use_reentrant=_reentrant(settings))
    if not _reentrant(settings):
        stop_gradients_at_inputs(trainer.model)
        trainer.add_callback(StopGradientsAtInputs())
    trainable = [p for p in trainer.model.parameters() if p.requires_grad]
    for parameter in trainable:
        # TRL casts the adapter to bfloat16, but a resumed adapter is float32. With float32 throughout, a resumed run
        # equals an uninterrupted one, and small updates are not rounded away.
        parameter.data = parameter.data.float()
    parameters, trained = count_parameters(trainer.model), sum(p.numel() for p in trainable)
    logger.info(
        "%d events, %d for validation; %d trainable parameters; effective batch %d",
        len(train), len(validation), trained, settings.global_batch_size,
    )  # fmt: skip
    stop = StopOnSigterm()
    trainer.add_callback(stop)
    trainer.remove_callback(PrinterCallback)  # replaced by Progress
    progress = Progress(settings.global_batch_size, settings.logging_steps)
    trainer.add_callback(progress)
    start = time.perf_counter()
    try:
        with _memory_errors():
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    except UnpicklingError as error:  # raised for anything but tensors and plain values
        raise InputError(
            f"{checkpoint}: holds more than tensors and plain values ({error}). Remove {job.checkpoints} and rerun."
        ) from error
    seconds = time.perf_counter() - start
    if stop.asked:
        step = trainer.state.global_step
        logger.error("stopped by SIGTERM at step %d, checkpoint written: rerun to resume", step)
        raise SystemExit(128 + signal.SIGTERM)
    evaluations = [
        [entry["step"], entry["eval_loss"], entry["eval_accuracy"]]
        for entry in trainer.state.log_history
        if "eval_loss" in entry
    ]
    kept = _load_best(trainer) if settings.load_best_model_at_end else trainer.state.global_step
    with _memory_errors():
        evaluation = trainer.evaluate(validation) if len(validation) else {}
    resumed_from = checkpoint_step(checkpoint) if checkpoint else 0
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    here = [entry for entry in history if entry["step"] > resumed_from]  # steps of this process
    memory = max(gather_object([peak_memory_mb()]))
    if trainer.is_world_process_zero():
        rate = len(here) * settings.global_batch_size / progress.seconds
        summary = {
            "events": len(train),
            "steps": trainer.state.global_step,
            "resumed_from_step": resumed_from,
            "epochs": settings.epochs,
            "seconds": seconds,
            "events_per_second": rate,
            "step_seconds": progress.step_seconds,
            "tokens_per_second": (here[-1]["num_tokens"] if here else 0) / progress.seconds,
            "train_loss": sum(entry["loss"] for entry in history) / len(history),
            "validation_loss": evaluation.get("eval_loss"),
            "validation_accuracy": evaluation.get("eval_accuracy"),
            "validation_events": len(validation),
            "evaluations": evaluations,
            "best_step": kept,
            "losses": [[entry["step"], entry["loss"]] for entry in history],
            "images": images,
            "rationales": settings.rationales,
            "background": settings.background,
            "base_model": source(job.base),
            "parameters": parameters,
            "trainable_parameters": trained,
            "peak_memory_mb": memory,
            "strategy": settings.strategy,
            "processes": trainer.args.world_size,
            "effective_batch": settings.global_batch_size,
            "device_batch_size": settings.device_batch_size,
            "device": device_name(choose_device()),
            "versions": {
                name: importlib.metadata.version(name)
                for name in ("torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate")
            },
        }
    # With stage 3 of DeepSpeed each process holds a part of every matrix.
    with gather_params_ctx(trainable):
        _check_replicas(trainable)
        if trainer.is_world_process_zero():
            # peft keeps the names in a set, whose order differs between processes.
            adapter = trainer.model.peft_config["default"]
            adapter.target_modules = sorted(adapter.target_modules)
            with atomic_path(job.out) as partial:
                trainer.model.save_pretrained(partial)
                write_json(partial / "training.json", summary, sealed=True)
                write_manifest(partial)
    if trainer.is_world_process_zero():
        shutil.rmtree(job.checkpoints, ignore_errors=True)
        logger.info(
            "%.3g events/s, %.3g tokens/s, %.0f MB; step %d of %d, validation loss %s, accuracy %s",
            rate, summary["tokens_per_second"], memory, kept, trainer.state.global_step,
            summary["validation_loss"], summary["validation_accuracy"],
        )  # fmt: skip
    trainer.accelerator.wait_for_everyone()


def _load_best(trainer: RationaleTrainer) -> int:
    """Load the adapter of the evaluation with the lowest loss, and return its step; the last one's if there was none.

    Raises:
        InputError: its checkpoint is damaged.
    """
    last, best = trainer.state.global_step, trainer.state.best_model_checkpoint
    if best is None or checkpoint_step(Path(best)) == last:
        return last
    verify_manifest(Path(best))
    trainer._load_best_model()
    return checkpoint_step(Path(best))


@contextmanager
def _memory_errors() -> Iterator[None]:
    """Raise DoesNotFitError where memory was too small."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise DoesNotFitError(str(error).strip().split("\n")[0]) from error


def _check_replicas(parameters: list[torch.nn.Parameter]) -> None:
    """Fail if the processes hold different adapters: only one of them is written."""
    digest = hashlib.sha256()
    for parameter in parameters:
        digest.update(parameter.detach().float().cpu().numpy().tobytes())  # numpy has no bfloat16
    if len(set(gather_object([digest.hexdigest()]))) > 1:
        raise RuntimeError("the processes have trained different adapters")


def newest_checkpoint(folder: Path, expected: Mapping[str, Any]) -> Path | None:
    """The newest complete checkpoint in `folder`, or None.

    Raises:
        InputError: it is damaged, or belongs to other settings or data; the message names the differences.
    """
    # The fingerprint is written last: a checkpoint without one is incomplete.
    complete = [path.parent for path in folder.glob(f"checkpoint-*/{FINGERPRINT}")]
    if not complete:
        return None
    newest = max(complete, key=checkpoint_step)
    found = read_json(newest / FINGERPRINT)
    check_fingerprint(newest, found, expected, remove=folder)
    verify_manifest(newest)
    logger.info("resuming from %s", newest)
    return newest


def checkpoint_step(path: Path) -> int:
    return int(path.name.removeprefix("checkpoint-"))


def _fingerprint(job: Job) -> dict[str, Any]:
    """The inputs of the training: all settings, and digests of the base model, events, images and texts."""
    settings = job.settings.model_dump(mode="json", exclude=WITHOUT_EFFECT)
    values = {f"settings.{key}": json.dumps(value) for key, value in settings.items()}
    values |= {"base model": sha256(job.base / MANIFEST), "prompts": sha256(job.prompts), "zoom": str(job.zoom)}
    if settings["rationales"] == "grounded":
        assert job.vocabulary is not None
        values["vocabulary"] = sha256(job.vocabulary)
    return fingerprint(values, job.events, job.stores)


def _vocabulary(job: Job) -> Rationales | None:
    """The phrasings of rationales, or None if answers end with the label."""
    if job.settings.rationales == "none":
        return None
    if job.vocabulary is None:
        raise InputError("rationales: grounded needs a vocabulary. Set vlm.vocabulary, or rationales: none.")
    return load_rationales(job.vocabulary)


def _reentrant(settings: FinetuneSettings) -> bool:
    """Whether checkpointing is reentrant: only for ZeRO-3, as its partitioned weights fail the checks of the other."""
    return settings.strategy == "deepspeed" and settings.zero_stage == 3


def _device_map(settings: FinetuneSettings) -> str | dict[str, Any] | None:
    if _reentrant(settings):
        return None
    if settings.strategy == "balanced":
        return "balanced"
    if torch.cuda.is_available():
        return {"": int(os.environ.get("LOCAL_RANK", "0"))}
    return {"": "cpu"}


def _arguments(job: Job, *, evaluate: bool) -> SFTConfig:
    settings = job.settings
    evaluate &= settings.eval_steps is not None
    # transformers reads the folder of the event files only from the environment.
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(job.tensorboard)
    if settings.workers:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads do not survive a fork
    return SFTConfig(
        output_dir=str(job.checkpoints),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.device_batch_size,
        per_device_eval_batch_size=settings.device_batch_size,
        gradient_accumulation_steps=settings.global_batch_size // (settings.device_batch_size * settings.processes),
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        # Values below 1 are a fraction of all steps; transformers has removed `warmup_ratio`.
        warmup_steps=settings.warmup_ratio,
        max_grad_norm=settings.max_grad_norm,
        deepspeed=str(job.deepspeed) if settings.strategy == "deepspeed" else None,
        optim=settings.optimizer,
        # DDP: a tower may have layers that nothing uses (LLaVA's last), so parameters without gradients are looked for,
        # which takes milliseconds. A static graph would save that, but is undefined where accumulation skips the
        # exchange. Bucket sizes stay as they are, the first 1 MB: the exchange begins while gradients are computed, and
        # 118 MB of an 11B model's adapter are little beside its step.
        ddp_find_unused_parameters=True,
        ddp_static_graph=False,
        bf16=settings.bf16,
        tf32=True if supports_tf32(choose_device()) else None,  # it is refused where the device lacks it
        use_cpu=not torch.cuda.is_available(),
        gradient_checkpointing=settings.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": _reentrant(settings)},
        assistant_only_loss=True,
        max_length=None,
        save_strategy="steps",
        save_steps=settings.save_steps,
        save_total_limit=2,
        logging_steps=1,  # keeps every loss; Progress logs some of them
        logging_nan_inf_filter=False,  # it would replace a NaN by the mean of the other losses
        eval_strategy="steps" if evaluate else "no",
        eval_steps=settings.eval_steps,
        # _load_best loads it. transformers' own switch also loads it when SIGTERM has stopped the training.
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        report_to=["tensorboard"],
        disable_tqdm=True,
        seed=settings.seed,
        data_seed=settings.seed,
        # The model does not take the columns that rows are made from.
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        dataloader_num_workers=settings.workers,
        # Nothing is imported again, and the event table is shared; workers do not use the GPU.
        dataloader_multiprocessing_context="fork" if settings.workers else None,
    )


def _finetune_or_leave_word(job: Job) -> None:
    """Fine-tune as one of several processes; one whose batch does not fit tells the parent."""
    try:
        finetune(job)
    except DoesNotFitError as error:
        # Whatever the other processes say when this one leaves is no cause.
        (job.checkpoints / TOO_LARGE).write_text(str(error))
        logger.warning("out of memory: %s", error)
        raise SystemExit(1) from error


if __name__ == "__main__":
    run_process(Job, _finetune_or_leave_word, sys.argv[1:])
