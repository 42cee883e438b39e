"""Everything between the loader and the models on a device that is not the CPU; test_vlm_device.py runs this file.

What a device changes: pinned memory, copies, the place of every tensor, types under autocast, random numbers for
dropout and for recomputation, too little memory. Values must equal those of the CPU.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from peft import get_peft_model
from torch.utils.checkpoint import checkpoint
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from nuvlm.models import devices
from nuvlm.models.cnn import classify as cnn_classify
from nuvlm.models.cnn import processes as cnn_processes
from nuvlm.models.predictions import read_costs, read_predictions
from nuvlm.models.vlm import classify as vlm_classify
from nuvlm.models.vlm import explain as vlm_explain
from nuvlm.models.vlm.adapter import lora_config, stop_gradients_at_inputs
from nuvlm.models.vlm.classify import classify_vlm
from nuvlm.models.vlm.dataset import conversations
from nuvlm.models.vlm.explain import explain_vlm
from nuvlm.models.vlm.families import FAMILIES
from nuvlm.models.vlm.model import load_model, load_processor
from nuvlm.models.vlm.prompts import load_prompts
from nuvlm.models.vlm.recomputation import recompute_tower
from nuvlm.models.vlm.settings import ClassifySettings, ExplainSettings, LoraSettings
from nuvlm.models.vlm.training import Job
from standin_device import build, memory_limit
from tiny_cnn import classify, train, write_data

build()
DEVICES = {"cpu": torch.device("cpu"), "standin": torch.device("standin", 0)}


def choose(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all jobs choose this device."""
    for module in (vlm_classify, vlm_explain, cnn_classify, cnn_processes):
        monkeypatch.setattr(module, "choose_device", lambda: DEVICES[name])


@pytest.fixture
def tuned(tuned_briefly: Job) -> Job:
    """A model fine-tuned on the CPU."""
    return tuned_briefly


@pytest.fixture
def counters() -> Any:
    """Memory of the device."""
    return build()


def test_what_the_stand_in_refuses_as_a_gpu_does() -> None:
    here, there = torch.ones(3, 4), torch.ones(3, 4).to("standin")
    with pytest.raises(RuntimeError, match="same device"):
        there + here
    with pytest.raises(RuntimeError, match="same device"):
        torch.cat([there, here])
    with pytest.raises(TypeError, match="convert"):
        there.numpy()
    assert (there + torch.tensor(1.0)).device == DEVICES["standin"]
    assert there[torch.tensor([0, 2])].device == DEVICES["standin"]


def test_expanded_tensors_are_pinned_which_torch_cannot() -> None:
    text = torch.arange(3).expand(4, 3)
    with pytest.raises(RuntimeError, match="more than one element"):
        text.pin_memory()
    found = devices.pinned({"text": text, "pixels": torch.ones(4, 2)})
    assert all(value.is_pinned() for value in found.values())
    assert torch.equal(found["text"], text)


def classified(job: Job, out: Path, **settings: object) -> pd.DataFrame:
    values = {"batch_size": 4, "gpus": 0, **settings}
    values, bf16 = {k: v for k, v in values.items() if k != "bf16"}, bool(values.get("bf16"))
    classify_vlm(
        job.base, job.out, job.events, job.stores, {"nominal": out}, part=0, prompts=job.prompts,
        settings=ClassifySettings.model_validate(values), quantization="nf4", bf16=bf16,
    )  # fmt: skip
    return read_predictions([out])


@pytest.mark.parametrize(
    ("settings", "atol"),
    [
        ({"method": "score"}, 1e-4),
        ({"method": "beam"}, 1e-4),
        ({"method": "score", "merge_adapter": True}, 1e-4),
        ({"method": "score", "merge_adapter": True, "bf16": True}, 0.1),
    ],
)
def test_events_are_classified_as_on_a_cpu(
    tuned: Job,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, object],
    atol: float,
    counters: Any,
) -> None:
    choose("cpu", monkeypatch)
    expected = classified(tuned, tmp_path / "cpu.parquet", **settings)
    choose("standin", monkeypatch)
    counters.reset_peak()
    found = classified(tuned, tmp_path / "standin.parquet", **settings)
    assert counters.peak() > 2_000_000, "the model was on the device"
    columns = [name for name in expected if name.startswith("logp_")]
    assert len(columns) == 6
    np.testing.assert_allclose(found[columns], expected[columns], atol=atol)


def test_batches_shrink_to_the_memory_of_the_device(
    tuned: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counters: Any
) -> None:
    choose("standin", monkeypatch)
    model = vlm_classify.load_finetuned
    loaded: list[Any] = []
    monkeypatch.setattr(vlm_classify, "load_finetuned", lambda *a, **k: loaded.append(model(*a, **k)) or loaded[0])
    expected = classified(tuned, tmp_path / "all.parquet", batch_size=12)
    monkeypatch.setattr(vlm_classify, "load_finetuned", lambda *a, **k: loaded[0])
    counters.reset_peak()
    classified(tuned, tmp_path / "three.parquet", batch_size=3)
    with memory_limit(counters, counters.peak() - counters.allocated() + 100_000):
        found = classified(tuned, tmp_path / "less.parquet", batch_size=12)
    assert read_costs([tmp_path / "less.parquet"])[0].batch_size in (3, 1)
    assert found["predicted"].tolist() == expected["predicted"].tolist()


def test_explanations_are_those_of_a_cpu(tuned: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = []
    assert tuned.vocabulary is not None
    for name in ("cpu", "standin"):
        choose(name, monkeypatch)
        classified(tuned, tmp_path / f"{name}.parquet")
        out = tmp_path / f"explained_{name}.parquet"
        explain_vlm(
            tuned.base, tuned.out, tuned.events, tuned.stores, {"vlm": tmp_path / f"{name}.parquet"}, out, part=0,
            count=2, seed=7, condition="nominal", prompts=tuned.prompts, vocabulary=tuned.vocabulary,
            settings=ExplainSettings(batch_size=4, max_new_tokens=12), merge_adapter=True, quantization="nf4",
            bf16=False,
        )  # fmt: skip
        tables.append(pd.read_parquet(out).drop(columns="seconds"))
    pd.testing.assert_frame_equal(*tables)


@pytest.mark.parametrize("bf16", [False, True])
def test_a_training_step_is_that_of_a_cpu(tuned: Job, bf16: bool) -> None:
    """Without dropout, whose random numbers are the device's own."""
    events = pd.read_parquet(tuned.events)
    rows = conversations(events[events["split"] == "train"], tuned.stores, load_prompts(tuned.prompts))
    collate = DataCollatorForVisionLanguageModeling(load_processor(tuned.base), assistant_only_loss=True)
    batch = collate([rows[i] for i in range(3)])
    found = {}
    for name in ("cpu", "standin"):
        torch.manual_seed(1)
        model = load_model(tuned.base, "none", bf16=False, device_map={"": "cpu"})
        model = get_peft_model(model, lora_config(LoraSettings(dropout=0.0), FAMILIES["mllama"].vision_tower))
        model = model.to(name).train()
        model.activation_checkpointing_enable({"use_reentrant": False})
        stop_gradients_at_inputs(model)
        recompute_tower(model, FAMILIES["mllama"].vision_tower, use_reentrant=False)
        moved = {key: value.pin_memory().to(name, non_blocking=True) for key, value in batch.items()}
        with torch.autocast(name, torch.bfloat16, enabled=bf16):
            loss = model(**moved, use_cache=False).loss
        loss.backward()
        found[name] = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
        assert all(value.device.type == name and value.isfinite().all() for value in found[name].values())
    assert found["cpu"].keys() == found["standin"].keys()
    for key, value in found["standin"].items():
        expected = found["cpu"][key]
        error = (value.cpu() - expected).norm() / (expected.norm() + 1e-12)
        assert error < (0.15 if bf16 else 1e-3), key


def test_dropout_is_drawn_again_by_the_generator_of_the_device() -> None:
    """Recomputation must restore it: otherwise gradients belong to other masks than the loss."""
    layer = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Dropout(0.5)).to("standin").train()
    x = torch.randn(8, 64).to("standin")
    gradients = []
    for recomputed in (False, True):
        torch.manual_seed(3)
        layer.zero_grad()
        out = checkpoint(layer, x, use_reentrant=False) if recomputed else layer(x)
        out.square().sum().backward()
        gradients.append(layer[0].weight.grad.cpu().clone())
    assert torch.equal(*gradients)


def test_the_cnn_trains_and_classifies_as_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = []
    for name in ("cpu", "standin"):
        choose(name, monkeypatch)
        (tmp_path / name).mkdir()
        folder = write_data(tmp_path / name)
        train(folder, dropout=0.0)
        tables.append(classify(folder))
    columns = [name for name in tables[0] if name.startswith("p_")]
    np.testing.assert_allclose(tables[1][columns], tables[0][columns], atol=1e-3)
