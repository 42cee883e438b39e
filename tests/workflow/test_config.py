"""The configuration: strict, complete, and in step with its schema."""

import json
import re
import subprocess
import sys
from datetime import date

import jsonschema
import pytest
import yaml

from nuvlm.base.errors import InputError
from nuvlm.models.table import FAMILIES
from nuvlm.workflow.config import RENAMED, Config, json_schema, parse_config
from paths import REPOSITORY

CONFIG = REPOSITORY / "config"


def load(name: str) -> dict:
    return yaml.safe_load((CONFIG / name).read_text())


def merge(base: dict, overlay: dict) -> dict:
    both = base.keys() & overlay.keys()
    merged = {key: merge(base[key], overlay[key]) if isinstance(base[key], dict) else overlay[key] for key in both}
    return base | overlay | merged


def keys_of(values: dict, prefix: str = "") -> set[str]:
    found = set()
    for key, value in values.items():
        found |= keys_of(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}"}
    return found


def test_default_config_is_valid_and_names_every_setting():
    config = parse_config(load("config.yaml"))
    assert keys_of(load("config.yaml")) == keys_of(config.model_dump())


@pytest.mark.parametrize(
    "overlay",
    [
        *("paper.yaml", "pixel5mm.yaml", "dune_cvn.yaml", "microboone.yaml", "faithfulness.yaml"),
        *("counterfactuals.yaml", "realistic.yaml"),
    ],
)
def test_overlays_are_valid(overlay):
    parse_config(merge(load("config.yaml"), load(overlay)))


def test_defaults_of_the_models_are_the_published_ones_that_the_paper_overlay_sets():
    paper = parse_config(merge(load("config.yaml"), load("paper.yaml")))
    published = Config(input={"source": "voxels", "files": ["x"]})
    same = dict.fromkeys(("detector", "display", "cnn", "conditions"), True)
    rest = {"cnn": {"workers"}}  # a matter of the machine
    assert paper.model_dump(include=same, exclude=rest) == published.model_dump(include=same, exclude=rest)
    assert paper.vlm.finetune == published.vlm.finetune
    assert (paper.vlm.base, paper.pixelmap.size, paper.pixelmap.zoom) == ("hub", 512, 1)


def test_the_third_column_of_reproduction_is_the_paper_overlay():
    """Every `key: value` of the tables, a fact a line."""
    paper = parse_config(merge(load("config.yaml"), load("paper.yaml"))).model_dump(mode="json")
    page = (REPOSITORY / "docs" / "reproduction.md").read_text()
    stated = [
        pair
        for row in page.splitlines()
        if row.startswith("| ") and row.count("|") == 5
        for pair in re.findall(r"`([a-z0-9_.]+): ([^`]+)`", row.split("|")[4])
    ]
    for key, value in stated:
        found = paper
        for part in key.split("."):
            found = found[part]
        assert found == yaml.safe_load(value), key
    for fact in ("learning_rate", "batch_size", "max_epochs", "background", "decision", "temperature", "quantization"):
        assert any(key.endswith(fact) for key, _ in stated), fact


def test_schema_is_in_step():
    assert (CONFIG / "schema.json").read_text() == json_schema(), "run 'make schema'"
    jsonschema.validate(load("config.yaml"), json.loads(json_schema()))


def test_a_renamed_key_names_its_successor():
    with pytest.raises(InputError, match=r"tree: renamed: write bdt$"):
        parse_config(load("config.yaml") | {"tree": {"learning_rate": 0.1}})
    for key in RENAMED.values():
        assert key in keys_of(load("config.yaml")) | set(load("config.yaml"))


COUNTERFACTUALS = {"models_from": "a", "input": {"simulate": {"counterfactuals": True}}}
MISTAKES = {
    "unknown key": ({"cnnn": {}}, "cnnn: unknown key; known here: .*run,"),
    "unknown key inside": ({"cnn": {"widht": 1}}, "cnn.widht: unknown key; known here: seeds, .*width"),
    "unknown key in a recipe": (
        {"cnn": {"recipes": {"tuned": {"rate": 1}}}},
        r"cnn.recipes.tuned.rate: unknown key; known here: optimizer, learning_rate.*network",
    ),
    "key from before recipes": (
        {"cnn": {"learning_rate": 0.01, "flip": True}},
        r"cnn: learning_rate, flip: moved to cnn.recipes.<name>.*recipes: {tuned: {learning_rate: 0.01}}",
    ),
    "weights from before recipes": ({"cnn": {"class_weights": True}}, "cnn: class_weights .*: set balanced in"),
    "pictures that are too large": (
        {"pixelmap": {"size": 512, "zoom": 9}},
        r"pixelmap: size \(512\) x zoom \(9\) gives pictures of 4608 pixels a side; 4096 is the maximum",
    ),
    "zoom that the base model undoes": (
        {"pixelmap": {"zoom": 2}, "vlm": {"base": "smollm"}},
        "pixelmap.zoom has no effect: .* to vlm.smollm.image_size. Set that, or zoom to 1",
    ),
    "zoom for a tower alone": (
        {"pixelmap": {"zoom": 2}, "vlm": {"base": "scratch", "enabled": False}},
        "pixelmap.zoom has no effect: .* to vlm.scratch.image_size",
    ),
    "seeds that repeat": ({"bdt": {"seeds": [7, 8, 7]}}, r"bdt: seeds \[7, 8, 7\]: one repeats"),
    "seeds without the first": ({"cnn": {"seeds": [1, 2]}}, r"cnn: seeds \[1, 2\]: the first must be .*, 7"),
    "no training": ({"vlm": {"seeds": 0}}, "vlm.seeds"),
    "stored weights of another kind": (
        {"vlm": {"base": "random", "classify": {"quantization": "none"}}},
        r"classify.quantization \(none\) must be that of finetune \(nf4\) or null with base: random",
    ),
    "unknown network": (
        {"cnn": {"recipes": {"tuned": {"network": "vgg"}}}},
        "cnn.recipes.tuned.network: .*'published'",
    ),
    "decay of Adam": (
        {"cnn": {"recipes": {"tuned": {"optimizer": "adam", "weight_decay": 0.1}}}},
        "weight_decay has no effect with optimizer 'adam'",
    ),
    "no recipe left": ({"cnn": {"recipes": {"published": None}}}, "cnn: recipes: all are null"),
    "recipe of no name": ({"cnn": {"recipes": {"With-Dash": {}}}}, r"cnn.recipes.With-Dash.*a-z0-9_"),
    "recipe named as an export": ({"cnn": {"recipes": {"tuned_onnx": {}}}}, "'tuned_onnx' ends in _onnx"),
    "processes without GPUs of their own": ({"cnn": {"gpus": 4}}, r"cnn: gpus \(4\) must equal processes \(1\)"),
    "wrong type": ({"cnn": {"width": "wide"}}, "cnn.width: .*valid number.*'wide'"),
    "impossible value": ({"cnn": {"dropout": 1.5}}, "cnn.dropout: .*less than 1"),
    "unknown choice": ({"input": {"source": "root"}}, "input.source: .*'simulate', 'voxels'"),
    "no files": ({"input": {"source": "voxels"}}, "files is empty: list the files"),
    "files unused": ({"input": {"files": ["a.h5"]}}, "set source to the format of the files"),
    "wires of a source without": (
        {"input": {"wires": {"pixel_wires": 4}}},
        "wires has no effect for source 'simulate'",
    ),
    "no wires in a pixel": (
        {"input": {"source": "microboone", "files": ["a.h5"], "wires": {"pixel_wires": 0}}},
        "input.wires.pixel_wires: .*greater than or equal to 1",
    ),
    "muons of a source that is not simulated": (
        {"input": {"source": "edepsim", "files": ["a.root"], "simulate": {"cosmics": {"rate_hz_m2": 100}}}},
        "simulate.cosmics has no effect for source 'edepsim': leave its rate_hz_m2 at 0",
    ),
    "too many muons": (
        {"input": {"simulate": {"cosmics": {"rate_hz_m2": 1e6}}}},
        "input.simulate.cosmics.rate_hz_m2: .*less than or equal to 10000",
    ),
    "a scale of no map": (
        {"display": {"readout": {"space_charge": {"scale": 2}}}},
        "display.readout.space_charge: scale has no effect without a map",
    ),
    "space charge that acted already": (
        {
            "input": {"source": "ndlarflow", "files": ["a.h5"]},
            "display": {"readout": {"space_charge": {"map": "map.h5"}}},
        },
        "display.readout cannot act on source 'ndlarflow', whose charge was read out already",
    ),
    "space charge of ready maps": (
        {
            "input": {"source": "png", "files": ["maps"]},
            "display": {"readout": {"space_charge": {"map": "map.h5"}}},
        },
        "display.readout cannot act on source 'png', which has ready pixel maps",
    ),
    "pixel between voxels": ({"display": {"pixel_mm": 8}}, "multiple of the voxel size along y"),
    "pixel that leaves a rest": ({"display": {"pixel_mm": 33}}, "not a multiple of the voxel size along y"),
    "voxel that leaves a rest": ({"detector": {"voxel_mm": [3, 5, 5]}}, "does not divide x_mm"),
    "anode outside": ({"detector": {"anodes_mm": [-1200]}}, "anodes_mm has -1200 mm, outside x_mm"),
    "nothing to train on": ({"dataset": {"validation": 0.6, "test": 0.5}}, "leaves nothing to train on"),
    "batch that does not divide": (
        {"vlm": {"finetune": {"global_batch_size": 6, "device_batch_size": 4, "processes": 1}}},
        r"global_batch_size \(6\) must be a multiple",
    ),
    "run name that is a path": ({"run": "../elsewhere"}, "run: .*pattern"),
    "counterfactuals to train on": (
        {"input": {"simulate": {"counterfactuals": True}}},
        "counterfactuals makes events for testing only: set models_from",
    ),
    "noise in counterfactuals": (
        COUNTERFACTUALS | {"display": {"readout": {"noise_mev": 0.022}}},
        r"counterfactuals cannot be compared with noise_mev.*--config 'display=\{readout: \{noise_mev: 0\}\}'",
    ),
    "random noise in counterfactuals": (
        COUNTERFACTUALS | {"conditions": ["noise_200", "nominal"]},
        "conditions: noise_200 draws other random numbers for each shard and event id.*put another condition first",
    ),
    "random channels in counterfactuals": (
        COUNTERFACTUALS | {"conditions": ["dead_5", "nominal"]},
        "conditions: dead_5 draws other random numbers",
    ),
    "counterfactuals of a file": (
        {
            "models_from": "a",
            "input": {"source": "edepsim", "files": ["a.root"], "simulate": {"counterfactuals": True}},
        },
        "counterfactuals has no effect for source 'edepsim': a file has one version of each event",
    ),
    "own models": ({"run": "a", "models_from": "a"}, "models_from is this run itself"),
    "own events": ({"run": "a", "events_from": "a"}, "events_from is this run itself"),
    "events of another run for its models": ({"models_from": "a", "events_from": "b"}, "events_from chooses events to"),
    "fewer events to train on nothing": ({"models_from": "a", "dataset": {"train_events": 9}}, "train_events chooses"),
    "more training events than events": (
        {"dataset": {"train_events": 2175}},
        "train_events asks for 2,175 training events, but of input.simulate.events, 2,400, about 2,040 are for",
    ),
    "no models": ({name: {"enabled": False} for name in FAMILIES}, "every family of models is disabled"),
    "control first": ({"conditions": ["blank", "nominal"]}, "conditions: blank is a control"),
    "unknown condition": ({"conditions": ["nominal", "blurred"]}, "conditions.1: unknown condition 'blurred'"),
    "level beyond all": (
        {"conditions": ["nominal", "dead_200"]},
        "conditions.1: condition 'dead_200': the maximum is 100",
    ),
    "condition twice": ({"conditions": ["nominal", "nominal"]}, "name each once"),
}


def test_a_recipe_gives_the_settings_of_its_training():
    cnn = parse_config({"cnn": {"width": 0.5, "recipes": {"published": None, "wide": {"batch_size": 8}}}}).cnn
    assert cnn.recipe_names == ("wide",)
    settings = cnn.recipe_settings("wide")
    assert (settings.width, settings.recipe.batch_size, settings.recipe.max_epochs) == (0.5, 8, 300)


def test_prompts_of_the_head_are_those_of_the_language_model():
    for overlay in ("paper.yaml", "dune_cvn.yaml", "microboone.yaml", "config.yaml"):
        config = parse_config(merge(load("config.yaml"), load(overlay)))
        assert config.vlm_head.prompts == config.vlm.prompts
        for request in (config.vlm_head.training("vlm_head"), config.vlm_head.classification()):
            assert request.inputs["prompts"] == config.vlm.prompts
    own = parse_config({"vlm_head": {"prompts": "mine.yaml"}})
    assert (own.vlm_head.prompts, Config().vlm_head.prompts) == ("mine.yaml", Config().vlm.prompts)


def test_null_may_come_as_a_word_as_from_the_command_line():
    values = {"models_from": "null", "cnn": {"recipes": {"published": "null", "tuned": {"max_grad_norm": "null"}}}}
    config = parse_config(values)
    assert config.models_from is None
    assert config.cnn.recipe_names == ("tuned",)
    assert config.cnn.recipe_settings("tuned").recipe.max_grad_norm is None


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_name_the_key_and_the_remedy(mistake):
    values, message = MISTAKES[mistake]
    with pytest.raises(InputError, match=message):
        parse_config(values)


def test_pairs_are_compared_where_both_are_degraded_alike():
    realistic = merge(merge(load("config.yaml"), load("realistic.yaml")), load("counterfactuals.yaml"))
    with pytest.raises(InputError, match="noise_mev"):
        parse_config(realistic)
    assert parse_config(merge(realistic, {"display": {"readout": {"noise_mev": 0}}})).cosmics
    shift = {"display": {"readout": {"energy_scale": 1.02}}}
    nuisances = [{"name": "scale", "title": "Scale", "source": "a guess", "plus": shift, "one_sided": True}]
    systematics = {"models_from": "a", "systematics": {"run": "a", "nuisances": nuisances}}
    with pytest.raises(InputError, match=r"conditions: dead_5 draws .*an event under two variations"):
        parse_config(systematics | {"conditions": ["dead_5", "nominal"]})
    parse_config(systematics | {"conditions": ["scale_110", "dead_5"]})
    for first in ("half_resolution", "diffusion_5", "scale_110"):
        parse_config(COUNTERFACTUALS | {"conditions": [first, "dead_5", "noise_200"]})


def test_a_zoom_that_has_an_effect_or_concerns_no_model_is_allowed():
    without = {name: {"enabled": not family.on_base} for name, family in FAMILIES.items()}
    for values in ({"vlm": {"base": "hub"}}, {"vlm": {"base": "random"}}, without):
        assert parse_config({"pixelmap": {"zoom": 2}} | values).pixelmap.zoom == 2


def test_all_mistakes_are_named_at_once():
    with pytest.raises(InputError, match=r"(?s)cnn\.width.*report\.browser"):
        parse_config({"cnn": {"width": -1}, "report": {"browser": -1}})


def test_parsing_rules_imports_nothing_heavy():
    program = "import sys, nuvlm.workflow.paths; print(*sys.modules)"
    modules = set(
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    )
    assert not modules & {"torch", "transformers", "zarr", "h5py", "numba", "pandas", "matplotlib", "scipy", "sklearn"}


@pytest.mark.parametrize(("run", "name"), [(20240115, "20240115"), (date(2024, 1, 15), "2024-01-15"), ("a.b", "a.b")])
def test_a_name_may_look_like_a_number_or_a_date(run, name):
    assert parse_config({"run": run, "models_from": 7}).run == name


@pytest.mark.parametrize("run", [1e5, True, "a b", ".hidden"])
def test_a_name_that_another_value_may_be_is_refused(run):
    with pytest.raises(InputError, match="run: "):
        parse_config({"run": run})
