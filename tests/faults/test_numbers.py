"""Numbers that are none: where one comes up, the job ends with the remedy, and no model or table is written."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from nuvlm.base.errors import InputError
from nuvlm.base.files import SEAL, seal
from nuvlm.base.manifest import write_manifest
from nuvlm.dataset.event_table import read_events
from nuvlm.models.predictions import Cost, write_predictions
from nuvlm.models.vlm.pretraining import build_base_model
from nuvlm.models.vlm.training import finetune
from small_run import CHAT_TEMPLATE, PROMPTS, SCRATCH, VOCABULARY, SmallRun, Tally

pytestmark = pytest.mark.faults


def test_a_cnn_that_diverges_ends_without_a_model(small_run: SmallRun, tally: Tally, tmp_path: Path) -> None:
    """Training resumes from a valid checkpoint whose weights are NaN."""
    checkpoint = small_run.folder / "checkpoints" / "cnn.pt"
    state = torch.load(small_run.folder / "left" / "cnn.pt", weights_only=True)
    next(iter(state["network"].values())).fill_(torch.nan)
    state["history"] = "[]"
    content = io.BytesIO()
    torch.save(state, content)
    checkpoint.parent.mkdir(exist_ok=True)
    checkpoint.write_bytes(content.getvalue() + SEAL)
    seal(checkpoint)
    with pytest.raises(InputError, match=r"loss is not a number in epoch 1.* lower .*learning_rate"):
        small_run.train_cnn(tmp_path / "cnn")
    checkpoint.unlink()
    assert not (tmp_path / "cnn").exists()
    tally.add("NaN", "CNN training", "noticed")


def test_a_vlm_that_diverges_ends_without_checkpoint_and_adapter(
    small_run: SmallRun, tally: Tally, tmp_path: Path
) -> None:
    """A weight of the base model is NaN, with a manifest that agrees."""
    base = tmp_path / "base"
    base.mkdir()
    for file in (small_run.folder / "base").iterdir():
        (base / file.name).write_bytes(file.read_bytes())
    weights = load_file(base / "model.safetensors")
    next(value for name, value in weights.items() if "language_model" in name).fill_(torch.nan)
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    (base / "manifest.json").unlink()
    write_manifest(base)
    checkpoints = tmp_path / "checkpoints"
    job = small_run.job(tmp_path / "adapter").model_copy(update={"base": base, "checkpoints": checkpoints})
    with pytest.raises(InputError, match="the log-probabilities of the answers are not finite"):
        finetune(job)
    assert not job.out.exists()
    assert not list(checkpoints.rglob("*.safetensors"))
    tally.add("NaN", "VLM training", "noticed")


def test_a_base_model_that_diverges_is_not_written(tally: Tally, tmp_path: Path) -> None:
    settings = SCRATCH.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(InputError, match=r"loss is not a number at step 2 .* lower vlm\.scratch\.learning_rate"):
        build_base_model(
            tmp_path / "base", settings, prompts=PROMPTS, vocabulary=VOCABULARY, chat_template=CHAT_TEMPLATE,
            tensorboard=tmp_path / "t",
        )  # fmt: skip
    assert not (tmp_path / "base").exists()
    tally.add("NaN", "base model's training", "noticed")


def test_a_prediction_that_is_no_number_is_refused(small_run: SmallRun, tally: Tally, tmp_path: Path) -> None:
    events = read_events(small_run.events).head(3)
    scores = np.array([[0.0, 1.0, 2.0], [np.nan, 0.0, 1.0], [0.0, 1.0, 2.0]])
    cost = Cost("CPU", 1, 3, 1.0, 1.0, 100.0)
    with pytest.raises(InputError, match=f"not finite for event {events['event_id'][1]} of shard a"):
        write_predictions(tmp_path / "0.parquet", events, scores, 1.0, np.ones(3), {}, cost)
    assert not list(tmp_path.iterdir())
    tally.add("NaN", "predictions", "noticed")
