"""Which jobs run after which change. Dry-runs and touches of the real workflow: no job is executed."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest

from nuvlm.config import Config
from nuvlm.layout import list_shards
from paths import copy_workflow

pytestmark = pytest.mark.workflow
SHARDS = len(list_shards(Config(input={"simulate": {"events": 40, "events_per_shard": 10}})))
TINY = ["--config", "input={simulate: {events: 40, events_per_shard: 10}}"]
PARTS = 2
# The CNN is told nothing of the classes, so their order is no condition for it.
CLASSIFY_CNN, CLASSIFY_VLM = {"classify_cnn": PARTS * 3}, {"classify_vlm": PARTS * 4}
CLASSIFY = CLASSIFY_CNN | CLASSIFY_VLM
# Which events are explained depends on the predictions of all models.
EXPLAIN = {"explain_vlm": PARTS, "explain_cnn": PARTS}
REPORT = EXPLAIN | {"evaluate": 1, "draw_figures": 1, "draw_gallery": 1, "write_report": 1, "all": 1}
MODELS = {"train_cnn": 1, "finetune_vlm": 1} | CLASSIFY | REPORT
IMAGES = {"smear_and_downsample": SHARDS, "crop_displays": SHARDS, "list_events": 1}
EVERYTHING = {"simulate_events": SHARDS, "build_base_model": 1} | IMAGES | MODELS


def snakemake(folder: Path, *arguments: str, check: bool = True) -> str:
    command = [sys.executable, "-m", "snakemake", "--cores", "1", *arguments]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    output = result.stdout + result.stderr
    assert not check or result.returncode == 0, output
    return output


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


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of the workflow."""
    return copy_workflow(tmp_path_factory.mktemp("checkout"))


@pytest.fixture(scope="module")
def finished(checkout) -> Path:
    """A run whose outputs are all there (empty: what is in them does not matter to the DAG)."""
    listing = snakemake(checkout, "all", "explanations", "--summary", *TINY)
    for line in listing.splitlines():
        path = line.split("\t")[0]
        if path.startswith("results/"):
            (checkout / path).parent.mkdir(parents=True, exist_ok=True)
            (checkout / path).touch()
    # --touch records them as made by the code and settings of now
    snakemake(checkout, "all", "explanations", "--touch", "--forceall", *TINY)
    assert planned(checkout, *TINY) == {}
    return checkout


def edit(file: Path):
    """Change a file for the time of a test."""
    original = file.read_bytes()
    comment = b"\n{# changed #}\n" if file.suffix == ".jinja" else b"\n# changed\n"
    file.write_bytes(original + comment)
    return original


def test_nothing_is_there_so_everything_runs(checkout):
    assert planned(checkout, *TINY) == EVERYTHING


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("pixelmap={size: 96}", {"crop_displays": SHARDS, "list_events": 1} | MODELS),
        ("display={diffusion: {scaling: sqrt}}", IMAGES | MODELS),
        ("dataset={seed: 8}", {"list_events": 1} | MODELS),
        ("cnn={learning_rate: 0.002}", {"train_cnn": 1} | CLASSIFY_CNN | REPORT),
        ("cnn={classify_batch_size: 2}", CLASSIFY_CNN | REPORT),
        ("vlm={finetune: {lora: {r: 4}}}", {"finetune_vlm": 1} | CLASSIFY_VLM | REPORT),
        ("vlm={classify: {temperature: 1.0}}", CLASSIFY_VLM | REPORT),
        ("vlm={scratch: {steps: 10}}", {"build_base_model": 1, "finetune_vlm": 1} | CLASSIFY_VLM | REPORT),
        ("report={gallery: 3}", {"draw_gallery": 1, "write_report": 1, "all": 1}),
        ("report={explain: 8}", REPORT),
        ("report={explain: 0}", {name: n for name, n in REPORT.items() if name not in EXPLAIN}),
        ("cnn={gpus: 1}", {"write_report": 1, "all": 1}),
    ],
)
def test_a_changed_setting_reruns_what_depends_on_it(finished, change, expected):
    assert planned(finished, *TINY, change) == expected


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("simulation/final_states.py", EVERYTHING | {"build_base_model": 0}),
        ("displays.py", IMAGES | MODELS),
        ("pixelmaps.py", {"crop_displays": SHARDS, "list_events": 1} | MODELS),
        ("events.py", {"list_events": 1} | MODELS),
        ("topology.py", {"list_events": 1} | MODELS),
        ("conditions.py", CLASSIFY | REPORT),
        ("cnn/network.py", {"train_cnn": 1} | CLASSIFY_CNN | REPORT),
        ("cnn/classify.py", CLASSIFY_CNN | REPORT),
        ("cnn/attribution.py", {name: n for name, n in REPORT.items() if name != "explain_vlm"}),
        ("vlm/shapes.py", {"build_base_model": 1, "finetune_vlm": 1} | CLASSIFY_VLM | REPORT),
        ("vlm/training.py", {"finetune_vlm": 1} | CLASSIFY_VLM | REPORT),
        ("occlusion.py", {"explain_vlm": PARTS} | {name: n for name, n in REPORT.items() if name not in EXPLAIN}),
        ("evaluation/faithfulness.py", {name: n for name, n in REPORT.items() if name not in EXPLAIN}),
        ("vlm/mllama.py", CLASSIFY_VLM | REPORT),
        ("evaluation/metrics.py", {"evaluate": 1, "draw_figures": 1, "write_report": 1, "all": 1}),
        ("report/page.py", {"write_report": 1, "all": 1}),
        ("report/page.css", {"write_report": 1, "all": 1}),
        ("logs.py", {}),
        ("config.py", {}),
        ("layout.py", {}),
    ],
)
def test_an_edited_module_reruns_what_depends_on_it(finished, module, expected):
    file = finished / "workflow" / "src" / "nuvlm" / module
    original = edit(file)
    try:
        assert planned(finished, *TINY) == {rule: n for rule, n in expected.items() if n}
    finally:
        file.write_bytes(original)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("vlm={explain: {max_new_tokens: 9}}", {}),
        ("report={explain: 9}", {}),
        ("vlm={classify: {merge_adapter: false}}", {"classify_vlm": PARTS}),
        (
            "vlm={finetune: {rationales: none}}",
            {"finetune_vlm": 1, "classify_vlm": PARTS},
        ),
    ],
)
def test_a_changed_setting_explains_anew(finished, change, expected):
    explained = {"explain_vlm": PARTS, "explanations": 1}
    assert planned(finished, "explanations", *TINY, change) == expected | explained


@pytest.mark.parametrize("module", ["vlm/explain.py", "selection.py", "occlusion.py"])
def test_modules_of_explaining_alone_rerun_nothing_else(finished, module):
    file = finished / "workflow" / "src" / "nuvlm" / module
    original = edit(file)
    try:
        assert planned(finished, "explanations", *TINY) == {"explain_vlm": PARTS, "explanations": 1}
    finally:
        file.write_bytes(original)


def test_explaining_the_cnn_follows_the_classification_of_its_part(finished):
    maps = "results/demo/explanations/cnn/1.zarr/zarr.json"
    assert planned(finished, maps, *TINY) == {}
    expected = {"train_cnn": 1, "classify_cnn": 1, "explain_cnn": 1}
    assert planned(finished, maps, *TINY, "cnn={learning_rate: 0.002}") == expected


def test_a_module_edited_and_reverted_or_touched_reruns_nothing(finished):
    file = finished / "workflow" / "src" / "nuvlm" / "displays.py"
    file.write_bytes(edit(file))
    assert planned(finished, *TINY) == {}


@pytest.mark.parametrize(
    ("resource", "expected"),
    [
        ("prompts.yaml", {"build_base_model": 1, "finetune_vlm": 1} | CLASSIFY_VLM | REPORT),
        ("rationales.yaml", {"build_base_model": 1, "finetune_vlm": 1} | CLASSIFY_VLM | REPORT),
        ("published.yaml", {"write_report": 1, "all": 1}),
    ],
)
def test_an_edited_resource_reruns_what_reads_it(finished, resource, expected):
    file = finished / "resources" / resource
    original = edit(file)
    try:
        assert planned(finished, *TINY) == expected
    finally:
        file.write_bytes(original)


def test_more_events_make_new_shards_alone(finished):
    more = planned(finished, "--config", "input={simulate: {events: 60, events_per_shard: 10}}")
    assert (
        more
        == EVERYTHING
        | {
            "simulate_events": 2,
            "smear_and_downsample": 2,
            "crop_displays": 2,
        }
        - {"build_base_model": 1}.keys()
        if False
        else more
    )
    assert (more["simulate_events"], more["smear_and_downsample"], more["crop_displays"]) == (2, 2, 2)
    assert "build_base_model" not in more


@pytest.mark.parametrize("file", ["images/c/0/0/0/0", "images/zarr.json", "manifest.json"])
def test_a_deleted_file_of_a_store_is_made_again_alone(finished, file):
    path = finished / "results/demo/pixelmaps/sim00002.zarr" / file
    path.rename(path.with_suffix(".away"))
    try:
        assert planned(finished, "pixelmaps", *TINY, "--until", "crop_displays") == {"crop_displays": 1}
    finally:
        path.with_suffix(".away").rename(path)


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("cnn/model.safetensors", {"train_cnn": 1} | CLASSIFY_CNN | REPORT),
        ("vlm/manifest.json", {"finetune_vlm": 1} | CLASSIFY_VLM | REPORT),
        ("base/manifest.json", {"build_base_model": 1, "finetune_vlm": 1} | CLASSIFY_VLM | REPORT),
    ],
)
def test_a_lost_model_comes_back_though_the_report_is_there(finished, file, expected):
    path = finished / "results/demo/models" / file
    path.rename(path.with_suffix(".away"))
    try:
        assert planned(finished, *TINY) == expected
    finally:
        path.with_suffix(".away").rename(path)


@pytest.fixture
def native(checkout) -> list[str]:
    """190 listed shard files."""
    (checkout / "data").mkdir(exist_ok=True)
    for i in range(190):
        with h5py.File(checkout / "data" / f"beam{i:03d}.h5", "w") as file:
            file["events"] = np.zeros(1)
    return ["--configfile", "config/config.yaml", "config/paper.yaml", "--config", "input={files: ['data/*.h5']}"]


def test_the_published_setting_on_190_shards(checkout, native):
    jobs = planned(checkout, *native)
    assert "simulate_events" not in jobs
    assert "build_base_model" not in jobs
    assert jobs["smear_and_downsample"] == jobs["crop_displays"] == 190
    assert jobs["classify_vlm"] == 20 * 4
    assert jobs["fetch_base_model"] == 1


def test_the_four_gpu_job_asks_for_its_resources(checkout, native):
    profile = ["--profile", "profiles/slurm", "--cores", "64"]
    plan = snakemake(checkout, "--dry-run", *profile, *native, "--until", "finetune_vlm")
    job = plan.split("rule finetune_vlm:")[1].split("\n\n")[0]
    for part in (
        "threads: 32",
        "gpu=4",
        "mem_mb=144000",
        "runtime=1440",
        "nodes=1",
        "slurm_partition=gpu",
        "--signal=TERM@300",
    ):
        assert part in job, job


def test_own_files_with_the_models_of_another_run_train_nothing(finished):
    (finished / "mine.h5").touch()
    arguments = ["--config", "run=mine", "models_from=demo", "input={source: larndsim, files: [mine.h5]}"]
    jobs = planned(finished, "predictions", *arguments)
    assert (
        jobs
        == {"convert_larndsim": 1, "smear_and_downsample": 1, "crop_displays": 1, "list_events": 1, "predictions": 1}
        | CLASSIFY
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "cnn={widht: 1}"], "cnn.widht: unknown key; known here: width"),
        (["--config", "display={pixel_mm: 33}"], "no multiple of the voxel size"),
        (["--config", "input={source: voxels, files: ['none/*.h5']}"], "'none/*.h5' matches no file"),
        (["--config", "run=new", "models_from=never"], "models_from: there is no finished model in results/never"),
    ],
)
def test_a_setting_that_cannot_be_used_fails_before_any_job(checkout, arguments, message):
    output = snakemake(checkout, *arguments, check=False)
    assert message in output
    assert "rule " not in output
    assert "Traceback" not in output


def test_overlays_and_lint(checkout, native):
    assert planned(checkout, *native[:3], "config/pixel5mm.yaml", *native[3:])["crop_displays"] == 190
    assert "good condition" in snakemake(checkout, "--lint")
