"""Rationales that are drawn, and the one that the others support."""

import numpy as np
import pytest
import torch

from nuvlm.models.vlm.consensus import MIN_P, drawing, most_supported
from nuvlm.models.vlm.rationales import Claims


def draw(logits: torch.Tensor, seeds: list[int], steps: int) -> np.ndarray:
    """(steps, rows) words that greedy decoding takes with the noise of `seeds`."""
    process = drawing(seeds)
    rows = logits.expand(len(seeds), -1)
    return np.array([process(torch.zeros(len(seeds), 1, dtype=torch.long), rows).argmax(-1) for _ in range(steps)])


def test_words_are_drawn_with_their_probabilities() -> None:
    probability = torch.tensor([0.5, 0.3, 0.15, 0.049, 0.001])
    words = draw(probability.log(), list(range(20)), 500)
    found = np.bincount(words.ravel(), minlength=5) / words.size
    kept = probability.numpy() * (probability.numpy() >= MIN_P * 0.5)
    kept /= kept.sum()
    assert found[3:].sum() == 0, "improbable words are not drawn: 0.049 is below a tenth of 0.5"
    assert np.abs(found - kept).max() < 4 * (0.25 / words.size) ** 0.5


def test_a_draw_depends_on_its_own_seed_only() -> None:
    logits = torch.zeros(64)
    alone, together = draw(logits, [5], 30)[:, 0], draw(logits, [9, 5, 7], 30)
    assert (together[:, 1] == alone).all()
    assert (together[:, 0] != alone).any()


def test_the_rationale_that_most_others_support_is_taken() -> None:
    lengths = [20.0, 100.0, 110.0, 90.0, 300.0]
    drawn = [Claims(track=True, track_cm=length, leaves=False) for length in lengths]
    assert most_supported(drawn) == 1, "100 cm is within 25 % of 90 and 110, which are not within 25 % of more"
    shower = Claims(track=False, shower=True, shower_mev=200.0, gap=False)
    assert most_supported([shower, *drawn]) == 2


@pytest.mark.parametrize("few", [Claims(), Claims(track=True)])
def test_saying_little_is_not_preferred(few: Claims) -> None:
    """Nor is saying nothing, though nothing that it says is unsupported."""
    drawn = [Claims(track=True, track_cm=100.0, leaves=leaves, shower=False) for leaves in (True, True, False)]
    assert most_supported([few, *drawn]) == 1


def test_texts_without_claims_leave_the_first() -> None:
    assert most_supported([Claims(), Claims()]) == 0
    assert most_supported([Claims(charged=3)]) == 0
