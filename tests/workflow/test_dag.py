"""Which jobs run after which change. Dry-runs and touches of the real workflow: no job is executed."""

import ast
import logging
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import yaml
from pydantic import BaseModel
from snakemake.utils import update_config
from snakemake_executor_plugin_slurm.partitions import get_best_partition, read_partition_file

from nuvlm.dataset.store_list import write_store_list
from nuvlm.detector.geometry import Detector
from nuvlm.detector.space_charge import example_map, write_map
from nuvlm.models.table import FAMILIES
from nuvlm.sources.table import SOURCES
from nuvlm.workflow.config import Config, merge, parse_config
from nuvlm.workflow.paths import making_events
from nuvlm.workflow.plan import jobs_by_rule, requests
from nuvlm.workflow.shards import list_shards
from paths import REPOSITORY, copy_workflow
from planner import Planner, start_planner

pytestmark = pytest.mark.workflow
SHARDS = len(list_shards(Config(input={"simulate": {"events": 40, "events_per_shard": 10}})))
EVERY = "vlm_head={enabled: true}"
"""Every family of models."""
TINY = ["--config", "input={simulate: {events: 40, events_per_shard: 10}}", EVERY]
PARTS = 2
CNNS = 2
# Rules of the families of models, from the table.
TRAIN = " ".join(family.training_rule for family in FAMILIES.values())
CLASSIFY = " ".join(f"classify_{name}" for name in FAMILIES)
EXPLAIN = " ".join(f"explain_{name}" for name, family in FAMILIES.items() if family.explains)
NUMBER = {name: len(section.model_names(name)) for name, section in Config(vlm_head={"enabled": True}).families.items()}
# Jobs of a rule in the demo.
JOBS = {
    "simulate_events": SHARDS,
    "smear_and_downsample": SHARDS,
    "crop_displays": SHARDS,
    "list_events": 1,
    "build_base_model": 1,
    "export_cnn": CNNS,
    **{family.training_rule: NUMBER[name] for name, family in FAMILIES.items()},
    **{f"classify_{name}": NUMBER[name] * PARTS for name in FAMILIES},
    **{f"explain_{name}": NUMBER[name] * PARTS for name, family in FAMILIES.items() if family.explains},
    "evaluate": 1,
    "draw_figures": 1,
    "collect_events": 1,
    "write_report": 1,
    "all": 1,
}
# Rules that read what a rule makes.
FEEDS = {
    "simulate_events": "smear_and_downsample list_events",
    "smear_and_downsample": "crop_displays collect_events",
    "crop_displays": f"list_events {TRAIN}",
    "list_events": f"{TRAIN} evaluate collect_events",
    "build_base_model": " ".join(
        f"{family.training_rule} classify_{name} explain_{name}" for name, family in FAMILIES.items() if family.on_base
    ),
    "export_cnn": "classify_cnn",
    **{
        family.training_rule: f"classify_{name} draw_figures write_report"
        + (f" explain_{name}" if family.explains else "")
        + (" export_cnn" if name == "cnn" else "")
        for name, family in FAMILIES.items()
    },
    # Which events are explained depends on the predictions of all models.
    **dict.fromkeys(CLASSIFY.split(), f"{EXPLAIN} evaluate collect_events write_report"),
    **dict.fromkeys(EXPLAIN.split(), "evaluate collect_events"),
    "evaluate": "draw_figures write_report",
    "draw_figures": "write_report",
    "collect_events": "write_report",
    "write_report": "all",
}


def after(rules: str) -> dict[str, int]:
    """Rule -> jobs of what runs when the given rules do: themselves, and all that follows from them."""
    found: set[str] = set()
    queue = [rule for rule in rules.split() if rule in JOBS]
    while queue:
        rule = queue.pop()
        if rule not in found:
            found.add(rule)
            queue += FEEDS.get(rule, "").split()
    return {rule: JOBS[rule] for rule in found}


# What runs when one CNN is trained again; which events are explained depends on the predictions of all models.
OF_ONE_CNN = {rule: JOBS[rule] // CNNS for rule in ("train_cnn", "export_cnn", "classify_cnn")}


PLANNERS: dict[Path, Planner] = {}
"""Copies of the workflow and the planner of each, for as long as `checkout` is there."""


def snakemake(folder: Path, *arguments: str, check: bool = True) -> str:
    return PLANNERS[folder]("--cores", "1", *arguments, check=check)


def planned(folder: Path, *arguments: str) -> dict[str, int]:
    """Rule -> number of jobs that would run."""
    output = snakemake(folder, "--dry-run", *arguments)
    if "Nothing to be done" in output:
        return {}
    rows = output.split("Job stats:")[1].split("\n\n")[0].splitlines()
    jobs = Counter(
        {row.split()[0]: int(row.split()[1]) for row in rows if len(row.split()) == 2 and row.split()[1].isdigit()}
    )
    del jobs["total"]
    return dict(jobs)


def finish(folder: Path, *arguments: str) -> None:
    """Make a run whose outputs are all there (empty: what is in them does not matter to the DAG)."""
    for line in snakemake(folder, "--summary", *arguments).splitlines():
        path = folder / line.split("\t")[0]
        if line.startswith("results/"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    # --touch records them as made by the code and settings of now
    snakemake(folder, "--touch", "--forceall", *arguments)
    assert planned(folder, *arguments) == {}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Iterator[Path]:
    """A copy of the workflow."""
    folder = copy_workflow(tmp_path_factory.mktemp("checkout"))
    with start_planner(folder) as PLANNERS[folder]:
        yield folder
    del PLANNERS[folder]


@pytest.fixture(scope="module")
def finished(checkout) -> Path:
    finish(checkout, *TINY)
    list_stores(checkout)
    return checkout


@contextmanager
def without(folder: Path, name: str) -> Iterator[None]:
    """A file or folder of the finished run is away for a while."""
    path, listed = (folder / "results" / "demo" / each for each in (name, "pixelmaps.json"))
    content, stat = listed.read_bytes(), listed.stat()
    path.rename(path.with_suffix(".away"))
    try:
        yield
    finally:
        path.with_suffix(".away").rename(path)
        # Planning removes the list of stores with one of them.
        listed.write_bytes(content)
        os.utime(listed, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def edit(file: Path) -> bytes:
    """Change a file for the time of a test."""
    original = file.read_bytes()
    file.write_bytes(original + b"\n# changed\n")
    return original


def test_nothing_is_there_so_everything_runs(checkout):
    assert planned(checkout, *TINY, "run=nothing") == JOBS


# Section of the configuration -> a change in it, and the rules that depend on it. The report shows all settings.
LISTED = ("cnn", "bdt", "vlm")
NO_RULES = ("write_report", None)
"""In place of rules: no other depends on it, or the change makes another DAG."""
SECTIONS = {
    "run": ("run=other", " ".join(JOBS)),
    "models_from": ("models_from=demo", None),  # another DAG: see below
    "events_from": ("events_from=demo", None),  # another DAG: see below
    "input": ("input={on_bad_event: skip}", "simulate_events smear_and_downsample list_events"),
    "input.wires": ("input={wires: {pixel_wires: 4}}", None),  # refused: simulated events have no wires
    "input.recombination": ("input={recombination: {model: birks}}", "simulate_events"),
    "input.simulate": ("input={simulate: {seed: 8}}", "simulate_events"),
    "input.simulate.cosmics": ("input={simulate: {cosmics: {rate_hz_m2: 9}}}", "simulate_events"),
    "detector": ("detector={cathodes_mm: [0]}", "simulate_events smear_and_downsample list_events"),
    "display": ("display={pixel_mm: 25}", "smear_and_downsample"),
    "display.diffusion": ("display={diffusion: {scaling: sqrt}}", "smear_and_downsample"),
    "display.readout": ("display={readout: {threshold_mev: 0.1}}", "smear_and_downsample"),
    "display.readout.space_charge": ("display={readout: {space_charge: {map: map.h5}}}", None),  # needs a file: below
    "pixelmap": ("pixelmap={size: 96}", "crop_displays"),
    "dataset": ("dataset={train_events: 20}", "list_events"),
    # The tables of these conditions are there: the classification is current.
    "conditions": ("conditions=[nominal, half_resolution, blank]", "evaluate collect_events"),
    "conditions_in_one_job": ("conditions_in_one_job=false", "write_report"),
    "cnn": ("cnn={width: 0.5}", "train_cnn"),
    "bdt": ("bdt={learning_rate: 0.2}", "train_bdt"),
    "vit.lora": ("vit={lora: {r: 4}}", "train_vit"),
    "vit.recipe": ("vit={recipe: {learning_rate: 0.004}}", "train_vit"),
    "vlm_head.lora": ("vlm_head={lora: {r: 4}}", "train_vlm_head"),
    "vlm_head.recipe": ("vlm_head={recipe: {learning_rate: 0.004}}", "train_vlm_head"),
    "vlm": ("vlm={prompts: resources/prompts_dune_cvn.yaml}", "build_base_model finetune_vlm classify_vlm"),
    "vlm.scratch": ("vlm={scratch: {steps: 10}}", "build_base_model"),
    "vlm.hub": ("vlm={hub: {revision: other}}", "write_report"),  # only for base models of the hub
    "vlm.smollm": ("vlm={smollm: {steps: 10}}", "write_report"),  # only for base: smollm
    "vlm.finetune": ("vlm={finetune: {epochs: 2}}", "finetune_vlm"),
    "vlm.finetune.lora": ("vlm={finetune: {lora: {r: 4}}}", "finetune_vlm"),
    "vlm.classify": ("vlm={classify: {temperature: 1.0}}", "classify_vlm"),
    "vlm.explain": ("vlm={explain: {max_new_tokens: 9}}", "explain_vlm"),
    "report": ("report={explain: 9}", EXPLAIN),
    "systematics": ("systematics={run: demo}", None),  # another DAG: see below
    # Families without an explicit entry.
    **{name: (f"{name}={{seed: 8}}", family.training_rule) for name, family in FAMILIES.items() if name not in LISTED},
}


def sections(model: type[BaseModel], prefix: str = "") -> set[str]:
    """The sections of the configuration; of its top level, single keys too."""
    found = set()
    for name, field in model.model_fields.items():
        nested = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        if nested or not prefix:
            found.add(prefix + name)
        if nested:
            found |= sections(field.annotation, f"{prefix}{name}.")
    return found


def test_no_section_is_forgotten():
    assert SECTIONS.keys() == sections(Config)


@pytest.mark.parametrize("section", [section for section, (_, rules) in SECTIONS.items() if rules not in NO_RULES])
def test_a_changed_setting_reruns_what_depends_on_it(finished, section):
    change, rules = SECTIONS[section]
    assert planned(finished, *TINY, change) == after(f"{rules} write_report")


@pytest.mark.parametrize(
    ("change", "rules"),
    [
        ("cnn={classify_batch_size: 2}", "classify_cnn"),
        ("cnn={classify_backend: torch}", "classify_cnn"),
        ("bdt={classify_batch_size: 2}", "classify_bdt"),
        ("report={browser: 3}", "collect_events"),
    ],
)
def test_how_classification_runs_is_no_reason_to_train_again(finished, change, rules):
    assert planned(finished, *TINY, change) == after(rules)


def test_what_no_job_depends_on_and_how_jobs_run_only_change_the_report(finished):
    """All at once: none of them is a reason to repeat any other job."""
    changes = [change for change, rules in SECTIONS.values() if rules == "write_report"]
    changes += ["cnn={gpus: 1}", "cnn={memory_mb: 9000, workers: 3}", "vit={gradient_checkpointing: true}"]
    changes += ["vlm={finetune: {gpus: 4}}", "vlm={classify: {gpus: 1}}"]
    assert planned(finished, *TINY, *changes) == after("write_report")


def test_a_zoom_trains_models_on_the_base_and_no_others(checkout):
    run = [*TINY, "run=zoomed", "vlm={base: random}"]
    finish(checkout, *run)
    on_base = " ".join(family.training_rule for family in FAMILIES.values() if family.on_base)
    assert planned(checkout, *run, "pixelmap={zoom: 2}") == after(on_base)


def test_systematics_make_only_test_events_and_train_nothing(finished):
    scale = {"name": "scale", "title": "energy scale", "source": "here"}
    scale |= {"plus": {"display": {"readout": {"energy_scale": 1.1}}}}
    scale |= {"minus": {"display": {"readout": {"energy_scale": 0.9}}}}
    birks = {"name": "birks", "title": "Birks", "source": "here", "one_sided": True}
    birks |= {"plus": {"input": {"recombination": {"model": "birks"}}}}
    pions = {"name": "pions", "title": "pions", "source": "here", "plus": 1.2, "minus": 0.8}
    pions |= {"weights": {"where": {"n_pion": {"low": 1}}}}
    # Test events of three of the four shards, in two blocks.
    blocks = {"block00000": ["sim00000", "sim00002"], "block00001": ["sim00003"]}
    shards = {block: {name: f"results/demo/voxels/{name}.h5" for name in names} for block, names in blocks.items()}
    overlay = {"systematics": {"run": "demo", "nuisances": [scale, birks, pions], "shards": shards}}
    (finished / "varied.yaml").write_text(yaml.safe_dump(overlay))
    run = [*TINY, "run=varied", "models_from=demo", "conditions=[nominal]", "report={explain: 0, browser: 0}"]
    run += ["--configfile", "config/config.yaml", "varied.yaml"]
    made = {"smear_and_downsample": 2 * 4, "crop_displays": 2 * 4, "list_events": 1}
    assert planned(finished, *run) == made | {
        "select_events": 2, "simulate_events": 2, "measure_systematics": 1, "all": 1,
        **{rule: JOBS[rule] for rule in CLASSIFY.split()},
    }  # fmt: skip
    assert not [path for path in (finished / "results").iterdir() if path.name == "varied"]


def test_a_changed_recipe_trains_only_its_cnn(finished):
    change = "cnn={recipes: {tuned: {learning_rate: 0.004}}}"
    assert planned(finished, *TINY, change) == after("train_cnn") | OF_ONE_CNN


def test_a_recipe_left_out_or_added_concerns_no_other_cnn(finished):
    # with other models other events are explained
    explain = after(f"{EXPLAIN} evaluate draw_figures collect_events write_report")
    without = explain | {"explain_cnn": PARTS}
    assert planned(finished, *TINY, "cnn={recipes: {published: null}}") == without
    new = {"train_cnn": 1, "export_cnn": 1, "classify_cnn": PARTS, "explain_cnn": 3 * PARTS}
    assert planned(finished, *TINY, "cnn={recipes: {wide: {batch_size: 8}}}") == explain | new


def test_a_further_training_repeats_no_other(finished):
    new = {"train_cnn": CNNS, "export_cnn": CNNS, "classify_cnn": CNNS * PARTS}
    assert planned(finished, *TINY, "cnn={seeds: 2}") == after("evaluate") | new


PACKAGE = Path("workflow/src/nuvlm")


@pytest.mark.parametrize(
    ("module", "function", "rules"),
    [
        ("detector/displays", "smear_and_downsample", "smear_and_downsample"),
        ("detector/crop", "crop_displays", "crop_displays"),
        ("models/cnn/saliency", "hires_cam", "explain_cnn"),
        ("evaluation/metrics", "evaluate", "evaluate"),
        ("models/power", "EnergyMeter", ""),
    ],
)
def test_an_edited_definition_reruns_the_rules_that_use_it(finished, module, function, rules):
    file = (finished / PACKAGE / module).with_suffix(".py")
    original = file.read_text()
    node = next(node for node in ast.parse(original).body if getattr(node, "name", None) == function)
    lines = original.splitlines(keepends=True)
    edited = "".join([*lines[: node.end_lineno], "    edited = True\n", *lines[node.end_lineno :]])
    file.write_text(edited)
    try:
        assert planned(finished, *TINY) == after(rules)
    finally:
        file.write_text(original)


def test_without_explanations_none_are_made(finished):
    rules = after("evaluate collect_events")
    assert planned(finished, *TINY, "report={explain: 0}") == rules


def test_a_comment_or_a_touched_file_reruns_nothing(finished):
    for file in (*(finished / PACKAGE).rglob("*.py"), *(finished / "workflow/scripts").glob("*.py")):
        edit(file)
    assert planned(finished, *TINY) == {}


def test_a_fresh_clone_with_copied_results_reruns_nothing(finished):
    """All that comes with the workflow is newer than the results, with Snakemake's records of them and without."""
    for file in (file for name in ("workflow", "resources", "config") for file in (finished / name).rglob("*")):
        file.touch()
    assert planned(finished, *TINY) == {}
    records = (finished / ".snakemake").rename(finished / "records")
    try:
        assert planned(finished, *TINY) == {}
    finally:
        shutil.rmtree(finished / ".snakemake")
        records.rename(finished / ".snakemake")


@pytest.mark.parametrize(
    ("file", "rules"),
    [
        ("resources/prompts_demo.yaml", "build_base_model finetune_vlm classify_vlm"),  # only the language model
        ("resources/rationales.yaml", "build_base_model finetune_vlm explain_vlm"),
        ("resources/published.yaml", "write_report"),
        ("workflow/src/nuvlm/report/page.css", "write_report"),
    ],
)
def test_an_edited_resource_reruns_what_reads_it(finished, file, rules):
    original = edit(finished / file)
    try:
        assert planned(finished, *TINY) == after(rules)
    finally:
        (finished / file).write_bytes(original)


@pytest.mark.parametrize(
    ("file", "jobs"),
    [
        ("cnn_tuned/model.safetensors", after("train_cnn") | OF_ONE_CNN),
        ("vlm/manifest.json", after("finetune_vlm")),
        ("base/manifest.json", after("build_base_model")),
    ],
)
def test_a_lost_model_comes_back_though_the_report_is_there(finished, file, jobs):
    with without(finished, f"models/{file}"):
        assert planned(finished, *TINY) == jobs


def test_more_events_make_only_new_shards(finished):
    more = planned(finished, "--config", "input={simulate: {events: 60, events_per_shard: 10}}", EVERY)
    new = {"simulate_events": 2, "smear_and_downsample": 2, "crop_displays": 2}
    assert more == after("list_events collect_events") | new


@pytest.mark.parametrize(
    ("deleted", "target", "remade"),
    [
        ("pixelmaps/sim00002.zarr/images/c/0/0/0/0", "pixelmaps", "crop_displays list_events pixelmaps"),
        ("pixelmaps/sim00002.zarr/manifest.json", "pixelmaps", "crop_displays list_events pixelmaps"),
        ("displays/sim00002.zarr/xz/c/0/0/0", "results/demo/displays/sim00002.zarr/xz/c/0/0/0", "smear_and_downsample"),
        ("voxels/sim00002.h5", "results/demo/voxels/sim00002.h5", "simulate_events"),
        ("predictions/vlm/blank/1.parquet", "predictions", "classify_vlm predictions"),
        # deleted intermediate files are not recreated while the report is current
        ("voxels/sim00002.h5", "all", ""),
        ("predictions/vlm/blank/1.parquet", "all", ""),
    ],
)
def test_only_a_deleted_file_is_made_again(finished, deleted, target, remade):
    with without(finished, deleted):
        assert planned(finished, target, *TINY) == {rule: 1 for rule in remade.split()}


def write_native(folder: Path, names: range) -> None:
    folder.mkdir(exist_ok=True)
    for i in names:
        with h5py.File(folder / f"beam{i:03d}.h5", "w") as file:
            file["events"] = np.zeros(1)


def test_a_new_input_file_adds_its_own_shard(checkout):
    write_native(checkout / "few", range(3))
    arguments = ["--config", "run=few", "input={source: voxels, files: ['few/*.h5']}", EVERY]
    finish(checkout, *arguments)
    write_native(checkout / "few", range(3, 4))
    new = {"smear_and_downsample": 1, "crop_displays": 1}
    assert planned(checkout, *arguments) == after("list_events collect_events") | new


@pytest.fixture(scope="module")
def native(checkout) -> list[str]:
    """190 listed shard files."""
    write_native(checkout / "many", range(190))
    return ["--configfile", "config/config.yaml", "config/paper.yaml", "--config", "input={files: ['many/*.h5']}"]


def test_the_published_setting_on_190_shards(checkout, native):
    jobs = planned(checkout, *native)
    assert "simulate_events" not in jobs
    assert "build_base_model" not in jobs
    assert jobs["smear_and_downsample"] == jobs["crop_displays"] == 190
    assert jobs["classify_vlm"] == 4 * 20
    assert jobs["fetch_base_model"] == 1


# Site settings of docs/running.md -> values in the profile, and the resources that Slurm is asked for.
SITES = {
    "gpus: gres": ({"gpus": "gres"}, {"slurm_partition=gpu", "gpu=0", "gres=gpu:4"}),
    "gpu_model: a100": ({"gpu_model": "a100"}, {"slurm_partition=gpu", "gpu=4", "gpu_model=a100"}),
    "gpus: none": ({"gpus": "none"}, {"slurm_partition=cpu", "gpu=0"}),
    "account: neutrino": ({"account": "neutrino"}, {"slurm_partition=gpu", "gpu=4", "slurm_account=neutrino"}),
    "as it is": ({}, {"slurm_partition=gpu", "gpu=4"}),
}


FOUR_GPUS = [*TINY, "run=four", "vlm={finetune: {gpus: 4}}"]


def test_the_last_attempt_fits_an_ordinary_cluster(checkout):
    """24 hours and 256 GB: Slurm refuses what is more, or lets it wait for ever. Jobs that resume ask for the same."""
    arguments = ["--dry-run", "--cores", "64", *FOUR_GPUS, "vlm={finetune: {gpus: 4}, classify: {gpus: 1}}"]
    asked = []
    for attempt in ("1", "3"):
        plan = snakemake(checkout, "all", "rehearse", *arguments, "--attempt", attempt)
        jobs = re.findall(r"(?ms)^(?:local)?rule (\w+):$.*?^    resources: ([^\n]*)$", plan)
        asked.append(
            {rule: [int(re.search(rf"{name}=(\d+)", line)[1]) for name in ("mem_mb", "runtime")]
             for rule, line in jobs if "runtime=" in line}
        )  # fmt: skip
    first, last = asked
    assert {"train_cnn", "finetune_vlm", "rehearse", "classify_vlm", "list_events"} <= last.keys()
    assert all(memory <= 256_000 and minutes <= 1440 for memory, minutes in last.values()), last
    for rule in ("train_cnn", "finetune_vlm"):
        assert first[rule] == last[rule]


@pytest.mark.parametrize("site", SITES)
def test_the_four_gpu_job_asks_for_its_resources(checkout, site):
    values, expected = SITES[site]
    profile = checkout / "profiles" / "slurm" / "config.yaml"
    original = profile.read_text()
    text = original
    for key, value in values.items():
        text, found = re.subn(rf"(?m)^(  {key}: +)\S+", rf"\g<1>{value}", text)
        assert found == 1
    profile.write_text(text)
    try:
        # cores, as a dry-run caps the threads of a job by those of this machine
        arguments = ["--profile", "profiles/slurm", "--cores", "64", "--until", "finetune_vlm", *FOUR_GPUS]
        plan = snakemake(checkout, "--dry-run", *arguments)
    finally:
        profile.write_text(original)
    job = plan.split("rule finetune_vlm:")[1].split("\n\n")[0]
    assert "threads: 32" in job
    asked = set(re.search(r"resources: (.*)", job)[1].split(", "))
    assert expected | {"mem_mb=144000", "runtime=1440", "nodes=1", "slurm_extra=--signal=TERM@300"} <= asked
    names = {pair.split("=")[0] for pair in asked}
    assert ("gres" in names, "gpu_model" in names) == ("gres" in str(values), "gpu_model" in values)


def test_only_training_takes_several_gpus(checkout):
    several = "cnn={processes: 4, gpus: 4, memory_mb: 9000, classify_backend: torch}"
    plan = snakemake(checkout, "--dry-run", "--cores", "64", *TINY, "run=several", several)
    for rule, asked in {
        "train_cnn": {"gpu=4", "mem_mb=41000"},
        "classify_cnn": {"gpu=1"},
        "explain_cnn": {"gpu=1"},
    }.items():
        job = plan.split(f"rule {rule}:")[1].split("\n\n")[0]
        assert f"threads: {32 if rule == 'train_cnn' else 8}\n" in job
        assert asked <= set(re.search(r"resources: (.*)", job)[1].split(", "))


def test_every_rule_with_gpus_goes_to_their_partition(checkout):
    with_gpus = {rule for rule, request in requests(Config(vlm_head={"enabled": True})).items() if request.gpus}
    for site in ("slurm", "workstation"):
        profile = (checkout / f"profiles/{site}/config.yaml").read_text()
        assert set(re.search(r"gpu_rules: \[(.*)\]", profile)[1].split(", ")) == with_gpus | {"rehearse"}


def test_a_workstation_runs_one_job_with_gpus_at_a_time(checkout):
    arguments = ["--profile", "profiles/workstation", "--cores", "64", *TINY, "run=workstation"]
    plan = snakemake(checkout, "--dry-run", *arguments, "cnn={gpus: 1, classify_backend: torch}")
    for rule, one in {"train_cnn": True, "classify_cnn": True, "train_bdt": False, "finetune_vlm": False}.items():
        job = plan.split(f"rule {rule}:")[1].split("\n\n")[0]
        asked = re.search(r"resources: (.*)", job)[1].split(", ")
        assert ("gpu_jobs=1" in asked) == one
    assert "gpu_jobs=1" in (checkout / "profiles/workstation/config.yaml").read_text()


def test_with_a_partition_file_every_job_goes_where_it_fits(checkout):
    """By the executor's own choice, with what the rules ask for."""
    partitions = read_partition_file(checkout / "profiles/slurm/partitions.yaml")
    profile = checkout / "profiles" / "slurm" / "config.yaml"
    original = profile.read_text()
    profile.write_text(original.replace('partitions: ""', "partitions: profiles/slurm/partitions.yaml"))
    try:
        plan = snakemake(checkout, "--dry-run", "--profile", "profiles/slurm", "--cores", "64", *FOUR_GPUS)
    finally:
        profile.write_text(original)
    assert "slurm_partition" not in plan
    chosen = {}
    for block in re.split(r"^(?:local)?rule ", plan, flags=re.M)[1:]:
        asked = dict(pair.split("=", 1) for pair in re.search(r"resources: (.*)", block)[1].split(", "))
        resources = {key: int(value) for key, value in asked.items() if value.isdigit()}
        threads = re.search(r"threads: (\d+)", block)
        job = SimpleNamespace(resources=resources, threads=int(threads[1]) if threads else 1, name="job")
        chosen[block.split(":")[0]] = get_best_partition(partitions, job, logging.getLogger())
    del chosen["all"]
    assert (chosen["finetune_vlm"], chosen["crop_displays"]) == ("gpu", "short")
    assert None not in chosen.values()


def test_random_weights_take_the_place_of_downloaded_ones(checkout):
    plan = snakemake(checkout, "--dry-run", *TINY, "run=random", "vlm={base: random}")
    assert "rule build_random_base:" in plan
    assert "rule build_base_model:" not in plan
    assert "rule fetch_base_model:" not in plan


def test_a_rehearsal_needs_no_events_and_asks_for_the_gpus_of_the_training(checkout):
    gpus = "vlm={base: hub, finetune: {strategy: ddp, processes: 2, gpus: 2, device_batch_size: 2}}"
    plan = snakemake(checkout, "--dry-run", "--cores", "64", "rehearse", *TINY, "run=tried", gpus)
    rules = set(re.findall(r"^(?:local)?rule (\w+):", plan, flags=re.MULTILINE))
    assert rules == {"rehearse"}
    job = plan.split("rule rehearse:")[1].split("\n\n")[0]
    assert "threads: 16\n" in job
    assert "gpu=2" in re.search(r"resources: (.*)", job)[1].split(", ")


# docs/running.md shows these.
PARTIAL = {
    "snakemake --forcerun train_cnn": after("train_cnn"),
    "snakemake --forcerun smear_and_downsample --until list_events": {
        "smear_and_downsample": SHARDS, "crop_displays": SHARDS, "list_events": 1,
    },
    "snakemake --force results/demo/pixelmaps/sim00002.zarr/manifest.json": {"crop_displays": 1},
    "snakemake --forcerun results/demo/voxels/sim00002.h5": after("list_events collect_events")
    | {"simulate_events": 1, "smear_and_downsample": 1, "crop_displays": 1},
    # One job a part classifies under all conditions.
    "snakemake --forcerun results/demo/predictions/vlm/blank/{0,1}.parquet": after("classify_vlm"),
    "snakemake predictions --config run=again models_from=demo": {
        **{rule: JOBS[rule] for rule in ("simulate_events", "smear_and_downsample", "crop_displays", "list_events")},
        **{rule: JOBS[rule] for rule in CLASSIFY.split()},
        "predictions": 1,
    },
}  # fmt: skip


@pytest.mark.parametrize("command", PARTIAL)
def test_partial_reruns_do_what_the_documentation_says(finished, command):
    assert command in (REPOSITORY / "docs" / "running.md").read_text()
    expanded = subprocess.run(["bash", "-c", f"echo {command}"], capture_output=True, text=True, check=True).stdout
    arguments = expanded.split()[1:]
    # --config is given once, and takes all that follows it
    small = TINY[1:] if "--config" in arguments else TINY
    assert planned(finished, *arguments, *small) == PARTIAL[command]


def test_the_events_of_another_run_are_taken_and_not_made(finished):
    # What the last start left says nothing of events that an earlier one made.
    (finished / "results/demo/frozen.json").unlink()
    taken = [*TINY, "run=fewer", "events_from=demo", "dataset={train_events: 20}"]
    made = ("simulate_events", "smear_and_downsample", "crop_displays", "list_events")
    others = {rule: n for rule, n in JOBS.items() if rule not in made}
    assert planned(finished, *taken) == others | {"take_events": 1}
    tree = [*taken, *(f"{name}={{enabled: false}}" for name in FAMILIES if name != "bdt"), "report={browser: 0}"]
    of_bdt = ("train_bdt", "classify_bdt", "evaluate", "draw_figures", "collect_events", "write_report", "all")
    assert planned(finished, *tree) == {rule: JOBS[rule] for rule in of_bdt} | {"take_events": 1}
    assert planned(finished, "pixelmaps", *taken) == {"take_events": 1, "pixelmaps": 1}
    assert "display.pixel_mm is 25.0, there 50.0" in snakemake(finished, *taken, "display={pixel_mm: 25}", check=False)


@pytest.mark.parametrize("changed", ["removed", "more"])
def test_events_of_another_run_need_no_input_files(finished, changed):
    """Neither files that are gone nor those that arrived since concern the run: it reads the other's pixel maps."""
    setting = "input={source: voxels, files: ['own/*.h5']}"
    folder = finished / "results" / "own"
    stores = {"a": folder / "pixelmaps/a.zarr"}
    views = [folder / "displays/a.zarr" / view / "c/0/0/0" for view in ("xz", "yz")]
    maps = [stores["a"] / file for file in ("manifest.json", "images/c/0/0/0/0")]
    for path in (folder / "events.parquet", *maps, *views):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    write_store_list(folder / "pixelmaps.json", stores, settings_of_events(finished, setting))
    if changed == "more":
        (finished / "own").mkdir()
        for name in "ab":
            (finished / "own" / f"{name}.h5").touch()
    jobs = planned(finished, "--config", "run=later", "events_from=own", setting)
    assert jobs["take_events"] == 1
    assert not {*PREPARING} & {*jobs}


def test_own_files_with_the_models_of_another_run_train_nothing(finished):
    (finished / "mine.h5").touch()
    arguments = ["--config", "run=mine", "models_from=demo", "input={source: larndsim, files: [mine.h5]}", EVERY]
    jobs = planned(finished, "predictions", *arguments)
    prepared = {"convert": 1, "smear_and_downsample": 1, "crop_displays": 1, "list_events": 1}
    assert jobs == prepared | {rule: JOBS[rule] for rule in CLASSIFY.split()} | {"predictions": 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "cnn={widht: 1}"], "cnn.widht: unknown key; known here: seeds"),
        (["--config", "report={coverage: 90}"], "report.coverage: Input should be less than 1"),
        (["--config", "display={pixel_mm: 33}"], "not a multiple of the voxel size"),
        (["--config", "input={source: voxels, files: ['none/*.h5']}"], "'none/*.h5' matches no file"),
        (["--config", "run=new", "models_from=never"], "models_from: there is no finished model in results/never"),
    ],
)
def test_a_setting_that_cannot_be_used_fails_before_any_job(checkout, arguments, message):
    output = snakemake(checkout, *arguments, check=False)
    assert message in output
    assert "rule " not in output
    assert "Traceback" not in output


PREPARING = ("convert", "smear_and_downsample", "crop_displays", "list_events")
# systematics*.yaml are tables, from which `make systematics` makes an overlay for a finished run.
CONFIGURATIONS = {path.name for path in (REPOSITORY / "config").glob("*.yaml")}
OVERLAYS = sorted(name for name in CONFIGURATIONS if name != "config.yaml" and not name.startswith("systematics"))


@pytest.mark.parametrize(
    "overlays", [(), *((name,) for name in OVERLAYS), ("paper.yaml", "pixel5mm.yaml")], ids="+".join
)
def test_every_overlay_makes_a_plan(checkout, overlays, monkeypatch):
    files = [f"config/{name}" for name in overlays]
    for file in files:
        for pattern in yaml.safe_load((checkout / file).read_text()).get("input", {}).get("files", []):
            path = checkout / pattern.replace("*", "one")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    jobs = planned(checkout, "--configfile", "config/config.yaml", *files, "--config", "run=overlaid")
    values: dict = {}
    for file in ("config/config.yaml", *files):
        update_config(values, yaml.safe_load((checkout / file).read_text()))
    config = Config(**values)
    monkeypatch.chdir(checkout)
    # nuvlm.workflow.plan counts without Snakemake what Snakemake would run
    assert jobs == jobs_by_rule(config, len(list_shards(config))) | {"all": 1}


@pytest.mark.parametrize("source", [name for name in SOURCES if name != "simulate"])
def test_every_source_makes_a_plan(checkout, source, monkeypatch):
    monkeypatch.chdir(checkout)
    Path("one.file").touch()
    values = {"source": source, "files": ["one.file"]}
    short = ["run=sources", "conditions=[nominal]", "dataset={parts: 1}"]
    jobs = planned(checkout, "pixelmaps", "--config", *short, f"input={{source: {source}, files: [one.file]}}")
    expected = jobs_by_rule(Config(input=values), 1)
    assert jobs == {rule: 1 for rule in expected if rule in PREPARING} | {"pixelmaps": 1}


def test_the_coverage_of_sets_concerns_the_scores(finished):
    assert planned(finished, *TINY, "report={coverage: 0.8}") == after("evaluate")


def test_a_beam_s_spectrum_concerns_the_scores_and_is_checked_before_anything_runs(finished):
    beam = finished / "beam.csv"
    beam.write_text("energy_gev,weight\n0,1\n10,1\n")
    setting = "report={spectrum: beam.csv}"
    assert planned(finished, *TINY, setting) == after("evaluate")
    beam.write_text("energy_gev,weight\n0,1\n10,lots\n")
    assert "beam.csv, line 3: weight is 'lots'" in snakemake(finished, "--dry-run", *TINY, setting, check=False)


def test_a_map_of_space_charge_concerns_the_displays_and_is_checked_before_anything_runs(finished):
    path, setting = finished / "map.h5", "display={readout: {space_charge: {map: map.h5}}}"
    assert "map.h5: no such file. Check the path in display.readout.space_charge.map" in snakemake(
        finished, "--dry-run", *TINY, setting, check=False
    )
    write_map(path, example_map(Detector(), 5, points=3))
    assert planned(finished, *TINY, setting) == after("smear_and_downsample")
    with h5py.File(path, "r+") as file:
        file["displacement"].attrs["unit"] = "cm"
    output = snakemake(finished, "--dry-run", *TINY, setting, check=False)
    assert "map.h5: the attribute 'unit' of /displacement is 'cm', not 'mm'. Multiply its values by 10" in output
    assert "rule " not in output
    # It is not read where it has no effect.
    assert planned(finished, *TINY, "display={readout: {space_charge: {map: map.h5, scale: 0}}}") == after(
        "smear_and_downsample"
    )


def test_a_thousand_shards_are_planned_in_seconds_with_few_input_files_each(checkout):
    """Edges, not jobs, made large DAGs slow: every job that read pixel maps had all stores among its inputs."""
    counts: dict[int, Counter] = {}
    for shards in (100, 1000):
        arguments = ["--config", f"run=edges{shards}", f"input={{simulate: {{events: {shards}, events_per_shard: 1}}}}"]
        plan = snakemake(checkout, "--dry-run", *arguments)
        # 8 s for 1,000; machines differ
        assert PLANNERS[checkout].seconds < 40
        jobs = re.findall(r"(?m)^(?:local)?rule (\w+):\n    input: (.+)$", plan)
        counts[shards] = Counter()
        for rule, files in jobs:
            counts[shards][rule] += len(files.split(", "))
    growth = {rule: n - counts[100][rule] for rule, n in counts[1000].items() if n != counts[100][rule]}
    each = {"smear_and_downsample": 1, "crop_displays": 3, "list_events": 3, "collect_events": 2}
    assert growth == {rule: 900 * n for rule, n in each.items()}
    assert len(jobs) > 2000, "of rules with input files"


def settings_of_events(folder: Path, setting: str) -> dict[str, object]:
    """What events are made with in a run of the default configuration with another `input`."""
    values = yaml.safe_load((folder / "config/config.yaml").read_text())
    return making_events(parse_config(merge(values, {"input": yaml.safe_load(setting.partition("=")[2])})))


def list_stores(folder: Path) -> None:
    """Replace the empty list of stores by a real one, as of the time of the empty one."""
    results = folder / "results" / "demo"
    stat = (results / "pixelmaps.json").stat()
    stores = {f"sim{i:05d}": results / f"pixelmaps/sim{i:05d}.zarr" for i in range(SHARDS)}
    write_store_list(results / "pixelmaps.json", stores, settings_of_events(folder, TINY[1]))
    os.utime(results / "pixelmaps.json", ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize("deleted", ["manifest.json", "images/c/0/0/0/0", ""])
def test_a_deleted_store_is_made_again_before_a_job_that_reads_it(finished, deleted):
    """Though such a job has only the list of stores among its inputs."""
    with without(finished, f"pixelmaps/sim00002.zarr/{deleted}"):
        assert planned(finished, *TINY) == {}
        again = planned(finished, *TINY, "bdt={classify_batch_size: 2}")
        assert again == after("list_events collect_events") | {"crop_displays": 1}


def test_a_store_that_is_made_again_concerns_its_readers_only_if_it_differs(finished):
    store = finished / "results/demo/pixelmaps/sim00002.zarr"
    for file in (store / "manifest.json", store / "images/c/0/0/0/0"):
        file.touch()
    assert planned(finished, *TINY) == {}
    original = edit(store / "manifest.json")
    try:
        assert planned(finished, *TINY) == after("list_events collect_events")
    finally:
        (store / "manifest.json").write_bytes(original)
