"""A device for torch that is not the CPU: built once from standin/standin.cpp, for the tests of what a GPU would do."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch.utils.cpp_extension import load

NAME = "standin"
SOURCE = Path(__file__).parent / NAME / f"{NAME}.cpp"


def build() -> Any:
    """Compile the device, a minute the first time, and register it as `torch.standin`; returns its counters."""
    if hasattr(torch, NAME):
        return getattr(torch, NAME).counters
    torch.utils.rename_privateuse1_backend(NAME)
    counters = load(f"nuvlm_{NAME}", [str(SOURCE)], extra_cflags=["-O0", "-std=c++20"])
    module = ModuleType(f"torch.{NAME}")
    module.__dict__.update(
        counters=counters,
        is_available=lambda: True,
        is_initialized=lambda: True,
        _is_in_bad_fork=lambda: False,
        device_count=lambda: 1,
        current_device=lambda: 0,
        set_device=lambda device: None,
        synchronize=lambda device=None: None,
        get_amp_supported_dtype=lambda: [torch.bfloat16, torch.float16],
        manual_seed_all=lambda seed: counters.generator().manual_seed(seed),
        manual_seed=lambda seed: counters.generator().manual_seed(seed),
        get_rng_state=lambda device=0: counters.generator().get_state(),
        set_rng_state=lambda state, device=0: counters.generator().set_state(state),
        device=_Current,
    )
    sys.modules[f"torch.{NAME}"] = module
    torch._register_device_module(NAME, module)
    torch.utils.generate_methods_for_privateuse1_backend(for_storage=True)
    return counters


class _Current:
    """``with torch.standin.device(index)``: there is one device."""

    def __init__(self, index: object) -> None: ...

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


@contextmanager
def memory_limit(counters: Any, more: int) -> Iterator[None]:
    """Let the device hold no more than `more` bytes than now."""
    counters.limit(counters.allocated() + more)
    try:
        yield
    finally:
        counters.limit(None)
