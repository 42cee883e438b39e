"""Shared by the GPU benchmarks: each measurement starts with free memory, and a failure does not stop the others."""

import logging
from collections.abc import Callable
from typing import Any

import torch

from nuvlm.base.errors import InputError
from nuvlm.models.devices import free_memory

logger = logging.getLogger("gpu")


def free() -> None:
    """Free unused GPU memory and reset the peak statistics."""
    torch.compiler.reset()
    free_memory()


def attempt(work: Callable[[], dict[str, Any]], what: str) -> dict[str, Any]:
    """The result of `work`, or its error message."""
    logger.info("%s", what)
    free()
    try:
        return work()
    except (RuntimeError, MemoryError, InputError) as error:
        logger.warning("%s: %s", what, error)
        return {"failed": str(error).splitlines()[0]}
