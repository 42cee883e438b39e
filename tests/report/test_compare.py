"""Two runs side by side: paired on the same events, unpaired on others, and what only one of them has."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nuvlm.base.errors import InputError
from nuvlm.base.files import write_json
from nuvlm.report.compare import compare_runs, main, read_run, settings_that_differ
from nuvlm.workflow.config import Config
from run_on_disk import write_run

SKILLS = {"cnn_tuned": 1.6, "vlm": 0.9}
CONFIG = Config().model_dump(mode="json")


def finished(folder: Path, seed: int = 1, config: dict = CONFIG, skills: dict[str, float] = SKILLS) -> Path:
    """A run with as much of a report as is read of it."""
    run = write_run(folder, seed=seed, models=skills)
    cost = {"ms_per_sample": 4.0, "joules_per_sample": None, "peak_memory_mb": 300.0}
    provenance = {"date": "2026-01-01T00:00:00+00:00", "commit": "abc", "uncommitted_changes": False, "config": config}
    report = {
        "format": "nuvlm-report",
        "scores": {model: {key: {} for key in result} for model, result in run.predictions.items()},
        "cost": dict.fromkeys(skills, cost),
        "provenance": provenance,
    }
    write_json(folder / "report" / "report.json", report)
    return folder


def accuracies(folder: Path, model: str, condition: str = "nominal") -> np.ndarray:
    """Whether each test event is right, straight from the tables."""
    parts = sorted((folder / "predictions" / model / condition).glob("*.parquet"))
    table = pd.concat(pd.read_parquet(path) for path in parts)
    events = pd.read_parquet(folder / "events.parquet")
    events = events[(events["split"] == "test").fillna(False)]
    table = events[["shard", "event_id"]].merge(table, on=["shard", "event_id"])
    return (table["predicted"] == table["class"]).to_numpy(bool)


def of(found: dict, model: str, condition: str = "nominal") -> dict:
    (item,) = [item for item in found["differences"] if (item["model"], item["condition"]) == (model, condition)]
    return item


def test_a_run_beside_itself_differs_in_nothing(tmp_path: Path) -> None:
    run = read_run(finished(tmp_path / "a"))
    found = compare_runs(run, run, resamples=50)
    assert found["paired"]
    assert found["settings"] == found["only_first"] == found["only_second"] == []
    assert len(found["differences"]) == 3 + 4, "permuted labels are for the VLM only"
    for item in found["differences"]:
        for quantity in ("accuracy", "precision", "recall", "auc"):
            assert item[quantity]["difference"] == 0
            assert item[quantity]["difference_interval"] == [0, 0]
        assert item["mcnemar"]["p_value"] == 1


def test_the_same_events_are_paired(tmp_path: Path) -> None:
    """Swapped models, so that it is known which run is better."""
    one, other = finished(tmp_path / "a"), finished(tmp_path / "b")
    (other / "predictions" / "vlm").rename(other / "away")
    (other / "predictions" / "cnn_tuned").rename(other / "predictions" / "vlm")
    (other / "away").rename(other / "predictions" / "cnn_tuned")
    (other / "predictions" / "cnn_tuned" / "labels_permuted").rename(other / "left")
    report = json.loads((other / "report" / "report.json").read_text())
    report["scores"]["vlm"] = report["scores"]["cnn_tuned"]
    write_json(other / "report" / "report.json", report)
    found = compare_runs(read_run(one), read_run(other), resamples=400)
    assert found["paired"]
    before, after = accuracies(one, "vlm"), accuracies(one, "cnn_tuned")
    result = of(found, "vlm")
    assert result["accuracy"]["first"] == pytest.approx(before.mean())
    assert result["accuracy"]["second"] == pytest.approx(after.mean())
    assert result["accuracy"]["difference"] == pytest.approx(after.mean() - before.mean())
    low, high = result["accuracy"]["difference_interval"]
    assert 0 < low < after.mean() - before.mean() < high
    assert result["mcnemar"]["only_first"] == (after & ~before).sum(), "first is the second run, as in the difference"
    assert result["mcnemar"]["p_value"] < 0.05
    spread = np.std(after.astype(float) - before) / np.sqrt(len(before))
    assert high - low == pytest.approx(2 * 1.96 * spread, rel=0.15)
    assert found["only_first"] == [["vlm", "labels_permuted"]]


def test_order_of_events_does_not_matter(tmp_path: Path) -> None:
    one, other = finished(tmp_path / "a"), finished(tmp_path / "b")
    pd.read_parquet(other / "events.parquet").iloc[::-1].to_parquet(other / "events.parquet", index=False)
    found = compare_runs(read_run(one), read_run(other), resamples=20)
    assert of(found, "vlm")["mcnemar"]["only_first"] == of(found, "vlm")["mcnemar"]["only_second"] == 0


def test_other_events_of_the_same_names_are_not_paired(tmp_path: Path) -> None:
    one, other = finished(tmp_path / "a"), finished(tmp_path / "b", seed=2)
    found = compare_runs(read_run(one), read_run(other), resamples=400)
    assert not found["paired"]
    result = of(found, "vlm")
    assert result["mcnemar"] is None
    a, b = accuracies(one, "vlm"), accuracies(other, "vlm")
    assert found["n"] == {"first": len(a), "second": len(b)}
    low, high = result["accuracy"]["difference_interval"]
    spread = np.sqrt(a.var() / len(a) + b.var() / len(b))
    assert high - low == pytest.approx(2 * 1.96 * spread, rel=0.15)
    assert low < b.mean() - a.mean() < high


def test_events_that_one_run_lacks_are_left_out(tmp_path: Path) -> None:
    one, other = finished(tmp_path / "a"), finished(tmp_path / "b")
    events = pd.read_parquet(other / "events.parquet")
    test = (events["split"] == "test").fillna(False)
    events.loc[test & (np.arange(len(events)) % 4 == 0), "split"] = "validation"
    events.to_parquet(other / "events.parquet", index=False)
    found = compare_runs(read_run(one), read_run(other), resamples=20)
    assert found["paired"]
    kept = int((events["split"] == "test").sum())
    assert found["n"] == {"first": kept, "second": kept}
    assert found["runs"]["first"]["test_events"] == int(test.sum()) > kept


def test_settings_that_differ_are_named() -> None:
    other = {**CONFIG, "pixelmap": {**CONFIG["pixelmap"], "size": 64}, "added": {"deep": [1]}}
    assert settings_that_differ(CONFIG, other) == [
        {"key": "pixelmap.size", "first": 512, "second": 64},
        {"key": "added.deep", "first": None, "second": [1]},
    ]


def test_the_page_and_the_text_say_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = {**CONFIG, "vlm": {**CONFIG["vlm"], "prompts": "<script>alert(1)</script>"}}
    one = finished(tmp_path / "one", skills=SKILLS | {"bdt": 1.0})
    other = finished(tmp_path / "other", config=evil)
    main([str(one), str(other), "--out", str(tmp_path / "out")])
    text, page = capsys.readouterr().out, (tmp_path / "out" / "index.html").read_text()
    found = json.loads((tmp_path / "out" / "compare.json").read_text())
    plain = re.sub(r"<[^>]+>", "", page)
    for item in found["differences"]:
        value = f"{item['accuracy']['first']:.3f}"
        assert value in text
        assert value in plain
    assert "only in one: BDT under blank, BDT under half resolution, BDT under nominal" in text
    assert "Only in one: BDT under blank" in plain
    assert "vlm.prompts" in text
    assert "vlm.prompts" in plain
    assert "alert(1)" in page
    assert "<script" not in page
    assert not re.search(r'(?:src|href)="(?!#)(?!data:)', page)
    assert set(found["cost"]) == set(SKILLS)
    assert found["runs"]["first"]["name"] == "one"


def test_what_is_no_finished_run_is_refused(tmp_path: Path) -> None:
    run = finished(tmp_path / "a")
    with pytest.raises(SystemExit, match="no finished run"):
        main([str(run), str(tmp_path / "none")])
    bare = write_run(tmp_path / "b", n=12, labelled=0, models=SKILLS).events.parent
    (bare / "report").mkdir()
    (bare / "report" / "report.json").write_text((run / "report" / "report.json").read_text())
    with pytest.raises(InputError, match="nothing to compare"):
        compare_runs(read_run(run), read_run(bare))
    found = read_run(run).predictions
    folder = run / "predictions" / "vlm" / "nominal"
    shutil.copy(folder / "0.parquet", folder / "2.parquet")  # of an earlier run with more parts
    assert read_run(run).predictions == found
    (folder / "1.parquet").unlink()
    with pytest.raises(InputError, match="vlm/nominal: no predictions"):
        read_run(run)
