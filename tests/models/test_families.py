"""Every family in the table of models: its jobs can be looked up, its documentation and its settings are there."""

from pathlib import Path
from pkgutil import resolve_name

import pytest
import yaml

from nuvlm.models.cnn import training as cnn_training
from nuvlm.models.conditions import PROMPT_CONDITIONS
from nuvlm.models.head.jobs import of_training
from nuvlm.models.jobs import TrainingJob
from nuvlm.models.table import FAMILIES, conditions_of, family_name, title
from nuvlm.workflow.config import Config
from paths import REPOSITORY

VALUES = yaml.safe_load((REPOSITORY / "config" / "config.yaml").read_text())
CONFIG = Config(**(VALUES | {"vlm_head": VALUES["vlm_head"] | {"enabled": True}}))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_job_of_a_family_is_a_function_with_an_environment(name):
    section = CONFIG.families[name]
    requests = [section.training(model) for model in section.model_names(name)]
    requests += [section.classification(), *([section.explanation()] if FAMILIES[name].explains else [])]
    for request in requests:
        assert callable(resolve_name(request.run))
        assert (REPOSITORY / "workflow" / "envs" / f"{request.environment}.yaml").is_file()
    assert (section.explanation() is None) == (FAMILIES[name].explains is None)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_models_of_a_family_are_named_after_it(name):
    for model in CONFIG.families[name].model_names(name):
        assert family_name(model) == name
        assert title(model).startswith(FAMILIES[name].title)


@pytest.mark.parametrize("gpus", [0, 1, 4])
def test_the_whole_base_model_has_room_and_time_with_a_head_too(gpus):
    of_vlm = {"finetune": {"gpus": gpus, "processes": gpus or 1}, "classify": {"gpus": min(gpus, 1)}}
    head = {"enabled": True, "gpus": gpus, "processes": gpus or 1}
    config = Config(input={"source": "voxels", "files": ["a.h5"]}, vlm=of_vlm, vlm_head=head)
    for job in ("training", "classification", "explanation"):
        model = [["vlm"], ["vlm_head"]] if job == "training" else [[], []]
        vlm, vlm_head = getattr(config.vlm, job)(*model[0]), getattr(config.vlm_head, job)(*model[1])
        images = config.vlm_head.memory_mb if job == "training" else 0
        assert (vlm_head.memory_mb, vlm_head.minutes) == (vlm.memory_mb + images, vlm.minutes)
        assert (vlm_head.gpus, vlm_head.resumes) == (vlm.gpus, vlm.resumes)


@pytest.mark.parametrize("name", FAMILIES)
def test_trainings_differ_in_the_seed_only(name):
    section = CONFIG.families[name]
    model = section.model_names(name)[0]
    several = section.model_copy(update={"seeds": 3})
    assert several.trainings_of(model) == (model, f"{model}.2", f"{model}.3")
    requests = [several.training(training) for training in several.trainings_of(model)]
    assert requests[0] == section.training(model), "the first is that of one seed"
    assert [request.settings["seed"] for request in requests] == [7, 8, 9]
    assert len({str(request.settings | {"seed": 0}) for request in requests}) == 1
    assert section.model_copy(update={"seeds": (7, 70)}).training(f"{model}.2").settings["seed"] == 70
    assert family_name(f"{model}.2") == name
    assert title(f"{model}.2") == f"{title(model)}, training 2"


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_documented(name):
    assert f"| `{name}" in (REPOSITORY / "README.md").read_text()


@pytest.mark.parametrize("name", FAMILIES)
def test_conditions_of_the_prompt_are_for_prompted_models(name):
    assert conditions_of(name, ("nominal", *PROMPT_CONDITIONS)) == [
        "nominal", *(PROMPT_CONDITIONS if FAMILIES[name].prompted else ()),
    ]  # fmt: skip


def test_a_family_whose_name_begins_with_another_one_is_not_a_model_of_it():
    assert [family_name(name) for name in ("vlm", "vlm_head", "vlm_head.2", "vlm_other")] == [
        "vlm", "vlm_head", "vlm_head", "vlm",
    ]  # fmt: skip
    assert title("vlm_head.2") == "VLM head, training 2"
    assert title("vlm_other") == "VLM other"


def test_a_model_of_no_family_has_a_title_and_no_prompt():
    assert title("gnn_small") == "GNN small"
    assert conditions_of("gnn_small", ("nominal", *PROMPT_CONDITIONS)) == ["nominal"]


def test_trainings_that_run_at_once_have_checkpoints_of_their_own(monkeypatch):
    """With one file, the later one was refused as another training's, or two jobs overwrote each other's."""
    monkeypatch.setattr(cnn_training, "train_cnn", lambda *paths, **_: written.append(paths[3]))
    written: list[Path] = []
    trainings = CONFIG.cnn.model_copy(update={"seeds": 3}).trainings_of("cnn_tuned")
    for name in trainings:
        job = TrainingJob(
            model=name, events=Path("e"), stores={}, inputs={"base": Path("b/config.json")}, threads=1, zoom=1,
            settings=CONFIG.cnn.training("cnn_tuned").settings, out=Path("models", name),
            checkpoints=Path("results/v1.2/checkpoints", name), tensorboard=Path("t"), log=Path("log"),
        )  # fmt: skip
        cnn_training.run(job)
        assert of_training(job)["checkpoint"] == written[-1]
    assert written == [Path("results/v1.2/checkpoints", f"{name}.pt") for name in trainings]
    assert len({*written}) == 3
