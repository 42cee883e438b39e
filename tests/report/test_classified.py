"""The summary at the end of make classify: counts, confidences, and what was left out."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from nuvlm.base.classes import CLASSES
from nuvlm.base.errors import InputError
from nuvlm.models.predictions import read_predictions
from nuvlm.report.classified import count_classes, list_warnings, main, render
from run_on_disk import write_run


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """Results as a run leaves them: predictions of two models, and the log of a conversion."""
    write_run(tmp_path)
    log = tmp_path / "logs" / "convert" / "mine.log"
    log.parent.mkdir(parents=True)
    log.write_text(
        "2026-01-02 03:04:05,678 INFO nuvlm.sources.shard_writer: mine.h5: 3 events\n"
        "2026-01-02 03:04:05,679 WARNING nuvlm.sources.shard_writer: mine.h5: 2 of 5 events left out\n"
        "2026-01-02 03:04:05,680 WARNING nuvlm.sources.shard_writer: mine.h5: 2 of 5 events left out\n"
    )
    return tmp_path


def test_every_event_is_counted_with_its_confidence(finished: Path) -> None:
    counts = count_classes(finished)
    models = sorted((finished / "predictions").iterdir())
    assert len(counts) == len(models)
    for (_, row), folder in zip(counts.iterrows(), models, strict=True):
        table = read_predictions(sorted(folder.glob("nominal/*.parquet")))
        assert sum(row[name, "events"] for name in CLASSES) == len(table)
        for name in CLASSES:
            chosen = table[table["predicted"] == name]
            np.testing.assert_allclose(row[name, "confidence"], chosen[f"p_{name}"].mean())


def test_parts_of_an_earlier_run_are_not_counted(finished: Path) -> None:
    counts = count_classes(finished)
    for table in finished.glob("predictions/*/nominal/1.parquet"):
        shutil.copy(table, table.with_name("2.parquet"))
    assert count_classes(finished).equals(counts)


def test_what_was_left_out_is_said_once(finished: Path) -> None:
    assert list_warnings(finished) == ["mine.h5: 2 of 5 events left out"]
    text = render(finished)
    assert text.count("2 of 5 events left out") == 1
    assert "VLM" in text


def test_a_folder_without_predictions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there are no predictions in it"):
        count_classes(tmp_path)
    with pytest.raises(SystemExit, match="Finish the run"):
        main([str(tmp_path)])
