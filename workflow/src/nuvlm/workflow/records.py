"""The jobs that made a file, from Snakemake's records of every output (``.snakemake/metadata``)."""

import json
from base64 import urlsafe_b64decode
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nuvlm.base.errors import InputError

METADATA = Path(".snakemake", "metadata")


@dataclass(frozen=True)
class Job:
    """One job of a run. Paths are as Snakemake has them, relative to its working directory."""

    rule: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    logs: tuple[str, ...]
    started: datetime
    ended: datetime


def read_jobs(targets: Iterable[str]) -> list[Job]:
    """The jobs that made `targets`, and those that made their inputs, and so on; earliest end first.

    Records of outputs that nothing of this was made from, left by other settings, are not used.

    Raises:
        InputError: there is no record of a target.
    """
    records = _read_records()
    missing = [target for target in targets if target not in records]
    if missing:
        raise InputError(
            f"{METADATA}: has no record of {missing[0]}. Give the command in the folder where Snakemake ran; with "
            "results that were copied, copy its .snakemake/metadata, too."
        )
    found: dict[tuple[str, tuple[str, ...]], dict[str, dict[str, Any]]] = {}
    seen: set[str] = set()
    waiting = list(targets)
    while waiting:
        output = waiting.pop()
        if output in seen or output not in records:
            continue
        seen.add(output)
        record = records[output]
        # Every job of this workflow has a log file of its own.
        found.setdefault((record["rule"], tuple(record["log"])), {})[output] = record
        waiting += record["input"]
    jobs = [_job(rule, logs, outputs) for (rule, logs), outputs in found.items()]
    return sorted(jobs, key=lambda job: (job.ended, job.outputs))


def _job(rule: str, logs: tuple[str, ...], outputs: dict[str, dict[str, Any]]) -> Job:
    records = outputs.values()
    return Job(
        rule.removeprefix("nuvlm_"),
        tuple(sorted({name for record in records for name in record["input"]})),
        tuple(sorted(outputs)),
        logs,
        _time(min(record["starttime"] for record in records)),
        _time(max(record["endtime"] for record in records)),
    )


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _read_records() -> dict[str, dict[str, Any]]:
    """Output -> its record, of every job that ended well in this working directory."""
    found = {}
    for path in METADATA.rglob("*") if METADATA.is_dir() else ():
        if not path.is_file():
            continue
        try:
            # Long names are cut in folders that begin with @.
            name = "".join(part.removeprefix("@") for part in path.relative_to(METADATA).parts)
            record = json.loads(path.read_text())
            if not record["incomplete"]:
                found[urlsafe_b64decode(name).decode()] = record
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise InputError(f"{path}: not a record of Snakemake ({error}). Remove it.") from error
    return found
