"""Several processes against one with the same global batch. All of it runs the real trainer."""

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from peft import PeftModel
from safetensors.torch import load_file

from nuvlm.models.torchrun import torchrun_arguments
from nuvlm.models.vlm.model import load_model
from nuvlm.models.vlm.settings import FinetuneSettings
from nuvlm.models.vlm.training import Job, finetune, finetune_vlm
from paths import REPOSITORY

pytestmark = pytest.mark.slow

GLOBAL_BATCH = 12


def training_with(job: Job, folder: Path, **values: object) -> Job:
    """The job with folders of its own, for two epochs without dropout: its masks are drawn by each process."""
    common = {"epochs": 2, "global_batch_size": GLOBAL_BATCH, "lora": {"dropout": 0.0}, "eval_steps": 2}
    settings = FinetuneSettings.model_validate(job.settings.model_dump() | common | values)
    return job.model_copy(
        update={"settings": settings, "out": folder / "out", "checkpoints": folder / "c", "tensorboard": folder / "t"}
    )


def losses(job: Job) -> np.ndarray:
    """Steps and losses, of training and then of the evaluations, and that of all validation events."""
    summary = json.loads((job.out / "training.json").read_text())
    evaluated = [row[:2] for row in summary["evaluations"]]
    return np.array([*summary["losses"], *evaluated, [summary["steps"], summary["validation_loss"]]])


@pytest.fixture
def job(job: Job, vocabulary_file: Path) -> Job:
    """With rationales, whose lengths differ: what a token counts must not depend on the process that has it."""
    settings = job.settings.model_copy(update={"rationales": "grounded"})
    return job.model_copy(update={"settings": settings, "vocabulary": vocabulary_file})


@pytest.fixture
def alone(job: Job, tmp_path: Path) -> np.ndarray:
    """Steps and losses of one process."""
    alone = training_with(job, tmp_path / "alone", device_batch_size=GLOBAL_BATCH)
    finetune(alone)
    return losses(alone)


@pytest.mark.long
@pytest.mark.parametrize("processes", [2, 4])
def test_several_processes_train_as_one(job: Job, alone: np.ndarray, tmp_path: Path, processes: int) -> None:
    """Two processes accumulate two batches a step, four one. That all ranks end with one adapter, the job checks."""
    several = training_with(job, tmp_path, processes=processes, device_batch_size=3)
    finetune_vlm(several)
    summary = json.loads((several.out / "training.json").read_text())
    assert summary["processes"] == processes
    assert summary["effective_batch"] == GLOBAL_BATCH
    np.testing.assert_allclose(losses(several), alone, rtol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize(
    ("values", "rtol"),
    [
        ({}, 1e-4),
        ({"lora": {"dropout": 0.0, "vision": False}}, 1e-4),
        # rounding to 8 bits of mantissa depends on the batches
        ({"bf16": True}, 2e-2),
    ],
)
def test_two_processes_with_checkpointing_train_as_one_without(
    job: Job, tmp_path: Path, values: dict[str, object], rtol: float
) -> None:
    alone = training_with(job, tmp_path / "alone", device_batch_size=GLOBAL_BATCH, **values)
    finetune(alone)
    several = training_with(job, tmp_path, processes=2, device_batch_size=3, gradient_checkpointing=True, **values)
    finetune_vlm(several)
    np.testing.assert_allclose(losses(several), losses(alone), rtol=rtol)


@pytest.mark.long
@pytest.mark.skipif(shutil.which("ninja") is None or shutil.which("c++") is None, reason="DeepSpeed builds an operator")
@pytest.mark.parametrize(
    ("stage", "quantization", "checkpointing"),
    [(2, "nf4", True), (3, "nf4", False), (3, "int8", False), (3, "none", True), (3, "nf4", True)],
)
def test_deepspeed_trains_as_one(job: Job, tmp_path: Path, stage: int, quantization: str, checkpointing: bool) -> None:
    """Two processes. The first run on a machine builds DeepSpeed's operator for a minute."""
    alone = training_with(job, tmp_path / "alone", device_batch_size=GLOBAL_BATCH, quantization=quantization)
    finetune(alone)
    several = training_with(
        job, tmp_path, strategy="deepspeed", zero_stage=stage, quantization=quantization, processes=2,
        device_batch_size=GLOBAL_BATCH // 2, gradient_checkpointing=checkpointing,
    )  # fmt: skip
    finetune_vlm(several.model_copy(update={"deepspeed": REPOSITORY / f"resources/deepspeed/zero{stage}.json"}))
    np.testing.assert_allclose(losses(several), losses(alone), rtol=1e-4)
    expected, weights = (load_file(each.out / "adapter_model.safetensors") for each in (alone, several))
    assert weights.keys() == expected.keys()
    for name, value in weights.items():
        assert value.shape == expected[name].shape, "a piece of a matrix"
    described, truth = (json.loads((each.out / "training.json").read_text()) for each in (several, alone))
    assert described["parameters"] == truth["parameters"]
    assert described["trainable_parameters"] == truth["trainable_parameters"]


def test_two_torchruns_meet_and_train_as_one(job: Job, alone: np.ndarray, tmp_path: Path) -> None:
    """What srun starts on two nodes, here both on this machine; each accumulates two batches a step."""
    several = training_with(job, tmp_path, processes=2, nodes=2, device_batch_size=3)
    path = tmp_path / "job.json"
    path.write_text(several.model_dump_json())
    with socket.socket() as free:
        free.bind(("", 0))
        rendezvous = f"127.0.0.1:{free.getsockname()[1]}"
    arguments = torchrun_arguments("nuvlm.models.vlm.training", path, 2, 2, rendezvous)
    command = [sys.executable, "-m", "torch.distributed.run", *arguments]
    nodes = [subprocess.Popen(command) for _ in range(2)]
    try:
        assert [node.wait(120) for node in nodes] == [0, 0]
    finally:
        for node in nodes:
            node.kill()
    np.testing.assert_allclose(losses(several), alone, rtol=1e-4)
    summary = json.loads((several.out / "training.json").read_text())
    assert summary["processes"] == 2
    assert summary["effective_batch"] == GLOBAL_BATCH
    model = load_model(several.base, "nf4", bf16=False, device_map={"": "cpu"})
    PeftModel.from_pretrained(model, several.out)
