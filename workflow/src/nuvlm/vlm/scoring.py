"""How probable the model finds each answer: by teacher forcing, or by constrained beam search as published.

Both give the same numbers. Teacher forcing reads prompt and images once and then all labels in one short batch;
beam search generates token by token, and is there to be compared with the paper.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from transformers import MllamaProcessor, PreTrainedModel

from nuvlm.vlm.prompts import AnswerTokens, Prompts, conversation

Decision = Literal["joint", "first_token"]


def encode(
    processor: MllamaProcessor, prompts: Prompts, images: Sequence[Sequence[Image.Image]], device: torch.device
) -> dict[str, torch.Tensor]:
    """The conversation about each event up to and with the forced prefix of the answer.

    The text is the same for every event, so rows have one length and nothing is padded.
    """
    opening = processor.apply_chat_template(
        conversation(prompts, len(images[0])), add_generation_prompt=True, tokenize=False
    )
    text = [opening + prompts.prefix] * len(images)
    # The template has written the begin-of-text token: do not add a second one.
    pictures = [list(views) for views in images]
    inputs = processor(images=pictures, text=text, add_special_tokens=False, return_tensors="pt")
    return {name: value.to(device) for name, value in inputs.items()}


@torch.inference_mode()
def score(
    model: PreTrainedModel, inputs: dict[str, torch.Tensor], answers: AnswerTokens
) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities of the answers by teacher forcing.

    Args:
        inputs: what :func:`encode` gives, for n events.

    Returns:
        (n, classes) of each whole answer (label and end token), and (n, classes) of each label's first token.
    """
    n, length = inputs["input_ids"].shape
    classes = len(answers.labels)
    device = inputs["input_ids"].device
    out = model(**inputs, use_cache=True, logits_to_keep=1)
    first = out.logits[:, -1].float().log_softmax(dim=-1)[:, answers.first]  # (n, classes)

    longest = max(map(len, answers.labels))
    padded = [[*label, *[answers.end] * (longest - len(label))] for label in answers.labels]
    tokens = torch.tensor(padded, device=device)  # (classes, longest)
    told = torch.tensor([[i < len(label) for i in range(longest)] for label in answers.labels], device=device)
    cache = out.past_key_values
    cache.batch_repeat_interleave(classes)  # event-major: all labels of the first event come first
    steps = longest - 1
    mask = inputs["cross_attention_mask"][:, -1:].repeat_interleave(classes, dim=0)  # (n * classes, 1, images, tiles)
    out = model(
        input_ids=tokens[:, :-1].repeat(n, 1),  # (n * classes, steps)
        attention_mask=torch.ones(n * classes, length + steps, dtype=torch.long, device=device),
        position_ids=torch.arange(length, length + steps, device=device)[None],
        # Rows for the new tokens only: the model takes a longer mask for that of the whole text.
        cross_attention_mask=mask.expand(-1, steps, -1, -1),
        past_key_values=cache,
        use_cache=True,
    )
    logp = out.logits.float().log_softmax(dim=-1).view(n, classes, steps, -1)
    later = logp.gather(-1, tokens[None, :, 1:, None].expand(n, -1, -1, 1)).squeeze(-1)  # (n, classes, steps)
    joint = first + (later * told[:, 1:]).sum(dim=-1)
    return _numpy(joint), _numpy(first)


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


def probabilities(joint: np.ndarray, first: np.ndarray, *, decision: Decision, temperature: float) -> np.ndarray:
    """(n, classes) softmax(T log p) over the classes, Eq. 1 of arXiv 2509.08461; T above 1 sharpens.

    Args:
        decision: p is that of the whole answer (`joint`), or of the label's first token (`first_token`, published).
    """
    logits = temperature * (joint if decision == "joint" else first)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def _numpy(values: torch.Tensor) -> np.ndarray:
    return values.double().cpu().numpy()
