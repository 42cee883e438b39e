"""The vision-language model: base model, prompts, QLoRA fine-tuning, constrained scoring and rationales."""
