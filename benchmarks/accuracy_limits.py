"""What limits the accuracy of a finished run of simulated events: a bound from the truth, and where its models fail.

    python benchmarks/accuracy_limits.py results/study_16000 [--events results/study] [--train 40000]

The bound: boosted trees on the true visible particles (length, energy and direction of tracks; energy, direction and
conversion gap of showers, where a neutral pion is one shower with the gap of its first photon), trained on training
events of the run that made the voxels and tested on the test events of the finished run. It says how well the classes
could be distinguished if the reconstruction of each particle were perfect but for what it cannot see:

- `identified`: nothing; muons are distinguished from charged pions, electrons from photons;
- `tracks alike`: a muon and a charged pion differ in length and deposits only;
- `gap of N cm`: in addition an electron and a photon differ only if the gap before the photon is at least so long.

The models: accuracy on test events by class, by inelasticity of charged currents and by energy of the leading neutral
pion of neutral currents. Intervals are binomial, 95 %. Writes results/accuracy_limits.json beside this file.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier

from nuvlm.base.classes import CLASSES, class_codes
from nuvlm.dataset.event_table import read_events
from nuvlm.dataset.topology import is_charged
from nuvlm.detector.geometry import Detector
from nuvlm.detector.voxels import open_shard
from nuvlm.evaluation.intervals import binomial_interval
from nuvlm.evaluation.samples import labelled_events, read_sample
from nuvlm.models.predictions import part_tables

MUON, PROTON, ELECTRON, NEUTRON = 13, 2212, 11, 2112
TRACKS, SHOWERS = 3, 3
"""Longest tracks and largest showers that are described one by one."""
BLINDNESS = {"identified": 0.0, "tracks alike": 0.0, "gap of 1 cm": 10.0, "gap of 5 cm": 50.0, "gap of 10 cm": 100.0}
"""Shortest gap that is seen, mm."""
INELASTICITY = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
PION_GEV = (0.0, 1e-9, 0.3, 0.6, 1.0, 2.0, 20.0)
"""Edges of bins; the first of PION_GEV are events without a neutral pion."""


def particles_of(run: Path, table: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """The true particles of each shard with their deposits; `row` is the event's place in `table`."""
    for shard, group in table.groupby("shard"):
        with open_shard(run / "voxels" / f"{shard}.h5", Detector()) as opened:
            particles, deposits = opened.truth("particles"), opened.truth("deposits")
        assert particles is not None, f"{shard}: no truth of particles"
        assert deposits is not None, f"{shard}: no truth of deposits"
        frame = pd.DataFrame({name: deposits[name] for name in deposits.dtype.names or ()})
        momentum = particles["momentum_mev"].astype(np.float64)
        frame["forward"] = momentum[:, 2] / np.maximum(np.linalg.norm(momentum, axis=1), 1e-9)
        frame["row"] = frame["event_id"].map(pd.Series(group.index, index=group["event_id"]))
        yield frame[frame["row"].notna()].astype({"row": int})


def visible(particles: Sequence[pd.DataFrame], events: int, blindness: str) -> np.ndarray:
    """(events, quantities) of the true visible particles, as far as a detector with this blindness sees them."""
    columns = []
    for frame in particles:
        kind = frame["pdg"].abs()
        charged = is_charged(kind.to_numpy())
        shower = ((kind == ELECTRON) | ~charged & (kind != NEUTRON)) & (frame["electromagnetic_mev"] > 0)
        track = charged & ~kind.isin([ELECTRON, PROTON]) & (frame["length_mm"] > 0)
        gap = frame["photon_gap_mm"].where(kind != ELECTRON, 0.0)
        identity = kind.isin([MUON, ELECTRON]) & (blindness == "identified")
        frame = frame.assign(gap=gap.where(gap >= BLINDNESS[blindness], 0.0), identity=identity.astype(int))
        quantities = {
            "deposit": frame.groupby("row")["energy_mev"].sum(),
            "protons": frame[(kind == PROTON) & (frame["length_mm"] > 20)].groupby("row").size(),
            "tracks": frame[track].groupby("row").size(),
            "showers": frame[shower & (frame["electromagnetic_mev"] > 20)].groupby("row").size(),
        }
        for name, chosen, order, count, seen in (
            ("track", track, "length_mm", TRACKS, ["length_mm", "energy_mev", "electromagnetic_mev", "leaves"]),
            ("shower", shower, "electromagnetic_mev", SHOWERS, ["electromagnetic_mev", "gap"]),
        ):
            ordered = frame[chosen].sort_values(order, ascending=False, kind="stable")
            rank = ordered.groupby("row").cumcount()
            for i in range(count):
                of_rank = ordered[rank == i].set_index("row")
                quantities |= {f"{name}{i} {what}": of_rank[what] for what in [*seen, "forward", "identity"]}
        columns.append(pd.DataFrame(quantities))
    joined = pd.concat(columns).reindex(np.arange(events))
    return joined.to_numpy(dtype=np.float64)


def bound(run: Path, train: pd.DataFrame, test: pd.DataFrame) -> dict[str, Any]:
    """Accuracy of boosted trees on the true visible particles, for each blindness."""
    result = {}
    of_train, of_test = list(particles_of(run, train)), list(particles_of(run, test))
    for blindness in BLINDNESS:
        start = time.process_time()
        trees = HistGradientBoostingClassifier(max_iter=500, learning_rate=0.05, early_stopping=True, random_state=7)
        trees.fit(visible(of_train, len(train), blindness), class_codes(train["class"]))
        predicted, truth = trees.predict(visible(of_test, len(test), blindness)), class_codes(test["class"])
        result[blindness] = {
            **share(predicted == truth),
            "confusion": [[int(((truth == i) & (predicted == j)).sum()) for j in range(3)] for i in range(3)],
            "cpu_seconds": round(time.process_time() - start, 1),
        }
        print(f"{blindness:14s} {result[blindness]['accuracy']:.3f}", flush=True)
    return result


def share(right: np.ndarray) -> dict[str, Any]:
    """The fraction that is right, with its interval."""
    interval = binomial_interval(int(right.sum()), len(right))
    ends = [None, None] if interval is None else [round(end, 4) for end in interval]
    return {"events": len(right), "accuracy": round(float(right.mean()), 4) if len(right) else None, "interval": ends}


def by_cause(test: pd.DataFrame, right: np.ndarray) -> dict[str, Any]:
    """Accuracy of a model by class, inelasticity and energy of the neutral pion."""
    classes, y, pion = test["class"].to_numpy(), test["inelasticity"].to_numpy(), test["pi0_energy"].to_numpy()
    result: dict[str, Any] = {name: share(right[classes == name]) for name in CLASSES}
    for name in (name for name in CLASSES if name != "nc"):
        for low, high in pairwise(INELASTICITY):
            result[f"{name}, y {low:g} to {high:g}"] = share(right[(classes == name) & (y >= low) & (y < high)])
    for low, high in pairwise(PION_GEV):
        what = "no pi0" if high < 1e-6 else f"pi0 of {max(low, 0.135):.3g} to {high:g} GeV"
        result[f"nc, {what}"] = share(right[(classes == "nc") & (pion >= low) & (pion < high)])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--events", type=Path, help="folder of the run that made its voxels, if it is another")
    parser.add_argument("--train", type=int, default=40_000, help="training events of the bound, at most")
    arguments = parser.parse_args()
    source = arguments.events or arguments.run
    of_run, of_source = read_events(arguments.run / "events.parquet"), read_events(source / "events.parquet")
    test = labelled_events(of_run, "test")
    train = labelled_events(of_source, "train").head(arguments.train)
    models = {}
    for folder in sorted((arguments.run / "predictions").iterdir()):
        sample = read_sample(test, part_tables(folder / "nominal", of_run))
        models[folder.name] = {**share(sample.correct), "by_cause": by_cause(test, sample.correct)}
        print(f"{folder.name:14s} {sample.correct.mean():.3f}", flush=True)
    result = {
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "run": arguments.run.name,
        "training_events_of_the_bound": len(train),
        "bound": bound(source, train, test),
        "models": models,
    }
    path = Path(__file__).parent / "results" / "accuracy_limits.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(path)


if __name__ == "__main__":
    main()
