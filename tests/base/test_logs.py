"""Progress: bars on a terminal, plain lines in a log."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nuvlm.base.logs import QUIET, _progress

JOB = """
import logging, sys, time
from nuvlm.base import logs
from nuvlm.base.logs import setup_logging, track
logs.SETTLED_SECONDS = 0.2
setup_logging(sys.argv[1])
for i in track(iter(range(40)), "events", 40, every=0.1):
    time.sleep(0.02)
    if i == 20:
        logging.getLogger("nuvlm.here").info("half of it")
"""


def lines(text: str) -> list[str]:
    return [line for line in re.split(r"[\r\n]+", text) if line.strip()]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "stage.log"


def check_log(log: Path) -> None:
    written = lines(log.read_text())
    assert sum("/40 events (" in line for line in written) >= 3
    assert " left" not in written[0], "the rate has not settled"
    assert any(re.search(r"\d+/40 events \(\d+ %\), [\d.]+/s, \d+ s left", line) for line in written)
    assert any("nuvlm.here: half of it" in line for line in written)
    assert re.search(r"40 events in .* s \(.*/s\)", written[-1])
    assert not re.search(r"[█▏|\x1b]", log.read_text())


def test_the_time_left_is_not_distorted_by_a_slow_first_item() -> None:
    left = []
    for done in range(1, 101):
        seconds = 20 + 0.5 * (done - 1)
        found = re.search(r", (\d+) s left", _progress(done, 100, "events", seconds, seconds - 20))
        if found:
            left.append(int(found[1]))
            assert left[-1] == pytest.approx(0.5 * (100 - done), abs=0.5)
    assert len(left) == 90, "nothing in the first 5 s after the first item"
    assert left == sorted(left, reverse=True)


def test_a_log_and_a_pipe_get_plain_lines(log: Path) -> None:
    done = subprocess.run([sys.executable, "-c", JOB, log], capture_output=True, text=True, check=True)
    check_log(log)
    written = lines(done.stderr)
    assert sum("/40 events (" in line for line in written) >= 3
    assert all(line.startswith("stage: ") for line in written)


def test_a_terminal_gets_a_bar(log: Path) -> None:
    controller, terminal = pty.openpty()
    os.set_blocking(controller, False)
    subprocess.run(
        ["bash", "-c", 'stty rows 30 cols 90; exec "$@"', "bash", sys.executable, "-c", JOB, log],
        stdin=terminal, stdout=terminal, stderr=terminal, check=True,
    )  # fmt: skip
    shown = lines(os.read(controller, 1 << 16).decode())
    check_log(log)
    assert sum(bool(re.search(r"events: +\d+%\|", line)) for line in shown) >= 2
    assert not [line for line in shown if " s left" in line], "the bar says it already"
    assert "stage: half of it" in shown
    assert re.search(r"stage: 40 events in", shown[-1])


def test_below_a_console_only_warnings_reach_the_terminal(log: Path) -> None:
    job = """
import logging, os, sys, warnings
from nuvlm.base.logs import setup_logging
setup_logging(sys.argv[1])
logger = logging.getLogger("nuvlm.here")
logger.info("an info")
logger.warning("2 events left out")
warnings.warn("deprecated")
os.system("echo from C; echo from C >&2")
print("printed", flush=True)
logger.error("an error")
"""
    done = subprocess.run(
        [sys.executable, "-c", job, log], capture_output=True, text=True, check=True, env=os.environ | {QUIET: "1"}
    )
    assert done.stdout + done.stderr == "stage: 2 events left out\n"
    text = log.read_text()
    for part in ("an info", "2 events left out", "deprecated", "printed", "an error"):
        assert text.count(part) >= 1, part
    assert text.count("from C\n") == 2
