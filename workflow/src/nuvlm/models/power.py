"""Energy consumption: from hardware counters where available, otherwise estimated."""

import ctypes
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

POWERCAP = Path("/sys/class/powercap")
"""Linux's energy counters of Intel and AMD processors (RAPL); since 2020 readable only by root."""
CORE_WATTS = 10.0
"""Assumed power of a busy core with its share of the memory, without a counter."""


@dataclass(frozen=True)
class Energy:
    """Energy of a computation."""

    joules: float | None
    """None if unknown."""
    measured: bool
    """True if all parts come from counters; otherwise an estimate."""
    how: str
    """Counters used and power assumed."""


class EnergyMeter:
    """Sums the energy used in its ``with`` blocks, which must not be nested.

    Processor counters cover the whole machine, including other processes. Without them the energy is this process's CPU
    time times :data:`CORE_WATTS`. For a GPU without an energy counter the enforced power limit is assumed.

    Args:
        gpu: UUID of the GPU in use, from torch; None on a CPU.
        powercap: folder of the processor's counters.
    """

    def __init__(self, gpu: str | None = None, powercap: Path = POWERCAP) -> None:
        self._counters = _rapl_counters(powercap)
        self._gpu = _Gpu(gpu) if gpu else None
        self._total = _Reading()
        self._begin = _Reading()

    def __enter__(self) -> None:
        self._begin = self._read()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._total = self._total.plus(self._read(), self._begin, [limit for _, limit in self._counters])

    @property
    def energy(self) -> Energy:
        """Total of all blocks so far."""
        total, parts, measured = self._total, [], bool(self._counters)
        if self._counters:
            joules: float | None = sum(total.packages)
            parts.append("processor and memory: RAPL")
        else:
            joules = total.core_seconds * CORE_WATTS
            parts.append(f"processor and memory: {CORE_WATTS:g} W per busy core assumed")
        if self._gpu:
            watts = self._gpu.power_limit_w()
            if total.gpu is not None:
                of_gpu: float | None = total.gpu
                parts.append("GPU: NVML")
            elif watts is not None:
                of_gpu, measured = total.seconds * watts, False
                parts.append(f"GPU: its limit of {watts:g} W assumed")
            else:
                of_gpu, measured = None, False
                parts.append("GPU: unknown")
            joules = None if of_gpu is None or joules is None else joules + of_gpu
        return Energy(joules, measured, "; ".join(parts))

    def _read(self) -> "_Reading":
        packages = tuple(int(file.read_text()) / 1e6 for file, _ in self._counters)
        gpu = self._gpu.joules() if self._gpu else None
        return _Reading(packages, gpu, time.process_time(), time.perf_counter())


@dataclass(frozen=True)
class _Reading:
    """Counter values at one time, or their differences."""

    packages: tuple[float, ...] = ()
    """J, for each counter of the processor."""
    gpu: float | None = 0.0
    """J."""
    core_seconds: float = 0.0
    seconds: float = 0.0

    def plus(self, end: "_Reading", begin: "_Reading", limits: list[float]) -> "_Reading":
        """Add the difference between two readings. Counters wrap to 0 at their limit."""
        before = self.packages or (0.0,) * len(limits)
        differences = zip(before, end.packages, begin.packages, limits, strict=True)
        known = None not in (self.gpu, end.gpu, begin.gpu)
        return _Reading(
            tuple(total + (after - start) % limit for total, after, start, limit in differences),
            (self.gpu or 0) + (end.gpu or 0) - (begin.gpu or 0) if known else None,
            self.core_seconds + end.core_seconds - begin.core_seconds,
            self.seconds + end.seconds - begin.seconds,
        )


def _rapl_counters(powercap: Path) -> list[tuple[Path, float]]:
    """Counter files of all processor packages and their memory, each with its wrap-around limit in J."""
    counters = []
    for zone in sorted(powercap.glob("intel-rapl:*")):
        try:
            # Cores and graphics are included in their package; "psys" is the whole board.
            if (zone / "name").read_text().startswith(("package", "dram")):
                int((zone / "energy_uj").read_text())
                counters.append((zone / "energy_uj", int((zone / "max_energy_range_uj").read_text()) / 1e6))
        except (OSError, ValueError):
            return []
    return counters


class _Gpu:
    """Energy counter and power limit of a GPU, from NVIDIA's NVML, which is part of the driver.

    Three C functions: not worth the dependency on its Python binding (nvidia-ml-py).
    """

    def __init__(self, uuid: str) -> None:
        self._nvml: ctypes.CDLL | None = None
        self._handle = ctypes.c_void_p()
        try:
            nvml = ctypes.CDLL("libnvidia-ml.so.1")
        except OSError:
            return
        name = f"GPU-{uuid.removeprefix('GPU-')}".encode()
        if nvml.nvmlInit_v2() == 0 and nvml.nvmlDeviceGetHandleByUUID(name, ctypes.byref(self._handle)) == 0:
            self._nvml = nvml

    def joules(self) -> float | None:
        """Energy since the driver was loaded; None without a counter (before Volta)."""
        value = ctypes.c_ulonglong()
        if self._nvml and self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle, ctypes.byref(value)) == 0:
            return value.value / 1e3
        return None

    def power_limit_w(self) -> float | None:
        value = ctypes.c_uint()
        if self._nvml and self._nvml.nvmlDeviceGetEnforcedPowerLimit(self._handle, ctypes.byref(value)) == 0:
            return value.value / 1e3
        return None
