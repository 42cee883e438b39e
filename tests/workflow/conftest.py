"""One tiny run for all tests that read a finished run: it takes minutes."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from paths import copy_workflow
from planner import Planner, start_planner
from tiny_run import snakemake

RECORDER = Path(__file__).parent / "record_calls"


@pytest.fixture(scope="session")
def tiny_run(kernels: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the workflow with a finished run of .test, and the calls of each job in ``calls``."""
    folder = copy_workflow(tmp_path_factory.mktemp("run"))
    (folder / "calls").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(RECORDER), os.environ.get("PYTHONPATH")))))
        patch.setenv("RECORDED_CALLS", str(folder / "calls"))
        result = snakemake(folder, "all", "explanations")
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


@pytest.fixture(scope="session")
def tiny_planner(tiny_run: Path) -> Iterator[Planner]:
    """Snakemake in the folder of the tiny run, without its start-up."""
    with start_planner(tiny_run) as planner:
        yield planner
