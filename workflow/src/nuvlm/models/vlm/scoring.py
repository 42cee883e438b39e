"""How probable the model finds each answer: by teacher forcing, or by constrained beam search as published.

Both give the same numbers. Teacher forcing reads the images, the prompt and all labels once, together, and computes
nothing that is not read; beam search generates token by token, and is there to be compared with the paper.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedModel, ProcessorMixin

from nuvlm.models.vlm.families import family
from nuvlm.models.vlm.mllama import MllamaReader
from nuvlm.models.vlm.prompts import AnswerTokens, Prompts, conversation

READERS = {"mllama": MllamaReader}
"""Faster passes over events with one text, by `model_type`; other families take the model's own. Here and not in
`families`, as no training depends on them."""


class Encoder:
    """Makes events into what the model takes: the conversation up to and with the forced prefix of the answer.

    The text is the same for every event, so it is put into the template and into tokens once, rows have one length, and
    nothing is padded.

    Args:
        processor, prompts: of the model.
        dtype: of the pixels, as the model computes; it would cast them itself, after they have been moved.
    """

    def __init__(self, processor: ProcessorMixin, prompts: Prompts, dtype: torch.dtype = torch.float32) -> None:
        self._processor = processor
        self._prompts = prompts
        self._dtype = dtype
        self._first: dict[tuple[tuple[int, int], ...], dict[str, torch.Tensor]] = {}

    def __call__(self, images: Sequence[Sequence[Image.Image]]) -> dict[str, torch.Tensor]:
        """Inputs for n events on the CPU, of which the views have the same sizes in each."""
        pictures = [list(views) for views in images]
        sizes = tuple(picture.size for picture in pictures[0])
        if sizes not in self._first:
            self._first[sizes] = self._encode(pictures[:1])
        seen = self._processor.image_processor(pictures, return_tensors="pt")
        # The image processor also says what is for the processor alone, as how many tiles there are.
        inputs = {
            name: seen[name] if name in seen else value.expand(len(pictures), *value.shape[1:])
            for name, value in self._first[sizes].items()
        }
        return inputs | {"pixel_values": inputs["pixel_values"].to(self._dtype)}

    def _encode(self, pictures: list[list[Image.Image]]) -> dict[str, torch.Tensor]:
        """All of it by the processor, text and images."""
        opening = self._processor.apply_chat_template(
            conversation(self._prompts, len(pictures[0])), add_generation_prompt=True, tokenize=False
        )
        text = [opening + self._prompts.prefix] * len(pictures)
        # The template has written the begin-of-text token: do not add a second one.
        return dict(self._processor(images=pictures, text=text, add_special_tokens=False, return_tensors="pt"))


def encode(
    processor: ProcessorMixin, prompts: Prompts, images: Sequence[Sequence[Image.Image]], device: torch.device
) -> dict[str, torch.Tensor]:
    """What :class:`Encoder` makes of some events, on the `device`."""
    return {name: value.to(device) for name, value in Encoder(processor, prompts)(images).items()}


class Scorer:
    """Log-probabilities of the answers by teacher forcing, in one pass.

    The labels stand one after the other behind the prompt. The attention mask lets each see the prompt and itself, and
    its positions count from the end of the prompt, so that none knows of the others (as a token tree is verified in
    speculative decoding, arXiv 2305.09781).

    Args:
        model: ready to classify; while it is scored with it may not change.
        answers: what to score.
    """

    def __init__(self, model: PreTrainedModel, answers: AnswerTokens) -> None:
        self._model = model
        self._answers = answers
        self._family = family(model.config.model_type, "model")
        reader = READERS.get(model.config.model_type)
        self._reader = None if reader is None else reader(model)
        # What follows a label's last token, the end of the answer, does not matter: that token is never read.
        self._label, self._depth = torch.tensor(
            [(k, j) for k, tokens in enumerate(answers.labels) for j in range(len(tokens) - 1)], device=model.device
        ).T
        told = [token for tokens in answers.labels for token in tokens[:-1]]
        following = [token for tokens in answers.labels for token in tokens[1:]]
        self._told, self._following = torch.tensor([told, following], device=model.device)
        self._unseen = torch.zeros(0)

    @torch.inference_mode()
    def __call__(self, inputs: Mapping[str, torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
        """Score n events.

        Args:
            inputs: what :class:`Encoder` makes of them, on the model's device.

        Returns:
            (n, classes) of each whole answer (label and end token), and (n, classes) of each label's first token.
        """
        rows = inputs["input_ids"].shape[1] + len(self._told)
        if self._unseen.shape[-1] != rows:
            self._unseen = self._mask(rows)
        if self._reader is None:
            logits = self._read(inputs)
        else:
            logits = self._reader(inputs, self._told, self._depth, self._unseen)
        logp = logits.float().log_softmax(dim=-1)  # (n, 1 + more, vocabulary)
        first = logp[:, 0, self._answers.first]  # (n, classes)
        following = self._following.expand(len(logp), -1)
        later = logp[:, 1:].gather(-1, following[..., None]).squeeze(-1)  # (n, more)
        joint = first.index_add(1, self._label, later)
        return _numpy(joint), _numpy(first)

    def _mask(self, rows: int) -> torch.Tensor:
        """(1, 1, rows, rows), zero where a token may look and minus infinity where not."""
        length = rows - len(self._told)
        sees = torch.ones(rows, rows, dtype=torch.bool, device=self._label.device).tril()
        sees[length:, length:] &= self._label[:, None] == self._label
        unseen = torch.zeros(sees.shape, dtype=self._model.dtype, device=sees.device).masked_fill(~sees, -torch.inf)
        return unseen[None, None]

    def _read(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Logits (n, 1 + more, vocabulary) by the model's own pass."""
        n = len(inputs["input_ids"])
        out: Any = self._model(
            **dict(inputs)
            | {
                "input_ids": torch.cat([inputs["input_ids"], self._told.expand(n, -1)], dim=1),
                "attention_mask": self._unseen.expand(n, -1, -1, -1),
            }
            | self._family.appended(inputs, self._depth),
            use_cache=False,
            logits_to_keep=len(self._told) + 1,
        )
        logits: torch.Tensor = out.logits
        return logits


def score(
    model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], answers: AnswerTokens
) -> tuple[np.ndarray, np.ndarray]:
    """What :class:`Scorer` says of some events."""
    return Scorer(model, answers)(inputs)


@torch.inference_mode()
def beam(
    model: PreTrainedModel, inputs: dict[str, torch.Tensor], answers: AnswerTokens
) -> tuple[np.ndarray, np.ndarray]:
    """The same as :func:`score`, by beam search that may only walk along the answers.

    Core transformers has no lexical constraints for beams any more (`force_words_ids`): a trie of the answers says
    which token may follow. There is a beam for each answer, so that every one of them ends with its score.
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
        length_penalty=0.0,  # the score of a beam is then the sum of its log-probabilities, not their mean
        prefix_allowed_tokens_fn=allowed,
        eos_token_id=answers.end,
        pad_token_id=answers.end,
        return_dict_in_generate=True,
        output_scores=True,
    )
    joint = np.full((n, classes), -np.inf)
    ends = zip(out.sequences[:, length:].tolist(), out.sequences_scores.tolist(), strict=True)
    for i, (ids, value) in enumerate(ends):
        for k, label in enumerate(answers.labels):
            if tuple(ids[: len(label)]) == label:
                joint[i // classes, k] = value
    # Before the first step all beams of an event are alike; the first one's scores are the model's own.
    first = out.scores[0].view(n, classes, -1)[:, 0][:, answers.first]
    return joint, _numpy(first)


def _numpy(values: torch.Tensor) -> np.ndarray:
    return values.double().cpu().numpy()
