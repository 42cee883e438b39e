"""A faster Mllama forward pass for events that share one text.

The logits equal those of the model's forward pass (tested). The pass saves three things:

- Layers before the first cross-attention see only the text, so they are computed once for all events: three of the 40
  layers of Llama 3.2 11B Vision, one of the demo's four.
- Logits are needed at few positions. The last self-attention needs keys and values of all tokens; from there on only
  the positions whose logits are used are computed.
- A cross-attention mask that hides nothing is dropped: attention without a mask has faster GPU kernels.
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
class TextCache:
    """What depends only on the text and the appended tokens, `rows` tokens in all."""

    ids: Tensor
    """(1, length) token ids of the text, without the appended tokens."""
    image_mask: Tensor
    """(1, length, views, tiles), cross-attention mask: which tiles each token attends to."""
    states: Tensor
    """(1, rows, width) hidden states before the first cross-attention layer."""
    rotation: tuple[Tensor, Tensor]
    """Rotary embedding: cosine and sine of the positions, (1, rows, head width) each."""
    cross_mask: Tensor | None
    """(1, 1, rows, patches), added to the cross-attention scores; None if it is zero everywhere."""
    sees_images: Tensor
    """(1, 1, rows, 1), 0 for tokens before any image, 1 for others."""

    def fits(self, inputs: Inputs) -> bool:
        """Whether all events have this text and this cross-attention mask."""
        pairs = (inputs["input_ids"], self.ids), (inputs["cross_attention_mask"], self.image_mask)
        return all(new.shape[1:] == cached.shape[1:] and bool((new == cached).all()) for new, cached in pairs)


class MllamaReader:
    """Computes logits for events that share one text. The text is cached, so the model must not change.

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
        """Index of the first cross-attention layer."""
        self._last = max(set(range(len(self._language.layers))) - set(crossing))
        """Index of the last self-attention layer."""
        self._text: TextCache | None = None

    def __call__(self, inputs: Inputs, appended: Tensor, depth: Tensor, mask: Tensor) -> Tensor:
        """Logits after the text and after each token appended to it.

        Args:
            inputs: the processor's output for n events.
            appended: (more,) token ids appended to the text.
            depth: (more,) positions of the appended tokens, counted from the end of the text.
            mask: (1, 1, rows, rows), added to the self-attention scores.

        Returns:
            (n, 1 + more, vocabulary).

        Raises:
            ValueError: the events differ in their text or cross-attention mask.
        """
        if self._text is None or not self._text.fits(inputs):
            self._text = self._read_text(inputs, appended, depth, mask)
            if not self._text.fits(inputs):
                raise ValueError("the text must be the same for every event")
        text, used = self._text, len(appended) + 1
        images = self._read_images(inputs)
        hidden, cross_mask = text.states.expand(len(images), -1, -1), text.cross_mask
        sees_images = text.sees_images
        for index, layer in enumerate(self._language.layers[self._first :], start=self._first):
            if index == self._last:
                hidden = self._last_self_attention(layer, hidden, used, text.rotation, mask)
                continue
            if index > self._last:
                # Cross-attention and MLP mix no tokens: the other rows are not needed any more.
                hidden, sees_images = hidden[:, -used:], sees_images[:, :, -used:]
                cross_mask = None if cross_mask is None else cross_mask[:, :, -used:]
            hidden = layer(
                hidden,
                cross_attention_states=images,
                cross_attention_mask=cross_mask,
                attention_mask=mask,
                full_text_row_masked_out_mask=sees_images,
                position_embeddings=text.rotation,
                is_causal=False,  # the masks are complete; without one transformers would assume causal attention
            )
        return self._head(self._language.norm(hidden[:, -used:]))

    def _read_text(self, inputs: Inputs, appended: Tensor, depth: Tensor, mask: Tensor) -> TextCache:
        """Compute the cache from the first event."""
        ids, image_mask = inputs["input_ids"][:1], inputs["cross_attention_mask"][:1]
        length = ids.shape[1]
        states = self._language.embed_tokens(torch.cat([ids, appended[None]], dim=1))
        positions = torch.cat([torch.arange(length, device=depth.device), length + depth])[None]
        rotation = self._language.rotary_emb(states, position_ids=positions)
        for layer in self._language.layers[: self._first]:
            states = layer(states, attention_mask=mask, position_embeddings=rotation)
        # Appended tokens inherit the cross-attention mask of the last text token.
        extended = torch.cat([image_mask, image_mask[:, -1:].expand(-1, len(depth), -1, -1)], dim=1)
        cross_mask, sees_images = _prepare_cross_attention_mask(extended, self._vision.num_patches, self._dtype)
        return TextCache(ids, image_mask, states, rotation, cross_mask if cross_mask.any() else None, sees_images)

    def _read_images(self, inputs: Inputs) -> Tensor:
        """(n, views * tiles * patches, width) cross-attention states of the images."""
        names = ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask")
        states = self._projector(self._vision(**{name: inputs[name] for name in names}).last_hidden_state)
        return states.flatten(1, -2)  # (n, views, tiles, patches, width)

    def _last_self_attention(
        self, layer: Any, hidden: Tensor, used: int, rotation: tuple[Tensor, Tensor], mask: Tensor
    ) -> Tensor:
        """Output (n, used, width) of a self-attention layer for the last `used` rows of `hidden` (n, rows, width)."""
        attention = layer.self_attn
        normed, hidden = layer.input_layernorm(hidden), hidden[:, -used:]
        # (n, rows, heads * head width) -> (n, heads, rows, head width)
        queries, keys, values = (
            project(rows).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
            for project, rows in (
                (attention.q_proj, normed[:, -used:]),
                (attention.k_proj, normed),
                (attention.v_proj, normed),
            )
        )
        queries, _ = apply_rotary_pos_emb(queries, queries, *(angles[:, -used:] for angles in rotation))
        keys, _ = apply_rotary_pos_emb(keys, keys, *rotation)
        attended = scaled_dot_product_attention(
            queries, keys, values, mask[:, :, -used:], scale=attention.scaling, enable_gqa=True
        )
        hidden = hidden + attention.o_proj(attended.transpose(1, 2).flatten(2))
        return hidden + layer.mlp(layer.post_attention_layernorm(hidden))
