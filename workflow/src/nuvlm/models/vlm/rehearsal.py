"""A rehearsal of a run: the configured training, classification and explanation, for a few steps and events.

The model has the configured shape and random weights, the events are drawn; everything else is the code and the
settings of the run. Speed and memory depend on neither weights nor pictures.
"""

import json
import logging
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from accelerate.utils.memory import should_reduce_batch_size
from transformers import AutoConfig
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from nuvlm.base.classes import CLASSES
from nuvlm.base.errors import InputError
from nuvlm.base.files import read_json, sha256, write_json
from nuvlm.base.manifest import write_manifest
from nuvlm.base.stores import write_store
from nuvlm.dataset.event_table import read_events
from nuvlm.dataset.pixelmaps import image_settings
from nuvlm.dataset.topology import TOPOLOGY_TYPES
from nuvlm.models.checkpoints import SigtermFlag
from nuvlm.models.devices import choose_device, device_name, free_memory, peak_memory_mb
from nuvlm.models.vlm.arithmetic import count_arithmetic, matmul_rate
from nuvlm.models.vlm.callbacks import FINGERPRINT
from nuvlm.models.vlm.classify import classify_vlm
from nuvlm.models.vlm.dataset import conversations
from nuvlm.models.vlm.explain import explain_vlm
from nuvlm.models.vlm.families import family_of
from nuvlm.models.vlm.footprint import GIB, Footprint, count_footprint, stored_bytes
from nuvlm.models.vlm.graft import build_grafted_base
from nuvlm.models.vlm.model import load_processor, meta_model
from nuvlm.models.vlm.pretraining import DISPLAY_VIEWS, build_base_model
from nuvlm.models.vlm.prompts import load_prompts, prompts_for
from nuvlm.models.vlm.random_base import build_random_base, write_shape
from nuvlm.models.vlm.rationales import load_rationales
from nuvlm.models.vlm.settings import Background, VlmSettings
from nuvlm.models.vlm.shapes import draw_scene
from nuvlm.models.vlm.training import Job, finetune_vlm

logger = logging.getLogger(__name__)

SHARD = "rehearsal"
PIXEL_MM = 50.0


@dataclass(frozen=True)
class Extent:
    """How much is rehearsed."""

    steps: int = 5
    """Of training. It is interrupted after the first checkpoint and resumed, so at least 3."""
    classify: int = 64
    """Events."""
    explain: int = 2
    """Events, of two pictures each: with the charge, and black."""
    methods: tuple[str, ...] = ()
    """Methods to classify with; empty for the configured one."""


def rehearse(
    vlm: VlmSettings,
    folder: Path,
    extent: Extent,
    *,
    size: int,
    prompts: Path,
    vocabulary: Path,
    resources: Path,
    zoom: int = 1,
) -> dict[str, Any]:
    """Rehearse the settings `vlm` on this machine.

    A stage that does not fit in memory is recorded as ``failed``, and ends the rehearsal. What is complete in `folder`
    for the same settings is not done again.

    Args:
        folder: for base model, events, checkpoints, adapter and predictions.
        size: side of the pixel maps, pixels.
        prompts, vocabulary: text files.
        zoom: of the pictures, see :func:`nuvlm.models.vlm.dataset.to_pictures`.
        resources: folder of shapes, chat templates and DeepSpeed's settings.

    Returns:
        Measurements of each stage: ``base``, ``floor``, ``training``, ``classifying by {method}``, ``explaining``; the
        device, and whether all stages are ``complete``.

    Raises:
        InputError: as in the run itself.
    """
    tune = vlm.finetune
    settings = {"vlm": vlm.model_dump(mode="json"), "extent": asdict(extent), "size": size, "zoom": zoom}
    settings |= {"prompts": sha256(prompts), "vocabulary": sha256(vocabulary)}
    stages = _Stages(folder, settings)
    base = folder / "base"
    events, stores = write_scenes(
        folder, size, train=extent.steps * tune.global_batch_size, test=max(extent.classify, extent.explain),
        views=_views(prompts),
    )  # fmt: skip
    stages.run("base", lambda: _make_base(vlm, base, prompts, vocabulary, resources, stores[SHARD]))
    job = Job(
        base=base, events=events, stores=stores, out=folder / "adapter", checkpoints=folder / "checkpoints",
        tensorboard=folder / "tensorboard", prompts=prompts,
        vocabulary=vocabulary if tune.rationales == "grounded" else None,
        deepspeed=resources / "deepspeed" / f"zero{tune.zero_stage}.json" if tune.strategy == "deepspeed" else None,
        settings=tune.model_copy(update={"epochs": 1.0, "save_steps": 1, "logging_steps": 1}), zoom=zoom,
    )  # fmt: skip
    stages.run("floor", lambda: _floor(job))
    sources: dict[str, Any] = {"size": size, "zoom": zoom, "prompts": prompts, "vocabulary": vocabulary}
    sources |= {"resources": resources}
    device = choose_device()
    if vlm.base in ("hub", "random"):
        stages.run("reckoned", lambda: _reckoned(vlm, sources))
    stages.run("training", lambda: _train(job))
    if "failed" in stages.done.get("training", {}) and vlm.base in ("hub", "random") and device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        stages.done["training"]["remedy"] = what_fits(vlm, total, **sources)
    methods = extent.methods or (vlm.classify.method,)
    tables = {method: folder / "predictions" / method / "0.parquet" for method in methods}
    for method, table in tables.items():
        stages.run(f"classifying by {method}", partial(_classify, vlm, job, table, method))
    if extent.explain:
        table = next(iter(tables.values()))
        stages.run("explaining", lambda: _explain(vlm, job, table, vocabulary, extent.explain))
    return stages.done | {"device": device_name(choose_device()), "complete": stages.failed is None}


class _Stages:
    """The stages of a rehearsal, in order; ``stages.json`` keeps those that are done.

    A rehearsal that was killed goes on with the stage that it was in. After a stage that does not fit in memory, the
    others are left out.

    Args:
        folder: of stages.json.
        settings: results for others are removed.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self._file = folder / "stages.json"
        self._settings = json.loads(json.dumps(settings))  # as they are read: tuples are lists in a file
        self.done: dict[str, Any] = {}
        self.failed: str | None = None
        found = read_json(self._file) if self._file.exists() else {}
        if found.get("settings") == self._settings:
            self.done = found["stages"]
        else:
            for name in ("adapter", "checkpoints", "predictions"):
                shutil.rmtree(folder / name, ignore_errors=True)
        self._write()

    def run(self, what: str, work: Callable[[], dict[str, Any]]) -> None:
        """Add the result of `work`, or why it failed if that is for lack of memory."""
        if self.failed or what in self.done:
            return
        logger.info("%s", what)
        free_memory()
        try:
            self.done[what] = work()
        except (RuntimeError, MemoryError, InputError) as error:
            if not _lacks_memory(error):
                raise
            self.failed = str(error).splitlines()[0] if str(error) else "out of memory"
            logger.error("%s: %s", what, error)
            self.done[what] = {"failed": self.failed}
        else:
            self._write()
        # After the except block: the traceback no longer holds tensors.
        free_memory()

    def _write(self) -> None:
        write_json(self._file, {"settings": self._settings, "stages": self.done})


def _lacks_memory(error: Exception) -> bool:
    if isinstance(error, InputError):  # of the training, or of a single event in a batch
        return "does not fit in memory" in str(error)
    return isinstance(error, MemoryError) or should_reduce_batch_size(error)


def write_scenes(
    folder: Path, size: int, *, train: int, test: int, views: Sequence[str] = DISPLAY_VIEWS
) -> tuple[Path, dict[str, Path]]:
    """Write an event table and a store of pixel maps of drawn scenes.

    Args:
        folder: for both.
        size: side of the pixel maps, pixels.
        train: events of the split train.
        test: events of the split test, in part 0.
        views: names of the views.

    Returns:
        The event table, and shard name -> store.
    """
    rng = np.random.default_rng(7)
    n = train + test
    images = np.stack([draw_scene(rng, size, len(views))[0] for _ in range(n)])
    attributes = {"format": "nuvlm-pixelmaps", "version": 1, "views": list(views), "size": size}
    # Like pixel maps made elsewhere, other views are without a scale.
    attributes |= {"pixel_mm": PIXEL_MM if tuple(views) == DISPLAY_VIEWS else None}
    attributes |= {"centre": "charge" if attributes["pixel_mm"] else None}
    attributes |= {"transfer": "log", "white_mev": 200, "knee_mev": 1}
    ids = np.arange(n, dtype=np.uint64)
    corners = np.full((n, 3), -size / 2 * PIXEL_MM)
    write_store(folder / f"{SHARD}.zarr", {"images": images, "event_id": ids, "corner_mm": corners}, attributes)
    # Every statement of a rationale is made, so that the answers are as long as they get.
    truth = dict.fromkeys(TOPOLOGY_TYPES, 0.0) | {"charged": 2, "track_mm": 1000, "track_leaves": 1}
    truth |= {"shower_mev": 400, "shower_gap_mm": 100, "track_direction_z": 1, "shower_direction_x": 1}
    table = pd.DataFrame({"shard": SHARD, "row": np.arange(n), "event_id": ids})
    table["class"] = pd.Series(np.resize(np.array(CLASSES, dtype=object), n), dtype="string")
    table["split"] = pd.Series(["train"] * train + ["test"] * test, dtype="string")
    table["centred_by"] = pd.Series(["charge" if attributes["pixel_mm"] else None] * n, dtype="string")
    table["part"] = [-1] * train + [0] * test
    for name in ("vertex_x_mm", "vertex_y_mm", "vertex_z_mm"):
        table[name] = 0.0
    for name in TOPOLOGY_TYPES:
        table[name] = truth[name]
    table = table.astype(TOPOLOGY_TYPES)
    folder.mkdir(parents=True, exist_ok=True)
    table.to_parquet(folder / "events.parquet")
    return folder / "events.parquet", {SHARD: folder / f"{SHARD}.zarr"}


def _views(prompts: Path) -> tuple[str, ...]:
    """The views that the texts describe."""
    return load_prompts(prompts).views or DISPLAY_VIEWS


def _make_base(
    vlm: VlmSettings, base: Path, prompts: Path, vocabulary: Path, resources: Path, pixel_maps: Path
) -> dict[str, Any]:
    """Make the base model with random weights, unless it is there."""
    tune = vlm.finetune
    made_with: dict[str, Any] = {"base": vlm.base, "quantization": tune.quantization, "bf16": tune.bf16}
    made_with |= {"prompts": sha256(prompts), "vocabulary": sha256(vocabulary)}
    made_with |= (vlm.hub if vlm.base in ("hub", "random") else getattr(vlm, vlm.base)).model_dump()
    record = base.with_suffix(".json")
    start = time.perf_counter()
    if not (record.exists() and base.exists() and read_json(record) == made_with):
        record.unlink(missing_ok=True)
        if vlm.base == "scratch":
            build_base_model(
                base, vlm.scratch.model_copy(update={"steps": 1}), prompts=prompts, vocabulary=vocabulary,
                chat_template=resources / "chat_templates" / "mllama.jinja", tensorboard=base.with_name("tensorboard"),
                pixel_maps=pixel_maps,
            )  # fmt: skip
        elif vlm.base == "smollm":
            build_grafted_base(
                base, vlm.smollm.model_copy(update={"steps": 1}), prompts=prompts,
                chat_template=resources / "chat_templates" / "chatml.jinja", tensorboard=base.with_name("tensorboard"),
                pixel_maps=pixel_maps,
            )  # fmt: skip
        else:
            build_random_base(
                base, vlm.hub, shapes=resources / "shapes", chat_templates=resources / "chat_templates",
                prompts=prompts, vocabulary=vocabulary, quantization=tune.quantization, bf16=tune.bf16,
            )  # fmt: skip
        write_json(record, made_with)
    free_memory()
    return {"seconds": time.perf_counter() - start, "bytes": _bytes(base)}


def _batch(
    base: Path,
    events: Path,
    stores: Mapping[str, Path],
    prompts: Path,
    vocabulary: Path | None,
    n: int,
    background: Background,
    zoom: int,
) -> dict[str, torch.Tensor]:
    """The first `n` events, as the trainer gives them to the model."""
    words = None if vocabulary is None else load_rationales(vocabulary)
    texts = prompts_for(prompts, image_settings(stores), background)
    rows = conversations(read_events(events).head(n), stores, texts, words, background=background, zoom=zoom)
    collate = DataCollatorForVisionLanguageModeling(load_processor(base), assistant_only_loss=True)
    return dict(collate([rows[i] for i in range(n)]))


def reckon(
    vlm: VlmSettings,
    *,
    size: int,
    prompts: Path,
    vocabulary: Path,
    resources: Path,
    zoom: int = 1,
    device: Literal["cuda", "cpu"] = "cuda",
) -> tuple[Footprint, int]:
    """Reckon the memory of a GPU in fine-tuning, and that of the weights in classifying, without a model's weights.

    Args:
        size, prompts, vocabulary, resources, zoom: as for :func:`rehearse`.
        device: whose mixed precision is imitated.

    Returns:
        The footprint of fine-tuning (:mod:`nuvlm.models.vlm.footprint`), and the bytes of the weights in classifying.

    Raises:
        InputError: the shape of ``vlm.hub.model`` is not known.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = folder / "base"
        write_shape(
            base, vlm.hub, shapes=resources / "shapes", chat_templates=resources / "chat_templates", prompts=prompts,
            vocabulary=vocabulary,
        )  # fmt: skip
        write_manifest(base)
        n = vlm.finetune.device_batch_size
        events, stores = write_scenes(folder, size, train=n, test=0, views=_views(prompts))
        words = vocabulary if vlm.finetune.rationales == "grounded" else None
        config = AutoConfig.from_pretrained(base, local_files_only=True)
        batch = _batch(base, events, stores, prompts, words, n, vlm.finetune.background, zoom)
        footprint = count_footprint(config, batch, vlm.finetune, device)
    quantization = "none" if vlm.classify.merge_adapter else vlm.inference_quantization
    return footprint, stored_bytes(meta_model(config), quantization, bf16=vlm.finetune.bf16)


def what_fits(vlm: VlmSettings, limit: float, **sources: Any) -> str:
    """Which changes of the settings would fit fine-tuning into the memory of a GPU, as a sentence.

    Args:
        limit: memory of the GPU, bytes.
        sources: as for :func:`reckon`.
    """
    others = {name: reckon(changed, **sources)[0].on_gpu() for name, changed in _remedies(vlm).items()}
    fitting = [f"{name} ({size / GIB:.0f} GiB)" for name, size in others.items() if size <= limit]
    if fitting:
        return f"Each of these would fit: {', '.join(fitting)}."
    return f"None of these is enough by itself: {', '.join(others)}. Change several, or use larger GPUs."


def _remedies(vlm: VlmSettings) -> dict[str, VlmSettings]:
    """Changes of the settings that take less memory in fine-tuning, the least harmful first: name -> new settings."""
    tune = vlm.finetune
    found: dict[str, VlmSettings] = {}

    def add(name: str, **changes: Any) -> None:
        found[name] = vlm.model_copy(update={"finetune": tune.model_copy(update=changes)})

    if not tune.gradient_checkpointing:
        add("vlm.finetune.gradient_checkpointing: true", gradient_checkpointing=True)
    if tune.device_batch_size > 1:
        add("vlm.finetune.device_batch_size: 1", device_batch_size=1)
    if not tune.bf16:
        add("vlm.finetune.bf16: true", bf16=True)
    if tune.quantization != "nf4":
        add("vlm.finetune.quantization: nf4", quantization="nf4")
    if tune.lora.vision:
        add("vlm.finetune.lora.vision: false", lora=tune.lora.model_copy(update={"vision": False}))
    if vlm.hub.max_tiles != 1:
        found["vlm.hub.max_tiles: 1"] = vlm.model_copy(update={"hub": vlm.hub.model_copy(update={"max_tiles": 1})})
    return found


def _floor(job: Job) -> dict[str, Any]:
    """Tokens and counted operations of an event, and the rate of the device for large matrix products."""
    inputs = _batch(job.base, job.events, job.stores, job.prompts, job.vocabulary, 1, job.settings.background, job.zoom)
    counted = count_arithmetic(
        AutoConfig.from_pretrained(job.base, local_files_only=True), inputs, job.settings.lora,
        vision_tower=family_of(job.base).vision_tower, checkpointing=job.settings.gradient_checkpointing,
    )  # fmt: skip
    rate = matmul_rate(choose_device(), torch.bfloat16 if job.settings.bf16 else torch.float32)
    return {
        "tokens": inputs["input_ids"].shape[1],
        "forward_tflop": counted.forward / 1e12,
        "training_tflop": counted.training / 1e12,
        "tflop_per_second": rate / 1e12,
    }


def _reckoned(vlm: VlmSettings, sources: Mapping[str, Any]) -> dict[str, Any]:
    """Bytes of a device in fine-tuning, to be compared with what is measured."""
    found, _ = reckon(vlm, **sources, device="cuda" if choose_device().type == "cuda" else "cpu")
    return found.parts() | {"allocated": found.allocated, "on_gpu": found.on_gpu()}


def _train(job: Job) -> dict[str, Any]:
    """Train until the first checkpoint, stop as at preemption, resume and finish."""
    with _interrupted(job.checkpoints) as interruption:
        try:
            finetune_vlm(job)
        except SystemExit as stopped:
            if stopped.code != 128 + signal.SIGTERM:
                raise InputError(f"the training stopped with status {stopped.code}; its log has the reason.") from None
            interruption.stopped = True
    free_memory()
    if interruption.stopped:
        finetune_vlm(job)
    summary = read_json(job.out / "training.json")
    seconds = summary["step_seconds"]
    # The first step allocates, and compiles what is compiled at first use.
    steady = median(seconds[1:] or seconds)
    measured = ("trainable_parameters", "peak_memory_mb", "losses", "resumed_from_step", "step_seconds", "strategy",
                "processes", "device_batch_size", "versions")  # fmt: skip
    return {name: summary[name] for name in measured} | {
        "first_run": interruption.measured,
        "events_per_second": job.settings.global_batch_size / steady,
        "checkpoint_bytes": interruption.bytes,
        "adapter_bytes": _bytes(job.out),
        # Of this process, which trains unless there are several.
        "peak_allocated_mb": torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else None,
    }


@dataclass
class _Interruption:
    """What the first part of the training left."""

    stopped: bool = False
    bytes: int = 0
    """Of a checkpoint."""
    measured: dict[str, float] | None = None


@contextmanager
def _interrupted(checkpoints: Path) -> Iterator[_Interruption]:
    """Send this process SIGTERM when the first checkpoint is complete, as Slurm does before the time limit."""
    done, interruption = threading.Event(), _Interruption()
    start = time.perf_counter()

    def look() -> bool:
        complete = sorted(checkpoints.glob(f"checkpoint-*/{FINGERPRINT}"))
        if complete:
            interruption.bytes = _bytes(complete[0].parent)
        return bool(complete)

    def watch() -> None:
        while not done.wait(0.01):
            if look():
                interruption.measured = {"seconds_to_first_checkpoint": time.perf_counter() - start}
                os.kill(os.getpid(), signal.SIGTERM)
                return

    if look():
        yield interruption  # this is a resume already, of a rehearsal that was killed
        return
    watcher = threading.Thread(target=watch, daemon=True)
    # A signal that comes when the training has just finished must not end this process.
    with SigtermFlag():
        watcher.start()
        try:
            yield interruption
        finally:
            done.set()
            watcher.join()


def _classify(vlm: VlmSettings, job: Job, out: Path, method: str) -> dict[str, Any]:
    settings = vlm.classify.model_copy(update={"method": method})
    start = time.perf_counter()
    classify_vlm(
        job.base, job.out, job.events, job.stores, {"nominal": out}, part=0, prompts=job.prompts, settings=settings,
        quantization=vlm.inference_quantization, bf16=vlm.finetune.bf16, zoom=job.zoom,
    )  # fmt: skip
    cost = read_json(out.with_suffix(".json"))
    return {name: cost[name] for name in ("events", "batch_size", "load_seconds", "peak_memory_mb")} | {
        "seconds_per_event": cost["seconds"] / cost["events"],
        "seconds": time.perf_counter() - start,
    }


def _explain(vlm: VlmSettings, job: Job, predictions: Path, vocabulary: Path, count: int) -> dict[str, Any]:
    out = predictions.parents[1] / "explanations.parquet"
    start = time.perf_counter()
    explain_vlm(
        job.base, job.out, job.events, job.stores, {"vlm": predictions}, out, part=0, count=count, seed=7,
        condition="nominal", prompts=job.prompts, vocabulary=vocabulary, settings=vlm.explain,
        merge_adapter=vlm.classify.merge_adapter, quantization=vlm.inference_quantization, bf16=vlm.finetune.bf16,
        zoom=job.zoom,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    table = pd.read_parquet(out)
    return {
        "events": count,
        "peak_memory_mb": peak_memory_mb(),
        "pictures": len(table),
        "seconds_per_event": float(table["seconds"].sum()) / count,
        "seconds": seconds,
    }


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def hours(result: Mapping[str, Any], *, train: float, classify: float, explain: float) -> dict[str, float]:
    """Hours of the whole run's stages, each by one job, from what was measured.

    Args:
        result: of :func:`rehearse`.
        train: events to train on, times epochs.
        classify: events to classify, times conditions.
        explain: events to explain.
    """
    found = {}
    for stage, cost in result.items():
        if stage == "training" and "failed" not in cost:
            found[stage] = train / cost["events_per_second"] / 3600
        elif stage.startswith(("classifying", "explaining")) and "failed" not in cost:
            events = explain if stage == "explaining" else classify
            found[stage] = events * cost["seconds_per_event"] / 3600
    return found


def fractions_of_floor(result: Mapping[str, Any]) -> dict[str, float]:
    """Stage -> the share of the device's rate for large matrix products that its counted operations reach."""
    found, floor = {}, result["floor"]
    for stage, cost in result.items():
        if stage == "training" and "failed" not in cost:
            # Every process has a device of its own; those of `balanced` work one after the other.
            events_per_second = cost["events_per_second"] / cost["processes"]
            found[stage] = events_per_second * floor["training_tflop"] / floor["tflop_per_second"]
        elif stage.startswith("classifying") and "failed" not in cost:
            found[stage] = floor["forward_tflop"] / floor["tflop_per_second"] / cost["seconds_per_event"]
    return found
