"""How probable the model finds each answer: by teacher forcing, or by constrained beam search as published.

Both give the same numbers. Teacher forcing reads the images, the prompt and all labels once, together; beam search
generates token by token, and is there to be compared with the paper.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedModel, ProcessorMixin

from nuvlm.vlm.families import family
from nuvlm.vlm.prompts import AnswerTokens, Prompts, conversation


def encode(
    processor: ProcessorMixin, prompts: Prompts, images: Sequence[Sequence[Image.Image]], device: torch.device
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
    """Log-probabilities of the answers by teacher forcing, in one pass.

    The labels stand one after the other behind the prompt. The attention mask lets each see the prompt and itself, and
    its positions count from the end of the prompt, so that none knows of the others (as a token tree is verified in
    speculative decoding, arXiv 2305.09781).

    Args:
        inputs: what :func:`encode` gives, for n events.

    Returns:
        (n, classes) of each whole answer (label and end token), and (n, classes) of each label's first token.
    """
    n, length = inputs["input_ids"].shape
    device = inputs["input_ids"].device
    # What follows a label's last token, the end of the answer, does not matter: that token is never read.
    label, depth = torch.tensor(
        [(k, j) for k, tokens in enumerate(answers.labels) for j in range(len(tokens) - 1)], device=device
    ).T
    told = torch.tensor([token for tokens in answers.labels for token in tokens[:-1]], device=device)
    following = torch.tensor([token for tokens in answers.labels for token in tokens[1:]], device=device)
    more = len(told)
    sees = torch.ones(length + more, length + more, dtype=torch.bool, device=device).tril()
    sees[length:, length:] &= label[:, None] == label
    unseen = torch.zeros(sees.shape, dtype=model.dtype, device=device).masked_fill(~sees, -torch.inf)
    out = model(
        **inputs
        | {
            "input_ids": torch.cat([inputs["input_ids"], told.expand(n, -1)], dim=1),
            "attention_mask": unseen.expand(n, 1, -1, -1),
        }
        | family(model.config.model_type, "model").appended(inputs, depth),
        use_cache=False,
        logits_to_keep=more + 1,
    )
    logp = out.logits.float().log_softmax(dim=-1)  # (n, 1 + more, vocabulary)
    first = logp[:, 0, answers.first]  # (n, classes)
    later = logp[:, 1:].gather(-1, following.expand(n, -1)[..., None]).squeeze(-1)  # (n, more)
    joint = first.index_add(1, label, later)
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


def _numpy(values: torch.Tensor) -> np.ndarray:
    return values.double().cpu().numpy()
