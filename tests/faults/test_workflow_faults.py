"""Faults of a running workflow on clusters: second workflows, kills, full disks, clocks, on real file systems."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from nuvlm.base.files import sha256
from nuvlm.base.manifest import MANIFEST
from paths import REPOSITORY, copy_workflow
from small_run import SmallRun, Tally

pytestmark = [pytest.mark.faults, pytest.mark.workflow]
SMALLEST = ["--configfile", "config/config.yaml", str(REPOSITORY / "tests" / "faults" / "smallest.yaml")]
KILLS = 30


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "snakemake", "--rerun-incomplete", "--show-failed-logs", *arguments]


def snakemake(folder: Path, *arguments: str, check: bool = True) -> str:
    result = subprocess.run(command(*arguments), cwd=folder, capture_output=True, text=True)
    output = result.stdout + result.stderr
    assert not check or result.returncode == 0, output
    return output


@contextmanager
def started(folder: Path, *arguments: str) -> Iterator[psutil.Popen]:
    """A workflow in the background; at the end all its processes are killed."""
    with open(folder / "output", "w") as output:
        process = psutil.Popen(command(*arguments), cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            kill(process)


def kill(process: psutil.Popen) -> None:
    """SIGKILL to a process and all below it, as when a node goes down."""
    tree = []
    if process.is_running():
        process.suspend()  # so that it starts no more
        tree = process.children(recursive=True)
    for one in (process, *tree):
        with suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()


def wait_for(what: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# A run of native shards as far as the pixel maps: some seconds.


@pytest.fixture
def own(small_run: SmallRun, kernels: None, tmp_path: Path) -> Path:
    """A checkout in a folder with shell characters in its name, and a shard in another such folder."""
    return with_data(copy_workflow(tmp_path / "a checkout; $(touch pwned)"), small_run)


def with_data(folder: Path, small_run: SmallRun) -> Path:
    data = folder / "my 'data' & more"
    data.mkdir()
    shutil.copy(small_run.folder / "voxels" / "a.h5", data)
    return folder


MAPS = ["pixelmaps", "--config", "run=own", "input={source: voxels, files: [\"my 'data' & more/*.h5\"]}"]
MAPS += ["dataset={validation: 0.2, test: 0.3}", "pixelmap={size: 64}"]
CORES = ["--cores", "2"]


def digests(folder: Path) -> dict[str, str]:
    """Every file of the stores and the event table."""
    results = folder / "results" / "own"
    return {str(file.relative_to(results)): sha256(file) for file in results.rglob(MANIFEST)} | {
        "events": sha256(results / "events.parquet")
    }


@pytest.fixture(scope="module")
def expected(small_run: SmallRun, kernels: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Results of an undisturbed run, in a folder with a plain name."""
    folder = with_data(copy_workflow(tmp_path_factory.mktemp("undisturbed")), small_run)
    snakemake(folder, *CORES, *MAPS)
    found = digests(folder)
    assert len(found) == 3
    return found


def test_a_second_workflow_on_the_same_results_is_refused_and_the_first_ends_well(
    own: Path, expected: dict[str, str], tally: Tally
) -> None:
    with started(own, *CORES, *MAPS) as first:
        wait_for(lambda: list((own / ".snakemake" / "locks").glob("*")))
        first.suspend()
        output = snakemake(own, *CORES, *MAPS, check=False)
        assert "cannot be locked" in output
        first.resume()
        assert first.wait(120) == 0, (own / "output").read_text()
    assert digests(own) == expected
    assert not list(own.rglob("pwned")), "names of folders are names"
    tally.add("two workflows", "results folder", "noticed")


def test_a_stale_lock_says_what_to_do_and_the_rerun_is_whole(own: Path, expected: dict[str, str], tally: Tally) -> None:
    with started(own, *CORES, *MAPS) as process:
        wait_for(lambda: list(own.glob("results/own/displays/*/xz")))
        kill(process)
    output = snakemake(own, *CORES, *MAPS, check=False)
    assert "--unlock" in output
    snakemake(own, "--unlock", *MAPS)
    snakemake(own, *CORES, *MAPS)
    assert digests(own) == expected
    tally.add("stale lock", "results folder", "noticed")


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[Callable[[str], None]]:
    """A file system of `size` at `folder`, and a function that changes its options."""
    folder.mkdir(exist_ok=True)
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here ({error})")
    try:
        yield lambda options: subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)  # type: ignore[misc, return-value]
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("size", ["60k", *(pytest.param(size, marks=pytest.mark.long) for size in ("100k", "150k"))])
def test_a_full_disk_is_said_and_what_is_missing_comes_when_there_is_room(
    own: Path, expected: dict[str, str], tally: Tally, size: str
) -> None:
    with mounted(own / "results", size) as remount:
        output = snakemake(own, *CORES, *MAPS, check=False)
        assert "No space left on device" in output
        remount("size=100m")
        snakemake(own, *CORES, *MAPS)
        assert digests(own) == expected
    tally.add("full disk", "results folder", "noticed")


def test_results_that_cannot_be_written_are_said_before_any_job(own: Path, tally: Tally) -> None:
    with mounted(own / "results", "100m") as remount:
        remount("ro")
        output = snakemake(own, *CORES, *MAPS, check=False)
        assert "results/own: cannot be written (Read-only file system)" in output
        assert "Traceback" not in output
        assert not list((own / "results").iterdir())
    tally.add("read-only", "results folder", "noticed")


DAY = 86400


def shift(folder: Path, days: float) -> None:
    """Give all files below `folder` a time so far from now."""
    for file in folder.rglob("*"):
        if file.is_file() and ".snakemake" not in file.parts:
            os.utime(file, (time.time() + days * DAY,) * 2)


@pytest.mark.long
def test_clocks_may_jump(own: Path, expected: dict[str, str], tally: Tally) -> None:
    """Results or inputs from the future or the past: whatever runs again, the results are the same."""
    snakemake(own, *CORES, *MAPS)
    for what in ("results", "my 'data' & more"):
        for days in (3650, -10000):
            shift(own / what, days)
            snakemake(own, *CORES, *MAPS)
            assert digests(own) == expected
            tally.add("clock jump", what if what == "results" else "inputs", "harmless")
    assert "Nothing to be done" in snakemake(own, *CORES, *MAPS)
    # The code too: it is compared by content.
    shift(own, 1)
    assert "Nothing to be done" in snakemake(own, *CORES, *MAPS)
    assert digests(own) == expected
    tally.add("clock jump", "checkout", "harmless")


# A run of every stage up to the predictions: most of a minute.


def outcome(folder: Path) -> dict[str, object]:
    """Results of a run: digests of stores, event table and models, and the predictions without their seconds."""
    results = folder / "results" / "small"
    files = [*results.rglob(MANIFEST), results / "events.parquet"]
    weights = [path for path in results.glob("models/*/*.safetensors")]
    stores = [file for file in files if "models" not in file.parts]
    found: dict[str, object] = {str(file.relative_to(results)): sha256(file) for file in (*stores, *weights)}
    for table in results.glob("predictions/*/*/*.parquet"):
        columns = pd.read_parquet(table).drop(columns="seconds")
        found[str(table.relative_to(results))] = columns.to_csv(float_format="%r")
    return found


@pytest.fixture(scope="module")
def undisturbed(kernels: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = copy_workflow(tmp_path_factory.mktemp("undisturbed"))
    snakemake(folder, "predictions", *CORES, *SMALLEST)
    found = outcome(folder)
    # two shards with two stores each, a table, four models with the base model, two parts of each of three
    assert len(found) == 2 * 2 + 1 + 4 + 3 * 2
    return found


@pytest.mark.long
def test_killed_at_thirty_moments_it_ends_as_if_it_had_not_been(
    undisturbed: dict[str, object], tmp_path: Path, tally: Tally
) -> None:
    """Kills all processes of the run at random times; a run that ends before is started again from a stage."""
    folder = copy_workflow(tmp_path / "killed")
    rng = np.random.default_rng(30)
    kills, again = 0, []
    while kills < KILLS:
        # Another test unlocks; here that would take seconds each time.
        with started(folder, "predictions", "--nolock", *again, *CORES, *SMALLEST) as process:
            try:
                status = process.wait(rng.uniform(3, 20))
            except psutil.TimeoutExpired:
                kill(process)
                kills += 1
            else:
                assert status == 0, (folder / "output").read_text()
                stage = rng.choice(["simulate_events", "crop_displays", "train_cnn", "finetune_vlm", "classify_vlm"])
                again = ["--forcerun", str(stage)]
    snakemake(folder, "predictions", "--nolock", *again, *CORES, *SMALLEST)
    assert outcome(folder) == undisturbed
    results = folder / "results"
    assert not [path for path in results.rglob("*") if ".partial-" in path.name], "what was half-written is gone"
    assert not [path for path in results.glob("*/checkpoints/*") if path.is_file()]
    for _ in range(kills):
        tally.add("kill -9 of all processes", "run", "noticed")


@pytest.mark.long
@pytest.mark.parametrize(
    ("cores", "order", "threads"),
    [
        ("1", ["--prioritize", "results/small/predictions/vlm/nominal/1.parquet"], "1"),
        ("2", ["--scheduler", "greedy"], "2"),
    ],
)
def test_cores_and_the_order_of_jobs_change_nothing(
    undisturbed: dict[str, object], tmp_path: Path, tally: Tally, cores: str, order: list[str], threads: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    folder = copy_workflow(tmp_path / "run")
    snakemake(folder, "predictions", "--cores", cores, *order, *SMALLEST)
    assert outcome(folder) == undisturbed
    tally.add("other number of cores, other order of jobs", "run", "harmless")
