"""A base model of a published shape with random weights: what is written, and that it loads as any other."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers import AutoConfig, BitsAndBytesConfig

from nuvlm.base.errors import InputError
from nuvlm.base.manifest import verify_manifest
from nuvlm.models.vlm.model import load_model, load_processor, meta_model
from nuvlm.models.vlm.processors import read_processor
from nuvlm.models.vlm.prompts import answer_tokens, load_prompts
from nuvlm.models.vlm.random_base import build_random_base, shape_folder, write_shape
from nuvlm.models.vlm.scoring import Encoder, Scorer
from nuvlm.models.vlm.settings import HubSettings
from paths import REPOSITORY
from tiny_shape import PUBLISHED, SHAPES, make_tiny_shape

RESOURCES = REPOSITORY / "resources"


def build(folder: Path, shapes: Path, quantization: str = "nf4", *, bf16: bool = False, tiles: int | None = 1) -> Path:
    build_random_base(
        folder / "base", HubSettings(model=make_tiny_shape(shapes), max_tiles=tiles), shapes=shapes,
        chat_templates=RESOURCES / "chat_templates", prompts=RESOURCES / "prompts.yaml",
        vocabulary=RESOURCES / "rationales.yaml", quantization=quantization, bf16=bf16,
    )  # fmt: skip
    return folder / "base"


@pytest.mark.parametrize(("quantization", "bf16"), itertools.product(("nf4", "int8", "none"), (True, False)))
def test_it_loads_as_any_base_and_reads_the_images(tmp_path: Path, quantization: str, bf16: bool) -> None:
    base = build(tmp_path, tmp_path / "shapes", quantization, bf16=bf16)
    verify_manifest(base)
    processor = load_processor(base)
    model = load_model(base, quantization, bf16=bf16, device_map={"": "cpu"}).eval()
    assert {p.dtype for p in model.parameters() if p.is_floating_point()} == {torch.bfloat16 if bf16 else torch.float32}
    quantised = {p.dtype for p in model.parameters() if not p.is_floating_point()}
    assert quantised == {"nf4": {torch.uint8}, "int8": {torch.int8}, "none": set()}[quantization]
    texts = load_prompts(RESOURCES / "prompts.yaml")
    encode, answers = Encoder(processor, texts, model.dtype), answer_tokens(processor.tokenizer, texts)
    scores = [Scorer(model, answers)(encode([[Image.new("L", (64, 64), grey)] * 2]))[0][0] for grey in (0, 90)]
    assert abs(scores[0] - scores[1]).max() > 1e-3
    assert all(-100 < value < 0 for value in scores[0])


def test_it_is_what_loading_the_same_weights_unquantised_gives(tmp_path: Path) -> None:
    """The stored nf4 weights are those that transformers makes of the same numbers while it loads them."""
    plain = build(tmp_path / "a", tmp_path / "a" / "shapes", "none")
    stored = build(tmp_path / "b", tmp_path / "b" / "shapes", "nf4")
    loaded = [load_model(base, "nf4", bf16=False, device_map={"": "cpu"}).state_dict() for base in (plain, stored)]
    assert loaded[0].keys() == loaded[1].keys()
    for name, value in loaded[0].items():
        assert torch.equal(value, loaded[1][name]), name


def test_weights_quantised_in_another_way_are_refused(tmp_path: Path) -> None:
    base = build(tmp_path, tmp_path / "shapes", "nf4", bf16=True)
    for quantization, bf16 in (("int8", True), ("none", True), ("nf4", False)):
        with pytest.raises(InputError, match="already quantised"):
            load_model(base, quantization, bf16=bf16, device_map={"": "cpu"})


def test_no_unquantised_matrix_is_written(tmp_path: Path) -> None:
    base = build(tmp_path, tmp_path / "shapes", "nf4", bf16=True)
    config = json.loads((base / "config.json").read_text())
    assert BitsAndBytesConfig.from_dict(config["quantization_config"]).load_in_4bit
    parameters = sum(p.numel() for p in meta_model(AutoConfig.from_pretrained(base)).parameters())
    assert sum(file.stat().st_size for file in base.glob("*.safetensors")) < 2 * parameters
    with safe_open(base / "model-00001.safetensors", framework="pt") as file:
        linear = [name for name in file.keys() if name.endswith("q_proj.weight")]  # noqa: SIM118
        assert linear
        assert {file.get_tensor(name).dtype for name in linear} == {torch.uint8}


def test_the_published_shape_has_the_published_numbers(tmp_path: Path) -> None:
    shape = shape_folder(PUBLISHED, SHAPES)
    model = meta_model(AutoConfig.from_pretrained(shape))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(10.67e9, rel=1e-3)


def test_the_tokenizer_has_the_published_ids(tmp_path: Path) -> None:
    from nuvlm.models.vlm.random_base import _make_tokenizer
    from nuvlm.models.vlm.rationales import load_rationales

    shape = shape_folder(PUBLISHED, SHAPES)
    texts = load_prompts(RESOURCES / "prompts.yaml")
    tokenizer = _make_tokenizer(
        shape, AutoConfig.from_pretrained(shape), texts, load_rationales(RESOURCES / "rationales.yaml")
    )
    assert tokenizer.get_vocab_size() == 128257
    assert tokenizer.token_to_id("<|image|>") == 128256
    ids = tokenizer.encode(f"<|begin_of_text|>{texts.system}<|eot_id|>").ids
    assert (ids[0], ids[-1]) == (128000, 128009)
    assert max(ids[1:-1]) < 128000
    assert tokenizer.decode(ids[1:-1]) == texts.system


def test_an_unknown_shape_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=PUBLISHED):
        shape_folder("somebody/else", SHAPES)


def test_tiles(tmp_path: Path) -> None:
    """As published, or one; a number that the model does not have is refused."""
    four = build(tmp_path / "four", tmp_path / "a", tiles=None)
    assert AutoConfig.from_pretrained(four).vision_config.max_num_tiles == 4
    shape = tmp_path / "a" / "tiny--mllama" / "config.json"
    config = json.loads(shape.read_text())
    config["vision_config"] |= {"max_num_tiles": 2, "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]]}
    shape.write_text(json.dumps(config))
    refuse(tmp_path, "made for 2 tiles, not 4")
    config["vision_config"]["supported_aspect_ratios"] = None  # without them transformers wants four tiles
    shape.write_text(json.dumps(config))
    refuse(tmp_path, r"config\.json: transformers does not accept it")


def refuse(folder: Path, message: str) -> None:
    """Nothing is built of the shape in `folder` / a."""
    with pytest.raises(InputError, match=message):
        build_random_base(
            folder / "refused", HubSettings(model="tiny/mllama"), shapes=folder / "a",
            chat_templates=RESOURCES / "chat_templates", prompts=RESOURCES / "prompts.yaml",
            vocabulary=RESOURCES / "rationales.yaml", quantization="nf4", bf16=True,
        )  # fmt: skip
    assert not (folder / "refused").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "tiles", "parameters", "tokens"),
    [("Qwen/Qwen3-VL-2B-Instruct", None, 2.13e9, 256), ("HuggingFaceTB/SmolVLM2-2.2B-Instruct", 1, 2.25e9, 81)],
)
def test_shapes_of_open_models(tmp_path: Path, name: str, tiles: int | None, parameters: float, tokens: int) -> None:
    """Their published size, the tokens of a picture of 512 x 512, and the texts of a conversation."""
    write_shape(
        tmp_path / "base", HubSettings(model=name, max_tiles=tiles), shapes=SHAPES,
        chat_templates=RESOURCES / "chat_templates", prompts=RESOURCES / "prompts.yaml",
        vocabulary=RESOURCES / "rationales.yaml",
    )  # fmt: skip
    model = meta_model(AutoConfig.from_pretrained(tmp_path / "base"))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(parameters, rel=0.01)
    processor, texts = read_processor(tmp_path / "base"), load_prompts(RESOURCES / "prompts.yaml")
    ids = Encoder(processor, texts)([[Image.new("L", (512, 512))] * 2])["input_ids"][0]
    assert (ids == model.config.image_token_id).sum() == 2 * tokens
    text = processor.tokenizer.decode(ids)
    assert texts.system in text
    assert text.endswith(texts.prefix)
    assert answer_tokens(processor.tokenizer, texts).end < model.config.text_config.vocab_size
