"""The report computed again from a published bundle."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nuvlm.base.errors import InputError
from nuvlm.base.files import read_json, write_json
from nuvlm.report.provenance import provenance
from nuvlm.report.rebuild import INPUTS, check, differences, rebuild
from nuvlm.workflow.config import Config
from paths import REPOSITORY
from run_on_disk import FOUR_MODELS, write_run

CPUS = {
    "no AVX-512": {"NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR", "OPENBLAS_CORETYPE": "Haswell"},
    "of 2006": {
        "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR",
        "OPENBLAS_CORETYPE": "Prescott",
        "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX2,-AVX,-FMA,-FMA4",
    },
}
"""What NumPy, OpenBLAS and the C library compute with on other machines."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The part of a bundle that the report is computed from, of many events, and the report."""
    folder = tmp_path_factory.mktemp("bundle")
    run = write_run(folder, n=1000, models=FOUR_MODELS)
    shutil.copy(REPOSITORY / "resources" / "published.yaml", folder)
    write_json(folder / "events.json", {"events": []})
    (folder / "beam.csv").write_text("energy_gev,weight\n0.5,1\n3,5\n9,1\n")
    inputs = {
        "report": "report.json",
        "events": "events.parquet",
        "browser": "events.json",
        "published": "published.yaml",
        "spectrum": {"file": "/far/away/beam.csv", "copy": "beam.csv"},
        "repeats": {},
        "predictions": {
            model: {
                condition: [str(part.relative_to(folder)) for part in parts] for condition, parts in conditions.items()
            }
            for model, conditions in run.predictions.items()
        },
        "training": {model: str(path.relative_to(folder)) for model, path in run.training.items()},
        "explanations": {},
        "saliency": {},
        "provenance": provenance(Config().model_dump(mode="json"), REPOSITORY),
    }
    write_json(folder / INPUTS, inputs)
    rebuild(folder, folder / "report.json")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("cpu", CPUS)
def test_other_cpus_give_the_same_report_bit_by_bit(bundle: Path, cpu: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nuvlm.report.rebuild", "."], cwd=bundle, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "workflow" / "src"), **CPUS[cpu]},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the same, bit by bit" in done.stdout


@pytest.mark.slow
def test_an_altered_report_is_named_with_the_keys(bundle: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(bundle, tmp_path / "altered")
    report = read_json(folder / "report.json")
    assert report["spectrum"]["file"] == "/far/away/beam.csv"
    report["scores"]["vlm"]["nominal"]["accuracy"] += 1e-9
    write_json(folder / "report.json", report)
    with pytest.raises(InputError, match=r"1 numbers differ, first scores\.vlm\.nominal\.accuracy"):
        check(folder)


def test_differences_name_keys_items_and_types() -> None:
    first = {"a": [1, {"b": 2.0}], "c": None, "only": 1}
    assert differences(first, first) == []
    assert differences(first, {"a": [1, {"b": 2}], "c": 0}) == ["a[1].b", "c", "only"]
    assert differences([1], [1, 2], "a") == ["a"]
