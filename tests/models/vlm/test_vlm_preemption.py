"""A fine-tuning that is stopped and started again, with real processes and real signals."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nuvlm.models.vlm.training import Job, finetune_vlm
from signals import all_of_its_processes

pytestmark = pytest.mark.slow

LAUNCH = "import sys; from nuvlm.models.vlm.training import Job, finetune_vlm; "
LAUNCH += "finetune_vlm(Job.model_validate_json(open(sys.argv[1]).read()))"
Kill = Callable[[subprocess.Popen], None]


def result(job: Job) -> tuple[dict, dict[str, torch.Tensor]]:
    return json.loads((job.out / "training.json").read_text()), load_file(job.out / "adapter_model.safetensors")


def elsewhere(job: Job, folder: Path) -> Job:
    """The same job with folders of its own."""
    return job.model_copy(
        update={"out": folder / "out", "checkpoints": folder / "checkpoints", "tensorboard": folder / "tensorboard"}
    )


def stop(job: Job, folder: Path, at_step: int, kill: Kill) -> int:
    """Start the job in a process, stop it when the checkpoint of `at_step` is whole, and return its exit status."""
    path = folder / "job.json"
    path.write_text(job.model_dump_json())
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, "-c", LAUNCH, path], env=environment, start_new_session=True) as process:
        deadline = time.monotonic() + 120
        while not (job.checkpoints / f"checkpoint-{at_step}" / "fingerprint.json").exists():
            assert process.poll() is None, "the job ended by itself"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        kill(process)
        return process.wait(60)


def only_the_job(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGTERM)


@pytest.mark.parametrize(
    ("processes", "workers", "kill"),
    [
        pytest.param(1, 0, only_the_job, marks=pytest.mark.long),
        (1, 2, all_of_its_processes),
        pytest.param(2, 0, all_of_its_processes, marks=pytest.mark.long),
    ],
)
def test_stopped_job_goes_on_as_if_it_had_not_been(
    grounded: Job, processes: int, workers: int, kill: Kill, tmp_path: Path
) -> None:
    job = grounded
    values = {"processes": processes, "device_batch_size": 6 // processes, "workers": workers, "eval_steps": 5}
    settings = job.settings.model_copy(update=values)
    job = job.model_copy(update={"settings": settings})
    unbroken = elsewhere(job, tmp_path / "unbroken")
    unbroken = unbroken.model_copy(update={"settings": settings.model_copy(update={"workers": 0})})
    finetune_vlm(unbroken)
    assert stop(job, tmp_path, 4, kill) == 128 + signal.SIGTERM
    assert not job.out.exists()
    finetune_vlm(job)
    summary, weights = result(job)
    expected, expected_weights = result(unbroken)
    assert 4 < summary["resumed_from_step"] < expected["steps"]
    assert [step for step, _ in summary["losses"]] == list(range(1, expected["steps"] + 1))
    # Bit for bit: the sum over two processes does not depend on their order either.
    assert summary["losses"] == expected["losses"]
    assert summary["train_loss"] == expected["train_loss"]
    assert len(summary["evaluations"]) == 5
    for key in ("evaluations", "best_step", "validation_loss", "validation_accuracy"):
        assert summary[key] == expected[key]
    for name, value in weights.items():
        torch.testing.assert_close(value, expected_weights[name], rtol=0, atol=0, msg=name)


def test_failed_after_the_last_step_only_the_evaluation_is_left(job: Job, tmp_path: Path) -> None:
    job = job.model_copy(
        update={"settings": job.settings.model_copy(update={"epochs": 1}), "out": tmp_path / "models" / "vlm"}
    )
    job.out.parent.touch()  # a file, where a folder is to be made
    with pytest.raises(OSError, match="models"):
        finetune_vlm(job)
    job.out.parent.unlink()
    finetune_vlm(job)
    summary, _ = result(job)
    assert summary["resumed_from_step"] == summary["steps"] == len(summary["losses"]) == 6
    assert summary["events_per_second"] == 0
