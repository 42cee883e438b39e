"""Batches that fit themselves to memory, and are made ready while the one before is computed on."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from nuvlm.base.errors import InputError

logger = logging.getLogger(__name__)
Item = TypeVar("Item")
Result = TypeVar("Result")


def prepared(work: Callable[[Item], Result], items: Iterable[Item], *, ahead: bool) -> Iterator[Result]:
    """What `work` makes of each of the `items`, in order.

    Args:
        work: whatever needs no device.
        items: read one at a time, where `work` runs.
        ahead: whether a thread makes the next one ready while the caller is busy with the last, at the price of one
            more in memory.
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


class FittingBatches:
    """Cuts work into batches, and into smaller ones from where a batch did not fit in memory.

    Attributes:
        size: events a batch, the largest that has not failed.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def run(self, work: Callable[[Sequence[Item]], Result], items: Sequence[Item]) -> Iterator[tuple[slice, Result]]:
        """Yield where in `items` each batch lies, and what `work` makes of it.

        A batch that runs out of memory is halved and tried again, as often as it takes; the smaller size is kept.

        Raises:
            InputError: where a single event does not fit.
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
        """What `work` makes of `batch`; None where it did not fit, and `size` is now smaller."""
        try:
            return (work(batch),)
        except (MemoryError, RuntimeError) as error:
            if not (isinstance(error, MemoryError) or should_reduce_batch_size(error)):
                raise
            if len(batch) == 1:
                raise InputError(
                    f"not even one event fits in memory ({error}). Take a device or a job with more of it, "
                    "vlm.hub.max_tiles: 1, quantization: nf4, or merge_adapter: false."
                ) from error
        # Only here, where the error is gone with all that its frames held, is the memory free again.
        clear_device_cache(garbage_collection=True)
        self.size = len(batch) // 2
        logger.warning("%d events at once do not fit in memory: %d from here on", len(batch), self.size)
        return None
