"""The benchmark of scoring against beams, on the tiny model."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from benchmark_scripts import load_benchmark
from nuvlm.models.vlm.training import Job, finetune

pytestmark = pytest.mark.slow


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """What benchmarks/vlm_scoring.py measures."""
    found: Callable[..., dict[str, Any]] = load_benchmark("vlm_scoring", monkeypatch).measure
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


def test_a_step_is_compared_with_that_of_a_plain_loop(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"epochs": 1.0, "eval_steps": None, "load_best_model_at_end": False}
    job = job.model_copy(update={"settings": job.settings.model_copy(update=changes)})
    result = load_benchmark("vlm_training", monkeypatch).measure(job)
    assert (job.out / "training.json").exists()
    assert result["steps"] == 3  # of six, after the warm-up
    # Alike: both are the same model and batches. Wide, for a busy machine.
    assert 0.7 < result["ratio"] < 2.5
