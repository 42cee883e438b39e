"""What the benchmarks for a GPU share: each measurement begins with a clean device, and may fail by itself."""

import gc
import logging
from collections.abc import Callable
from typing import Any

import torch

from nuvlm.base.errors import InputError

logger = logging.getLogger("gpu")


def free() -> None:
    """Give back what is no longer used on a GPU, so that peaks are those of what comes next."""
    torch.compiler.reset()
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def attempt(work: Callable[[], dict[str, Any]], what: str) -> dict[str, Any]:
    """What `work` measures, or what it fails with."""
    logger.info("%s", what)
    free()
    try:
        return work()
    except (RuntimeError, MemoryError, InputError) as error:
        logger.warning("%s: %s", what, error)
        return {"failed": str(error).splitlines()[0]}
