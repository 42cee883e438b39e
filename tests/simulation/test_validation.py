"""The validation command, on small samples: what it measures, and that it can fail."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nuvlm.simulation.validation import BEGIN, END, Check


@pytest.mark.parametrize(
    ("measured", "known", "tolerance", "passed"),
    [
        (2.1, 2.0, 0.06, True),
        (2.2, 2.0, 0.06, False),
        (-2.0, 2.0, 0.06, False),
        (1e-7, 0.0, 1e-6, True),
        (1e-5, 0, 1e-6, False),
    ],
)
def test_tolerance_is_relative_but_for_zero(measured: float, known: float, tolerance: float, passed: bool) -> None:
    assert Check("x", "cm", measured, 0.1, known, tolerance, "").passed == passed


@pytest.mark.long
def test_command_writes_numbers_figure_and_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    paths = ["--json", tmp_path / "a.json", "--figure", tmp_path / "a.svg", "--page", page]
    done = subprocess.run(
        [sys.executable, "-m", "nuvlm.simulation.validation", *map(str, paths), "--sample", "60"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    result = json.loads((tmp_path / "a.json").read_text())
    # So few particles may miss a tolerance; then the command says which.
    assert done.returncode == (0 if result["passed"] else 1), done.stderr
    exact = [check for check in result["checks"] if check["expected"] == 0]
    assert len(exact) == 2
    assert all(check["passed"] for check in exact)
    for check in result["checks"]:
        assert check["measured"] == pytest.approx(check["expected"], rel=0.5, abs=1e-6), check["quantity"]
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert text.count("| pass |") == sum(check["passed"] for check in result["checks"])
    assert (tmp_path / "a.svg").read_text().lstrip().startswith("<?xml")


def test_page_without_marks_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing")
    paths = ["--json", "a.json", "--figure", "a.svg", "--page", str(page)]
    done = subprocess.run([sys.executable, "-m", "nuvlm.simulation.validation", *paths], capture_output=True, text=True)
    assert done.returncode == 2
    assert "to write the tables between" in done.stderr
    assert page.read_text() == "nothing"
