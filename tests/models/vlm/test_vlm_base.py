"""The base model made from scratch, and the scenes that it learns to describe."""

import json
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from nuvlm.base.errors import InputError
from nuvlm.base.manifest import verify_manifest
from nuvlm.models.vlm import pretraining
from nuvlm.models.vlm.model import load_processor
from nuvlm.models.vlm.pretraining import build_base_model
from nuvlm.models.vlm.prompts import load_prompts
from nuvlm.models.vlm.rationales import load_rationales
from nuvlm.models.vlm.settings import ScratchSettings
from nuvlm.models.vlm.shapes import draw_scene
from stores import write_pixel_maps

SMALL = ScratchSettings(
    hidden=64, text_layers=2, vision_layers=1, heads=2, image_size=28, patch_size=14, vocabulary=600, steps=3,
    batch_size=2,
)  # fmt: skip


def test_same_seed_same_model(prompts_file: Path, vocabulary_file: Path, chat_template: Path, tmp_path: Path) -> None:
    models = []
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        settings = SMALL.model_copy(update={"seed": seed})
        build_base_model(
            tmp_path / name, settings, prompts=prompts_file, vocabulary=vocabulary_file, chat_template=chat_template,
            tensorboard=tmp_path / "tb",
        )  # fmt: skip
        verify_manifest(tmp_path / name)
        models.append(load_file(tmp_path / name / "model.safetensors"))
    a, b, c = models
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], c[name]) for name in a)


def test_a_stopped_pretraining_goes_on_as_if_it_had_not_been(
    prompts_file: Path, vocabulary_file: Path, chat_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {"prompts": prompts_file, "vocabulary": vocabulary_file, "chat_template": chat_template}
    checkpoint = tmp_path / "checkpoints" / "base.pt"

    def build(name: str, settings: ScratchSettings = SMALL) -> Path:
        out = tmp_path / name
        build_base_model(out, settings, **texts, tensorboard=tmp_path / f"{name}_tb", checkpoint=checkpoint)
        return out

    whole = build("whole")
    drawn = 0

    def draw_and_stop(*args: object) -> object:
        nonlocal drawn
        drawn += 1
        if drawn == SMALL.batch_size + 1:  # in the second step
            signal.raise_signal(signal.SIGTERM)
        return draw_scene(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(pretraining, "draw_scene", draw_and_stop)
    with pytest.raises(SystemExit):
        build("stopped")
    assert checkpoint.exists()
    assert not (tmp_path / "stopped").exists()
    with pytest.raises(InputError, match="learning_rate"):
        build("stopped", SMALL.model_copy(update={"learning_rate": 1e-4}))
    before = drawn
    resumed = build("stopped")
    assert drawn - before == (SMALL.steps - 2) * SMALL.batch_size + 4 * SMALL.batch_size, "only what was left"
    assert not checkpoint.exists()
    a, b = (load_file(folder / "model.safetensors") for folder in (whole, resumed))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert (whole / "pretraining.json").read_text() == (resumed / "pretraining.json").read_text()


def test_images_reach_the_text_from_the_start(base: Path) -> None:
    """Zero gates, the default of the class, would keep a frozen base blind for ever."""
    weights = load_file(base / "model.safetensors")
    gates = {name: value for name, value in weights.items() if "cross_attn_attn_gate" in name}
    assert gates
    assert all(value.abs().min() > 0.5 for value in gates.values())


def test_pretraining_teaches(base: Path) -> None:
    summary = json.loads((base / "pretraining.json").read_text())
    assert summary["token_accuracy"] > 0.6


def test_tokenizer_loses_no_text(base: Path) -> None:
    tokenizer = load_processor(base).tokenizer
    text = "Müon νμ → 0.5 GeV,\n\n  it's 1234567 tracks"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_pretraining_leaves_words_alone_that_it_does_not_use(base: Path) -> None:
    """Labels and rationales are made of them, and fine-tuning trains no word."""
    weights = load_file(base / "model.safetensors")
    (output,) = (value for name, value in weights.items() if name.endswith("lm_head.weight"))
    (entered,) = (value for name, value in weights.items() if name.endswith("embed_tokens.weight"))
    tokenizer = load_processor(base).tokenizer
    for word, alike in ((" track", True), (" shower", True), (" lines", False), (" blobs", False)):
        row, *_ = tokenizer(word, add_special_tokens=False)["input_ids"]
        assert torch.allclose(output[row], entered[row], atol=1e-6) == alike, word


def test_numbers_are_alike_from_the_start(prompts_file: Path, vocabulary_file: Path) -> None:
    tokenizer = pretraining._train_tokenizer(768, load_prompts(prompts_file), load_rationales(vocabulary_file))
    embeddings = torch.randn(769, 64, generator=torch.Generator().manual_seed(3)) / 8
    others = embeddings.clone()
    pretraining._relate_numbers(embeddings, tokenizer)
    words = ("20", "25", "200", "250", "800", "Ġtrack", "Ġcm")
    ids = {word: tokenizer.convert_tokens_to_ids(word) for word in words}
    changed = (embeddings != others).any(dim=1)
    assert all(changed[ids[text]] for text in ids if text.isdigit())
    assert not changed[ids["Ġtrack"]]
    assert not changed[ids["Ġcm"]]
    near = torch.nn.functional.cosine_similarity(embeddings[:, None], embeddings[None], dim=-1)
    assert near[ids["200"], ids["250"]] > near[ids["200"], ids["20"]] > near[ids["200"], ids["Ġtrack"]]
    assert near[ids["20"], ids["25"]] > near[ids["20"], ids["800"]]
    assert embeddings[changed].norm(dim=1).mean() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("size", [28, 112])
def test_scenes_are_pictures_with_words(size: int) -> None:
    rng = np.random.default_rng(5)
    described = set()
    for _ in range(50):
        views, text = draw_scene(rng, size)
        assert views.shape == (2, size, size)
        assert views.dtype == np.uint8
        assert re.match(r"There are \d lines, \d sprays, \d blobs\. ", text)
        described.add(text)
    assert len(described) > 40


def test_both_views_show_the_same_scene() -> None:
    """The common axis of the views is the horizontal one: their column sums are those of one cube."""
    rng = np.random.default_rng(6)
    for _ in range(20):
        top, side = draw_scene(rng, 64)[0]
        assert np.array_equal(top.any(axis=0), side.any(axis=0))


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_more_views_see_the_same_scene_from_between(count: int) -> None:
    for seed in range(10):
        two, _ = draw_scene(np.random.default_rng(seed), 64)
        views, _ = draw_scene(np.random.default_rng(seed), 64, count)
        assert views.shape == (count, 64, 64)
        assert np.array_equal(views[:2], two[:count])
        # a little may leave a slanted view at its top and bottom
        assert not (views.any(axis=(0, 1)) & ~two.any(axis=(0, 1))).any()
        if (two > 0).sum() > 50:
            assert len({view.tobytes() for view in views}) == count


def test_the_number_of_views_is_that_of_the_pixel_maps(
    prompts_file: Path, vocabulary_file: Path, chat_template: Path, tmp_path: Path
) -> None:
    write_pixel_maps(tmp_path / "maps.zarr", np.zeros((2, 3, 32, 32), np.uint8), views=("u", "v", "z"))
    texts = {"prompts": prompts_file.with_name("prompts_dune_cvn.yaml"), "chat_template": chat_template}
    texts["vocabulary"] = vocabulary_file
    for maps, expected in ((None, 2), (tmp_path / "maps.zarr", 3)):
        out = tmp_path / str(expected)
        build_base_model(out, SMALL, **texts, tensorboard=tmp_path, pixel_maps=maps)
        assert json.loads((out / "pretraining.json").read_text())["views"] == expected
    with pytest.raises(InputError, match="its texts speak of the views xz, yz, but the pixel maps have u, v, z"):
        build_base_model(out, SMALL, **texts | {"prompts": prompts_file}, tensorboard=tmp_path, pixel_maps=maps)
