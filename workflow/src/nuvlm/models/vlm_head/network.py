"""The language model with a linear head on the last hidden state of its prompt."""

import hashlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import get_peft_model
from torch import Tensor, nn
from transformers import ProcessorMixin

from nuvlm.base.errors import InputError
from nuvlm.models.head.network import HeadClassifier, drop_modules, load_trained
from nuvlm.models.vlm.adapter import lora_config
from nuvlm.models.vlm.families import whole_model
from nuvlm.models.vlm.model import check_pretrained_views, load_processor
from nuvlm.models.vlm.probe import Pictures, check_pictures, drawn_pictures
from nuvlm.models.vlm.prompts import Prompts, prompts_for
from nuvlm.models.vlm.scoring import Encoder, prompt_text
from nuvlm.models.vlm_head.settings import VlmHeadTrainSettings

KEY = "vlm_head.prompts"
"""Of the setting that names the file of texts."""
BATCH_KEY = "vlm_head.recipe.batch_size and vlm_head.classify_batch_size"
"""Of the settings that say how many events are encoded at a time."""


class PromptedClassifier(HeadClassifier[VlmHeadTrainSettings]):
    """The language model with a linear head on its last hidden state at the last token of the prompt.

    That token is the one from which the language model predicts the label, the end of the answer's forced prefix; the
    head replaces its output layer. See :class:`nuvlm.models.head.network.HeadClassifier`.

    Args:
        prompts: file of the conversation's texts.

    Raises:
        InputError: unusable texts; a base model for other views; adapters for layers that it lacks; and, unless
            `unpacked`, pictures that do not change its state.
    """

    def __init__(
        self,
        base: Path,
        images: Mapping[str, Any],
        settings: VlmHeadTrainSettings,
        device: torch.device,
        *,
        prompts: Path,
        unpacked: bool = False,
    ) -> None:
        texts, processor = prompts_for(prompts, images, settings.background, KEY), load_processor(base)
        views = len(images["views"])
        check_pretrained_views(base, views)
        super().__init__(
            base, Encoder(processor, texts, batch_key=BATCH_KEY), images, settings, device, unpacked=unpacked
        )
        self._prompt = digest(processor, texts, views)
        if not unpacked:
            self.eval()
            drawn = drawn_pictures(images["size"] * self._zoom, views)
            check_pictures(str(base), partial(self._state, device), *drawn, what="its states")
            self.train()

    def _adapt(self, model: Any, tower_pattern: str, settings: VlmHeadTrainSettings) -> nn.Module:
        adapters = lora_config(model, settings.lora, tower_pattern, key="vlm_head.lora")
        drop_modules(model, model.get_output_embeddings())
        return get_peft_model(model, adapters)

    def _make_features(self, events: int, inputs: dict[str, Tensor]) -> Tensor:
        states: Tensor = whole_model(self.model).base_model(**inputs, use_cache=False).last_hidden_state
        return states[:, -1]

    @torch.no_grad()
    def _state(self, device: torch.device, shown: Pictures) -> np.ndarray:
        """The state (1, width) that the head sees for the pictures of an event."""
        inputs = {name: value.to(device) for name, value in self._encode([shown]).items()}
        state: np.ndarray = self._features((1, inputs)).cpu().numpy()
        return state

    def card(self) -> dict[str, Any]:
        """The base and the prompt, neither of which is written again."""
        return super().card() | {"prompt_sha256": self._prompt}


def digest(processor: ProcessorMixin, texts: Prompts, views: int) -> str:
    """SHA-256 of the whole prompt, in hexadecimal: what the head's weights are for."""
    return hashlib.sha256(prompt_text(processor, texts, views).encode()).hexdigest()


def load_vlm_head(folder: Path, base: Path, prompts: Path, device: torch.device) -> PromptedClassifier:
    """The trained network in `folder`, ready to classify.

    Args:
        base: folder of the base model that it was trained with.
        prompts: file of the texts that it was trained with.

    Raises:
        InputError: see :func:`nuvlm.models.head.network.load_trained`; or the prompt is another one.
    """

    def make(card: Mapping[str, Any]) -> PromptedClassifier:
        settings, images = VlmHeadTrainSettings.model_validate(card["settings"]), card["images"]
        texts = prompts_for(prompts, images, settings.background, KEY)
        if card.get("prompt_sha256") != digest(load_processor(base), texts, len(images["views"])):
            raise InputError(
                f"{folder}: it was trained with another prompt than that of {prompts}. Set {KEY} to the "
                f"texts of the run that trained it, or remove {folder} and rerun: the workflow trains the model again."
            )
        return PromptedClassifier(base, images, settings, device, prompts=prompts, unpacked=True)

    return load_trained(folder, base, device, make)
