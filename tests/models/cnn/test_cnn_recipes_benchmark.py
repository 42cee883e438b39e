"""The benchmark of recipes, on a small run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from paths import REPOSITORY
from tiny_cnn import write_data


@pytest.mark.long
def test_it_trains_what_is_not_in_its_result_and_prints_the_table(tmp_path: Path) -> None:
    write_data(tmp_path)
    (tmp_path / "pixelmaps").mkdir()
    (tmp_path / "a.zarr").rename(tmp_path / "pixelmaps" / "a.zarr")
    result = tmp_path / "result.json"
    command = [sys.executable, REPOSITORY / "benchmarks" / "cnn_recipes.py", tmp_path, "--result", result]
    command += ["--recipes", "Adam 1e-3", "+ half resolution 0.5", "--epochs", "1"]
    tables = []
    for seeds in ("1", "1", "2"):
        done = subprocess.run([*command, "--seeds", seeds], capture_output=True, text=True, check=True)
        tables.append(done.stdout.splitlines())
    assert tables[0] == tables[1], "the second time nothing is trained"
    assert [line.split("|")[1].strip() for line in tables[2][2:]] == ["Adam 1e-3", "+ half resolution 0.5"]
    assert tables[2][2].endswith("| 2 |")
    trainings = json.loads(result.read_text())["trainings"]
    assert [(training["name"], training["seed"]) for training in trainings] == [
        ("Adam 1e-3", 1), ("+ half resolution 0.5", 1), ("Adam 1e-3", 2), ("+ half resolution 0.5", 2)
    ]  # fmt: skip
    assert all(0 <= training["half_accuracy"] <= 1 for training in trainings)
