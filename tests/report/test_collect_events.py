"""Which events can be browsed, and whether they are as they were seen."""

import base64
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from explanations_on_disk import SIZE, write_explanations, write_saliency
from nuvlm.base.errors import InputError
from nuvlm.base.files import read_json
from nuvlm.base.stores import open_store, write_store
from nuvlm.evaluation.samples import Sample
from nuvlm.report.collect_events import CELLS, CORRECT, DISAGREE, NO_TRUTH, WRONG, collect_events, rank
from nuvlm.report.sparse import decode
from nuvlm.sources.ready_maps import WIRES_AND_TIME, PixelMap, PixelMapWriter
from run_on_disk import PIXEL_MM, Run, sample_of, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return write_run(tmp_path_factory.mktemp("run"), n=80)


def _nominal(run: Run) -> dict[str, list[Path]]:
    return {model: conditions["nominal"] for model, conditions in run.predictions.items()}


def _collect(run: Run, out: Path, count: int = 600, **options: object) -> dict:
    collect_events(run.events, _nominal(run), run.displays, count, out, seed=7, **options)
    return read_json(out)


def _sample(truth: list[int], answers: list[tuple[int, float]]) -> Sample:
    """A sample in which each event is taken for a class with a probability, the rest shared by the others."""
    p = np.array(
        [[confidence if k == taken else (1 - confidence) / 2 for k in range(3)] for taken, confidence in answers]
    )
    return sample_of(np.array(truth), p.argmax(axis=1), p)


def test_the_worst_mistakes_lead() -> None:
    truth = [0, 0, 0, 1, 0]
    first = _sample(truth, [(1, 0.7), (1, 0.99), (0, 0.9), (1, 0.8), (0, 0.6)])
    second = _sample(truth, [(1, 0.7), (1, 0.99), (1, 0.9), (1, 0.9), (0, 0.6)])
    assert rank([first, second]) == [(1, WRONG), (0, WRONG), (2, DISAGREE), (4, CORRECT), (3, CORRECT)]


def test_without_truth_the_least_sure_lead() -> None:
    sample = _sample([-1, -1], [(0, 0.9), (1, 0.5)])
    assert rank([sample]) == [(1, NO_TRUTH), (0, NO_TRUTH)]


@pytest.mark.slow
def test_every_entry_is_its_event(run: Run, tmp_path: Path) -> None:
    collected = _collect(run, tmp_path / "events.json")
    events = pd.read_parquet(run.events).set_index("event_id")
    answers = pd.concat([pd.read_parquet(path) for path in run.predictions["vlm"]["nominal"]]).set_index("event_id")
    test = events.index[(events["split"] == "test").fillna(False)]
    assert {entry["event_id"] for entry in collected["events"]} == set(test)
    assert collected["available"] == len(test)
    steps = np.array([0, *collected["scale"]["values"]])
    for entry in collected["events"]:
        event = events.loc[entry["event_id"]]
        assert entry["truth"] == event["class"]
        assert entry["nu_energy_gev"] == pytest.approx(event["nu_energy"])
        assert entry["vertex_cm"][2] == pytest.approx(event["vertex_z_mm"] / 10)
        assert entry["models"]["vlm"]["p"]["nc"] == pytest.approx(answers.loc[entry["event_id"], "p_nc"])
        store = open_store(run.displays[entry["shard"]], "nuvlm-displays")
        for view, text in zip(collected["frame"]["views"], entry["pixels"], strict=True):
            image = store[view["name"]][int(event["row"])]
            assert steps[decode(text, tuple(view["shape"]))] == pytest.approx(image, rel=collected["scale"]["rounding"])


def test_of_many_events_half_are_mistakes_and_half_a_sample(run: Run, tmp_path: Path) -> None:
    everything = _collect(run, tmp_path / "all.json")["events"]
    collected = _collect(run, tmp_path / "events.json", 12)
    assert len(collected["events"]) == 12
    assert collected["available"] == len(everything)
    wrong = [entry for entry in collected["events"] if entry["outcome"] != CORRECT]
    assert 6 <= len(wrong) < 12, "a fair sample holds events that both get right"
    ranks = {entry["event_id"]: i for i, entry in enumerate(everything)}
    order = [ranks[entry["event_id"]] for entry in collected["events"]]
    assert order == sorted(order)
    assert _collect(run, tmp_path / "none.json", 0)["events"] == []


def test_what_is_too_large_is_drawn_coarser(run: Run, tmp_path: Path) -> None:
    fine, coarse = (_collect(run, tmp_path / "events.json", budget=budget) for budget in (10_000_000, 1))
    step = coarse["scale"]["step"]
    assert step > fine["scale"]["step"] == 1
    assert coarse["frame"]["pixel"] == fine["frame"]["pixel"] * step
    for small, large in zip(coarse["events"], fine["events"], strict=True):
        energies = [
            np.array([0, *one["scale"]["values"]])[
                decode(entry["pixels"][0], tuple(one["frame"]["views"][0]["shape"]))
            ].sum()
            for one, entry in ((coarse, small), (fine, large))
        ]
        assert energies[0] == pytest.approx(energies[1], rel=0.03), "energies add up"


def test_explained_events_come_with_their_rationales_and_where_the_cnn_looks(tmp_path: Path) -> None:
    run = write_run(tmp_path, n=80)
    rationales = write_explanations(run, tmp_path)
    table = pd.read_parquet(rationales["vlm"][0])
    explained = set(table["event_id"][:40])
    table[table["event_id"].isin(explained)].to_parquet(rationales["vlm"][0])
    saliency, maps = write_saliency(run, tmp_path)
    found = {"explanations": {"vlm": rationales["vlm"][:1]}, "saliency": {"cnn": saliency}, "pixel_maps": maps}
    collected = _collect(run, tmp_path / "events.json", **found)
    events = pd.read_parquet(run.events).set_index("event_id")
    seen = 0
    for entry in collected["events"]:
        event, rationale = events.loc[entry["event_id"]], entry["explanations"]["vlm"]
        assert bool(rationale) == (entry["event_id"] in explained)
        for view, placed in zip(collected["frame"]["views"], entry["saliency"]["cnn"], strict=True):
            cells = np.frombuffer(base64.b64decode(placed["cells"]), np.uint8)
            n = int(len(cells) ** 0.5)
            assert n <= CELLS
            assert placed["side"] == pytest.approx(SIZE * PIXEL_MM / 10)
            row, column = np.unravel_index(cells.argmax(), (n, n))
            # The spot is five pixels up and right of the vertex' pixel; a cell is two pixels wide.
            for at, axis in (
                (placed["x"] + (column + 0.5) * placed["side"] / n, view["axes"][0]),
                (placed["y"] + (row + 0.5) * placed["side"] / n, view["axes"][1]),
            ):
                assert at - entry["vertex_cm"][axis] == pytest.approx(5 * PIXEL_MM / 10, abs=PIXEL_MM / 10)
        if not rationale:
            continue
        seen += 1
        assert [one["picture"] for one in rationale] == ["nominal", "text_only"]
        blind = {claim["statement"]: claim["right"] for claim in rationale[1]["claims"]}
        assert blind == {
            "track": event["track_mm"] > 0,
            "track_cm": 400 <= event["track_mm"] <= 2000 / 3,
            "shower": event["shower_mev"] == 0,
            "charged": event["charged"] == 2,
        }
    assert seen > 0


def test_a_display_that_is_another_event_is_refused(run: Run, tmp_path: Path) -> None:
    n = 40
    ids = np.arange(n, dtype=np.uint64)
    attributes = {"format": "nuvlm-displays", "version": 1, "pixel_mm": 50.0, "origin_mm": [-1000.0, -1000.0, 0.0]}
    arrays = {"xz": np.ones((n, 4, 4), np.float32), "yz": np.ones((n, 4, 4), np.float32), "event_id": ids}
    write_store(tmp_path / "first.zarr", arrays, attributes)
    displays = {"first": tmp_path / "first.zarr", "second": tmp_path / "first.zarr"}
    with pytest.raises(InputError, match=r"first\.zarr: row \d+ is not event \d+"):
        _collect(Run(run.events, run.predictions, displays, run.training), tmp_path / "events.json")


def _pixel_maps(run: Run, folder: Path) -> Run:
    """The run, with pixel maps made elsewhere: three views, the event's id as grey value."""
    events = pd.read_parquet(run.events)
    stores = {}
    for shard, rows in events.groupby("shard"):
        maps = []
        for i in rows["event_id"].astype(int).tolist():
            images = np.zeros((3, 16, 16), np.uint8)
            images[:, 2:9, 3] = max(i % 256, 1)
            maps.append(PixelMap(str(i), i, images))
        stores[str(shard)] = folder / f"{shard}.zarr"
        PixelMapWriter(store=stores[str(shard)], truth=folder / f"{shard}.parquet").write(
            folder, maps, len(maps), source="cvn", views=["u", "v", "z"], axes=WIRES_AND_TIME
        )
    events.assign(visible_energy=np.nan).to_parquet(folder / "events.parquet")
    return Run(folder / "events.parquet", run.predictions, stores, run.training)


def test_pixel_maps_made_elsewhere_are_shown_themselves(run: Run, tmp_path: Path) -> None:
    maps = _pixel_maps(run, tmp_path)
    collected = _collect(maps, tmp_path / "events.json", displays=False)
    frame = collected["frame"]
    assert (frame["drawn"], frame["pixel"]) == ("pixel map", 1)
    labels = [(view["name"], view["x"], view["y"], view["units"], view["axes"], view["up"]) for view in frame["views"]]
    assert labels == [(name, "wire", "time tick", [1, 1], None, True) for name in "uvz"]
    for entry in collected["events"]:
        assert entry["visible_energy_gev"] is None
        for text in entry["pixels"]:
            image = decode(text, (16, 16))
            assert set(np.unique(image)) == {0, max(entry["event_id"] % 256, 1)}
            assert (image > 0).sum() == 7
    first, second = maps.displays
    swapped = {first: maps.displays[second], second: maps.displays[first]}
    with pytest.raises(InputError, match=r"zarr: row \d+ is not event \d+"):
        _collect(Run(maps.events, run.predictions, swapped, run.training), tmp_path / "events.json", displays=False)


def test_an_event_without_charge_is_kept(run: Run, tmp_path: Path) -> None:
    events = pd.read_parquet(run.events)
    displays = {}
    for shard, rows in events.groupby("shard"):
        ids = rows["event_id"].to_numpy(np.uint64)
        empty = np.zeros((len(ids), 4, 6), np.float32)
        attributes = {"format": "nuvlm-displays", "version": 1, "pixel_mm": 50.0, "origin_mm": [0.0, 0.0, 0.0]}
        displays[str(shard)] = tmp_path / f"{shard}.zarr"
        write_store(displays[str(shard)], {"xz": empty, "yz": empty, "event_id": ids}, attributes)
    collected = _collect(Run(run.events, run.predictions, displays, run.training), tmp_path / "events.json")
    assert all(entry["pixels"] == ["", ""] for entry in collected["events"])
