"""What a run was planned with: configuration, shards and digests of code, in ``results/{run}/frozen.json``.

The main process writes the file when it starts its first job. On a cluster every job parses the rules again, in a
process of its own: it takes all this from the file. Settings that are edited and files that arrive during a run wait
for the next start.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nuvlm.base.errors import InputError
from nuvlm.base.files import read_json, sha256, write_json
from nuvlm.workflow.config import Config, parse_config

VARIABLE = "NUVLM_FROZEN"
"""Environment variable of the jobs: SHA-256 and path of the file."""
RESTART = "The job's run was started with another one. Start Snakemake again."


@dataclass(frozen=True)
class Frozen:
    """What the rules would otherwise find out by themselves."""

    config: Config
    shards: dict[str, str]
    """Shard name -> input file."""
    genie_files: list[str]
    code: dict[str, str]
    """Script and entries, separated by spaces -> digest (nuvlm.workflow.code_digest)."""


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
    os.environ[VARIABLE] = f"{sha256(path)} {path.resolve()}"


def read_frozen(config: Mapping[str, object]) -> Frozen | None:
    """What the run of this job was planned with; None if it was started in a way that did not write it.

    Args:
        config: the configuration as it is now, unchecked. It gives the name of the run where a cluster does not pass
            the environment on.

    Raises:
        InputError: the file is damaged, or it is that of another start of the run.
    """
    digest, _, name = os.environ.get(VARIABLE, "").partition(" ")
    path = Path(name) if name else _path(config.get("run", Config.model_fields["run"].default))
    if not path.is_file():
        if name:
            raise InputError(f"{path}: missing. {RESTART}")
        return None
    if digest and sha256(path) != digest:
        raise InputError(f"{path}: not what this job was planned with. {RESTART}")
    values = read_json(path)
    try:
        return Frozen(parse_config(values["config"]), values["shards"], values["genie_files"], values["code"])
    except KeyError as error:
        raise InputError(f"{path}: has no {error}. {RESTART}") from error


def _path(run: object) -> Path:
    return Path("results", str(run), "frozen.json")
