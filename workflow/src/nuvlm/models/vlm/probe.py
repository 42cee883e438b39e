"""Checks, with the loaded weights, that a model can do what is asked of it, before work is wasted on it.

- The text of a whole answer has the tokens of prompt, prefix and label, as scoring assumes.
- Training supervises the answer and its end, and nothing else.
- Each picture changes the answer; that their order does not is a warning.
- The score of an answer is that of a plain forward pass over the text that training reads, and, where it is used, that
  of beam search.

A model that fails is refused with the check and the reason.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedModel, ProcessorMixin

from nuvlm.base.classes import CLASSES
from nuvlm.base.errors import InputError
from nuvlm.models.vlm.batches import out_of_memory
from nuvlm.models.vlm.dataset import to_pictures
from nuvlm.models.vlm.families import whole_model
from nuvlm.models.vlm.processors import refused
from nuvlm.models.vlm.prompts import AnswerTokens, Prompts, answer_tokens, conversation
from nuvlm.models.vlm.scoring import Encoder, Scorer, beam, close
from nuvlm.models.vlm.shapes import draw_scene

logger = logging.getLogger(__name__)

Pictures = Sequence[Image.Image]
SEEN = 1e-6
"""Change of a log-probability from which a picture is seen; equal inputs give equal numbers."""


def probe(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    prompts: Prompts,
    views: int,
    side: int,
    *,
    beams: bool = False,
) -> None:
    """Check the model on drawn scenes, in a few forward passes of one event.

    Args:
        model: with or without an adapter; its mode is kept.
        processor: its processor.
        prompts: texts of the conversation.
        views: pictures per event.
        side: of a picture, pixels.
        beams: whether beam search is used, too.

    Raises:
        InputError: names the model, the check and what to choose instead.
    """
    name = getattr(model.config, "name_or_path", "") or model.config.model_type
    first, second = drawn_pictures(side, views)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():  # not inference mode: what a model keeps for later passes must serve the training
            answers = answer_tokens(processor.tokenizer, prompts)
            with _refusing(name, "text and images"):
                encode = Encoder(processor, prompts, model.dtype)
                whole = _whole_text(processor, prompts, first)
                _check_text(name, whole, encode([first])["input_ids"][0], answers, processor)
            scorer = Scorer(model, answers)
            with _refusing(name, "images"):
                check_pictures(name, lambda shown: scorer(_on(model, encode([shown])))[0], first, second)
            with _refusing(name, "score"):
                found = torch.tensor(scorer(_on(model, encode([first])))[0][:, -1])
                expected = _plain_score(model, whole, answers)
                if not close(found, expected, whole_model(model)):
                    raise refused(
                        name, "score", f"{found.item():.6g} instead of {expected.item():.6g} of a plain forward pass"
                    )
            if beams:
                with _refusing(name, "beam search"):
                    _check_beams(name, model, _on(model, encode([first])), answers, scorer)
    finally:
        model.train(training)
    logger.info("%s: text, images and scores work; %d pass(es) for all answers", name, scorer.passes or 0)


@contextmanager
def _refusing(name: str, check: str) -> Iterator[None]:
    """Turn whatever the model's classes raise, but for lack of memory, into a refusal."""
    try:
        yield
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError, NotImplementedError) as error:
        if isinstance(error, InputError) or out_of_memory(error):
            raise
        raise refused(name, check, f"its classes fail on it ({type(error).__name__}: {error})") from error


def _on(model: PreTrainedModel, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inputs on the model's device, in its type."""
    return {
        name: value.to(model.device, model.dtype if value.is_floating_point() else value.dtype)
        for name, value in inputs.items()
    }


def _whole_text(processor: Any, prompts: Prompts, pictures: Pictures) -> dict[str, torch.Tensor]:
    """Model inputs of the conversation with the last answer, as training reads it, and the mask of the answer."""
    shown = iter(pictures)
    messages = [
        message | {"content": [b | {"image": next(shown)} if b["type"] == "image" else b for b in message["content"]]}
        for message in conversation(prompts, len(pictures), prompts.answer(CLASSES[-1]))
    ]
    return dict(
        processor.apply_chat_template(
            messages, tokenize=True, return_dict=True, return_tensors="pt", return_assistant_tokens_mask=True,
            processor_kwargs={"add_special_tokens": False},
        )
    )  # fmt: skip


def _check_text(
    name: str, whole: dict[str, torch.Tensor], prompt: torch.Tensor, answers: AnswerTokens, processor: Any
) -> None:
    """Refuse a processor whose tokens are not those of prompt and answer, or whose mask covers anything else."""
    ids, answered = whole["input_ids"][0], torch.as_tensor(whole.pop("assistant_masks"))[0].bool()
    label = torch.tensor(answers.labels[-1])
    expected = torch.cat([prompt, label])
    if not torch.equal(ids[: len(expected)], expected):
        raise refused(name, "prefix", "text with and without an answer splits into different tokens")
    if not torch.equal(ids[answered], torch.cat([torch.tensor(answers.prefix), label])):
        learnt = processor.tokenizer.decode(ids[answered])
        raise refused(name, "mask of the answer", f"training would learn {learnt!r} instead of the answer")
    # What follows the answer, such as the end of a line, is no part of it.
    n, length = whole["input_ids"].shape
    for key, value in whole.items():
        if tuple(value.shape[:2]) == (n, length):
            whole[key] = value[:, : len(expected)]


def drawn_pictures(side: int, views: int) -> tuple[Pictures, Pictures]:
    """Two different scenes, in so many views."""
    rng = np.random.default_rng(5)
    first, second = (to_pictures(draw_scene(rng, side, views)[0], "black") for _ in range(2))
    return first, second


def check_pictures(
    name: str,
    score: Callable[[Pictures], np.ndarray],
    first: Pictures,
    second: Pictures,
    what: str = "the log-probabilities of the answers",
) -> None:
    """Refuse a model whose answer does not depend on each picture; warn if their order does not matter.

    Args:
        name: of the model, for messages.
        score: from the pictures of an event to the scores.
        first, second: different pictures.
        what: the scores, for messages.

    Raises:
        InputError: names the picture.
    """
    drawn = score(first)
    if not np.isfinite(drawn).all():
        raise refused(name, "images", f"{what} are not finite")
    shown = {f"view {i + 1} replaced": [*first[:i], second[i], *first[i + 1 :]] for i in range(len(first))}
    for change, pictures in shown.items():
        if np.abs(score(pictures) - drawn).max() <= SEEN:
            raise refused(name, "images", f"its answer is the same with {change}")
    # No reason to refuse: to the cross-attention of Mllama images are a set, whose order only the text tells.
    if len(first) > 1 and np.abs(score(first[::-1]) - drawn).max() <= SEEN:
        logger.warning("%s: its answer is the same with the views exchanged: it does not tell them apart", name)


def _plain_score(model: Any, whole: Mapping[str, torch.Tensor], answers: AnswerTokens) -> torch.Tensor:
    """Log-probability (1,) of the last answer's label and end, from a forward pass over its whole text."""
    logits = model(**_on(model, whole), use_cache=False).logits
    label = torch.tensor(answers.labels[-1], device=logits.device)
    logp = logits[:, -len(label) - 1 : -1].float().log_softmax(dim=-1)
    return logp[0, torch.arange(len(label)), label].sum()[None].double().cpu()


def _check_beams(
    name: str, model: PreTrainedModel, inputs: dict[str, torch.Tensor], answers: AnswerTokens, scorer: Scorer
) -> None:
    """Refuse beam search that gives other scores, as where generation mixes up the views of an event."""
    expected = torch.tensor(scorer(inputs)[0])
    found = torch.tensor(beam(model, inputs, answers)[0])
    if not close(found, expected, whole_model(model)):
        raise InputError(
            f"{name}: beam search gives {found[0].tolist()} for an event whose answers have the log-probabilities "
            f"{expected[0].tolist()}: transformers generates wrongly with several beams for this family. Set "
            "vlm.classify.method to score."
        )
