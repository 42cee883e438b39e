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
"""Extra of the log lines that repeat what the bar shows."""
QUIET = "NUVLM_QUIET"
"""Environment variable that the console of a run sets for its jobs."""
CLEAR_LINE = "\r\x1b[K"
"""Removes the line that the console redraws."""
SETTLED_SECONDS, SETTLED_SHARE = 5.0, 0.03
"""A loop runs at least so long, and has done so much of its work, before the time left is given."""
tqdm.monitor_interval = 0  # a thread, which processes that fork should not have


def setup_logging(path: str | Path) -> None:
    """Send this process's log to `path` and, shorter, to the terminal; below the console of a run, only warnings.

    Snakemake's ``log:`` redirects nothing by itself. Messages carry the process rank where there are
    several (RANK, as torchrun sets it). An :class:`InputError` that ends the process is printed as its
    message alone; anything else is a bug and keeps its traceback.
    """
    rank = os.environ.get("RANK")
    prefix = f"[rank {rank}] " if rank else ""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    # The processes that torchrun starts write to the file of the one that started it.
    if rank is None:
        Path(path).write_bytes(b"")
    file = logging.FileHandler(path, mode="a")
    file.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s {prefix}%(name)s: %(message)s"))
    quiet = QUIET in os.environ
    terminal = _Console(path) if quiet else _Terminal()
    terminal.setFormatter(logging.Formatter(f"{prefix}{_job_name(Path(path))}: %(message)s"))
    root = logging.getLogger()
    for handler in root.handlers[:]:
        root.removeHandler(handler)
    root.addHandler(file)
    if not (quiet and rank):  # their standard error is the log
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


def _job_name(log: Path) -> str:
    """``simulate_events sim00003`` of ``results/demo/logs/simulate_events/sim00003.log``."""
    parts = log.with_suffix("").parts
    return " ".join(parts[parts.index("logs") + 1 :]) if "logs" in parts else log.stem


class _Terminal(logging.StreamHandler):
    """Writes above the bar of :func:`track` and leaves out the lines that repeat it."""

    def emit(self, record: logging.LogRecord) -> None:
        if self.stream.isatty() and getattr(record, "in_bar", False):
            return
        with tqdm.external_write_mode(file=self.stream):
            super().emit(record)


class _Console(logging.StreamHandler):
    """Below the console of a run: only the warnings of this package. All else that a job writes goes to its log.

    Errors are left out as well: they end the job, and the console then shows its whole log.
    """

    def __init__(self, log: str | Path) -> None:
        super().__init__(os.fdopen(os.dup(2), "w"))
        # Libraries write to both, from C as well.
        with open(log, "a") as file:
            for descriptor in (1, 2):
                os.dup2(file.fileno(), descriptor)

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno == logging.WARNING and record.name.startswith("nuvlm"):
            if self.stream.isatty():
                self.stream.write(CLEAR_LINE)
            super().emit(record)


def track(items: Iterable[T], what: str, total: int | None = None, every: float = 10.0) -> Iterator[T]:
    """Yield `items` and report how many of `total` are done, the rate and the time left.

    A terminal gets a bar. A log gets a line every `every` seconds and a last one with the throughput. The time left
    follows from the rate after the first item, which often includes compilation or cold caches; it is left out until
    that rate has settled.

    Args:
        items: what to iterate over.
        what: plural noun for the items ("events", "batches").
        total: number of items; None to ask `items`, or where it is unknown.
        every: seconds between two lines.
    """
    if total is None:
        total = len(items) if isinstance(items, Sized) else None
    start = last = first = time.monotonic()
    done = 0
    # Snakemake runs jobs side by side: each bar clears its line when it is done.
    bar = tqdm(items, what, total, leave=False, disable=not sys.stderr.isatty(), dynamic_ncols=True)
    for item in bar:
        yield item
        done += 1
        now = time.monotonic()
        if done == 1:
            first = now
        if now - last >= every:
            last = now
            logger.info("%s", _progress(done, total, what, now - start, now - first), extra=IN_BAR)
    seconds = max(time.monotonic() - start, 1e-9)
    logger.info("%s %s in %.1f s (%.3g/s)", done, what, seconds, done / seconds)


def _progress(done: int, total: int | None, what: str, seconds: float, since_first: float) -> str:
    """`seconds` since the start, and since the end of the first item."""
    if not total:
        return f"{done} {what}, {done / seconds:.3g}/s"
    text = f"{done}/{total} {what} ({100 * done / total:.0f} %), {done / seconds:.3g}/s"
    if since_first < SETTLED_SECONDS or done - 1 < SETTLED_SHARE * total:
        return text
    return f"{text}, {(total - done) * since_first / (done - 1):.0f} s left"
