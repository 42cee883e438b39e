"""Progress: bars on a terminal, plain lines in a log."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

JOB = """
import logging, sys, time
from nuvlm.base.logs import setup_logging, track
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
    told = lines(log.read_text())
    assert sum("/40 events (" in line for line in told) >= 3
    assert re.search(r"\d+/40 events \(\d+ %\), [\d.]+/s, \d+ s left", told[0])
    assert any("nuvlm.here: half of it" in line for line in told)
    assert re.search(r"40 events in .* s \(.*/s\)", told[-1])
    assert not re.search(r"[█▏|\x1b]", log.read_text())


def test_a_log_and_a_pipe_get_plain_lines(log: Path) -> None:
    done = subprocess.run([sys.executable, "-c", JOB, log], capture_output=True, text=True, check=True)
    check_log(log)
    told = lines(done.stderr)
    assert sum("/40 events (" in line for line in told) >= 3
    assert all(line.startswith("stage: ") for line in told)


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
