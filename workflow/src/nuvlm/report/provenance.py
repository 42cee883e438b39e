"""Provenance of a report: code, settings, machine, date."""

import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "nuvlm",
    "snakemake",
    "geant4-pybind",
    "numpy",
    "numba",
    "h5py",
    "zarr",
    "pandas",
    "scikit-learn",
    "scipy",
    "torch",
    "transformers",
    "trl",
    "peft",
    "bitsandbytes",
    "accelerate",
)


def provenance(config: Mapping[str, Any], repository: Path) -> dict[str, Any]:
    """Collect what is needed to reproduce the run.

    Args:
        config: complete configuration.
        repository: folder of the git checkout, or of an archive of one. In other folders `commit` is None.
    """
    # Not of a repository around it, the user's own say.
    top = _git(repository, "rev-parse", "--show-toplevel")
    checkout = top is not None and Path(top) == repository.resolve()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git(repository, "rev-parse", "HEAD") if checkout else _archived(repository),
        "uncommitted_changes": checkout and bool(_git(repository, "status", "--porcelain", "--untracked-files=no")),
        "seeds": dict(_seeds(config)),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "system": platform.platform()},
        "config": dict(config),
    }


def _git(repository: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", repository, *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _archived(repository: Path) -> str | None:
    """The commit that ``git archive`` writes into a file of an archive."""
    try:
        commit = (repository / ".git_archival.txt").read_text().removeprefix("commit: ").strip()
    except OSError:
        return None
    return None if "$" in commit else commit


def _seeds(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, int]]:
    """Every setting named `seed`, under its full key."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _seeds(value, f"{prefix}{name}.")
        elif name == "seed":
            yield f"{prefix}{name}", value


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
