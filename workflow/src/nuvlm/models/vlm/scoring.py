"""Log-probabilities of the answers, by teacher forcing or by constrained beam search as published.

Both give the same numbers. Teacher forcing scores the images, the prompt and all labels in one pass; beam search
generates token by token and is kept for comparison with the paper.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedModel, ProcessorMixin

from nuvlm.models.vlm.families import family
from nuvlm.models.vlm.mllama import MllamaReader
from nuvlm.models.vlm.prompts import AnswerTokens, Prompts, conversation


class LabelScores(NamedTuple):
    """Log-probabilities (events, classes) after the forced prefix."""

    joint: np.ndarray
    """Of each whole answer, label and end token."""
    first: np.ndarray
    """Of each label's first token."""
    two: np.ndarray
    """Of each label's first two tokens; the end token counts."""


READERS = {"mllama": MllamaReader}
"""Faster forward passes for events with one text, by `model_type`; other families use the model's own pass."""


class Encoder:
    """Encodes events as model inputs: the conversation up to and including the forced prefix of the answer.

    The text is the same for every event: it is rendered and tokenised once, and needs no padding.

    Args:
        processor, prompts: processor of the model and texts of the conversation.
        dtype: type of the pixels, that of the model, so that they are cast before they are copied to the device.
    """

    def __init__(self, processor: ProcessorMixin, prompts: Prompts, dtype: torch.dtype = torch.float32) -> None:
        self._processor = processor
        self._prompts = prompts
        self._dtype = dtype
        self._first: dict[tuple[tuple[int, int], ...], dict[str, torch.Tensor]] = {}

    def __call__(self, images: Sequence[Sequence[Image.Image]]) -> dict[str, torch.Tensor]:
        """Inputs for n events, on the CPU. The sizes of the views must be the same for all events."""
        pictures = [list(views) for views in images]
        sizes = tuple(picture.size for picture in pictures[0])
        if sizes not in self._first:
            self._first[sizes] = self._encode(pictures[:1])
        seen = self._processor.image_processor(pictures, return_tensors="pt")
        # The image processor also returns values that the model does not take, such as the number of tiles.
        inputs = {
            name: seen[name] if name in seen else value.expand(len(pictures), *value.shape[1:])
            for name, value in self._first[sizes].items()
        }
        return inputs | {"pixel_values": inputs["pixel_values"].to(self._dtype)}

    def _encode(self, pictures: list[list[Image.Image]]) -> dict[str, torch.Tensor]:
        """Text and images, encoded by the processor."""
        opening = self._processor.apply_chat_template(
            conversation(self._prompts, len(pictures[0])), add_generation_prompt=True, tokenize=False
        )
        text = [opening + self._prompts.prefix] * len(pictures)
        # The template writes the begin-of-text token: do not add a second one.
        return dict(self._processor(images=pictures, text=text, add_special_tokens=False, return_tensors="pt"))


def encode(
    processor: ProcessorMixin, prompts: Prompts, images: Sequence[Sequence[Image.Image]], device: torch.device
) -> dict[str, torch.Tensor]:
    """The output of :class:`Encoder` for some events, on the `device`."""
    return {name: value.to(device) for name, value in Encoder(processor, prompts)(images).items()}


class Scorer:
    """Log-probabilities of the answers by teacher forcing, in one pass.

    All labels are appended to the prompt. The attention mask lets each label attend only to the prompt and itself, and
    its positions count from the end of the prompt, so the labels are independent (as in the token trees of speculative
    decoding, arXiv 2305.09781).

    Args:
        model: in eval mode; it must not change while the scorer is used.
        answers: token ids of the answers to score.
    """

    def __init__(self, model: PreTrainedModel, answers: AnswerTokens) -> None:
        self._model = model
        self._answers = answers
        self._family = family(model.config.model_type, "model")
        reader = READERS.get(model.config.model_type)
        self._reader = None if reader is None else reader(model)
        # The last token of a label is only predicted, so it is not part of the input.
        self._label, self._depth = torch.tensor(
            [(k, j) for k, tokens in enumerate(answers.labels) for j in range(len(tokens) - 1)], device=model.device
        ).T
        appended = [token for tokens in answers.labels for token in tokens[:-1]]
        following = [token for tokens in answers.labels for token in tokens[1:]]
        self._appended, self._following = torch.tensor([appended, following], device=model.device)
        self._mask = torch.zeros(0)

    @torch.inference_mode()
    def __call__(self, inputs: Mapping[str, torch.Tensor]) -> LabelScores:
        """Score n events.

        Args:
            inputs: the output of :class:`Encoder`, on the model's device.
        """
        rows = inputs["input_ids"].shape[1] + len(self._appended)
        if self._mask.shape[-1] != rows:
            self._mask = self._make_mask(rows)
        if self._reader is None:
            logits = self._read(inputs)
        else:
            logits = self._reader(inputs, self._appended, self._depth, self._mask)
        logp = logits.float().log_softmax(dim=-1)  # (n, 1 + more, vocabulary)
        first = logp[:, 0, self._answers.first]  # (n, classes)
        following = self._following.expand(len(logp), -1)
        later = logp[:, 1:].gather(-1, following[..., None]).squeeze(-1)  # (n, more)
        joint = first.index_add(1, self._label, later)
        two = first.index_add(1, self._label, later * (self._depth == 0))
        return LabelScores(*map(_numpy, (joint, first, two)))

    def _make_mask(self, rows: int) -> torch.Tensor:
        """Attention mask (1, 1, rows, rows): zero where a token may attend, minus infinity elsewhere."""
        length = rows - len(self._appended)
        visible = torch.ones(rows, rows, dtype=torch.bool, device=self._label.device).tril()
        visible[length:, length:] &= self._label[:, None] == self._label
        mask = torch.zeros(visible.shape, dtype=self._model.dtype, device=visible.device)
        return mask.masked_fill(~visible, -torch.inf)[None, None]

    def _read(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Logits (n, 1 + more, vocabulary) from the model's own forward pass."""
        n = len(inputs["input_ids"])
        out: Any = self._model(
            **dict(inputs)
            | {
                "input_ids": torch.cat([inputs["input_ids"], self._appended.expand(n, -1)], dim=1),
                "attention_mask": self._mask.expand(n, -1, -1, -1),
            }
            | self._family.appended(inputs, self._depth),
            use_cache=False,
            logits_to_keep=len(self._appended) + 1,
        )
        logits: torch.Tensor = out.logits
        return logits


def score(model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], answers: AnswerTokens) -> LabelScores:
    """Score some events with a new :class:`Scorer`."""
    return Scorer(model, answers)(inputs)


@torch.inference_mode()
def beam(model: PreTrainedModel, inputs: dict[str, torch.Tensor], answers: AnswerTokens) -> LabelScores:
    """The same as :func:`score`, by beam search constrained to the answers.

    transformers has removed lexical constraints for beams (`force_words_ids`), so a trie of the answers gives the
    allowed tokens. There are as many beams as answers, so every answer gets its score.
    """
    n, length = inputs["input_ids"].shape
    classes = len(answers.labels)

    def allowed(_: int, ids: torch.Tensor) -> list[int]:
        path = tuple(ids[length:].tolist())
        k = len(path)
        following = {label[k] for label in answers.labels if label[:k] == path and len(label) > k}
        return sorted(following) or [answers.end]

    out: Any = model.generate(
        **inputs,
        num_beams=classes,
        num_return_sequences=classes,
        do_sample=False,
        max_new_tokens=max(map(len, answers.labels)),
        length_penalty=0.0,  # beam scores are sums of log-probabilities, not means
        prefix_allowed_tokens_fn=allowed,
        eos_token_id=answers.end,
        pad_token_id=answers.end,
        return_dict_in_generate=True,
        output_scores=True,
    )
    # (n * classes, tokens): log-probability of each token of a beam.
    each = model.compute_transition_scores(out.sequences, out.scores, out.beam_indices)
    joint, two = np.full((2, n, classes), -np.inf)
    ends = out.sequences[:, length:].tolist(), out.sequences_scores.tolist(), each[:, :2].sum(dim=1).tolist()
    for i, (ids, value, of_two) in enumerate(zip(*ends, strict=True)):
        for k, label in enumerate(answers.labels):
            if tuple(ids[: len(label)]) == label:
                joint[i // classes, k], two[i // classes, k] = value, of_two
    # Before the first step the beams of an event are identical; only the scores of the first are not masked.
    first = out.scores[0].view(n, classes, -1)[:, 0][:, answers.first]
    return LabelScores(joint, _numpy(first), two)


def _numpy(values: torch.Tensor) -> np.ndarray:
    return values.double().cpu().numpy()
