"""Generate the rationales of the fine-tuned model after its label, and extract their claims."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image
from transformers import PreTrainedModel, ProcessorMixin

from nuvlm.base.classes import CLASSES
from nuvlm.base.files import write_table
from nuvlm.base.identity import hash_of
from nuvlm.base.logs import track
from nuvlm.dataset.event_table import is_changed
from nuvlm.dataset.pixelmaps import check_images, read_blocks
from nuvlm.models.degradations import degrade
from nuvlm.models.devices import choose_device, peak_memory_mb
from nuvlm.models.explained_events import read_explained
from nuvlm.models.head.saliency import occlude_cells
from nuvlm.models.vlm.batches import FittingBatches
from nuvlm.models.vlm.classify import background_of, is_grounded, load_finetuned
from nuvlm.models.vlm.consensus import drawing, most_supported
from nuvlm.models.vlm.dataset import to_pictures
from nuvlm.models.vlm.free_text import FreeText
from nuvlm.models.vlm.model import load_processor
from nuvlm.models.vlm.prompts import Prompts, answer_tokens, conversation, prompts_for, user_turn
from nuvlm.models.vlm.rationales import Claims, Rationales, claims_table, load_rationales
from nuvlm.models.vlm.scoring import Encoder, Scorer
from nuvlm.models.vlm.settings import Background, ExplainSettings, Quantization

logger = logging.getLogger(__name__)

NOMINAL, TEXT_ONLY = "nominal", "text_only"
ANSWER = ("event", "picture", "rationale", "claims", "seconds", "saliency")


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
    zoom: int = 1,
) -> None:
    """Write the model's rationales of the selected events, for each picture, and the claims in them.

    The label predicted for the nominal picture is forced for all pictures, and the rationale is decoded greedily, or is
    one of several that are drawn (:mod:`nuvlm.models.vlm.consensus`) with random numbers of the event's own.
    `text_only` (a black picture) gives the rationale that follows from the label without the event. A model trained
    without rationales is asked for its reasons in a second turn.

    The table (docs/formats.md) has a row for each event and picture.

    Args:
        base, adapter, events, stores, prompts, quantization, bf16, zoom: as for
        :func:`nuvlm.models.vlm.classify.classify_vlm`.
        predictions: model -> prediction table of this part, `vlm` among them, under `condition`.
        part, count, seed: select the events, see :func:`nuvlm.models.explained_events.read_explained`. Draws of
            rationales depend on `seed`, too.
        condition: degradation of the pictures.
        vocabulary: file of the phrasings that state truth and parse rationales.
        merge_adapter: see :func:`nuvlm.models.vlm.classify.load_finetuned`.

    Raises:
        InputError: as for classifying, or an unusable vocabulary.
    """
    images = check_images(stores, adapter / "training.json", zoom)
    background = background_of(adapter)
    texts, words = prompts_for(prompts, images, background), load_rationales(vocabulary)
    chosen = read_explained(events, predictions, "vlm", part=part, count=count, seed=seed)
    rows: list[dict[str, Any]] = []
    grounded = is_grounded(adapter)
    if len(chosen):
        read = _reader(words, grounded=grounded)
        model = load_finetuned(base, adapter, quantization, bf16=bf16, device=choose_device(), merge=merge_adapter)
        explainer = _Explainer(model, load_processor(base), texts, settings, background, zoom, read, grounded=grounded)
        answers = _explain_events(explainer, chosen, stores, condition, images, seed)
        rows = [row for found in track(answers, "events", len(chosen)) for row in found]
        logger.info("peak memory %.0f MB", peak_memory_mb())
    _write(out, chosen, pd.DataFrame(rows, columns=list(ANSWER)), words)


def _reader(words: Rationales, *, grounded: bool) -> Callable[[str], Claims]:
    """What reads the claims in a text: of a model trained on the phrasings, or in free words."""
    if grounded:
        return words.parse
    free = FreeText(words)
    return lambda text: free.read(text).agreed


class Explanation(NamedTuple):
    """What a model says after its answer."""

    rationale: str
    claims: Claims
    seconds: float
    """That it took, with all draws."""


class _Explainer:
    """Generates rationales in batches."""

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        texts: Prompts,
        settings: ExplainSettings,
        background: Background,
        zoom: int,
        read: Callable[[str], Claims],
        *,
        grounded: bool,
    ) -> None:
        self._model = model
        self._processor = processor
        self._texts = texts
        self._background: Background = background
        self._zoom = zoom
        self._grounded = grounded
        self._tokens = settings.max_new_tokens
        self._samples = settings.samples
        self._read = read
        self.maps = settings.saliency
        if settings.saliency:
            self._encoder = Encoder(processor, texts, model.dtype)
            self._scorer = Scorer(model, answer_tokens(processor.tokenizer, texts, separated=grounded))
        self.batches = FittingBatches(settings.batch_size)

    def explain(self, label: str, pictures: Sequence[np.ndarray], seeds: Sequence[int]) -> list[Explanation]:
        """The rationale after `label` for each of `pictures` (views, size, size).

        Args:
            seeds: of the draws, one a picture.
        """
        tasks = [
            (to_pictures(views, self._background, self._zoom), hash_of(seed, k))
            for views, seed in zip(pictures, seeds, strict=True)
            for k in range(self._samples)
        ]
        drawn: list[tuple[str, float]] = []
        for _, answers in self.batches.run(partial(self._explain, label), tasks):
            drawn += answers
        return [self._choose(drawn[i : i + self._samples]) for i in range(0, len(drawn), self._samples)]

    def _choose(self, drawn: Sequence[tuple[str, float]]) -> Explanation:
        """Of the rationales drawn for a picture, the one that the others support best, with the seconds of all."""
        texts, seconds = zip(*drawn, strict=True)
        claims = [self._read(text) for text in texts]
        best = most_supported(claims)
        return Explanation(texts[best], claims[best], sum(seconds))

    def saliency(self, label: str, pictures: np.ndarray) -> list[list[float]]:
        """Fall of the log-probability of `label` when a cell is black, of all cells of all views; uint8 `pictures`
        (n, views, size, size)."""
        classes = torch.full((len(pictures),), CLASSES.index(label))
        cells = occlude_cells(self._score, torch.from_numpy(pictures), classes, at_once=self.batches.size)
        return [values.tolist() for values in cells.flatten(1)]

    def _score(self, grey: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        shown = [to_pictures(views, self._background, self._zoom) for views in grey.numpy()]
        inputs = {name: value.to(self._model.device) for name, value in self._encoder(shown).items()}
        logp = torch.from_numpy(self._scorer(inputs).joint)
        return logp.log_softmax(dim=1).gather(1, classes[:, None]).squeeze(1).float()

    def _explain(self, label: str, tasks: Sequence[tuple[Sequence[Image.Image], int]]) -> list[tuple[str, float]]:
        """A text for each picture, drawn with its seed if several are wanted, and the seconds that it took."""
        start = time.perf_counter()
        pictures, seeds = zip(*tasks, strict=True)
        opening = self._opening(label, len(pictures[0]))
        inputs = self._processor(
            images=[list(views) for views in pictures], text=[opening] * len(pictures), add_special_tokens=False,
            return_tensors="pt",
        ).to(self._model.device, self._model.dtype)  # fmt: skip
        tokenizer = self._processor.tokenizer
        end = tokenizer.eos_token_id
        with torch.inference_mode():
            out = self._model.generate(
                **inputs, do_sample=False, num_beams=1, max_new_tokens=self._tokens, eos_token_id=end, pad_token_id=end,
                logits_processor=drawing(seeds) if self._samples > 1 else None,
            )  # fmt: skip
        texts = tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        seconds = (time.perf_counter() - start) / len(pictures)
        return [(text.strip(), seconds) for text in texts]

    def _opening(self, label: str, views: int) -> str:
        """The conversation up to the start of the rationale."""
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
    seed: int,
) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of each event, one per picture; label by label, so that prompts in a batch have one length."""
    # A map of an event is compared with what is changed in it.
    unchanged = set(chosen.index[~is_changed(chosen)])
    for label in CLASSES:
        same_label = chosen[chosen["predicted"] == label]
        text_only: list[Explanation] = []
        for where, maps in read_blocks(stores, same_label, explainer.batches.size):
            block = same_label.iloc[where]
            # Prompt and black picture are the same for all events with this label.
            text_only = text_only or explainer.explain(label, [np.zeros_like(maps[0])], [hash_of(seed, label)])
            degraded = degrade(condition, maps, block, settings)
            keys = zip(block["shard"], block["event_id"], strict=True)
            answers = explainer.explain(label, list(degraded), [hash_of(seed, *key) for key in keys])
            maps_of = dict.fromkeys(block.index)
            mapped = [i for i, event in enumerate(block.index) if event in unchanged] if explainer.maps else []
            if mapped:
                maps_of |= dict(zip(block.index[mapped], explainer.saliency(label, degraded[mapped]), strict=True))
            for event, answer in zip(block.index, answers, strict=True):
                found = [(event, NOMINAL, *answer, maps_of[event]), (event, TEXT_ONLY, *text_only[0], None)]
                yield [dict(zip(ANSWER, row, strict=True)) for row in found]


def _write(out: Path, chosen: pd.DataFrame, answers: pd.DataFrame, words: Rationales) -> None:
    """Write the table of rationales, their claims and the true values."""
    rows = answers.sort_values("event", kind="stable")
    events = chosen.loc[rows["event"].astype(int)]
    table = events[["event_id", "shard", "row", "class", "predicted", "chosen"]].reset_index(drop=True)
    table["picture"] = rows["picture"].astype("string").to_numpy()
    table["rationale"] = rows["rationale"].astype("string").to_numpy()
    true = [words.state(event) for event in events.to_dict("records")]
    table = table.join(claims_table("claim_", rows["claims"].tolist())).join(claims_table("true_", true))
    table["seconds"] = rows["seconds"].to_numpy(dtype=np.float64)
    if rows["saliency"].notna().any():
        table["saliency"] = rows["saliency"].to_numpy()
    write_table(out, table)
