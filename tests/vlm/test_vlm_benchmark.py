"""The benchmark of scoring against beams, on the tiny model."""

import importlib.util
import sys
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from nuvlm.vlm.training import Job, finetune
from paths import REPOSITORY


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """What benchmarks/vlm_scoring.py measures; benchmarks are no package."""
    spec = importlib.util.spec_from_file_location("vlm_scoring", REPOSITORY / "benchmarks" / "vlm_scoring.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "vlm_scoring", module)
    spec.loader.exec_module(module)
    found: Callable[..., dict[str, Any]] = module.measure
    return found


def test_both_methods_and_both_adapters_agree_on_every_event(job: Job, measure: Callable[..., dict[str, Any]]) -> None:
    finetune(job)
    events = pd.read_parquet(job.events)
    events = events[events["split"] == "test"].reset_index(drop=True)
    result = measure(job.base, job.out, events, job.stores, job.prompts, quantization="nf4", bf16=False, batches=(1, 4))
    assert result["events"] == 12
    compared = [*result["methods"]["unmerged"].values(), *result["methods"]["merged"].values()]
    for found in [*compared, *result["merged"].values(), result["batches"]]:
        assert found["other_class"] == 0
        assert found["largest_difference_probability"] < 1e-4
    # Three beams read the prompt three times; half of that leaves room for a busy machine.
    assert all(ratio > 1.5 for ratios in result["beam_over_score"].values() for ratio in ratios.values())
