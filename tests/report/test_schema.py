"""report.json is what its schema says, and the schema is as strict as it looks."""

import copy
import json
from pathlib import Path

import jsonschema
import pytest
from pydantic import ValidationError

from explanations_on_disk import write_explanations
from nuvlm.report.cards import data_card, model_card
from nuvlm.report.schema import Report, check_report, json_schema
from paths import REPOSITORY
from report_on_disk import make_report
from run_on_disk import write_run

pytestmark = pytest.mark.slow

SCHEMA = json.loads(json_schema())


def write(folder: Path, labelled: float) -> dict:
    """A report with rationales and saliency, in the way of the workflow."""
    run = write_run(folder, n=60, labelled=labelled, models={"cnn_tuned": 1.6, "bdt": 1.0, "vlm": 0.9})
    _, numbers = make_report(run, folder, count=4, rationales=write_explanations(run, folder))
    return numbers


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return write(tmp_path_factory.mktemp("run"), labelled=0.9)


def test_the_schema_in_resources_is_that_of_the_code() -> None:
    assert (REPOSITORY / "resources" / "report.schema.json").read_text() == json_schema(), "run 'make schema'"
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_a_report_is_valid(report: dict) -> None:
    jsonschema.validate(report, SCHEMA)
    assert report["explanations"]["vlm"]["claims"]
    assert report["saliency"]["cnn_tuned"]["n"]
    assert {event["drawn"] for event in report["gallery"]} == {"display"}


def test_a_report_without_truth_is_valid(tmp_path: Path) -> None:
    report = write(tmp_path, labelled=0)
    jsonschema.validate(report, SCHEMA)
    # Its cards can be written, too.
    assert "so there are no scores" in model_card(report, "vlm", "MIT", "demo")
    assert "| none | 0 |" in data_card(report, "MIT")


def test_every_key_is_in_the_documentation() -> None:
    text = (REPOSITORY / "docs" / "report.md").read_text()
    assert not [key for key in Report.model_fields if f"`{key}" not in text]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("scores", "vlm", "nominal", "acuracy"), 0.5),
        (("scores", "vlm", "nominal", "accuracy"), 1.5),
        (("scores", "vlm", "nominal", "accuracy"), "0.5"),
        (("scores", "vlm", "nominal", "accuracy_interval"), [0.1]),
        (("scores", "vlm", "nominal", "n"), 3.5),
        (("comparisons", 0, "p_value"), -0.1),
        (("gallery", 0, "drawn"), "photograph"),
        (("cost", "bdt", "energy_measured"), None),
        (("version",), 1),
    ],
)
def test_what_is_wrong_is_refused_by_both(report: dict, path: tuple, value: object) -> None:
    wrong = copy.deepcopy(report)
    place = wrong
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ValidationError, match=r"\.".join(map(str, path))):
        check_report(wrong)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, SCHEMA)


def test_a_missing_key_is_refused(report: dict) -> None:
    wrong = copy.deepcopy(report)
    del wrong["provenance"]["commit"]
    with pytest.raises(ValidationError, match=r"provenance\.commit"):
        check_report(wrong)
