"""Ready pixel maps, through the whole workflow at the smallest size: from PNG files, and in three views."""

import json
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr
from PIL import Image

from microboone_file import make_events, write_microboone
from nuvlm.dataset.event_table import read_events
from paths import copy_workflow
from tiny_run import snakemake

pytestmark = pytest.mark.workflow
SIZE, EVENTS = 41, 36
LABELS = {"nuecc": 4, "numucc": 1, "nc": 13, "nutaucc": 10}
SMALL = [
    # a seed with which every class is in every split, in both forms
    "dataset={validation: 0.3, test: 0.3, parts: 1, seed: 1}",
    "report={explain: 6}",
]
# One recipe for each form, and the two ways to run a CNN.
TUNED = "{classify_backend: torch, recipes: {published: null, tuned: {max_epochs: 1, flip: false}}}"
PUBLISHED = "{classify_backend: onnx, recipes: {published: {max_epochs: 1}, tuned: null}}"


def draw(event: int, views: int) -> tuple[str, np.ndarray]:
    """A class, and a map with a bar whose shape depends on the class: uint8 (views, SIZE, SIZE)."""
    rng = np.random.default_rng(event)
    word = list(LABELS)[event % 3] if event < EVENTS - 2 else "nutaucc"
    images = np.zeros((views, SIZE, SIZE), np.uint8)
    height, width = {"nuecc": (9, 9), "numucc": (1, 30), "nc": (4, 4), "nutaucc": (2, 12)}[word]
    for image in images:
        row, column = rng.integers(0, 30, 2)
        image[row : row + height, column : column + width] = 200
    return word, images


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    return copy_workflow(tmp_path_factory.mktemp("maps"))


def write_png(folder: Path) -> None:
    for event in range(EVENTS):
        word, images = draw(event, 2)
        for view, image in zip(("xz", "yz"), images, strict=True):
            Image.fromarray(image).save(folder / f"{event}_{view}.png")
        (folder / f"{event}_pid.txt").write_text(word)
    (folder / "900_xz.png").write_bytes(b"torn")


def write_cvn(folder: Path) -> None:
    for event in range(EVENTS):
        word, images = draw(event, 3)
        (folder / f"event{event}.gz").write_bytes(zlib.compress(images.tobytes()))
        pdg = {"nuecc": 12, "numucc": 14, "nc": 1, "nutaucc": 16}[word]
        (folder / f"event{event}.info").write_text(
            f"{LABELS[word]}\n3.5\n1.5\n0\n0\n0\n1\n{pdg}\n0\n0\n0\n0\n0\n0\n9\n"
        )
    (folder / "event900.gz").write_bytes(b"torn")


@pytest.mark.long
@pytest.mark.parametrize(
    ("source", "write", "views", "prompts", "condition", "cnn"),
    [
        # an odd number of pixels has a half, too
        ("png", write_png, ["xz", "yz"], "prompts.yaml", "half_resolution", TUNED),
        ("cvn", write_cvn, ["u", "v", "z"], "prompts_dune_cvn.yaml", "nominal", PUBLISHED),
    ],
)
def test_all_models_are_trained_and_reported_on(checkout, source, write, views, prompts, condition, cnn):
    maps = checkout / f"{source}_maps"
    maps.mkdir()
    write(maps)
    settings = [
        f"run={source}",
        f"conditions=[{condition}]",
        f"cnn={cnn}",
        f"input={{source: {source}, files: [{maps}], on_bad_event: skip}}",
    ]
    config = ["--config", *settings, *SMALL, f"vlm={{prompts: resources/{prompts}, scratch: {{steps: 2}}}}"]
    result = snakemake(checkout, *config)
    assert result.returncode == 0, result.stdout + result.stderr
    results = checkout / "results" / source

    store = zarr.open_group(results / "pixelmaps" / f"{source}_maps.zarr", mode="r")
    assert store.attrs["views"] == views
    assert store["images"].shape == (EVENTS, len(views), SIZE, SIZE)
    assert not (results / "displays").exists()
    assert not (results / "voxels").exists()
    table = read_events(results / "events.parquet")
    assert table["class"].isna().sum() == 2, "tau neutrinos"
    for model in ("cnn_tuned" if cnn is TUNED else "cnn_published", "bdt", "vlm"):
        predicted = pd.read_parquet(results / f"predictions/{model}/{condition}/0.parquet")
        assert sorted(predicted["event_id"]) == sorted(table[table["part"] >= 0]["event_id"])
        assert json.loads((results / f"models/{model}/training.json").read_text())["images"]["views"] == views
    assert json.loads((results / "models/base/pretraining.json").read_text())["views"] == len(views)

    report = json.loads((results / "report/report.json").read_text())
    assert report["scores"]["vlm"][condition]["n"] == (table["split"] == "test").sum()
    assert {entry["drawn"] for entry in report["gallery"]} == {"pixel map"}
    assert {"what": "Pixel (mm)", "run": "not known", "published": 50} in report["departures"]
    logs = " ".join(path.read_text() for path in (results / "logs").rglob("*.log"))
    assert "1 of 37 events cannot be used and were left out" in logs
    assert "2 events belong to none of the three classes (nutau" in logs
    assert "Nothing to be done" in snakemake(checkout, "--dry-run", *config).stdout


@pytest.mark.long
def test_hits_on_wires_are_classified_with_their_cosmic_rays(checkout):
    tables = make_events(60)
    truth = tables["event_table"]
    # cosmic rays without a neutrino, a tau neutrino, and an interaction in front of the detector
    truth["is_cc"][[3, 10]], truth["nu_pdg"][[3, 10, 21]] = -1, (0, -1, 16)
    truth["nu_vtx"][31, 2] = -50
    tables["hit_table"]["integral"][0] = np.nan
    (checkout / "data/microboone").mkdir(parents=True)
    write_microboone(checkout / "data/microboone/bnb.h5", tables)
    pixels = "wires: {pixel_wires: 54, pixel_ticks: 160, white_adc: 9000}"
    config = ["--config", "run=wires", "conditions=[nominal, dead_20]", f"input={{{pixels}}}", *SMALL]
    config += ["cnn={recipes: {published: null}}"]
    result = snakemake(checkout, *config, overlays=("config/microboone.yaml",))
    assert result.returncode == 0, result.stdout + result.stderr
    results = checkout / "results" / "wires"

    store = zarr.open_group(results / "pixelmaps" / "bnb.zarr", mode="r")
    assert store.attrs["views"] == ["u", "v", "y"]
    assert store["images"].shape == (60, 3, 64, 64)
    table = read_events(results / "events.parquet")
    assert table["class"].isna().sum() == 4
    for model in ("cnn_tuned", "bdt", "vlm"):
        predicted = pd.read_parquet(results / f"predictions/{model}/nominal/0.parquet")
        assert sorted(predicted["event_id"]) == sorted(table[table["part"] == 0]["event_id"])
        images = json.loads((results / f"models/{model}/training.json").read_text())["images"]
        assert images["geometry"] == {
            "pixel_wires": 54, "pixel_ticks": 160, "white_adc": 9000, "pixel_mm": [162.0, 87.834],
        }  # fmt: skip
    report = json.loads((results / "report/report.json").read_text())
    assert report["scores"]["vlm"]["dead_20"]["n"] == (table["split"] == "test").sum()
    assert {"what": "Views", "run": "U, V, Y", "published": "XZ, YZ"} in report["departures"]
    assert {"what": "Pixel (mm)", "run": "162 × 87.8", "published": 50} in report["departures"]
    frame = json.loads((results / "figures/events.json").read_text())["frame"]
    assert [(view["x"], view["y"], view["units"]) for view in frame["views"]] == 3 * [("wire", "time tick", [54, 160])]
    log = (results / "logs/convert/bnb.log").read_text()
    assert "1 of 60 events cannot be used" not in log
    assert "hits with a charge that cannot be were left out" in log

    # Other pixels are refused by the models, before anything is classified.
    other = ["run=brighter", "models_from=wires", f"input={{{pixels.replace('9000', '5000')}}}", *config[4:]]
    result = snakemake(checkout, "--until", "classify_bdt", "--config", *other, overlays=("config/microboone.yaml",))
    assert result.returncode != 0
    assert "geometry is {'pixel_wires': 54, 'pixel_ticks': 160, 'white_adc': 5000" in result.stdout + result.stderr
