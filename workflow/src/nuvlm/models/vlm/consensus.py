"""Several rationales drawn from a model, and which of them agrees best with the others.

The likeliest words one by one are not the likeliest claims: a length of 25 cm may be the likeliest number, while most
of the probability is on numbers about 50 cm. Taking the draw that the other draws support most is decoding with minimum
Bayes risk (Kumar and Byrne, HLT-NAACL 2004; Eikema and Aziz, arXiv 2108.04718). The utility is the F1 score of claims.
"""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import LogitsProcessor, LogitsProcessorList, MinPLogitsWarper

from nuvlm.models.vlm.agreement import is_right
from nuvlm.models.vlm.rationales import CLAIM_TYPES, Claims

MIN_P = 0.1
"""Words less probable than this share of the likeliest one are not drawn (arXiv 2407.01082)."""


class GumbelNoise(LogitsProcessor):  # type: ignore[misc]
    """Makes greedy decoding draw its words: log-probability plus Gumbel noise is largest at a word as often as its
    probability says (arXiv 1411.0030).

    Each row has its own random number generator, unlike in `torch.multinomial`, so that a text does not depend on the
    batch in which it is drawn.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = [np.random.default_rng(seed) for seed in seeds]

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.Tensor:
        noise = np.stack([generator.gumbel(size=scores.shape[-1]) for generator in self._generators])
        return scores + torch.from_numpy(noise).to(scores)


def drawing(seeds: Sequence[int]) -> LogitsProcessorList:
    """What makes greedy decoding draw a text for each row of a batch, with its seed."""
    return LogitsProcessorList([MinPLogitsWarper(MIN_P), GumbelNoise(seeds)])


def most_supported(drawn: Sequence[Claims]) -> int:
    """Index of the rationale whose claims the drawn ones support best; of equal ones the first.

    If c claims of one rationale and d of another agree in r, the F1 score is 2r / (c + d). Numbers agree within 25 %,
    see :func:`nuvlm.models.vlm.agreement.is_right`.
    """
    values = {
        name: np.array([np.nan if vars(claims)[name] is None else float(vars(claims)[name]) for claims in drawn])
        for name in CLAIM_TYPES
    }
    agreeing = sum(is_right(name, value[:, None], value[None]).astype(int) for name, value in values.items())
    made = sum(np.isfinite(value).astype(int) for value in values.values())
    support = (2 * agreeing / np.maximum(np.add.outer(made, made), 1)).mean(axis=1)
    return int(np.argmax(support))
