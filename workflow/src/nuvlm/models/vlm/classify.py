"""Classify the events of one part with the fine-tuned vision-language model."""

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from transformers import PreTrainedModel

from nuvlm.base.classes import CLASSES
from nuvlm.base.files import read_json
from nuvlm.base.logs import track
from nuvlm.base.manifest import verify_manifest
from nuvlm.dataset.event_table import read_events
from nuvlm.dataset.pixelmaps import check_images, image_settings, read_blocks
from nuvlm.models.degradations import degrade
from nuvlm.models.devices import choose_device, device_name, energy_meter, peak_memory_mb
from nuvlm.models.predictions import Cost, write_predictions
from nuvlm.models.vlm.batches import FittingBatches, prepared
from nuvlm.models.vlm.dataset import to_pictures
from nuvlm.models.vlm.model import Quantization, load_model, load_processor
from nuvlm.models.vlm.prompts import answer_tokens, check_views, load_prompts, permuted, require_distinct_first_tokens
from nuvlm.models.vlm.scoring import Encoder, Scorer, beam
from nuvlm.models.vlm.settings import ClassifySettings

logger = logging.getLogger(__name__)


def classify_vlm(
    base: Path,
    adapter: Path,
    events: Path,
    stores: Mapping[str, Path],
    out: Path,
    *,
    part: int,
    condition: str,
    prompts: Path,
    settings: ClassifySettings,
    quantization: Quantization,
    bf16: bool,
) -> None:
    """Write the predictions for the events of `part`, and their cost, under `condition`.

    Besides what every prediction table has, the columns ``logp_joint_{class}`` and ``logp_first_{class}`` hold the
    log-probability of each whole answer and of the first token of each label.

    Where ``settings.batch_size`` events do not fit in memory, batches are halved until they do; the cost says how
    many fitted.

    Args:
        base, adapter: folders of the base model and of its fine-tuned adapter.
        events: the event table.
        stores: shard name -> pixel-map store.
        condition: see :func:`nuvlm.models.degradations.degrade`; ``labels_permuted`` tells of the classes in another
        order. quantization, bf16: as in the fine-tuning, so that the adapter meets the weights that it was trained on.

    Raises:
        InputError: a damaged model or store, texts for other views than the pixel maps have, or labels that
            `decision: first_token` cannot tell apart.
    """
    texts = load_prompts(prompts)
    maps = image_settings(stores)
    check_views(prompts, texts, maps["views"])
    if condition == "labels_permuted":
        texts = permuted(texts)
    processor = load_processor(base)
    answers = answer_tokens(processor.tokenizer, texts, separated=is_grounded(adapter))
    if settings.decision == "first_token":
        require_distinct_first_tokens(answers, texts.labels)
    table = read_events(events)
    table = table[table["part"] == part].reset_index(drop=True)

    check_images(stores, adapter / "training.json")
    device = choose_device()
    start = time.perf_counter()
    model = load_finetuned(base, adapter, quantization, bf16=bf16, device=device, merge=settings.merge_adapter)
    load_seconds = time.perf_counter() - start

    method = Scorer(model, answers) if settings.method == "score" else partial(beam, model, answers=answers)
    meter = energy_meter(device)
    encode = Encoder(processor, texts, torch.bfloat16 if bf16 else torch.float32)

    def prepare(block: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, dict[str, torch.Tensor], float]:
        rows, images = block
        start = time.perf_counter()
        # Beside a GPU this is done while that is metered.
        with meter if device.type == "cpu" else nullcontext():
            inputs = encode([to_pictures(views) for views in degrade(condition, images, table.iloc[rows], maps)])
        if device.type == "cuda":
            inputs = {name: value.pin_memory() for name, value in inputs.items()}
        return rows, inputs, time.perf_counter() - start

    def classify(inputs: dict[str, torch.Tensor], events: Sequence[int]) -> tuple[np.ndarray, np.ndarray, float]:
        start = time.perf_counter()
        own = slice(events[0], events[-1] + 1)
        # Scores come back as arrays, so the device has finished when the clock is read.
        scores = method({name: value[own].to(device, non_blocking=True) for name, value in inputs.items()})
        return *scores, time.perf_counter() - start

    joint, first = np.zeros((2, len(table), len(CLASSES)))
    seconds = np.zeros(len(table))
    batches = FittingBatches(settings.batch_size)
    warm = False
    # The image processor runs on the CPU: beside a GPU, while that is busy.
    blocks = prepared(prepare, read_blocks(stores, table, settings.batch_size), ahead=device.type == "cuda")
    start = time.perf_counter()
    for rows, inputs, encoding in track(blocks, "batches"):
        waited = time.perf_counter() - start
        seconds[rows] = min(encoding, waited) / len(rows)
        work = partial(classify, inputs)
        if not warm:
            # The first pass allocates and tunes, which is no event's time.
            warm = bool(list(batches.run(work, range(len(rows)))))
        with meter:
            for where, (joint_part, first_part, took) in batches.run(work, range(len(rows))):
                joint[rows[where]], first[rows[where]] = joint_part, first_part
                seconds[rows[where]] += took / len(joint_part)
        start = time.perf_counter()
    extra = {f"logp_joint_{name}": joint[:, i] for i, name in enumerate(CLASSES)}
    extra |= {f"logp_first_{name}": first[:, i] for i, name in enumerate(CLASSES)}
    cost = Cost(
        device=device_name(device),
        batch_size=batches.size,
        events=len(table),
        load_seconds=load_seconds,
        seconds=float(seconds.sum()),
        peak_memory_mb=peak_memory_mb(),
    )
    each = 1e3 * cost.seconds / max(len(table), 1)
    logger.info("%d events, %.1f ms each, peak memory %.0f MB", len(table), each, cost.peak_memory_mb)
    decisive = joint if settings.decision == "joint" else first
    write_predictions(out, table, decisive, settings.temperature, seconds, extra, cost.with_energy(meter.energy))


def is_grounded(adapter: Path) -> bool:
    """Whether the adapter has learnt to go on with a rationale behind its label."""
    return bool(read_json(adapter / "training.json").get("rationales", "none") == "grounded")


def load_finetuned(
    base: Path, adapter: Path, quantization: Quantization, *, bf16: bool, device: torch.device, merge: bool
) -> PreTrainedModel:
    """The base model with its adapter, ready to classify.

    Args:
        merge: unpack the quantised weights once, instead of in every pass, and add the adapter to them: the same
            model but for rounding, faster, in the memory that unquantised weights take.

    Raises:
        InputError: where the adapter's folder is damaged; :func:`load_processor` has checked the base's.
    """
    verify_manifest(adapter)
    model = load_model(base, quantization, bf16=bf16, device_map={"": device})
    if merge and quantization != "none":
        # Not the base's own weights, which the adapter has not been trained on.
        model = model.dequantize()
    tuned = PeftModel.from_pretrained(model, adapter)
    return (tuned.merge_and_unload() if merge else tuned).eval()
