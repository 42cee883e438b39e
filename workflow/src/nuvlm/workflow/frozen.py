"""What a run was planned with: configuration, shards and digests of code, in ``results/{run}/frozen.json``.

The main process writes the file when it starts its first job. On a cluster every job parses the rules again, in a
process of its own: it takes all this from the file. Settings that are edited and files that arrive during a run wait
for the next start.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nuvlm.base.errors import InputError
from nuvlm.base.files import read_json, sha256, write_json
from nuvlm.workflow.config import Config, parse_config

VARIABLE = "NUVLM_FROZEN"
"""Environment variable of the jobs, JSON: run -> SHA-256 and path of the file. A workflow may import several runs."""
RESTART = "The job's run was started with another one. Start Snakemake again."


@dataclass(frozen=True)
class Frozen:
    """What the rules would otherwise find out by themselves."""

    config: Config
    shards: dict[str, str]
    """Shard name -> input file."""
    genie_files: list[str]
    code: dict[str, str]
    """Script, entries and files, separated by spaces -> digests (nuvlm.workflow.code_digest)."""


def freeze(frozen: Frozen) -> None:
    """Write the file, and set the variable by which the jobs of this process find it."""
    path = _path(frozen.config.run)
    write_json(
        path,
        {
            "config": frozen.config.model_dump(mode="json"),
            "shards": frozen.shards,
            "genie_files": frozen.genie_files,
            "code": frozen.code,
        },
        sealed=True,
    )
    files = json.loads(os.environ.get(VARIABLE, "{}"))
    os.environ[VARIABLE] = json.dumps(files | {frozen.config.run: [sha256(path), str(path.resolve())]})


def read_frozen(config: Mapping[str, object]) -> Frozen | None:
    """What the run of this job was planned with; None if it was started in a way that did not write it.

    Args:
        config: the configuration as it is now, unchecked. It gives the name of the run where a cluster does not pass
            the environment on.

    Raises:
        InputError: the file is damaged, or it is that of another start of the run.
    """
    run = str(config.get("run", Config.model_fields["run"].default))
    files = json.loads(os.environ.get(VARIABLE, "{}"))
    # The name of the only run may have been edited.
    digest, name = files.get(run) or (next(iter(files.values())) if len(files) == 1 else (None, _path(run)))
    path = Path(name)
    if not path.is_file():
        if digest:
            raise InputError(f"{path}: missing. {RESTART}")
        return None
    if digest and sha256(path) != digest:
        raise InputError(f"{path}: not what this job was planned with. {RESTART}")
    values = read_json(path)
    try:
        return Frozen(parse_config(values["config"]), values["shards"], values["genie_files"], values["code"])
    except KeyError as error:
        raise InputError(f"{path}: has no {error}. {RESTART}") from error


def _path(run: str) -> Path:
    return Path("results", run, "frozen.json")
