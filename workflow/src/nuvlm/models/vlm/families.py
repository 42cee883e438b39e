"""Differences between families of vision-language models, by the `model_type` of a model's config.

A new family needs an entry in FAMILIES and a chat template resources/chat_templates/{model_type}.jinja, which must
render system messages, block-style contents and the images in order, and enclose the assistant's text in
``{% generation %}``.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from nuvlm.base.errors import InputError

Tensors = Mapping[str, torch.Tensor]
TILE_EMBEDDINGS = (
    "gated_positional_embedding.tile_embedding.weight",
    "pre_tile_positional_embedding.embedding.weight",
    "post_tile_positional_embedding.embedding.weight",
)
"""Mllama's tensors with a row for each aspect ratio, which concatenates the embeddings of all tiles."""


@dataclass(frozen=True)
class Family:
    """Properties of a family that transformers' Auto classes do not give."""

    models: str
    """Names of example models, for messages."""
    end_of_answer: str
    """The token that ends a turn in the chat template; the tokenizer's own end token may be another."""
    vision_tower: str
    """Regular expression of the names of the vision tower's modules."""
    appended: Callable[[Tensors, torch.Tensor], dict[str, torch.Tensor]]
    """Further model inputs when tokens are appended to the text, see :func:`text_positions`."""
    tiles: Callable[[Mapping[str, Any]], int | None]
    """Config -> tiles per picture; None if that depends on the picture."""
    one_tile: Callable[[Path], None] | None
    """Changes the model in a folder to one tile per picture; None if the family has no tiles."""
    one_tile_settings: Callable[[Path], None] | None
    """The part of it that changes configuration files, for a folder without weights."""


def family(model_type: str, where: Path | str) -> Family:
    """The family of models with this `model_type`.

    Raises:
        InputError: it is not known; the message starts with `where` and lists the known families.
    """
    if model_type not in FAMILIES:
        known = "; ".join(f"{name} ({entry.models})" for name, entry in FAMILIES.items())
        raise InputError(
            f"{where}: models of the family '{model_type}' are not supported. Set vlm.hub.model to a model of the "
            f"families {known}, or add this one to nuvlm/models/vlm/families.py."
        )
    return FAMILIES[model_type]


def family_of(folder: Path) -> Family:
    """The family of the model in `folder`.

    Raises:
        InputError: it is not known, or config.json does not name it.
    """
    return family(model_type(folder / "config.json"), folder)


def model_type(config: Path) -> str:
    """The `model_type` in a model's config.json.

    Raises:
        InputError: it is not a model's config.
    """
    try:
        return str(json.loads(config.read_text(encoding="utf-8"))["model_type"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{config}: not the config of a model in the format of transformers ({error!r}). Check vlm.hub.model."
        ) from error


def text_positions(inputs: Tensors, depth: torch.Tensor) -> dict[str, torch.Tensor]:
    """Position ids (1, length + more) of the text and the appended tokens.

    Args:
        inputs: text of n events, (n, length) tokens without padding, and their images.
        depth: (more,) positions of the appended tokens, counted from the end of the text.
    """
    length = inputs["input_ids"].shape[1]
    return {"position_ids": torch.cat([torch.arange(length, device=depth.device), length + depth])[None]}


def _mllama_appended(inputs: Tensors, depth: torch.Tensor) -> dict[str, torch.Tensor]:
    """Appended tokens inherit the cross-attention mask of the last prompt token."""
    mask = inputs["cross_attention_mask"]  # (n, length, images, tiles)
    mask = torch.cat([mask, mask[:, -1:].expand(-1, len(depth), -1, -1)], dim=1)
    return text_positions(inputs, depth) | {"cross_attention_mask": mask}


def _mllama_one_tile(folder: Path) -> None:
    """Slice the tile embeddings in place.

    A 512 x 512 pixel map fits one tile of 560; the published model pads to four and computes all four. The results
    differ, as the vision tower attends to the padding: use one setting for all stages.
    """
    config = json.loads((folder / "config.json").read_text())
    vision = config["vision_config"]
    hidden = vision["hidden_size"]
    patches = (vision["image_size"] // vision["patch_size"]) ** 2 + 1
    sliced = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            names, metadata = list(file.keys()), file.metadata()
            if not any(name.endswith(TILE_EMBEDDINGS) for name in names):
                continue
            tensors: dict[str, torch.Tensor] = {name: file.get_tensor(name) for name in names}
        for name in names:
            if name.endswith(TILE_EMBEDDINGS):
                width = hidden * (patches if "tile_embedding" in name else 1)
                if tensors[name].shape[-1] % width:
                    raise InputError(
                        f"{path}: {name} of shape {tuple(tensors[name].shape)} is not a whole number of tiles."
                    )
                # Row 0 is for no image, row 1 for one tile; a row starts with the first tile.
                tensors[name] = tensors[name][:2, :width].contiguous()
                sliced += 1
        save_file(tensors, path, metadata)
    if sliced != len(TILE_EMBEDDINGS):
        raise InputError(
            f"{folder}: {sliced} of the {len(TILE_EMBEDDINGS)} tile embeddings of a Mllama found. Set "
            "vlm.hub.max_tiles to null to take the model as it is published."
        )
    _mllama_one_tile_settings(folder)


def _mllama_one_tile_settings(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"] |= {"max_num_tiles": 1, "supported_aspect_ratios": [[1, 1]]}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    _set_image_processor(folder, max_image_tiles=1)


def _idefics3_one_tile(folder: Path) -> None:
    """No splitting: the whole picture, scaled to the side of one tile."""
    config = json.loads((folder / "config.json").read_text())
    _set_image_processor(folder, do_image_splitting=False, size={"longest_edge": config["vision_config"]["image_size"]})


def _set_image_processor(folder: Path, **values: Any) -> None:
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).exists():
            processor = json.loads((folder / name).read_text())
            section = processor.get("image_processor", processor)
            # processor_config.json of older models has no image settings.
            if name == "preprocessor_config.json" or section is not processor:
                section |= values
                (folder / name).write_text(json.dumps(processor, indent=2) + "\n")


FAMILIES: Mapping[str, Family] = {
    "mllama": Family(
        models="Llama 3.2 Vision",
        end_of_answer="<|eot_id|>",
        vision_tower=r".*vision_model.*",
        appended=_mllama_appended,
        tiles=lambda config: int(config["vision_config"]["max_num_tiles"]),
        one_tile=_mllama_one_tile,
        one_tile_settings=_mllama_one_tile_settings,
    ),
    "idefics3": Family(
        models="Idefics3, SmolVLM",
        end_of_answer="<end_of_utterance>",
        vision_tower=r".*vision_model.*",
        appended=text_positions,
        tiles=lambda config: None,
        one_tile=_idefics3_one_tile,
        one_tile_settings=_idefics3_one_tile,
    ),
}
