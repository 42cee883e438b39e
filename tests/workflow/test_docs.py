"""Every command that the documentation shows: run in the tiny run, planned there, or excused with a reason."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from paths import REPOSITORY
from planner import Planner
from tiny_run import SETTINGS

pytestmark = pytest.mark.workflow
PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    REPOSITORY / "config" / "README.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
]
BIN = Path(sys.executable).parent
MAKE = ["make", "INSTALLED=.installed", f"BIN={BIN}"]
# The commands run as a user would: not as a part of the `make` that may run these tests.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}

# What is not run here, and why. That the target or the script is there is checked all the same.
EXCUSED = {
    r"make (demo|test|slurm-test|fault-test|long-test)\b": "runs tests or the demo, as do those who run these tests",
    r"make faithfulness": "simulates 2,000 events; tests/workflow/test_benchmark_run.py scores 90",
    r"make study\b": "takes days; tests/workflow/test_study.py makes a small one",
    r"make systematics\b": "classifies 4,000 events; tests/workflow/test_systematics.py does so for the tiny run",
    r"make rehearse\b": "trains a model of 11 billion parameters; what it calls is tested separately",
    r"make plan CONFIG=config/paper\.yaml EVENTS=190000 ": "reckons a quarter of a minute; test_plan.py does it",
    r"make (validate|lock|format|lint|schema|clean)\b": "writes into the checkout; what it calls is tested separately",
    r"python (benchmarks/\S+|workflow/envs/pin\.py)": "takes minutes or writes into the checkout",
    r"pip install ": "would change the environment of the tests",
    r"export GEANT4_DATA_DIR=": "sets a variable to the reader's own folder",
    r"tensorboard ": "a server that does not end",
}
# Options with which Snakemake runs no job: these commands run as they are.
HARMLESS = {"-n", "--report", "--rulegraph", "--lint", "--unlock", "--touch"}
INLINE = re.compile(r"`((?:snakemake|make|python|tensorboard) [^`]+)`")
FILES = ["mine.h5", "mine.root", "genie.gtrac.root", "pixel_maps.h5", "data/voxels/a.h5", "genie/a.gtrac.root"]
FILES += ["bnb_NoWire_00.h5", "nue_NoWire_00.h5"]  # of MicroBooNE


def commands(page: Path) -> Iterator[str]:
    """Commands in the shell blocks of a page, line by line, and in its running text."""
    text = page.read_text()
    for block in re.findall(r"```(?:sh|bash)\n(.*?)```", text, flags=re.DOTALL):
        if re.search(r"^\w+=", block, flags=re.MULTILINE):  # a variable: its lines belong together
            yield block.strip()
            continue
        for line in block.replace("\\\n", " ").splitlines():
            command = re.sub(r"\s+#.*|^#.*", "", line).strip()
            if command:
                yield " ".join(command.split())
    yield from INLINE.findall(re.sub(r"```.*?```", "", text, flags=re.DOTALL))


COMMANDS = list(dict.fromkeys(command for page in PAGES for command in commands(page)))
EXPECTED = sorted(command for command in COMMANDS if not any(re.match(rule, command) for rule in EXCUSED))


@pytest.fixture(scope="module")
def checkout(tiny_run: Path) -> Path:
    """The tiny run under the names that the documentation uses, with files where it has the reader's."""
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(REPOSITORY / name, tiny_run)
    (tiny_run / ".installed").touch()
    for name in FILES:
        (tiny_run / name).parent.mkdir(parents=True, exist_ok=True)
        (tiny_run / name).touch()
    for folder in ("maps/batch1", "maps/batch2"):
        (tiny_run / folder).mkdir(parents=True, exist_ok=True)
    return tiny_run


def tiny(command: str) -> str:
    """The same command for the tiny run in place of the demo, its variants or a reader's files."""
    command = re.sub(r"results/(demo|wide)\b", "results/tiny", command)
    command = re.sub(r"(models_from|events_from|run|MODELS|RUN)=demo\b", r"\1=tiny", command)
    command = command.replace("train_events: 1000", "train_events: 20")
    return command.replace("sim00002", "sim00001").replace("/data/", "data/")


@cache
def inspected(folder: Path) -> str:
    """What `make inspect` says of a shard, whatever file its command names."""
    return run([*MAKE, "inspect", "FILE=results/tiny/voxels/sim00000.h5"], folder)


def run(command: list[str] | str, folder: Path) -> str:
    arguments = ["bash", "-c", command] if isinstance(command, str) else command
    done = subprocess.run(arguments, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def snakemake(command: str, folder: Path, planner: Planner) -> str:
    """Run a command of Snakemake with the tiny settings; where it would run jobs, plan them.

    The published setting is planned as it is: four processes do not go with the tiny batches.
    """
    words = shlex.split(run(f"printf '%q ' {command}", folder) if "{0,1}" in command else command)[1:]
    if "config/paper.yaml" in words:
        pass
    elif "--configfile" in words:
        end = words.index("--configfile") + 1
        while end < len(words) and not words[end].startswith("-"):
            end += 1
        words.insert(end, str(SETTINGS))
    else:
        words += ["--configfile", "config/config.yaml", str(SETTINGS)]
    if not HARMLESS & set(words):
        words.append("-n")
    if not {"--cores", "--profile"} & set(words):
        words += ["--cores", "1"]
    return planner(*words)


@pytest.mark.parametrize("command", EXPECTED)
def test_a_command_of_the_documentation_works(checkout: Path, tiny_planner: Planner, command: str) -> None:
    translated = tiny(command)
    if translated.startswith("snakemake "):
        snakemake(translated, checkout, tiny_planner)
    elif translated.startswith("make classify"):
        # The arguments that Snakemake would get, a line each.
        shown = [*MAKE, r"SNAKEMAKE=printf '%s\n'", "SUMMARY=true", "classify", "MODELS=tiny"]
        arguments = run([*shown, *shlex.split(translated)[2:]], checkout).splitlines()
        settings = ["--configfile", "config/config.yaml", str(SETTINGS)]
        assert "classify_vlm" in tiny_planner("-n", "--profile", "profiles/local", *arguments, *settings)
    elif translated.startswith("make inspect"):
        assert "make classify SOURCE=voxels FILE=results/tiny/voxels/sim00000.h5" in inspected(checkout)
    elif translated.startswith(("make plan", "make compare")):
        assert len(run([*MAKE, *shlex.split(translated)[1:]], checkout).splitlines()) > 5
    elif translated.startswith("make bundle"):
        assert "the same, bit by bit" in run([*MAKE, *shlex.split(translated)[1:]], checkout)
    elif translated.startswith("python -m nuvlm."):
        assert run([sys.executable, *shlex.split(translated)[1:]], checkout)
    elif "nuvlm-sha256" in translated:
        written, computed = run(translated, checkout).splitlines()
        assert written.removeprefix("nuvlm-sha256:") == computed.split()[0]
    else:
        pytest.fail(f"no rule here says how to run `{command}`, and EXCUSED gives no reason not to")


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - set(EXPECTED)))
def test_what_an_excused_command_calls_is_there(checkout: Path, command: str) -> None:
    words = shlex.split(command)
    if words[0] == "make":
        run([*MAKE, "--dry-run", *words[1:]], checkout)
    elif words[0] == "python":
        assert (REPOSITORY / words[1]).is_file()


def test_commands_are_found_in_every_form(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "Do `make this` or `snakemake`.\n"
        "```sh\nsnakemake --cores all \\\n  one   # why\n# no command\n\nmake that\n```\n"
        "```sh\nf=x\ncat $f\n```\n```yaml\nmake: no\n```\n"
    )
    assert list(commands(page)) == ["snakemake --cores all one", "make that", "f=x\ncat $f", "make this"]
    assert len(EXPECTED) > 25
