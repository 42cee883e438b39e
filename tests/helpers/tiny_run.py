"""The workflow at its smallest size, through Snakemake as a user starts it."""

import subprocess
import sys
from pathlib import Path

from paths import REPOSITORY

SETTINGS = REPOSITORY / ".test" / "config" / "config.yaml"


def arguments(*arguments: str, overlays: tuple[str, ...] = ()) -> list[str]:
    """Arguments of Snakemake with the tiny settings over all others."""
    files = ["--configfile", "config/config.yaml", *overlays, str(SETTINGS)]
    return ["--cores", "2", "--keep-going", "--show-failed-logs", *arguments, *files]


def snakemake(folder: Path, *targets: str, overlays: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run Snakemake in a copy of the workflow, with these arguments."""
    command = [sys.executable, "-m", "snakemake", *arguments(*targets, overlays=overlays)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)
