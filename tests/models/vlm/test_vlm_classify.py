"""From a fine-tuned adapter to a prediction table."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from memory import MB, at_most
from nuvlm.base.classes import CLASSES
from nuvlm.base.errors import InputError
from nuvlm.base.files import read_json, write_json
from nuvlm.base.manifest import write_manifest
from nuvlm.models.predictions import read_costs, read_predictions
from nuvlm.models.vlm.classify import classify_vlm
from nuvlm.models.vlm.settings import ClassifySettings
from nuvlm.models.vlm.training import Job, finetune

pytestmark = pytest.mark.slow


@pytest.fixture
def tuned(job: Job) -> Job:
    finetune(job.model_copy(update={"settings": job.settings.model_copy(update={"epochs": 1.0})}))
    return job


def classify(job: Job, out: Path, condition: str = "nominal", **settings: object) -> pd.DataFrame:
    values = ClassifySettings.model_validate({"gpus": 0, "batch_size": 4, **settings})
    classify_vlm(
        job.base, job.out, job.events, job.stores, {condition: out}, part=0, prompts=job.prompts,
        settings=values, quantization="nf4", bf16=False,
    )  # fmt: skip
    return read_predictions([out])


def test_table_has_every_event_of_the_part_and_its_scores(tuned: Job, tmp_path: Path) -> None:
    table = classify(tuned, tmp_path / "p.parquet")
    events = pd.read_parquet(tuned.events)
    expected = events[events["part"] == 0]
    assert table[["shard", "event_id", "row"]].values.tolist() == expected[["shard", "event_id", "row"]].values.tolist()
    p = table[[f"p_{name}" for name in CLASSES]].to_numpy()
    np.testing.assert_allclose(p.sum(axis=1), 1)
    joint = table[[f"logp_joint_{name}" for name in CLASSES]].to_numpy()
    first = table[[f"logp_first_{name}" for name in CLASSES]].to_numpy()
    two = table[[f"logp_two_{name}" for name in CLASSES]].to_numpy()
    assert (joint <= two + 1e-6).all()
    assert (two <= first + 1e-6).all()
    assert (first < 0).all()
    # published Eq. 1 with T = 5
    weights = np.exp(5 * (joint - joint.max(axis=1, keepdims=True)))
    np.testing.assert_allclose(p, weights / weights.sum(axis=1, keepdims=True), rtol=1e-6)
    assert (table["predicted"] == np.array(CLASSES)[joint.argmax(axis=1)]).all()
    (cost,) = read_costs([tmp_path / "p.parquet"])
    assert cost.events == len(table)
    assert cost.seconds == pytest.approx(table["seconds"].sum())
    assert cost.peak_memory_mb > 100


def test_beam_first_token_and_merged_weights_say_the_same(tuned: Job, tmp_path: Path) -> None:
    plain = classify(tuned, tmp_path / "plain.parquet")
    columns = [column for column in plain if column.startswith("logp_")]
    beam = classify(tuned, tmp_path / "beam.parquet", method="beam", batch_size=5)
    np.testing.assert_allclose(beam[columns], plain[columns], atol=1e-3)
    assert (beam["predicted"] == plain["predicted"]).all()
    merged = classify(tuned, tmp_path / "merged.parquet", merge_adapter=True)
    np.testing.assert_allclose(merged[columns], plain[columns], atol=1e-3)
    assert (merged["predicted"] == plain["predicted"]).all()
    for score, decision in (("first", "first_token"), ("two", "two_tokens")):
        table = classify(tuned, tmp_path / f"{score}.parquet", decision=decision)
        found = table[[f"logp_{score}_{name}" for name in CLASSES]].to_numpy()
        assert (table["predicted"] == np.array(CLASSES)[found.argmax(axis=1)]).all()


def test_the_adapter_says_which_background_its_pictures_have(tuned: Job, tmp_path: Path) -> None:
    """Whatever the configuration of the run that classifies."""
    path = tuned.out / "training.json"
    assert read_json(path)["background"] == tuned.settings.background == "white"
    white = classify(tuned, tmp_path / "white.parquet")

    def say(background: str | None) -> None:
        card = read_json(path)
        card.pop("background", None)
        write_json(path, card | ({"background": background} if background else {}), sealed=True)
        (tuned.out / "manifest.json").unlink()
        write_manifest(tuned.out)

    say("black")
    black = classify(tuned, tmp_path / "black.parquet")
    assert (black["logp_joint_nc"] - white["logp_joint_nc"]).abs().max() > 1e-4
    say(None)  # by an earlier version
    assert classify(tuned, tmp_path / "earlier.parquet")["logp_joint_nc"].equals(black["logp_joint_nc"])
    say("grey")
    with pytest.raises(InputError, match="the background is 'grey', not black or white"):
        classify(tuned, tmp_path / "grey.parquet")


def test_batches_that_do_not_fit_in_memory_are_cut_and_say_the_same(tuned: Job, tmp_path: Path) -> None:
    plain = classify(tuned, tmp_path / "plain.parquet", batch_size=12)

    def make_views_large(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, torch.nn.Conv2d):  # cuts the views of all events of a batch into patches
            torch.empty(len(inputs[0]) * 800 * MB, dtype=torch.uint8)  # only reserved: no page is touched

    hook = register_module_forward_pre_hook(make_views_large)
    try:
        # Half-way between batches of 3 and of 6: memory that earlier tests release must not make 6 fit.
        with at_most(7200 * MB):
            cut = classify(tuned, tmp_path / "cut.parquet", batch_size=12)
    finally:
        hook.remove()
    assert [read_costs([tmp_path / f"{name}.parquet"])[0].batch_size for name in ("plain", "cut")] == [12, 3]
    columns = [column for column in plain if column.startswith("logp_")]
    np.testing.assert_allclose(cut[columns], plain[columns], atol=2e-4)
    assert (cut["predicted"] == plain["predicted"]).all()


def test_degraded_images_are_shown(tuned: Job, tmp_path: Path) -> None:
    nominal = classify(tuned, tmp_path / "n.parquet")
    for condition in ("half_resolution", "dead_20"):
        worse = classify(tuned, tmp_path / "w.parquet", condition=condition)
        assert (worse["event_id"] == nominal["event_id"]).all()
        assert (worse["logp_joint_nc"] - nominal["logp_joint_nc"]).abs().max() > 1e-6
    again = classify(tuned, tmp_path / "a.parquet", condition="dead_20", batch_size=1)
    np.testing.assert_allclose(again["logp_joint_nc"], worse["logp_joint_nc"], atol=2e-4)


def test_controls_change_what_is_shown_or_told(tuned: Job, tmp_path: Path) -> None:
    nominal = classify(tuned, tmp_path / "n.parquet")
    blank = classify(tuned, tmp_path / "b.parquet", condition="blank")
    permuted = classify(tuned, tmp_path / "l.parquet", condition="labels_permuted")
    columns = [column for column in nominal if column.startswith("logp_joint")]
    assert np.ptp(blank[columns], axis=0).max() < 1e-4, "black images are all alike"
    assert np.ptp(nominal[columns], axis=0).max() > 1e-4
    assert np.abs(permuted[columns] - nominal[columns]).to_numpy().max() > 1e-6


def test_damaged_adapter_is_named(tuned: Job, tmp_path: Path) -> None:
    weights = tuned.out / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(InputError, match=str(weights)):
        classify(tuned, tmp_path / "p.parquet")
    assert not (tmp_path / "p.parquet").exists()


def test_first_token_decision_refuses_labels_that_begin_alike(tuned: Job, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.yaml"
    prompts.write_text(tuned.prompts.read_text().replace('" NuE CC"', '" Neutral none"'))
    job = tuned.model_copy(update={"prompts": prompts})
    with pytest.raises(InputError, match="begin with the same token"):
        classify(job, tmp_path / "p.parquet", decision="first_token")
