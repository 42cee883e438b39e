"""The low-rank adapter (LoRA, arXiv 2106.09685) that fine-tuning adds to a base model."""

from peft import LoraConfig, PeftModel

from nuvlm.vlm.settings import LoraSettings


def lora_config(lora: LoraSettings, vision_tower: str) -> LoraConfig:
    """The adapter as peft takes it.

    Args:
        lora: its settings.
        vision_tower: regular expression of the vision tower's modules, see :mod:`nuvlm.vlm.families`.
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


def stop_gradients_at_inputs(model: PeftModel) -> None:
    """Undo what peft and TRL do for reentrant checkpointing: to send gradients through a frozen vision tower.

    They make the embeddings of text and images require gradients, as that kind of checkpointing wants. The other kind,
    which is used here, does not, and a frozen tower that is not walked backwards saves half of a training step.
    """
    model.disable_input_require_grads()
