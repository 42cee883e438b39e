"""Training in less memory than a batch needs, and what a GPU's kernels need of the machine."""

import json
import logging
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from memory import MB, at_most
from nuvlm.base.errors import InputError
from nuvlm.models.compiler import require_c_compiler
from nuvlm.models.vlm import training
from nuvlm.models.vlm.batches import out_of_memory
from nuvlm.models.vlm.settings import FinetuneSettings
from nuvlm.models.vlm.training import REFUSED, DoesNotFitError, Job, finetune, finetune_vlm

SITE = """
import os
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

def refuse(module, inputs):
    if isinstance(module, torch.nn.Conv2d) and len(inputs[0]) > {views} and os.environ.get("RANK") == "1":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

register_module_forward_pre_hook(refuse)
"""
"""Run by each process when it starts: a device of rank 1 with memory for so many views."""


def variant(job: Job, folder: Path, **values: object) -> Job:
    """The job with folders of its own and other settings, without dropout: its masks depend on the batches."""
    common = {"epochs": 1, "lora": {"dropout": 0.0}, "gradient_checkpointing": True}
    settings = FinetuneSettings.model_validate(job.settings.model_dump() | common | values)
    return job.model_copy(
        update={"settings": settings, "out": folder / "out", "checkpoints": folder / "c", "tensorboard": folder / "t"}
    )


def summary(job: Job) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((job.out / "training.json").read_text())
    return found


@pytest.fixture
def large_views() -> Iterator[None]:
    """Each view takes 500 MB while it is cut into patches."""

    def allocate(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, torch.nn.Conv2d):
            try:
                # Not of the heap, which keeps what earlier tests have freed.
                mmap.mmap(-1, len(inputs[0]) * 500 * MB).close()
            except OSError:
                torch.empty(2**50, dtype=torch.uint8)  # the error of torch itself

    hook = register_module_forward_pre_hook(allocate)
    yield
    hook.remove()


@pytest.fixture
def expected(job: Job, tmp_path: Path) -> np.ndarray:
    """Losses of the training with all memory."""
    whole = variant(job, tmp_path / "whole")
    finetune_vlm(whole)
    assert summary(whole)["device_batch_size"] == 6
    return np.array(summary(whole)["losses"])


@pytest.mark.slow
@pytest.mark.usefixtures("large_views")
def test_a_batch_that_does_not_fit_is_halved_and_accumulated(
    job: Job, expected: np.ndarray, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = variant(job, tmp_path)
    with at_most(4500 * MB), caplog.at_level(logging.WARNING):
        finetune_vlm(job)
    assert summary(job)["device_batch_size"] == 3
    assert summary(job)["effective_batch"] == 6
    np.testing.assert_allclose(summary(job)["losses"], expected, rtol=1e-4)
    assert "set vlm.finetune.device_batch_size to 3" in caplog.text


@pytest.mark.long
def test_one_process_out_of_memory_makes_all_start_again_with_less(
    job: Job, expected: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITE.format(views=2))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")]))
    job = variant(job, tmp_path, processes=2, device_batch_size=3)
    finetune_vlm(job)
    assert summary(job)["device_batch_size"] == 1
    assert summary(job)["processes"] == 2
    np.testing.assert_allclose(summary(job)["losses"], expected, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("large_views")
def test_a_single_event_that_does_not_fit_is_refused_once_and_for_all(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = variant(job, tmp_path, gradient_checkpointing=False)
    monkeypatch.setattr(training, "device_memory_mb", lambda device: 80e3)
    message = r"single event does not fit.*gradient_checkpointing: true; or .*lora\.vision: false.*; or .*balanced"
    with at_most(700 * MB), pytest.raises(DoesNotFitError, match=message):
        finetune_vlm(job)
    # The retry of Snakemake: the same job on the same device.
    monkeypatch.setattr(training, "finetune", lambda job: pytest.fail("trained again"))
    with pytest.raises(DoesNotFitError, match="in an earlier attempt"):
        finetune_vlm(job)
    monkeypatch.undo()
    assert (job.checkpoints / REFUSED).exists()
    finetune_vlm(job)  # with another memory
    assert not job.checkpoints.exists()


@pytest.mark.slow
def test_training_goes_on_from_a_checkpoint_with_other_batches(job: Job, tmp_path: Path, expected: np.ndarray) -> None:
    job = variant(job, tmp_path)
    real = training.newest_checkpoint
    stopped = RuntimeError("stopped")

    class Stop(training.StopAtNan):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 5:
                raise stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "StopAtNan", Stop)
        with pytest.raises(RuntimeError, match="stopped"):
            finetune(job)
    smaller = variant(job, tmp_path, device_batch_size=2)
    assert real(smaller.checkpoints, training._fingerprint(smaller)) is not None
    finetune(smaller)
    assert summary(smaller)["resumed_from_step"] == 4
    np.testing.assert_allclose(summary(smaller)["losses"], expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA"), True),
        (RuntimeError("Triton Error [CUDA]: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("inconsistent tensor size"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_means_too_little_memory(error: Exception, expected: bool) -> None:
    assert out_of_memory(error) is expected


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes a program of a line of shell the only compiler."""

    def make(line: str) -> None:
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "gcc").write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / "bin" / "gcc").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    monkeypatch.delenv("CC", raising=False)
    return make


def test_a_machine_without_a_compiler_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"Fine-tuning needs a C compiler on a GPU, and none.*gcc"):
        require_c_compiler("Fine-tuning")
    monkeypatch.setenv("CC", str(tmp_path / "nothing"))
    with pytest.raises(InputError, match="nothing fails here"):
        require_c_compiler("Fine-tuning")


def test_a_compiler_without_the_headers_of_python_is_refused(compiler: Callable[[str], None]) -> None:
    compiler('echo "fatal error: Python.h: No such file or directory" >&2; exit 1')
    with pytest.raises(InputError, match=r"gcc fails here \(fatal error: Python\.h.*Python's headers"):
        require_c_compiler("Fine-tuning")


def test_on_a_gpu_the_compiler_is_tried_before_the_model_is_loaded(
    job: Job, compiler: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler("exit 3")
    monkeypatch.setattr(training, "choose_device", lambda: torch.device("cuda", 0))
    monkeypatch.setattr(training, "load_model", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(InputError, match="Fine-tuning needs a C compiler"):
        finetune(job)


@pytest.mark.skipif(not any(map(os.path.exists, ("/usr/bin/gcc", "/usr/bin/clang"))), reason="needs a compiler")
def test_a_real_compiler_is_accepted() -> None:
    require_c_compiler("Fine-tuning")
