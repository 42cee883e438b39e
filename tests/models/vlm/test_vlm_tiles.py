"""Image tiles of Mllama: four as published, or one with sliced embeddings."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from nuvlm.base.errors import InputError
from nuvlm.base.manifest import write_manifest
from nuvlm.models.vlm.dataset import to_pictures
from nuvlm.models.vlm.model import load_model, load_processor
from nuvlm.models.vlm.probe import probe
from nuvlm.models.vlm.prompts import answer_tokens, load_prompts
from nuvlm.models.vlm.scoring import beam, encode, score
from nuvlm.models.vlm.shapes import draw_scene
from nuvlm.models.vlm.tiles import TILE_EMBEDDINGS, published_tiles, set_one_tile
from tiny_models import make_mllama, make_tiny


@pytest.fixture
def four(base: Path, tmp_path: Path) -> Path:
    make_mllama(tmp_path / "four", base)
    return tmp_path / "four"


def run(folder: Path, prompts_file: Path) -> tuple[Any, dict[str, torch.Tensor], dict[str, np.ndarray]]:
    """The model, its inputs for two events, and the joint scores by both methods."""
    processor, prompts = load_processor(folder), load_prompts(prompts_file)
    model = load_model(folder, "none", bf16=False, device_map={"": "cpu"}).eval()
    rng = np.random.default_rng(11)
    pictures = [to_pictures(draw_scene(rng, 56)[0], "black") for _ in range(2)]
    inputs = encode(processor, prompts, pictures, torch.device("cpu"))
    answers = answer_tokens(processor.tokenizer, prompts)
    return model, inputs, {method.__name__: method(model, dict(inputs), answers)[0] for method in (score, beam)}


@pytest.mark.parametrize("tiles", [1, 4])
def test_tiles_reach_the_model(four: Path, prompts_file: Path, tiles: int) -> None:
    if tiles == 1:
        slice_tiles(four)
    model, inputs, scores = run(four, prompts_file)
    assert model.config.vision_config.max_num_tiles == tiles
    assert inputs["pixel_values"].shape == (2, 2, tiles, 3, 56, 56)
    assert inputs["aspect_ratio_mask"].shape == (2, 2, tiles)
    # A picture of one tile's size fills the first; the others are padding that no text sees.
    assert inputs["aspect_ratio_mask"].sum(dim=-1).eq(1).all()
    assert inputs["cross_attention_mask"].shape[2:] == (2, tiles)
    np.testing.assert_allclose(scores["score"], scores["beam"], atol=2e-4)


def test_one_tile_keeps_the_embeddings_of_the_first_and_nothing_else_changes(four: Path) -> None:
    before = load_file(four / "model.safetensors")
    slice_tiles(four)
    after = load_file(four / "model.safetensors")
    sliced = [name for name in before if name.endswith(TILE_EMBEDDINGS)]
    assert len(sliced) == 3
    assert after.keys() == before.keys()
    for name, value in before.items():
        # Eight aspect ratios and the row of no image; the second row is that of one tile.
        expected = value.view(9, 4, -1)[:2, 0] if name in sliced else value
        torch.testing.assert_close(after[name].view_as(expected), expected, rtol=0, atol=0)


def test_one_tile_is_four_without_sight_of_the_padding(
    four: Path, prompts_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The padding's part in the vision tower's attention is all that the two models differ by."""
    from transformers.models.mllama import modeling_mllama

    _, _, published = run(four, prompts_file)
    masked = modeling_mllama._prepare_aspect_ratio_attention_mask

    def hide_padding(aspect_ratio_mask: torch.Tensor, target_length: int, **others: Any) -> torch.Tensor:
        mask = masked(aspect_ratio_mask=aspect_ratio_mask, target_length=target_length, **others)
        padding = (aspect_ratio_mask == 0).repeat_interleave(target_length, dim=1)  # (images, keys)
        return mask.masked_fill(padding[:, None, None], torch.finfo(mask.dtype).min)

    with monkeypatch.context() as patch:
        patch.setattr(modeling_mllama, "_prepare_aspect_ratio_attention_mask", hide_padding)
        _, _, unpadded = run(four, prompts_file)
    slice_tiles(four)
    _, _, one = run(four, prompts_file)
    np.testing.assert_allclose(one["score"], unpadded["score"], atol=1e-4)
    assert np.abs(one["score"] - published["score"]).max() > 1e-3


def test_what_has_no_tile_embeddings_is_refused(four: Path) -> None:
    weights = load_file(four / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.endswith(TILE_EMBEDDINGS[1])}
    save_file(kept, four / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"2 of the 3 tile embeddings.*max_tiles to null"):
        slice_tiles(four)


def slice_tiles(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    set_one_tile(folder)
    write_manifest(folder)


@pytest.mark.parametrize(
    ("kind", "cut", "whole"),
    [
        ("idefics3", (1, 10, 3, 28, 28), (1, 2, 3, 28, 28)),
        ("internvl", (10, 3, 28, 28), (2, 3, 28, 28)),
        ("llava_next", (2, 5, 3, 28, 28), (2, 2, 3, 28, 28)),  # the whole picture, and one tile
    ],
)
def test_one_tile_in_families_that_cut_pictures(
    kind: str, cut: tuple[int, ...], whole: tuple[int, ...], tmp_path: Path, prompts_file: Path
) -> None:
    make_tiny(kind, tmp_path)
    assert published_tiles(tmp_path) is None
    picture = to_pictures(draw_scene(np.random.default_rng(11), 56)[0], "black")

    def shape() -> tuple[int, ...]:
        inputs = encode(load_processor(tmp_path), load_prompts(prompts_file), [picture], torch.device("cpu"))
        return tuple(inputs["pixel_values"].shape)

    assert shape() == cut
    slice_tiles(tmp_path)
    assert shape() == whole
    assert published_tiles(tmp_path) == 1
    model = load_model(tmp_path, "none", bf16=False, device_map={"": "cpu"})
    probe(model, load_processor(tmp_path), load_prompts(prompts_file), 2, 56)


@pytest.mark.parametrize("kind", ["qwen3_vl", "gemma3"])
def test_families_without_tiles_are_left_as_they_are(kind: str, tmp_path: Path) -> None:
    make_tiny(kind, tmp_path)
    assert published_tiles(tmp_path) == 1
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    slice_tiles(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
