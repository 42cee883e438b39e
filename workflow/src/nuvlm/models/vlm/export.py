"""Export a fine-tuned model for use without NuVLM: merged, in the format of transformers, and the adapter for peft.

Each folder has a model card, README.md, filled from the run; its code is run by a test.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, StrictUndefined

from nuvlm.base.classes import CLASSES
from nuvlm.base.files import atomic_path, read_json
from nuvlm.base.manifest import MANIFEST, write_manifest
from nuvlm.models.vlm.classify import is_grounded, load_finetuned
from nuvlm.models.vlm.model import load_processor, source
from nuvlm.models.vlm.prompts import answer_tokens, conversation, prompts_for
from nuvlm.models.vlm.settings import FinetuneSettings

SHOWN = (
    "quantization", "lora", "epochs", "global_batch_size", "learning_rate", "warmup_ratio", "schedule", "optimizer",
    "max_grad_norm", "bf16", "rationale_loss", "seed",
)  # fmt: skip
"""Settings of the fine-tuning in the model card."""
NOT_COPIED = (MANIFEST, "source.json", "pretraining.json", "config.json", "generation_config.json", "README.md")
"""Files of the base model that are not copied: the exported model does without, or writes new ones."""
LICENCES = ("LICENSE*", "USE_POLICY*")


def export_vlm(
    base: Path,
    adapter: Path,
    scores: Path,
    out: Path,
    *,
    prompts: Path,
    card: Path,
    run: str,
    data: str,
    settings: FinetuneSettings,
) -> None:
    """Write the folders ``model`` and ``adapter`` to the folder `out`, which appears whole or not at all.

    The merged weights are those of ``classify.merge_adapter``, in float32 or bfloat16 as trained. The CPU's memory must
    hold them: 22 GB of the 11B model in bfloat16.

    Args:
        base: folder of the base model.
        adapter: folder of the fine-tuned adapter.
        scores: evaluation/scores.json of the run.
        prompts: texts of the conversation.
        card: Jinja template of the model card.
        run: name of the run.
        data: source of the events.
        settings: of the fine-tuning.

    Raises:
        InputError: a folder is damaged, or the disk is full.
    """
    processor = load_processor(base)
    training = read_json(adapter / "training.json")
    texts = prompts_for(prompts, training["images"], settings.background)
    answers = answer_tokens(processor.tokenizer, texts, separated=is_grounded(adapter))
    n_views = len(training["images"]["views"])
    asked = {
        "messages": conversation(texts, n_views),
        "prefix": texts.prefix,
        "labels": texts.labels,
        "end": processor.tokenizer.decode([answers.end]),
    }
    results = read_json(scores)
    facts: dict[str, Any] = {
        "run": run,
        "source": data,
        "classes": list(CLASSES),
        "images": training["images"],
        "files": [f"{view}.png" for view in training["images"]["views"]],
        "inverted": settings.background == "white",
        "base": {"model": None, "max_tiles": None} | (source(base) or {}),
        "licences": sorted(file.name for pattern in LICENCES for file in base.glob(pattern)),
        "training": training,
        "settings": {name: value for name, value in settings.model_dump(mode="json").items() if name in SHOWN},
        "scores": results["scores"].get("vlm", {}),
        "tested": sum(results["events"].get("test", {}).values()),
    }
    model = load_finetuned(
        base, adapter, settings.quantization, bf16=settings.bf16, device=torch.device("cpu"), merge=True
    )
    with atomic_path(out) as partial:
        model.save_pretrained(partial / "model")
        for file in base.iterdir():
            if file.is_file() and file.name not in NOT_COPIED and "safetensors" not in file.name:
                shutil.copyfile(file, partial / "model" / file.name)
        (partial / "adapter").mkdir()
        shutil.copyfile(adapter / "adapter_model.safetensors", partial / "adapter" / "adapter_model.safetensors")
        _write(partial / "adapter" / "adapter_config.json", _adapter_config(adapter, facts["base"]["model"]))
        for pattern in LICENCES:
            for file in base.glob(pattern):
                shutil.copyfile(file, partial / "adapter" / file.name)
        for kind in ("model", "adapter"):
            _write(partial / kind / "conversation.json", asked)
            (partial / kind / "README.md").write_text(_render(card, facts | {"kind": kind}), encoding="utf-8")
            write_manifest(partial / kind)


def _adapter_config(adapter: Path, model: str | None) -> dict[str, Any]:
    """peft's configuration, with the published name of the base model in place of the run's folder."""
    config: dict[str, Any] = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    return config | {"base_model_name_or_path": model or config["base_model_name_or_path"]}


def _write(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _render(template: Path, facts: Mapping[str, Any]) -> str:
    """The model card.

    Raises:
        InputError: from :func:`nuvlm.base.files.read_json` earlier; a key that the template asks for is an error here.
    """
    environment = Environment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, autoescape=False)
    return environment.from_string(template.read_text(encoding="utf-8")).render(facts) + "\n"
