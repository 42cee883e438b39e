"""Mllama's pass over events with one text, without what is the same for all of them or read by no one.

The numbers are those of the model's own forward pass, which the tests hold against it. Left out are:

- The layers before the first one that looks at the images. They see the text alone, which is the same for every event,
  so they are computed once: three of the 40 layers of Llama 3.2 11B Vision, one of the demo's four.
- Rows that no one reads. Of the last layers' output only those rows count whose next token is asked for; the last
  self-attention needs keys and values of all rows, and everything from there on is computed for those few alone.
- A mask of the images that hides nothing. On GPUs attention without one has faster kernels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel
from transformers.models.mllama.modeling_mllama import _prepare_cross_attention_mask, apply_rotary_pos_emb

Inputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class Text:
    """What follows from the text and what is appended to it, of `rows` tokens in all."""

    ids: Tensor
    """(1, length) of the text alone."""
    images: Tensor
    """(1, length, views, tiles), which of them each token sees."""
    states: Tensor
    """(1, rows, width) behind the layers that come before the first one with images."""
    rotation: tuple[Tensor, Tensor]
    """Cosine and sine of the positions, (1, rows, width of a head) each."""
    unseen: Tensor | None
    """(1, 1, rows, patches), added to the scores of cross-attention; None where it would be zero."""
    sighted: Tensor
    """(1, 1, rows, 1), 0 for tokens that come before any image, 1 for others."""

    def fits(self, inputs: Inputs) -> bool:
        """Whether all events have this text."""
        given = (inputs["input_ids"], self.ids), (inputs["cross_attention_mask"], self.images)
        return all(ours.shape[1:] == theirs.shape[1:] and bool((ours == theirs).all()) for ours, theirs in given)


class MllamaReader:
    """Reads events with one text. For a model that does not change: what it makes of the text is kept.

    Args:
        model: a Mllama, with or without an adapter, on one device.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        whole = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._dtype = whole.dtype
        self._head = whole.lm_head
        self._vision = whole.model.vision_model
        self._projector = whole.model.multi_modal_projector
        self._language = whole.model.language_model
        crossing = self._language.cross_attention_layers
        self._first = min(crossing)
        """The first layer that looks at the images."""
        self._last = max(set(range(len(self._language.layers))) - set(crossing))
        """The last one where tokens look at each other."""
        self._text: Text | None = None

    def __call__(self, inputs: Inputs, appended: Tensor, depth: Tensor, unseen: Tensor) -> Tensor:
        """Logits behind the text and behind each token that is appended to it.

        Args:
            inputs: what the processor makes of n events.
            appended: (more,) tokens behind the text.
            depth: (more,) their positions, counted from its end.
            unseen: (1, 1, rows, rows), added to the scores of self-attention.

        Returns:
            (n, 1 + more, vocabulary).

        Raises:
            ValueError: the events differ in their text, or in what it sees of the images.
        """
        if self._text is None or not self._text.fits(inputs):
            self._text = self._read_text(inputs, appended, depth, unseen)
            if not self._text.fits(inputs):
                raise ValueError("the text must be the same for every event")
        text, asked = self._text, len(appended) + 1
        images = self._read_images(inputs)
        hidden, hides, sighted = text.states.expand(len(images), -1, -1), text.unseen, text.sighted
        for index, layer in enumerate(self._language.layers[self._first :], start=self._first):
            if index == self._last:
                hidden = self._look_back(layer, hidden, asked, text.rotation, unseen)
                continue
            if index > self._last:
                # Here rows know of no others, and those that are not asked for are of no more use.
                hidden, sighted = hidden[:, -asked:], sighted[:, :, -asked:]
                hides = None if hides is None else hides[:, :, -asked:]
            hidden = layer(
                hidden,
                cross_attention_states=images,
                cross_attention_mask=hides,
                attention_mask=unseen,
                full_text_row_masked_out_mask=sighted,
                position_embeddings=text.rotation,
                is_causal=False,  # the masks say it all; without one transformers would take it for causal
            )
        return self._head(self._language.norm(hidden[:, -asked:]))

    def _read_text(self, inputs: Inputs, appended: Tensor, depth: Tensor, unseen: Tensor) -> Text:
        """By the first event."""
        ids, images = inputs["input_ids"][:1], inputs["cross_attention_mask"][:1]
        length = ids.shape[1]
        states = self._language.embed_tokens(torch.cat([ids, appended[None]], dim=1))
        positions = torch.cat([torch.arange(length, device=depth.device), length + depth])[None]
        rotation = self._language.rotary_emb(states, position_ids=positions)
        for layer in self._language.layers[: self._first]:
            states = layer(states, attention_mask=unseen, position_embeddings=rotation)
        # What stands behind the text sees the images that its end sees.
        seen = torch.cat([images, images[:, -1:].expand(-1, len(depth), -1, -1)], dim=1)
        hides, sighted = _prepare_cross_attention_mask(seen, self._vision.num_patches, self._dtype)
        return Text(ids, images, states, rotation, hides if hides.any() else None, sighted)

    def _read_images(self, inputs: Inputs) -> Tensor:
        """(n, views * tiles * patches, width) what the text is told of the images."""
        names = ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask")
        seen = self._projector(self._vision(**{name: inputs[name] for name in names}).last_hidden_state)
        return seen.flatten(1, -2)  # (n, views, tiles, patches, width)

    def _look_back(
        self, layer: Any, hidden: Tensor, asked: int, rotation: tuple[Tensor, Tensor], unseen: Tensor
    ) -> Tensor:
        """What a layer of self-attention makes of the last `asked` of the rows `hidden` (n, rows, width) alone."""
        attention = layer.self_attn
        normed, hidden = layer.input_layernorm(hidden), hidden[:, -asked:]
        # (n, rows, heads * width of a head) -> (n, heads, rows, width of a head)
        queries, keys, values = (
            project(rows).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
            for project, rows in (
                (attention.q_proj, normed[:, -asked:]),
                (attention.k_proj, normed),
                (attention.v_proj, normed),
            )
        )
        queries, _ = apply_rotary_pos_emb(queries, queries, *(angles[:, -asked:] for angles in rotation))
        keys, _ = apply_rotary_pos_emb(keys, keys, *rotation)
        seen = scaled_dot_product_attention(
            queries, keys, values, unseen[:, :, -asked:], scale=attention.scaling, enable_gqa=True
        )
        hidden = hidden + attention.o_proj(seen.transpose(1, 2).flatten(2))
        return hidden + layer.mlp(layer.post_attention_layernorm(hidden))
