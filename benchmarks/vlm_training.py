"""A step of the fine-tuning against a plain PyTorch loop over the same model and batches, in one run.

    python benchmarks/vlm_training.py [--run results/demo] [--steps 40]

Fine-tunes with the workflow's own code on training events of a finished run. After each of its steps a plain loop takes
one: forward with the loss of transformers, backward, clipped gradients, AdamW; without TRL, Trainer, collator or
records, on batches made before. Steps alternate, so that other load slows both alike. Prints the result, in CPU time on
one core, and writes results/vlm_training.json beside this file. Only the ratio applies to other machines.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers
import trl
import yaml
from peft import get_peft_model
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from nuvlm.dataset.event_table import read_events
from nuvlm.dataset.pixelmaps import image_settings
from nuvlm.models.vlm import training
from nuvlm.models.vlm.adapter import lora_config
from nuvlm.models.vlm.callbacks import Progress
from nuvlm.models.vlm.dataset import conversations
from nuvlm.models.vlm.families import family_of
from nuvlm.models.vlm.model import load_model, load_processor
from nuvlm.models.vlm.prompts import prompts_for
from nuvlm.models.vlm.rationales import load_rationales
from nuvlm.models.vlm.settings import FinetuneSettings

BATCHES = 4
WARM_UP = 3


class PlainLoop:
    """The plain loop: a step at a time."""

    def __init__(self, job: training.Job) -> None:
        settings = job.settings
        words = None if job.vocabulary is None else load_rationales(job.vocabulary)
        events = read_events(job.events)
        events = events[(events["split"] == "train").fillna(False)]
        prompts = prompts_for(job.prompts, image_settings(job.stores), settings.background)
        rows = conversations(events, job.stores, prompts, words, background=settings.background)
        collate = DataCollatorForVisionLanguageModeling(load_processor(job.base), assistant_only_loss=True)
        size = settings.device_batch_size
        self._batches = [collate([rows[size * b + i] for i in range(size)]) for b in range(BATCHES)]
        base = load_model(job.base, settings.quantization, bf16=settings.bf16, device_map={"": "cpu"})
        self._model = get_peft_model(base, lora_config(base, settings.lora, family_of(job.base).vision_tower)).train()
        self._trained = [p for p in self._model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(self._trained, lr=settings.learning_rate, fused=True)
        self._settings = settings
        self._steps = 0

    def step(self) -> None:
        batch = self._batches[self._steps % BATCHES]
        self._model(**batch, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(self._trained, self._settings.max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._steps += 1


def measure(job: training.Job) -> dict[str, Any]:
    """CPU seconds of a step of both, and their ratio."""
    plain = PlainLoop(job)
    seconds: dict[str, list[float]] = {"workflow": [], "plain": []}

    class Alternating(Progress):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if not hasattr(self, "_cpu"):
                self._cpu = time.process_time()

        def on_step_end(self, *arguments: Any, **values: Any) -> None:
            super().on_step_end(*arguments, **values)
            self._between = time.process_time()
            seconds["workflow"].append(self._between - self._cpu)
            plain.step()
            self._cpu = time.process_time()
            seconds["plain"].append(self._cpu - self._between)

    training.Progress = Alternating  # type: ignore[misc]
    training.finetune(job)
    kept = {name: values[WARM_UP:] for name, values in seconds.items()}
    each = {name: median(values) for name, values in kept.items()}
    return {
        "seconds_per_step": each,
        "ratio": each["workflow"] / each["plain"],
        "ratio_of_sums": sum(kept["workflow"]) / sum(kept["plain"]),
        "steps": len(kept["plain"]),
        "batch": job.settings.device_batch_size,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("results/demo"), help="folder of a finished run")
    parser.add_argument("--config", type=Path, default=Path("config/config.yaml"), help="the configuration it had")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "vlm_training.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    vlm = yaml.safe_load(arguments.config.read_text())["vlm"]
    table = read_events(arguments.run / "events.parquet")
    settings = FinetuneSettings.model_validate(vlm["finetune"])
    n_train = int((table["split"] == "train").sum())
    epochs = arguments.steps * settings.global_batch_size / n_train
    changes = {"epochs": epochs, "eval_steps": None, "load_best_model_at_end": False, "save_steps": 10**6}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Without validation events: nothing is evaluated at the end.
        table[table["split"] == "train"].to_parquet(folder / "events.parquet")
        result = measure(
            training.Job(
                base=arguments.run / "models" / "base",
                events=folder / "events.parquet",
                stores={shard: arguments.run / "pixelmaps" / f"{shard}.zarr" for shard in table["shard"].unique()},
                out=folder / "adapter",
                checkpoints=folder / "checkpoints",
                tensorboard=folder / "tensorboard",
                prompts=Path(vlm["prompts"]),
                vocabulary=Path(vlm["vocabulary"]) if settings.rationales == "grounded" else None,
                settings=settings.model_copy(update=changes),
            )
        )
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "trl": trl.__version__,
        "quantization": settings.quantization,
        "rationales": settings.rationales,
    } | result
    text = json.dumps(result, indent=1)
    print(text)
    arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
