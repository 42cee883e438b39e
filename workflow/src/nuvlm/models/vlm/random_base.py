"""A base model of a published shape with random weights, for rehearsals: no download, no licence.

The configuration files are those of the model on the hub, kept in resources/shapes. The weights are drawn one matrix
at a time, quantised and written, so neither memory nor disk holds the unquantised model. The tokenizer is trained on
the project's texts and filled up with unused tokens; special tokens have their published ids. Speed and memory depend
on none of these values.
"""

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer
from transformers import AutoConfig, BitsAndBytesConfig, PreTrainedModel
from transformers.quantizers import AutoHfQuantizer

from nuvlm.base.errors import InputError
from nuvlm.base.files import atomic_path, write_json
from nuvlm.base.logs import track
from nuvlm.base.manifest import write_manifest
from nuvlm.models.devices import choose_device
from nuvlm.models.vlm.families import family_of
from nuvlm.models.vlm.hub import CONFIG, use_template
from nuvlm.models.vlm.model import meta_model, quantization_config
from nuvlm.models.vlm.pretraining import train_bpe
from nuvlm.models.vlm.prompts import Prompts, load_prompts
from nuvlm.models.vlm.rationales import Rationales, load_rationales
from nuvlm.models.vlm.settings import HubSettings, Quantization
from nuvlm.models.vlm.tiles import check_tiles, set_one_tile

logger = logging.getLogger(__name__)

TOKENIZER_CONFIG = "tokenizer_config.json"
SHARD_BYTES = 10**9
"""Size from which a file of weights is complete."""
WORDS = 535
"""Tokens that are learnt from the texts, at most; the others of the vocabulary are never used. With so many the
published prompts have 258 tokens, as with Llama 3's tokenizer."""


def shape_folder(model: str, shapes: Path) -> Path:
    """The folder of a published model's configuration files.

    Args:
        model: owner/name on the hub.
        shapes: resources/shapes.

    Raises:
        InputError: there is none; the message lists the known models.
    """
    folder = shapes / model.replace("/", "--")
    if not (folder / CONFIG).exists():
        known = ", ".join(sorted(path.parent.name.replace("--", "/") for path in shapes.glob(f"*/{CONFIG}")))
        raise InputError(
            f"vlm.hub.model: no shape of {model} in {shapes}; known: {known or 'none'}. Copy its configuration files "
            f"to {folder} ({shapes}/README.md)."
        )
    return folder


def build_random_base(
    out: Path,
    settings: HubSettings,
    *,
    shapes: Path,
    chat_templates: Path,
    prompts: Path,
    vocabulary: Path,
    quantization: Quantization,
    bf16: bool,
    seed: int = 7,
) -> None:
    """Write a model of the shape of ``settings.model`` with random weights to the folder `out`.

    Gates are open (1), so images have an effect; norms and biases are one and zero, and the scale of all matrices keeps
    values of order one. The weights are drawn on the GPU if there is one, and differ between devices.

    Args:
        settings: model and number of tiles.
        shapes: folder of the configuration files of published models.
        chat_templates: folder of templates of the project, {model_type}.jinja, which replace published ones.
        prompts, vocabulary: texts that the tokenizer is trained on.
        quantization, bf16: as in the fine-tuning: weights are stored as they are used.

    Raises:
        InputError: an unknown shape or family, a number of tiles that the model does not allow, or a full disk.
    """
    dtype = torch.bfloat16 if bf16 else torch.float32
    stored = quantization_config(quantization, dtype)
    with atomic_path(out) as partial:
        kind = write_shape(
            partial, settings, shapes=shapes, chat_templates=chat_templates, prompts=prompts, vocabulary=vocabulary
        )
        parameters = _write_weights(partial, meta_model(AutoConfig.from_pretrained(partial)), stored, dtype, seed)
        if stored is not None:
            values = json.loads((partial / CONFIG).read_text(encoding="utf-8"))
            (partial / CONFIG).write_text(json.dumps(values | {"quantization_config": stored.to_dict()}, indent=2))
        write_json(
            partial / "source.json",
            {**settings.model_dump(), "revision": None, "family": kind, "commit": None, "weights": "random"},
        )
        write_manifest(partial)
    logger.info("made %s: %.4g M random parameters, %s, at %s", settings.model, parameters / 1e6, quantization, out)


def write_shape(
    folder: Path, settings: HubSettings, *, shapes: Path, chat_templates: Path, prompts: Path, vocabulary: Path
) -> str:
    """Write all files of a base model but its weights to the new `folder`, see :func:`build_random_base`.

    Returns:
        the model's `model_type`.
    """
    shape = shape_folder(settings.model, shapes)
    name = f"{settings.model} (shape)"
    kind = family_of(shape, name).model_type
    check_tiles(name, shape, settings.max_tiles)
    folder.mkdir()
    for file in sorted([*shape.glob("*.json"), *shape.glob("*.jinja")]):
        shutil.copyfile(file, folder / file.name)
    use_template(folder, chat_templates / f"{kind}.jinja")
    if settings.max_tiles == 1:
        set_one_tile(folder)
    config = AutoConfig.from_pretrained(folder)
    tokenizer = _make_tokenizer(folder, config, load_prompts(prompts), load_rationales(vocabulary))
    tokenizer.save(str(folder / "tokenizer.json"))
    return kind


def _make_tokenizer(folder: Path, config: Any, prompts: Prompts, rationales: Rationales) -> Tokenizer:
    """A tokenizer of the size of the model's vocabulary, with its special tokens at their ids."""
    values = json.loads((folder / TOKENIZER_CONFIG).read_text(encoding="utf-8"))
    special = {int(number): entry["content"] for number, entry in values["added_tokens_decoder"].items()}
    size = max(config.get_text_config().vocab_size, *(number + 1 for number in special))
    trained = train_bpe(min(WORDS, size - len(special)), prompts, rationales)
    learnt = json.loads(trained.to_str())
    words = sorted(learnt["model"]["vocab"], key=learnt["model"]["vocab"].get)
    free = iter(number for number in range(size) if number not in special)
    ids = dict(zip(words, free, strict=False)) | {text: number for number, text in special.items()}
    ids |= {f"<|unused_{number}|>": number for number in free}
    learnt["model"]["vocab"] = dict(sorted(ids.items(), key=lambda item: item[1]))
    tokenizer: Tokenizer = Tokenizer.from_str(json.dumps(learnt))
    tokenizer.add_special_tokens([AddedToken(text, special=True) for _, text in sorted(special.items())])
    return tokenizer


def _write_weights(
    folder: Path, model: PreTrainedModel, stored: BitsAndBytesConfig | None, dtype: torch.dtype, seed: int
) -> int:
    """Draw, quantise and write the weights of `model`, which is on the meta device; returns their number."""
    count = sum(parameter.numel() for parameter in model.parameters())
    if stored is not None:
        # Replaces the layers that are quantised when the model is loaded.
        AutoHfQuantizer.from_config(stored, pre_quantized=False).preprocess_model(model=model, device_map=None)
    files: dict[str, str] = {}
    shard: dict[str, torch.Tensor] = {}
    size = number = 0

    def flush() -> None:
        nonlocal number, size
        number += 1
        name = f"model-{number:05d}.safetensors"
        save_file(shard, folder / name, {"format": "pt"})
        files.update(dict.fromkeys(shard, name))
        shard.clear()
        size = 0

    for name, tensor in _drawn(model, dtype, seed):
        shard[name] = tensor
        size += tensor.nbytes
        if size >= SHARD_BYTES:
            flush()
    flush()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}, indent=1))
    return count


def _drawn(model: PreTrainedModel, dtype: torch.dtype, seed: int) -> Iterator[tuple[str, torch.Tensor]]:
    """The entries of a checkpoint, on the CPU; one parameter at a time is in memory."""
    import bitsandbytes

    kept = next((name for name, _ in model.named_buffers() if name in model.state_dict()), None)
    if kept is not None:
        raise InputError(f"vlm.base: random cannot fill the buffer {kept} of this model. Use another model.")
    device = choose_device()
    generator = torch.Generator(device).manual_seed(seed)
    for name, parameter in track(list(model.named_parameters()), "random weights"):
        value = _draw(name, parameter.shape, dtype, generator)
        path, _, kind = name.rpartition(".")
        layer = model.get_submodule(path)
        quantised = (bitsandbytes.nn.Linear4bit, bitsandbytes.nn.Linear8bitLt)
        if not (isinstance(layer, quantised) and kind == "weight"):
            yield name, value.cpu()
            continue
        # The layer quantises and names what it stores.
        attributes = dict(parameter.__dict__)
        if isinstance(layer, bitsandbytes.nn.Linear4bit):
            layer.weight = bitsandbytes.nn.Params4bit(value, requires_grad=False, **attributes).to(device)
        else:
            attributes.pop("SCB", None)
            layer.weight = bitsandbytes.nn.Int8Params(value.cpu(), requires_grad=False, **attributes).to(device)
        yield from (
            (f"{path}.{entry}", tensor.cpu().contiguous())
            for entry, tensor in layer.state_dict().items()
            if entry.startswith(("weight", "SCB"))
        )
        layer.weight = torch.nn.Parameter(parameter.data, requires_grad=False)


def _draw(name: str, shape: torch.Size, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    value = torch.empty(shape, dtype=dtype, device=generator.device)
    if value.numel() == 1:
        return value.fill_(1.0)  # a gate: closed ones would hide the images from the text
    if name.endswith("bias"):
        return value.zero_()
    if value.ndim == 1 and name.endswith("weight"):
        return value.fill_(1.0)  # a norm
    # Embeddings and matrices: products keep the size of what they multiply.
    return value.normal_(std=value[0].numel() ** -0.5 if value.ndim > 1 else 1.0, generator=generator)
