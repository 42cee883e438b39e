"""How well the interaction point is found from charge alone, its cost, and the accuracy with true vertices.

    python benchmarks/vertex.py measure results/demo        # errors and times -> results/vertex.json beside this file
    python benchmarks/vertex.py fit results/demo            # the weights of the score, from training events
    python benchmarks/vertex.py without_truth results/demo  # its models on its test events without truth

`measure` uses the events of a finished run that the weights were not fitted to, those of the validation and test
splits: distance of the pixel found from the true vertex, by class and energy, with the displays of the run and with
pixels of 5 mm; for comparison the centroid, and the pixel of the true vertex itself, which is the limit. Times are CPU
times on one core. `without_truth` writes the test events as voxel shards without any truth, classifies them in a run
of its own, results/without_truth, and compares accuracies, with McNemar's test -> results/without_truth.json.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import minimize

from nuvlm.base.classes import CLASSES
from nuvlm.base.stores import open_store
from nuvlm.dataset.event_table import read_events
from nuvlm.detector.crop import CENTRES, choose_centres, crop_displays
from nuvlm.detector.displays import Smearing
from nuvlm.detector.geometry import Centre, Detector, Diffusion
from nuvlm.detector.interaction_point import TERMS, view_terms
from nuvlm.detector.voxels import Event, Voxels, VoxelShard, open_shard, write_shard
from nuvlm.evaluation.comparison import compare
from nuvlm.evaluation.samples import read_sample

DETECTOR = Detector()
Blocks = Iterator[tuple[pd.DataFrame, np.ndarray, np.ndarray]]
"""Rows of the event table, and their displays XZ and YZ."""
ENERGIES = (0, 1, 2, 4, 6, 8, 10)
"""Edges of the bins of the neutrino energy, GeV."""
SMALL = 100
"""Events with pixels of 5 mm."""
FAR_CM = 15.0
"""A point farther away than three pixels is counted as missed."""
SPREAD_CM = 4.0
"""Width of the Gaussian around the true vertex that says which cells the fit should find."""


def events_of(run: Path, splits: tuple[str, ...]) -> pd.DataFrame:
    table = read_events(run / "events.parquet")
    return table[table["split"].isin(splits)].reset_index(drop=True)


def displays_of(run: Path, table: pd.DataFrame, at_once: int = 200) -> Blocks:
    """Events of one shard, and their displays."""
    for shard, group in table.groupby("shard"):
        store = open_store(run / "displays" / f"{shard}.zarr", "nuvlm-displays")
        xz, yz = store["xz"][:], store["yz"][:]
        rows = np.searchsorted(store["event_id"][:], group["event_id"])
        for begin in range(0, len(group), at_once):
            part = slice(begin, begin + at_once)
            yield group.iloc[part], xz[rows[part]], yz[rows[part]]


def small_pixels(run: Path, table: pd.DataFrame, pixel_mm: float) -> Blocks:
    """The same with other pixels, from the voxels."""
    smearing = Smearing(DETECTOR, Diffusion(), pixel_mm)
    for shard, group in table.groupby("shard"):
        with open_shard(run / "voxels" / f"{shard}.h5", DETECTOR) as voxels:
            for rows, block, begins in voxels.blocks(events=50):
                chosen = group.set_index("event_id").reindex(voxels.events["event_id"][rows])
                wanted = chosen["shard"].notna().to_numpy(dtype=bool)
                xz, yz = smearing.displays(block, begins)
                yield chosen[wanted].reset_index(), xz[wanted], yz[wanted]


def errors(blocks: Blocks, pixel_mm: float, size: int, centre: Centre) -> pd.DataFrame:
    """Distance of the pixel's centre from the vertex, and its part along the beam (cm), with class and energy."""
    origin = np.array(DETECTOR.origin_mm)
    found = []
    for group, xz, yz in blocks:
        vertex = group[[f"vertex_{axis}_mm" for axis in "xyz"]].to_numpy(dtype=np.float64)
        pixel, by, _ = choose_centres(xz, yz, vertex, centre=centre, origin_mm=origin, pixel_mm=pixel_mm, size=size)
        miss = (origin + (pixel + 0.5) * pixel_mm - vertex) / 10
        asked = by == CENTRES.index(centre)
        found.append(
            group[["class", "nu_energy"]].assign(cm=np.linalg.norm(miss, axis=1), along_cm=miss[:, 2], asked=asked)
        )
    return pd.concat(found, ignore_index=True)


def summary(table: pd.DataFrame) -> dict[str, float]:
    return {
        "n": len(table),
        "median_cm": round(float(table["cm"].median()), 2),
        "68_percent_cm": round(float(table["cm"].quantile(0.68)), 2),
        "along_beam_median_cm": round(float(table["along_cm"].median()), 2),
        "farther_than_15_cm": round(float((table["cm"] > FAR_CM).mean()), 4),
    }


def by_class_and_energy(table: pd.DataFrame) -> dict[str, object]:
    energies = table.groupby(pd.cut(table["nu_energy"], ENERGIES), observed=True)
    return {
        "all": summary(table),
        "class": {label: summary(table[table["class"] == label]) for label in CLASSES},
        "energy_gev": {f"{edges.left:g}-{edges.right:g}": summary(rows) for edges, rows in energies},
    }


def cpu_ms(run: Path) -> dict[str, float]:
    """CPU time of cropping a shard, display store to pixel-map store, by centre; the better of two, ms per event."""
    store = next(iter(sorted((run / "displays").glob("*.zarr"))))
    n = len(open_store(store, "nuvlm-displays")["event_id"][:])
    best = {}
    with tempfile.TemporaryDirectory() as folder:
        for centre in CENTRES:
            times = []
            for attempt in range(3):  # the first one compiles
                begin = time.process_time()
                crop_displays(
                    store, Path(folder) / f"{centre}{attempt}", size=112, centre=centre, transfer="log", white_mev=200,
                    knee_mev=1, on_bad_event="skip",
                )  # fmt: skip
                times.append(1e3 * (time.process_time() - begin) / n)
            best[centre] = round(min(times[1:]), 3)
    return best


def measure(run: Path, out: Path) -> None:
    table = events_of(run, ("validation", "test"))
    results = {
        "events": f"{len(table)} of the validation and test splits of {run.name}",
        "charge": by_class_and_energy(errors(displays_of(run, table), 50, 112, "charge")),
        "centroid": by_class_and_energy(errors(displays_of(run, table), 50, 112, "centroid")),
        "pixel_of_the_vertex": summary(errors(displays_of(run, table), 50, 112, "vertex").query("asked")),
        "charge_5mm": by_class_and_energy(errors(small_pixels(run, table.head(SMALL), 5), 5, 1024, "charge")),
        "crop_cpu_ms_per_event": cpu_ms(run),
        "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()},
    }
    out.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


def fit(run: Path) -> None:
    """Weights of a softmax over the cells of a view, by maximum likelihood."""
    table = events_of(run, ("train",))
    origin = np.array(DETECTOR.origin_mm)
    terms, target, which = [], [], []
    for group, *views in displays_of(run, table):
        vertex = group[[f"vertex_{axis}_mm" for axis in "xyz"]].to_numpy(dtype=np.float64)
        for axis, view in enumerate(views):
            for image, point in zip(view, vertex, strict=True):
                lit, found = view_terms(image, 50)
                centres = origin[[axis, 2]] + (lit + 0.5) * 50
                near = np.exp(-0.5 * (np.linalg.norm(centres - point[[axis, 2]], axis=1) / (10 * SPREAD_CM)) ** 2)
                if near.max(initial=0) > 0.05:  # otherwise nothing is to be seen at the vertex
                    which.append(np.full(len(lit), len(which)))
                    terms.append(found)
                    target.append(near / near.sum())
    x, y, event = np.concatenate(terms), np.concatenate(target), np.concatenate(which)
    begins = np.flatnonzero(np.diff(event, prepend=-1))
    scale = x.std(axis=0)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        score = x / scale @ weights
        score -= np.maximum.reduceat(score, begins)[event]
        p = np.exp(score)
        p /= np.add.reduceat(p, begins)[event]
        gradient = (p - y) @ (x / scale)
        return float(-(y * np.log(p)).sum() / len(begins)), gradient / len(begins)

    weights = minimize(loss, np.zeros(len(TERMS)), jac=True, method="L-BFGS-B").x / scale
    for name, weight in zip(TERMS, weights, strict=True):
        print(f"{name:16} {weight:7.2f}")


def strip(run: Path, folder: Path) -> None:
    """Write the test events of a run as voxel shards of the same names, without any truth."""
    table = events_of(run, ("test",))
    for shard, group in table.groupby("shard"):
        with open_shard(run / "voxels" / f"{shard}.h5", DETECTOR) as source:
            write_shard(folder / f"{shard}.h5", DETECTOR, without_truth(source, set(group["event_id"])))


def without_truth(source: VoxelShard, wanted: set[int]) -> Iterator[Event]:
    for rows, block, begins in source.blocks():
        for i, row in enumerate(rows):
            event_id, span = int(source.events["event_id"][row]), slice(begins[i], begins[i + 1])
            if event_id in wanted:
                yield Event(event_id, Voxels(block.x[span], block.y[span], block.z[span], block.energy[span]))


def compare_without_truth(run: Path, out: Path) -> None:
    """Classify the test events of `run` again, as files without truth, and compare the predictions event by event."""
    stripped = run.parent / "without_truth"
    with tempfile.TemporaryDirectory() as folder:
        strip(run, Path(folder))
        config = [f"run={stripped.name}", f"models_from={run.name}", "conditions=[nominal]"]
        config.append(f'input={{source: voxels, files: ["{folder}/*.h5"]}}')
        command = [sys.executable, "-m", "snakemake", "--profile", "profiles/local", "predictions", "--config", *config]
        subprocess.run(command, check=True)
    table = events_of(run, ("test",))
    known = int(read_events(stripped / "events.parquet")["vertex_x_mm"].notna().sum())
    models = {}
    for folder in sorted((stripped / "predictions").iterdir()):
        samples = [
            read_sample(table, sorted((of / "predictions" / folder.name / "nominal").glob("*.parquet")))
            for of in (run, stripped)
        ]
        with_truth, without = (float(sample.correct.mean()) for sample in samples)
        models[folder.name] = {
            "accuracy": with_truth,
            "accuracy_without_truth": without,
            "identical": bool(np.array_equal(samples[0].log_probabilities, samples[1].log_probabilities)),
            **compare(samples[0].correct, samples[1].correct, seed=7),
        }
        print(folder.name, models[folder.name])
    result = {"events": len(table), "vertices_without_truth": known, "models": models}
    out.write_text(json.dumps(result, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("measure", "fit", "without_truth"))
    parser.add_argument("run", type=Path, help="folder of a finished run")
    arguments = parser.parse_args()
    results = Path(__file__).parent / "results"
    if arguments.what == "measure":
        measure(arguments.run, results / "vertex.json")
    elif arguments.what == "fit":
        fit(arguments.run)
    else:
        compare_without_truth(arguments.run, results / "without_truth.json")


if __name__ == "__main__":
    main()
