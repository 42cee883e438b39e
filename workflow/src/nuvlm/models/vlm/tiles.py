"""Tiles that an image processor cuts a picture into, and how to have one.

A 512 x 512 pixel map fits one tile of most models. Which setting cuts is asked of the image processor, not of the
model's name; only Mllama's weights depend on the number of tiles.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import PROCESSOR_MAPPING, AutoConfig, AutoImageProcessor

from nuvlm.base.errors import InputError

SWITCHES = ("do_image_splitting", "crop_to_patches", "do_pan_and_scan")
"""Settings of image processors that cut a picture into tiles."""
GRIDS = "image_grid_pinpoints"
"""Sizes, whole numbers of tiles, of which an image processor chooses one."""
TILE_EMBEDDINGS = (
    "gated_positional_embedding.tile_embedding.weight",
    "pre_tile_positional_embedding.embedding.weight",
    "post_tile_positional_embedding.embedding.weight",
)
"""Mllama's tensors with a row for each aspect ratio, which concatenates the embeddings of all tiles."""


def published_tiles(folder: Path) -> int | None:
    """Tiles per picture of the model in `folder`; None if that depends on the picture."""
    fixed = getattr(AutoConfig.from_pretrained(folder, local_files_only=True).vision_config, "max_num_tiles", None)
    if fixed is not None:
        return int(fixed)
    return None if _switched_on(folder) or len(_grids(folder)) > 1 else 1


def _switched_on(folder: Path) -> list[str]:
    """The settings that cut pictures, as the processor uses them."""
    images = AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
    if getattr(images, "max_patches", None) == 1:
        return []
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    # Some processors override their image processor.
    always = getattr(PROCESSOR_MAPPING[type(config)], "images_kwargs", {})
    return [switch for switch in SWITCHES if always.get(switch, getattr(images, switch, False))]


def _grids(folder: Path) -> list[list[int]]:
    images = AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
    return list(getattr(images, GRIDS, None) or [])


def check_tiles(name: str, folder: Path, tiles: int | None) -> None:
    """Refuse a number of tiles that the model does not allow.

    Args:
        name: of the model, for messages.
        folder: its configuration files.

    Raises:
        InputError: names the numbers that it allows.
    """
    if tiles in (1, None):
        return
    published = published_tiles(folder)
    if tiles != published:
        raise InputError(
            f"{name}: made for {published or 'a varying number of'} tiles, not {tiles}. Set vlm.hub.max_tiles to 1, or "
            "to null to use the published setting."
        )


def set_one_tile(folder: Path) -> None:
    """Change the model in `folder`, which may be without weights, to one tile per picture, in place.

    Raises:
        InputError: the weights are not those of a Mllama although its settings are.
    """
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    if getattr(config.vision_config, "max_num_tiles", None) is not None:
        _slice_tile_embeddings(folder)
        _edit(folder / "config.json", "vision_config", max_num_tiles=1, supported_aspect_ratios=[[1, 1]])
        _set_image_processor(folder, max_image_tiles=1)
        return
    values: dict[str, Any] = dict.fromkeys(_switched_on(folder), False)
    if "crop_to_patches" in values:
        values |= {"min_patches": 1, "max_patches": 1}  # where the processor switches it on again
    if "do_image_splitting" in values:
        # The whole picture, scaled to the side of one tile.
        values["size"] = {"longest_edge": config.vision_config.image_size}
    if len(grids := _grids(folder)) > 1:
        values[GRIDS] = [min(grids)]
        _edit(folder / "config.json", None, **{GRIDS: values[GRIDS]})
    if values:
        _set_image_processor(folder, **values)


def _slice_tile_embeddings(folder: Path) -> None:
    """Keep Mllama's embeddings of the first tile.

    A 512 x 512 pixel map fits one tile of 560; the published model pads to four and computes all four. The results
    differ, as the vision tower attends to the padding: use one setting for all stages.
    """
    vision = json.loads((folder / "config.json").read_text())["vision_config"]
    hidden = vision["hidden_size"]
    patches = (vision["image_size"] // vision["patch_size"]) ** 2 + 1
    files = sorted(folder.glob("*.safetensors"))
    sliced = 0
    for path in files:
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
    if files and sliced != len(TILE_EMBEDDINGS):
        raise InputError(
            f"{folder}: {sliced} of the {len(TILE_EMBEDDINGS)} tile embeddings of a Mllama found. Set "
            "vlm.hub.max_tiles to null to take the model as it is published."
        )


def _set_image_processor(folder: Path, **values: Any) -> None:
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).exists():
            processor = json.loads((folder / name).read_text())
            # processor_config.json of older models has no image settings.
            if "image_processor" in processor:
                _edit(folder / name, "image_processor", **values)
            elif name == "preprocessor_config.json":
                _edit(folder / name, None, **values)


def _edit(path: Path, section: str | None, **values: Any) -> None:
    """Set keys of a JSON file, or of one section of it."""
    whole = json.loads(path.read_text(encoding="utf-8"))
    (whole if section is None else whole[section]).update(values)
    path.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
