"""A study: the same models at several sizes of the training set and of the pixels, one run a point (docs/study.md).

``python -m nuvlm.workflow.study resources/study.yaml`` is what ``make study`` starts. Every run is one start of
Snakemake, which makes what is missing, so a study that was stopped goes on where it was.
"""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from nuvlm.base.errors import InputError
from nuvlm.base.files import atomic_path
from nuvlm.base.settings import Settings
from nuvlm.models.table import FAMILIES, family_name
from nuvlm.workflow.config import Config, Count, Name, merge, parse_config, read_overlays
from nuvlm.workflow.shards import list_shards

DEFAULTS = Path("config/config.yaml")
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Point(Settings):
    """A run of the study: some models, trained on some events of one run."""

    events: Name
    """Run that makes the events and pixel maps."""
    train_events: Count | None = None
    """Training events; null: all."""
    models: Annotated[tuple[str, ...], Field(min_length=1)]
    seeds: Count = 1
    """Trainings of each model."""
    settings: Mapping[str, Any] = Field(default_factory=dict)
    """Further settings of this run."""

    @property
    def run(self) -> str:
        """Name of the run."""
        return f"{self.events}_{self.train_events or 'all'}"


class Study(Settings):
    """The table of a study."""

    name: Name = "study"
    """Results go to results/{name}/curves/."""
    configuration: Annotated[tuple[str, ...], Field(min_length=1)]
    """Configuration file and overlays of all runs, as after --configfile."""
    events: Mapping[Name, Mapping[str, Any]]
    """Runs that make events and pixel maps -> their further settings. `voxels_of` names another of these runs, whose
    voxels a run takes as its input."""
    points: Annotated[tuple[Point, ...], Field(min_length=1)]
    """In the order in which they run."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [*self.events, *(point.run for point in self.points)]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two runs are called {repeated[0]}: a point needs its own events or train_events")
        if unknown := [point.events for point in self.points if point.events not in self.events]:
            raise ValueError(f"points: there is no run {unknown[0]} in events, only {', '.join(self.events)}")
        for run in self.events:
            other = self.voxels_of(run)
            if other is not None and (other not in [*self.events] or self.voxels_of(other) is not None):
                runs = [name for name in self.events if self.voxels_of(name) is None]
                raise ValueError(f"events.{run}.voxels_of: {other} makes no voxels, only {', '.join(runs)}")
        return self

    def voxels_of(self, run: str) -> str | None:
        """The run whose voxels a run of `events` takes; None if it makes its own."""
        return self.events[run].get("voxels_of")

    def _settings(self, run: str) -> dict[str, Any]:
        """Settings of a run of `events` beside those of `configuration`."""
        values = {key: deepcopy(value) for key, value in self.events[run].items() if key != "voxels_of"}
        other = self.voxels_of(run)
        if other is None:
            return values
        source = self.config({"run": other, **self._settings(other)})
        if source.input.source == "voxels" or not source.input.has_voxels:
            raise InputError(f"events.{run}.voxels_of: {other} makes no voxels: its source is {source.input.source}")
        # By name: with a pattern, a shard that is not there would not be missed.
        files = [f"results/{other}/voxels/{shard}.h5" for shard in list_shards(source)]
        return merge(values, {"input": {"source": "voxels", "files": files}})

    def overlay(self, run: str) -> dict[str, Any]:
        """Settings of a run beside those of `configuration`.

        Raises:
            InputError: they are impossible, or a point names a model that there is none of.
        """
        if run in self.events:
            return {"run": run, **self._settings(run)}
        point = next(point for point in self.points if point.run == run)
        values = merge(self._settings(point.events), deepcopy(point.settings))
        merge(values, {"run": run, "events_from": point.events, "dataset": {"train_events": point.train_events}})
        known = self.config(merge(deepcopy(values), {family: {"enabled": True} for family in FAMILIES})).models
        if unknown := [model for model in point.models if model not in known]:
            raise InputError(f"run {run}: unknown models {', '.join(unknown)}; known: {', '.join(known)}")
        for family in FAMILIES:
            chosen = any(family_name(model) == family for model in point.models)
            merge(values, {family: {"enabled": chosen, "seeds": point.seeds}})
        others = [model for model in known if family_name(model) == "cnn" and model not in point.models]
        recipes = {model.partition("_")[2]: None for model in others}
        return merge(values, {"cnn": {"recipes": recipes}}) if values["cnn"]["enabled"] else values

    def config(self, overlay: Mapping[str, Any]) -> Config:
        """The whole configuration of a run.

        Raises:
            InputError: it is impossible.
        """
        # Snakemake reads the default configuration, too.
        files = [DEFAULTS, *map(Path, self.configuration)]
        return parse_config(merge(read_overlays(file for file in files if file != DEFAULTS or file.is_file()), overlay))


def read_study(path: Path) -> Study:
    """Read a table, and check the configuration of each of its runs.

    Raises:
        InputError: it cannot be read, or a run is impossible.
    """
    try:
        study = Study.model_validate(yaml.safe_load(path.read_text()))
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise InputError(f"{path}: no table of a study ({error})") from error
    for run in (*study.events, *(point.run for point in study.points)):
        try:
            study.config(study.overlay(run))
        except InputError as error:
            raise InputError(f"{path}: run {run}: {error}") from error
    return study


class Runner:
    """Starts Snakemake for one run after another, and stops it with all its jobs."""

    def __init__(self, study: Study, options: Sequence[str]) -> None:
        self._study, self._options = study, options
        self._snakemake: subprocess.Popen[bytes] | None = None
        self.stopped = False

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Let trainings write their checkpoints, and end. Further signals change nothing."""
        if not self.stopped:
            self.stopped = True
            self._end_jobs()

    def _end_jobs(self) -> None:
        """Send SIGTERM to Snakemake and its jobs, for whose end it would wait by itself.

        Once: a second one would kill the workers of a training before they have written their checkpoint.
        """
        if self._snakemake is not None and self._snakemake.poll() is None:
            os.killpg(self._snakemake.pid, signal.SIGTERM)

    def run(self, name: str, target: str) -> bool:
        """Make `target` of a run; False if it cannot be started, a job failed or it was stopped.

        The settings stay in results/{name}/study.yaml, an overlay with which any target of the run can be made.
        """
        try:
            settings = self._study.overlay(name)
        except InputError as error:  # input files that were there when the table was read
            print(f"{name}: {error}", flush=True)
            return False
        overlay = Path("results", name, "study.yaml")
        with atomic_path(overlay) as partial:
            partial.write_text(yaml.safe_dump(settings, sort_keys=False))
        command = [sys.executable, "-m", "snakemake", "--profile", "profiles/local", target, *self._options]
        command += ["--configfile", *self._study.configuration, str(overlay)]
        # A separate process group: a signal reaches every job.
        self._snakemake = subprocess.Popen(command, start_new_session=True)
        if self.stopped:  # meanwhile
            self._end_jobs()
        return self._snakemake.wait() == 0 and not self.stopped


def run_study(study: Study, points: Sequence[str], options: Sequence[str]) -> tuple[int, int]:
    """Run the points of a study, all or some, and write its curves after each.

    A point that fails does not keep others from running, nor do curves that cannot be drawn.

    Returns:
        Runs that were finished, and runs that were not.
    """
    runner = Runner(study, options)
    for number in STOPS:
        signal.signal(number, runner.stop)
    chosen = [point for point in study.points if not points or point.run in points]
    made: dict[str, bool] = {}

    def makes_events(run: str) -> bool:
        """Whether a run has its events, and before it the run whose voxels it takes; each is started once."""
        if run not in made:
            other = study.voxels_of(run)
            made[run] = other is None or makes_events(other)
            if made[run] and not runner.stopped:
                print(f"== events of {run}", flush=True)
                made[run] = runner.run(run, "pixelmaps")
        return made[run]

    done = 0
    for i, point in enumerate(chosen):
        if makes_events(point.events) and not runner.stopped:
            print(f"== {point.run}, {i + 1} of {len(chosen)}: {', '.join(point.models)}", flush=True)
            if runner.run(point.run, "all"):
                done += 1
                try:
                    summarise(study)
                except InputError as error:
                    print(f"no curves: {error}", flush=True)
        if runner.stopped:
            print("stopped; start again to go on", flush=True)
            break
    return done, len(chosen) - done


def summarise(study: Study) -> Path:
    """Write tables and figure of the points that are finished; returns their folder.

    Points that cannot be read, or were made with other settings than the table has now, are left out by name.

    Raises:
        InputError: points with pixels of one size have different test events.
    """
    # Heavy, and not needed while runs are checked and started.
    from nuvlm.report.study import read_point, write_points

    points = []
    for run in (point.run for point in study.points):
        folder = Path("results", run)
        if (folder / "report" / "report.json").is_file():
            try:
                points.append(read_point(folder, study.config(study.overlay(run)).model_dump(mode="json")))
            except InputError as error:
                print(f"curves without {run}: {error}", flush=True)
    folder = Path("results", study.name, "curves")
    write_points(folder, points)
    return folder


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m nuvlm.workflow.study", description=__doc__)
    parser.add_argument("table", type=Path, help="the points")
    parser.add_argument("--points", nargs="*", default=[], help="runs to make; by default all")
    parser.add_argument("--list", action="store_true", help="print the runs, and end")
    parser.add_argument("--summary", action="store_true", help="write the curves of what is there, and end")
    parser.add_argument("--snakemake", nargs=argparse.REMAINDER, default=[], help="further options of Snakemake, last")
    options = parser.parse_args(arguments)
    try:
        study = read_study(options.table)
        if unknown := {*options.points} - {point.run for point in study.points}:
            raise InputError(f"{options.table}: has no point {', '.join(sorted(unknown))}; --list prints them")
        if options.list:
            print("\n".join(point.run for point in study.points))
            return
        failed = 0
        if not options.summary:
            _, failed = run_study(study, options.points, options.snakemake)
        print(f"curves: {summarise(study)}")
    except InputError as error:
        sys.exit(str(error))
    sys.exit(f"{failed} points are not finished" if failed else 0)


if __name__ == "__main__":
    main()
