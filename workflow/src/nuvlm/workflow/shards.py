"""The shards of a run: one for each input file, or for each block of simulated events."""

import glob
from pathlib import Path

from nuvlm.base.errors import InputError
from nuvlm.workflow.config import Config


def list_shards(config: Config) -> dict[str, str]:
    """Shard name -> input file, in order; the file is empty for simulated shards.

    Raises:
        InputError: a file or glob that matches nothing, or two files of one name.
    """
    if config.input.source == "simulate":
        simulate = config.input.simulate
        return {f"sim{i:05d}": "" for i in range(-(-simulate.events // simulate.events_per_shard))}
    shards: dict[str, str] = {}
    for file in _input_files(config):
        name = shard_name(file)
        if name in shards and Path(shards[name]).resolve() != Path(file).resolve():
            raise InputError(
                f"input.files: {shards[name]} and {file} would both be shard '{name}'. Rename one of them."
            )
        shards[name] = file
    return shards


def genie_files(config: Config) -> list[str]:
    """GENIE's files, in the order of their events; none where final states are sampled.

    Raises:
        InputError: a file or glob that matches nothing.
    """
    return _input_files(config) if config.input.simulate.final_states == "genie" else []


def _input_files(config: Config) -> list[str]:
    files: list[str] = []
    for pattern in config.input.files:
        # A plain path may hold characters that a glob would interpret.
        found = [pattern] if Path(pattern).exists() else sorted(glob.glob(pattern, recursive=True))
        if not found:
            raise InputError(f"input.files: '{pattern}' matches no file. Check the path.")
        files += found
    return files


def shard_name(file: str) -> str:
    """A file's name without its suffix.

    Raises:
        InputError: a name that cannot be one of a shard.
    """
    name = Path(file).stem
    if not name or not all(character.isalnum() or character in "_-." for character in name) or name.startswith("."):
        raise InputError(
            f"input.files: '{file}' cannot name a shard: use letters, digits, '_', '-' and '.' alone, "
            "for example in a link to the file"
        )
    return name


def simulated_events(config: Config, shard: str) -> tuple[int, int]:
    """First event and number of events of a simulated shard."""
    simulate = config.input.simulate
    first = int(shard.removeprefix("sim")) * simulate.events_per_shard
    return first, min(simulate.events_per_shard, simulate.events - first)
