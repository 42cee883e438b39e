"""The benchmark of the CNN on a GPU, at tiny scale: the same code, on whatever device there is."""

import json
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from benchmark_scripts import BENCHMARKS, load_benchmark, numbers
from nuvlm.models.cnn.network import NETWORKS
from tiny_cnn import train, write_data

SCRIPT = BENCHMARKS / "gpu_cnn.py"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """benchmarks/gpu_cnn.py."""
    return load_benchmark("gpu_cnn", monkeypatch)


@pytest.mark.long
@pytest.mark.parametrize("network", NETWORKS)
def test_everything_is_measured_in_every_mode(benchmark: ModuleType, network: str) -> None:
    command = [sys.executable, SCRIPT, "--device", "cpu", "--tiny", "--network", network]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    assert "failed" not in done.stdout
    assert (result["device"], result["network"], result["images"]) == ("CPU", network, "2 x 32 x 32")
    assert set(result["modes"]) == set(benchmark.MODES)
    for name, found in result["modes"].items():
        assert set(found["classifying"]) == {"1", "4"}
        if not benchmark.MODES[name].graphs:
            trained = found["training"]["4"]
            assert 0 <= trained["waits_for_loader"] < 1
            assert trained["events_per_second"] > 0
    assert result["best"]["training"]["batch"] == 4
    assert result["best"]["classifying, batch 1"]["batch"] == 1
    assert all(math.isfinite(number) and number >= 0 for number in numbers(result))


def test_maps_of_a_run_are_taken_as_they_are(benchmark: ModuleType, tmp_path: Path) -> None:
    folder = write_data(tmp_path)
    train(folder, max_epochs=1)
    (folder / "pixelmaps").mkdir()
    (folder / "a.zarr").rename(folder / "pixelmaps" / "a.zarr")
    maps = benchmark.maps_of(folder)
    floor = benchmark.Floor(1, 1, 1.0, 1.0, 4)
    mode = benchmark.MODES["bf16"]
    for batch in (1, 40):  # more events than the run has
        found = benchmark.classify(maps, folder, benchmark.tiny(), folder / "cnn", mode, batch, floor)
        assert found["ms_per_event"] > 0


@pytest.mark.parametrize("name", NETWORKS)
def test_operations_and_traffic_are_those_of_the_layers(benchmark: ModuleType, name: str) -> None:
    network = NETWORKS[name](width=0.25)
    operations = values = 0

    def add(layer: torch.nn.Conv2d, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal operations, values
        # each output pixel: as many products as the kernel has weights for its channel
        operations += 2 * output.numel() * layer.weight[0].numel()
        values += inputs[0].numel() + output.numel()

    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(add)  # type: ignore[arg-type]
    with torch.inference_mode():
        network.eval()(torch.zeros(1, 2, 64, 64))
    weights = sum(layer.weight.numel() for layer in network.modules() if isinstance(layer, torch.nn.Linear))
    assert benchmark.count(NETWORKS[name](width=0.25), (2, 64, 64)) == (operations + 2 * weights, values)


def test_the_floor_is_the_slower_of_arithmetic_and_traffic(benchmark: ModuleType) -> None:
    floor = benchmark.Floor(operations=10**12, values=10**9, rate=1e13, bandwidth=1e10, width=4)
    assert floor.seconds == pytest.approx(0.4)
    assert benchmark.Floor(10**12, 10**6, 1e13, 1e10, 4).seconds == pytest.approx(0.1)
    assert floor.compare(2.4, 3) == pytest.approx({"tflop_per_second": 1.25, "fraction_of_floor": 0.5})


def test_a_failure_is_recorded_and_targets_are_judged_by_the_best(benchmark: ModuleType) -> None:
    def fail() -> dict[str, Any]:
        return {"sum": float((torch.zeros(2) @ torch.zeros(3)).sum())}

    failed = benchmark.attempt(fail, "a wrong product")
    assert failed["failed"].startswith("inconsistent tensor size")
    slow = {"training": {"16": failed}, "classifying": {"1": {"ms_per_event": 3.0}, "16": failed}}
    assert benchmark.compare({"fp32": slow})["missed"] == ["events_per_second", "ms_per_event"]
    fast = {"training": {"64": {"events_per_second": 1600.0}}, "classifying": {"64": {"ms_per_event": 0.4}}}
    result = benchmark.compare({"fp32": slow, "bf16": fast})
    assert result["missed"] == []
    assert result["best"]["classifying"] == {"mode": "bf16", "batch": 64, "ms_per_event": 0.4}
    assert result["best"]["classifying, batch 1"] == {"mode": "fp32", "batch": 1, "ms_per_event": 3.0}
