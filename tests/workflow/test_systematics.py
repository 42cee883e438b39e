"""Systematic uncertainties of a run: the table of nuisances, the jobs that are planned, and a small real run."""

import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import yaml

from nuvlm.base.errors import InputError
from nuvlm.base.files import read_json, write_json, write_table
from nuvlm.base.settings import flatten
from nuvlm.dataset.event_table import read_events, read_test_events
from nuvlm.detector.geometry import Detector
from nuvlm.detector.readout import ARGON_DENSITY, Recombination
from nuvlm.detector.voxels import Event, Voxels, open_shard, write_shard
from nuvlm.evaluation.nuisances import split_variation
from nuvlm.evaluation.systematics import IN_COVARIANCE
from nuvlm.workflow.config import Config, parse_config, read_overlays
from nuvlm.workflow.shards import list_shards
from nuvlm.workflow.systematics import compose, main, read_nuisances
from paths import REPOSITORY

CONFIG = REPOSITORY / "config"
TABLE = CONFIG / "systematics.yaml"
REALISTIC = CONFIG / "systematics_realistic.yaml"
SIGNS = ("plus", "minus")
SCALE = {
    "name": "scale",
    "title": "energy scale",
    "source": "here",
    "plus": {"display": {"readout": {"energy_scale": 1.1}}},
    "minus": {"display": {"readout": {"energy_scale": 0.9}}},
}
BIRKS = {"name": "birks", "title": "recombination", "source": "here", "one_sided": True}
BIRKS |= {"plus": {"input": {"recombination": {"model": "birks"}}}}
PIONS = {"name": "pions", "title": "pions", "source": "here", "plus": 1.2, "minus": 0.8}
PIONS |= {"weights": {"where": {"is_cc": 1}, "per": "n_pion"}}


def write_nuisances(folder: Path, *nuisances: dict) -> Path:
    path = folder / "table.yaml"
    path.write_text(yaml.safe_dump({"systematics": {"nuisances": list(nuisances)}}, sort_keys=False))
    return path


@pytest.fixture
def finished(tmp_path, monkeypatch) -> Path:
    """A run that is finished as far as the plan sees."""
    monkeypatch.chdir(tmp_path)
    folder = Path("results/demo")
    events = pd.DataFrame({"shard": ["first"] * 30 + ["second"] * 30, "event_id": range(60), "class": "nc"})
    events = events.assign(is_cc=[0, 0, 1, 1] * 15, mode=[3, 3, 4, 4] * 15, nu_energy=2.0, inelasticity=np.nan)
    write_table(folder / "events.parquet", events.assign(split=["train", "test"] * 30))
    config = Config(
        input={"source": "voxels", "files": [f"results/demo/voxels/{name}.h5" for name in ("first", "second")]}
    )
    for name in ("first", "second"):
        write_voxels(folder / "voxels" / f"{name}.h5")
    for model in config.models:
        write_json(folder / "models" / model / "training.json", {})
        for file in ("model.onnx", "manifest.json"):
            (folder / "models" / model / file).touch()
    for path in ("models/base/manifest.json", "models/vlm/manifest.json"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    write_report(folder, config)
    return folder


def write_voxels(path: Path, truth: bool = True) -> None:
    """A shard whose events have a pion each, or two."""
    first = {"first": 0, "second": 30}[path.stem]
    voxels = Voxels(*(np.array([5], dtype=np.uint16) for _ in "xyz"), np.ones(1, dtype=np.float32))
    pions = {i: np.zeros(1 + i % 2, dtype=[("event_id", "u8"), ("pdg", "i4"), ("kinetic_mev", "f4")]) for i in (0, 1)}
    events = []
    for event in range(first, first + 30):
        particles = pions[event // 2 % 2].copy()
        particles["event_id"], particles["pdg"] = event, 211
        events.append(Event(event, voxels, truth={"particles": particles} if truth else {}))
    write_shard(path, Detector(), events)


def write_report(folder: Path, config: Config) -> None:
    report = {"format": "nuvlm-report", "provenance": {"config": config.model_dump(mode="json")}}
    write_json(folder / "report" / "report.json", report)


def changed(nuisance: dict, **changes: object) -> dict:
    return {key: value for key, value in (nuisance | changes).items() if value is not None}


@pytest.mark.parametrize(
    ("nuisances", "message"),
    [
        ([changed(SCALE, minus=None)], "nuisance scale: there is no range: minus missing.*one_sided: true"),
        ([changed(SCALE, plus=None, minus=None)], "nuisance scale: there is no range: plus and minus missing"),
        ([changed(SCALE, one_sided=True)], "nuisance scale: one_sided has no minus"),
        ([changed(SCALE, source=None)], "nuisance scale: source: Field required"),
        ([changed(SCALE, source="")], "nuisance scale: source: String should have at least 1 character"),
        ([changed(SCALE, sigma=3)], "nuisance scale: sigma: Extra inputs are not permitted"),
        ([changed(SCALE, name="Energy Scale")], "nuisance Energy Scale: name: String should match"),
        ([changed(SCALE, plus=SCALE["minus"])], "nuisance scale: plus and minus are the same"),
        ([changed(SCALE, plus={})], "nuisance scale: plus changes nothing, so its standard deviation is 0"),
        ([changed(PIONS, plus=1.0)], "nuisance pions: plus changes nothing, so its standard deviation is 0"),
        ([changed(PIONS, plus=-1.2)], "nuisance pions: plus: .*greater than 0"),
        ([changed(PIONS, weights=None)], "nuisance pions: plus must be settings"),
        ([changed(SCALE, weights={"where": {}})], "nuisance scale: plus must be a factor"),
        ([changed(PIONS, weights={"where": {"n_kaon": 1}})], "nuisance pions: weights: there is no column n_kaon"),
        ([changed(PIONS, weights={"per": "mode"})], "nuisance pions: weights: per: mode is no count; known: n_proton"),
        ([changed(PIONS, weights={"where": {"class": "nu_e"}})], "weights: class: there is no class 'nu_e'; known"),
        ([changed(PIONS, weights={"where": {"class": 1}})], "pions: weights: class: there is no class 1.0; known"),
        ([changed(PIONS, weights={"where": {"class": {"low": 1}}})], "pions: weights: class: there is no class"),
        ([changed(PIONS, weights={"where": {"mode": "RES"}})], "pions: weights: mode: 'RES' is no number"),
        ([changed(PIONS, weights={"where": {"is_cc": "nc"}})], "pions: weights: is_cc: 'nc' is no number"),
        ([changed(PIONS, weights={"where": {"nu_energy": {"low": 3, "high": 1}}})], "no value is from 3 on"),
        ([SCALE, SCALE], "two nuisances are called scale: rename or remove one"),
        ([SCALE, changed(SCALE, name="other")], "nuisances scale and other are the same variation.*count twice"),
        ([], "nuisances: Tuple should have at least 1 item"),
    ],
)  # fmt: skip
def test_an_impossible_table_is_refused_with_the_nuisance(tmp_path, nuisances, message):
    path = write_nuisances(tmp_path, *nuisances)
    with pytest.raises(InputError, match=rf"(?s)table\.yaml: .*{message}"):
        read_nuisances(path)


@pytest.mark.parametrize("text", ["", "run: demo", "systematics: 3", "systematics: [", "- a"])
def test_a_file_that_is_no_table_is_refused(tmp_path, text):
    path = tmp_path / "table.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"table\.yaml"):
        read_nuisances(path)


@pytest.mark.parametrize(
    ("nuisance", "message"),
    [
        (changed(SCALE, plus={"display": {"readout": {"gain": 2}}}), "scale, plus: .*gain: unknown key; known"),
        (changed(SCALE, plus={"display": {"readout": {"energy_scale": -1}}}), "nuisance scale, plus: .*greater than 0"),
        (changed(SCALE, minus={"display": {"readout": {"energy_scale": 1}}}), "scale, minus: .*deviation is 0"),
        (changed(SCALE, plus={"display": {"pixel_mm": 10}}), "nuisance scale, plus: display.pixel_mm cannot be varied"),
        (changed(SCALE, plus={"pixelmap": {"size": 64}}), "nuisance scale, plus: pixelmap.size cannot be varied"),
        (changed(SCALE, plus={"input": {"simulate": {"seed": 8}}}), "plus: input.simulate.seed cannot be varied"),
        (changed(SCALE, plus={"bdt": {"seed": 8}}), "nuisance scale, plus: bdt.seed cannot be varied"),
        (BIRKS, "nuisance birks, plus: .*recombination needs .* source 'voxels' does not have"),
        (changed(BIRKS, plus={"input": {"simulate": {"cosmics": {"rate_hz_m2": 3}}}}),
         "nuisance birks, plus: input.simulate.cosmics.rate_hz_m2 acts on simulated events, .* source is 'voxels'"),
        (changed(BIRKS, plus={"display": {}}), "nuisance birks, plus: display is as in the run"),
        # Settings that have no effect beside the others.
        *((changed(BIRKS, plus={"display": of}), "nuisance birks, plus: .* has no effect with its other settings")
          for of in ({"readout": {"drift_velocity_mm_us": 2}}, {"readout": {"seed": 8}},
                     {"readout": {"space_charge": {"map": "a.h5", "scale": 0}}})),
        (changed(SCALE, minus={"display": {"readout": {"energy_scale": 1.1, "seed": 8}}}),
         "nuisance scale, minus: has the same effect as scale_plus"),
        # Weights that change no efficiency.
        (changed(PIONS, weights={"where": {"nu_energy": {"high": 0.1}}}), "nuisance pions: its weights choose none"),
        (changed(PIONS, weights={"where": {"mode": 4, "n_pion": {"low": 3}}}), "pions: its weights choose none or all"),
        (changed(PIONS, weights={"where": {}}), "nuisance pions: its weights choose none or all of the 30 test events"),
        (changed(PIONS, weights={"where": {"inelasticity": {"low": 0.1}}}), "reweights by inelasticity.* unknown"),
        (changed(PIONS, weights={"where": {"pi0_energy": {"low": 0.1}}}), "pions reweights by pi0_energy.* unknown"),
    ],
)  # fmt: skip
def test_a_nuisance_that_cannot_act_on_the_run_is_refused_before_anything_runs(finished, nuisance, message):
    table = write_nuisances(Path(), nuisance)
    with pytest.raises(InputError, match=rf"(?s)table\.yaml: .*{message}"):
        compose("demo", table)
    with pytest.raises(SystemExit, match=r"table\.yaml"):
        main(["demo", str(table)])
    assert [path.name for path in Path("results").iterdir()] == ["demo"]


def test_a_run_that_cannot_be_varied_is_refused_before_anything_runs(finished):
    table = write_nuisances(Path(), SCALE)
    with pytest.raises(InputError, match=r"results/other: there is no such run\. Finished runs: demo"):
        compose("other", table)
    assert compose("demo", table)["systematics"]["shards"] == {
        "block00000": {name: f"results/demo/voxels/{name}.h5" for name in ("first", "second")}
    }
    second = finished / "voxels" / "second.h5"
    kept = second.rename("kept.h5")
    with pytest.raises(InputError, match=r"second\.h5"):
        compose("demo", table)
    write_report(finished, Config(input={"source": "voxels", "files": ["results/demo/voxels/*.h5"]}))
    with pytest.raises(
        InputError, match=r"demo: shard second, .* its input\.files \(.*\*\.h5\)\. Put your file second"
    ):
        compose("demo", table)
    kept.rename(second)
    shutil.rmtree(finished / "models" / "bdt")
    with pytest.raises(InputError, match=r"no finished model in results/demo/models \(bdt missing\)"):
        compose("demo", table)
    events = read_events(finished / "events.parquet")
    write_table(finished / "events.parquet", events.assign(split="train"))
    with pytest.raises(InputError, match=r"events\.parquet: has no test event with known truth"):
        compose("demo", table)
    write_report(finished, Config(input={"source": "png", "files": ["maps/*"]}))
    with pytest.raises(InputError, match="results/demo: made of ready pixel maps"):
        compose("demo", table)
    changed_events = Config(run="demo", models_from="other", input={"simulate": {"counterfactuals": True}})
    write_report(finished, changed_events)
    with pytest.raises(InputError, match=r"results/demo: a run with counterfactual events.* its models, 'other'"):
        compose("demo", table)
    write_json(finished / "report" / "report.json", {"format": "other"})
    with pytest.raises(InputError, match=r"report\.json: not a NuVLM report"):
        compose("demo", table)
    old = {"provenance": {"config": {"tree": {}}}}
    write_json(finished / "report" / "report.json", {"format": "nuvlm-report"} | old)
    with pytest.raises(InputError, match=r"report\.json: written by another version"):
        compose("demo", table)


def test_voxels_that_a_nuisance_cannot_act_on_are_refused_before_anything_runs(finished):
    """Also those of other programs, which state it in the file only."""
    first = finished / "voxels" / "first.h5"
    compose("demo", write_nuisances(Path(), PIONS))
    with h5py.File(first, "r+") as file:
        file.attrs["drifted"] = True
    with pytest.raises(
        InputError, match=r"table\.yaml: nuisance scale acts on charge .*first\.h5 was read out already"
    ):
        compose("demo", write_nuisances(Path(), SCALE))
    compose("demo", write_nuisances(Path(), PIONS))
    write_voxels(first, truth=False)
    with pytest.raises(
        InputError, match=r"table\.yaml: nuisance pions counts particles of the final state, which .*first\.h5"
    ):
        compose("demo", write_nuisances(Path(), PIONS))


@pytest.mark.parametrize(
    ("plus", "acts"),
    [
        ({"display": {"readout": {"drift_velocity_mm_us": 2}}}, {"display": {"readout": {"electron_lifetime_us": 9}}}),
        (
            {"display": {"readout": {"drift_velocity_mm_us": 2}}},
            {"input": {"simulate": {"cosmics": {"rate_hz_m2": 9}}}},
        ),
        ({"display": {"readout": {"seed": 8}}}, {"display": {"readout": {"dead_channels": 0.1}}}),
        ({"display": {"readout": {"seed": 8}}}, {"display": {"readout": {"noise_mev": 0.1}}}),
        ({"display": {"readout": {"space_charge": {"map": "b.h5"}}}}, {}),
        ({"input": {"recombination": {"field_kv_cm": 1}}}, {"input": {"recombination": {"model": "birks"}}}),
        ({"display": {"diffusion": {"scaling": "sqrt"}}}, {}),
        ({"display": {"diffusion": {"behind_anode": "drop"}}}, {"detector": {"anodes_mm": [-900, 900]}}),
    ],
)
def test_a_setting_is_varied_only_where_it_acts(plus, acts):
    """Without effect are those of something that is off, and of charge behind an anode where there is none."""
    nuisance = changed(BIRKS, plus=plus)
    Config(run="varied", models_from="demo", systematics={"nuisances": [nuisance]}, **acts)
    off: dict = {"display": {"diffusion": {"transverse_mm": 0, "longitudinal_mm": 0}}}
    off |= {"detector": {"anodes_mm": [-1000, 1000], "cathodes_mm": [0]}}
    if "space_charge" in str(plus):
        off["display"] |= {"readout": {"space_charge": {"map": "b.h5"}}}
    with pytest.raises(ValueError, match=r"nuisance birks, plus: .* has no effect with its other settings"):
        Config(run="varied", models_from="demo", systematics={"nuisances": [nuisance]}, **off)
    changed_events = changed(BIRKS, plus={"input": {"simulate": {"counterfactuals": True}}})
    with pytest.raises(ValueError, match=r"input\.simulate\.counterfactuals cannot be varied"):
        Config(run="varied", models_from="demo", systematics={"nuisances": [changed_events]})


def test_events_with_one_id_are_in_blocks_of_their_own(finished):
    events = read_events(finished / "events.parquet")
    write_table(finished / "events.parquet", events.assign(event_id=events["event_id"] % 30))
    found = compose("demo", write_nuisances(Path(), SCALE))["systematics"]["shards"]
    assert [list(block) for block in found.values()] == [["first"], ["second"]]


def test_the_default_table_is_possible_for_the_default_configuration():
    nuisances = read_nuisances(TABLE).model_dump(mode="json")
    block = {"shards": {"block00000": {"sim00000": "a.h5"}}, "run": "demo"}
    config = Config(run="varied", models_from="demo", systematics=nuisances | block)
    assert config.with_own_voxels == {"recombination_plus", "cosmics_plus"}
    assert len(list_shards(config)) == len(config.variations) == 10
    assert config.variation("diffusion_minus").display.diffusion.transverse_mm == pytest.approx(1.3 * 0.96)


def test_the_table_of_the_realistic_detector_varies_its_effects_on_both_sides():
    default, table = read_nuisances(TABLE), read_nuisances(REALISTIC)
    block = {"shards": {"block00000": {"sim00000": "a.h5"}}, "run": "realistic"}
    values = read_overlays([CONFIG / "config.yaml", CONFIG / "realistic.yaml"]) | {
        "run": "varied",
        "models_from": "realistic",
    }
    config = parse_config(values | {"systematics": table.model_dump(mode="json") | block})
    assert config.with_own_voxels == {f"{name}_{sign}" for name in ("recombination", "cosmics") for sign in SIGNS}
    nominal = dict(flatten(config.model_dump(mode="json")))
    varied = [nuisance for nuisance in table.nuisances if nuisance.weights is None]
    for nuisance in varied:
        plus, minus = dict(flatten(nuisance.plus)), dict(flatten(nuisance.minus))
        assert plus.keys() == minus.keys()
        for key in plus:
            middle = (plus[key] + minus[key]) / 2
            assert middle == pytest.approx(nominal[key], rel=0.01), f"{nuisance.name} is not around the nominal value"
    # Every effect of the overlay is varied, but for the drift velocity, which acts with the lifetime.
    on = dict(flatten(read_overlays([CONFIG / "realistic.yaml"])["display"]["readout"]))
    on = {key for key, value in on.items() if value and not key.startswith(("space_charge", "drift_velocity"))}
    assert on <= {key.rpartition(".")[2] for nuisance in varied for key, _ in flatten(nuisance.plus)}
    # What does not concern the detector's effects is the same for both detectors.
    one, other = ({nuisance.name: nuisance for nuisance in nuisances.nuisances} for nuisances in (default, table))
    assert one.keys() <= other.keys()
    same = {name for name in one if one[name] == other[name]}
    assert same == {"energy_scale", "diffusion", "nc_pi0", "cc_pion"}
    with pytest.raises(InputError, match=r"nuisance lifetime, plus: .*electron_lifetime_us is as in the run"):
        parse_config(values | {"systematics": default.model_dump(mode="json") | block})


def test_the_field_stands_for_the_constant_of_birks():
    dedx = np.array([2.1, 5.0, 20.0])
    table = {nuisance.name: nuisance for nuisance in read_nuisances(REALISTIC).nuisances}
    for sign, change in (("plus", 1.07), ("minus", 0.93)):
        field = getattr(table["recombination"], sign)["input"]["recombination"]["field_kv_cm"]
        expected = 0.800 / (1 + change * 0.0486 * dedx / (ARGON_DENSITY * 0.5))
        np.testing.assert_allclose(Recombination(model="birks", field_kv_cm=field).survival(dedx), expected, rtol=1e-4)


def test_it_is_started_by_its_command():
    with pytest.raises(InputError, match="make systematics RUN="):
        list_shards(Config(run="a", models_from="demo", systematics={"nuisances": [SCALE]}))
    with pytest.raises(ValueError, match="needs the models of a finished run"):
        Config(systematics={"nuisances": [SCALE]})


@pytest.mark.workflow
@pytest.mark.slow
def test_a_tiny_run_is_varied(tiny_run):
    """Only its test events are made again: nominal ones are those of the run, and so are their predictions."""
    table = write_nuisances(tiny_run, SCALE, BIRKS, PIONS)
    python = "import sys; from nuvlm.workflow.systematics import main; main(sys.argv[1:])"
    quick = ["--snakemake", "--cores", "2"]
    command = [sys.executable, "-c", python, "tiny", str(table), "--profile", "none", *quick]
    result = subprocess.run(command, cwd=tiny_run, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    run, made = tiny_run / "results" / "tiny", tiny_run / "results" / "tiny_systematics"
    tested = read_test_events(run / "events.parquet")
    ids = sorted(event for events in tested.values() for event in events)
    shards = sorted((made / "voxels").iterdir())
    assert [path.name for path in shards] == ["birks_plus.block00000.h5", "nominal.block00000.h5"]
    energies = []
    for path in shards:
        with open_shard(path, Detector()) as shard:
            assert shard.events["event_id"].tolist() == ids
            energies.append(sum(block.energy.sum() for _, block, _ in shard.blocks()))
    assert energies[0] != energies[1]
    events = read_events(made / "events.parquet")
    counts = events["shard"].map(lambda name: split_variation(name)[0]).value_counts()
    assert counts.to_dict() == dict.fromkeys(("nominal", "scale_plus", "scale_minus", "birks_plus"), len(ids))
    models = list(read_json(run / "report" / "report.json")["scores"])
    for model in models:
        again = pd.read_parquet(made / f"predictions/{model}/nominal/0.parquet").set_index("shard")
        again = again.loc["nominal.block00000"].set_index("event_id")["p_nue_cc"]
        before = pd.read_parquet(run / f"predictions/{model}/nominal/0.parquet").set_index("event_id")["p_nue_cc"]
        np.testing.assert_allclose(again, before.loc[again.index], atol=1e-4)
    found = read_json(made / "report" / "systematics.json")
    assert list(found["models"]) == models
    assert sum(found["events"].values()) == len(ids)
    assert (found["format"], found["version"]) == ("nuvlm-systematics", 1)
    assert [about["how"] for about in found["nuisances"]] == ["read out again", "simulated again", "reweighted"]
    matrix = np.array(found["models"]["bdt"]["covariance"])
    shifts = found["models"]["bdt"]["shifts"]
    d = np.array([[shifts[name]["shift"][q]["value"] for q in IN_COVARIANCE] for name in ("scale", "birks", "pions")])
    np.testing.assert_allclose(matrix, sum(np.outer(row, row) for row in d), atol=1e-12)
    table = pd.read_csv(made / "report" / "covariance.csv").set_index(["model", "quantity"])
    np.testing.assert_allclose(table.loc["bdt"].to_numpy(), matrix, rtol=1e-5, atol=1e-9)
    assert len(pd.read_csv(made / "report" / "shifts.csv")) == len(found["models"]) * 7 * (3 + 2 + 3)
    page = (made / "report" / "index.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "energy scale" in page
