"""One finished tiny run for all tests of the workflow: it takes minutes."""

from pathlib import Path

import pytest

from paths import copy_workflow
from tiny_run import snakemake


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the workflow with a finished tiny run."""
    folder = copy_workflow(tmp_path_factory.mktemp("run"))
    result = snakemake(folder, "all", "explanations")
    assert result.returncode == 0, result.stdout + result.stderr
    return folder
