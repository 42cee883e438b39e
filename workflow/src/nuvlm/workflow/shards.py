"""The shards of a run: one per input file, or per block of simulated events; or those of the run of events_from.

A run of systematics has blocks of the test events of another run, once for every variation: ``{variation}.{block}``.
"""

import glob
from pathlib import Path

from nuvlm.base.errors import InputError
from nuvlm.dataset.store_list import read_store_list
from nuvlm.evaluation.nuisances import variation_shard
from nuvlm.workflow.config import Config


def list_shards(config: Config) -> dict[str, str]:
    """Shard name -> input file, in order; an empty string for simulated shards and those of the run of events_from.

    Raises:
        InputError: a path or pattern matches no file, or two files have the same name; or the list of the run of
            events_from cannot be read.
    """
    if config.systematics is not None:
        return _varied_shards(config)
    if config.events_from is not None:
        # Not input.files: files may have arrived since, or been removed.
        path = Path("results", config.events_from, "pixelmaps.json")
        return dict.fromkeys(read_store_list(path, verify=False), "")
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


def _varied_shards(config: Config) -> dict[str, str]:
    """Those of each variation, without files."""
    assert config.systematics is not None
    if not config.systematics.shards:
        raise InputError("systematics.shards is empty. Start with: make systematics RUN=<a finished run>")
    return {
        variation_shard(variation, block): "" for variation in config.variations for block in config.systematics.shards
    }


def genie_files(config: Config) -> list[str]:
    """The GENIE files, in the order of their events; empty for sampled final states and with events_from.

    Raises:
        InputError: a path or pattern matches no file.
    """
    simulates = config.events_from is None and config.input.simulate.final_states == "genie"
    return _input_files(config) if simulates else []


def _input_files(config: Config) -> list[str]:
    files: list[str] = []
    for pattern in config.input.files:
        # A path may hold characters that a glob pattern would interpret.
        found = [pattern] if Path(pattern).exists() else sorted(glob.glob(pattern, recursive=True))
        if not found:
            raise InputError(f"input.files: '{pattern}' matches no file. Check the path.")
        files += found
    return files


def shard_name(file: str) -> str:
    """The file's name without suffix; of a folder, the whole name.

    Raises:
        InputError: the name has characters that a shard's name cannot have.
    """
    name = Path(file).name if Path(file).is_dir() else Path(file).stem
    if not name or not all(character.isalnum() or character in "_-." for character in name) or name.startswith("."):
        raise InputError(
            f"input.files: '{file}' cannot name a shard: use only letters, digits, '_', '-' and '.', "
            "for example in a symbolic link to the file"
        )
    return name


def simulated_events(config: Config, shard: str) -> tuple[int, int]:
    """First event id and number of events of a simulated shard."""
    simulate = config.input.simulate
    first = int(shard.removeprefix("sim")) * simulate.events_per_shard
    return first, min(simulate.events_per_shard, simulate.events - first)
