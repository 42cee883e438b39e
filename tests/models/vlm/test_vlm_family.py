"""A model of another family goes through the same training and classifying as the tiny Mllama does."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from tiny_models import make_idefics3
from transformers import PreTrainedModel, ProcessorMixin
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from nuvlm.base.classes import CLASSES
from nuvlm.base.errors import InputError
from nuvlm.base.manifest import write_manifest
from nuvlm.dataset.event_table import read_events
from nuvlm.dataset.pixelmaps import image_settings
from nuvlm.models.predictions import read_predictions
from nuvlm.models.vlm.classify import classify_vlm
from nuvlm.models.vlm.dataset import conversations, to_pictures
from nuvlm.models.vlm.families import FAMILIES, family_of
from nuvlm.models.vlm.model import load_model, load_processor
from nuvlm.models.vlm.prompts import AnswerTokens, answer_tokens, conversation, load_prompts, prompts_for
from nuvlm.models.vlm.scoring import beam, encode, score
from nuvlm.models.vlm.settings import ClassifySettings, FinetuneSettings
from nuvlm.models.vlm.shapes import draw_scene
from nuvlm.models.vlm.training import Job, finetune
from paths import REPOSITORY

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
OTHERS = {"idefics3": make_idefics3}


@pytest.fixture(scope="module", params=list(OTHERS))
def other(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, prompts_file: Path) -> Path:
    """The folder of a tiny model of another family."""
    folder = tmp_path_factory.mktemp(request.param)
    template = REPOSITORY / "resources" / "chat_templates" / f"{request.param}.jinja"
    OTHERS[request.param](folder, prompts_file, template)
    return folder


@pytest.fixture(scope="module")
def model(other: Path) -> PreTrainedModel:
    return load_model(other, "none", bf16=False, device_map={"": "cpu"}).eval()


@pytest.fixture(scope="module")
def processor(other: Path) -> ProcessorMixin:
    return load_processor(other)


@pytest.fixture(scope="module")
def pictures() -> list[Any]:
    rng = np.random.default_rng(11)
    return [to_pictures(draw_scene(rng, 56)[0]) for _ in range(3)]


@pytest.fixture(scope="module")
def answers(processor: Any, prompts_file: Path) -> AnswerTokens:
    return answer_tokens(processor.tokenizer, load_prompts(prompts_file))


def test_scores_and_beams_agree_with_the_plain_pass(
    model: Any, processor: Any, answers: AnswerTokens, prompts_file: Path, pictures: list[Any]
) -> None:
    """Each event with each whole answer, one at a time, as training reads it, without a cache."""
    prompts = load_prompts(prompts_file)
    expected = np.zeros((2, len(pictures), 3))
    for i, views in enumerate(pictures):
        for k, name in enumerate(prompts.labels):
            text = processor.apply_chat_template(conversation(prompts, 2, prompts.answer(name)), tokenize=False)
            inputs = processor(images=[views], text=[text.rstrip("\n")], add_special_tokens=False, return_tensors="pt")
            label = answers.labels[k]
            assert tuple(inputs["input_ids"][0, -len(label) :].tolist()) == label
            with torch.inference_mode():
                logp = model(**inputs, use_cache=False).logits[0].log_softmax(-1)
            found = [logp[-len(label) - 1 + j, token].item() for j, token in enumerate(label)]
            expected[:, i, k] = sum(found), found[0]
    inputs = encode(processor, prompts, pictures, CPU)
    for method in (score, beam):
        joint, first = method(model, dict(inputs), answers)
        np.testing.assert_allclose(joint, expected[0], atol=2e-4)
        np.testing.assert_allclose(first, expected[1], atol=2e-4)


def test_both_views_reach_the_answer(
    model: Any, processor: Any, answers: AnswerTokens, prompts_file: Path, pictures: list[Any]
) -> None:
    (xz, yz), (another, _) = pictures[0], pictures[1]
    inputs = encode(processor, load_prompts(prompts_file), [[xz, yz], [another, yz], [xz, another]], CPU)
    scores, _ = score(model, inputs, answers)
    assert np.abs(scores[1] - scores[0]).max() > 1e-4
    assert np.abs(scores[2] - scores[0]).max() > 1e-4


def test_only_the_answer_is_learnt(job: Job, other: Path, processor: Any) -> None:
    rows = conversations(read_events(job.events), job.stores, prompts_for(job.prompts, image_settings(job.stores)))
    batch = DataCollatorForVisionLanguageModeling(processor, assistant_only_loss=True)([rows[0], rows[2]])
    found = [processor.tokenizer.decode(row[row != -100]).strip() for row in batch["labels"]]
    end = family_of(other).end_of_answer
    assert found == [f"I classify the pixel maps as nue CC{end}", f"I classify the pixel maps as NC{end}"]


def test_fine_tuned_and_classified_by_config_alone(job: Job, other: Path, tmp_path: Path) -> None:
    published = {"quantization": "nf4", "bf16": True, "gradient_checkpointing": True}
    settings = FinetuneSettings.model_validate(job.settings.model_dump() | published | {"epochs": 2.0})
    job = job.model_copy(update={"base": other, "settings": settings})
    finetune(job)
    losses = [loss for _, loss in json.loads((job.out / "training.json").read_text())["losses"]]
    assert losses[-1] < losses[0] - 0.5
    adapter = load_file(job.out / "adapter_model.safetensors")
    assert not [name for name, value in adapter.items() if "lora_B" in name and not value.any()]

    tables: dict[str, pd.DataFrame] = {}
    for method in ("score", "beam"):
        classify_vlm(
            other, job.out, job.events, job.stores, {"nominal": tmp_path / f"{method}.parquet"}, part=0,
            prompts=job.prompts, settings=ClassifySettings(gpus=0, batch_size=4, method=method), quantization="nf4",
            bf16=True,
        )  # fmt: skip
        tables[method] = read_predictions([tmp_path / f"{method}.parquet"])
    columns = [f"logp_joint_{name}" for name in CLASSES]
    np.testing.assert_allclose(tables["beam"][columns], tables["score"][columns], atol=1e-3)
    assert (tables["beam"]["predicted"] == tables["score"]["predicted"]).all()


def test_frozen_tower_has_no_adapter(job: Job, other: Path) -> None:
    values = job.settings.model_dump() | {"epochs": 1 / 6, "lora": {"vision": False}}
    job = job.model_copy(update={"base": other, "settings": FinetuneSettings.model_validate(values)})
    finetune(job)
    names = list(load_file(job.out / "adapter_model.safetensors"))
    tower = family_of(other).vision_tower
    assert names
    assert not [name for name in names if re.fullmatch(tower, name)]


def test_every_family_has_a_template() -> None:
    templates = {path.stem for path in (REPOSITORY / "resources" / "chat_templates").glob("*.jinja")}
    assert templates == set(FAMILIES)


def test_unknown_family_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava"}))
    write_manifest(tmp_path)
    with pytest.raises(InputError, match=r"family 'llava'.*mllama \(Llama 3.2 Vision\).*idefics3"):
        load_processor(tmp_path)
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "config.json").write_text("{}")
    write_manifest(tmp_path)
    with pytest.raises(InputError, match=r"config\.json: not the config of a model"):
        load_processor(tmp_path)
