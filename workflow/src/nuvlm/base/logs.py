"""Logging of a job: one file, the terminal, and progress with throughput in both."""

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from tqdm import tqdm

from nuvlm.base.errors import InputError

T = TypeVar("T")
logger = logging.getLogger("nuvlm")
IN_BAR = {"in_bar": True}
"""Marks log lines that repeat what the progress bar shows."""
tqdm.monitor_interval = 0  # its monitor is a thread, and a process that forks should have none


def setup_logging(path: str | Path) -> None:
    """Send this process's log to `path` and, shorter, to the terminal.

    Snakemake's ``log:`` redirects nothing by itself. Messages carry the process rank where there are
    several (RANK, as torchrun sets it). An :class:`InputError` that ends the process is printed as its
    message alone; anything else is a bug and keeps its traceback.
    """
    rank = os.environ.get("RANK")
    prefix = f"[rank {rank}] " if rank else ""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    # The processes that torchrun starts write to the file of the one that started it.
    file = logging.FileHandler(path, mode="w" if rank is None else "a")
    file.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s {prefix}%(name)s: %(message)s"))
    terminal = _Terminal()
    terminal.setFormatter(logging.Formatter(f"{prefix}{Path(path).stem}: %(message)s"))
    root = logging.getLogger()
    for handler in root.handlers[:]:
        root.removeHandler(handler)
    root.addHandler(file)
    root.addHandler(terminal)
    root.setLevel(logging.WARNING)
    logger.setLevel(logging.INFO)
    logging.captureWarnings(True)

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, InputError):
            logger.error("%s", error)
        else:
            logger.critical("this is a bug, or a fault of the machine", exc_info=(kind, error, trace))

    sys.excepthook = hook


class _Terminal(logging.StreamHandler):
    """Writes above the bar that :func:`track` draws, and leaves out the lines that say the same as it."""

    def emit(self, record: logging.LogRecord) -> None:
        if sys.stderr.isatty() and getattr(record, "in_bar", False):
            return
        with tqdm.external_write_mode(file=self.stream):
            super().emit(record)


def track(items: Iterable[T], what: str, total: int | None = None, every: float = 10.0) -> Iterator[T]:
    """Yield `items`, saying how many of `total` are done, the rate and the time left.

    A terminal gets a bar, a log a line every `every` seconds and a last one with the throughput. `what` is the plural
    of what is counted ("events", "batches").
    """
    if total is None:
        total = len(items) if isinstance(items, Sized) else None
    start = last = time.monotonic()
    done = 0
    # Snakemake runs jobs side by side: each bar clears its line when it is done.
    bar = tqdm(items, what, total, leave=False, disable=not sys.stderr.isatty(), dynamic_ncols=True)
    for item in bar:
        yield item
        done += 1
        now = time.monotonic()
        if now - last >= every:
            last = now
            rate = done / (now - start)
            if total:
                left = (total - done) / rate
                logger.info(
                    "%s/%s %s (%.0f %%), %.3g/s, %.0f s left", done, total, what, 100 * done / total, rate, left,
                    extra=IN_BAR,
                )  # fmt: skip
            else:
                logger.info("%s %s, %.3g/s", done, what, rate, extra=IN_BAR)
    seconds = max(time.monotonic() - start, 1e-9)
    logger.info("%s %s in %.1f s (%.3g/s)", done, what, seconds, done / seconds)
