"""The benchmark on folds of DUNE CVN maps: its folds, its numbers, and that what is there is not made again."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pandas as pd
import pytest

from nuvlm.base.classes import CLASSES
from nuvlm.base.errors import InputError
from nuvlm.evaluation.intervals import binomial_interval
from paths import REPOSITORY

pytestmark = pytest.mark.slow

WORDS = ("nue", "numu", "nc", "nutau")
SIZE, EVENTS = 41, 64


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    """benchmarks/cvn_folds.py; benchmarks are no package."""
    spec = importlib.util.spec_from_file_location("cvn_folds", REPOSITORY / "benchmarks" / "cvn_folds.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["cvn_folds"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 events of our classes and 16 of none; a blob, a bar or a dot tells which."""
    path = tmp_path_factory.mktemp("cvn") / "maps.h5"
    rng = np.random.default_rng(4)
    images = np.zeros((EVENTS, 3, SIZE, SIZE), dtype=np.uint8)
    for event, image in enumerate(images):
        row, column = rng.integers(0, 12, 2)
        height, width = ((9, 9), (1, 28), (2, 2), (3, 15))[event % 4]
        image[:, column : column + width, row : row + height] = 200
    with h5py.File(path, "w") as file:
        file["images"] = images
        file["class"] = np.array([WORDS[event % 4] for event in range(EVENTS)], dtype="S")
    return path


@pytest.fixture
def folds(benchmark, maps, tmp_path):
    files = [REPOSITORY / "config" / name for name in ("config.yaml", "dune_cvn.yaml")]
    tiny = tmp_path / "tiny.yaml"
    tiny.write_text(
        "bdt: {min_events_leaf: 2, patience: 3}\n"
        "vlm: {scratch: {steps: 2, vision_layers: 1, text_layers: 2, image_size: 56}, finetune: {epochs: 1}}\n"
    )
    return benchmark.Folds(maps, tmp_path / "work", benchmark.read_config(*files, tiny), folds=2)


def test_every_labelled_event_is_tested_once_and_never_trained_on_in_its_fold(benchmark):
    events = pd.DataFrame({"shard": "a", "row": np.arange(103), "event_id": np.arange(103) + 1000})
    labels = [CLASSES[i % 3] if i < 100 else pd.NA for i in range(103)]
    events["class"] = pd.Series(labels, dtype="string")
    tables = benchmark.fold_tables(events, 5, 0.15, 7)
    tested = np.concatenate([table.loc[table["split"] == "test", "event_id"] for table in tables])
    np.testing.assert_array_equal(np.sort(tested), np.arange(100) + 1000)
    for table in tables:
        assert table["split"].value_counts().to_dict() == {"train": 65, "test": 20, "validation": 15}
        assert ((table["part"] == 0) == (table["split"] == "test")).all()
        counts = pd.crosstab(table["split"], table["class"])
        assert (counts.max(axis=1) - counts.min(axis=1)).max() <= 2, "as many of each class"
    again = benchmark.fold_tables(events, 5, 0.15, 7)
    assert all(a.equals(b) for a, b in zip(tables, again, strict=True))


@pytest.mark.long
def test_all_models_answer_for_every_event_and_only_what_is_lacking_is_made(benchmark, folds):
    result = benchmark.measure(folds, ["bdt", "vlm"])
    assert result["events"] == {"nue_cc": 16, "numu_cc": 16, "nc": 16}
    tree, vlm = result["models"]["bdt"], result["models"]["vlm"]
    assert tree["accuracy"] > 0.9, "a glance tells these apart"
    assert np.sum(tree["confusion"]) == np.sum(vlm["confusion"]) == 48
    assert tree["interval"] == binomial_interval(tree["right"], 48)
    assert np.mean(tree["in_folds"]) == pytest.approx(tree["accuracy"])
    (pair,) = result["comparisons"]
    assert pair["both"] + pair["only_first"] == tree["right"]
    assert pair["both"] + pair["only_second"] == vlm["right"]
    assert "| bdt | " in benchmark.table_of(result)

    kept = {path: path.stat().st_mtime_ns for path in folds.work.rglob("*.parquet")}
    lost = folds.work / "bdt" / "1.parquet"
    lost.unlink()
    assert benchmark.measure(folds, ["bdt", "vlm"])["models"] == result["models"]
    made = {path for path, time in kept.items() if path.stat().st_mtime_ns != time}
    assert made == {lost}


def test_answers_of_another_file_or_of_other_settings_are_refused(benchmark, folds, tmp_path):
    benchmark.measure(folds, ["bdt"])
    other = benchmark.Folds(folds.file, folds.work, folds.config, folds=3)
    with pytest.raises(InputError, match="work: was made of another file or with other settings"):
        benchmark.measure(other, ["bdt"])
    tree = folds.config.bdt.model_copy(update={"max_leaves": 4})
    changed = benchmark.Folds(folds.file, folds.work, folds.config.model_copy(update={"bdt": tree}), folds=2)
    with pytest.raises(InputError, match="work/bdt: was made of"):
        benchmark.measure(changed, ["bdt"])


def test_scores_are_those_counted_by_hand(benchmark):
    answers = pd.DataFrame(
        {
            "class": ["nue_cc", "nue_cc", "nue_cc", "numu_cc", "nc", "nc"],
            "predicted": ["nue_cc", "nc", "nue_cc", "numu_cc", "nue_cc", "nc"],
            "fold": [0, 0, 0, 1, 1, 1],
        }
    )
    found = benchmark.score(answers)
    assert (found["right"], found["accuracy"]) == (4, pytest.approx(4 / 6))
    assert found["in_folds"] == pytest.approx([2 / 3, 2 / 3])
    assert found["spread"] == pytest.approx(0)
    assert {label: recall["value"] for label, recall in found["recall"].items()} == pytest.approx(
        {"nue_cc": 2 / 3, "numu_cc": 1, "nc": 0.5}
    )
    assert found["confusion"] == [[2, 0, 1], [0, 1, 0], [1, 0, 1]]
