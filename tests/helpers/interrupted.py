"""A training that is interrupted, and what it must end with when it is started again."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from safetensors.torch import load_file

from nuvlm.models.classifier.trainer import Training
from nuvlm.models.classifier.training import ClassifierJob

Job = TypeVar("Job", bound=ClassifierJob)


def assert_resumes_exactly(
    train: Callable[[Job], None], job: Job, again: Job, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stop `job` in its third epoch; `again`, the same training, ends with the weights in the folder `trained`."""
    epoch = Training._epoch

    def stop(self: Training, number: int) -> None:
        if number == 3:
            raise KeyboardInterrupt
        epoch(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            train(job)
    assert job.checkpoint.exists()
    train(again)
    expected, found = (load_file(folder / "model.safetensors") for folder in (trained, job.out))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
