"""The low-rank adapter (LoRA, arXiv 2106.09685) that fine-tuning adds to a base model."""

import re

import torch
from peft import LoraConfig, PeftModel

from nuvlm.base.errors import InputError
from nuvlm.models.vlm.settings import LoraSettings


def lora_config(lora: LoraSettings, vision_tower: str) -> LoraConfig:
    """The adapter as peft takes it.

    Args:
        lora: its settings.
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
    """Refuse names of layers that `model` does not have: peft passes over them, and complains only where all are wrong.

    Raises:
        InputError: naming them, and the layers that there are.
    """
    names = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    if not lora.vision:
        names = [name for name in names if not re.fullmatch(vision_tower, name)]
    # As peft matches: the whole name of a module, or its end.
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
    """Undo what peft and TRL do for reentrant checkpointing: to send gradients through a frozen vision tower.

    They make the embeddings of text and images require gradients, as that kind of checkpointing wants. The other kind,
    which is used here, does not, and a frozen tower that is not walked backwards saves half of a training step.
    """
    model.disable_input_require_grads()
