"""The device a model runs on, and how much memory and energy it took there."""

import torch

from nuvlm.models.memory import process_peak_mb
from nuvlm.models.power import EnergyMeter


def choose_device() -> torch.device:
    """The first GPU where there is one, else the CPU."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def energy_meter(device: torch.device) -> EnergyMeter:
    """For what is computed on `device`."""
    return EnergyMeter(str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else None)


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def peak_memory_mb() -> float:
    """Peak memory so far, MB (10^6 bytes): what torch has reserved on all GPUs, or this process without one."""
    if torch.cuda.is_available():
        return sum(torch.cuda.max_memory_reserved(i) for i in range(torch.cuda.device_count())) / 1e6
    return process_peak_mb()
