"""The bundle of a finished run: rebuilt elsewhere, and its parts against the report."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hepdata_validator.full_submission_validator import FullSubmissionValidator

from nuvlm.base.files import read_json, sha256
from nuvlm.models.table import title
from nuvlm.report.wording import number
from nuvlm.workflow.bundle import main
from nuvlm.workflow.config import Config
from paths import REPOSITORY

pytestmark = pytest.mark.workflow

# Refuses to open what a fresh machine does not have.
ELSEWHERE = """
import os, sys
absent = tuple(sys.argv[1:])
def refuse(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and os.path.abspath(arguments[0]).startswith(absent):
        raise RuntimeError(f"opens {arguments[0]}")
sys.addaudithook(refuse)
from nuvlm.report.rebuild import main
sys.exit(main([]))
"""


@pytest.fixture(scope="module")
def make(tiny_run: Path) -> Callable[..., int]:
    """The command, in the folder of the run."""

    def run(*arguments: str) -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tiny_run)
            return main(list(arguments))

    return run


@pytest.fixture(scope="module")
def bundle(make: Callable[..., int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published") / "bundle"
    assert make("results/tiny", "--out", str(folder), "--author", "A. Physicist") == 0
    return folder


@pytest.fixture(scope="module")
def report(bundle: Path) -> dict[str, Any]:
    return read_json(bundle / "results/tiny/report/report.json")


@pytest.fixture(scope="module")
def entities(bundle: Path) -> dict[str, dict[str, Any]]:
    return {entity["@id"]: entity for entity in read_json(bundle / "ro-crate-metadata.json")["@graph"]}


def rebuild(bundle: Path, *absent: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"PYTHONPATH": "code/workflow/src", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", ELSEWHERE, *map(str, absent)]
    return subprocess.run(command, cwd=bundle, capture_output=True, text=True, env=environment)


def test_a_fresh_machine_rebuilds_the_report_bit_by_bit(bundle: Path, tiny_run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle, tmp_path / "bundle")
    done = rebuild(copy, tiny_run, bundle, REPOSITORY / "workflow", REPOSITORY / "resources")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the same, bit by bit" in done.stdout
    # It does not repeat what the bundle says.
    predictions = [copy / f"results/tiny/predictions/{model}/nominal/0.parquet" for model in ("bdt", "vlm")]
    shutil.copy(*predictions)
    done = rebuild(copy)
    assert done.returncode == 1
    assert "numbers differ, first headline" in done.stderr or "numbers differ, first scores" in done.stderr
    predictions[1].unlink()
    done = rebuild(copy)
    assert done.returncode == 1
    assert "vlm/nominal/0.parquet" in done.stderr


def test_every_file_is_described_and_every_reference_leads_somewhere(bundle: Path, entities: dict[str, Any]) -> None:
    present = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    parts = {part["@id"] for part in entities["./"]["hasPart"]}
    assert parts == present - {"ro-crate-metadata.json"}
    for name in parts:
        assert entities[name]["sha256"] == sha256(bundle / name)
        assert entities[name]["contentSize"] == str((bundle / name).stat().st_size)
    for entity in entities.values():
        for key, value in entity.items():
            for reference in value if isinstance(value, list) else [value]:
                if isinstance(reference, dict) and not reference["@id"].startswith("http"):
                    assert reference["@id"] in entities, (entity["@id"], key)
    assert entities["#author"] == {"@id": "#author", "@type": "Person", "name": "A. Physicist"}


def test_every_job_of_the_run_is_there_with_what_it_made_from_what(tiny_run: Path, entities: dict[str, Any]) -> None:
    logs = {path.relative_to(tiny_run).as_posix() for path in (tiny_run / "results/tiny/logs").rglob("*.log")}
    jobs = [entity for name, entity in entities.items() if name.startswith("#job-")]
    # The export to ONNX is an input of classification only if that is asked for.
    assert {job["description"].partition("log: ")[2] for job in jobs} == logs
    started = {
        start["object"]["@id"]: start["instrument"]["@id"]
        for start in entities.values()
        if "ControlAction" in start["@type"]
    }
    assert len(started) == len(jobs)
    for job in jobs:
        assert job["startTime"] <= job["endTime"]
        assert entities[started[job["@id"]]]["workExample"] == job["instrument"]
    # Back from the report to the simulation, through files that are not in the bundle.
    made_by = {}
    for job in jobs:
        results = job["result"] if isinstance(job["result"], list) else [job["result"]]
        made_by.update({result["@id"]: job for result in results})
    waiting, rules = ["results/tiny/report/report.json"], set()
    while waiting:
        if (job := made_by.get(waiting.pop())) and job["@id"] not in rules:
            rules.add(job["@id"])
            inputs = job.get("object", [])
            waiting += [item["@id"] for item in (inputs if isinstance(inputs, list) else [inputs])]
    names = {entities[name]["instrument"]["@id"] for name in rules}
    assert {"#tool-simulate_events", "#tool-smear_and_downsample", "#tool-train_bdt", "#tool-finetune_vlm"} <= names
    assert "#results/tiny/voxels/sim00001.h5" in made_by
    assert "#results/tiny/displays/sim00000.zarr" in made_by


def test_cards_hold_the_numbers_of_the_report(bundle: Path, report: dict[str, Any]) -> None:
    assert {path.stem for path in (bundle / "cards").iterdir()} == {*report["scores"], "data"}
    for model, scores in report["scores"].items():
        _, heading, text = (bundle / "cards" / f"{model}.md").read_text().split("---\n", 2)
        metrics = yaml.safe_load(heading)["model-index"][0]["results"][0]["metrics"]
        found = {metric["type"]: metric["value"] for metric in metrics}
        assert found["accuracy"] == round(scores["nominal"]["accuracy"], 4)
        assert f"# {title(model)}, run tiny" in text
        for score in scores.values():
            assert f"| {number(score['auc'])} [" in text
        assert yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0])
    card = (bundle / "cards/data.md").read_text()
    test = report["events"]["test"]
    assert f"| test | {test['nue_cc']} | {test['numu_cc']} | {test['nc']} |" in card
    assert "90 events simulated with GEANT4" in card


def test_tables_for_hepdata_are_valid_and_those_of_the_report(
    bundle: Path, report: dict[str, Any], tmp_path: Path
) -> None:
    validator = FullSubmissionValidator(autoload_remote_schemas=False)
    assert validator.validate(directory=str(bundle / "hepdata")), validator.get_messages()
    _, *tables = yaml.safe_load_all((bundle / "hepdata/submission.yaml").read_text())
    files = {table["name"]: bundle / "hepdata" / table["data_file"] for table in tables}
    content = yaml.safe_load(files["Scores"].read_text())
    accuracy = next(column for column in content["dependent_variables"] if column["header"]["name"] == "Accuracy")
    expected = [score for of_model in report["scores"].values() for score in of_model.values()]
    assert [cell["value"] for cell in accuracy["values"]] == [score["accuracy"] for score in expected]
    for cell, score in zip(accuracy["values"], expected, strict=True):
        low, high = score["accuracy_interval"]
        if low < high:
            errors = cell["errors"][0]["asymerror"]
            assert [cell["value"] + errors["minus"], cell["value"] + errors["plus"]] == pytest.approx([low, high])
    energy = yaml.safe_load(files["Neutrino energy: BDT"].read_text())
    edges = report["scores"]["bdt"]["nominal"]["by_class"]["nc"]["dependence"]["energy"]["edges"]
    assert energy["independent_variables"][0]["values"][0] == {"low": edges[0], "high": edges[1]}
    # What the validator is asked is not nothing.
    broken = shutil.copytree(bundle / "hepdata", tmp_path / "hepdata")
    (broken / "table_001.yaml").write_text("independent_variables: []\n")
    assert not FullSubmissionValidator(autoload_remote_schemas=False).validate(directory=str(broken))


def test_configuration_licence_and_citation_are_in_it(bundle: Path, report: dict[str, Any]) -> None:
    assert yaml.safe_load((bundle / "config.yaml").read_text()) == report["provenance"]["config"]
    for name in ("LICENSE", "CITATION.cff", "requirements.lock", "docs/formats.md"):
        assert (bundle / "code" / name).read_bytes() == (REPOSITORY / name).read_bytes()
    assert "torch" not in (bundle / "requirements.txt").read_text()
    assert not list(bundle.rglob("*.h5"))
    assert not list(bundle.rglob("__pycache__"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["results/none"], r"results/none: there is no such run. Finished runs: .*tiny"),
        (["results/unfinished"], "results/unfinished: the run is not finished"),
        (["elsewhere/tiny"], "elsewhere/tiny: not results/<run>"),
        (["results"], "results: not results/<run>"),
        (["results/tiny", "--license", "my own licence"], "'my own licence' is not an SPDX identifier"),
        (["results/tiny", "--out", "config"], "config: is in the way, and not a bundle"),
        (["results/yours"], "The events are from files of yours: .* LICENSE=CC-BY-4.0"),
        (["results/copied"], "has no record of results/copied/report/report.json"),
        (
            ["results/changed"],
            "results/changed: a run with counterfactual events.*Name the run of its models, 'tiny'",
        ),
        (["results/older"], "results/older/report/report.json: written by another version"),
    ],
)
def test_what_cannot_be_published_is_refused_by_name(
    make: Callable[..., int], tiny_run: Path, report: dict[str, Any], arguments: list[str], words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    config = report["provenance"]["config"]
    simulated = config["input"] | {"simulate": config["input"]["simulate"] | {"counterfactuals": True}}
    yours = Config.model_validate({"run": "yours", "input": {"source": "larndsim", "files": ["a.h5"]}})
    configs = {
        "yours": yours.model_dump(mode="json"),
        "copied": config | {"run": "copied"},
        "older": config | {"tree": {}},
        "changed": config | {"run": "changed", "models_from": "tiny", "input": simulated},
    }
    (tiny_run / "results/unfinished").mkdir(exist_ok=True)
    for run, other in configs.items():
        path = tiny_run / "results" / run / "report" / "report.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report | {"provenance": report["provenance"] | {"config": other}}))
    try:
        assert make(*arguments) == 1
    finally:
        for run in ("unfinished", *configs):
            shutil.rmtree(tiny_run / "results" / run)
    assert re.search(words, capsys.readouterr().err)
