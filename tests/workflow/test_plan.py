"""What a run will take: the table of rates beside the measurements, and what is reckoned from it."""

import json
import math
from pathlib import Path

import pytest
import yaml

from nuvlm.base.errors import InputError
from nuvlm.workflow import plan
from nuvlm.workflow.config import Config
from nuvlm.workflow.plan import Rate, make_plan, plan_of, read_rates, render
from paths import REPOSITORY

RATES = read_rates(REPOSITORY / plan.RATES)
SMALL = {
    "vlm": {"base": "scratch", "finetune": {"gpus": 0, "processes": 1}, "classify": {"gpus": 0}},
    "cnn": {"gpus": 0},
}
STORED = {"start", "voxels", "displays", "pixelmaps", "events.parquet", "predictions", "event table", "training images"}


@pytest.mark.parametrize("rate", [rate for rate in RATES if rate.file], ids=lambda rate: f"{rate.of} {rate.at}")
def test_a_rate_is_what_its_benchmark_wrote(rate: Rate):
    value = json.loads((REPOSITORY / str(rate.file)).read_text())
    for step in str(rate.key).split("."):
        value = value[int(step) if step.isdigit() else step]
    if "_ms_" in str(rate.key):
        value /= 1e3
    assert rate.value == pytest.approx(value, rel=0.02)
    assert not rate.published


def test_every_rate_is_used():
    sources = [{"source": "simulate"}, {"source": "larndsim", "files": ["a.h5"]}]
    small = SMALL | {"cnn": {"gpus": 0, "classify_backend": "onnx"}, "vlm_head": {"enabled": True}}
    rules = {rule for source in sources for rule in plan.jobs_by_rule(Config(**small, input=source), 1)}
    assert {rate.of for rate in RATES} <= rules | STORED
    assert {rate.of for rate in RATES} >= STORED


def stage(found: plan.Plan, rule: str) -> plan.Stage:
    (one,) = [stage for stage in found.stages if stage.rule == rule]
    return one


def test_hours_follow_from_events_and_rates():
    values = SMALL | {"input": {"simulate": {"events": 6000, "events_per_shard": 1000}}}
    rates = [
        Rate(of="start", value=36, unit="core-s a job", machine="", command=""),
        Rate(of="simulate_events", value=0.36, unit="core-s an event", machine="", command=""),
        Rate(of="voxels", value=100, unit="bytes an event", machine="", command=""),
    ]
    found = plan_of(values, None, None, rates)
    assert (found.events, found.shards) == (6000, 6)
    simulated = stage(found, "simulate_events")
    assert (simulated.jobs, simulated.threads, simulated.gpus) == (6, 1, 0)
    assert simulated.hours == pytest.approx(0.01 + 0.1)  # 36 s, and 1,000 events of 0.36 s
    assert simulated.core_hours == pytest.approx(6 * 0.11)
    assert stage(found, "train_cnn").hours is None, "nobody has measured it here"
    assert found.disk["voxels"] == (600_000, 6)
    assert "train_cnn" in render(found).split("? not measured on such a machine: ")[1].splitlines()[0]


def test_epochs_of_all_recipes_are_counted():
    recipes = {"published": {"max_epochs": 2}, "tuned": None, "long": {"max_epochs": 10}}
    config = Config(**SMALL | {"cnn": {"gpus": 0, "recipes": recipes}}, dataset={"validation": 0.1, "test": 0.1})
    rates = [Rate(of="train_cnn", value=3.6, unit="core-s an event and epoch", machine="", command="")]
    training = stage(make_plan(config, 1000, 1, rates), "train_cnn")
    assert training.jobs == 2
    assert training.core_hours == pytest.approx(800 * (2 + 10) * 1e-3)


def test_a_smaller_training_set_keeps_a_fraction_of_the_validation_events_and_at_least_500():
    rates = [Rate(of="classify_bdt", value=3.6, unit="core-s an event", machine="", command="")]
    sizes = {1000: 500, 16_000: 1882, None: 19_000}
    for train_events, validation in sizes.items():
        dataset = {"validation": 0.1, "test": 0.05, "train_events": train_events}
        config = Config(input={"simulate": {"events": 190_000}}, dataset=dataset, conditions=["nominal"])
        found = make_plan(config, 190_000, 38, rates)
        assert stage(found, "classify_bdt").core_hours == pytest.approx((validation + 9500) * 1e-3), train_events
    few = Config(dataset={"validation": 0.1, "test": 0.1, "train_events": 100}, conditions=["nominal"])
    assert stage(make_plan(few, 2000, 7, rates), "classify_bdt").core_hours == pytest.approx(0.4), "there are no more"


def test_what_is_left_out_of_the_totals_is_said():
    found = make_plan(Config(**SMALL | {"vlm_head": {"enabled": True, "gpus": 0}}), 1000, 1, RATES)
    assert stage(found, "explain_vlm_head").hours is None
    assert all(stage(found, rule).hours for rule in ("train_vlm_head", "classify_vlm_head", "train_vit", "explain_vit"))
    left_out = render(found).split("? not measured on such a machine: ")[1].splitlines()[0]
    assert left_out == "explain_vlm_head; totals leave them out"


def test_counterfactual_events_are_counted():
    changed, plain = (
        make_plan(Config(**SMALL, models_from="a", input={"simulate": {"counterfactuals": on}}), 400, 4, RATES)
        for on in (True, False)
    )
    assert plain.events == 400
    assert changed.events == pytest.approx(1342, rel=0.02), "a run of 400, docs/report.md"


def test_gpus_share_the_work_and_count_in_full():
    four = Config(input={"source": "voxels", "files": ["a.h5"]}, dataset={"validation": 0.05, "test": 0.05})
    found = make_plan(four, 190_000, 190, RATES)
    training = stage(found, "finetune_vlm")
    # the paper: about one week on four GPUs
    assert training.hours == pytest.approx(7 * 24, rel=0.01)
    assert training.gpu_hours == pytest.approx(4 * 7 * 24, rel=0.01)
    assert training.published
    assert "not measured here" in render(found)
    assert found.node_hours == pytest.approx(sum(stage.gpu_hours for stage in found.stages) / 4, rel=0.01)


def test_the_rate_of_the_nearest_size_is_taken():
    def display_bytes(pixel_mm: float) -> float:
        config = Config(**SMALL, display={"pixel_mm": pixel_mm})
        return make_plan(config, 1000, 1, RATES).disk["displays"][0]

    assert display_bytes(5) == display_bytes(10) > 10 * display_bytes(50)


def test_twice_the_events_in_shards_of_one_size_are_twice_the_work():
    one, two = (plan_of(SMALL, n, 500, RATES) for n in (50_000, 100_000))
    assert stage(two, "smear_and_downsample").core_hours == 2 * stage(one, "smear_and_downsample").core_hours
    assert two.memory["event table"] == 2 * one.memory["event table"]
    assert not any(math.isnan(size) for size, _ in two.disk.values())


NUISANCE = {"name": "a", "title": "a", "source": "here", "one_sided": True}
NUISANCE |= {"plus": {"display": {"readout": {"noise_mev": 1}}}}


@pytest.mark.parametrize(
    ("values", "events", "message"),
    [
        ({"input": {"source": "voxels", "files": ["a.h5"]}}, None, "EVENTS=190000"),
        ({"input": {"source": "voxels", "files": ["none-*.h5"]}}, 10, "matches no file"),
        ({"cnn": {"widht": 1}}, 10, "unknown key"),
        ({"models_from": "other", "systematics": {"nuisances": [NUISANCE]}}, 10, "make systematics is not planned"),
    ],
)
def test_what_cannot_be_planned_is_said(values, events, message):
    with pytest.raises(InputError, match=message):
        plan_of(values, events, None, RATES)


def test_a_broken_table_is_named(tmp_path):
    path = tmp_path / "rates.yaml"
    path.write_text("- {of: start, value: fast}")
    with pytest.raises(InputError, match=r"rates\.yaml"):
        read_rates(path)


@pytest.mark.slow  # it reckons the memory of the 11B model
def test_the_command_prints_the_plan(capsys, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    paper = ["config/config.yaml", "config/paper.yaml", "--events", "190000", "--events-per-shard", "1000"]
    plan.main(paper)
    printed = capsys.readouterr().out
    assert "190,000 events in 190 shards" in printed
    running = (Path("docs") / "running.md").read_text()
    names = ("finetune_vlm", "pixelmaps", "training images", "training: all", "classifying: weights")
    shown = [line for line in printed.splitlines() if line.startswith(names)]
    assert len(shown) == len(names)
    for line in shown:
        assert line in running, "docs/running.md shows another plan"


def test_a_file_that_is_no_configuration_is_named(tmp_path, capsys):
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump(["a list"]))
    with pytest.raises(SystemExit, match=r"wrong\.yaml"):
        plan.main([str(path)])


@pytest.mark.parametrize(
    ("finetune", "cautioned"),
    [
        ({"strategy": "deepspeed", "zero_stage": 3, "quantization": "nf4"}, True),
        ({"strategy": "deepspeed", "zero_stage": 3, "quantization": "int8"}, True),
        ({"strategy": "deepspeed", "zero_stage": 3, "quantization": "none"}, False),
        ({"strategy": "deepspeed", "zero_stage": 2, "quantization": "nf4"}, False),
        ({"strategy": "ddp", "zero_stage": 3, "quantization": "nf4"}, False),
    ],
)
def test_partitioned_weights_that_are_loaded_whole_are_said(finetune: dict[str, object], cautioned: bool):
    values = {"vlm": {"finetune": {"processes": 4, **finetune}}, "input": {"source": "voxels", "files": ["a.h5"]}}
    text = render(plan_of(values, 1000, 1000, RATES))
    assert ("each GPU first holds the whole quantised model" in text) is cautioned
