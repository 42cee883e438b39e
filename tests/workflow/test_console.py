"""What a user sees of a run: Snakemake with this project's console, on a workflow of four jobs."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from paths import REPOSITORY

pytestmark = pytest.mark.workflow
SNAKEFILE = """
rule all:
    input: "c"

rule make:
    output: "{x}.part"
    log: "results/r/logs/make/{x}.log"
    script: "job.py"

rule collect:
    input: "a.part", "b.part"
    output: "c"
    log: "results/r/logs/collect.log"
    script: "job.py"

onstart:
    from snakemake.logging import logger
    logger.info("", extra={"expected_seconds": {"make": 1, "collect": 1, "all": 0}})
"""
JOB = """
import logging
from pathlib import Path
from nuvlm.base.errors import InputError
from nuvlm.base.logs import setup_logging, track

setup_logging(snakemake.log[0])
logger = logging.getLogger("nuvlm.here")
for _ in track(range(3), "events"):
    pass
logger.info("an info")
logger.warning("2 events left out")
if Path("broken").exists() and snakemake.rule == "collect":
    raise InputError("a.part: event 7 has no energy. Make it again.")
Path(snakemake.output[0]).touch()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    (tmp_path / "job.py").write_text(JOB)
    return tmp_path


def test_jobs_with_gpus_wait_for_one_another(tmp_path: Path) -> None:
    """With the local profile: each takes the first GPU, whatever others do."""
    (tmp_path / "Snakefile").write_text(
        """
rule all:
    input: "a", "b"

rule one:
    output: "{x}"
    resources: gpu=1
    shell: "date +%s%N > {output}; sleep 2; date +%s%N >> {output}"
"""
    )
    profile = REPOSITORY / "profiles" / "local"
    subprocess.run(
        [sys.executable, "-m", "snakemake", "--profile", str(profile), "--cores", "2"], cwd=tmp_path, check=True
    )
    spans = sorted([*map(int, (tmp_path / name).read_text().split())] for name in "ab")
    assert spans[0][1] <= spans[1][0]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "snakemake", "--cores", "2", "--logger", "nuvlm", *arguments]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), cwd=folder, capture_output=True, text=True)


def test_a_run_is_a_line_a_stage(folder: Path) -> None:
    done = run(folder)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    log = re.fullmatch(r"4 jobs on 2 cores\. Full log: (\.snakemake/log/\S+)", lines[0])
    assert log, lines
    assert sorted(lines[1:4]) == sorted(
        ["make a: 2 events left out", "make b: 2 events left out", next(line for line in lines if " make " in line)]
    )
    assert re.match(r"\[ 0:\d\d\] make +2 of 2", next(line for line in lines if " make " in line))
    assert lines[4] == "collect: 2 events left out"
    assert re.match(r"\[ 0:\d\d\] collect +1 of 1", lines[5])
    assert re.fullmatch(r"\[ 0:\d\d\] 4 jobs done\. Full log: \S+", lines[6])
    assert len(lines) == 7, lines
    full = (folder / log[1]).read_text()
    assert "rule collect:" in full
    assert "4 of 4 steps (100%) done" in full
    assert "an info" in (folder / "results/r/logs/make/a.log").read_text()
    again = run(folder)
    assert "Nothing to be done" in again.stderr


def test_a_failed_job_shows_its_whole_log(folder: Path) -> None:
    (folder / "broken").touch()
    done = run(folder, "--keep-going")
    assert done.returncode == 1
    after = done.stderr.partition("collect failed.\n")[2]
    assert after.startswith("Its log, results/r/logs/collect.log:\n")
    assert "INFO nuvlm.here: an info" in after
    assert done.stderr.count("a.part: event 7 has no energy. Make it again.") == 1
    assert "CalledProcessError" not in done.stderr
    assert re.search(r"2 of 4 jobs done, failed: collect \(1\)\. Full log: \S+\n$", done.stderr)


def test_an_error_of_the_workflow_is_shown(folder: Path) -> None:
    (folder / "Snakefile").write_text(SNAKEFILE.replace('"b.part"', '"missing.txt"'))
    done = run(folder)
    assert done.returncode == 1
    assert "MissingInputException" in done.stderr
    assert "missing.txt" in done.stderr


def test_a_dry_run_is_that_of_snakemake(folder: Path) -> None:
    done = run(folder, "--dry-run")
    plain = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "2", "--dry-run"], cwd=folder, capture_output=True, text=True
    )
    shown = [re.sub(r"\[.* 20\d\d\]", "", text).split("\n") for text in (done.stdout, plain.stdout)]
    same = [
        [line for line in lines if line and not re.match(" +(Date|Workflow ID|Command|reason):", line)]
        for lines in shown
    ]
    assert "rule collect:" in done.stdout
    assert same[0] == same[1]


def test_a_terminal_has_a_last_line_that_is_redrawn(folder: Path) -> None:
    controller, terminal = pty.openpty()
    os.set_blocking(controller, False)
    subprocess.run(command(), cwd=folder, stdin=terminal, stdout=terminal, stderr=terminal, check=True)
    shown = os.read(controller, 1 << 16).decode()
    kept = [line.rpartition("\r\x1b[K")[2] for line in shown.split("\r\n")]
    assert [line for line in kept if re.match(r"\[ 0:\d\d\] make +2 of 2", line)]
    assert "collect: 2 events left out" in kept
    assert not [line for line in kept if "running: " in line], "redrawn, then removed"
    assert re.search(r"of 4 jobs.*; running: make", shown)
