"""The benchmark of the 11-billion-parameter model, at tiny scale: the same code, on whatever device there is."""

import math
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from benchmark_scripts import load_benchmark, numbers
from memory import MB, at_most


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """benchmarks/gpu_vlm.py."""
    return load_benchmark("gpu_vlm", monkeypatch)


@pytest.mark.long
def test_everything_is_measured_with_four_tiles(benchmark: ModuleType, tmp_path: Path) -> None:
    result = benchmark.measure(benchmark.tiny(), 4, tmp_path / "run")
    assert "failed" not in str(result)
    assert result["tokens"] == pytest.approx(benchmark.TOKENS, abs=10)
    assert set(result["training"]) == {"checkpointing", "no checkpointing"}
    assert result["training"]["checkpointing"]["device_batch_size"] == 2
    assert set(result["classifying"]) == set(result["profile"]) == set(benchmark.ADAPTED)
    for methods in result["classifying"].values():
        assert {name: set(sizes) for name, sizes in methods.items()} == {"score": {"1", "2"}, "beam": {"1", "2"}}
        assert methods["score"]["2"]["ms_per_event"] < methods["beam"]["2"]["ms_per_event"]
        assert methods["score"]["2"]["batch_size"] == 2
    for found in result["profile"].values():
        assert 0.1 < found["shares"]["vision tower"] < 1
        assert found["shares"]["attention"] > 0
        assert len(found["kernels"]) == 12
    assert result["profile"]["beside nf4"]["shares"]["unpacking"] > 0
    assert result["profile"]["merged into bf16"]["shares"]["unpacking"] == 0
    assert all(math.isfinite(number) and number >= 0 for number in numbers(result))


@pytest.mark.long
def test_what_does_not_fit_is_tried_smaller_and_recorded(benchmark: ModuleType, tmp_path: Path) -> None:
    def make_views_large(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, torch.nn.Conv2d):  # cuts the views of all events of a batch into patches
            torch.empty(len(inputs[0]) * 2000 * MB, dtype=torch.uint8)

    hook = register_module_forward_pre_hook(make_views_large)
    try:
        with at_most(6000 * MB):
            result = benchmark.measure(replace(benchmark.tiny(), batches=(2,)), 1, tmp_path / "run")
    finally:
        hook.remove()
    for found in result["training"].values():
        assert (found["device_batch_size"], found["did_not_fit"]) == (1, [2])
    scored = result["classifying"]["merged into bf16"]["score"]
    assert scored["2"]["batch_size"] == 1


def test_a_failure_is_recorded_and_the_rest_goes_on(benchmark: ModuleType, tmp_path: Path) -> None:
    def fail() -> dict[str, Any]:
        return {"sum": float((torch.zeros(2) @ torch.zeros(3)).sum())}

    assert benchmark.attempt(fail, "a wrong product")["failed"].startswith("inconsistent tensor size")
    result = {"training": {"checkpointing": {"failed": "x"}}, "classifying": {"merged into bf16": {"failed": "y"}}}
    assert benchmark.missed(result, 1, 16) == ["ms_per_event", "events_per_second"]
