"""Names of shards and files."""

from pathlib import Path

import pytest

from nuvlm.base.errors import InputError
from nuvlm.dataset.store_list import read_store_list, write_store_list
from nuvlm.models.table import FAMILIES, family_name, family_of
from nuvlm.models.vlm.settings import VlmSettings
from nuvlm.workflow.config import Config, ReportSettings, parse_config
from nuvlm.workflow.paths import check_events, check_models, making_events, store_files
from nuvlm.workflow.shards import genie_files, list_shards, simulated_events


def configured(*files: object) -> Config:
    return Config(input={"source": "voxels", "files": [str(file) for file in files]})


def test_simulated_shards_keep_their_name_and_events_when_more_are_made():
    few = Config(input={"simulate": {"events": 700, "events_per_shard": 300}})
    many = Config(input={"simulate": {"events": 9000, "events_per_shard": 300}})
    assert list(list_shards(few)) == ["sim00000", "sim00001", "sim00002"]
    assert list(list_shards(many))[:3] == list(list_shards(few))
    assert [simulated_events(few, shard) for shard in list_shards(few)] == [(0, 300), (300, 300), (600, 100)]


def test_files_and_globs_become_shards_in_order(tmp_path):
    for name in ("b.h5", "a.h5", "odd[1].x.h5"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"odd\[1\].x.h5' cannot name a shard"):
        list_shards(configured(tmp_path / "odd[1].x.h5"))
    (tmp_path / "odd[1].x.h5").rename(tmp_path / "odd.x.h5")
    assert list(list_shards(configured(tmp_path / "b.h5", tmp_path / "*.h5"))) == ["b", "a", "odd.x"]


def test_missing_files_and_names_used_twice_are_refused(tmp_path):
    (tmp_path / "sub").mkdir()
    for path in (tmp_path / "a.h5", tmp_path / "sub" / "a.h5"):
        path.touch()
    with pytest.raises(InputError, match=r"none\.h5' matches no file"):
        list_shards(configured(tmp_path / "none.h5"))
    with pytest.raises(InputError, match="would both be shard 'a'"):
        list_shards(configured(tmp_path / "**/*.h5"))


def test_store_files_name_every_file():
    assert store_files("s.zarr", {"images": 4}) == [
        "s.zarr/zarr.json",
        "s.zarr/manifest.json",
        "s.zarr/images/zarr.json",
        "s.zarr/images/c/0/0/0/0",
    ]


def test_a_run_whose_models_are_used_must_have_all_of_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = Config(models_from="other", cnn={"classify_backend": "onnx"})
    trained = tmp_path / "results" / "other" / "models"
    for model in set(Config().models) - {"cnn_published"}:
        (trained / model).mkdir(parents=True)
        (trained / model / "training.json").touch()
    with pytest.raises(InputError, match=r"no finished model in results/other/models \(cnn_published missing\)"):
        check_models(other)
    only_tuned = {"recipes": {"published": None, "tuned": {}}}
    check_models(Config(models_from="other", cnn=only_tuned))
    with pytest.raises(InputError, match=r"no (results/other/models/cnn_tuned_onnx/model.onnx). Make .*\1.*run=other"):
        check_models(Config(models_from="other", cnn=only_tuned | {"classify_backend": "onnx"}))
    (trained / "cnn_published").mkdir()
    (trained / "cnn_published" / "training.json").touch()
    check_models(Config(models_from="other"))
    check_models(Config())


VIEWS = ("displays/{}.zarr/xz/c/0/0/0", "displays/{}.zarr/yz/c/0/0/0")


def finish_events(config: Config) -> Path:
    """What a run that has its events leaves, as far as the check of another run reads it."""
    folder = Path("results", config.run)
    for name in ("sim00000", "sim00001"):
        for file in ("pixelmaps/{}.zarr/images/c/0/0/0/0", "pixelmaps/{}.zarr/manifest.json", *VIEWS):
            path = folder / file.format(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")
    stores = {path.stem: path for path in sorted((folder / "pixelmaps").iterdir())}
    write_store_list(folder / "pixelmaps.json", stores, making_events(config))
    (folder / "events.parquet").touch()
    return folder


OTHER = "events_from: run 'other' "


def test_a_run_whose_events_are_used_must_have_them_as_this_one_would_make_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = Config(events_from="other", dataset={"parts": 3, "train_events": 100}, pixelmap={"zoom": 2})
    with pytest.raises(
        InputError, match=rf"{OTHER}has no finished events \(results/other/events.parquet, .* missing\). Make"
    ):
        check_events(config)
    folder = finish_events(Config(run="other"))
    check_events(config)
    check_events(Config())
    for changes, message in {
        "a pixel": ({"display": {"pixel_mm": 25}}, "other settings: display.pixel_mm is 25.0, there 50.0. Set them as"),
        "two": (
            {"pixelmap": {"size": 64}, "dataset": {"seed": 8}},
            "pixelmap.size is 64, there 512; dataset.seed is 8, there 7. Set",
        ),
        "events": ({"input": {"simulate": {"events": 10}}}, "input.simulate.events is 10, there 2400"),
        "readout": ({"display": {"readout": {"noise_mev": 1}}}, "display.readout.noise_mev is 1.0, there 0"),
    }.values():
        with pytest.raises(InputError, match=message):
            check_events(Config(events_from="other", **changes))
    for lost in ("events.parquet", "pixelmaps.json", "pixelmaps/sim00001.zarr/images/c/0/0/0/0"):
        away = (folder / lost).rename(folder / "away")
        with pytest.raises(
            InputError, match=rf"{OTHER}has .*results/other/{lost} .*missing.* Make them with: snakemake"
        ):
            check_events(config)
        away.rename(folder / lost)
    (folder / VIEWS[1].format("sim00001")).unlink()
    with pytest.raises(
        InputError, match=r"has lost displays, which .*/sim00001.zarr/yz/c/0/0/0 is missing. Set report.bro"
    ):
        check_events(config)
    config = config.model_copy(update={"report": ReportSettings(browser=0)})
    check_events(config)
    for settings, message in (
        ({"events_from": "third"}, "takes its events from 'third': name that one"),
        ({"models_from": "third"}, "has no events to train on"),
        ({"dataset": {"train_events": 50}}, "has dataset.train_events itself"),
    ):
        finish_events(Config(run="other", **settings))
        with pytest.raises(InputError, match=OTHER + message):
            check_events(config)
    write_store_list(folder / "pixelmaps.json", read_store_list(folder / "pixelmaps.json"))
    with pytest.raises(InputError, match=r"Run 'other' again: its list does not say what it was made with"):
        check_events(config)


def test_a_map_of_space_charge_is_compared_by_its_content(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here, there = Path("here.h5"), Path("there.h5")
    for path in (here, there):
        path.write_text("a map")
    finish_events(Config(run="other", display={"readout": {"space_charge": {"map": str(there)}}}))
    config = Config(events_from="other", display={"readout": {"space_charge": {"map": str(here)}}})
    there.unlink()
    check_events(config)
    here.write_text("another map")
    with pytest.raises(InputError, match=r"space_charge\.map is a file with the SHA-256 \w+, there a file"):
        check_events(config)
    here.unlink()
    with pytest.raises(InputError, match=r"here\.h5: cannot be read .* Check the path in display\.readout"):
        check_events(config)


def test_events_of_ready_maps_are_compared_by_what_they_depend_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    maps = {"source": "png", "files": ["maps"], "simulate": {"seed": 3}}
    finish_events(Config(run="other", input=maps))
    there = {"events_from": "other", "report": {"browser": 0}}
    check_events(
        Config(**there, input=maps | {"simulate": {"seed": 4}}, display={"pixel_mm": 25}, pixelmap={"size": 64})
    )
    with pytest.raises(InputError, match=r"settings: input.on_bad_event is skip, there error\. Set"):
        check_events(Config(**there, input=maps | {"on_bad_event": "skip"}))


def test_shards_of_another_run_are_those_that_it_listed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for files in ({"source": "voxels"}, {"simulate": {"final_states": "genie"}}):
        config = Config(events_from="other", input={"files": ["removed/*.h5"], **files})
        finish_events(config.model_copy(update={"run": "other", "events_from": None}))
        check_events(config)
        assert list_shards(config) == {"sim00000": "", "sim00001": ""}
        assert genie_files(config) == []
    with pytest.raises(InputError, match=r"results/none/pixelmaps\.json: no readable file"):
        list_shards(Config(events_from="none"))


def test_each_recipe_is_a_model_in_the_order_of_the_report():
    every = Config(vlm_head={"enabled": True}).models
    assert list(dict.fromkeys(map(family_name, every))) == list(FAMILIES)
    assert "vlm_head" not in Config().models
    assert Config().models[:2] == ("cnn_published", "cnn_tuned")
    assert Config().explained_models == tuple(model for model in Config().models if family_of(model).explains)
    assert Config(report={"explain": 0}).explained_models == ()
    one = Config(cnn={"recipes": {"published": None, "tuned": {}, "wide": None}})
    assert [model for model in one.models if family_name(model) == "cnn"] == ["cnn_tuned"]


def test_fetched_models_of_other_revisions_or_tiles_lie_apart():
    hubs = [{}, {"max_tiles": 1}, {"max_tiles": None}, {"revision": "v1"}, {"model": "lab/other"}]
    folders = [VlmSettings(base="hub", hub=hub).base_folder for hub in hubs]
    assert len(set(folders)) == len(folders)
    assert folders[2] == "results/hub/meta-llama--Llama-3.2-11B-Vision-Instruct/main-as-published"


def test_home_and_variables_are_replaced_in_paths(tmp_path, monkeypatch):
    (tmp_path / "a.h5").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DATA", str(tmp_path))
    for pattern in ("~/a.h5", "$HOME/*.h5", "${DATA}/a.h5"):
        assert list_shards(configured(pattern)) == {"a": str(tmp_path / "a.h5")}
    for section in ({"vlm": {"prompts": "~/a.h5"}}, {"report": {"spectrum": "${DATA}/a.h5"}}):
        assert str(tmp_path / "a.h5") in str(parse_config(section))
    with pytest.raises(InputError, match=r"input.files.0: .*no variable \$NOWHERE"):
        parse_config({"input": {"source": "voxels", "files": ["$NOWHERE/a.h5"]}})


def test_a_folder_is_named_with_its_dots(tmp_path):
    for name in ("maps.v1", "maps.v2"):
        (tmp_path / name).mkdir()
    config = Config(input={"source": "png", "files": [str(tmp_path / "maps.*")]})
    assert list(list_shards(config)) == ["maps.v1", "maps.v2"]
