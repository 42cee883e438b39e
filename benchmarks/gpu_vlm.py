"""Fine-tuning and classifying with a Mllama of 11 billion parameters on one GPU, without weights and without a network.

    python benchmarks/gpu_vlm.py [--tiles 1 4] [--batches 1 8 16] [--steps 12] [--events 64] [--training ...]
                                 [--adapters ...] [--methods score beam] [--tiny] [--out FILE]

The model has the shape of Llama 3.2 11B Vision and random weights, drawn on the device while the workflow's own loading
quantises them; speed does not depend on their values. Everything else is as in a run: `finetune` and `classify_vlm` are
called as their rules call them, on scenes drawn at 512 x 512, and their records are reported. For 1 and 4 tiles:

- training: events/s, peak memory, fraction of the floor from counted operations, nf4 weights, with and without
  checkpointing. A batch that does not fit is halved and repeated.
- classifying: ms per event and peak memory by scoring and by beams, for each batch size, with the adapter beside nf4
  weights, beside bf16 weights, and merged; and the image processor on one CPU core, which runs beside the GPU.
- a profile of a scoring pass: the kernels that take most, and the shares of unpacking, attention and the vision tower.

Failures are recorded, and the next measurement continues. Results, with machine, versions and commit, go to
results/gpu_vlm_{device}.json beside this file, after each measurement. --training, --adapters and --methods select
measurements. --tiny takes a tiny model through the same code in half a minute, also without a GPU; those numbers mean
nothing and are only printed.
"""

import argparse
import importlib.metadata
import json
import logging
import os
import platform
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
import torch
import yaml
from gpu import attempt, free, logger
from PIL import Image
from torch.profiler import ProfilerActivity, profile
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    MllamaConfig,
    MllamaForConditionalGeneration,
    MllamaImageProcessorPil,
    MllamaProcessor,
    PreTrainedModel,
)
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling
from vlm_floor import eleven_b, with_tiles

import nuvlm.models.vlm.classify as classify_module
import nuvlm.models.vlm.model as model_module
from nuvlm.base.errors import InputError
from nuvlm.base.files import write_json
from nuvlm.base.manifest import write_manifest
from nuvlm.dataset.pixelmaps import read_blocks
from nuvlm.models.devices import choose_device, device_name
from nuvlm.models.vlm.arithmetic import count_arithmetic, matmul_rate
from nuvlm.models.vlm.classify import classify_vlm, load_finetuned
from nuvlm.models.vlm.dataset import conversations, to_pictures
from nuvlm.models.vlm.families import family_of
from nuvlm.models.vlm.model import load_processor, meta_model
from nuvlm.models.vlm.pretraining import _train_tokenizer
from nuvlm.models.vlm.prompts import answer_tokens, load_prompts
from nuvlm.models.vlm.rationales import load_rationales
from nuvlm.models.vlm.rehearsal import write_scenes
from nuvlm.models.vlm.scoring import Encoder, Scorer
from nuvlm.models.vlm.settings import ClassifySettings, FinetuneSettings, LoraSettings
from nuvlm.models.vlm.training import DoesNotFitError, Job, finetune, with_fitting_batches

REPOSITORY = Path(__file__).parents[1]
PROMPTS = REPOSITORY / "resources" / "prompts.yaml"
VOCABULARY = REPOSITORY / "resources" / "rationales.yaml"
TARGETS = {1: {"ms_per_event": 30.0, "events_per_second": 10.0}, 4: {"ms_per_event": 110.0}}
"""On an H100: scoring with batches of 16, bf16, merged; training with checkpointing."""
TOKENS = 258
"""Length of the conversation with Llama 3's tokenizer; the one made here is trained on the texts and needs fewer."""
CHECKPOINTING = {"checkpointing": True, "no checkpointing": False}
ADAPTED = {"beside nf4": ("nf4", False), "beside bf16": ("none", False), "merged into bf16": ("nf4", True)}
METHODS = ("score", "beam")
SHARES = {"unpacking": r"dequant|4bit|nf4", "attention": r"attention|flash|fmha|sdpa|softmax"}
"""Kernels by their name."""


@dataclass(frozen=True)
class Scale:
    """The size of the measurement."""

    config: MllamaConfig
    side: int
    """Of the pixel maps."""
    vocabulary: int
    batches: Sequence[int]
    steps: int
    global_batch: int
    events: int
    """To classify, in each measurement."""
    bf16: bool
    training: Sequence[str] = tuple(CHECKPOINTING)
    adapters: Sequence[str] = tuple(ADAPTED)
    methods: Sequence[str] = METHODS


def full(batches: Sequence[int], steps: int, events: int) -> Scale:
    """The published scale."""
    return Scale(eleven_b(), 512, 128256, batches, steps, 8, events, True)


def tiny() -> Scale:
    """The same code in seconds."""
    config = MllamaConfig(
        text_config={
            "hidden_size": 64, "num_hidden_layers": 4, "intermediate_size": 128, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": 768, "cross_attention_layers": [1],
        },
        vision_config={
            "hidden_size": 64, "num_hidden_layers": 2, "num_global_layers": 1, "intermediate_size": 128,
            "attention_heads": 4, "patch_size": 14, "image_size": 56, "vision_output_dim": 128,
            "intermediate_layers_indices": [1],
        },
    )  # fmt: skip
    return Scale(config, 48, 768, (1, 2), 2, 2, 8, False)


class RandomWeights:
    """Replaces reading a checkpoint in transformers: the same loading, with weights drawn on the device."""

    from_config = staticmethod(AutoModelForImageTextToText.from_config)

    @staticmethod
    def from_pretrained(base: Path, *, dtype: torch.dtype, **arguments: Any) -> PreTrainedModel:
        config = AutoConfig.from_pretrained(base, local_files_only=True)
        device = choose_device()
        torch.manual_seed(7)
        weights = {}
        for name, value in meta_model(config).state_dict().items():
            weights[name] = torch.empty(value.shape, dtype=dtype, device=device)
            # Norms and gates let everything through; products keep their size.
            weights[name].fill_(1.0) if value.ndim < 2 else weights[name].normal_(std=value.shape[-1] ** -0.5)
        model: PreTrainedModel = MllamaForConditionalGeneration.from_pretrained(
            None, config=config, state_dict=weights, dtype=dtype, **arguments
        )
        weights.clear()
        free()
        return model


def make_prompts(out: Path, base: Path) -> Path:
    """The project's texts with a longer question, for a conversation of so many tokens as with Llama 3's tokenizer."""
    texts = load_prompts(PROMPTS)
    blank = [Image.new("L", (8, 8))] * 2
    short = Encoder(load_processor(base), texts)([blank])["input_ids"].shape[1]
    values = yaml.safe_load(PROMPTS.read_text(encoding="utf-8"))
    values["user"] += " and" * max(0, TOKENS - short)
    out.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    return out


def make_base(folder: Path, scale: Scale, tiles: int) -> Path:
    """All files of a base model but its weights."""
    tokenizer = _train_tokenizer(scale.vocabulary, load_prompts(PROMPTS), load_rationales(VOCABULARY))
    config = with_tiles(scale.config, tiles)
    config.image_token_index = scale.vocabulary
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config.text_config, name, getattr(tokenizer, name))
    side = config.vision_config.image_size
    images = MllamaImageProcessorPil(size={"height": side, "width": side}, max_image_tiles=tiles)
    template = (REPOSITORY / "resources" / "chat_templates" / "mllama.jinja").read_text(encoding="utf-8")
    folder.mkdir()
    config.save_pretrained(folder)
    MllamaProcessor(image_processor=images, tokenizer=tokenizer, chat_template=template).save_pretrained(folder)
    write_manifest(folder)
    return folder


def train(job: Job, inputs: Mapping[str, torch.Tensor], flop_per_second: float) -> dict[str, Any]:
    """Fine-tune with the largest batch on the device that fits.

    Args:
        inputs: one event, as the collator gives it to the model.
        flop_per_second: rate of the device for large matrix products.
    """
    did_not_fit = []

    def run(job: Job) -> None:
        try:
            finetune(job)
        except DoesNotFitError:
            did_not_fit.append(job.settings.device_batch_size)
            raise

    with_fitting_batches(job, run)
    summary = json.loads((job.out / "training.json").read_text())
    names = ("events_per_second", "tokens_per_second", "peak_memory_mb", "device_batch_size")
    arithmetic = count_arithmetic(
        AutoConfig.from_pretrained(job.base), inputs, job.settings.lora,
        vision_tower=family_of(job.base).vision_tower, checkpointing=job.settings.gradient_checkpointing,
    )  # fmt: skip
    return {name: summary[name] for name in names} | {
        "tflop_per_event": arithmetic.training / 1e12,
        "fraction_of_floor": summary["events_per_second"] * arithmetic.training / flop_per_second,
        "did_not_fit": did_not_fit,
    }


def classify(job: Job, out: Path, method: str, batch: int, bf16: bool, floor_ms: float) -> dict[str, Any]:
    """Classify the test events as the rule does; the model is loaded."""
    settings = ClassifySettings(method=method, batch_size=batch)
    classify_vlm(
        job.base, job.out, job.events, job.stores, {"nominal": out}, part=0, prompts=job.prompts,
        settings=settings, quantization="none", bf16=bf16,
    )  # fmt: skip
    cost = json.loads(out.with_suffix(".json").read_text())
    ms = 1e3 * cost["seconds"] / cost["events"]
    fitted = {"batch_size": cost["batch_size"], "peak_memory_mb": cost["peak_memory_mb"]}
    return {"ms_per_event": ms, "fraction_of_floor": floor_ms / ms} | fitted


def profile_pass(model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], answers: Any) -> dict[str, Any]:
    """Profile a scoring pass."""
    device = choose_device()
    scorer, vision = Scorer(model, answers), 0.0
    moved = {name: value.to(device) for name, value in inputs.items()}
    scorer(moved)
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    start = 0.0

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def begin(*_: Any) -> None:
        nonlocal start
        start = now()

    def end(*_: Any) -> None:
        nonlocal vision
        vision = now() - start

    tower = whole.model.vision_model
    hooks = [tower.register_forward_pre_hook(begin), tower.register_forward_hook(end)]
    begun = now()
    scorer(moved)
    seconds = now() - begun
    for hook in hooks:
        hook.remove()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities) as profiler:
        scorer(moved)
    column = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    kernels = sorted(((getattr(event, column), event.key) for event in profiler.key_averages()), reverse=True)
    total = sum(taken for taken, _ in kernels)
    matching = {
        name: sum(taken for taken, key in kernels if re.search(pattern, key, re.I)) / total
        for name, pattern in SHARES.items()
    }
    return {
        "ms": 1e3 * seconds,
        "shares": matching | {"vision tower": vision / seconds},
        "kernels": [{"name": key, "share": taken / total} for taken, key in kernels[:12]],
    }


def measure(
    scale: Scale, tiles: int, folder: Path, write: Callable[[dict[str, Any]], None] = lambda _: None
) -> dict[str, Any]:
    """All measurements for one number of tiles; `write` gets what there is after each."""
    folder.mkdir()
    base = make_base(folder / "base", scale, tiles)
    prompts = make_prompts(folder / "prompts.yaml", base)
    events, stores = write_scenes(
        folder, scale.side, train=scale.steps * scale.global_batch, test=max(scale.events, *scale.batches)
    )
    processor, texts, device = load_processor(base), load_prompts(prompts), choose_device()
    dtype = torch.bfloat16 if scale.bf16 else torch.float32
    encode = Encoder(processor, texts, dtype)
    table = pd.read_parquet(events)
    largest = max(scale.batches)
    _, images = next(read_blocks(stores, table[table["part"] == 0], largest))
    pictures = [to_pictures(views, "black") for views in images]
    encode(pictures[:1])
    start = time.perf_counter()
    inputs = encode(pictures)
    processing = 1e3 * (time.perf_counter() - start) / largest
    one = {name: value[:1] for name, value in inputs.items()}
    collate = DataCollatorForVisionLanguageModeling(processor, assistant_only_loss=True)
    trained = collate([conversations(table[table["split"] == "train"], stores, texts, background="black")[0]])
    arithmetic = count_arithmetic(
        AutoConfig.from_pretrained(base), one, LoraSettings(), vision_tower=family_of(base).vision_tower,
        checkpointing=False,
    )  # fmt: skip
    rate = matmul_rate(device, dtype)
    floor_ms = 1e3 * arithmetic.forward / rate
    result: dict[str, Any] = {
        "tokens": inputs["input_ids"].shape[1],
        "image_processor_ms_per_event": processing,
        "matmul_tflop_per_second": rate / 1e12,
        "forward_tflop": arithmetic.forward / 1e12,
        "floor_ms_per_event": floor_ms,
        "training": {},
        "load_seconds": {},
        "classifying": {},
        "profile": {},
    }
    job = Job(
        base=base, events=events, stores=stores, out=folder / "adapter", tensorboard=folder / "tensorboard",
        checkpoints=folder / "checkpoints", prompts=prompts,
        settings=FinetuneSettings(
            strategy="single", processes=1, gpus=1, global_batch_size=scale.global_batch,
            device_batch_size=scale.global_batch, epochs=1, bf16=scale.bf16, save_steps=10**6,
        ),
    )  # fmt: skip
    with patch.object(model_module, "AutoModelForImageTextToText", RandomWeights):
        for name in scale.training:
            settings = job.settings.model_copy(update={"gradient_checkpointing": CHECKPOINTING[name]})
            job = job.model_copy(update={"settings": settings})
            result["training"][name] = attempt(
                lambda job=job: train(job, trained, rate), f"{tiles} tiles, training, {name}"
            )
            write(result)
        for adapted in scale.adapters:
            found = result["classifying"][adapted] = {}
            free()
            quantization, merge = ADAPTED[adapted]
            logger.info("%d tiles, loading, adapter %s", tiles, adapted)
            start = time.perf_counter()
            try:
                model = load_finetuned(base, job.out, quantization, bf16=scale.bf16, device=device, merge=merge)
            except (RuntimeError, InputError, OSError) as error:
                result["classifying"][adapted] = {"failed": str(error).splitlines()[0]}
                continue
            result["load_seconds"][adapted] = time.perf_counter() - start
            with patch.object(classify_module, "load_finetuned", lambda *_, model=model, **__: model):
                for method in scale.methods:
                    found[method] = {}
                    for batch in scale.batches:
                        found[method][str(batch)] = attempt(
                            lambda method=method, batch=batch: classify(
                                job, folder / "predictions.parquet", method, batch, scale.bf16, floor_ms
                            ),
                            f"{tiles} tiles, {method}, adapter {adapted}, batch {batch}",
                        )
                        write(result)
            answers = answer_tokens(processor.tokenizer, texts)
            result["profile"][adapted] = attempt(
                lambda model=model, answers=answers: profile_pass(model, inputs, answers), f"{tiles} tiles, profile"
            )
            write(result)
            del model
    return result | {"missed": missed(result, tiles, largest)}


def missed(result: Mapping[str, Any], tiles: int, batch: int) -> list[str]:
    """The targets that are not reached; where there are some, `profile` says what takes the time."""
    scoring = result["classifying"].get("merged into bf16", {}).get("score", {}).get(str(batch), {})
    training = result["training"].get("checkpointing", {})
    reached = {
        "ms_per_event": lambda limit: scoring.get("ms_per_event", float("inf")) <= limit,
        "events_per_second": lambda limit: training.get("events_per_second", 0) >= limit,
    }
    return [name for name, limit in TARGETS[tiles].items() if not reached[name](limit)]


def machine() -> dict[str, Any]:
    """What it ran on, and which code."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True).stdout.strip()

    packages = ("torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate")
    return {
        "device": device_name(choose_device()),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "commit": git("rev-parse", "HEAD") or None,
        "changed_since": bool(git("status", "--porcelain")),
        "targets": TARGETS,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, nargs="+", choices=sorted(TARGETS), default=sorted(TARGETS))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 16])
    parser.add_argument("--steps", type=int, default=12, help="of training")
    parser.add_argument("--events", type=int, default=64, help="to classify in each measurement")
    parser.add_argument("--training", nargs="*", choices=list(CHECKPOINTING), default=list(CHECKPOINTING))
    parser.add_argument("--adapters", nargs="*", choices=list(ADAPTED), default=list(ADAPTED))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to see that all of this runs")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    logger.setLevel(logging.INFO)
    if not (arguments.tiny or torch.cuda.is_available()):
        parser.error("no GPU: a model of 11 billion parameters needs one. --tiny runs anywhere.")
    scale = tiny() if arguments.tiny else full(arguments.batches, arguments.steps, arguments.events)
    scale = replace(scale, training=arguments.training, adapters=arguments.adapters, methods=arguments.methods)
    out = arguments.out
    if out is None and not arguments.tiny:
        name = re.sub(r"[^a-z0-9]+", "_", device_name(choose_device()).lower())
        out = Path(__file__).parent / "results" / f"gpu_vlm_{name}.json"
    result = machine() | {"tiny": arguments.tiny, "tiles": {}}

    def write(tiles: int, found: dict[str, Any]) -> None:
        result["tiles"][str(tiles)] = found
        if out is not None:
            write_json(out, result)

    for tiles in arguments.tiles:
        with tempfile.TemporaryDirectory() as folder:
            write(tiles, measure(scale, tiles, Path(folder) / "run", partial(write, tiles)))
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
