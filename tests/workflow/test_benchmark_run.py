"""The benchmark of explanations from simulated events to scores, at a small size."""

from pathlib import Path

import pytest

from explanations_on_disk import benchmark_definition
from nuvlm.base.files import read_json
from nuvlm.evaluation.benchmark import baselines, events, score
from paths import REPOSITORY

pytestmark = pytest.mark.workflow


def test_a_small_version_from_its_events_to_scores(tiny_run: Path, tmp_path: Path) -> None:
    """Events and models of the tiny run: truth and maps, baselines of trees and of the VLM, scores."""
    run = tiny_run / "results" / "tiny"
    folder = run / "benchmark"
    file = tmp_path / "definition.yaml"
    texts = ["--definition", str(file), "--vocabulary", str(REPOSITORY / "resources" / "rationales.yaml")]

    def define(digest: str | None) -> None:
        benchmark_definition(file, maps={"size": 64}, per_class=8, simulated=90, truth_sha256=digest)

    define(None)
    events.main([str(run), *texts])
    with pytest.raises(SystemExit, match="Set it to") as error:
        score.main(["none.jsonl", "--events", str(folder), *texts])
    define(str(error.value).split("Set it to ")[1][:64])
    events.main([str(run), *texts])
    assert len(list((folder / "maps").glob("v2-*_xz.png"))) == 90

    def scores(baseline: str, *options: str) -> dict:
        out = tmp_path / f"{baseline}.jsonl"
        files = ["--events", str(folder), *texts]
        baselines.main([baseline, "--run", str(run), "--out", str(out), *files, *options])
        score.main([str(out), *files])
        return read_json(out.with_suffix(".scores.json"))

    assert scores("prior")["right"]["beyond_same_class"] == pytest.approx(0, abs=1e-9)
    assert scores("template")["text"]["understood_share"] == 1
    answered = scores("constant", "--classes", str(tmp_path / "template.jsonl"))
    assert answered["class"] == scores("template")["class"]
    with pytest.raises(SystemExit, match=r"has no explanation of v2-.*models_from"):
        scores("vlm")  # the tiny run explains only some events

    define(64 * "0")
    with pytest.raises(SystemExit, match="is not that of version 2"):
        events.main([str(run), *texts])
