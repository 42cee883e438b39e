"""Families of models, each tiny and random, of the published classes: loaded, checked, scored, trained, explained."""

import json
import os
import re
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForImageTextToText
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from conftest import ground
from nuvlm.base.classes import CLASSES
from nuvlm.base.errors import InputError
from nuvlm.base.manifest import MANIFEST, write_manifest
from nuvlm.models.predictions import read_predictions
from nuvlm.models.vlm.arithmetic import count_arithmetic
from nuvlm.models.vlm.batches import take
from nuvlm.models.vlm.classify import classify_vlm
from nuvlm.models.vlm.dataset import to_pictures
from nuvlm.models.vlm.explain import explain_vlm
from nuvlm.models.vlm.families import family_of, vision_tower
from nuvlm.models.vlm.features import patch_features
from nuvlm.models.vlm.footprint import count_footprint
from nuvlm.models.vlm.model import load_model, load_processor
from nuvlm.models.vlm.probe import probe
from nuvlm.models.vlm.prompts import answer_tokens, conversation, load_prompts
from nuvlm.models.vlm.scoring import Encoder, Scorer, beam, encode
from nuvlm.models.vlm.settings import ClassifySettings, ExplainSettings, FinetuneSettings, LoraSettings
from nuvlm.models.vlm.shapes import draw_scene
from nuvlm.models.vlm.training import Job, finetune
from paths import REPOSITORY
from tiny_models import FAMILIES, make_tiny

CPU = torch.device("cpu")
REFUSED = {
    "mistral3": r"processor: it needs a package that is missing \(PixtralProcessor requires the Torchvision library",
    "paligemma": r"prefix: text with and without an answer splits into different tokens",
}
SUPPORTED = [kind for kind in FAMILIES if kind not in REFUSED]
WRONG_BEAMS = ("glm4v",)
"""Families for which transformers mixes up the views of an event when there are several beams."""
ALWAYS = ("qwen3_vl", "smolvlm")
"""Families whose whole chain is tried in every run: those that the overlays choose."""
CHAIN = [pytest.param(kind, marks=[] if kind in ALWAYS else pytest.mark.long) for kind in SUPPORTED]


@pytest.fixture(scope="module")
def pictures() -> list[Any]:
    rng = np.random.default_rng(11)
    return [to_pictures(draw_scene(rng, 56)[0], "black") for _ in range(3)]


@pytest.mark.parametrize("kind", SUPPORTED)
def test_loaded_checked_and_scored(kind: str, tmp_path: Path, prompts_file: Path, pictures: list[Any]) -> None:
    """Scores are those of a pass over each whole conversation, encoded as the training encodes it."""
    make_tiny(kind, tmp_path)
    prompts, processor = load_prompts(prompts_file), load_processor(tmp_path)
    model: Any = load_model(tmp_path, "none", bf16=False, device_map={"": "cpu"}).eval()
    probe(model, processor, prompts, 2, 56)
    answers, encoder = answer_tokens(processor.tokenizer, prompts), Encoder(processor, prompts)
    assert answers.end == processor.tokenizer.convert_tokens_to_ids(FAMILIES[kind].end)

    collate = DataCollatorForVisionLanguageModeling(processor, assistant_only_loss=True)
    expected = np.zeros((2, len(pictures), 3))
    for k, name in enumerate(CLASSES):
        rows = [{"images": views, "messages": conversation(prompts, 2, prompts.answer(name))} for views in pictures]
        batch = collate(rows)
        label = torch.tensor(answers.labels[k])
        for i, row in enumerate(batch["labels"]):
            supervised = row[row != -100]
            assert supervised.tolist() == [*answers.prefix, *label]
            assert processor.tokenizer.decode(supervised) == prompts.answer(name) + FAMILIES[kind].end
            with torch.inference_mode():
                one = {key: value for key, value in take(batch, slice(i, i + 1), 3).items() if key != "labels"}
                logp = model(**one, use_cache=False).logits[0].log_softmax(-1)
            where = torch.nonzero(row != -100)[-len(label) :, 0]
            each = logp[where - 1, label]
            expected[:, i, k] = each.sum(), each[0]
    inputs = encoder(pictures)
    scorer = Scorer(model, answers)
    np.testing.assert_allclose(scorer(inputs)[:2], expected, atol=1e-5 * np.abs(expected).max())
    assert scorer.passes == (3 if kind == "gemma3" else 1), "gemma3's images attend to themselves in both directions"
    # Each event by itself, in another order, and with pieces of a batch.
    np.testing.assert_allclose(scorer(encoder(pictures[::-1]))[0], expected[0, ::-1], atol=1e-4)
    np.testing.assert_allclose(scorer(take(inputs, slice(1, 3), 3))[0], expected[0, 1:], atol=1e-4)
    if kind not in WRONG_BEAMS:
        np.testing.assert_allclose(beam(model, dict(inputs), answers)[:2], expected, atol=1e-4)

    features = patch_features(model, inputs, events=3, views=2)
    assert features.shape == (3, 2, 64)
    swapped = patch_features(model, encoder([views[::-1] for views in pictures]), events=3, views=2)
    torch.testing.assert_close(swapped, features.flip(1))
    assert features.requires_grad
    assert not torch.allclose(features[0], features[1], atol=1e-4)


@pytest.mark.parametrize("kind", WRONG_BEAMS)
def test_wrong_beam_search_is_refused(kind: str, tmp_path: Path, prompts_file: Path) -> None:
    make_tiny(kind, tmp_path)
    model = load_model(tmp_path, "none", bf16=False, device_map={"": "cpu"})
    with pytest.raises(InputError, match=r"beam search gives.*Set vlm\.classify\.method to score"):
        probe(model, load_processor(tmp_path), load_prompts(prompts_file), 2, 56, beams=True)


@pytest.mark.parametrize("kind", list(REFUSED))
def test_what_fails_a_check_is_refused(kind: str, tmp_path: Path, prompts_file: Path) -> None:
    make_tiny(kind, tmp_path)
    with pytest.raises(InputError, match=REFUSED[kind] + r".*Set vlm\.hub\.model to another one, such as Qwen"):
        probe(
            load_model(tmp_path, "none", bf16=False, device_map={"": "cpu"}),
            load_processor(tmp_path), load_prompts(prompts_file), 2, 56,
        )  # fmt: skip


@torch.no_grad()
def blind(model: Any) -> None:
    """Nothing of the tower's output is passed on."""
    for name, parameter in model.named_parameters():
        if "projector" in name or "merger" in name:
            parameter.zero_()


@torch.no_grad()
def broken(model: Any) -> None:
    model.lm_head.weight.fill_(torch.nan)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (blind, r"images: its answer is the same with view 1 replaced"),
        (broken, r"images: the log-probabilities of the answers are not finite"),
    ],
)
def test_weights_that_do_not_work_are_refused(change: Any, message: str, tmp_path: Path, prompts_file: Path) -> None:
    make_tiny("llava", tmp_path)
    model = load_model(tmp_path, "none", bf16=False, device_map={"": "cpu"})
    change(model)
    with pytest.raises(InputError, match=message):
        probe(model, load_processor(tmp_path), load_prompts(prompts_file), 2, 56)


@pytest.mark.slow
def test_training_checks_before_it_trains(job: Job, tmp_path: Path) -> None:
    """A model that sees no images is refused, with nothing written."""
    make_tiny("llava", tmp_path / "base", weights=blind)
    with pytest.raises(InputError, match="images: its answer is the same"):
        finetune(job.model_copy(update={"base": tmp_path / "base"}))
    assert not list(job.checkpoints.glob("checkpoint-*"))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ messages[0].content[0].text }}", r"chat template: its chat template does not render"),
        (
            "{% for m in messages %}{{ m.role }}: {% for c in m.content %}{% if c.type == 'image' %}"
            "Picture {{ loop.index }} <image>{% else %}{{ c.text }}{% endif %}{% endfor %}\n{% endfor %}",
            r"images are missing or are not one repeated placeholder",
        ),
    ],
)
def test_chat_templates_that_do_not_fit_are_refused(template: str, message: str, tmp_path: Path) -> None:
    make_tiny("llava_onevision", tmp_path)
    (tmp_path / "chat_template.jinja").write_text(template)
    (tmp_path / MANIFEST).unlink()
    write_manifest(tmp_path)
    with pytest.raises(InputError, match=message):
        load_processor(tmp_path)


@pytest.mark.parametrize("kind", ["qwen3_vl", "gemma3", "llava_next"])
def test_the_template_writes_what_the_published_one_writes(kind: str, tmp_path: Path) -> None:
    """With a system message, and with its text in the user's turn where there are no system messages."""
    make_tiny(kind, tmp_path)
    published = (tmp_path / "chat_template.jinja").read_text()
    processor = load_processor(tmp_path)
    user = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Which?"}]
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": [{"type": "text", "text": "Look."}]},
        {"role": "user", "content": user},
        {"role": "assistant", "content": [{"type": "text", "text": "This."}]},
        {"role": "user", "content": [{"type": "text", "text": "Why?"}]},
    ]
    reference = list(messages)
    if kind == "llava_next":
        reference[:2] = [{"role": "user", "content": [{"type": "text", "text": "Look.\n\n"}, *user]}]
    for count in (4, 2):
        ours, theirs = (
            processor.apply_chat_template(
                turns[: len(turns) - 4 + count], chat_template=template, add_generation_prompt=True, tokenize=False
            )
            for turns, template in ((messages, None), (reference, published))
        )
        assert ours == theirs
    processor.tokenizer.eos_token = FAMILIES[kind].end
    marked = processor.apply_chat_template(
        messages[:3], tokenize=False, chat_template=processor.chat_template.replace("{%- generation -%}", "<mark>")
        .replace("{%- endgeneration -%}", "</mark>"),
    )  # fmt: skip
    assert f"<mark>This.{FAMILIES[kind].end}</mark>" in marked


@pytest.mark.slow
@pytest.mark.parametrize("kind", CHAIN)
def test_trained_resumed_classified_and_explained(kind: str, job: Job, tmp_path: Path) -> None:
    base = tmp_path / "base"
    make_tiny(kind, base)
    grounded = ground(job)
    values = grounded.settings.model_dump() | {
        "quantization": "nf4", "bf16": True, "gradient_checkpointing": True, "epochs": 2.0,
        "lora": LoraSettings(target_modules=targets(base)),
    }  # fmt: skip
    job = grounded.model_copy(update={"base": base, "settings": FinetuneSettings.model_validate(values)})
    stop_after(job, step=4)
    assert not job.out.exists()
    finetune(job)
    summary = json.loads((job.out / "training.json").read_text())
    losses = [loss for _, loss in summary["losses"]]
    assert 4 <= summary["resumed_from_step"] < summary["steps"] == len(losses)
    assert losses[-1] < losses[0] - 0.3
    adapter = load_file(job.out / "adapter_model.safetensors")
    assert not [name for name, value in adapter.items() if "lora_B" in name and not value.any()]
    assert [name for name in adapter if re.fullmatch(family_of(base).vision_tower, name)]

    tables: dict[str, pd.DataFrame] = {}
    for method in ("score", "beam")[: 1 if kind in WRONG_BEAMS else 2]:
        classify_vlm(
            base, job.out, job.events, job.stores, {"nominal": tmp_path / f"{method}.parquet"}, part=0,
            prompts=job.prompts, settings=ClassifySettings(gpus=0, batch_size=4, method=method), quantization="nf4",
            bf16=True,
        )  # fmt: skip
        tables[method] = read_predictions([tmp_path / f"{method}.parquet"])
    columns = [f"logp_joint_{name}" for name in CLASSES]
    np.testing.assert_allclose(tables.get("beam", tables["score"])[columns], tables["score"][columns], rtol=0.03)
    explain_vlm(
        base, job.out, job.events, job.stores, {"vlm": tmp_path / "score.parquet"}, tmp_path / "explained.parquet",
        part=0, count=3, seed=7, condition="nominal", prompts=job.prompts, vocabulary=job.vocabulary,
        merge_adapter=False, quantization="nf4", bf16=True,
        settings=ExplainSettings(batch_size=4, max_new_tokens=8),
    )  # fmt: skip
    explained = pd.read_parquet(tmp_path / "explained.parquet")
    assert set(explained["picture"]) >= {"nominal", "text_only"}
    assert explained["rationale"].str.len().gt(0).any()


def targets(base: Path) -> tuple[str, ...]:
    """All linear layers inside the blocks of the tower and of the text."""
    model = load_model(base, "none", bf16=False, device_map={"": "cpu"})
    names = [name for name, module in vision_tower(model).named_modules() if isinstance(module, torch.nn.Linear)]
    inside = {name.rpartition(".")[2] for name in names}
    return tuple(sorted({name for name in inside if not name.isdigit()} | {"q_proj", "v_proj"}))


def stop_after(job: Job, step: int) -> None:
    """Begin the training, and stop it by SIGTERM when the checkpoint of `step` is complete."""

    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.005):
            if (job.checkpoints / f"checkpoint-{step}" / "fingerprint.json").exists():
                os.kill(os.getpid(), signal.SIGTERM)
                return

    threading.Thread(target=watch, daemon=True).start()
    try:
        with pytest.raises(SystemExit) as stopped:
            finetune(job)
    finally:
        ended.set()
    assert stopped.value.code == 128 + signal.SIGTERM


@pytest.mark.slow
def test_frozen_tower_has_no_adapter(job: Job, tmp_path: Path) -> None:
    make_tiny("idefics3", tmp_path / "base")
    values = job.settings.model_dump() | {"epochs": 1 / 6, "lora": {"vision": False}}
    job = job.model_copy(update={"base": tmp_path / "base", "settings": FinetuneSettings.model_validate(values)})
    finetune(job)
    names = list(load_file(job.out / "adapter_model.safetensors"))
    assert names
    assert not [name for name in names if re.fullmatch(family_of(job.base).vision_tower, name)]


def test_what_is_no_such_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(InputError, match=r"lab/bert: .*family: 'bert' is no model in transformers that reads images"):
        family_of(tmp_path, "lab/bert")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"config\.json: not the config of a model"):
        family_of(tmp_path)


def test_pictures_of_other_sizes_are_encoded_anew(tmp_path: Path, prompts_file: Path) -> None:
    """A family whose number of tokens depends on the size of a picture."""
    make_tiny("qwen3_vl", tmp_path)
    processor, prompts = load_processor(tmp_path), load_prompts(prompts_file)
    encoder = Encoder(processor, prompts)
    rng = np.random.default_rng(3)
    for side in (56, 84, 56):
        views = [to_pictures(draw_scene(rng, side)[0], "black") for _ in range(2)]
        whole = encode(processor, prompts, views, CPU)
        for name, value in encoder(views).items():
            torch.testing.assert_close(value, whole[name], rtol=0, atol=0, msg=name)
    assert len(encoder._first) == 2


def test_only_what_needs_a_template_of_the_project_has_one() -> None:
    """That of Mllama replaces published ones, that of ChatML is for a model that is made here."""
    templates = {path.stem for path in (REPOSITORY / "resources" / "chat_templates").glob("*.jinja")}
    assert templates == {"mllama", "chatml"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gemma3", "idefics3", "internvl", "llava_onevision", "qwen3_vl"])
def test_operations_counted_without_weights_are_those_of_the_model(
    kind: str, tmp_path: Path, prompts_file: Path, pictures: list[Any]
) -> None:
    """Their code looks at values of inputs, which are known also where weights are not."""
    make_tiny(kind, tmp_path)
    processor, prompts = load_processor(tmp_path), load_prompts(prompts_file)
    rows = [{"images": views, "messages": conversation(prompts, 2, prompts.answer("nc"))} for views in pictures[:2]]
    batch = dict(DataCollatorForVisionLanguageModeling(processor, assistant_only_loss=True)(rows))
    config, family = AutoConfig.from_pretrained(tmp_path), family_of(tmp_path)
    counted = count_arithmetic(config, batch, LoraSettings(), vision_tower=family.vision_tower, checkpointing=False)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path, attn_implementation="eager").eval()
    assert counted.parameters == sum(p.numel() for p in model.parameters())
    with torch.no_grad(), FlopCounterMode(display=False) as real:
        model(**{name: value for name, value in batch.items() if name != "labels"}, use_cache=False, logits_to_keep=1)
    assert counted.forward == real.get_total_flops()
    footprint = count_footprint(
        config, batch, FinetuneSettings(device_batch_size=2, processes=1, global_batch_size=2, gpus=1)
    )
    assert min(footprint.tower, footprint.text, footprint.passing) > 0
    assert footprint.weights < 4 * counted.parameters
