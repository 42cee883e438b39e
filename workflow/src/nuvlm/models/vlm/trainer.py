"""TRL's trainer, for answers that go on with a rationale behind their label."""

from typing import Any

import torch
from trl import SFTTrainer


def loss_weights(labels: torch.Tensor, *, separator: int, rationale: float) -> torch.Tensor:
    """How much each token of an answer counts in the loss, so that a long rationale does not drown the label.

    TRL takes the mean over all tokens, of which the label has a few of some forty. Here what stands behind the
    separator, the rationale, has the share `rationale` of its event's loss, and all up to it the rest.

    Args:
        labels: (n, length) token ids of the answers, -100 elsewhere.
        separator: token that ends the label.
        rationale: share, above 0 and below 1. An answer without a rationale has nothing but its own end behind the
            separator, which then does not count: the truth of the event is not known, not that there is none to tell.

    Returns:
        (n, length), 0 where labels are -100; the sum is the number of the other tokens, which TRL divides by.
    """
    told = labels != -100
    ends = (labels == separator).long()
    later = told & (ends.cumsum(dim=1) - ends > 0)
    n_told, n_later = told.sum(dim=1, keepdim=True), later.sum(dim=1, keepdim=True)
    share = torch.where(n_later > 1, rationale, 0.0)
    each = torch.where(later, share / n_later.clamp(min=1), (1 - share) / (n_told - n_later).clamp(min=1))
    return each * n_told * told


class RationaleTrainer(SFTTrainer):  # type: ignore[misc]
    """An SFTTrainer that weighs label and rationale against each other, once it is told how."""

    _weights: dict[str, Any] | None = None

    def weigh_rationales(self, separator: int, rationale: float) -> None:
        """Weigh tokens with :func:`loss_weights` from now on."""
        self._weights = {"separator": separator, "rationale": rationale}

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        weights = self._weights
        if weights is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

        def weighted(**told: Any) -> Any:
            outputs = model(**told)
            each = loss_weights(told["labels"], **weights)[:, 1:]  # nothing predicts the first token
            outputs.log_probs = outputs.log_probs * each.to(outputs.log_probs.device)
            return outputs

        return super().compute_loss(weighted, inputs, return_outputs, num_items_in_batch)
