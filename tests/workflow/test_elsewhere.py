"""The workflow away from its own folder, beside another installed checkout, and as the job of a cluster parses it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from nuvlm.report.provenance import provenance
from nuvlm.workflow.config import Config
from nuvlm.workflow.frozen import VARIABLE, Frozen, freeze, read_frozen
from paths import REPOSITORY, copy_workflow

pytestmark = pytest.mark.workflow
STANDARD = REPOSITORY / "workflow" / "Snakefile"
SMALL = ["--config", "run=20240115", "input={simulate: {events: 20, events_per_shard: 10}}"]


def snakemake(folder: Path, *arguments: str, check: bool = True, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "1", *arguments], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": "", **environment},
    )  # fmt: skip
    output = result.stdout + result.stderr
    assert not check or result.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_workflow(tmp_path_factory.mktemp("checkout"))


@pytest.fixture(scope="module")
def repository(checkout: Path) -> tuple[Path, str]:
    """The copy as a git repository, and its commit."""
    git = ["git", "-C", str(checkout), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message=all"], ["tag", "v1"]):
        subprocess.run([*git, *command], check=True)
    commit = subprocess.check_output([*git, "rev-parse", "HEAD"], text=True).strip()
    return checkout, commit


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A working directory, and the package of another checkout, installed, which is broken."""
    installed = tmp_path / "installed" / "nuvlm"
    shutil.copytree(REPOSITORY / "workflow" / "src" / "nuvlm", installed, ignore=shutil.ignore_patterns("__pycache__"))
    (installed / "simulation" / "events.py").write_text("raise RuntimeError('another checkout')\n")
    (installed / "workflow" / "shards.py").write_text("raise RuntimeError('another checkout')\n")
    return tmp_path


def test_from_another_folder_results_are_there_and_resources_of_the_checkout(checkout: Path, elsewhere: Path) -> None:
    plan = snakemake(elsewhere, "--dry-run", "--snakefile", str(checkout / "Snakefile"), *SMALL)
    assert f"{checkout}/resources/prompts_demo.yaml" in plan
    assert f"{checkout}/resources/published.yaml" in plan
    assert f"{checkout}/workflow/src/nuvlm/report/page.css" in plan
    assert "output: results/20240115/events.parquet" in plan
    plan = snakemake(checkout, "--dry-run", "--directory", str(elsewhere), *SMALL)
    assert f"{checkout}/resources/prompts_demo.yaml" in plan


def test_another_workflow_uses_it_as_a_module(checkout: Path, elsewhere: Path) -> None:
    (elsewhere / "Snakefile").write_text(
        f"""
configfile: "mine.yaml"

module nuvlm:
    snakefile: "{checkout}/workflow/Snakefile"
    config: config["nuvlm"]

use rule * from nuvlm as nuvlm_*
"""
    )
    (elsewhere / "mine.yaml").write_text("nuvlm: {run: mine, input: {simulate: {events: 20, events_per_shard: 10}}}")
    target = "results/mine/voxels/sim00001.h5"
    # For real, where the broken package would be found.
    snakemake(elsewhere, target, PYTHONPATH=str(elsewhere / "installed"))
    assert (elsewhere / target).is_file()
    assert (elsewhere / "results/mine/frozen.json").is_file()
    assert "nuvlm_write_report" in snakemake(elsewhere, "--dry-run", "nuvlm_all")
    module = elsewhere / "Snakefile"
    module.write_text(module.read_text().replace("    config:", '    prefix: "here"\n    config:'))
    assert "module NuVLM: prefix" in snakemake(elsewhere, "--dry-run", "nuvlm_all", check=False)


@pytest.mark.skipif(not STANDARD.exists(), reason="Snakemake finds no files of a git repository from its top folder")
def test_a_module_in_a_git_repository_comes_with_its_package(repository: tuple[Path, str], elsewhere: Path) -> None:
    """As snakedeploy writes it; Snakemake itself fetches the rules alone."""
    checkout, commit = repository
    (elsewhere / "Snakefile").write_text(
        f"""
module nuvlm:
    snakefile: "git+file://{checkout}/workflow/Snakefile@v1"
    config: {{"input": {{"simulate": {{"events": 20, "events_per_shard": 10}}}}}}

use rule * from nuvlm
"""
    )
    target = "results/demo/voxels/sim00001.h5"
    snakemake(elsewhere, target, PYTHONPATH=str(elsewhere / "installed"))
    assert (elsewhere / target).is_file()
    unpacked = elsewhere / ".snakemake" / "nuvlm" / commit
    assert provenance({}, unpacked)["commit"] == commit
    assert provenance({}, checkout)["commit"] == commit
    # A folder within the user's own repository is no checkout.
    assert provenance({}, checkout / "workflow")["commit"] is None


def test_a_release_in_a_git_repository_is_used_as_snakedeploy_does(
    repository: tuple[Path, str], elsewhere: Path
) -> None:
    """The file that `snakedeploy deploy-workflow` writes; Snakemake has the repository in its cache."""
    checkout, commit = repository
    cached = elsewhere / "cache/snakemake/snakemake/source-cache/snakemake-git-cache/github.com/nuvlm/nuvlm"
    subprocess.run(["git", "clone", "--quiet", "--bare", str(checkout), str(cached)], check=True)
    (elsewhere / "workflow").mkdir()
    (elsewhere / "workflow" / "Snakefile").write_text(
        """
configfile: "config/config.yaml"

module nuvlm:
    snakefile:
        github("nuvlm/nuvlm", path="workflow/Snakefile", tag="v1")
    config:
        config

use rule * from nuvlm
"""
    )
    for name in ("config", "profiles"):
        shutil.copytree(checkout / name, elsewhere / name)
    (elsewhere / "config/config.yaml").write_text("input: {simulate: {events: 20, events_per_shard: 10}}")
    plan = snakemake(
        elsewhere, "--dry-run", XDG_CACHE_HOME=str(elsewhere / "cache"), PYTHONPATH=str(elsewhere / "installed")
    )
    assert re.search(r"simulate_events +2\b", plan)
    assert "output: results/demo/report/index.html" in plan
    unpacked = elsewhere / ".snakemake" / "nuvlm" / commit
    assert f"{unpacked}/resources/published.yaml" in plan


def test_the_configuration_of_the_catalog_is_complete(tmp_path: Path, checkout: Path) -> None:
    """`snakemake --directory .test` reads nothing else."""
    shutil.copytree(REPOSITORY / ".test", tmp_path / "test")
    plan = snakemake(checkout, "--dry-run", "--directory", str(tmp_path / "test"))
    assert "output: results/tiny/report/index.html" in plan
    catalog = yaml.safe_load((REPOSITORY / ".snakemake-workflow-catalog.yml").read_text())
    assert {"mandatory-flags", "software-stack-deployment", "report"} == catalog["usage"].keys()
    assert (REPOSITORY / "config/README.md").is_file()


def test_a_job_of_a_cluster_does_what_was_planned(tmp_path: Path) -> None:
    """Settings that are edited, and files that arrive, during a run."""
    folder = copy_workflow(tmp_path / "checkout")
    (folder / "data").mkdir()
    for name in "ab":
        (folder / "data" / f"{name}.h5").write_bytes(b"no shard")
    arguments = ["--config", "run=planned", "input={source: voxels, files: ['data/*.h5']}"]
    # The start of a run, which ends with its first job: these are no shards.
    listed = "results/planned/events.parquet"
    snakemake(folder, "--no-hooks", *arguments, "--", listed, check=False)
    frozen = folder / "results/planned/frozen.json"
    shutil.copy(folder / "data/a.h5", folder / "data/c.h5")
    settings = folder / "config/config.yaml"
    settings.write_text(settings.read_text().replace("  size: 112", "  size: 96", 1))
    # Snakemake prints nothing of a job that it parses the rules for.
    probe = folder / "probe.smk"
    probe.write_text('include: "Snakefile"\nprint("parsed:", *SHARDS, CONFIG.pixelmap.size, file=sys.stderr)\n')
    arguments = ["--dry-run", "--snakefile", str(probe), *arguments, "--", listed]
    job = ["--mode", "subprocess", "--force", "--nolock", "--ignore-incomplete", "--allowed-rules", "list_events"]
    assert "parsed: a b 112\n" in snakemake(folder, *job, *arguments)
    # A new start sees both.
    assert "parsed: a b c 96\n" in snakemake(folder, *arguments)
    # With another file than the one that the job was planned with, it says so.
    variable = {VARIABLE: json.dumps({"planned": ["0" * 64, str(frozen)]})}
    output = snakemake(folder, *job, *arguments, check=False, **variable)
    assert "frozen.json: not what this job was planned with" in output


def test_the_frozen_configuration_is_that_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.delenv(VARIABLE)
    config = Config(run="one", cnn={"width": 0.5}, vlm={"base": "hub"})
    planned = Frozen(config, {"a": "a.h5"}, [], {"train.py": "0"})
    assert read_frozen({"run": "one"}) is None
    freeze(planned)
    # The job finds it though the edited configuration names another run.
    assert read_frozen({"run": "two"}) == planned
    # Of several runs, each job finds its own.
    other = Frozen(Config(run="two"), {"b": "b.h5"}, [], {})
    freeze(other)
    assert read_frozen({"run": "one"}) == planned
    assert read_frozen({"run": "two"}) == other
    monkeypatch.delenv(VARIABLE)
    assert read_frozen({"run": "one"}) == planned
