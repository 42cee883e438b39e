"""Batches of training conversations that differ in their images and answers only.

TRL's collator renders the chat template and tokenises the whole prompt for every event. Here this is done once; an
event costs the image processor and the tokens of its answer. The first batch is compared with TRL's.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import ProcessorMixin
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

logger = logging.getLogger(__name__)

Row = dict[str, Any]


class EventCollator:
    """Makes batches as TRL's collator does, with its values (checked on the first batch).

    Args:
        processor: of the model.
    """

    def __init__(self, processor: ProcessorMixin) -> None:
        self._processor = processor
        self._reference = DataCollatorForVisionLanguageModeling(processor, assistant_only_loss=True)
        self._frame: _Frame | None = None
        self._is_checked = False

    def __call__(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """Collate `rows` of :func:`nuvlm.models.vlm.dataset.conversations`, with pictures of one size."""
        if self._is_checked:
            return dict(self._reference(list(rows))) if self._frame is None else self._collate(self._frame, rows)
        expected = dict(self._reference(list(rows)))
        self._frame = _find_frame(self._processor, rows[0], dict(self._reference([rows[0]])))
        self._is_checked = True
        if self._frame is not None:
            found = self._collate(self._frame, rows)
            if found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found):
                return found
        logger.info("batches are made by TRL's collator: the prompt of this model depends on more than its pictures")
        self._frame = None
        return expected

    def _collate(self, frame: "_Frame", rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        answers = [frame.lead + _answer(row) + frame.tail for row in rows]
        tokens = self._processor.tokenizer(answers, add_special_tokens=False)["input_ids"]
        length = max(map(len, tokens))
        ids = torch.full((len(rows), length), self._processor.tokenizer.pad_token_id)
        supervised = torch.zeros(len(rows), length, dtype=torch.bool)
        attended = torch.zeros(len(rows), length, dtype=torch.long)
        for i, row in enumerate(tokens):
            ids[i, : len(row)] = torch.tensor(row)
            attended[i, : len(row)] = 1
            supervised[i, frame.skipped : len(row) - frame.unsupervised] = True
        ends = {"input_ids": ids, "attention_mask": attended, "labels": ids.masked_fill(~supervised, -100)}
        images = [row["images"] for row in rows]
        seen = self._processor.image_processor(images=images, return_tensors="pt")
        batch = {}
        for name, value in frame.start.items():
            if name in ends:
                batch[name] = torch.cat([value.expand(len(rows), -1), ends[name].to(value.dtype)], dim=1)
            elif name in seen:
                batch[name] = seen[name]
            elif name in frame.growing:
                last = value[:, -1:].expand(len(rows), length, *value.shape[2:])
                batch[name] = torch.cat([value.expand(len(rows), *value.shape[1:]), last], dim=1)
            else:
                batch[name] = value.expand(len(rows), *value.shape[1:])
        return batch


@dataclass(frozen=True)
class _Frame:
    """What the conversations have in common."""

    start: dict[str, torch.Tensor]
    """Inputs of one event; those of the text end before `lead`."""
    growing: frozenset[str]
    """Inputs that have a row for each token."""
    lead: str
    """Text between the last special token before the answer and the answer, tokenised with it."""
    tail: str
    """Text behind the answer."""
    skipped: int
    """Tokens of `lead`, which are not learnt."""
    unsupervised: int
    """Tokens at the end that are not learnt."""


def _answer(row: Row) -> str:
    text: str = row["messages"][-1]["content"][0]["text"]
    return text


def _find_frame(processor: ProcessorMixin, row: Row, encoded: dict[str, torch.Tensor]) -> _Frame | None:
    """What the conversation of `row` has in common with others; None if its end is not tokenised by itself."""
    tokenizer = processor.tokenizer
    if tokenizer.pad_token_id is None:
        return None
    text = processor.apply_chat_template(row["messages"], tokenize=False)
    head, _, tail = text.rpartition(_answer(row))
    special = (head.rfind(token) + len(token) for token in tokenizer.added_tokens_encoder if token in head)
    lead = head[max(special, default=0) :]
    ids = tokenizer(lead + _answer(row) + tail, add_special_tokens=False)["input_ids"]
    length = encoded["input_ids"].shape[1]
    begin = length - len(ids)
    if begin < 0 or encoded["input_ids"][0, begin:].tolist() != ids:
        return None
    learnt = (encoded["labels"][0] != -100).nonzero().flatten().tolist()
    growing = frozenset(name for name, value in encoded.items() if value.ndim > 1 and value.shape[:2] == (1, length))
    return _Frame(
        start={name: value[:, :begin] if name in growing else value for name, value in encoded.items()},
        growing=growing,
        lead=lead,
        tail=tail,
        skipped=learnt[0] - begin,
        unsupervised=length - 1 - learnt[-1],
    )
