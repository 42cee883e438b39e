"""The whole workflow, run for real at the smallest size: every job a process, every file as documented."""

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import jsonschema
import numpy as np
import pandas as pd
import pytest
import zarr

from image_files import ImageEvent, write_larcv3
from ndlarflow_file import make_flow, read_out, write_flow
from nuvlm.dataset.event_table import read_events
from nuvlm.detector.geometry import Detector
from nuvlm.detector.voxels import open_shard
from paths import REPOSITORY, SHARED
from planner import Planner
from tiny_run import arguments

pytestmark = pytest.mark.workflow
MODELS = ("cnn_tuned", "bdt", "vit", "vlm")
CONDITIONS = ("nominal", "half_resolution")


@pytest.fixture
def results(tiny_run) -> Path:
    return tiny_run / "results" / "tiny"


@pytest.fixture
def snakemake(tiny_planner: Planner) -> Callable[..., str]:
    """Snakemake in the folder of the tiny run, with its settings; returns the output."""

    def run(*targets: str, overlays: tuple[str, ...] = (), check: bool = True) -> str:
        return tiny_planner(*arguments(*targets, overlays=overlays), check=check)

    return run


def test_shards_and_stores_agree_with_the_table(results):
    table = read_events(results / "events.parquet")
    assert len(table) == 90
    assert table["class"].notna().all()
    for shard in ("sim00000", "sim00001"):
        with open_shard(results / "voxels" / f"{shard}.h5", Detector()) as voxels:
            ids = voxels.events["event_id"]
        rows = table[table["shard"] == shard]
        assert rows["event_id"].tolist() == ids.tolist()
        displays = zarr.open_group(results / "displays" / f"{shard}.zarr", mode="r")
        assert displays["xz"].shape == displays["yz"].shape == (45, 40, 140)
        # a little is lost at the walls, and float32 rounds
        seen = displays["xz"][:].sum(axis=(1, 2), dtype=np.float64)
        np.testing.assert_allclose(seen, rows["visible_energy"], rtol=2e-3)
        images = zarr.open_group(results / "pixelmaps" / f"{shard}.zarr", mode="r")["images"]
        assert images.shape == (45, 2, 64, 64)
        assert (images[:].max(axis=(1, 2, 3)) > 0).all()


def test_every_event_that_was_not_trained_on_is_predicted_once_by_each_model(results):
    table = read_events(results / "events.parquet")
    expected = set(table[table["split"] != "train"]["event_id"])
    for model in MODELS:
        for condition in CONDITIONS:
            found = pd.read_parquet(results / f"predictions/{model}/{condition}/0.parquet")
            assert sorted(found["event_id"]) == sorted(expected)
            np.testing.assert_allclose(found[["p_nue_cc", "p_numu_cc", "p_nc"]].sum(axis=1), 1, atol=1e-6)
            assert (found["seconds"] > 0).all()
    assert {"logp_joint_nc", "logp_first_nue_cc"} <= set(found.columns)


def test_rationales_stand_beside_the_truth_of_simulation(results):
    events = read_events(results / "events.parquet").set_index(["shard", "event_id"])
    table = pd.read_parquet(results / "explanations/vlm/0.parquet")
    nominal = table[table["picture"] == "nominal"].set_index(["shard", "event_id"])
    assert 10 <= len(nominal) <= 20
    truth = events.loc[nominal.index]
    assert (truth["split"] == "test").all()
    assert (nominal["true_track"] == (truth["track_mm"] > 0)).all()
    assert (nominal["true_charged"] == truth["charged"]).all()
    assert (table["picture"] == "text_only").sum() == len(nominal)


def test_the_report_counts_what_the_tables_hold(results):
    report = json.loads((results / "report/report.json").read_text())
    table = read_events(results / "events.parquet")
    tested = table[table["split"] == "test"]
    for model in MODELS:
        predicted = pd.read_parquet(results / f"predictions/{model}/nominal/0.parquet")
        predicted = predicted[predicted["event_id"].isin(tested["event_id"])]
        score = report["scores"][model]["nominal"]
        assert score["n"] == len(tested)
        assert score["accuracy"] == pytest.approx((predicted["predicted"] == predicted["class"]).mean())
        assert {"precision", "recall", "auc"} <= score.keys()
        assert report["cost"][model]
    page = (results / "report/index.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "<svg" in page


def test_every_job_has_a_log_and_a_benchmark(results):
    logs = {path.relative_to(results / "logs").with_suffix("") for path in (results / "logs").rglob("*.log")}
    timed = {
        path.relative_to(results / "benchmarks").with_suffix("") for path in (results / "benchmarks").rglob("*.tsv")
    }
    assert logs == timed
    # shards, event table, models and exports; predictions and explanations, a job per model; report
    assert len(logs) == 2 * 3 + 1 + 6 + 4 + 3 + 4
    for log in ("train_cnn/cnn_tuned", "train_bdt/bdt"):
        assert "events/s" in (results / f"logs/{log}.log").read_text()


def test_the_report_of_snakemake_holds_every_figure_with_its_place(tiny_run, snakemake, results):
    assert "WARNING" not in snakemake("--report", "report.zip")
    with zipfile.ZipFile(tiny_run / "report.zip") as archive:
        page = archive.read("report/report.html").decode()
        held = {Path(name).name for name in archive.namelist()}
    figures = {path.name for path in (results / "figures").iterdir() if path.suffix in (".svg", ".pdf")}
    assert len(figures) > 20
    assert figures | {"index.html", "report.json", "tables.tex"} <= held
    for place in ("Figures", "confusion", "roc", "training", "every number, JSON", "half resolution"):
        assert place in page
    assert "the diagonal is the recall" in page, "captions"


def test_the_numbers_follow_the_schema_and_the_tables_hold_them(results):
    report = json.loads((results / "report/report.json").read_text())
    jsonschema.validate(report, json.loads((REPOSITORY / "resources/report.schema.json").read_text()))
    tables = (results / "report/tables.tex").read_text()
    for model in MODELS:
        assert f"{report['scores'][model]['nominal']['accuracy']:.3f}" in tables
        assert report["cost"][model]["joules_per_sample"] > 0


def test_a_second_run_has_nothing_to_do(snakemake):
    assert "Nothing to be done" in snakemake()


def test_simulation_does_not_depend_on_how_events_are_cut(tiny_run, snakemake, results):
    cut = "input={simulate: {events: 90, events_per_shard: 30}}"
    snakemake("results/cut/voxels/sim00001.h5", "--config", "run=cut", cut)
    with h5py.File(tiny_run / "results/cut/voxels/sim00001.h5") as b, h5py.File(results / "voxels/sim00000.h5") as a:
        # event 40 is the 11th of one shard and the 41st of the other
        one, other = a["events"][40], b["events"][10]
        assert one["event_id"] == other["event_id"] == 40
        for name in ("x", "y", "z", "energy"):
            spans = [slice(int(e["first_voxel"]), int(e["first_voxel"] + e["n_voxels"])) for e in (one, other)]
            np.testing.assert_array_equal(a[f"voxels/{name}"][spans[0]], b[f"voxels/{name}"][spans[1]])


@pytest.mark.long
def test_another_detector_needs_only_configuration(tiny_run, snakemake):
    """The 2x2 module, from simulation to report, with charge drifting along z."""
    turned = "detector={drift_axis: z, anodes_mm: [-310, 310], cathodes_mm: [0], voxel_mm: [5, 5, 1]}"
    cnn = "cnn={classify_backend: torch, recipes: {tuned: {max_epochs: 1}}}"
    more = ["vlm={scratch: {steps: 2}}", cnn, "conditions=[nominal]"]
    snakemake("--config", "run=module", turned, *more, overlays=("config/module2x2.yaml",))
    results = tiny_run / "results/module"
    displays = zarr.open_group(results / "displays/sim00000.zarr", mode="r")
    assert displays["xz"].shape == (45, 60, 62)
    assert displays["yz"].shape == (45, 124, 62)
    assert displays.attrs["origin_mm"] == [-300, -620, -310]
    with h5py.File(results / "voxels/sim00000.h5") as file:
        assert file.attrs["shape"].tolist() == [120, 248, 620]
    scores = json.loads((results / "report/report.json").read_text())["scores"]
    assert list(scores) == list(MODELS)
    assert scores["cnn_tuned"]["nominal"]["n"] > 0


@pytest.mark.skipif(not SHARED.exists(), reason="needs the sample files")
def test_own_events_without_truth_go_from_file_to_predictions_and_a_report(tiny_run, snakemake):
    source = f"input={{source: larndsim, files: [{SHARED}/larndsim/edepsim_mixed.h5], offset_mm: [0, 0, 3500]}}"
    # The BDT classifies files of other formats below, and the ViT runs as the VLM does.
    others = ["bdt={enabled: false}", "vit={enabled: false}"]
    settings = ["run=mine", "models_from=tiny", source, "conditions=[nominal]", *others]
    snakemake("all", "explanations", "--config", *settings)
    for model in ("cnn_tuned", "vlm"):
        table = pd.read_parquet(tiny_run / f"results/mine/predictions/{model}/nominal/0.parquet")
        assert sorted(table["event_id"]) == list(range(100))
        assert table["class"].isna().all()
    explained = pd.read_parquet(tiny_run / "results/mine/explanations/vlm/0.parquet")
    assert explained.filter(like="true_").isna().all(axis=None)
    assert len(explained) == 2 * 20
    report = json.loads((tiny_run / "results/mine/report/report.json").read_text())
    assert report["scores"]["cnn_tuned"]["nominal"]["n"] == 0


def test_reconstructed_hits_go_from_file_to_predictions_without_drifting_again(tiny_run, snakemake, results):
    """The simulated events as a detector of 5 mm pixels reads them out."""
    detector = Detector()
    with open_shard(results / "voxels/sim00000.h5", detector) as shard:
        (rows, block, begins), *_ = shard.blocks()
        ids = shard.events["event_id"][rows].tolist()
    centre = (np.stack([block.x, block.y, block.z], axis=1) + 0.5) * detector.voxel_mm + detector.origin_mm
    events = [
        read_out(number, centre[begin:end], block.energy[begin:end], detector, pitch_mm=5)
        for number, begin, end in zip(ids, begins[:-1], begins[1:], strict=True)
    ]
    for event in events:
        event.position_mm[:, 2] -= 3500
    path = write_flow(tiny_run / "flow.h5", make_flow(events, detector))
    source = f"input={{source: ndlarflow, files: [{path}], offset_mm: [0, 0, 3500]}}"
    table = "predictions/bdt/nominal/0.parquet"  # from pixel maps on, nothing depends on the format
    snakemake(f"results/flow/{table}", "--config", "run=flow", "models_from=tiny", source, "conditions=[nominal]")
    flow = tiny_run / "results/flow"
    predictions = pd.read_parquet(flow / table)
    assert predictions["event_id"].tolist() == ids
    assert predictions["class"].isna().all()
    found, simulated = (
        zarr.open_group(folder, mode="r")
        for folder in (flow / "displays/flow.zarr", results / "displays/sim00000.zarr")
    )
    assert found.attrs["diffusion"] is None
    for view in ("xz", "yz"):
        one, other = found[view][:].astype(np.float64), simulated[view][:].astype(np.float64)
        assert np.abs(one - other).sum() < 0.05 * other.sum()
    assert zarr.open_group(flow / "pixelmaps/flow.zarr", mode="r").attrs["displays"]["readout"] is None


def test_sparse_images_go_from_file_to_predictions(tiny_run, snakemake, results):
    """The simulated events as LArCV 3 images with the detector's voxels: the same displays and predictions."""
    detector = Detector()
    with open_shard(results / "voxels/sim00000.h5", detector) as shard:
        (rows, block, begins), *_ = shard.blocks()
        ids = shard.events["event_id"][rows].tolist()
    index = np.stack([block.x, block.y, block.z], axis=1).astype(np.int64)
    events = [
        ImageEvent(number, index[begin:end], block.energy[begin:end], n_muon=0)
        for number, begin, end in zip(ids, begins[:-1], begins[1:], strict=True)
    ]
    grid = {
        "low_cm": np.array(detector.origin_mm) / 10 - (0, 0, 350),
        "voxel_cm": np.array(detector.voxel_mm) / 10,
        "shape": np.array(detector.shape),
    }
    path = write_larcv3(tiny_run / "larcv.h5", events, {"cluster3d_pcluster": 1.0}, truth=False, **grid)
    source = f"input={{source: larcv, files: [{path}], offset_mm: [0, 0, 3500]}}"
    table = "predictions/bdt/nominal/0.parquet"  # from pixel maps on, nothing depends on the format
    snakemake(f"results/larcv/{table}", "--config", "run=larcv", "models_from=tiny", source, "conditions=[nominal]")
    predictions = pd.read_parquet(tiny_run / "results/larcv" / table)
    assert predictions["event_id"].tolist() == ids
    assert predictions["class"].isna().all()
    for view in ("xz", "yz"):
        found, simulated = (
            zarr.open_group(folder, mode="r")[view][:]
            for folder in (tiny_run / "results/larcv/displays/larcv.zarr", results / "displays/sim00000.zarr")
        )
        np.testing.assert_allclose(found, simulated, rtol=1e-4, atol=1e-5)


def test_bad_files_are_named_and_the_good_ones_are_kept(tiny_run, snakemake, results):
    folder = tiny_run / "own"
    folder.mkdir()
    shutil.copy(results / "voxels/sim00000.h5", folder / "good.h5")
    bad = {"empty": b"", "text": b"not HDF5", "cut": (folder / "good.h5").read_bytes()[:5000]}
    for name, content in bad.items():
        (folder / f"{name}.h5").write_bytes(content)
    source = f"input={{source: voxels, files: [{folder}/*.h5]}}"
    output = snakemake("pixelmaps", "--config", "run=own", "models_from=tiny", source, check=False)
    assert "again." in output
    for name in bad:
        assert f"{folder}/{name}.h5: " in output
        assert "Traceback" not in output.split(f"{name}.h5: ")[0].rsplit("smear", 1)[-1]
        assert not list((tiny_run / "results/own/displays").glob(f"**/{name}*/**/*json"))
    assert (tiny_run / "results/own/pixelmaps/good.zarr/images/c/0/0/0/0").is_file()
