"""Log-probabilities of the answers, by teacher forcing or by constrained beam search as published.

Both give the same numbers. Teacher forcing scores the images, the prompt and all labels in one pass; beam search
generates token by token and is kept for comparison with the paper.
"""

import inspect
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from transformers import MllamaForConditionalGeneration, PreTrainedModel, ProcessorMixin

from nuvlm.base.errors import InputError
from nuvlm.models.vlm.batches import out_of_memory, take
from nuvlm.models.vlm.families import whole_model
from nuvlm.models.vlm.mllama import MllamaReader
from nuvlm.models.vlm.prompts import AnswerTokens, Prompts, conversation

logger = logging.getLogger(__name__)

Inputs = Mapping[str, torch.Tensor]
Scores = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Log-probabilities of whole answers, of first tokens and of the first two, see :class:`LabelScores`."""
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.03, torch.float16: 0.005}
"""Difference of two computations of a log-probability that rounding explains, relative to its size (at least 1)."""


class LabelScores(NamedTuple):
    """Log-probabilities (events, classes) after the forced prefix."""

    joint: np.ndarray
    """Of each whole answer, label and end token."""
    first: np.ndarray
    """Of each label's first token."""
    two: np.ndarray
    """Of each label's first two tokens; the end token counts."""


class Encoder:
    """Encodes events as model inputs: the conversation up to and including the forced prefix of the answer.

    The text is the same for every event: it is rendered and tokenised once, and needs no padding.

    Args:
        processor, prompts: processor of the model and texts of the conversation.
        dtype: type of the pixels, that of the model, so that they are cast before they are copied to the device.
        batch_key: of the setting that says how many events are encoded at a time, for messages.
    """

    def __init__(
        self,
        processor: ProcessorMixin,
        prompts: Prompts,
        dtype: torch.dtype = torch.float32,
        *,
        batch_key: str = "vlm.classify.batch_size",
    ) -> None:
        self._batch_key = batch_key
        self._processor = processor
        self._prompts = prompts
        self._dtype = dtype
        self._first: dict[tuple[tuple[int, int], ...], tuple[dict[str, torch.Tensor], bool]] = {}

    def __call__(self, images: Sequence[Sequence[Image.Image]]) -> dict[str, torch.Tensor]:
        """Inputs for n events, on the CPU.

        Raises:
            ValueError: the sizes of the views differ between events.
            InputError: the lengths of their texts differ.
        """
        pictures = [list(views) for views in images]
        sizes = tuple(picture.size for picture in pictures[0])
        if any(tuple(picture.size for picture in views) != sizes for views in pictures):
            raise ValueError(f"pictures of different sizes in one batch; those of the first event are {sizes}")
        if sizes not in self._first:
            first = self._encode(pictures[:1])
            self._first[sizes] = first, self._is_separable(first, pictures[0])
        first, separable = self._first[sizes]
        if not separable:
            return self._cast(self._encode(pictures))
        seen = self._processor.image_processor(pictures, return_tensors="pt")
        # The image processor also returns values that the model does not take, such as the number of tiles.
        return self._cast(
            {
                name: seen[name] if name in seen else value.expand(len(pictures), *value.shape[1:])
                for name, value in first.items()
            }
        )

    def _cast(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: value.to(self._dtype) if value.is_floating_point() else value for name, value in inputs.items()}

    def _is_separable(self, inputs: Inputs, picture: list[Image.Image]) -> bool:
        """Whether the image processor gives what the whole processor gives for images, and the rest is text."""
        seen = self._processor.image_processor([picture], return_tensors="pt")
        return all(
            torch.equal(torch.as_tensor(seen[name]), value) if name in seen else len(value) == 1
            for name, value in inputs.items()
        )

    def _encode(self, pictures: list[list[Image.Image]]) -> dict[str, torch.Tensor]:
        """Text and images, encoded by the processor."""
        text = [prompt_text(self._processor, self._prompts, len(pictures[0]))] * len(pictures)
        try:
            # The template writes the begin-of-text token: do not add a second one.
            return dict(self._processor(images=pictures, text=text, add_special_tokens=False, return_tensors="pt"))
        except ValueError as error:
            if len(pictures) == 1:
                raise
            # Each by itself is encoded, as the first one was.
            raise InputError(
                f"the base model's processor makes inputs of different lengths of events with pictures of one size "
                f"({str(error).strip().splitlines()[0]}). Set {self._batch_key} to 1, or use another "
                "base model."
            ) from error


def prompt_text(processor: ProcessorMixin, prompts: Prompts, views: int) -> str:
    """The conversation about an event of so many views, up to and including the forced prefix of the answer."""
    messages = conversation(prompts, views)
    opening: str = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return opening + prompts.prefix


def encode(
    processor: ProcessorMixin, prompts: Prompts, images: Sequence[Sequence[Image.Image]], device: torch.device
) -> dict[str, torch.Tensor]:
    """The output of :class:`Encoder` for some events, on the `device`."""
    return {name: value.to(device) for name, value in Encoder(processor, prompts)(images).items()}


class Scorer:
    """Log-probabilities of the answers by teacher forcing, in as few passes as the model allows.

    - Mllama: :class:`nuvlm.models.vlm.mllama.MllamaReader`.
    - One pass: all labels are appended to the prompt. The attention mask lets each label attend only to the prompt and
      itself, and its positions count from the end of the prompt, so the labels are independent (as in the token trees
      of speculative decoding, arXiv 2305.09781).
    - One pass per label, which needs no mask: for models in which images attend to each other within the text, layers
      see a window of the text, or states are passed on from token to token.

    The first event is also scored with the plain pass. Where the faster one differs, the plain one is used.

    Args:
        model: in eval mode; it must not change while the scorer is used.
        answers: token ids of the answers to score.
    """

    def __init__(self, model: PreTrainedModel, answers: AnswerTokens) -> None:
        self._model = model
        self._answers = answers
        self._whole = whole_model(model)
        self._reader = MllamaReader(model) if isinstance(self._whole, MllamaForConditionalGeneration) else None
        self._at_once: bool | None = None
        """Whether all labels are computed in one pass; None until the first event has shown that they can be."""
        # The last token of a label is only predicted, so it is not part of the input.
        self._label, self._depth = torch.tensor(
            [(k, j) for k, tokens in enumerate(answers.labels) for j in range(len(tokens) - 1)], device=model.device
        ).T
        appended = [token for tokens in answers.labels for token in tokens[:-1]]
        following = [token for tokens in answers.labels for token in tokens[1:]]
        self._appended, self._following = torch.tensor([appended, following], device=model.device)
        self._mask = torch.zeros(0)

    @property
    def passes(self) -> int | None:
        """Passes of the model per batch; None before the first."""
        return None if self._at_once is None else 1 if self._at_once else len(self._answers.labels)

    @torch.no_grad()  # not inference mode: a probe before training must leave no tensors that exclude gradients
    def __call__(self, inputs: Inputs) -> LabelScores:
        """Score n events.

        Args:
            inputs: the output of :class:`Encoder`, on the model's device.
        """
        if self._at_once is None:
            self._at_once = self._agree(take(inputs, slice(0, 1), len(inputs["input_ids"])))
        scores = self._together(inputs) if self._at_once else self._one_by_one(inputs)
        return LabelScores(*map(_numpy, scores))

    def _agree(self, inputs: Inputs) -> bool:
        """Whether one pass gives the scores of the plain passes, for the last label: it stands behind all others."""
        last = len(self._answers.labels) - 1
        expected, *_ = plain_scores(self._model, inputs, self._answers.labels[last])
        try:
            found = self._together(inputs)[0][:, last]
        except (ValueError, RuntimeError, TypeError, IndexError) as error:
            if out_of_memory(error):
                raise
            logger.info("one pass for all labels is not possible (%s): one pass for each", error)
            return False
        if close(found, expected, self._whole):
            return True
        logger.info(
            "one pass for all labels gives %.6g instead of %.6g: one pass for each", found.item(), expected.item()
        )
        return False

    def _together(self, inputs: Inputs) -> Scores:
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
        return joint, first, first.index_add(1, self._label, later * (self._depth == 0))

    def _one_by_one(self, inputs: Inputs) -> Scores:
        scores = [plain_scores(self._model, inputs, label) for label in self._answers.labels]
        joint, first, two = (torch.stack(columns, dim=1) for columns in zip(*scores, strict=True))
        return joint, first, two

    def _make_mask(self, rows: int) -> torch.Tensor:
        """Attention mask (1, 1, rows, rows): zero where a token may attend, minus infinity elsewhere."""
        length = rows - len(self._appended)
        visible = torch.ones(rows, rows, dtype=torch.bool, device=self._label.device).tril()
        visible[length:, length:] &= self._label[:, None] == self._label
        mask = torch.zeros(visible.shape, dtype=self._model.dtype, device=visible.device)
        return mask.masked_fill(~visible, -torch.inf)[None, None]

    def _read(self, inputs: Inputs) -> torch.Tensor:
        """Logits (n, 1 + more, vocabulary) from the model's own forward pass."""
        extended = append(inputs, self._appended)
        extended["attention_mask"] = self._mask.expand(len(inputs["input_ids"]), -1, -1, -1)
        extended["position_ids"] = self._positions(inputs)
        return _last_logits(self._model, extended, len(self._appended) + 1)

    def _positions(self, inputs: Inputs) -> torch.Tensor:
        """Position ids of the text and the appended tokens, as the model itself gives them to the text."""
        ids = inputs["input_ids"]
        rotary = getattr(self._whole.base_model, "get_rope_index", None)
        if rotary is None:
            positions = torch.arange(ids.shape[1], device=ids.device)[None]  # (1, length)
        else:
            # Positions of images in three dimensions, (3, n, length).
            known = inspect.signature(rotary).parameters
            positions = rotary(**{name: value for name, value in inputs.items() if name in known})[0]
        following = positions.amax(dim=-1, keepdim=True).amax(dim=0, keepdim=True) + 1
        later = (following + self._depth).expand(*positions.shape[:-1], -1)
        return torch.cat([positions, later], dim=-1)


def append(inputs: Inputs, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """The inputs with `tokens` (more,) appended to each text, which sees what its last token sees.

    Inputs with values for each token, such as Mllama's cross-attention mask or a type of each token, are extended by
    their last row.
    """
    n, length = inputs["input_ids"].shape
    extended = dict(inputs)
    for name, value in inputs.items():
        if not value.is_floating_point() and tuple(value.shape[:2]) == (n, length):
            extended[name] = torch.cat([value, value[:, -1:].expand(-1, len(tokens), *value.shape[2:])], dim=1)
    extended["input_ids"] = torch.cat([inputs["input_ids"], tokens.to(inputs["input_ids"].device).expand(n, -1)], dim=1)
    return extended


def plain_scores(model: PreTrainedModel, inputs: Inputs, label: Sequence[int]) -> Scores:
    """Log-probabilities (n,) of a label behind the text, its first and its first two tokens, by the plain pass."""
    tokens = torch.tensor(label, device=inputs["input_ids"].device)
    logits = _last_logits(model, append(inputs, tokens[:-1]), len(tokens))
    logp = logits.float().log_softmax(dim=-1)  # (n, tokens, vocabulary)
    each = logp.gather(-1, tokens.expand(len(logp), -1)[..., None]).squeeze(-1)  # (n, tokens)
    return each.sum(dim=1), each[:, 0], each[:, :2].sum(dim=1)


def close(found: torch.Tensor, expected: torch.Tensor, model: PreTrainedModel) -> bool:
    """Whether log-probabilities of a model differ by no more than rounding, see :data:`TOLERANCE`."""
    # LLM.int8 rounds what goes into a layer, by scales that depend on the other rows.
    dtype = torch.bfloat16 if getattr(model, "is_loaded_in_8bit", False) else model.dtype
    return bool(((found - expected).abs() <= TOLERANCE[dtype] * expected.abs().clamp(min=1)).all())


def _last_logits(model: PreTrainedModel, inputs: Inputs, count: int) -> torch.Tensor:
    """Logits (n, count, vocabulary) of the last `count` tokens."""
    out: Any = model(**inputs, use_cache=False, logits_to_keep=count)
    logits: torch.Tensor = out.logits
    return logits[:, -count:]


def score(model: PreTrainedModel, inputs: Inputs, answers: AnswerTokens) -> LabelScores:
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
