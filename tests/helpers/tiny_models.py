"""Tiny models of published families, made from scratch with transformers' classes, saved as the hub keeps them."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    GenerationConfig,
    MllamaConfig,
    MllamaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from nuvlm.base.manifest import write_manifest
from nuvlm.models.vlm.prompts import load_prompts
from paths import REPOSITORY

PROMPTS = REPOSITORY / "resources" / "prompts.yaml"
TEXT: dict[str, Any] = {
    "vocab_size": 0, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 4096,
}  # fmt: skip
VISION: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 7,
}  # fmt: skip
# As the published ones, without a head that the text does not use.
SIGLIP = {"model_type": "siglip_vision_model", "vision_use_head": False}
QWEN_VISION = {
    "depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2, "patch_size": 14, "out_hidden_size": 64,
}  # fmt: skip
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6], "mrope_interleaved": True}
GRID = [[28, 28], [28, 56], [56, 28], [56, 56]]

# Chat formats in the manner of the published ones, which mark nothing for training.
BLOCKS = (
    "{%- macro blocks(content) -%}{%- if content is string -%}{{ content }}{%- else -%}{%- for block in content -%}"
    "{%- if block.type == 'image' -%}IMAGE{%- else -%}{{ block.text }}{%- endif -%}{%- endfor -%}{%- endif -%}"
    "{%- endmacro -%}"
)
CHATML = (
    "{%- for message in messages -%}<|im_start|>{{ message.role }}\n{{ blocks(message.content) }}<|im_end|>\n"
    "{% endfor -%}{%- if add_generation_prompt -%}<|im_start|>assistant\n{% endif -%}"
)
SPOKEN = (
    "{{ bos_token }}{% for message in messages %}{{ message.role | capitalize }}: {{ blocks(message.content) }}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
# The system message stands in the user's turn.
TURNS = (
    "{{ bos_token }}{%- set first = namespace(text='') -%}{%- for message in messages -%}"
    "{%- if message.role == 'system' -%}{%- set first.text = blocks(message.content) + '\n\n' -%}{%- else -%}"
    "<start_of_turn>{{ 'model' if message.role == 'assistant' else 'user' }}\n{{ first.text }}"
    "{%- set first.text = '' -%}{{ blocks(message.content) | trim }}<end_of_turn>\n{% endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}<start_of_turn>model\n{% endif -%}"
)
# No system messages at all, and nothing but the end of the text after an answer.
BRACKETS = (
    "{{ bos_token }}{%- for message in messages -%}{%- if message.role == 'system' -%}"
    "{{ raise_exception('no system messages') }}{%- elif message.role == 'user' -%}"
    "[INST]{{ blocks(message.content) }}[/INST]{%- else -%}{{ blocks(message.content) }}{{ eos_token }}{%- endif -%}"
    "{%- endfor -%}"
)


@dataclass(frozen=True)
class Tiny:
    """A family, made tiny. Names of special tokens stand for their ids in `config` and `processor`."""

    config: dict[str, Any]
    images: tuple[str, dict[str, Any]]
    """Class of the image processor, and its settings."""
    processor: tuple[str, dict[str, Any]]
    image: str
    """What the chat template writes for an image."""
    template: str | None = CHATML
    special: tuple[str, ...] = ()
    named: dict[str, str] = field(default_factory=dict)
    """Tokens that the tokenizer knows by name."""
    end: str = "<|im_end|>"
    """Ends an answer."""
    bos: str | None = None


FAMILIES: dict[str, Tiny] = {
    "idefics3": Tiny(
        config={"image_token_id": "<image>", "scale_factor": 2, "vision_config": VISION,
                "text_config": TEXT | {"model_type": "llama"}},
        images=("Idefics3ImageProcessorPil", {
            "do_image_splitting": True, "size": {"longest_edge": 56}, "max_image_size": {"longest_edge": 28}}),
        processor=("Idefics3Processor", {"image_seq_len": 4}),
        image="<image>",
        template=SPOKEN,
        special=("<end_of_utterance>", "<fake_token_around_image>", "<image>", "<global-img>",
                 *(f"<row_{i + 1}_col_{j + 1}>" for i in range(6) for j in range(6))),
        end="<end_of_utterance>",
        bos="<|im_start|>",
    ),
    "smolvlm": Tiny(
        config={"image_token_id": "<image>", "scale_factor": 2, "vision_config": VISION,
                "text_config": TEXT | {"model_type": "llama"}},
        images=("SmolVLMImageProcessorPil", {
            "do_image_splitting": True, "size": {"longest_edge": 56}, "max_image_size": {"longest_edge": 28}}),
        processor=("SmolVLMProcessor", {"image_seq_len": 4}),
        image="<image>",
        template=SPOKEN,
        special=("<end_of_utterance>", "<fake_token_around_image>", "<image>", "<global-img>",
                 *(f"<row_{i + 1}_col_{j + 1}>" for i in range(6) for j in range(6))),
        end="<end_of_utterance>",
        bos="<|im_start|>",
    ),
    "qwen2_vl": Tiny(
        config={"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>",
                "vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>",
                "vision_config": {"depth": 2, "embed_dim": 64, "num_heads": 2, "mlp_ratio": 2, "hidden_size": 64,
                                  "patch_size": 14},
                "text_config": TEXT | {"rope_parameters": MROPE}},
        images=("Qwen2VLImageProcessorPil", {"min_pixels": 784, "max_pixels": 12544}),
        processor=("Qwen2VLProcessor", {}),
        image="<|vision_start|><|image_pad|><|vision_end|>",
        special=("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
    ),
    "qwen2_5_vl": Tiny(
        config={"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>",
                "vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>",
                "vision_config": QWEN_VISION | {"window_size": 56, "fullatt_block_indexes": [1]},
                "text_config": TEXT | {"rope_parameters": MROPE}},
        images=("Qwen2VLImageProcessorPil", {"min_pixels": 784, "max_pixels": 12544}),
        processor=("Qwen2_5_VLProcessor", {}),
        image="<|vision_start|><|image_pad|><|vision_end|>",
        special=("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
    ),
    "qwen3_vl": Tiny(
        config={"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>",
                "vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>",
                "vision_config": QWEN_VISION | {"num_position_embeddings": 16, "deepstack_visual_indexes": [0]},
                "text_config": TEXT | {"rope_parameters": MROPE, "head_dim": 32}},
        images=("Qwen2VLImageProcessorPil", {"min_pixels": 784, "max_pixels": 12544}),
        processor=("Qwen3VLProcessor", {}),
        image="<|vision_start|><|image_pad|><|vision_end|>",
        special=("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
    ),
    "glm4v": Tiny(
        config={"image_token_id": "<|image|>", "video_token_id": "<|video|>",
                "image_start_token_id": "<|begin_of_image|>", "image_end_token_id": "<|end_of_image|>",
                "video_start_token_id": "<|begin_of_video|>", "video_end_token_id": "<|end_of_video|>",
                "vision_config": QWEN_VISION | {"image_size": 56},
                "text_config": TEXT | {"rope_parameters": {
                    "rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]}}},
        images=("Glm4vImageProcessorPil", {"size": {"shortest_edge": 1568, "longest_edge": 12544}}),
        processor=("Glm4vProcessor", {}),
        image="<|begin_of_image|><|image|><|end_of_image|>",
        special=("<|begin_of_image|>", "<|end_of_image|>", "<|image|>", "<|video|>", "<|begin_of_video|>",
                 "<|end_of_video|>"),
    ),
    "gemma3": Tiny(
        config={"boi_token_index": "<start_of_image>", "eoi_token_index": "<end_of_image>",
                "image_token_index": "<image_soft_token>", "mm_tokens_per_image": 4,
                "vision_config": VISION | SIGLIP,
                "text_config": TEXT | {"head_dim": 32, "sliding_window": 1024,
                                       "layer_types": ["sliding_attention", "full_attention"]}},
        images=("Gemma3ImageProcessorPil", {"size": {"height": 28, "width": 28}}),
        processor=("Gemma3Processor", {"image_seq_length": 4}),
        image="<start_of_image>",
        template=TURNS,
        special=("<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>", "<image_soft_token>"),
        named={"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"},
        end="<end_of_turn>",
        bos="<bos>",
    ),
    "internvl": Tiny(
        config={"image_token_id": "<IMG_CONTEXT>", "image_seq_length": 4,
                "vision_config": VISION | {"image_size": [28, 28], "patch_size": [7, 7]},
                "text_config": TEXT | {"model_type": "qwen2"}},
        images=("GotOcr2ImageProcessorPil", {
            "size": {"height": 28, "width": 28}, "crop_to_patches": True, "min_patches": 1, "max_patches": 4}),
        processor=("InternVLProcessor", {"image_seq_length": 4}),
        image="<IMG_CONTEXT>\n",
        special=("<img>", "</img>", "<IMG_CONTEXT>", "<video>"),
        named={"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
               "video_token": "<video>"},
    ),
    "llava": Tiny(
        config={"image_token_index": "<image>", "vision_feature_select_strategy": "full", "vision_feature_layer": -1,
                "vision_config": VISION | SIGLIP,
                "text_config": TEXT | {"model_type": "llama"}},
        images=("LlavaImageProcessorPil", {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}),
        processor=("LlavaProcessor", {
            "patch_size": 7, "vision_feature_select_strategy": "full", "num_additional_image_tokens": 0}),
        image="<image>\n",
        special=("<image>",),
        # As the oldest ones, without a chat template.
        template=None,
        end="<|end|>",
        bos="<s>",
    ),
    "llava_next": Tiny(
        config={"image_token_index": "<image>", "vision_feature_select_strategy": "full", "vision_feature_layer": -1,
                "image_grid_pinpoints": GRID, "vision_config": VISION | SIGLIP,
                "text_config": TEXT | {"model_type": "mistral"}},
        images=("LlavaNextImageProcessorPil", {
            "size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}, "image_grid_pinpoints": GRID}),
        processor=("LlavaNextProcessor", {
            "patch_size": 7, "vision_feature_select_strategy": "full", "num_additional_image_tokens": 0}),
        image="<image>\n",
        special=("<image>",),
        template=BRACKETS,
        end="</s>",
        bos="<s>",
    ),
    "llava_onevision": Tiny(
        config={"image_token_index": "<image>", "video_token_index": "<video>", "image_grid_pinpoints": GRID,
                "vision_config": VISION | SIGLIP,
                "text_config": TEXT | {"model_type": "qwen2"}},
        images=("LlavaOnevisionImageProcessorPil", {
            "size": {"height": 28, "width": 28}, "image_grid_pinpoints": GRID}),
        processor=("LlavaOnevisionProcessor", {"num_image_tokens": 16, "vision_feature_select_strategy": "full"}),
        image="<image>\n",
        special=("<image>", "<video>"),
    ),
    "mistral3": Tiny(
        config={"image_token_index": "[IMG]", "spatial_merge_size": 2,
                "vision_config": VISION | {"model_type": "pixtral", "image_size": 56, "head_dim": 32},
                "text_config": TEXT | {"model_type": "mistral", "head_dim": 32, "sliding_window": None}},
        images=("PixtralImageProcessorPil", {"size": {"longest_edge": 56}, "patch_size": 7}),
        processor=("PixtralProcessor", {"patch_size": 7, "spatial_merge_size": 2}),
        image="[IMG]",
        template=BRACKETS,
        special=("[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]"),
        end="</s>",
        bos="<s>",
    ),
    "aya_vision": Tiny(
        config={"image_token_index": "<|IMG_PATCH|>", "downsample_factor": 2, "vision_feature_layer": -1,
                "vision_config": VISION | SIGLIP,
                "text_config": TEXT | {"model_type": "cohere2", "sliding_window": 4096}},
        images=("GotOcr2ImageProcessorPil", {
            "size": {"height": 28, "width": 28}, "crop_to_patches": True, "min_patches": 1, "max_patches": 4}),
        processor=("AyaVisionProcessor", {"patch_size": 7, "img_size": 28, "downsample_factor": 2}),
        image="<image>",
        special=("<image>", "<|IMG_PATCH|>", "<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_LINE_BREAK|>", "TILE",
                 "TILE_GLOBAL"),
    ),
    "paligemma": Tiny(
        config={"image_token_index": "<image>", "projection_dim": 64,
                "vision_config": VISION | SIGLIP,
                "text_config": TEXT | {"model_type": "gemma", "head_dim": 32}},
        images=("SiglipImageProcessorPil", {"size": {"height": 28, "width": 28}, "image_seq_length": 16}),
        processor=("PaliGemmaProcessor", {}),
        image="<image>",
        special=("<image>",),
        template=None,
        end="<eos>",
        bos="<bos>",
    ),
}  # fmt: skip
"""`model_type` -> how to make it, for all families but Mllama."""


def make_tokenizer(prompts: Path, special: list[str], **roles: Any) -> PreTrainedTokenizerFast:
    """Byte-level BPE of GPT-2's kind, trained on the texts of `prompts`."""
    texts = load_prompts(prompts)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        special_tokens=special,
    )
    tokenizer.train_from_iterator([texts.system, texts.user, *map(texts.answer, texts.labels)], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles)


def make_tiny(kind: str, folder: Path, weights: Callable[[Any], None] | None = None) -> None:
    """Write a random model of the family `kind` to `folder`, with about 200,000 parameters.

    A 56-pixel picture is four tiles of 28, and one of the whole, in the families that have tiles.

    Args:
        weights: changes the model's weights.
    """
    tiny = FAMILIES[kind]
    # As in many published models, the tokenizer's own end token is not the one that ends a turn.
    eos = tiny.end if tiny.template in (None, BRACKETS) else "<|endoftext|>"
    bos = {} if tiny.bos is None else {"bos_token": tiny.bos}
    special = ["<pad>", eos, "<|im_start|>", "<|im_end|>", tiny.end, *bos.values(), *tiny.special]
    tokenizer = make_tokenizer(
        PROMPTS, list(dict.fromkeys(special)), eos_token=eos, pad_token="<pad>", extra_special_tokens=tiny.named, **bos
    )

    def ids(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: ids(item) for name, item in value.items()}
        known = tokenizer.get_added_vocab() if isinstance(value, str) else {}
        return known.get(value, value) if isinstance(value, str) else value

    config = ids(tiny.config)
    tokens = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id,
              "bos_token_id": tokenizer.bos_token_id}  # fmt: skip
    config["text_config"] |= {"vocab_size": len(tokenizer)} | tokens
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(kind, **config))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # The default initialisation is so small that no picture would make a difference.
            if parameter.ndim > 1 and "norm" not in name:
                parameter.normal_(std=0.1)
    if weights is not None:
        weights(model)
    model.generation_config = GenerationConfig(**tokens)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    getattr(transformers, tiny.images[0])(**tiny.images[1]).save_pretrained(folder)
    (folder / "processor_config.json").write_text(
        json.dumps({"processor_class": tiny.processor[0]} | tiny.processor[1])
    )
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    if tiny.template is not None:
        blocks = BLOCKS.replace("IMAGE", tiny.image)
        (folder / "chat_template.jinja").write_text(blocks + tiny.template)
    write_manifest(folder)


def take_four_tiles(config: MllamaConfig) -> None:
    """As the published model does."""
    config.vision_config.max_num_tiles = 4
    config.vision_config.supported_aspect_ratios = [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]]


@torch.no_grad()
def open_gates(model: MllamaForConditionalGeneration) -> None:
    """They start closed: images would not reach the text, nor tile embeddings the images."""
    for name, parameter in model.named_parameters():
        if "gate" in name and parameter.numel() == 1:
            parameter.fill_(1.0)


def make_mllama(folder: Path, base: Path) -> None:
    """The Mllama of the folder `base`, with the published model's four tiles, and random embeddings for them."""
    config = AutoConfig.from_pretrained(base)
    take_four_tiles(config)
    torch.manual_seed(0)
    model = MllamaForConditionalGeneration(config)
    open_gates(model)
    model.save_pretrained(folder)
    processor = AutoProcessor.from_pretrained(base)
    processor.image_processor.max_image_tiles = 4
    processor.save_pretrained(folder)
    write_manifest(folder)
