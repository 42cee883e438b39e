"""The conda environments: pinned from the one lock, and complete for the scripts that run in them."""

import ast
import importlib.metadata
import re
import runpy
import sys
from pathlib import Path

import pytest
import yaml

from nuvlm.sources.table import SOURCES
from nuvlm.workflow.config import Config
from paths import REPOSITORY

WORKFLOW = REPOSITORY / "workflow"
PIN = runpy.run_path(str(WORKFLOW / "envs" / "pin.py"))
DISTRIBUTIONS = importlib.metadata.packages_distributions()
ENVIRONMENTS = sorted((WORKFLOW / "envs").glob("*.yaml"))
RULE = re.compile(
    r'conda:\s+"\.\./envs/(?P<environment>\w+)\.yaml".*?script:\s+"\.\./scripts/(?P<script>\w+)\.py"', re.S
)


def packages(environment: Path) -> set[str]:
    content = yaml.safe_load(environment.read_text())
    (pins,) = (entry["pip"] for entry in content["dependencies"] if isinstance(entry, dict))
    return {PIN["normalise"](pin.split("==")[0]) for pin in pins}


def imported(file: Path) -> set[str]:
    """Names that a file imports, at its top or in functions; of ``from a import b``, both ``a`` and ``a.b``."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def files_of(script: Path) -> set[Path]:
    """A script and every module of the package that it imports, directly or not."""
    found: set[Path] = set()
    queue = {script}
    while queue:
        file = queue.pop()
        found.add(file)
        modules = {WORKFLOW / "src" / f"{name.replace('.', '/')}.py" for name in imported(file)}
        queue |= {module for module in modules if module.is_file()} - found
    return found


def third_party(file: Path) -> set[str]:
    """Distributions of the packages that a file imports."""
    names = {name.split(".")[0] for name in imported(file)} - sys.stdlib_module_names - {"nuvlm"}
    return {PIN["normalise"](distribution) for name in names for distribution in DISTRIBUTIONS[name]}


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda path: path.stem)
def test_versions_are_those_of_the_lock(environment):
    text = environment.read_text()
    assert PIN["pinned"](text, PIN["locked"]()) == text, "run python workflow/envs/pin.py"


def test_every_rule_has_an_environment_with_all_that_its_script_imports():
    texts = [file.read_text() for file in (WORKFLOW / "rules").glob("*.smk")]
    jobs = [(match["script"], match["environment"], "") for text in texts for match in RULE.finditer(text)]
    for name, section in Config().families.items():
        training = section.training(section.model_names(name)[0])
        requests = {"train": training, "classify": section.classification(), "explain": section.explanation()}
        jobs += [(script, request.environment, request.run) for script, request in requests.items() if request]
    # Readers of sources are looked up, as the functions of the families are.
    jobs += [("convert", "cpu", reader) for row in SOURCES.values() for reader in (row.reader, row.writer) if reader]
    assert {script for script, *_ in jobs} == {script.stem for script in (WORKFLOW / "scripts").glob("*.py")}
    for script, environment, entry in jobs:
        files = files_of(WORKFLOW / "scripts" / f"{script}.py")
        if entry:
            files |= files_of(WORKFLOW / "src" / f"{entry.split(':')[0].replace('.', '/')}.py")
        missing = set().union(*map(third_party, files)) - packages(WORKFLOW / "envs" / f"{environment}.yaml")
        assert not missing, f"{environment}.yaml lacks {missing} for {script} {entry}"


def test_training_on_a_gpu_has_a_compiler():
    """Triton calls it; neither image nor environment of a GPU has one by itself."""
    assert "c-compiler" in yaml.safe_load((WORKFLOW / "envs" / "gpu.yaml").read_text())["dependencies"]
    assert "build-essential" in (WORKFLOW / "envs" / "gpu.def").read_text()


def test_the_lock_is_what_is_installed():
    for name, version in PIN["locked"]().items():
        assert importlib.metadata.version(name).split("+")[0] == version, f"{name}: run 'make demo' or 'make test' anew"


def test_the_image_installs_the_lock_as_make_does():
    definition = (WORKFLOW / "envs" / "gpu.def").read_text()
    installed = re.findall(r"^    pip (install .*)$", definition, re.M)
    made = re.findall(r"^\t\$\(BIN\)/pip (install .*)$", (REPOSITORY / "Makefile").read_text(), re.M)
    assert [line.replace("/opt/nuvlm/", "") for line in installed] == made[: len(installed)]
    assert any("--requirement requirements.lock" in line for line in made[: len(installed)])
    version = re.search(r"^From: python:([\d.]+)-", definition, re.M)
    assert version
    for environment in ENVIRONMENTS:
        assert f"python={version[1]}" in yaml.safe_load(environment.read_text())["dependencies"]
