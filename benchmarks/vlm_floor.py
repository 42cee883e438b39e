"""Operations and memory of fine-tuning and classifying, from the model's shape.

    python benchmarks/vlm_floor.py [--config results/hub/.../config.json] [--tokens 258] [--views 2]

Counts floating-point operations of an event (nuvlm.models.vlm.arithmetic), trainable parameters and bytes of weights,
for one and four tiles and for what the configuration can change: rank, modules, adapters on the vision tower or not,
checkpointing, quantisation. Without --config, the shape of Llama 3.2 11B Vision. Needs neither weights nor a GPU;
prints tables and writes results/vlm_floor.json beside this file. Memory is reckoned for several batches.
"""

import argparse
import copy
import json
from pathlib import Path

import torch
from transformers import AutoConfig, MllamaConfig

from nuvlm.models.vlm.arithmetic import count_arithmetic, weight_bytes
from nuvlm.models.vlm.families import tower_pattern
from nuvlm.models.vlm.footprint import GIB, count_footprint
from nuvlm.models.vlm.model import meta_model
from nuvlm.models.vlm.settings import FinetuneSettings, LoraSettings

RATES = {"H100, 800 TFLOP/s": 800e12, "A6000, 155 TFLOP/s": 155e12}
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
ADAPTERS = {
    "as published (r 8, seven modules)": LoraSettings(),
    "vision tower frozen": LoraSettings(vision=False),
    "r 16": LoraSettings(r=16),
    "r 64": LoraSettings(r=64),
    "attention modules alone": LoraSettings(target_modules=ATTENTION),
    "attention modules alone, vision tower frozen": LoraSettings(target_modules=ATTENTION, vision=False),
}


def eleven_b() -> MllamaConfig:
    """The shape of Llama-3.2-11B-Vision-Instruct."""
    shapes = Path(__file__).parents[1] / "resources" / "shapes"
    return MllamaConfig.from_pretrained(shapes / "meta-llama--Llama-3.2-11B-Vision-Instruct")


def with_tiles(config: MllamaConfig, tiles: int) -> MllamaConfig:
    config = copy.deepcopy(config)
    vision = config.vision_config
    vision.max_num_tiles = tiles
    vision.supported_aspect_ratios = [
        [rows, columns] for rows in range(1, tiles + 1) for columns in range(1, tiles + 1) if rows * columns <= tiles
    ]
    return config


def one_event(config: MllamaConfig, tokens: int, views: int) -> dict[str, torch.Tensor]:
    """Inputs of one event, with the shapes of Mllama's processor."""
    tiles, side = config.vision_config.max_num_tiles, config.vision_config.image_size
    with torch.device("meta"):
        return {
            "input_ids": torch.zeros(1, tokens, dtype=torch.long),
            "attention_mask": torch.ones(1, tokens, dtype=torch.long),
            "pixel_values": torch.zeros(1, views, tiles, 3, side, side),
            "aspect_ratio_ids": torch.ones(1, views, dtype=torch.long),
            "aspect_ratio_mask": torch.ones(1, views, tiles, dtype=torch.long),
            "cross_attention_mask": torch.ones(1, tokens, views, tiles, dtype=torch.long),
        }


def measure(config: MllamaConfig, tokens: int, views: int) -> dict[str, list[dict[str, float | str | bool]]]:
    """Rows of the two tables, `arithmetic` and `weights`."""
    tower = tower_pattern(meta_model(config))
    rows = []
    for tiles in (1, 4):
        shape = with_tiles(config, tiles)
        event = one_event(shape, tokens, views)
        for name, lora in ADAPTERS.items():
            for checkpointing in (False, True):
                cost = count_arithmetic(shape, event, lora, vision_tower=tower, checkpointing=checkpointing)
                rows.append(
                    {
                        "tiles": tiles, "adapter": name, "checkpointing": checkpointing,
                        "forward_tflop": cost.forward / 1e12, "training_tflop": cost.training / 1e12,
                        "trainable": cost.trainable, "parameters": cost.parameters,
                        "adapter_and_optimizer_mb": cost.trainable * 16 / 1e6,
                    }
                )  # fmt: skip
    model = meta_model(with_tiles(config, 4))
    weights = []
    for quantization in ("nf4", "int8", "none"):
        quantised, plain = weight_bytes(model, quantization)
        weights.append({"quantization": quantization, "quantised_gib": quantised / 2**30, "bf16_gib": plain / 2**30})
    return {"arithmetic": rows, "weights": weights}


MEMORY = {
    "as published": {},
    "vision tower frozen": {"lora": LoraSettings(vision=False)},
    "without checkpointing": {"gradient_checkpointing": False},
}


def measure_memory(config: MllamaConfig, tokens: int, views: int) -> list[dict[str, float | str | int]]:
    """Rows of the table `memory`: GiB of a GPU in fine-tuning, for several batches."""
    rows: list[dict[str, float | str | int]] = []
    for tiles in (1, 4):
        shape = with_tiles(config, tiles)
        event = one_event(shape, tokens, views)
        for name, changes in MEMORY.items():
            for batch in (1, 2, 4, 8):
                inputs = {key: value.expand(batch, *value.shape[1:]) for key, value in event.items()}
                inputs["labels"] = inputs["input_ids"]
                settings = FinetuneSettings(device_batch_size=batch, global_batch_size=4 * batch, **changes)
                found = count_footprint(shape, inputs, settings)
                parts = {f"{part}_gib": size / GIB for part, size in found.parts().items()}
                total = {"gpu_gib": found.on_gpu() / GIB}
                rows.append({"tiles": tiles, "setting": name, "batch": batch} | parts | total)
                print(f"{tiles} tile(s), {name}, batch {batch}: {total['gpu_gib']:.1f} GiB", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, help="config.json of a Mllama")
    parser.add_argument("--tokens", type=int, default=258, help="of a prompt with its answer")
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "vlm_floor.json")
    arguments = parser.parse_args()
    config = AutoConfig.from_pretrained(arguments.config) if arguments.config else eleven_b()
    if config.model_type != "mllama":
        parser.error(f"{arguments.config}: a {config.model_type}; input shapes are only known for mllama")
    result = {"memory": measure_memory(config, arguments.tokens, arguments.views)}
    result |= measure(config, arguments.tokens, arguments.views)
    for row in result["arithmetic"]:
        floors = ", ".join(
            f"{row['forward_tflop'] * 1e15 / rate:.0f} ms, {rate / 1e12 / row['training_tflop']:.1f} events/s ({name})"
            for name, rate in RATES.items()
        )
        print(
            f"{row['tiles']} tile(s), {row['adapter']}, checkpointing {row['checkpointing']}: forward "
            f"{row['forward_tflop']:.2f} TFLOP, training {row['training_tflop']:.1f}, {row['trainable'] / 1e6:.2f} M "
            f"trainable; {floors}"
        )
    for row in result["weights"]:
        print(f"{row['quantization']}: {row['quantised_gib']:.2f} + {row['bf16_gib']:.2f} GiB")
    inputs = {
        "model": str(arguments.config or "Llama 3.2 11B Vision"),
        "tokens": arguments.tokens,
        "views": arguments.views,
    }
    arguments.out.write_text(json.dumps({"inputs": inputs} | result, indent=1) + "\n")


if __name__ == "__main__":
    main()
