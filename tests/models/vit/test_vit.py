"""The vision tower without language: its logits, training, resume, saliency, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from interrupted import assert_resumes_exactly
from nuvlm.base.errors import InputError
from nuvlm.base.manifest import write_manifest
from nuvlm.base.stores import open_store
from nuvlm.models.classifier.settings import TrainingRecipe
from nuvlm.models.head.saliency import occlusion
from nuvlm.models.jobs import ClassificationJob, ExplanationJob
from nuvlm.models.predictions import read_predictions
from nuvlm.models.vit import jobs
from nuvlm.models.vit.network import VisionClassifier, load_vit
from nuvlm.models.vit.settings import Adapters, VitTrainSettings
from nuvlm.models.vit.training import Job, train_vit
from nuvlm.models.vlm.dataset import to_pictures
from nuvlm.models.vlm.model import load_model, load_processor

CPU = torch.device("cpu")
IMAGES = {"views": ["xz", "yz"], "size": 56, "centre": "charge"}
Data = tuple[Path, dict[str, Path]]


def settings(**changes: Any) -> VitTrainSettings:
    recipe = TrainingRecipe(optimizer="adamw", learning_rate=3e-3, batch_size=6, max_epochs=8, patience=8)
    return VitTrainSettings.model_validate({"recipe": recipe, "lora": {"dropout": 0.1}} | changes)


def make_job(folder: Path, base: Path, dataset: Data, **changes: Any) -> Job:
    events, stores = dataset
    return Job(
        base=base, events=events, stores=stores, out=folder / "vit", checkpoint=folder / "checkpoints" / "vit.pt",
        tensorboard=folder / "tensorboard", settings=settings(**changes), threads=1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, base: Path, dataset: Data) -> Path:
    folder = tmp_path_factory.mktemp("vit")
    train_vit(make_job(folder, base, dataset))
    return folder / "vit"


def classify(trained: Path, base: Path, dataset: Data, out: Path, zoom: int = 1) -> pd.DataFrame:
    events, stores = dataset
    jobs.classify(
        ClassificationJob(
            model="vit", events=events, stores=stores, inputs={"base": base / "manifest.json"},
            settings={"batch_size": 4}, threads=1, folder=trained, part=0, zoom=zoom,
            outputs={"nominal": out / "nominal.parquet", "half_resolution": out / "half.parquet"},
        )
    )  # fmt: skip
    return read_predictions([out / "nominal.parquet"])


def explain(trained: Path, base: Path, dataset: Data, out: Path, zoom: int = 1) -> None:
    events, stores = dataset
    jobs.explain(
        ExplanationJob(
            model="vit", events=events, stores=stores, inputs={"base": base / "manifest.json"}, settings={}, threads=1,
            folder=trained, out=out / "maps.zarr", part=0, predictions={"vit": out / "nominal.parquet"},
            condition="nominal", count=6, seed=7, zoom=zoom,
        )
    )  # fmt: skip


def test_logits_are_those_of_the_tower_and_a_linear_head(base: Path) -> None:
    torch.manual_seed(1)
    network = VisionClassifier(base, IMAGES, settings(quantization="none", adapt="head"), CPU).eval()
    grey = torch.from_numpy(np.random.default_rng(2).integers(0, 255, (3, 2, 56, 56), dtype=np.uint8))
    whole: Any = load_model(base, "none", bf16=False, device_map={"": "cpu"}).eval()
    pictures = [to_pictures(views, "black") for views in grey.numpy()]
    seen = load_processor(base).image_processor(pictures, return_tensors="pt")
    names = ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask")
    with torch.inference_mode():
        states = whole.model.vision_model(**{name: seen[name] for name in names}).last_hidden_state
        mean = states.reshape(3, 2, -1, states.shape[-1]).mean(dim=2).flatten(1)
        norm, _, linear = network.head
        expected = torch.nn.functional.layer_norm(mean, mean.shape[1:], norm.weight, norm.bias) @ linear.weight.T
        found = network(network.prepare(grey, CPU))
    torch.testing.assert_close(found, expected + linear.bias, atol=1e-5, rtol=1e-5)
    assert not any("language_model.layers" in name for name, _ in network.named_parameters()), "it is dropped"


def test_it_learns_and_writes_only_what_it_has_trained(
    trained: Path, base: Path, dataset: Data, tmp_path: Path
) -> None:
    card = json.loads((trained / "training.json").read_text())
    assert card["history"][-1]["train_loss"] < 0.6 * card["history"][0]["train_loss"]
    weights = load_file(trained / "model.safetensors")
    assert {name.split(".")[0] for name in weights} == {"model", "head"}
    assert all("lora_" in name for name in weights if name.startswith("model."))
    assert sum(value.numel() for value in weights.values()) == card["trainable_parameters"]
    table = classify(trained, base, dataset, tmp_path)
    np.testing.assert_allclose(table[["p_nue_cc", "p_numu_cc", "p_nc"]].sum(axis=1), 1, atol=1e-6)


def test_checkpointing_changes_no_gradient(base: Path) -> None:
    grey = torch.from_numpy(np.random.default_rng(2).integers(0, 255, (3, 2, 56, 56), dtype=np.uint8))
    found = []
    for checkpointing in (True, False):
        torch.manual_seed(1)
        network = VisionClassifier(base, IMAGES, settings(gradient_checkpointing=checkpointing), CPU).train()
        torch.manual_seed(2)  # of dropout
        network(network.prepare(grey, CPU)).square().sum().backward()
        found.append({name: value.grad for name, value in network.named_parameters() if value.grad is not None})
    assert found[0].keys() == found[1].keys() == {name for name, p in network.named_parameters() if p.requires_grad}
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize("adapt", ["all", "head"])
def test_other_parts_can_be_trained(adapt: str, base: Path, dataset: Data, tmp_path: Path) -> None:
    recipe = TrainingRecipe(learning_rate=1e-3, max_epochs=1)
    train_vit(make_job(tmp_path, base, dataset, adapt=adapt, quantization="none", recipe=recipe))
    names = load_file(tmp_path / "vit" / "model.safetensors").keys()
    assert any("vision_model" in name for name in names) == (adapt == "all")
    assert load_vit(tmp_path / "vit", base, CPU).head[2].out_features == 3


def test_a_stopped_training_ends_as_an_uninterrupted_one(
    trained: Path, base: Path, dataset: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, again = (make_job(tmp_path, base, dataset, **kept) for kept in ({}, {"gradient_checkpointing": False}))
    assert_resumes_exactly(train_vit, job, again, trained, monkeypatch)


def test_occlusion_finds_what_decides() -> None:
    class Brightness(VisionClassifier):
        """The logit of class 0 is the brightest pixel of the first view."""

        def __init__(self) -> None:
            torch.nn.Module.__init__(self)

        def prepare(self, grey: torch.Tensor, device: torch.device) -> Any:
            return grey.float()

        def forward(self, prepared: Any) -> torch.Tensor:
            first = prepared[:, 0].amax(dim=(1, 2)) / 50
            return torch.stack([first, torch.zeros_like(first)], dim=1)

    grey = torch.zeros(1, 2, 60, 60, dtype=torch.uint8)
    grey[0, 0, 20:22, 40:42], grey[0, 0, 50, 5], grey[0, 1, 10, 10] = 250, 100, 255
    found = occlusion(Brightness(), grey, torch.tensor([0]))
    assert found.shape == grey.shape
    assert not found[0, 1].any()
    assert divmod(int(found[0, 0].argmax()), 60) == pytest.approx((20, 44), abs=4)
    assert found[0, 0, 50, 5] == 0, "another pixel is brighter"


def test_a_zoomed_map_is_seen_as_one_with_larger_pixels(base: Path, dataset: Data, tmp_path: Path) -> None:
    grey = np.random.default_rng(2).integers(0, 255, (2, 2, 20, 20), dtype=np.uint8)
    large = np.kron(grey, np.ones((3, 3), dtype=np.uint8))
    for background in ("black", "white"):
        pictures = to_pictures(grey[0], background, 3), to_pictures(large[0], background)
        np.testing.assert_array_equal(*(np.stack([np.asarray(picture) for picture in views]) for views in pictures))
    network, other = (VisionClassifier(base, IMAGES | zoom, settings(), CPU) for zoom in ({"zoom": 3}, {}))
    (_, found), (_, expected) = (of.prepare(torch.from_numpy(v), CPU) for of, v in ((network, grey), (other, large)))
    assert all(torch.equal(found[name], expected[name]) for name in expected)

    recipe = TrainingRecipe(learning_rate=1e-3, max_epochs=1)
    train_vit(make_job(tmp_path, base, dataset, recipe=recipe).model_copy(update={"zoom": 2}))
    assert json.loads((tmp_path / "vit" / "training.json").read_text())["images"]["zoom"] == 2
    with pytest.raises(InputError, match="zoom is 1, the model was trained with 2"):
        classify(tmp_path / "vit", base, dataset, tmp_path)
    classify(tmp_path / "vit", base, dataset, tmp_path, zoom=2)
    explain(tmp_path / "vit", base, dataset, tmp_path, zoom=2)
    assert open_store(tmp_path / "maps.zarr", "nuvlm-cam")["maps"].shape[1:] == (2, 56, 56), "as the pixel maps"


def test_explained_events_have_maps(trained: Path, base: Path, dataset: Data, tmp_path: Path) -> None:
    classify(trained, base, dataset, tmp_path)
    explain(trained, base, dataset, tmp_path)
    store = open_store(tmp_path / "maps.zarr", "nuvlm-cam")
    assert len(store["event_id"][:]) == 6
    assert store["maps"][:].max() == 255
    lost = dict(zip(store.attrs["fall"], store["fall"][:].mean(axis=0), strict=True))
    assert lost["map"] > lost["random"]


def test_what_does_not_fit_is_refused(trained: Path, base: Path, dataset: Data, tmp_path: Path) -> None:
    other = shutil.copytree(base, tmp_path / "other")
    (other / "more.txt").write_text("another base")
    (other / "manifest.json").unlink()
    write_manifest(other)
    with pytest.raises(InputError, match="trained with another base model"):
        load_vit(trained, other, CPU)

    spoiled = shutil.copytree(trained, tmp_path / "spoiled")
    weights = load_file(spoiled / "model.safetensors")
    save_file(weights | {"head.2.bias": torch.full((3,), torch.nan)}, spoiled / "model.safetensors")
    (spoiled / "manifest.json").unlink()
    write_manifest(spoiled)
    with pytest.raises(InputError, match=r"head\.2\.bias\) are not finite"):
        load_vit(spoiled, base, CPU)
    weights.pop("head.2.bias")
    save_file(weights, spoiled / "model.safetensors")
    (spoiled / "manifest.json").unlink()
    write_manifest(spoiled)
    with pytest.raises(InputError, match=r"does not fit .*head\.2\.bias"):
        load_vit(spoiled, base, CPU)

    with pytest.raises(InputError, match=r"no linear layer named nosuch\. Name some of .*q_proj"):
        VisionClassifier(base, IMAGES, settings(lora=Adapters(target_modules=("q_proj", "nosuch"))), CPU)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValidationError, match="set quantization to none"):
        VitTrainSettings(adapt="all")
