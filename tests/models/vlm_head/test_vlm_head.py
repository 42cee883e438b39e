"""The language model with a linear head: its logits, training, resume, explanations, and what is refused.

Other families are trained here with both heads, that of the language model and that of the tower.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from interrupted import assert_resumes_exactly
from nuvlm.base.errors import InputError
from nuvlm.base.files import read_json, write_json
from nuvlm.base.manifest import write_manifest
from nuvlm.base.stores import open_store
from nuvlm.models.classifier.settings import TrainingRecipe
from nuvlm.models.jobs import ClassificationJob, ExplanationJob
from nuvlm.models.predictions import read_predictions
from nuvlm.models.vit.network import load_vit
from nuvlm.models.vit.settings import VitTrainSettings
from nuvlm.models.vit.training import Job as VitJob
from nuvlm.models.vit.training import train_vit
from nuvlm.models.vlm.dataset import to_pictures
from nuvlm.models.vlm.model import load_model, load_processor
from nuvlm.models.vlm.prompts import conversation, prompts_for
from nuvlm.models.vlm_head import jobs
from nuvlm.models.vlm_head.network import PromptedClassifier, load_vlm_head
from nuvlm.models.vlm_head.settings import VlmHeadTrainSettings
from nuvlm.models.vlm_head.training import Job, train_vlm_head
from paths import REPOSITORY
from tiny_models import make_tiny

CPU = torch.device("cpu")
IMAGES = {"views": ["xz", "yz"], "size": 56, "centre": "charge"}
PROMPTS = REPOSITORY / "resources" / "prompts_demo.yaml"
THREE_VIEWS = REPOSITORY / "resources" / "prompts_dune_cvn.yaml"
OTHER = REPOSITORY / "resources" / "prompts.yaml"
Data = tuple[Path, dict[str, Path]]


def settings(**changes: Any) -> VlmHeadTrainSettings:
    recipe = TrainingRecipe(optimizer="adamw", learning_rate=5e-3, batch_size=6, max_epochs=6, patience=6)
    return VlmHeadTrainSettings.model_validate({"recipe": recipe, "lora": {"dropout": 0.1}} | changes)


def make_job(folder: Path, base: Path, dataset: Data, **changes: Any) -> Job:
    events, stores = dataset
    return Job(
        base=base, prompts=PROMPTS, events=events, stores=stores, out=folder / "vlm_head",
        checkpoint=folder / "checkpoints" / "vlm_head.pt", tensorboard=folder / "tensorboard",
        settings=settings(**changes), threads=1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, base: Path, dataset: Data) -> Path:
    folder = tmp_path_factory.mktemp("vlm_head")
    train_vlm_head(make_job(folder, base, dataset))
    return folder / "vlm_head"


def pixels(n: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(2).integers(0, 255, (n, 2, 56, 56), dtype=np.uint8))


def test_logits_are_those_of_the_last_state_and_a_linear_head(base: Path) -> None:
    """The reference encodes each conversation in full, and takes all hidden states of the whole model."""
    network = PromptedClassifier(base, IMAGES, settings(quantization="none"), CPU, prompts=PROMPTS).eval()
    grey = pixels(3)
    found = network(network.prepare(grey, CPU))
    whole: Any = load_model(base, "none", bf16=False, device_map={"": "cpu"}).eval()
    processor, texts = load_processor(base), prompts_for(PROMPTS, IMAGES, "black")
    text = processor.apply_chat_template(conversation(texts, 2), add_generation_prompt=True, tokenize=False)
    norm, _, linear = network.head
    for views, logits in zip(grey.numpy(), found, strict=True):
        inputs = processor(
            images=[to_pictures(views, "black")], text=[text + texts.prefix], add_special_tokens=False,
            return_tensors="pt",
        )  # fmt: skip
        state = whole(**inputs, output_hidden_states=True, use_cache=False).hidden_states[-1][0, -1]
        expected = torch.nn.functional.layer_norm(state, state.shape, norm.weight, norm.bias) @ linear.weight.T
        torch.testing.assert_close(logits, expected + linear.bias, atol=1e-5, rtol=1e-5)
    assert not any("lm_head" in name for name, _ in network.named_parameters()), "the output layer is dropped"


def test_checkpointing_changes_no_gradient(base: Path) -> None:
    found = []
    for checkpointing in (True, False):
        torch.manual_seed(1)
        changed = settings(gradient_checkpointing=checkpointing)
        network = PromptedClassifier(base, IMAGES, changed, CPU, prompts=PROMPTS).train()
        torch.manual_seed(2)  # of dropout
        network(network.prepare(pixels(2), CPU)).square().sum().backward()
        found.append({name: value.grad for name, value in network.named_parameters() if value.grad is not None})
    assert found[0].keys() == found[1].keys() == {name for name, p in network.named_parameters() if p.requires_grad}
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.slow
def test_it_learns_and_writes_only_what_it_has_trained(
    trained: Path, base: Path, dataset: Data, tmp_path: Path
) -> None:
    card = json.loads((trained / "training.json").read_text())
    assert card["history"][-1]["train_loss"] < 0.8 * card["history"][0]["train_loss"]
    weights = load_file(trained / "model.safetensors")
    assert all("lora_" in name for name in weights if name.startswith("model."))
    assert any("language_model" in name for name in weights), "there are adapters in the language model"
    assert any("vision_model" in name for name in weights), "and in the tower"
    assert sum(value.numel() for value in weights.values()) == card["trainable_parameters"]

    events, stores = dataset
    inputs = {"base": base / "manifest.json", "prompts": PROMPTS}
    of_job = {"model": "vlm_head", "events": events, "stores": stores, "inputs": inputs, "threads": 1}
    of_job |= {"folder": trained, "part": 0}
    outputs = {name: tmp_path / f"{name}.parquet" for name in ("nominal", "half_resolution", "blank")}
    jobs.classify(ClassificationJob(settings={"batch_size": 4}, outputs=outputs, **of_job))
    for path in outputs.values():
        table = read_predictions([path])
        np.testing.assert_allclose(table[["p_nue_cc", "p_numu_cc", "p_nc"]].sum(axis=1), 1, atol=1e-6)
    assert np.ptp(table["p_nc"]) < 1e-6, "blank pictures have one answer"

    jobs.explain(
        ExplanationJob(
            settings={"batch_size": 4}, out=tmp_path / "maps.zarr", predictions={"vlm_head": outputs["nominal"]},
            condition="nominal", count=3, seed=7, **of_job,
        )
    )  # fmt: skip
    store = open_store(tmp_path / "maps.zarr", "nuvlm-cam")
    assert store["maps"].shape == (3, 2, 56, 56)
    assert store["maps"][:].any()


@pytest.mark.slow
def test_a_stopped_training_ends_as_an_uninterrupted_one(
    trained: Path, base: Path, dataset: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, again = (make_job(tmp_path, base, dataset, **kept) for kept in ({}, {"gradient_checkpointing": False}))
    assert_resumes_exactly(train_vlm_head, job, again, trained, monkeypatch)


@pytest.mark.parametrize("kind", ["qwen3_vl", "smolvlm", "llava_next"])
def test_other_families_are_trained_with_either_head(kind: str, dataset: Data, tmp_path: Path) -> None:
    make_tiny(kind, tmp_path / "base")
    recipe = TrainingRecipe(learning_rate=1e-3, batch_size=12, max_epochs=1)
    job = make_job(tmp_path, tmp_path / "base", dataset, recipe=recipe)
    train_vlm_head(job)
    of_tower = job.model_dump(exclude={"prompts", "settings"}) | {"out": tmp_path / "vit"}
    train_vit(VitJob(settings=VitTrainSettings(recipe=recipe), **of_tower))
    for network in (
        load_vlm_head(job.out, job.base, PROMPTS, CPU),
        load_vit(tmp_path / "vit", job.base, CPU),
    ):
        grey = pixels(3)
        with torch.no_grad():
            together = network(network.prepare(grey, CPU))
            alone = torch.cat([network(network.prepare(grey[i : i + 1], CPU)) for i in range(3)])
        torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
        assert len(together.unique(dim=0)) == 3, "each event has a different answer"


@pytest.mark.long
def test_two_processes_train_as_one(dataset: Data, tmp_path: Path) -> None:
    """Also where adapters get no gradient: those behind the layer of the tower whose output is used."""
    make_tiny("qwen3_vl", tmp_path / "base")
    recipe = TrainingRecipe(optimizer="adamw", learning_rate=3e-3, batch_size=6, max_epochs=2)
    found = []
    for processes in (1, 2):
        common = {"processes": processes, "recipe": recipe}
        job = make_job(tmp_path / str(processes), tmp_path / "base", dataset, lora={"dropout": 0.0}, **common)
        train_vlm_head(job.model_copy(update={"threads": 2}))
        of_tower = job.model_dump(exclude={"prompts", "settings"}) | {"out": job.out.with_name("vit")}
        train_vit(VitJob(settings=VitTrainSettings(lora={"dropout": 0.0}, **common), **of_tower))
        cards = [json.loads((folder / "training.json").read_text()) for folder in (job.out, job.out.with_name("vit"))]
        found.append([[entry["train_loss"] for entry in card["history"]] for card in cards])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4)


def test_what_does_not_fit_is_refused(trained: Path, base: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"trained with another prompt than that of .*Set vlm_head\.prompts"):
        load_vlm_head(trained, base, OTHER, CPU)
    same = tmp_path / "same.yaml"
    same.write_text("# a comment changes no prompt\n" + PROMPTS.read_text())
    load_vlm_head(trained, base, same, CPU)

    with pytest.raises(InputError, match=r"vlm_head\.lora\.target_modules: .*nosuch"):
        PromptedClassifier(base, IMAGES, settings(lora={"target_modules": ["nosuch"]}), CPU, prompts=PROMPTS)
    with pytest.raises(InputError, match=r"speak of the views xz, yz.* Set vlm_head\.prompts to matching"):
        PromptedClassifier(base, IMAGES | {"views": ["u", "v"]}, settings(), CPU, prompts=PROMPTS)
    three = IMAGES | {"views": ["u", "v", "x"], "centre": None}
    with pytest.raises(InputError, match=r"made for 2 views, but the pixel maps have 3"):
        PromptedClassifier(base, three, settings(), CPU, prompts=THREE_VIEWS)

    spoiled = shutil.copytree(trained, tmp_path / "spoiled")
    card = read_json(spoiled / "training.json")
    write_json(spoiled / "training.json", card | {"classes": ["nue_cc", "nc"]}, sealed=True)
    (spoiled / "manifest.json").unlink()
    write_manifest(spoiled)
    with pytest.raises(InputError, match=r"the classes are \['nue_cc', 'nc'\], not"):
        load_vlm_head(spoiled, base, PROMPTS, CPU)


def test_pictures_that_do_not_reach_the_language_model_are_refused(tmp_path: Path) -> None:
    def blind(model: Any) -> None:
        model.model.multi_modal_projector.linear_2.weight.data.zero_()

    make_tiny("llava_next", tmp_path, blind)
    with pytest.raises(InputError, match=r"images: its answer is the same with view 1 replaced"):
        PromptedClassifier(tmp_path, IMAGES, settings(), CPU, prompts=PROMPTS)
