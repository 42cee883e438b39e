"""Functions that numba compiles, where its cache is damaged or has no place. Real processes and files."""

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
from nuvlm.base.kernels import cached_njit

@cached_njit()
def twice(x):
    return 2 * x

import logging; logging.basicConfig()
print(twice(21), sum(twice.stats.cache_hits.values()))
"""


def run(folder: Path, **environment: str) -> tuple[str, str]:
    command = [sys.executable, "-B", "-c", "import program"]
    inherited = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}
    result = subprocess.run(command, capture_output=True, text=True, cwd="/", env=inherited | environment)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip(), result.stderr


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a program whose compiled code is kept."""
    folder = tmp_path_factory.mktemp("program")
    (folder / "program.py").write_text(PROGRAM)
    assert run(folder)[0] == "42 0"
    assert run(folder)[0] == "42 1"
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
@pytest.mark.parametrize("damage", ["text", "flipped"])
def test_a_damaged_cache_is_named_and_replaced(program: Path, suffix: str, damage: str) -> None:
    (file,) = program.glob(f"__pycache__/*.{suffix}")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes({"text": b"no pickle", "flipped": content}[damage])
    output, log = run(program)
    assert output == "42 0"
    assert "the compiled code of twice is damaged" in log
    assert str(program / "__pycache__") in log


@pytest.mark.slow
def test_numba_s_own_file_of_an_earlier_version_is_replaced(program: Path) -> None:
    (file,) = program.glob("__pycache__/*.nbi")
    file.write_bytes(pickle.dumps("0.60"))
    assert run(program) == ("42 0", "")
    assert run(program) == ("42 1", "")


@pytest.mark.slow
def test_without_a_place_for_a_cache_it_compiles_in_each_process(program: Path) -> None:
    assert run(program) == ("42 1", "")  # what was damaged above has been replaced
    shutil.rmtree(program / "__pycache__")
    # A file where the folder of the cache would be: root may write everywhere.
    (program / "__pycache__").touch()
    (program / "home").touch()
    places = {"HOME": str(program / "home"), "XDG_CACHE_HOME": str(program / "home"), "NUMBA_CACHE_DIR": ""}
    assert run(program, **places)[0] == "42 0"
