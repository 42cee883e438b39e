"""Energy: read from counters laid out as Linux has them, and estimated where there are none."""

import time
from pathlib import Path

import pytest
import torch

from nuvlm.models.devices import choose_device, energy_meter
from nuvlm.models.power import CORE_WATTS, EnergyMeter


def zone(folder: Path, number: str, name: str, microjoules: int, limit: int = 262_143_328_850) -> Path:
    """A counter as /sys/class/powercap has it."""
    path = folder / f"intel-rapl:{number}"
    path.mkdir(parents=True)
    for file, value in (("name", name), ("energy_uj", microjoules), ("max_energy_range_uj", limit)):
        (path / file).write_text(f"{value}\n")
    return path / "energy_uj"


def test_counters_of_packages_and_memory_add_up(tmp_path: Path) -> None:
    files = [
        zone(tmp_path, "0", "package-0", 5_000_000),
        zone(tmp_path, "0:0", "core", 1_000_000),
        zone(tmp_path, "0:1", "dram", 2_000_000),
        zone(tmp_path, "1", "package-1", 0),
        zone(tmp_path, "2", "psys", 0),
    ]
    meter = EnergyMeter(powercap=tmp_path)
    for file in files:
        file.write_text("9000000")  # between two blocks: not counted
    for more in (10_000_000, 12_500_000):
        with meter:
            for file in files:
                file.write_text(str(more))
    energy = meter.energy
    # 9 to 10 J, then 10 to 12.5 J, on two packages and one memory
    assert energy.joules == pytest.approx(3 * 3.5)
    assert energy.measured
    assert "RAPL" in energy.how


def test_a_counter_that_starts_again_loses_nothing(tmp_path: Path) -> None:
    file = zone(tmp_path, "0", "package-0", 95_000_000, limit=100_000_000)
    meter = EnergyMeter(powercap=tmp_path)
    with meter:
        file.write_text("7000000")
    assert meter.energy.joules == pytest.approx(12)


@pytest.mark.parametrize("content", [None, "no number"])
def test_what_cannot_be_read_is_estimated(tmp_path: Path, content: str | None) -> None:
    file = zone(tmp_path, "0", "package-0", 0)
    file.unlink()
    if content:
        file.write_text(content)
    meter = EnergyMeter(powercap=tmp_path)
    begin = time.process_time()
    with meter:
        while time.process_time() - begin < 0.2:
            pass
    time.sleep(0.2)
    assert meter.energy.joules == pytest.approx(0.2 * CORE_WATTS, rel=0.2), "the time of a busy core, no other"
    assert not meter.energy.measured
    assert f"{CORE_WATTS:g} W" in meter.energy.how


def test_nothing_done_is_nothing_spent(tmp_path: Path) -> None:
    assert EnergyMeter(powercap=tmp_path).energy.joules == 0


def test_of_a_gpu_that_is_not_there_nothing_is_known(tmp_path: Path) -> None:
    meter = EnergyMeter("00000000-0000-0000-0000-000000000000", tmp_path)
    with meter:
        pass
    assert meter.energy.joules is None
    assert not meter.energy.measured


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_counts() -> None:
    meter = energy_meter(choose_device())
    with meter:
        matrix = torch.randn(4096, 4096, device="cuda")
        end = time.monotonic() + 1
        while time.monotonic() < end:
            (matrix @ matrix).sum().item()
    assert 20 < (meter.energy.joules or 0) < 2000
    assert "GPU: NVML" in meter.energy.how
