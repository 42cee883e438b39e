"""Systematic uncertainties of a finished run: its test events, with each nuisance (docs/systematics.md).

``python -m nuvlm.workflow.systematics demo config/systematics.yaml`` is what ``make systematics`` starts: one start of
Snakemake, for the run ``{run}_systematics``.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from nuvlm.base.errors import InputError
from nuvlm.base.files import atomic_path
from nuvlm.evaluation.nuisances import Systematics
from nuvlm.models.table import FAMILIES
from nuvlm.workflow.bundle import read_run
from nuvlm.workflow.config import Config, check_space_charge, merge, parse_config, read_overlays
from nuvlm.workflow.paths import check_models
from nuvlm.workflow.shards import list_shards
from nuvlm.workflow.study import DEFAULTS

SUFFIX = "_systematics"
SECTION = "systematics"
BLOCK_EVENTS = 2000
"""Test events per block. A job of a block and variation takes some seconds to start, so a block joins many shards."""


def read_nuisances(path: Path) -> Systematics:
    """Read a table of nuisances.

    Raises:
        InputError: it cannot be read, or a nuisance is impossible; names the file and the nuisance.
    """
    values = read_overlays([path])
    section = values.get(SECTION)
    if set(values) != {SECTION} or not isinstance(section, Mapping):
        raise InputError(f"{path}: must be `{SECTION}: {{nuisances: [...]}}`, with no other key")
    try:
        return Systematics.model_validate(section)
    except ValidationError as error:
        raise InputError(f"{path}: " + "; ".join(_problem(section, problem) for problem in error.errors())) from error


def _problem(section: Mapping[str, Any], problem: Any) -> str:
    """A mistake, with the name of its nuisance in place of its number."""
    place, message = list(problem["loc"]), problem["msg"].removeprefix("Value error, ")
    if len(place) > 1 and isinstance(place[1], int):
        entry = section["nuisances"][place[1]]
        name = entry.get("name", place[1] + 1) if isinstance(entry, Mapping) else place[1] + 1
        # Union members that pydantic tried, such as 'constrained-float', say nothing to a user.
        where = [str(part) for part in place[2:] if str(part).isidentifier()]
        return ": ".join([f"nuisance {name}", *([".".join(where)] if where else []), message])
    return ": ".join([*filter(None, [".".join(map(str, place))]), message])


def compose(run: str, table: Path) -> dict[str, Any]:
    """The configuration of the run of systematics: that of a finished run, with the nuisances of a table.

    Raises:
        InputError: the run is not finished, has counterfactual events, or has lost its voxels, it has no test events,
            or a nuisance cannot act on its events or does not change them; names the file and the remedy.
    """
    systematics = read_nuisances(table)
    folder = Path("results", run)
    made_with = read_run(folder).config
    if not made_with.input.has_voxels:
        raise InputError(
            f"{folder}: made of ready pixel maps (source '{made_with.input.source}'), whose charge no nuisance can act "
            "on. Name a run with voxels."
        )
    values = made_with.model_dump(mode="json", exclude={SECTION})
    # Those that the run has disabled by leaving them out, while the default configuration has them.
    known = read_overlays([DEFAULTS])["cnn"]["recipes"] if DEFAULTS.is_file() else {}
    values["cnn"]["recipes"] = dict.fromkeys(known) | values["cnn"]["recipes"]
    merge(
        values,
        {
            "run": f"{run}{SUFFIX}",
            "models_from": made_with.models_from or run,
            "events_from": None,
            "dataset": {"train_events": None},
            "conditions": list(made_with.conditions[:1]),
            "report": {"browser": 0, "explain": 0},
            # An event that a variation loses is not classified, which is part of the shift.
            "input": {"on_bad_event": "skip"},
            **{family: {"seeds": 1} for family in FAMILIES},
        },
    )
    values[SECTION] = systematics.model_dump(mode="json") | {
        "run": run,
        "shards": _blocks(folder, made_with),
    }
    try:
        config = parse_config(values)
    except InputError as error:
        raise InputError(f"{table}: {error}") from error
    check_models(config)
    check_space_charge(config.variation(variation) for variation in config.variations)
    try:
        _check_events(folder, config)
    except InputError as error:
        raise InputError(f"{table}: {error}") from error
    return values


def _blocks(folder: Path, config: Config) -> dict[str, dict[str, str]]:
    """Name of a block of test events -> shards of the run in it -> their voxels."""
    from nuvlm.dataset.event_table import read_test_events

    path = folder / "events.parquet"
    tested = read_test_events(path)
    if not tested:
        raise InputError(f"{path}: has no test event with known truth, so nothing can be measured. Name another run.")
    files = _voxels(folder, config, list(tested))
    total = sum(map(len, tested.values()))
    size = total / -(-total // BLOCK_EVENTS)
    blocks: list[dict[str, str]] = []
    ids: set[int] = set()
    for shard, events in tested.items():
        # Events of one block have different ids, as of one shard.
        if not blocks or len(ids) + len(events) / 2 > size or ids & set(events):
            blocks.append({})
            ids = set()
        blocks[-1][shard] = files[shard]
        ids |= set(events)
    return {f"block{i:05d}": block for i, block in enumerate(blocks)}


def _voxels(folder: Path, config: Config, shards: Sequence[str]) -> dict[str, str]:
    """Shard -> its voxels."""
    maker = Path("results", config.events_from or folder.name)
    if config.input.source == "voxels":
        own = list_shards(config.model_copy(update={"events_from": None}))
    else:
        own = {shard: str(maker / "voxels" / f"{shard}.h5") for shard in shards}
    files = {shard: own.get(shard, "") for shard in shards}
    if missing := [shard for shard, file in files.items() if not Path(file).is_file()]:
        if config.input.source == "voxels":
            raise InputError(
                f"{maker}: shard {missing[0]}, of which test events are taken, is no longer among its input.files "
                f"({', '.join(config.input.files)}). Put your file {missing[0]}.h5 back, or make the run again without "
                "it."
            )
        raise InputError(
            f"{files[missing[0]]}: the voxels of shard {missing[0]} are missing, of which its test events are "
            f"made again. Make them with: snakemake {maker}/voxels/{missing[0]}.h5 --config run={maker.name}, with the "
            "configuration files of that run."
        )
    return files


def _check_events(folder: Path, config: Config) -> None:
    """Check that the nuisances can act on the test events of a run, and that weights change some of them.

    Raises:
        InputError: one cannot, or does not; names it.
    """
    from nuvlm.dataset.event_table import read_events
    from nuvlm.detector.voxels import open_shard
    from nuvlm.evaluation.samples import labelled_events
    from nuvlm.evaluation.systematics import weights_of

    assert config.systematics is not None
    shards = {shard: Path(file) for block in config.systematics.shards.values() for shard, file in block.items()}
    varied = [nuisance for nuisance, _, _ in config.systematics.settings()]
    if config.input.source == "voxels" and varied:
        for file in shards.values():
            with open_shard(file, config.detector, config.input.on_bad_event) as shard:
                if shard.drifted:
                    raise InputError(
                        f"nuisance {varied[0].name} acts on charge before it is read out, but the charge of {file} was "
                        "read out already (its attribute 'drifted'). Remove the nuisance."
                    )
    weights_of(
        labelled_events(read_events(folder / "events.parquet"), "test"),
        shards,
        config.detector,
        config.systematics.nuisances,
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m nuvlm.workflow.systematics", description=__doc__)
    parser.add_argument("run", help="a finished run: its name under results/")
    parser.add_argument("table", type=Path, help="nuisances")
    parser.add_argument("--profile", default="profiles/local", help="profile of Snakemake")
    parser.add_argument("--snakemake", nargs=argparse.REMAINDER, default=[], help="further options of Snakemake, last")
    options = parser.parse_args(arguments)
    try:
        values = compose(options.run, options.table)
        overlay = Path("results", values["run"], "systematics.yaml")
        with atomic_path(overlay) as partial:
            partial.write_text(yaml.safe_dump(values, sort_keys=False))
    except InputError as error:
        sys.exit(str(error))
    command = [sys.executable, "-m", "snakemake", "--profile", options.profile, "all", *options.snakemake]
    # In place of this process, so that signals reach Snakemake.
    os.execv(sys.executable, [*command, "--configfile", str(overlay)])


if __name__ == "__main__":
    main()
