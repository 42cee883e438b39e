"""Tiny models of published families, made from scratch with transformers' classes, saved as the hub keeps them."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoProcessor,
    GenerationConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    MllamaConfig,
    MllamaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from nuvlm.base.manifest import write_manifest
from nuvlm.models.vlm.prompts import load_prompts


def make_tokenizer(prompts: Path, special: list[str], **roles: str) -> PreTrainedTokenizerFast:
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


def make_idefics3(folder: Path, prompts: Path, chat_template: Path) -> None:
    """An Idefics3 (what SmolVLM is) of 28-pixel tiles; a 56-pixel picture is four of them and one of the whole."""
    special = ["<pad>", "<|im_start|>", "<|im_end|>", "<end_of_utterance>", "<fake_token_around_image>", "<image>"]
    special += ["<global-img>", *(f"<row_{i + 1}_col_{j + 1}>" for i in range(6) for j in range(6))]
    # As in Idefics3-8B, the tokenizer's own end token is not the one that ends a turn.
    roles = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<pad>"}
    tokenizer = make_tokenizer(prompts, special, **roles)
    images = Idefics3ImageProcessorPil(
        do_image_splitting=True, size={"longest_edge": 56}, max_image_size={"longest_edge": 28}
    )
    processor = Idefics3Processor(
        images, tokenizer, image_seq_len=4, chat_template=chat_template.read_text(encoding="utf-8")
    )
    tokens = {
        name.replace("token", "token_id"): tokenizer.convert_tokens_to_ids(value) for name, value in roles.items()
    }
    config = Idefics3Config(
        image_token_id=processor.image_token_id,
        scale_factor=2,
        vision_config={
            "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": 28, "patch_size": 7,
        },
        text_config={
            "model_type": "llama", "vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 128,
            "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
            "max_position_embeddings": 4096, **tokens,
        },
        **tokens,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Idefics3ForConditionalGeneration(config)
    model.generation_config = GenerationConfig(**tokens)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    write_manifest(folder)
