"""Tables for LaTeX: what they hold, and that nothing in them is taken for a command."""

import copy
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from nuvlm.report.schema import SCORES
from nuvlm.report.tables import escape, latex_tables
from paths import REPOSITORY

VALUES = {"accuracy": 0.7457, "precision": 0.7296, "recall": 0.7329, "auc": 0.8962}
SCORE = {"n": 1527} | {
    key: value
    for name in SCORES
    for key, value in (
        (name, VALUES.get(name)),
        (f"{name}_interval", [VALUES[name] - 0.04, VALUES[name] + 0.04] if name in VALUES else None),
    )
}
NUMBERS: dict[str, Any] = {
    "run": "one_run",
    "scores": {
        "cnn_published": {"nominal": SCORE, "half_resolution": SCORE, "blank": SCORE},
        "bdt": {"nominal": SCORE | {"precision_interval": None}, "half_resolution": SCORE},
        "vlm": {"nominal": SCORE, "labels_permuted": SCORE},
    },
    "cost": {model: {"peak_memory_mb": 1234, "ms_per_sample": 2.2656} for model in ("cnn_published", "bdt", "vlm")},
    "trainings": {model: {"n": 1, "conditions": {}} for model in ("cnn_published", "bdt", "vlm")},
    "published": yaml.safe_load((REPOSITORY / "resources" / "published.yaml").read_text()),
}


def rows(tex: str) -> list[list[str]]:
    """Cells of every row, of all tables."""
    lines = [line.strip() for line in tex.splitlines() if line.rstrip().endswith(r"\\")]
    return [[cell.strip() for cell in line.removesuffix(r"\\").split("&")] for line in lines]


def test_every_model_stands_beside_its_published_row() -> None:
    tex = latex_tables(NUMBERS)
    first, second = tex.split(r"\begin{table}")[1:]
    header, cnn, published, later, tree, vlm, of_vlm, _, vit = rows(first)
    assert header == ["Model", "", *SCORES.values(), "Memory (MB)", "Time (ms)"]
    assert [*cnn[:6], *cnn[-2:]] == [
        "CNN published", "this run", "0.746 [0.706, 0.786]", "0.730 [0.690, 0.770]", "0.733 [0.693, 0.773]",
        "0.896 [0.856, 0.936]", "1,234", "2.27",
    ]  # fmt: skip
    assert published[:3] == ["", "published, v2", "0.68"]
    assert published[-2:] == ["1,001", "20.0"]
    assert later[:3] == ["", "published, v4", "0.80"]
    assert later[-2:] == ["--", "--"]
    assert vit[:3] == ["ViT", "published, v4", "0.86"]
    assert "v4: version 4 (12 May 2026" in first
    assert tree[:2] == ["BDT", "this run"]
    assert tree[3] == "0.730", "no interval where there is none"
    assert vlm[0] == "VLM"
    assert of_vlm[2] == "0.87"
    assert [row[0] for row in rows(second)] == ["Model", "CNN published", "", "", "BDT", "VLM", "", "ViT"]
    assert all(len(row) == 2 + len(SCORES) for row in rows(second)), "costs are those of the first condition"
    assert "1,527 test events" in first


def test_without_truth_there_is_no_table() -> None:
    numbers = copy.deepcopy(NUMBERS)
    for of_model in numbers["scores"].values():
        for condition in of_model:
            of_model[condition] = SCORE | {"n": 0}
    tex = latex_tables(numbers)
    assert all(line.startswith("%") for line in tex.splitlines())
    assert "no scores under nominal" in tex


def test_text_is_no_command() -> None:
    evil = r"50 % of \input{x} & $a_b^2$ #1 {~}"
    assert escape(evil) == (
        r"50 \% of \textbackslash{}input\{x\} \& \$a\_b\textasciicircum{}2\$ \#1 \{\textasciitilde{}\}"
    )
    numbers = copy.deepcopy(NUMBERS)
    numbers["published"]["tables"][0]["title"] = evil
    assert escape(evil) in latex_tables(numbers)
    # Every group closes, and what begins ends.
    tex = re.sub(r"\\[{}]", "", latex_tables(numbers))
    assert tex.count("{") == tex.count("}")
    assert re.findall(r"\\begin\{(\w+)\}", tex) == ["table", "tabular"] * 2
    assert re.findall(r"\\end\{(\w+)\}", tex) == ["tabular", "table"] * 2


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs pdflatex")
def test_latex_takes_them(tmp_path: Path) -> None:
    document = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n%s\\end{document}\n"
    (tmp_path / "tables.tex").write_text(document % latex_tables(NUMBERS))
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "tables.tex"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
