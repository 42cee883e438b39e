"""Why the fine-tuned model says so: what it goes on to say after its label, and what that claims."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from PIL import Image
from transformers import PreTrainedModel, ProcessorMixin

from nuvlm.base.classes import CLASSES
from nuvlm.base.files import write_table
from nuvlm.base.logs import track
from nuvlm.dataset.pixelmaps import check_images, image_settings, open_pixel_maps, read_blocks
from nuvlm.models.degradations import degrade
from nuvlm.models.devices import choose_device, peak_memory_mb
from nuvlm.models.explained_events import read_explained
from nuvlm.models.vlm.batches import FittingBatches
from nuvlm.models.vlm.classify import is_grounded, load_finetuned
from nuvlm.models.vlm.dataset import to_pictures
from nuvlm.models.vlm.model import Quantization, load_processor
from nuvlm.models.vlm.occlusion import occlude
from nuvlm.models.vlm.prompts import Prompts, check_views, conversation, load_prompts, user_turn
from nuvlm.models.vlm.rationales import Rationales, claims_table, load_rationales
from nuvlm.models.vlm.settings import ExplainSettings

logger = logging.getLogger(__name__)

NOMINAL, TEXT_ONLY = "nominal", "text_only"
WITHOUT: dict[str, Literal["shower", "track"]] = {"without_shower": "shower", "without_track": "track"}
"""Pictures from which something is taken out -> what that is."""
ANSWER = ("event", "picture", "rationale", "seconds")


def explain_vlm(
    base: Path,
    adapter: Path,
    events: Path,
    stores: Mapping[str, Path],
    predictions: Mapping[str, Path],
    out: Path,
    *,
    part: int,
    count: int,
    seed: int,
    condition: str,
    prompts: Path,
    vocabulary: Path,
    settings: ExplainSettings,
    merge_adapter: bool,
    quantization: Quantization,
    bf16: bool,
) -> None:
    """Write what the model says after its label of chosen events, under each picture, and what that claims.

    The label is the one that the model chose for the event as it is, also where the picture is another: `text_only`
    (black) shows what the label alone would have it say. It is forced, and the model goes on greedily. A model that has
    not learnt to do so is asked why, in a second turn.

    The table (docs/formats.md) has a row for each event and picture.

    Args:
        base, adapter, events, stores, prompts, quantization, bf16: as for
        :func:`nuvlm.models.vlm.classify.classify_vlm`.
        predictions: model -> prediction table of this part, `vlm` among them, under `condition`.
        part, count, seed: which events, see :func:`nuvlm.models.explained_events.read_explained`.
        condition: under which the pictures are shown.
        vocabulary: how truth is put into words and read from them.
        merge_adapter: see :func:`nuvlm.models.vlm.classify.load_finetuned`.

    Raises:
        InputError: as for classifying, or an unusable vocabulary.
    """
    texts, words = load_prompts(prompts), load_rationales(vocabulary)
    images = image_settings(stores)
    check_views(prompts, texts, images["views"])
    check_images(stores, adapter / "training.json")
    chosen = read_explained(events, predictions, "vlm", part=part, count=count, seed=seed)
    rows: list[dict[str, Any]] = []
    if len(chosen):
        model = load_finetuned(base, adapter, quantization, bf16=bf16, device=choose_device(), merge=merge_adapter)
        explainer = _Explainer(model, load_processor(base), texts, settings, grounded=is_grounded(adapter))
        answers = _explain_events(explainer, chosen, stores, condition, images)
        rows = [row for found in track(answers, "events", len(chosen)) for row in found]
        logger.info("peak memory %.0f MB", peak_memory_mb())
    _write(out, chosen, pd.DataFrame(rows, columns=list(ANSWER)), words)


class _Explainer:
    """A model that is asked for its reasons."""

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        texts: Prompts,
        settings: ExplainSettings,
        *,
        grounded: bool,
    ) -> None:
        self._model = model
        self._processor = processor
        self._texts = texts
        self._grounded = grounded
        self._tokens = settings.max_new_tokens
        self.batches = FittingBatches(settings.batch_size)

    def explain(self, label: str, pictures: Sequence[np.ndarray]) -> list[tuple[str, float]]:
        """What the model says of each of `pictures` (views, size, size) after the label of a class, and the seconds."""
        told: list[tuple[str, float]] = []
        for _, answers in self.batches.run(partial(self._explain, label), [to_pictures(views) for views in pictures]):
            told += answers
        return told

    def _explain(self, label: str, pictures: Sequence[Sequence[Image.Image]]) -> list[tuple[str, float]]:
        start = time.perf_counter()
        opening = self._opening(label, len(pictures[0]))
        inputs = self._processor(
            images=[list(views) for views in pictures], text=[opening] * len(pictures), add_special_tokens=False,
            return_tensors="pt",
        ).to(self._model.device)  # fmt: skip
        tokenizer = self._processor.tokenizer
        end = tokenizer.eos_token_id
        with torch.inference_mode():
            out = self._model.generate(
                **inputs, do_sample=False, num_beams=1, max_new_tokens=self._tokens, eos_token_id=end, pad_token_id=end
            )
        said = tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        seconds = (time.perf_counter() - start) / len(pictures)
        return [(text.strip(), seconds) for text in said]

    def _opening(self, label: str, views: int) -> str:
        """The conversation up to where the rationale begins."""
        texts = self._texts
        if self._grounded:
            messages, forced = conversation(texts, views), texts.answer(label, "")
        else:
            messages, forced = [*conversation(texts, views, texts.answer(label)), user_turn(texts.explain)], ""
        return self._processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False) + forced


def _explain_events(
    explainer: _Explainer,
    chosen: pd.DataFrame,
    stores: Mapping[str, Path],
    condition: str,
    settings: Mapping[str, Any],
) -> Iterator[list[dict[str, Any]]]:
    """The answers about each event, a row a picture; class by class, as texts with one label have one length."""
    corners = pd.DataFrame(index=chosen.index, columns=list("xyz"), dtype=np.float64)
    for shard, group in chosen.groupby("shard"):
        corners.loc[group.index] = open_pixel_maps(stores[str(shard)])["corner_mm"][:][group["row"]]
    for label in CLASSES:
        alike = chosen[chosen["predicted"] == label]
        words_alone: list[tuple[str, float]] = []
        for where, maps in read_blocks(stores, alike, explainer.batches.size):
            block = alike.iloc[where]
            # The same words and the same black picture for all of them.
            words_alone = words_alone or explainer.explain(label, [np.zeros_like(maps[0])])
            shown = [(event, NOMINAL, views) for event, views in zip(block.index, maps, strict=True)]
            for picture, what in WITHOUT.items():
                corner_mm = corners.loc[block.index].to_numpy()
                shown += [
                    (event, picture, views)
                    for event, views in _occluded(block, maps, what, corner_mm, settings["pixel_mm"])
                ]
            events = block.loc[[event for event, *_ in shown]]
            degraded = degrade(condition, np.stack([views for *_, views in shown]), events, settings)
            answers = explainer.explain(label, list(degraded))
            told = [(event, picture, *answer) for (event, picture, _), answer in zip(shown, answers, strict=True)]
            for event in block.index:
                found = [row for row in told if row[0] == event] + [(event, TEXT_ONLY, *words_alone[0])]
                yield [dict(zip(ANSWER, row, strict=True)) for row in found]


def _occluded(
    block: pd.DataFrame,
    maps: np.ndarray,
    what: Literal["shower", "track"],
    corner_mm: np.ndarray,
    pixel_mm: float | None,
) -> list[tuple[int, np.ndarray]]:
    """The pixel maps of those events of `block` that have such a thing, without it."""
    has = block[[f"{what}_direction_z", "vertex_z_mm"]].notna().all(axis=1).to_numpy()
    if pixel_mm is None or not has.any():
        return []
    without = occlude(maps[has], what, block[has], corner_mm=corner_mm[has], pixel_mm=pixel_mm)
    return list(zip(block.index[has], without, strict=True))


def _write(out: Path, chosen: pd.DataFrame, answers: pd.DataFrame, words: Rationales) -> None:
    """Write the table: the answers beside their events, what they claim, and what is true."""
    rows = answers.sort_values("event", kind="stable")
    events = chosen.loc[rows["event"].astype(int)]
    table = events[["event_id", "shard", "row", "class", "predicted", "chosen"]].reset_index(drop=True)
    table["picture"] = rows["picture"].astype("string").to_numpy()
    table["rationale"] = rows["rationale"].astype("string").to_numpy()
    claimed = [words.parse(text) for text in table["rationale"]]
    true = [words.state(event) for event in events.to_dict("records")]
    table = table.join(claims_table("claim_", claimed)).join(claims_table("true_", true))
    table["seconds"] = rows["seconds"].to_numpy(dtype=np.float64)
    write_table(out, table)
