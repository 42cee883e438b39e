"""The fine-tuning job: what it learns, writes, resumes and refuses. All of it runs the real trainer."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from nuvlm.errors import InputError
from nuvlm.storage import verify_manifest
from nuvlm.vlm.dataset import conversations
from nuvlm.vlm.model import load_model, load_processor
from nuvlm.vlm.settings import FinetuneSettings
from nuvlm.vlm.training import Job, finetune, launch
from stores import write_pixel_maps


def with_settings(job: Job, **values: object) -> Job:
    settings = FinetuneSettings.model_validate(job.settings.model_dump() | values)
    return job.model_copy(update={"settings": settings})


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def unbroken() -> dict[str, dict[str, torch.Tensor]]:
    """The adapter of an unbroken run, kept for the tests that compare with it."""
    return {}


def test_adapter_is_whole_and_described(job: Job, unbroken: dict) -> None:
    finetune(job)
    unbroken["weights"] = weights(job.out)
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
    names = list(unbroken["weights"])
    assert any("vision_model" in name for name in names)
    assert any("language_model" in name for name in names)
    assert not job.checkpoints.exists()
    assert list(job.tensorboard.rglob("events.out.tfevents.*"))


def test_every_adapter_matrix_is_trained(job: Job, unbroken: dict) -> None:
    """A frozen or disconnected part (closed gates, repacked 4-bit weights) leaves its B matrices at zero."""
    silent = [name for name, value in unbroken["weights"].items() if "lora_B" in name and not value.any()]
    assert not silent


def test_stopped_job_goes_on_to_the_same_adapter(job: Job, unbroken: dict, tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    path.write_text(job.model_dump_json())
    command = [sys.executable, "-m", "nuvlm.vlm.training", str(path)]
    with subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        deadline = time.monotonic() + 120
        while not list(job.checkpoints.glob("checkpoint-4/fingerprint.json")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
    assert not job.out.exists()
    assert list(job.checkpoints.glob("checkpoint-*/fingerprint.json"))
    finetune(job)
    assert json.loads((job.out / "training.json").read_text())["resumed_from_step"] >= 4
    for name, value in weights(job.out).items():
        torch.testing.assert_close(value, unbroken["weights"][name], rtol=0, atol=0, msg=name)


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

    from nuvlm.events import read_events
    from nuvlm.vlm.prompts import load_prompts

    processor = load_processor(job.base)
    rows = conversations(read_events(job.events), job.stores, load_prompts(job.prompts))
    batch = DataCollatorForVisionLanguageModeling(processor, assistant_only_loss=True)([rows[0], rows[1]])
    told = [processor.tokenizer.decode(row[row != -100]) for row in batch["labels"]]
    assert told == [
        "I classify the pixel maps as nue CC<|eot_id|>",
        "I classify the pixel maps as numu CC<|eot_id|>",
    ]
    # both images are in sight of every token of the answer
    seen = batch["cross_attention_mask"][batch["labels"] != -100]
    assert seen.shape[1:] == (2, 1)
    assert bool(seen.all())


def test_several_processes_make_one_adapter(job: Job) -> None:
    """torchrun with two processes on the CPU: same number of steps, one adapter, and it can be loaded."""
    job = with_settings(job, processes=2, device_batch_size=3, epochs=1)
    launch(job)
    summary = json.loads((job.out / "training.json").read_text())
    assert summary["processes"] == 2
    assert summary["steps"] == 6
    model = load_model(job.base, "nf4", bf16=False, device_map={"": "cpu"})
    PeftModel.from_pretrained(model, job.out)


def test_failure_in_a_process_ends_the_job(job: Job, tmp_path: Path) -> None:
    job = with_settings(job, processes=2, device_batch_size=3).model_copy(update={"prompts": tmp_path / "none.yaml"})
    with pytest.raises(SystemExit) as stop:
        launch(job)
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


def test_frozen_tower_has_no_adapter(job: Job) -> None:
    job = with_settings(job, epochs=1 / 6, lora={"vision": False})
    finetune(job)
    assert not [name for name in weights(job.out) if "vision_model" in name]
