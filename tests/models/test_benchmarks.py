"""The scripts of benchmarks/, most of which only run by hand."""

import pytest

from benchmark_scripts import BENCHMARKS, load_benchmark

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", sorted(path.stem for path in BENCHMARKS.glob("*.py")))
def test_every_script_imports_what_there_is(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    load_benchmark(name, monkeypatch)
