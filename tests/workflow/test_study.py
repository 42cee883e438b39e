"""A study: its table, its curves, and a small one that is stopped and goes on."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from nuvlm.base.errors import InputError
from nuvlm.base.files import read_json, sha256, write_json
from nuvlm.dataset.event_table import NO_PART
from nuvlm.report.study import (
    BEGIN,
    END,
    PUBLISHED_EVENTS,
    make_curves,
    read_point,
    read_points,
    tables,
    write_page,
    write_points,
)
from nuvlm.workflow.study import main, read_study, summarise
from paths import REPOSITORY, copy_workflow
from run_on_disk import write_run
from tiny_run import SETTINGS

TABLE = REPOSITORY / "resources" / "study.yaml"
TREE = {"events": "few", "models": ["bdt"]}


def write_table(folder: Path, *points: dict, **changes: object) -> Path:
    path = folder / "table.yaml"
    study = {"name": "trial", "configuration": [str(REPOSITORY / "config/config.yaml")], "events": {"few": {}}}
    path.write_text(yaml.safe_dump(study | {"points": list(points)} | changes))
    return path


def test_the_study_of_the_documentation_is_the_one_that_was_asked_for(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    study = read_study(TABLE)
    configs = {point.run: study.config(study.overlay(point.run)) for point in study.points}
    all_models = ("cnn_published", "cnn_tuned", "bdt", "vit", "vlm")
    assert configs["study_1000"].models == configs["study_64000"].models == all_models
    assert configs["study_all"].dataset.train_events is None
    for run, config in configs.items():
        assert config.conditions == ("nominal",)
        assert config.events_from in study.events
        made = study.config(study.overlay(config.events_from))
        assert (made.display, made.pixelmap, made.input) == (config.display, config.pixelmap, config.input)
        if config.uses_base:
            assert 0.98 < config.vlm.scratch.image_size / config.pixelmap.size <= 1, f"{run}: pictures keep the pixels"
        seeds = 3 if config.dataset.train_events in (1000, 4000, 16000) and config.display.pixel_mm == 50 else 1
        assert {len(names) for names in config.trainings.values()} == {seeds}, run
    assert {(c.display.pixel_mm, c.dataset.train_events) for c in configs.values()} == {
        *((50, n) for n in (1000, 4000, 16000, 64000, None)), (10, 16000), (5, 16000),
    }  # fmt: skip
    made = study.config(study.overlay("study"))
    share = 1 - made.dataset.validation - made.dataset.test
    assert made.input.simulate.events * share == pytest.approx(PUBLISHED_EVENTS)
    fine = configs["study_1cm_16000"].input
    assert fine.source == "voxels"
    assert fine.files == tuple(f"results/study/voxels/sim{i:05d}.h5" for i in range(38)), "all, or a message"


def test_a_point_has_the_models_that_it_names(tmp_path):
    settings = {"cnn": {"recipes": {"wide": {"batch_size": 8}}}}
    points = [TREE | {"train_events": 9}, TREE | {"models": ["cnn_wide", "bdt"], "settings": settings, "seeds": 2}]
    study = read_study(write_table(tmp_path, *points))
    few, every = (study.config(study.overlay(point.run)) for point in study.points)
    assert (few.run, few.models, few.dataset.train_events, few.uses_base) == ("few_9", ("bdt",), 9, False)
    assert every.trainings == {"cnn_wide": ("cnn_wide", "cnn_wide.2"), "bdt": ("bdt", "bdt.2")}


@pytest.mark.parametrize(
    ("points", "changes", "message"),
    [
        ([TREE, TREE], {}, "two runs are called few_all"),
        ([TREE | {"events": "many"}], {}, "there is no run many in events, only few"),
        ([TREE | {"models": ["tree"]}], {}, "run few_all: unknown models tree; known: cnn_published, cnn_tuned, bdt"),
        (
            [TREE | {"train_events": 9000}],
            {},
            "run few_9000: .*asks for 9,000 training events, but of .* 5,000, about 4,000 are",
        ),
        ([TREE | {"settings": {"bdt": {"depth": 3}}}], {}, "run few_all: .*bdt.depth: unknown key"),
        ([TREE], {"events": {"few": {"display": {"pixel_mm": 33}}}}, "run few: .*not a multiple of the voxel size"),
        ([TREE], {"configuration": ["none.yaml"]}, "none.yaml: no readable configuration"),
        ([TREE], {"events": {"few": {"voxels_of": "none"}}}, "events.few.voxels_of: none makes no voxels"),
        ([TREE], {"events": {"few": {"voxels_of": "few"}}}, "events.few.voxels_of: few makes no voxels"),
        (
            [TREE],
            {"events": {"few": {"voxels_of": "own"}, "own": {"input": {"source": "voxels", "files": ["a.h5"]}}}},
            "run few: events.few.voxels_of: own makes no voxels: its source is voxels",
        ),
        ([TREE | {"seed": 3}], {}, "points.0.seed"),
        ([], {}, "points"),
    ],
)
def test_an_impossible_point_is_refused_before_anything_runs(tmp_path, monkeypatch, points, changes, message):
    monkeypatch.chdir(tmp_path)
    table = write_table(tmp_path, *points, **changes)
    with pytest.raises(InputError, match=rf"(?s)table\.yaml: .*{message}"):
        read_study(table)
    with pytest.raises(SystemExit, match=r"table\.yaml"):
        main([str(table)])
    assert [path.name for path in tmp_path.iterdir()] == ["table.yaml"]


def test_a_point_that_is_not_in_the_table_is_refused(tmp_path):
    with pytest.raises(SystemExit, match=r"has no point few_8; --list prints them"):
        main([str(write_table(tmp_path, TREE)), "--points", "few_8"])


def finished(folder: Path, seed: int, train: int, pixel_mm: float = 50, skill: float = 1.0) -> Path:
    """A finished run with `train` training events."""
    written = write_run(folder, seed=1, models={"bdt": skill, "bdt.2": skill + 0.1, "cnn_tuned": skill})
    table = pd.read_parquet(written.events)
    others = table[table["split"] != "train"]
    identity = {"shard": "more", "event_id": np.arange(train).astype(np.uint64)}
    pd.concat([others, pd.DataFrame({**identity, "split": "train", "part": NO_PART})]).to_parquet(written.events)
    for training in (folder / "models").iterdir():
        write_json(training / "training.json", {"seconds": 10.5})
    write_json(folder / "models" / "bdt.2" / "training.json", {"seconds": 11.5})
    report = {"format": "nuvlm-report", "scores": {name: {"nominal": {}} for name in ("bdt", "cnn_tuned")}}
    report |= {"trainings": {"bdt": {"n": 2}}, "provenance": {"config": {"display": {"pixel_mm": pixel_mm}}}}
    write_json(folder / "report" / "report.json", report)
    return folder


@pytest.mark.slow
def test_curves_of_finished_runs_their_fit_figure_and_page(tmp_path):
    sizes = {50: 0.5, 100: 0.9, 200: 1.3, 400: 1.6}
    runs = [finished(tmp_path / f"s{n}", 1, n, skill=skill) for n, skill in sizes.items()]
    runs.append(finished(tmp_path / "fine", 1, 100, pixel_mm=5))
    points = [*map(read_point, runs)]
    rows, fits = make_curves(points)
    assert [(row.run, row.model, row.training) for row in rows[:3]] == [
        ("s50", "bdt", 1),
        ("s50", "bdt", 2),
        ("s50", "cnn_tuned", 1),
    ]
    assert {row.train_events for row in rows} == {*sizes}
    accuracies = [np.mean([row.accuracy for row in rows if row.run == run.name]) for run in runs[:4]]
    assert accuracies == sorted(accuracies)
    assert all(row.low < row.accuracy < row.high for row in rows)
    assert [(fit.model, fit.pixel_mm, fit.sizes) for fit in fits] == [("bdt", 50, 4), ("cnn_tuned", 50, 4)]
    write_points(tmp_path / "out", points)
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    figure = (tmp_path / "out" / "curves.svg").read_text()
    write_page(tmp_path / "out", page)
    text = page.read_text()
    assert text == f"before\n{BEGIN}\n{tables(rows, fits)}{END}\nafter\n"
    assert "| 100 | 0.5 cm |" in text
    assert text.count("(n = 2)") == 5
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    write_page(tmp_path / "out", page)
    assert before == {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}, "as often as one likes"
    assert "<svg" in figure
    (tmp_path / "out" / "fits.csv").write_text("model\nbdt\n")
    with pytest.raises(InputError, match=r"fits\.csv: its columns must be model, pixel_mm"):
        write_page(tmp_path / "out", page)


@pytest.mark.slow
def test_points_made_on_several_machines_are_one_study(tmp_path):
    """Added one after the other to the page's folder, they give the tables, figure and page of all at once."""
    sizes = {50: 0.5, 100: 0.9, 200: 1.3, 400: 1.6}
    points = [read_point(finished(tmp_path / f"s{n}", 1, n, skill=skill)) for n, skill in sizes.items()]
    points.append(read_point(finished(tmp_path / "fine", 1, 100, pixel_mm=5)))
    pages = {}
    for name, parts in {"once": [points], "each": [points[2:], points[:1], points[1:3]]}.items():
        page, folder = tmp_path / f"{name}.md", tmp_path / name
        page.write_text(f"{BEGIN}\n{END}\n")
        for i, part in enumerate(parts):
            write_points(tmp_path / f"{name}{i}", part)
            write_page(folder, page, [tmp_path / f"{name}{i}"])
        pages[name] = [page.read_bytes(), *(file.read_bytes() for file in sorted(folder.iterdir()))]
    assert len(pages["once"]) == 5
    assert pages["once"] == pages["each"]
    assert b"with 171,000 events" in pages["each"][0]
    for point, read in zip(points, read_points(tmp_path / "each"), strict=True):
        for ours, theirs in zip(point.accuracies, read.accuracies, strict=True):
            assert asdict(ours) == pytest.approx(asdict(theirs), abs=1e-6)
        assert all(map(np.array_equal, point.correct, read.correct))


def test_points_of_other_test_events_or_damaged_tables_are_not_added(tmp_path):
    first, second = (read_point(finished(tmp_path / f"s{n}", 1, n)) for n in (50, 100))
    write_points(tmp_path / "page", [first])
    before = {path.name: path.read_bytes() for path in (tmp_path / "page").iterdir()}
    page = tmp_path / "page.md"
    page.write_text(f"{BEGIN}\n{END}\n")

    def refused(message: str) -> None:
        with pytest.raises(InputError, match=message):
            write_page(tmp_path / "page", page, [tmp_path / "more"])
        assert before == {path.name: path.read_bytes() for path in (tmp_path / "page").iterdir()}

    refused(r"more: has no curves\.csv")
    other = second.tested.assign(nu_energy=second.tested["nu_energy"] * 1.001)  # another simulation, the same names
    write_points(tmp_path / "more", [replace(second, tested=other)])
    refused(r"s50 and .*s100: have other test events")
    write_points(tmp_path / "more", [read_point(finished(tmp_path / "mine50", 1, 50))])
    refused(r"s50 and .*mine50: have the same size, so they are of different studies")
    write_points(tmp_path / "more", [second])
    answers = pd.read_parquet(tmp_path / "more" / "answers.parquet")
    answers.assign(**{"s100/bdt": ~answers["s100/bdt"]}).to_parquet(tmp_path / "more" / "answers.parquet")
    refused(r"answers\.parquet: s100/bdt does not have the accuracy of curves\.csv")
    answers.drop(columns="s100/bdt").to_parquet(tmp_path / "more" / "answers.parquet")
    refused(r"answers\.parquet: has other trainings than curves\.csv")
    (tmp_path / "more" / "answers.parquet").write_bytes(b"PAR1")
    refused(r"answers\.parquet: no readable table")


def test_curves_leave_out_points_with_other_settings_or_damaged_files_by_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sizes = (50, 100, 200)
    study = read_study(write_table(tmp_path, *(TREE | {"train_events": n} for n in sizes)))
    runs = {n: finished(Path("results") / f"few_{n}", 1, n) for n in sizes}
    for run in runs.values():
        report = read_json(run / "report" / "report.json")
        report["provenance"]["config"] = study.config(study.overlay(run.name)).model_dump(mode="json")
        write_json(run / "report" / "report.json", report)

    def drawn() -> set[int]:
        return {*pd.read_csv(summarise(study) / "curves.csv")["train_events"]}

    assert drawn() == {*sizes}
    assert capsys.readouterr().out == ""
    changed = [TREE | {"train_events": 50}, TREE | {"train_events": 100, "settings": {"bdt": {"max_rounds": 9}}}]
    study = read_study(write_table(tmp_path, *changed, TREE | {"train_events": 200}))
    (runs[200] / "models" / "bdt" / "training.json").write_text("{")
    assert drawn() == {50}
    first, second = capsys.readouterr().out.splitlines()
    assert re.match(r"curves without few_100: .*: made with other settings \(bdt.max_rounds was 1000, is 9\)", first)
    assert re.match(r"curves without few_200: .*bdt/training\.json: ", second)


def test_runs_with_other_test_events_are_no_points_of_one_curve(tmp_path):
    runs = [finished(tmp_path / "a", 1, 50), finished(tmp_path / "b", 1, 100)]
    table = pd.read_parquet(runs[1] / "events.parquet")
    table[table["event_id"] != table["event_id"][table["split"] == "test"].iloc[0]].to_parquet(
        runs[1] / "events.parquet"
    )
    with pytest.raises(InputError, match=r"a and .*b: have other test events"):
        make_curves([*map(read_point, runs)])


def test_the_page_has_the_tables_of_its_data(tmp_path):
    page = REPOSITORY / "docs" / "study.md"
    copy = tmp_path / "study.md"
    copy.write_text(page.read_text())
    folder = tmp_path / "study"
    folder.mkdir()
    for file in (REPOSITORY / "docs" / "study").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    write_page(folder, copy)
    assert copy.read_text() == page.read_text(), "make study-page"
    assert all(
        (folder / name).read_bytes() == (page.parent / "study" / name).read_bytes()
        for name in ("curves.csv", "fits.csv")
    )
    assert (page.parent / "study" / "curves.svg").is_file()


SMALL = {
    "conditions": ["nominal"],
    "report": {"browser": 0, "explain": 0},
    "cnn": {"recipes": {"tuned": {"max_epochs": 4}}},
}


def start(folder: Path, table: Path) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(folder / "workflow" / "src")}
    command = [sys.executable, "-m", "nuvlm.workflow.study", str(table)]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


RECORD = """#!{python}
import sys
from pathlib import Path

target, run = sys.argv[5], Path(sys.argv[-1]).parent.name
with open("started", "a") as file:
    print(run, target, file=file)
sys.exit(run in {failing})
"""


def in_place_of_snakemake(folder: Path, script: str, *arguments: object) -> list[str]:
    """The command of a study that starts a script instead of `python -m snakemake`."""
    path = folder / "snakemake"
    path.write_text(script)
    path.chmod(0o755)
    driver = "import sys; sys.executable = sys.argv[1]; from nuvlm.workflow.study import main; main(sys.argv[2:])"
    return [sys.executable, "-c", driver, str(path), *map(str, arguments)]


@pytest.mark.slow
@pytest.mark.parametrize("failing", [(), ("few",)])
def test_a_run_waits_for_the_run_whose_voxels_it_takes(tmp_path, failing):
    events = {"fine": {"voxels_of": "few", "display": {"pixel_mm": 10}}, "few": {}}
    points = [TREE | {"events": "fine"}, TREE]
    table = write_table(tmp_path, *points, events=events)
    script = RECORD.format(python=sys.executable, failing=failing)
    command = in_place_of_snakemake(tmp_path, script, table, "--points", "fine_all")
    study = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    started = (tmp_path / "started").read_text().splitlines()
    every = ["few pixelmaps", "fine pixelmaps", "fine_all all"]
    assert started == (every[:1] if failing else every), study.stdout + study.stderr


SNAKEMAKE = """#!{python}
import os, signal, sys, time

def log(text):
    with open("signals", "a") as file:
        file.write(text)

signal.signal(signal.SIGTERM, lambda number, frame: log("T"))
log("ready ")
deadline = time.monotonic() + 60
while "T" not in open("signals").read() and time.monotonic() < deadline:
    time.sleep(0.01)
time.sleep(1)  # for a second one
sys.exit(1)
"""


@pytest.mark.slow
def test_a_second_signal_does_not_reach_jobs(tmp_path):
    """It would kill the workers of a training before they have written their checkpoint."""
    command = in_place_of_snakemake(tmp_path, SNAKEMAKE.format(python=sys.executable), write_table(tmp_path, TREE))
    study = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    signals, deadline = tmp_path / "signals", time.monotonic() + 60
    for number, wanted in ((signal.SIGINT, "ready "), (signal.SIGTERM, "ready T"), (signal.SIGINT, "ready T")):
        while not (signals.is_file() and signals.read_text() == wanted) and time.monotonic() < deadline:
            time.sleep(0.01)
        study.send_signal(number)
    output = study.communicate(timeout=60)[0]
    assert signals.read_text() == "ready T"
    assert study.returncode == 1
    assert "stopped; start again to go on" in output


def processes_in(folder: Path) -> list[str]:
    """Command lines of the processes that run in a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cwd").readlink() == folder:
                found.append((entry / "cmdline").read_text())
        except OSError:
            continue
    return found


def outcome(folder: Path) -> dict[str, object]:
    """What a study has made, without times."""
    curves = pd.read_csv(folder / "results/trial/curves/curves.csv").drop(columns="train_seconds")
    weights = sorted((folder / "results").glob("few_*/models/*/model.safetensors"))
    events = sorted((folder / "results").glob("*/events.parquet"))
    return {"curves": curves.to_csv()} | {str(path.relative_to(folder)): sha256(path) for path in [*weights, *events]}


@pytest.mark.workflow
@pytest.mark.long
def test_a_study_that_is_stopped_goes_on_and_ends_as_an_undisturbed_one(tmp_path):
    tuned = {"events": "few", "models": ["bdt", "cnn_tuned"], "settings": SMALL}
    points = [tuned | {"train_events": 25, "seeds": 2}, tuned]
    study = {"configuration": ["config/config.yaml", str(SETTINGS)], "events": {"few": {}}}
    folders = [copy_workflow(tmp_path / name) for name in ("stopped", "undisturbed")]
    tables = [write_table(folder, *points, **study) for folder in folders]
    stopped = start(folders[0], tables[0])
    checkpoint = folders[0] / "results/few_25/checkpoints"
    deadline = time.monotonic() + 600
    while not (checkpoint.is_dir() and any(checkpoint.iterdir())) and time.monotonic() < deadline:
        assert stopped.poll() is None, stopped.stdout.read().decode()
        time.sleep(0.05)
    stopped.send_signal(signal.SIGTERM)
    output = stopped.communicate(timeout=300)[0].decode()
    assert stopped.returncode == 1
    assert "stopped; start again to go on" in output
    assert "2 points are not finished" in output
    assert processes_in(folders[0]) == [], "no job goes on alone"
    for folder, table in zip(folders, tables, strict=True):
        again = start(folder, table)
        text = again.communicate()[0].decode()
        assert again.returncode == 0, text
    assert "few_25, 1 of 2: bdt, cnn_tuned" in text
    assert outcome(folders[0]) == outcome(folders[1])
    assert (folders[0] / "results/trial/curves/curves.svg").is_file()
