"""The low-rank adapter (LoRA, arXiv 2106.09685) that fine-tuning trains."""

import re
from collections.abc import Mapping, Sequence

import torch
from peft import LoraConfig, PeftModel
from transformers import PreTrainedModel

from nuvlm.base.errors import InputError
from nuvlm.models.vlm.settings import LoraSettings


def lora_config(
    model: PreTrainedModel, lora: LoraSettings, vision_tower: str, *, key: str = "vlm.finetune.lora"
) -> LoraConfig:
    """The adapter's configuration for peft.

    Args:
        model: the base model; only the names of its modules matter.
        lora: settings of the adapter.
        vision_tower: regular expression of the vision tower's modules, see :mod:`nuvlm.models.vlm.families`.
        key: of the settings in the configuration, for messages.

    Raises:
        InputError: see :func:`check_targets`.
    """
    parts = linear_layers(model, vision_tower)
    check_targets(parts, lora, key)
    targets = list(lora.target_modules) if lora.vision or lora.language else []
    frozen = [] if lora.vision else [vision_tower]
    if not lora.language:
        frozen.append(rf"{re.escape(_decoder(model))}\..*")
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        bias="none",
        target_modules=targets + (parts["projector"] if lora.projector else []),
        exclude_modules="|".join(frozen) or None,
    )


def linear_layers(model: PreTrainedModel, vision_tower: str) -> dict[str, list[str]]:
    """Names of the linear layers of a model's parts: ``vision``, ``language``, and ``projector`` for those between.

    The output layer, which turns states into logits, belongs to none.
    """
    decoder, output = _decoder(model), model.get_output_embeddings()
    found: dict[str, list[str]] = {"vision": [], "projector": [], "language": []}
    for name, module in model.named_modules():
        if not isinstance(module, torch.nn.Linear) or module is output:
            continue
        if re.fullmatch(vision_tower, name):
            found["vision"].append(name)
        else:
            found["language" if name.startswith(f"{decoder}.") else "projector"].append(name)
    return found


def _decoder(model: PreTrainedModel) -> str:
    """Name of the language model within a vision-language model."""
    decoder = model.get_decoder()
    return next(name for name, module in model.named_modules() if module is decoder)


def check_targets(parts: Mapping[str, Sequence[str]], lora: LoraSettings, key: str = "vlm.finetune.lora") -> None:
    """Refuse target modules that a model does not have: peft ignores them unless none matches.

    Args:
        parts: see :func:`linear_layers`.
        key: of the settings in the configuration, for messages.

    Raises:
        InputError: names the missing modules and those available.
    """
    if lora.projector and not parts["projector"]:
        raise InputError(f"{key}.projector: this model has no linear layer there. Set it to false.")
    trained = [part for part in ("vision", "language") if getattr(lora, part)]
    if not trained:
        return
    names = [name for part in trained for name in parts[part]]
    missing = [target for target in lora.target_modules if not _matches(target, [*parts["vision"], *parts["language"]])]
    if not missing and any(_matches(target, names) for target in lora.target_modules):
        return
    known = sorted({name.rpartition(".")[2] for name in names})
    where = {"vision": " in its vision tower", "language": " outside of its vision tower"}
    raise InputError(
        f"{key}.target_modules: this model has no linear layer named "
        f"{', '.join(missing or lora.target_modules) or 'so'}{where[trained[0]] if len(trained) == 1 else ''}. "
        f"Name some of {', '.join(known)}."
    )


def _matches(target: str, names: Sequence[str]) -> bool:
    """peft's rule: `target` is a full module name, or the last part of one."""
    return any(name == target or name.endswith(f".{target}") for name in names)


def stop_gradients_at_inputs(model: PeftModel) -> None:
    """Stop gradients at the embeddings, so that no gradient is computed through a frozen vision tower.

    peft and TRL make the embeddings of text and images require gradients, as reentrant checkpointing needs. The
    non-reentrant kind used here does not, and skipping the frozen tower saves half of a training step.
    """
    model.disable_input_require_grads()
