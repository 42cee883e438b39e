"""FLOP counted on shapes, against the real pass and a calculation by hand."""

from functools import partial

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from benchmark_scripts import load_benchmark
from nuvlm.dataset.event_table import read_events
from nuvlm.dataset.pixelmaps import image_settings
from nuvlm.models.vlm.adapter import lora_config
from nuvlm.models.vlm.arithmetic import count_arithmetic, matmul_rate, weight_bytes
from nuvlm.models.vlm.dataset import conversations
from nuvlm.models.vlm.families import family_of
from nuvlm.models.vlm.model import load_model, load_processor, meta_model
from nuvlm.models.vlm.prompts import prompts_for
from nuvlm.models.vlm.settings import LoraSettings
from nuvlm.models.vlm.training import Job


@pytest.fixture
def event(job: Job) -> dict[str, torch.Tensor]:
    """One event, as the trainer gives it to the model."""
    texts = prompts_for(job.prompts, image_settings(job.stores), job.settings.background)
    rows = conversations(read_events(job.events), job.stores, texts, background=job.settings.background)
    return dict(DataCollatorForVisionLanguageModeling(load_processor(job.base), assistant_only_loss=True)([rows[0]]))


@pytest.mark.parametrize("vision", [True, False])
def test_a_real_pass_does_what_was_counted(job: Job, event: dict[str, torch.Tensor], vision: bool) -> None:
    from peft import get_peft_model

    tower = family_of(job.base).vision_tower
    lora = LoraSettings(vision=vision)
    counted = count_arithmetic(
        AutoConfig.from_pretrained(job.base), event, lora, vision_tower=tower, checkpointing=False
    )
    model = load_model(job.base, "none", bf16=False, device_map={"": "cpu"})
    model.set_attn_implementation("eager")  # the counter does not know the fused attention of CPUs
    inputs = {name: value for name, value in event.items() if name != "labels"}
    with torch.no_grad(), FlopCounterMode(display=False) as forward:
        model(**inputs, use_cache=False, logits_to_keep=1)
    assert counted.forward == forward.get_total_flops()
    model = get_peft_model(model, lora_config(model, lora, tower)).train()
    with FlopCounterMode(display=False) as training:
        model(**inputs, use_cache=False).logits.sum().backward()
    assert counted.training == training.get_total_flops()
    assert counted.trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_linear_layers_are_two_operations_a_weight_and_token(job: Job, event: dict[str, torch.Tensor]) -> None:
    """The text layers, from the config by hand: forward FLOP that one more token costs, without attention."""
    config = AutoConfig.from_pretrained(job.base)
    lora = {"lora": LoraSettings(), "vision_tower": family_of(job.base).vision_tower, "checkpointing": False}
    longer = {
        name: torch.cat([value, value[:, -1:]], dim=1) if value.shape[1] == event["input_ids"].shape[1] else value
        for name, value in event.items()
    }
    more = count_arithmetic(config, longer, **lora).forward
    more -= count_arithmetic(config, event, **lora).forward
    text, length = config.text_config, event["input_ids"].shape[1]
    head = text.hidden_size // text.num_attention_heads
    keys = 2 * text.hidden_size * text.num_key_value_heads * head  # k and v; q and o below
    cross = len(text.cross_attention_layers)
    weights = text.num_hidden_layers * (2 * text.hidden_size**2 + 3 * text.hidden_size * text.intermediate_size)
    weights += (text.num_hidden_layers - cross) * keys
    patches = event["pixel_values"].shape[1] * (
        (config.vision_config.image_size // config.vision_config.patch_size) ** 2 + 1
    )
    attention = (text.num_hidden_layers - cross) * 2 * (2 * length + 1) + cross * 2 * patches  # q k and weights v
    assert more == pytest.approx(2 * (weights + attention * text.hidden_size), rel=0.05)


def test_quantised_weights_take_what_was_reckoned(job: Job) -> None:
    for quantization in ("nf4", "none"):
        model = load_model(job.base, quantization, bf16=True, device_map={"": "cpu"})
        real = model.get_memory_footprint(return_buffers=False)
        quantised, plain = weight_bytes(meta_model(AutoConfig.from_pretrained(job.base)), quantization)
        # bitsandbytes keeps the scales beside the parameters
        assert quantised * (64 / 66 if quantization == "nf4" else 1) + plain == pytest.approx(real, rel=0.02)


def test_rate_is_that_of_a_processor() -> None:
    assert 1e8 < matmul_rate(torch.device("cpu"), torch.float32, seconds=0.05) < 1e13


@pytest.mark.long
def test_published_shape_has_the_published_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The 11B model: 10.67 B parameters, 29,491,200 in the published adapters; 11.35 and 44.65 TFLOP forward."""
    benchmark = load_benchmark("vlm_floor", monkeypatch)
    for tiles, forward in ((1, 11.35e12), (4, 44.65e12)):
        config = benchmark.with_tiles(benchmark.eleven_b(), tiles)
        event = benchmark.one_event(config, tokens=258, views=2)
        count = partial(benchmark.count_arithmetic, config, event, vision_tower=r".*vision_model.*")
        published = count(LoraSettings(), checkpointing=True)
        assert published.forward == pytest.approx(forward, rel=0.002)
        assert published.trainable == 29_491_200
        frozen = count(LoraSettings(vision=False), checkpointing=True)
        assert frozen.trainable == 26_214_400
        assert frozen.training < 0.75 * published.training, "the frozen tower is not walked backwards"
    assert published.parameters == pytest.approx(10.67e9, rel=0.001)
