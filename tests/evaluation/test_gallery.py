"""Which events the gallery shows, and whether it shows them as they are."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from explanations_on_disk import write_explanations, write_looks
from nuvlm.errors import InputError
from nuvlm.evaluation.gallery import CORRECT, DISAGREE, NO_TRUTH, WRONG, Display, choose, draw_display, draw_gallery
from nuvlm.evaluation.mapview import draw_maps
from nuvlm.evaluation.samples import Sample
from nuvlm.evaluation.style import HEAT, HEAT_LEVELS
from nuvlm.sources.maps import PixelMap, write_maps
from nuvlm.storage import read_json, write_store
from run_on_disk import Run, sample_of, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return write_run(tmp_path_factory.mktemp("run"), n=80)


def _nominal(run: Run) -> dict[str, list[Path]]:
    return {model: conditions["nominal"] for model, conditions in run.predictions.items()}


def _sample(truth: list[int], answers: list[tuple[int, float]]) -> Sample:
    """A sample in which each event is taken for a class with a probability, the rest shared by the others."""
    p = np.array(
        [[confidence if k == taken else (1 - confidence) / 2 for k in range(3)] for taken, confidence in answers]
    )
    return sample_of(np.array(truth), p.argmax(axis=1), p)


def test_the_worst_failures_lead() -> None:
    truth = [0, 0, 0, 1, 2, 0]
    first = _sample(truth, [(1, 0.7), (1, 0.99), (0, 0.9), (1, 0.8), (2, 0.9), (0, 0.6)])
    second = _sample(truth, [(1, 0.7), (1, 0.99), (1, 0.9), (1, 0.9), (2, 0.9), (0, 0.6)])
    assert choose([first, second], 6) == [
        (1, WRONG),
        (0, WRONG),
        (2, DISAGREE),
        (5, CORRECT),
        (3, CORRECT),
        (4, CORRECT),
    ]


def test_each_kind_has_its_share() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(3, size=600).tolist()
    samples = [_sample(truth, [(int(k), 0.8) for k in rng.integers(3, size=600)]) for _ in range(2)]
    outcomes = [outcome for _, outcome in choose(samples, 12)]
    assert outcomes == [WRONG] * 6 + [DISAGREE] * 3 + [CORRECT] * 3
    assert len({samples[0].truth[i] for i, outcome in choose(samples, 12) if outcome == CORRECT}) == 3


def test_a_perfect_model_leaves_no_place_empty() -> None:
    truth = [0, 1, 2, 0]
    sample = _sample(truth, [(k, 0.9) for k in truth])
    assert [outcome for _, outcome in choose([sample], 3)] == [CORRECT] * 3
    assert len(choose([sample], 50)) == 4
    assert choose([sample], 0) == []


def test_without_truth_the_least_sure_lead() -> None:
    sample = _sample([-1, -1], [(0, 0.9), (1, 0.5)])
    assert choose([sample], 2) == [(1, NO_TRUTH), (0, NO_TRUTH)]


def test_every_entry_is_its_event(run: Run, tmp_path: Path) -> None:
    draw_gallery(run.events, _nominal(run), run.displays, 5, tmp_path / "gallery.json")
    gallery = read_json(tmp_path / "gallery.json")["events"]
    events = pd.read_parquet(run.events).set_index("event_id")
    answers = pd.concat([pd.read_parquet(path) for path in run.predictions["vlm"]["nominal"]]).set_index("event_id")
    assert len(gallery) == 5
    for entry in gallery:
        event = events.loc[entry["event_id"]]
        assert event["split"] == "test"
        assert entry["truth"] == event["class"]
        assert entry["nu_energy_gev"] == pytest.approx(event["nu_energy"])
        assert entry["vertex_cm"][2] == pytest.approx(event["vertex_z_mm"] / 10)
        assert entry["models"]["vlm"]["p"]["nc"] == pytest.approx(answers.loc[entry["event_id"], "p_nc"])
        assert entry["svg"].startswith("<svg")


def test_explained_events_come_with_their_rationales_and_where_the_cnn_looks(tmp_path: Path) -> None:
    run = write_run(tmp_path, n=80)
    rationales = write_explanations(run, tmp_path)
    table = pd.read_parquet(rationales["vlm"][0])
    explained = set(table["event_id"][:40])
    table[table["event_id"].isin(explained)].to_parquet(rationales["vlm"][0])
    heat, maps = write_looks(run, tmp_path)
    out = tmp_path / "gallery.json"
    draw_gallery(
        run.events,
        _nominal(run),
        run.displays,
        200,
        out,
        explanations={"vlm": rationales["vlm"][:1]},
        heat=heat,
        pixel_maps=maps,
    )
    events = pd.read_parquet(run.events).set_index("event_id")
    gallery = read_json(out)["events"]
    assert {entry["event_id"] for entry in gallery} == explained & set(
        events.index[(events["split"] == "test").fillna(False)]
    )
    for entry in gallery:
        told, event = entry["explanations"]["vlm"], events.loc[entry["event_id"]]
        pictures = ["nominal", "text_only"] + ["without_shower"] * int(event["shower_mev"] > 0)
        assert [one["picture"] for one in told][:2] == pictures[:2]
        assert sorted(one["picture"] for one in told) == sorted(
            pictures + ["without_track"] * int(event["track_mm"] > 0)
        )
        blind = {claim["statement"]: claim["right"] for claim in told[1]["claims"]}
        assert blind == {
            "track": event["track_mm"] > 0,
            "track_cm": 400 <= event["track_mm"] <= 2000 / 3,
            "shower": event["shower_mev"] == 0,
            "charged": event["charged"] == 2,
        }
        assert entry["heat"] is True


def test_the_contours_lie_where_the_model_looks() -> None:
    heat = np.zeros((2, 48, 48), np.uint8)
    heat[:, 30, 20] = 255
    # Pixel (30, 20) of the map, 5 cm each, is centred on z = 502.5 cm and, as the vertex is, on x = 52.5, y = -72.5 cm.
    plain, drawn = (
        draw_display(_display(), "event"),
        draw_display(_display(), "event", heat, np.array([-100, -225, 400])),
    )
    assert HEAT not in plain
    assert drawn.count(HEAT) == 2 * len(HEAT_LEVELS)
    paths = re.findall(rf'<path d="([^"]+)"[^>]*stroke: {HEAT}', drawn)
    contours = [np.array(re.findall(r"(-?[\d.]+) (-?[\d.]+)", path), float) for path in paths]
    markers = re.findall(r'<use [^>]*x="([\d.]+)" y="([\d.]+)" style="fill: #ffffff', drawn)
    for view, (x, y) in enumerate(markers):
        for contour in contours[view * len(HEAT_LEVELS) :][: len(HEAT_LEVELS)]:
            right, down = (contour.min(axis=0) + contour.max(axis=0)) / 2 - (float(x), float(y))
            assert down == pytest.approx(0, abs=0.1)
            assert 0 < right < np.ptp(contours[0][:, 0]), "2.5 cm from the vertex, less than a pixel"
    flat = draw_display(_display(), "event", np.zeros((2, 48, 48), np.uint8), np.array([-100, -225, 400]))
    assert HEAT not in flat


def test_contours_on_pixel_maps_made_elsewhere() -> None:
    images, heat = np.zeros((3, 64, 64), np.uint8), np.zeros((3, 64, 64), np.uint8)
    images[:, 10:50, 10:50] = 200
    heat[1, 20, 30] = 255
    assert draw_maps(images, ["u", "v", "z"], "event", heat=heat).count(HEAT) == len(HEAT_LEVELS)


def test_a_display_that_is_another_event_is_refused(run: Run, tmp_path: Path) -> None:
    n = 40
    ids = np.arange(n, dtype=np.uint64)
    attributes = {"format": "nuvlm-displays", "version": 1, "pixel_mm": 50.0, "origin_mm": [-1000.0, -1000.0, 0.0]}
    arrays = {"xz": np.ones((n, 4, 4), np.float32), "yz": np.ones((n, 4, 4), np.float32), "event_id": ids}
    write_store(tmp_path / "first.zarr", arrays, attributes)
    displays = {"first": tmp_path / "first.zarr", "second": tmp_path / "first.zarr"}
    with pytest.raises(InputError, match=r"first\.zarr: row \d+ is not event \d+"):
        draw_gallery(run.events, _nominal(run), displays, 5, tmp_path / "gallery.json")


def test_pixel_maps_made_elsewhere_are_drawn_themselves(run: Run, tmp_path: Path) -> None:
    events = pd.read_parquet(run.events)
    stores = {}
    for shard, rows in events.groupby("shard"):
        maps = [
            PixelMap(str(i), i, np.full((3, 16, 16), i % 256, np.uint8)) for i in rows["event_id"].astype(int).tolist()
        ]
        stores[str(shard)] = tmp_path / f"{shard}.zarr"
        truth = tmp_path / f"{shard}.parquet"
        options = {"source": "cvn", "views": ["u", "v", "z"], "on_bad_event": "error"}
        write_maps(tmp_path, stores[str(shard)], truth, maps, len(maps), **options)
    events.assign(visible_energy=np.nan).to_parquet(tmp_path / "events.parquet")
    out = tmp_path / "gallery.json"
    draw_gallery(tmp_path / "events.parquet", _nominal(run), stores, 3, out, displays=False)
    for entry in read_json(out)["events"]:
        assert entry["views"] == ["u", "v", "z"]
        assert entry["drawn"] == "pixel map"
        assert entry["visible_energy_gev"] is None
        for text in ("U view", "Z view", "wire", "time tick", "grey value"):
            assert text in entry["svg"]
        assert "cm" not in re.findall(r">([^<]+)</text>", entry["svg"])
        assert "MeV" not in entry["svg"]
    first, second = stores
    swapped = {first: stores[second], second: stores[first]}
    with pytest.raises(InputError, match=r"zarr: row \d+ is not event \d+"):
        draw_gallery(tmp_path / "events.parquet", _nominal(run), swapped, 3, out, displays=False)


def test_a_thin_track_survives_where_a_point_shows_many_pixels() -> None:
    images = np.zeros((1, 500, 500), np.uint8)
    images[0, 3, :] = 60  # one row wide, along the whole map
    image = _raster(draw_maps(images, ["xz"], "event"))
    row = image[np.argmax(image[..., 3].any(axis=1))]
    assert (row[..., 3] > 0).mean() > 0.99
    assert "brightest of 4 x 4" in draw_maps(images, ["xz"], "event")


def test_the_window_of_a_pixel_map_holds_what_is_not_black() -> None:
    images = np.zeros((2, 200, 200), np.uint8)
    images[:, 150:160, 20:50] = 255
    svg = draw_maps(images, ["xz", "yz"], "event")
    low, high = _axis(svg, "column")
    assert low >= 0
    assert high <= 80
    assert draw_maps(np.zeros((1, 40, 40), np.uint8), ["u"], "event", wires=True).startswith("<svg")


def _raster(svg: str) -> np.ndarray:
    """RGBA of the largest image in an SVG: (rows, columns, 4)."""
    images = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA"))
        for data in re.findall(r'xlink:href="data:image/png;base64,([^"]+)"', svg)
    ]
    return max(images, key=lambda image: image.size)


def _display(**changes: object) -> Display:
    xz, yz = np.zeros((40, 140), np.float32), np.zeros((40, 140), np.float32)
    xz[30, 100:110] = yz[5, 100:110] = 20
    values: dict = {"xz": xz, "yz": yz, "origin_cm": (-100, -100, 0), "pixel_cm": 5, "vertex_cm": (52.5, -72.5, 500)}
    return Display(**(values | changes))


def _axis(svg: str, label: str) -> tuple[float, float]:
    """Lowest and highest tick of the axis whose label follows its ticks."""
    texts = [text.replace("\N{MINUS SIGN}", "-") for text in re.findall(r"<text[^>]*>([^<]+)</text>", svg)]
    end = texts.index(label)
    start = end
    while start and re.fullmatch(r"-?\d+", texts[start - 1]):
        start -= 1
    return float(texts[start]), float(texts[end - 1])


def test_the_window_holds_the_charge_in_cm() -> None:
    svg = draw_display(_display(), "event")
    low, high = _axis(svg, "z (cm), along the beam")
    assert 460 <= low <= 500 < 550 <= high <= 590
    low, high = _axis(svg, "x (cm)")
    assert 0 <= low <= 50 <= 55 <= high <= 110, "charge in x pixel 30 of 5 cm from -100 cm lies at 50 to 55 cm"
    assert "energy in a 5 cm pixel (MeV)" in svg


def test_an_event_without_charge_or_vertex_is_still_drawn() -> None:
    blank = np.zeros((40, 140), np.float32)
    assert draw_display(_display(xz=blank, yz=blank, vertex_cm=None), "event").startswith("<svg")
