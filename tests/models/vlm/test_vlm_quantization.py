"""Each kind of weights is fine-tuned and classified with."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from nuvlm.base.classes import CLASSES
from nuvlm.models.predictions import read_predictions
from nuvlm.models.vlm.classify import classify_vlm
from nuvlm.models.vlm.dataset import to_pictures
from nuvlm.models.vlm.model import count_parameters, load_model, load_processor
from nuvlm.models.vlm.prompts import answer_tokens, load_prompts
from nuvlm.models.vlm.scoring import encode, score
from nuvlm.models.vlm.settings import ClassifySettings, FinetuneSettings, Quantization
from nuvlm.models.vlm.shapes import draw_scene
from nuvlm.models.vlm.training import Job, finetune

KINDS: tuple[Quantization, ...] = ("nf4", "int8", "none")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("quantization", "bf16"), [(kind, bf16) for kind in KINDS for bf16 in (False, True) if bf16 or kind != "nf4"]
)
def test_trained_and_classified_with(job: Job, tmp_path: Path, quantization: Quantization, bf16: bool) -> None:
    """But nf4 in float32, with which all other tests train."""
    values = job.settings.model_dump() | {"quantization": quantization, "bf16": bf16, "epochs": 2.0}
    job = job.model_copy(update={"settings": FinetuneSettings.model_validate(values)})
    finetune(job)
    losses = [loss for _, loss in json.loads((job.out / "training.json").read_text())["losses"]]
    assert losses[-1] < 0.8 * losses[0]
    adapter = load_file(job.out / "adapter_model.safetensors")
    assert not [name for name, value in adapter.items() if "lora_B" in name and not value.any()]

    out = tmp_path / "p.parquet"
    classify_vlm(
        job.base, job.out, job.events, job.stores, {"nominal": out}, part=0, prompts=job.prompts,
        settings=ClassifySettings(gpus=0, batch_size=4), quantization=quantization, bf16=bf16,
    )  # fmt: skip
    joint = read_predictions([out])[[f"logp_joint_{name}" for name in CLASSES]].to_numpy()
    assert np.isfinite(joint).all()
    # It has learnt to give one of the three answers: untrained, they are less probable than one in 10^6.
    assert np.exp(joint).sum(axis=1).min() > 0.01


def test_weights_are_what_the_setting_says(base: Path) -> None:
    models = {kind: load_model(base, kind, bf16=False, device_map={"": "cpu"}) for kind in KINDS}
    types = {kind: model.model.language_model.layers[0].self_attn.q_proj.weight.dtype for kind, model in models.items()}
    assert types == {"nf4": torch.uint8, "int8": torch.int8, "none": torch.float32}
    assert len({count_parameters(model) for model in models.values()}) == 1
    size = {kind: sum(p.numel() * p.element_size() for p in model.parameters()) for kind, model in models.items()}
    assert size["nf4"] < size["int8"] < size["none"]


def test_scores_come_nearer_with_more_bits(base: Path, prompts_file: Path) -> None:
    """A layer that takes its input for something else would give numbers, and wrong ones."""
    prompts, processor = load_prompts(prompts_file), load_processor(base)
    answers = answer_tokens(processor.tokenizer, prompts)
    rng = np.random.default_rng(11)
    pictures = [to_pictures(draw_scene(rng, 56)[0], "black") for _ in range(8)]
    inputs = encode(processor, prompts, pictures, torch.device("cpu"))
    joint = {}
    for kind in KINDS:
        model = load_model(base, kind, bf16=False, device_map={"": "cpu"}).eval()
        joint[kind] = score(model, inputs, answers).joint
    rounding = {kind: np.abs(joint[kind] - joint["none"]).mean() for kind in KINDS}
    assert 0 < rounding["int8"] < 0.2 * rounding["nf4"]
