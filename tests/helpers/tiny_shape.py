"""The shape of a published model, made tiny: the same configuration files with smaller numbers."""

import json
import shutil
from pathlib import Path

from paths import REPOSITORY

PUBLISHED = "meta-llama/Llama-3.2-11B-Vision-Instruct"
SHAPES = REPOSITORY / "resources" / "shapes"
TEXT = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "cross_attention_layers": [1, 3],
}  # fmt: skip
VISION = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_global_layers": 1, "intermediate_size": 128, "attention_heads": 4,
    "image_size": 56, "vision_output_dim": 128, "intermediate_layers_indices": [1],
}  # fmt: skip
SMALLER = 127000
"""Taken off the size of the vocabulary and the ids of the special tokens."""


def make_tiny_shape(shapes: Path, text: dict[str, object] = TEXT, vision: dict[str, object] = VISION) -> str:
    """Write the configuration files to `shapes`, and return the model's name."""
    folder = shapes / "tiny--mllama"
    shutil.copytree(SHAPES / PUBLISHED.replace("/", "--"), folder)

    def edit(name: str) -> dict:
        return json.loads((folder / name).read_text())

    def smaller(value: object) -> object:
        if isinstance(value, dict):
            return {str(smaller(int(k))) if k.isdigit() else k: smaller(v) for k, v in value.items()}
        if isinstance(value, list):
            return [smaller(item) for item in value]
        return value - SMALLER if isinstance(value, int) and 128000 <= value <= 128256 else value

    for path in folder.glob("*.json"):
        path.write_text(json.dumps(smaller(edit(path.name))))
    config = edit("config.json")
    config["text_config"] |= text
    config["vision_config"] |= vision
    (folder / "config.json").write_text(json.dumps(config))
    images = edit("preprocessor_config.json")
    side = config["vision_config"]["image_size"]
    (folder / "preprocessor_config.json").write_text(json.dumps(images | {"size": {"height": side, "width": side}}))
    return "tiny/mllama"
