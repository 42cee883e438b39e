"""The scripts of benchmarks/, as modules: they are no package."""

import importlib.util
import sys
from types import ModuleType
from typing import Any

import pytest

from paths import REPOSITORY

BENCHMARKS = REPOSITORY / "benchmarks"


def load_benchmark(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """benchmarks/`name`.py, anew, for as long as `monkeypatch` lasts."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def numbers(value: Any) -> list[float]:
    """All numbers in a result."""
    if isinstance(value, dict):
        return [number for item in value.values() for number in numbers(item)]
    return [value] if isinstance(value, float) else []
