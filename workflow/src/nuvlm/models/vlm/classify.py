"""Classify the events of one part with the fine-tuned vision-language model."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import pandas as pd
import torch
from peft import PeftModel
from transformers import PreTrainedModel

from nuvlm.base.classes import CLASSES
from nuvlm.base.errors import InputError
from nuvlm.base.files import read_json
from nuvlm.base.logs import track
from nuvlm.base.manifest import verify_manifest
from nuvlm.dataset.event_table import read_part
from nuvlm.dataset.pixelmaps import check_images, read_blocks
from nuvlm.models.degradations import degrade
from nuvlm.models.devices import choose_device, device_name, energy_meter, peak_memory_mb, pinned
from nuvlm.models.predictions import Cost, write_predictions
from nuvlm.models.vlm.batches import FittingBatches, prepared, take
from nuvlm.models.vlm.dataset import to_pictures
from nuvlm.models.vlm.model import load_model, load_processor
from nuvlm.models.vlm.probe import probe
from nuvlm.models.vlm.prompts import (
    AnswerTokens,
    answer_tokens,
    permuted,
    prompts_for,
    require_distinct_labels,
)
from nuvlm.models.vlm.scoring import Encoder, LabelScores, Scorer, beam
from nuvlm.models.vlm.settings import Background, ClassifySettings, Quantization

logger = logging.getLogger(__name__)

Method = Callable[[dict[str, torch.Tensor]], LabelScores]
"""From model inputs to the scores of some events."""
COLUMNS = {"joint": "joint", "first": "first_token", "two": "two_tokens"}
"""Score, as in the columns of a prediction table -> the decision that it is of."""


def classify_vlm(
    base: Path,
    adapter: Path,
    events: Path,
    stores: Mapping[str, Path],
    outputs: Mapping[str, Path],
    *,
    part: int,
    prompts: Path,
    settings: ClassifySettings,
    quantization: Quantization,
    bf16: bool,
    zoom: int = 1,
) -> None:
    """Write the predictions for the events of `part`, and their cost, under each condition of `outputs`.

    Besides what every prediction table has, the columns ``logp_joint_{class}``, ``logp_first_{class}`` and
    ``logp_two_{class}`` hold the log-probability of each whole answer and of the first token and the first two tokens
    of each label.

    Where ``settings.batch_size`` events do not fit in memory, batches are halved until they do; the cost says how
    many fitted.

    Args:
        base, adapter: folders of the base model and of its fine-tuned adapter.
        events: the event table.
        stores: shard name -> pixel-map store.
        outputs: condition -> prediction table. Under ``labels_permuted`` the prompt names the classes in another order.
        quantization, bf16: of the base model's weights; those that the adapter was trained on are those of the
            fine-tuning.
        zoom: of the pictures, see :func:`nuvlm.models.vlm.dataset.to_pictures`.

    Raises:
        InputError: a damaged model or store, texts for other views than the pixel maps have, or labels that
            ``settings.decision`` cannot tell apart.
    """
    background = background_of(adapter)
    images = check_images(stores, adapter / "training.json", zoom)
    published = prompts_for(prompts, images, background)
    processor = load_processor(base)
    texts = {name: permuted(published) if name == "labels_permuted" else published for name in outputs}
    grounded = is_grounded(adapter)
    answers = {name: answer_tokens(processor.tokenizer, texts[name], separated=grounded) for name in outputs}
    for name, tokens in answers.items():
        require_distinct_labels(tokens, texts[name].labels, settings.decision)
    device = choose_device()
    start = time.perf_counter()
    model = load_finetuned(base, adapter, quantization, bf16=bf16, device=device, merge=settings.merge_adapter)
    probe(model, processor, published, len(images["views"]), images["size"] * zoom, beams=settings.method == "beam")
    load_seconds = time.perf_counter() - start
    table = read_part(events, part)
    classifier = _Classifier(model, table, stores, images, settings, background, device, load_seconds)
    for condition, out in outputs.items():
        encoder = Encoder(processor, texts[condition], torch.bfloat16 if bf16 else torch.float32)
        classifier.classify(condition, encoder, answers[condition], out)


class _Classifier:
    """A model and the events of one part, to be classified under one condition after the other."""

    def __init__(
        self,
        model: PreTrainedModel,
        table: pd.DataFrame,
        stores: Mapping[str, Path],
        images: Mapping[str, Any],
        settings: ClassifySettings,
        background: Background,
        device: torch.device,
        load_seconds: float,
    ) -> None:
        self._model = model
        self._table = table
        self._stores = stores
        self._images = images
        self._settings = settings
        self._background: Background = background
        self._device = device
        self._load_seconds = load_seconds
        self._batches = FittingBatches(settings.batch_size)

    def classify(self, condition: str, encode: Encoder, answers: AnswerTokens, out: Path) -> None:
        """Write the predictions for all events under `condition`, and their cost."""
        table, device, settings = self._table, self._device, self._settings
        on_accelerator = device.type != "cpu"
        if settings.method == "score":
            method: Method = Scorer(self._model, answers)
        else:
            method = partial(beam, self._model, answers=answers)
        meter = energy_meter(device)

        def prepare(block: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, dict[str, torch.Tensor], float]:
            rows, images = block
            start = time.perf_counter()
            # Beside an accelerator this is done while that is metered.
            with nullcontext() if on_accelerator else meter:
                degraded = degrade(condition, images, table.iloc[rows], self._images)
                inputs = encode([to_pictures(views, self._background, self._images["zoom"]) for views in degraded])
            if on_accelerator:
                inputs = pinned(inputs)
            return rows, inputs, time.perf_counter() - start

        def classify(inputs: dict[str, torch.Tensor], events: Sequence[int]) -> tuple[LabelScores, float]:
            start = time.perf_counter()
            chosen = take(inputs, slice(events[0], events[-1] + 1), len(inputs["input_ids"]))
            # Scores come back as arrays, so the device has finished when the clock is read.
            scores = method({name: value.to(device, non_blocking=True) for name, value in chosen.items()})
            return scores, time.perf_counter() - start

        logp = LabelScores(*np.zeros((3, len(table), len(CLASSES))))
        seconds = np.zeros(len(table))
        warm = False
        # The image processor runs on the CPU: beside a GPU, while that is busy.
        blocks = read_blocks(self._stores, table, settings.batch_size)
        ready = prepared(prepare, blocks, ahead=on_accelerator)
        start = time.perf_counter()
        for rows, inputs, encoding in track(ready, f"batches, {condition}", -(-len(table) // settings.batch_size)):
            waited = time.perf_counter() - start
            seconds[rows] = min(encoding, waited) / len(rows)
            work = partial(classify, inputs)
            if not warm:
                # The first pass allocates and tunes, which is no event's time.
                warm = bool(list(self._batches.run(work, range(len(rows)))))
            with meter:
                for where, (found, took) in self._batches.run(work, range(len(rows))):
                    for values, of_some in zip(logp, found, strict=True):
                        values[rows[where]] = of_some
                    seconds[rows[where]] += took / len(found.joint)
            start = time.perf_counter()
        extra = {
            f"logp_{score}_{name}": getattr(logp, score)[:, i] for score in COLUMNS for i, name in enumerate(CLASSES)
        }
        cost = Cost(
            device=device_name(device),
            batch_size=self._batches.size,
            events=len(table),
            load_seconds=self._load_seconds,
            seconds=float(seconds.sum()),
            peak_memory_mb=peak_memory_mb(),
        )
        each = 1e3 * cost.seconds / max(len(table), 1)
        logger.info("%d events, %.1f ms each, peak memory %.0f MB", len(table), each, cost.peak_memory_mb)
        decisive = next(getattr(logp, score) for score, decision in COLUMNS.items() if decision == settings.decision)
        write_predictions(out, table, decisive, settings.temperature, seconds, extra, cost.with_energy(meter.energy))


def is_grounded(adapter: Path) -> bool:
    """Whether the adapter has learnt to go on with a rationale behind its label."""
    return bool(read_json(adapter / "training.json").get("rationales", "none") == "grounded")


def background_of(adapter: Path) -> Background:
    """The background of the pictures that the adapter was trained on; black where an earlier version does not say."""
    path = adapter / "training.json"
    background = read_json(path).get("background", "black")
    if background not in get_args(Background):
        raise InputError(
            f"{path}: the background is {background!r}, not {' or '.join(get_args(Background))}. Remove {adapter} and "
            "rerun: the workflow trains it again."
        )
    return cast(Background, background)


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
