"""What Snakemake shows on the terminal with ``--logger nuvlm``: a line a stage, progress, the time left, and errors.

Snakemake finds the package by its name. Everything that is left out here is in Snakemake's log file, which the first
and the last line name.
"""

import logging
import os
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from nuvlm.base.logs import CLEAR_LINE, QUIET
from nuvlm.workflow.progress import Progress, clock_time

EVERY = 60.0
"""Seconds between two lines of progress in a file; a terminal has one that is redrawn every second."""
NOISE = (
    "Assuming unrestricted shared filesystem",
    "Building DAG of jobs",
    "Using shell",
    "Conda environments: ignored",
    "Singularity containers: ignored",
    "Select jobs to execute",
    "Complete log(s)",
    "Elapsed time",
    # The log of the failed job, and the last line, say it better.
    "RuleException:\nCalledProcessError in",
    "Exiting because a job execution failed",
    "WorkflowError:\nAt least one job did not complete",
)
"""Beginnings of messages that tell a user nothing new."""


class LogHandler(LogHandlerBase):
    """Lines for a terminal or a file. A dry run, or ``--verbose``, shows what Snakemake shows."""

    def __post_init__(self) -> None:
        self._stream = sys.stdout if self.common_settings.stdout else sys.stderr
        self._tty = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._progress: Progress | None = None
        self._cores: int | None = None
        self._links: list[tuple[str, str]] = []
        self._names: dict[int, str] = {}
        self._log = ""
        self._stop = threading.Event()
        if not (self.common_settings.dryrun or self.common_settings.verbose):
            os.environ[QUIET] = "1"  # for the jobs: they run as processes below this one

    writes_to_stream = True
    writes_to_file = False
    has_filter = False
    has_formatter = False
    needs_rulegraph = True

    def emit(self, record: logging.LogRecord) -> None:
        event = getattr(record, "event", None)
        try:
            if not (self.common_settings.dryrun or self.common_settings.verbose):
                self._handle(record, event)
            elif event != LogEvent.RULEGRAPH:
                self._write(self.format(record))
        except Exception:
            self.handleError(record)

    def _handle(self, record: Any, event: LogEvent | None) -> None:
        if event == LogEvent.RULEGRAPH:
            self._links = [(link["sourcerule"], link["targetrule"]) for link in record.rulegraph["links"]]
        elif event == LogEvent.RESOURCES_INFO:
            self._cores = getattr(record, "cores", self._cores)
        elif event == LogEvent.RUN_INFO:
            self._begin({rule: number for rule, number in record.stats.items() if rule != "total"})
        elif event == LogEvent.JOB_INFO and self._progress:
            self._names[record.jobid] = " ".join([record.rule_name, *map(str, (record.wildcards or {}).values())])
            self._progress.start(record.jobid, record.rule_name)
            self._draw()
        elif event == LogEvent.JOB_FINISHED and self._progress:
            rule = self._progress.finish(record.job_id)
            if rule and self._progress.expected.get(rule) != 0:
                self._write(self._progress.stage(rule))
        elif event == LogEvent.JOB_ERROR:
            self._job_error(record)
        elif hasattr(record, "expected_seconds") and self._progress:
            self._progress.expected = dict(record.expected_seconds)
        elif event in (None, LogEvent.ERROR, LogEvent.GROUP_ERROR) and not record.getMessage().startswith(NOISE):
            self._write(self.format(record))

    def _begin(self, jobs: dict[str, int]) -> None:
        self._progress = Progress(jobs, self._cores, self._links)
        cores = "" if self._cores is None else f" on {self._cores} core{'s' if self._cores > 1 else ''}"
        self._log = _log_file()
        self._write(f"{_count(sum(jobs.values()))}{cores}. Full log: {self._log}")
        threading.Thread(target=self._tick, daemon=True).start()

    def _job_error(self, record: Any) -> None:
        """The whole log of a failed job: it names the file, the event and the remedy."""
        if self._progress:
            self._progress.fail(record.jobid)
        self._write(f"\n{self._names.get(record.jobid, record.rule_name)} failed.")
        for log in record.log:
            try:
                self._write(f"Its log, {log}:\n{Path(log).read_text(errors='replace').rstrip()}\n")
            except OSError as error:
                self._write(f"Its log cannot be read: {error}")

    def _tick(self) -> None:
        while not self._stop.wait(1.0 if self._tty else EVERY):
            self.acquire()
            try:
                if self._tty:
                    self._draw()
                elif self._progress:
                    self._write(self._progress.status())
            finally:
                self.release()

    def _write(self, text: str) -> None:
        """A line that stays, above the one that is redrawn."""
        if text:
            self._stream.write(f"{CLEAR_LINE if self._tty else ''}{text}\n")
            self._draw()
            self._stream.flush()

    def _draw(self) -> None:
        if self._tty and self._progress and not self._stop.is_set():
            width = shutil.get_terminal_size().columns - 1
            self._stream.write(CLEAR_LINE + self._progress.status()[:width])
            self._stream.flush()

    def close(self) -> None:
        """Say how the run ended. Snakemake calls this at every end, also after Ctrl-C."""
        self._stop.set()
        progress, self._progress = self._progress, None
        if progress:
            done, total = progress.done.total(), sum(progress.jobs.values())
            failed = ", ".join(f"{rule} ({number})" for rule, number in progress.failed.items())
            end = f"failed: {failed}" if failed else "stopped before the end"
            say = f"{_count(total)} done" if done == total else f"{done} of {_count(total)} done, {end}"
            self._write(f"[{clock_time(progress.elapsed):>5}] {say}. Full log: {self._log}")
        super().close()


def _count(jobs: int) -> str:
    return f"{jobs} job{'s' if jobs > 1 else ''}"


def _log_file() -> str:
    """The file that Snakemake logs everything to."""
    handlers = logging.getLogger("snakemake.logging").handlers
    files = [handler.baseFilename for handler in handlers if isinstance(handler, logging.FileHandler)]
    return os.path.relpath(files[0]) if files else "none"
