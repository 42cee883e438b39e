"""Batches that shrink until they fit in memory, and are prepared while the previous one is computed."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from nuvlm.base.errors import InputError

logger = logging.getLogger(__name__)
Item = TypeVar("Item")
Result = TypeVar("Result")


def prepared(work: Callable[[Item], Result], items: Iterable[Item], *, ahead: bool) -> Iterator[Result]:
    """Yield ``work(item)`` for each item, in order.

    Args:
        work: preparation on the CPU.
        items: read one at a time, in the thread where `work` runs.
        ahead: whether a thread prepares the next result while the caller uses the last; holds one more in memory.
    """
    if not ahead:
        yield from map(work, items)
        return
    iterator = iter(items)

    def advance() -> tuple[Result] | None:
        for item in iterator:
            return (work(item),)
        return None

    with ThreadPoolExecutor(1) as thread:
        following = thread.submit(advance)
        while (done := following.result()) is not None:
            following = thread.submit(advance)
            yield done[0]


def take(inputs: Mapping[str, torch.Tensor], events: slice, count: int) -> dict[str, torch.Tensor]:
    """The inputs of some of `count` events, whose pictures have the same sizes.

    Some processors give a row for each event, others for each picture, tile or patch: as many for each event.
    """
    rows = {name: len(value) // count for name, value in inputs.items()}
    return {name: value[events.start * rows[name] : events.stop * rows[name]] for name, value in inputs.items()}


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` means that memory was too small, of a device or of the process."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or should_reduce_batch_size(error):
        return True
    # What the driver, cuBLAS, NCCL and Triton say where they allocate by themselves.
    words = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        phrase in words for phrase in ("out of memory", "cublas_status_alloc_failed", "can't allocate memory")
    )


class FittingBatches:
    """Splits work into batches, and halves the batch size whenever a batch does not fit in memory.

    Attributes:
        size: events per batch; the largest size that has not failed.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def run(self, work: Callable[[Sequence[Item]], Result], items: Sequence[Item]) -> Iterator[tuple[slice, Result]]:
        """Yield the slice of `items` and the result of `work` for each batch.

        A batch that runs out of memory is halved and repeated until it fits; the smaller size is kept.

        Raises:
            InputError: a single event does not fit.
        """
        begin = 0
        while begin < len(items):
            where = slice(begin, min(begin + self.size, len(items)))
            done = self._attempt(work, items[where])
            if done is None:
                continue
            yield where, done[0]
            begin = where.stop

    def _attempt(self, work: Callable[[Sequence[Item]], Result], batch: Sequence[Item]) -> tuple[Result] | None:
        """``(work(batch),)``, or None if it did not fit; `size` is then halved."""
        try:
            return (work(batch),)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            if len(batch) == 1:
                raise InputError(
                    f"a single event does not fit in memory ({error}). Use a device or a job with more memory, "
                    "vlm.hub.max_tiles: 1, quantization: nf4, or merge_adapter: false."
                ) from error
        # After the except block: the traceback no longer holds the tensors of the failed batch.
        clear_device_cache(garbage_collection=True)
        self.size = len(batch) // 2
        logger.warning(
            "a batch of %d events does not fit in memory; continuing with batches of %d", len(batch), self.size
        )
        return None
