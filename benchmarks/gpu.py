"""Shared by the GPU benchmarks: each measurement starts with free memory, and a failure does not stop the others."""

import gc
import logging
from collections.abc import Callable
from typing import Any

import torch

from nuvlm.base.errors import InputError

logger = logging.getLogger("gpu")


def free() -> None:
    """Free unused GPU memory and reset the peak statistics."""
    torch.compiler.reset()
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def attempt(work: Callable[[], dict[str, Any]], what: str) -> dict[str, Any]:
    """The result of `work`, or its error message."""
    logger.info("%s", what)
    free()
    try:
        return work()
    except (RuntimeError, MemoryError, InputError) as error:
        logger.warning("%s: %s", what, error)
        return {"failed": str(error).splitlines()[0]}
