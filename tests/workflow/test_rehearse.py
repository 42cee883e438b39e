"""A rehearsal of a published shape, made tiny: all stages for real, resumed, killed, and without enough memory."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.nn.modules.module import register_module_forward_pre_hook

from memory import MB, at_most
from nuvlm.base.errors import InputError
from nuvlm.base.files import read_json
from nuvlm.models.vlm.footprint import GIB
from nuvlm.models.vlm.rehearsal import reckon
from nuvlm.workflow import plan
from nuvlm.workflow.config import Config, parse_config
from nuvlm.workflow.rehearse import main, rehearse_run
from paths import REPOSITORY
from tiny_shape import make_tiny_shape

pytestmark = pytest.mark.slow
EXTENT = {"steps": 4, "classify": 4, "explain": 1}


@pytest.fixture
def values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A configuration with a tiny published model, in a folder that has its shape."""
    shutil.copytree(REPOSITORY / "resources", tmp_path / "resources")
    model = make_tiny_shape(tmp_path / "resources" / "shapes")
    monkeypatch.chdir(tmp_path)
    finetune = {
        "strategy": "single", "processes": 1, "gpus": 0, "global_batch_size": 4, "device_batch_size": 2, "bf16": False,
    }  # fmt: skip
    vlm = {
        "base": "hub", "hub": {"model": model, "max_tiles": 1}, "finetune": finetune,
        "classify": {"gpus": 0, "batch_size": 4}, "explain": {"max_new_tokens": 4},
    }  # fmt: skip
    return {"run": "tried", "pixelmap": {"size": 32, "zoom": 2}, "vlm": vlm, "input": {"simulate": {"events": 1000}}}


def test_everything_is_measured_and_nothing_else_stays(values: dict[str, Any]) -> None:
    config = parse_config(values)
    text = rehearse_run(config, Path("out"), methods=("score", "beam"), **EXTENT)
    result = read_json(Path("out/rehearsal.json"))
    assert [path.name for path in Path("out").iterdir()] == ["rehearsal.json"]
    training = result["training"]
    assert 1 <= training["resumed_from_step"] < 4
    assert [step for step, _ in training["losses"]] == [1, 2, 3, 4]
    assert all(6 < loss < 9 for _, loss in training["losses"]), "random weights guess: log 1256 = 7.1"
    assert training["trainable_parameters"] > 0
    assert training["checkpoint_bytes"] > 3 * 4 * training["trainable_parameters"], "the adapter and Adam's moments"
    assert result["reckoned"]["allocated"] < 1e6 * training["peak_memory_mb"]
    for method in ("score", "beam"):
        found = result[f"classifying by {method}"]
        assert found["events"] == 4
        assert 0 < result["fraction_of_floor"][f"classifying by {method}"] < 1
    assert result["explaining"]["pictures"] == 2
    # 1,000 events, of which 85 % are trained on and 15 % classified under four conditions
    assert result["hours"]["training"] == pytest.approx(850 / training["events_per_second"] / 3600)
    score = result["classifying by score"]["seconds_per_event"]
    assert result["hours"]["classifying by score"] == pytest.approx(150 * 4 * score / 3600)
    assert f"resumed from step {training['resumed_from_step']}" in text
    assert "the run of 1,000 events" in text


@pytest.mark.long
def test_after_a_kill_it_goes_on_from_the_checkpoint(values: dict[str, Any]) -> None:
    Path("config.yaml").write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "nuvlm.workflow.rehearse", "config.yaml", "--steps", "8", "--classify", "2"]
    command += ["--explain", "0", "--folder", "out", "--keep"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as first:
        while not list(Path("out").glob("checkpoints/checkpoint-*/fingerprint.json")):
            assert first.poll() is None
            time.sleep(0.02)
        first.send_signal(signal.SIGKILL)
    made = Path("out/base/manifest.json").stat().st_mtime_ns
    rehearse_run(parse_config(values), Path("out"), keep=True, steps=8, classify=2, explain=0)
    assert Path("out/base/manifest.json").stat().st_mtime_ns == made, "the base model is not made again"
    training = read_json(Path("out/rehearsal.json"))["training"]
    assert training["resumed_from_step"] >= 1
    assert training["first_run"] is None, "it has not trained the first steps again"
    assert training["checkpoint_bytes"] > training["adapter_bytes"]


def test_a_model_from_scratch_is_rehearsed_and_other_settings_start_anew(values: dict[str, Any]) -> None:
    scratch = {"base": "scratch", "scratch": {"text_layers": 2, "vision_layers": 1, "image_size": 56}}
    scratch["finetune"] = values["vlm"]["finetune"] | {"rationales": "grounded"}
    extent = {"steps": 3, "classify": 2, "explain": 0}
    own = values | {"pixelmap": {"size": 64}, "vlm": values["vlm"] | scratch}
    rehearse_run(parse_config(own), Path("out"), keep=True, **extent)
    result = read_json(Path("out/rehearsal.json"))
    assert "reckoned" not in result
    assert result["floor"]["tokens"] > 60, "the rationale is part of the answer"
    # with texts about three views, which are drawn then
    texts = yaml.safe_load(Path(values["vlm"].get("prompts", "resources/prompts.yaml")).read_text())
    Path("prompts.yaml").write_text(yaml.safe_dump(texts | {"views": ["u", "v", "z"]}))
    values["vlm"]["prompts"] = "prompts.yaml"
    values["vlm"]["finetune"]["lora"] = {"r": 4}
    rehearse_run(parse_config(values), Path("out"), keep=True, **extent)
    assert read_json(Path("out/adapter/adapter_config.json"))["r"] == 4
    assert read_json(Path("out/adapter/training.json"))["images"]["views"] == ["u", "v", "z"]


def test_what_does_not_fit_is_said(values: dict[str, Any]) -> None:
    def take(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        # The convolution that cuts the views into patches, in a real pass: others count on tensors without values.
        if isinstance(module, torch.nn.Conv2d) and inputs[0].device.type == "cpu":
            torch.empty(4000 * MB, dtype=torch.uint8)

    hook = register_module_forward_pre_hook(take)
    try:
        with at_most(3000 * MB), pytest.raises(InputError, match="training: does not fit in memory"):
            rehearse_run(parse_config(values), Path("out"), **EXTENT)
    finally:
        hook.remove()
    result = read_json(Path("out/rehearsal.json"))
    assert not result["complete"]
    assert "classifying by score" not in result
    assert result["hours"] == {}


def test_an_unknown_model_is_refused_before_anything_is_made(
    values: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    values["vlm"]["hub"]["model"] = "some/model"
    Path("config.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(SystemExit):
        main(["config.yaml", "--folder", "out"])
    assert "no shape of some/model" in Path("out.log").read_text()


def small(values: dict[str, Any], **changes: Any) -> Config:
    values["vlm"]["finetune"]["gpus"] = 1
    return parse_config(values | {"vlm": values["vlm"] | changes})


def test_the_plan_shows_the_memory_of_a_gpu_and_refuses_what_does_not_fit(values: dict[str, Any]) -> None:
    config = small(values)
    text = plan.gpu_memory(config)
    for part in ("weights", "adapter", "optimizer", "tower", "text", "passing", "all"):
        assert f"training: {part}" in text
    sources = {"size": 64, "prompts": Path(config.vlm.prompts), "vocabulary": Path(config.vlm.vocabulary)}
    two, one = (
        reckon(
            config.vlm.model_copy(update={"finetune": config.vlm.finetune.model_copy(update={"device_batch_size": n})}),
            resources=Path("resources"),
            **sources,
        )[0].on_gpu()
        for n in (2, 1)
    )
    assert one < two
    plan.gpu_memory(small(values, gpu_memory_gib=1.01 * two / GIB))
    with pytest.raises(InputError, match=r"does not fit a GPU of .*would fit: .*device_batch_size: 1 \("):
        plan.gpu_memory(small(values, gpu_memory_gib=(one + two) / 2 / GIB))
    with pytest.raises(InputError, match="None of these is enough by itself"):
        plan.gpu_memory(small(values, gpu_memory_gib=0.1))


def test_larger_pictures_take_more_memory_where_the_tower_has_no_tiles(values: dict[str, Any]) -> None:
    hub = {"model": "Qwen/Qwen3-VL-2B-Instruct", "max_tiles": None}
    shape = Path("resources/shapes/Qwen--Qwen3-VL-2B-Instruct/config.json")
    config = read_json(shape)
    config["text_config"]["num_hidden_layers"], config["vision_config"]["depth"] = 14, 4
    config["vision_config"]["deepstack_visual_indexes"] = [0, 1, 2]
    shape.write_text(json.dumps(config))
    vlm = small(values, hub=hub, finetune=values["vlm"]["finetune"] | {"lora": {"vision": False}}).vlm
    sources = {"prompts": Path(vlm.prompts), "vocabulary": Path(vlm.vocabulary), "resources": Path("resources")}
    plain, zoomed, larger = (
        reckon(vlm, size=size, zoom=zoom, **sources)[0].text for size, zoom in ((256, 1), (256, 2), (512, 1))
    )
    assert plain < zoomed == larger


def test_a_run_without_the_vlm_is_planned_but_not_rehearsed(values: dict[str, Any]) -> None:
    config = small(values, gpu_memory_gib=0.1)
    with pytest.raises(InputError, match="finetune_vlm does not fit"):
        plan.gpu_memory(config)
    without = small(values, gpu_memory_gib=0.1, enabled=False)
    assert plan.gpu_memory(without) == ""
    head = {"enabled": True, "gpus": 1}
    assert "vlm_head: not reckoned" in plan.gpu_memory(parse_config(without.model_dump() | {"vlm_head": head}))
    assert "vlm_head: not reckoned" in plan.gpu_memory(parse_config(small(values).model_dump() | {"vlm_head": head}))
    with pytest.raises(InputError, match=r"vlm.enabled is false.* Set vlm.enabled to true"):
        rehearse_run(without, Path("out"), **EXTENT)
    assert not Path("out").exists()


def test_memory_of_an_unknown_shape_or_without_gpus_is_not_reckoned(values: dict[str, Any]) -> None:
    assert plan.gpu_memory(parse_config(values)) == ""
    unknown = values["vlm"]["hub"] | {"model": "some/model"}
    assert "not reckoned" in plan.gpu_memory(small(values, hub=unknown))
