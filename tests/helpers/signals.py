"""Signals as clusters send them."""

import os
import signal
import subprocess
from pathlib import Path


def all_of_its_processes(process: subprocess.Popen) -> None:
    """SIGTERM to every process of the session that `process` leads.

    So does Slurm: `sbatch --signal`, the time limit and preemption all signal every process of a job step.
    """
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _session(entry) == process.pid:
            os.kill(int(entry.name), signal.SIGTERM)


def _session(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[3])
    except OSError:  # it has ended meanwhile
        return -1
