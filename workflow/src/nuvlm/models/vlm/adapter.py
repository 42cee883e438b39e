"""The low-rank adapter (LoRA, arXiv 2106.09685) that fine-tuning trains."""

import re

import torch
from peft import LoraConfig, PeftModel

from nuvlm.base.errors import InputError
from nuvlm.models.vlm.settings import LoraSettings


def lora_config(lora: LoraSettings, vision_tower: str) -> LoraConfig:
    """The adapter's configuration for peft.

    Args:
        lora: settings of the adapter.
        vision_tower: regular expression of the vision tower's modules, see :mod:`nuvlm.models.vlm.families`.
    """
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        bias="none",
        target_modules=list(lora.target_modules),
        exclude_modules=None if lora.vision else vision_tower,
    )


def check_targets(model: torch.nn.Module, lora: LoraSettings, vision_tower: str) -> None:
    """Refuse target modules that `model` does not have: peft ignores them unless none matches.

    Raises:
        InputError: names the missing modules and those available.
    """
    names = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    if not lora.vision:
        names = [name for name in names if not re.fullmatch(vision_tower, name)]
    # peft's rule: the full module name, or its last part.
    missing = [
        target
        for target in lora.target_modules
        if not any(name == target or name.endswith(f".{target}") for name in names)
    ]
    if missing or not lora.target_modules:
        known = sorted({name.rpartition(".")[2] for name in names})
        raise InputError(
            f"vlm.finetune.lora.target_modules: this model has no linear layer named {', '.join(missing) or 'so'}"
            f"{'' if lora.vision else ' outside of its vision tower'}. Name some of {', '.join(known)}."
        )


def stop_gradients_at_inputs(model: PeftModel) -> None:
    """Stop gradients at the embeddings, so that no gradient is computed through a frozen vision tower.

    peft and TRL make the embeddings of text and images require gradients, as reentrant checkpointing needs. The
    non-reentrant kind used here does not, and skipping the frozen tower saves half of a training step.
    """
    model.disable_input_require_grads()
