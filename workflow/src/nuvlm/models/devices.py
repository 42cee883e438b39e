"""The device that a model runs on, its peak memory and its energy meter."""

import gc
from collections.abc import Mapping

import torch

from nuvlm.models.memory import forget_peak, process_peak_mb
from nuvlm.models.power import EnergyMeter


def choose_device() -> torch.device:
    """The first GPU if there is one, otherwise the CPU."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def energy_meter(device: torch.device) -> EnergyMeter:
    """An energy meter for computations on `device`."""
    return EnergyMeter(str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else None)


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def peak_memory_mb() -> float:
    """Peak memory so far, MB (10^6 bytes): reserved by torch on all GPUs, or of this process if there is no GPU."""
    if torch.cuda.is_available():
        return sum(torch.cuda.max_memory_reserved(i) for i in range(torch.cuda.device_count())) / 1e6
    return process_peak_mb()


def free_memory() -> None:
    """Free unused memory, of the GPU too, and start the peak anew (on a CPU only on Linux)."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    else:
        forget_peak()


def device_memory_mb(device: torch.device) -> float | None:
    """Memory of a GPU, MB; None for a CPU, whose limit is the job's."""
    return torch.cuda.get_device_properties(device).total_memory / 1e6 if device.type == "cuda" else None


def supports_tf32(device: torch.device) -> bool:
    """Whether `device` multiplies float32 with TF32's mantissa of 10 bits: NVIDIA GPUs since compute capability 8."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def pinned(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies in page-locked memory, which an accelerator reads while the CPU goes on.

    Expanded tensors, whose elements share memory, are copied in full: torch cannot pin them as they are.
    """
    return {name: value.contiguous().pin_memory() for name, value in tensors.items()}
