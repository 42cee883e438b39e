"""The fine-tuning job: what it learns, writes, resumes and refuses. All of it runs the real trainer."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from disk import full_disk
from nuvlm.base.errors import InputError
from nuvlm.base.manifest import verify_manifest
from nuvlm.dataset.event_table import read_events
from nuvlm.dataset.pixelmaps import image_settings
from nuvlm.models.vlm.classify import classify_vlm, load_finetuned
from nuvlm.models.vlm.dataset import conversations
from nuvlm.models.vlm.model import load_processor
from nuvlm.models.vlm.prompts import prompts_for
from nuvlm.models.vlm.settings import ClassifySettings, FinetuneSettings, LoraSettings
from nuvlm.models.vlm.training import Job, _fingerprint, finetune, finetune_vlm
from stores import write_pixel_maps


def with_settings(job: Job, **values: object) -> Job:
    settings = FinetuneSettings.model_validate(job.settings.model_dump() | values)
    return job.model_copy(update={"settings": settings})


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def test_adapter_is_whole_and_described(job: Job) -> None:
    finetune(job)
    verify_manifest(job.out)
    summary = json.loads((job.out / "training.json").read_text())
    assert summary["events"] == 36
    assert summary["steps"] == 24
    assert summary["effective_batch"] == 6
    assert summary["validation_events"] == 12
    losses = [loss for _, loss in summary["losses"]]
    assert losses[-1] < losses[0] / 2
    assert summary["peak_memory_mb"] > 100
    # both the text and the vision tower carry adapters, as the published target names imply
    trained = weights(job.out)
    assert any("vision_model" in name for name in trained)
    assert any("language_model" in name for name in trained)
    # a frozen or disconnected part (closed gates, repacked 4-bit weights) would leave its B matrices at zero
    assert not [name for name, value in trained.items() if "lora_B" in name and not value.any()]
    assert [step for step, _ in summary["losses"]] == list(range(1, 25))
    assert summary["train_loss"] == pytest.approx(np.mean(losses))
    # 258 words and marks of the prompt and the answer an event, give or take
    assert summary["tokens_per_second"] / summary["events_per_second"] == pytest.approx(258, rel=0.9)
    assert not job.checkpoints.exists()
    assert list(job.tensorboard.rglob("events.out.tfevents.*"))


@pytest.mark.slow
@pytest.mark.parametrize("vision", [True, False])
def test_checkpointing_changes_nothing_but_memory(job: Job, tmp_path: Path, vision: bool) -> None:
    """Gradients do not start at the inputs, as peft and TRL would have it, and still reach every adapter."""
    job = with_settings(job, epochs=1, lora={"vision": vision, "dropout": 0.0})
    finetune(job)
    again = with_settings(job, gradient_checkpointing=True).model_copy(update={"out": tmp_path / "again"})
    finetune(again)
    for name, value in weights(job.out).items():
        torch.testing.assert_close(weights(again.out)[name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_foreign_checkpoint_is_refused_and_a_torn_one_passed_over(job: Job) -> None:
    (job.checkpoints / "checkpoint-8").mkdir(parents=True)  # no fingerprint: cut short while it was written
    foreign = job.checkpoints / "checkpoint-4"
    foreign.mkdir()
    (foreign / "fingerprint.json").write_text(json.dumps({"settings.learning_rate": "1.0"}))
    with pytest.raises(InputError, match=r"checkpoint-4.*settings\.learning_rate"):
        finetune(job)
    (foreign / "fingerprint.json").unlink()
    finetune(with_settings(job, epochs=1 / 6))
    assert json.loads((job.out / "training.json").read_text())["resumed_from_step"] == 0


def test_only_the_answer_is_learnt(job: Job) -> None:
    """The labels that TRL makes of a row: the whole answer with its end token, and nothing of the prompt."""
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    processor = load_processor(job.base)
    texts = prompts_for(job.prompts, image_settings(job.stores), job.settings.background)
    rows = conversations(read_events(job.events), job.stores, texts, background=job.settings.background)
    batch = DataCollatorForVisionLanguageModeling(processor, assistant_only_loss=True)([rows[0], rows[1]])
    found = [processor.tokenizer.decode(row[row != -100]) for row in batch["labels"]]
    assert found == [
        "I classify the pixel maps as NuE CC<|eot_id|>",
        "I classify the pixel maps as NuMu CC<|eot_id|>",
    ]
    # both images are in sight of every token of the answer
    seen = batch["cross_attention_mask"][batch["labels"] != -100]
    assert seen.shape[1:] == (2, 1)
    assert bool(seen.all())


@pytest.mark.slow
def test_failure_in_a_process_ends_the_job(job: Job, tmp_path: Path) -> None:
    job = with_settings(job, processes=2, device_batch_size=3).model_copy(update={"prompts": tmp_path / "none.yaml"})
    with pytest.raises(SystemExit) as stop:
        finetune_vlm(job)
    assert stop.value.code not in (0, None)
    assert not job.out.exists()


def test_a_base_model_or_texts_for_other_views_are_refused(job: Job, tmp_path: Path) -> None:
    stores = {"a": tmp_path / "a.zarr"}
    write_pixel_maps(stores["a"], np.zeros((2, 3, 32, 32), np.uint8), views=("u", "v", "z"))
    other = job.model_copy(update={"stores": stores})
    with pytest.raises(InputError, match=r"prompts\.yaml: its texts speak of the views xz, yz"):
        finetune(other)
    prompts = tmp_path / "prompts.yaml"
    prompts.write_text(job.prompts.read_text().replace("views: [xz, yz]", "views: [u, v, z]"))
    with pytest.raises(InputError, match="base: made for 2 views, but the pixel maps have 3"):
        finetune(other.model_copy(update={"prompts": prompts}))


@pytest.mark.parametrize(
    "lora",
    [
        {"vision": False},
        {"language": False, "projector": True},
        {"vision": False, "language": False, "projector": True},
    ],
)
def test_frozen_parts_have_no_adapter(job: Job, lora: dict[str, bool]) -> None:
    job = with_settings(job, epochs=1 / 6, warmup_ratio=0, lora=lora)
    finetune(job)
    wanted = LoraSettings(**lora)
    found = {
        part: [name for name in weights(job.out) if f".{module}." in name]
        for part, module in (
            ("vision", "vision_model"), ("projector", "multi_modal_projector"), ("language", "language_model")
        )
    }  # fmt: skip
    assert {part: bool(names) for part, names in found.items()} == {part: getattr(wanted, part) for part in found}
    assert sum(map(len, found.values())) == len(weights(job.out))
    for name, value in weights(job.out).items():
        assert "lora_B" not in name or value.any(), f"{name}: not trained"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"strategy": "single", "processes": 2}, "needs strategy: ddp or deepspeed"),
        ({"processes": 2, "nodes": 3}, "must be a multiple of nodes"),
        ({"lora": {"vision": False, "language": False}}, "nothing would be trained"),
        ({"eval_steps": None}, "load_best_model_at_end: true needs evaluations: set eval_steps"),
    ],
)
def test_impossible_settings_are_refused_before_the_job(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        FinetuneSettings.model_validate(values)


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"target_modules": ["q_proj", "qproj"]}, "no linear layer named qproj. Name some of .*down_proj, .*q_proj"),
        ({"target_modules": ["fc1"], "vision": False}, "named fc1 outside of its vision tower. Name some of "),
        ({"target_modules": ["gate_proj"], "language": False}, "named gate_proj in its vision tower. Name some of "),
        ({"target_modules": []}, "Name some of .*q_proj"),
    ],
)
def test_layers_that_the_model_does_not_have_are_refused(job: Job, lora: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=rf"vlm\.finetune\.lora\.target_modules: .*{message}"):
        finetune(with_settings(job, lora=lora))


def test_a_checkpoint_of_another_vocabulary_is_refused(grounded: Job, tmp_path: Path) -> None:
    (grounded.checkpoints / "checkpoint-4").mkdir(parents=True)
    with pytest.raises(InputError, match="rationales: grounded needs a vocabulary"):
        finetune(grounded.model_copy(update={"vocabulary": None}))
    mark = grounded.checkpoints / "checkpoint-4" / "fingerprint.json"
    fingerprint = _fingerprint(grounded)
    mark.write_text(json.dumps(fingerprint))
    assert grounded.vocabulary is not None
    words = tmp_path / "words.yaml"
    words.write_text(grounded.vocabulary.read_text() + "\n")
    with pytest.raises(InputError, match=r"checkpoint-4: .*other settings or data \(vocabulary\)"):
        finetune(grounded.model_copy(update={"vocabulary": words}))
    with pytest.raises(
        InputError,
        match=r'\(settings\.rationale_loss 0\.2, now 0\.1; settings\.rationales "grounded", now "none"; vocabulary\)',
    ):
        finetune(with_settings(grounded, rationales="none", rationale_loss=0.1))


@pytest.mark.slow
def test_the_best_evaluation_is_kept(job: Job) -> None:
    """The adapter that is written is that of the best evaluation, also when later steps spoil it."""
    # The rate grows during the whole training, beyond what is good.
    job = with_settings(job, learning_rate=0.1, warmup_ratio=0.9, eval_steps=4, eval_events=12)
    finetune(job)
    summary = json.loads((job.out / "training.json").read_text())
    losses = {step: loss for step, loss, _ in summary["evaluations"]}
    assert list(losses) == [4, 8, 12, 16, 20, 24]
    assert losses[24] > 1.2 * min(losses.values())
    assert summary["best_step"] == min(losses, key=lambda step: losses[step])
    assert summary["validation_loss"] == pytest.approx(losses[summary["best_step"]], rel=1e-6)
    found = {step: accuracy for step, _, accuracy in summary["evaluations"]}
    assert summary["validation_accuracy"] == found[summary["best_step"]]
    assert summary["validation_accuracy"] == pytest.approx(greedy_accuracy(job))


@pytest.mark.slow
def test_a_zoom_is_part_of_what_a_model_is_trained_on(job: Job, tmp_path: Path) -> None:
    settings = job.settings.model_copy(update={"epochs": 1.0})
    job = job.model_copy(update={"zoom": 2, "settings": settings})
    finetune(job)
    assert json.loads((job.out / "training.json").read_text())["images"]["zoom"] == 2
    classify = partial(
        classify_vlm, job.base, job.out, job.events, job.stores, {"nominal": tmp_path / "nominal.parquet"}, part=0,
        prompts=job.prompts, settings=ClassifySettings(gpus=0), quantization="nf4", bf16=False,
    )  # fmt: skip
    with pytest.raises(InputError, match="zoom is 1, the model was trained with 2"):
        classify()
    classify(zoom=2)
    texts = prompts_for(job.prompts, image_settings(job.stores), "black")
    once, twice = (
        conversations(read_events(job.events), job.stores, texts, background="black", zoom=zoom)[0]["images"]
        for zoom in (1, 2)
    )
    for small, large in zip(once, twice, strict=True):
        np.testing.assert_array_equal(np.asarray(large), np.kron(np.asarray(small), np.ones((2, 2), np.uint8)))


def greedy_accuracy(job: Job) -> float:
    """Share of the validation events whose whole answer is generated token by token, by transformers alone."""
    background = job.settings.background
    prompts = prompts_for(job.prompts, image_settings(job.stores), background)
    processor = load_processor(job.base)
    model = load_finetuned(job.base, job.out, "nf4", bf16=False, device=torch.device("cpu"), merge=False)
    events = read_events(job.events)
    events = events[events["split"] == "validation"]
    right = 0
    for row in conversations(events, job.stores, prompts, background=background):
        *question, answer = row["messages"]
        text = processor.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
        inputs = processor(images=[row["images"]], text=[text], add_special_tokens=False, return_tensors="pt")
        out = model.generate(**inputs, max_new_tokens=24, do_sample=False)
        said = processor.tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        right += said == answer["content"][0]["text"]
    return right / len(events)


def test_a_checkpoint_that_cannot_be_written_ends_the_job_at_its_first_step(job: Job) -> None:
    with (
        full_disk(),
        pytest.raises(InputError, match=r"checkpoints: the checkpoint of step 1 cannot be written .*space"),
    ):
        finetune(job)
    assert not list(job.checkpoints.glob("*/fingerprint.json"))
