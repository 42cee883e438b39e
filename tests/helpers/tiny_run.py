"""The workflow at its smallest size, through Snakemake as a user starts it."""

import subprocess
import sys
from pathlib import Path

from paths import REPOSITORY

SETTINGS = REPOSITORY / ".test" / "config" / "config.yaml"


def snakemake(folder: Path, *arguments: str, overlays: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run Snakemake in a copy of the workflow, with the tiny settings over all others."""
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--keep-going", "--show-failed-logs"]
    files = ["--configfile", "config/config.yaml", *overlays, str(SETTINGS)]
    return subprocess.run([*command, *arguments, *files], cwd=folder, capture_output=True, text=True)
