"""Build and pre-train the tiny Mllama that the demo fine-tunes."""

import json
import logging
import math
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.utils.tensorboard import SummaryWriter
from transformers import (
    GenerationConfig,
    MllamaConfig,
    MllamaForConditionalGeneration,
    MllamaImageProcessorPil,
    MllamaProcessor,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.models.mllama.configuration_mllama import MllamaTextConfig, MllamaVisionConfig
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from nuvlm.base.errors import InputError
from nuvlm.base.files import atomic_path, sha256, write_json
from nuvlm.base.logs import track
from nuvlm.base.manifest import write_manifest
from nuvlm.base.stores import open_store
from nuvlm.models.checkpoints import SigtermFlag
from nuvlm.models.classifier.checkpoint import read_checkpoint, write_checkpoint
from nuvlm.models.vlm.prompts import Prompts, check_views, load_prompts
from nuvlm.models.vlm.rationales import Rationales, load_rationales
from nuvlm.models.vlm.settings import GraftSettings, ScratchSettings
from nuvlm.models.vlm.shapes import SCENES_VERSION, draw_scene
from nuvlm.models.vlm.shapes import vocabulary as scene_words

logger = logging.getLogger(__name__)

END_OF_ANSWER = "<|eot_id|>"
SPECIAL_TOKENS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    END_OF_ANSWER,
    "<|finetune_right_pad_id|>",
    "<|python_tag|>",
)
IMAGE_TOKEN = "<|image|>"
# How Llama 3 splits text before byte-level BPE (its tokenizer.json).
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DESCRIBE = "Describe the scene."
DISPLAY_VIEWS = ("xz", "yz")
IMAGE_STD = 0.25
CONFIDENT_LOGIT = 16.0
"""Logit at initialisation of the word whose embedding the last hidden state equals."""
KIND, SIZE = 0.4, 0.4
"""Shares of what all numbers, and numbers of similar size, have in common in the squared length of an embedding."""
CHECKPOINT_SECONDS = 300.0
"""Age of the last checkpoint at which the next one is written."""


def build_base_model(
    out: Path,
    settings: ScratchSettings,
    *,
    prompts: Path,
    chat_template: Path,
    tensorboard: Path,
    vocabulary: Path,
    pixel_maps: Path | None = None,
    checkpoint: Path | None = None,
) -> None:
    """Make a tiny Mllama with random weights and pre-train it to describe geometric scenes (`shapes`).

    The folder `out` has the files of a published model (save_pretrained), pretraining.json with the loss, and a
    manifest. The same settings give a bit-identical model on the same machine and number of threads.

    Args:
        prompts, vocabulary: text files. The tokenizer is trained on them, the model is not.
        chat_template: a Jinja file with ``{% generation %}`` markers, saved with the processor.
        tensorboard: folder for the loss curve.
        pixel_maps: a pixel-map store that gives the number of views; without it, the two views of event displays.
        checkpoint: file from which an interrupted pre-training goes on, with the same model as without interruption.

    Raises:
        InputError: a damaged store, prompts for other views, a loss that is not finite, or the checkpoint of other
            settings.
        SystemExit: on SIGTERM, after the checkpoint was written.
    """
    texts = load_prompts(prompts)
    _views(prompts, pixel_maps)
    torch.manual_seed(settings.seed)
    tokenizer = _train_tokenizer(settings.vocabulary, texts, load_rationales(vocabulary))
    processor = make_processor(tokenizer, settings.image_size, chat_template.read_text(encoding="utf-8"))
    model = _make_model(tokenizer, settings)
    finish_base(
        out, model, processor, settings, prompts=prompts, tensorboard=tensorboard, pixel_maps=pixel_maps,
        checkpoint=checkpoint, texts=(prompts, vocabulary, chat_template),
    )  # fmt: skip


def finish_base(
    out: Path,
    model: MllamaForConditionalGeneration,
    processor: MllamaProcessor,
    settings: ScratchSettings | GraftSettings,
    *,
    prompts: Path,
    tensorboard: Path,
    pixel_maps: Path | None,
    checkpoint: Path | None,
    texts: Sequence[Path],
) -> None:
    """Pre-train the parameters of a new model that require gradients, and write it as published ones are written.

    Args:
        texts: files on which the model depends; a checkpoint of others is refused.

    Raises:
        InputError, SystemExit: see :func:`build_base_model`.
    """
    names = _views(prompts, pixel_maps)
    size = sum(p.numel() for p in model.parameters()) / 1e6
    logger.info("made a Mllama with %.3g M parameters for %d views", size, len(names))
    fingerprint = (
        settings.model_dump(mode="json")
        | {"views": len(names), "scenes": SCENES_VERSION}
        | {path.name: sha256(path) for path in texts}
    )
    summary = _pretrain(model, processor, settings, len(names), tensorboard, checkpoint, fingerprint)
    with atomic_path(out) as partial:
        model.save_pretrained(partial)
        processor.save_pretrained(partial)
        write_json(partial / "pretraining.json", summary)
        write_manifest(partial)
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)


def _views(prompts: Path, pixel_maps: Path | None) -> Sequence[str]:
    """Names of the views: those of the pixel maps, or those of event displays."""
    names: Sequence[str] = (
        DISPLAY_VIEWS if pixel_maps is None else open_store(pixel_maps, "nuvlm-pixelmaps").attrs["views"]
    )
    check_views(prompts, load_prompts(prompts), names)
    return names


def train_bpe(size: int, prompts: Prompts, rationales: Rationales) -> Tokenizer:
    """Byte-level BPE with Llama 3's split, of at most `size` tokens: a short corpus gives fewer."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    texts = [prompts.system, *prompts.centre.values(), *prompts.background.values(), prompts.user]
    texts += [*map(prompts.answer, prompts.labels), DESCRIBE]
    texts += [" " + word for word in scene_words()] + rationales.texts()
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _train_tokenizer(size: int, prompts: Prompts, rationales: Rationales) -> PreTrainedTokenizerFast:
    """A tokenizer of `size` tokens with Llama 3's split and special tokens; the image token gets id `size`."""
    tokenizer = train_bpe(size - len(SPECIAL_TOKENS), prompts, rationales)
    # A short corpus gives fewer merges than asked for: reserved tokens, as in Llama 3, fill the vocabulary.
    reserved = size - len(SPECIAL_TOKENS) - tokenizer.get_vocab_size()
    special = [*SPECIAL_TOKENS, *(f"<|reserved_special_token_{i}|>" for i in range(reserved)), IMAGE_TOKEN]
    tokenizer.add_special_tokens(special)
    assert tokenizer.token_to_id(IMAGE_TOKEN) == size
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|begin_of_text|>",
        eos_token=END_OF_ANSWER,
        pad_token="<|finetune_right_pad_id|>",
        clean_up_tokenization_spaces=False,
    )


def make_processor(tokenizer: PreTrainedTokenizerBase, side: int, chat_template: str) -> MllamaProcessor:
    """A processor with one tile of `side` pixels."""
    images = MllamaImageProcessorPil(
        size={"height": side, "width": side},
        max_image_tiles=1,
        # Black must be zero: with ImageNet's mean, empty pixels would be as large in magnitude as white ones.
        image_mean=[0.0] * 3,
        image_std=[IMAGE_STD] * 3,
    )
    return MllamaProcessor(image_processor=images, tokenizer=tokenizer, chat_template=chat_template)


def _make_model(tokenizer: PreTrainedTokenizerFast, settings: ScratchSettings) -> MllamaForConditionalGeneration:
    hidden = settings.hidden
    tokens: dict[str, Any] = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    text = MllamaTextConfig(
        vocab_size=settings.vocabulary,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=settings.text_layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        # Every other layer but not layer 0, where the cache takes its length: it would be that of the images.
        cross_attention_layers=list(range(1, settings.text_layers, 2)),
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        initializer_range=hidden**-0.5,
        **tokens,
    )
    config = MllamaConfig(
        vision_config=vision_config(settings), text_config=text, image_token_index=settings.vocabulary
    )
    model = MllamaForConditionalGeneration(config)
    model.generation_config = GenerationConfig(**tokens)
    open_eyes(model, settings)
    with torch.no_grad():
        # Norm and output layer are frozen during fine-tuning, so the logits must be large enough to select any word,
        # including words that pre-training does not use.
        model.model.language_model.norm.weight.fill_(CONFIDENT_LOGIT / hidden**0.5)
        _relate_numbers(model.get_input_embeddings().weight, tokenizer)
        model.lm_head.weight.copy_(model.get_input_embeddings().weight[: settings.vocabulary])
    return model


def _relate_numbers(embeddings: torch.Tensor, tokenizer: PreTrainedTokenizerFast) -> None:
    """Let the embeddings of numbers have a part in common, and a part that is alike for numbers of similar size.

    Language models that have read text have such embeddings. If all are random, a state between those of several
    numbers is equally close to hundreds of other words. A model that is unsure of a number then gives most of the
    probability to these words.

    Args:
        embeddings: (tokens, hidden), of unit length on average; changed in place.
    """
    numbers = {token: int(text) for text, token in tokenizer.get_vocab().items() if text.isascii() and text.isdigit()}
    place = torch.tensor([math.log10(1 + value) for value in numbers.values()]) / 3  # 0 to 1, as a token has 3 digits
    angle = math.pi * place[:, None] * torch.arange(1, 5)
    size = torch.cat([angle.sin(), angle.cos()], dim=1) / 2  # (numbers, 8), of unit length
    basis = torch.linalg.qr(torch.randn(embeddings.shape[1], 9)).Q.T  # orthonormal
    rows = list(numbers)
    own = (1 - KIND - SIZE) ** 0.5 * embeddings[rows]
    embeddings[rows] = KIND**0.5 * basis[0] + SIZE**0.5 * size @ basis[1:] + own


def vision_config(settings: ScratchSettings | GraftSettings) -> MllamaVisionConfig:
    """The vision tower of a model from scratch: one tile."""
    hidden, layers = settings.hidden, settings.vision_layers
    return MllamaVisionConfig(
        hidden_size=hidden,
        attention_heads=settings.heads,
        num_hidden_layers=layers,
        num_global_layers=1,
        intermediate_size=4 * hidden,
        intermediate_layers_indices=list(range(layers)),
        vision_output_dim=(1 + layers) * hidden,
        image_size=settings.image_size,
        patch_size=settings.patch_size,
        max_num_tiles=1,
        supported_aspect_ratios=[[1, 1]],
        initializer_range=hidden**-0.5,
    )


def open_eyes(model: MllamaForConditionalGeneration, settings: ScratchSettings | GraftSettings) -> None:
    """Open all gates, which are closed by default and would hide the images from the text, and mark the patches."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if re.search(r"cross_attn_(attn|mlp)_gate$|gate_(attn|ffn)$", name):
                parameter.fill_(1.0)
        positions = model.model.vision_model.gated_positional_embedding.embedding
        positions[1:] = _sine_positions(settings.image_size // settings.patch_size, settings.hidden)


def _sine_positions(side: int, width: int) -> torch.Tensor:
    """(side * side, width) sines and cosines of row and column, arXiv 1706.03762 in two dimensions."""
    frequency = 100.0 ** (-torch.arange(width // 4) / (width // 4))
    angle = torch.arange(side)[:, None] * frequency  # (side, width / 4)
    wave = torch.cat([angle.sin(), angle.cos()], dim=1)  # (side, width / 2)
    grid = torch.cat([wave[:, None].expand(side, side, -1), wave[None].expand(side, side, -1)], dim=2)
    return 0.3 * grid.reshape(side * side, width)


def _pretrain(
    model: MllamaForConditionalGeneration,
    processor: MllamaProcessor,
    settings: ScratchSettings | GraftSettings,
    views: int,
    tensorboard: Path,
    checkpoint: Path | None,
    fingerprint: dict[str, Any],
) -> dict[str, float]:
    """Train the weights on fresh random scenes; return the final loss and the token accuracy."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    collate = DataCollatorForVisionLanguageModeling(processor, assistant_only_loss=True)
    optimizer = torch.optim.AdamW(trained.values(), lr=settings.learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
    warmup = max(settings.steps // 20, 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * step / settings.steps)) + 1e-3),
    )
    rng = np.random.default_rng(settings.seed)
    examples = _examples(rng, settings, views)
    losses: list[float] = []
    output = model.get_output_embeddings().weight
    said = torch.zeros(len(output), dtype=torch.bool)  # words of the descriptions so far
    if checkpoint is not None and checkpoint.exists():
        state = read_checkpoint(checkpoint, fingerprint, torch.device("cpu"))
        model.load_state_dict(state["weights"], strict=False)
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        rng.bit_generator.state = json.loads(state["rng"])
        losses, said = list(state["losses"]), state["said"]
        logger.info("resumed after step %d of %s", len(losses), checkpoint)

    def save() -> None:
        assert checkpoint is not None
        state = {
            "weights": {name: parameter.detach() for name, parameter in trained.items()},
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "rng": json.dumps(rng.bit_generator.state),
            "losses": losses,
            "said": said,
        }
        write_checkpoint(checkpoint, fingerprint, state)

    model.train()
    saved = time.monotonic()
    left = range(len(losses), settings.steps)
    with SummaryWriter(str(tensorboard), purge_step=len(losses)) as writer, SigtermFlag() as stop:
        for step in track(left, "pre-training steps"):
            batch = collate([next(examples) for _ in range(settings.batch_size)])
            loss = model(**batch, use_cache=False).loss
            loss.backward()
            if output.grad is not None:
                said[batch["labels"][batch["labels"] != -100]] = True
                # Words that no description uses would all be pushed the same way, and fine-tuning, which trains no
                # word, could then not tell one from another: labels and rationales are made of such words.
                output.grad[~said] = 0
            torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise InputError(
                    f"the base model's loss is not a number at step {step + 1} ({losses[-1]}): lower "
                    f"vlm.{settings.section}.learning_rate"
                )
            writer.add_scalar("pretraining/loss", losses[-1], step)
            if (step + 1) % 50 == 0:
                logger.info("step %d: loss %.3f", step + 1, np.mean(losses[-50:]))
            if checkpoint is not None and (stop.received or time.monotonic() - saved > CHECKPOINT_SECONDS):
                save()
                saved = time.monotonic()
            if stop.received:
                logger.warning("stopped by SIGTERM after step %d of %d; rerun to resume", step + 1, settings.steps)
                raise SystemExit(143)
    model.eval()
    batch = collate([next(examples) for _ in range(4 * settings.batch_size)])
    with torch.inference_mode():
        guesses = model(**batch, use_cache=False).logits[:, :-1].argmax(dim=-1)
    targets = batch["labels"][:, 1:]
    supervised = targets != -100
    accuracy = float((guesses == targets)[supervised].float().mean())
    summary = {
        "views": views,
        "steps": settings.steps,
        "loss": float(np.mean(losses[-50:])),
        "token_accuracy": accuracy,
    }
    logger.info("loss %.3f, token accuracy on fresh scenes %.3f", summary["loss"], accuracy)
    return summary


def _examples(
    rng: np.random.Generator, settings: ScratchSettings | GraftSettings, count: int
) -> Iterator[dict[str, Any]]:
    """An endless series of scenes and descriptions in TRL's format."""
    while True:
        views, description = draw_scene(rng, settings.image_size, count)
        question = [{"type": "image"}] * count + [{"type": "text", "text": DESCRIBE}]
        yield {
            "images": [Image.fromarray(view) for view in views],
            "messages": [
                {"role": "user", "content": question},
                {"role": "assistant", "content": [{"type": "text", "text": description}]},
            ],
        }
