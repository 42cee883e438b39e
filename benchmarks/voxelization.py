"""Segments to voxels against a plain Python loop on the same GEANT4 steps, and a file's conversion, in one run.

    python benchmarks/voxelization.py [--events 100]

The steps of simulated neutrino events are shared over voxels both ways, and written as a larnd-sim file, which is
converted; so is one that holds the same events ten times over, to see whether memory grows. Prints the result and
writes results/voxelization.json beside this file. The ratios are what carries over to other machines.
"""

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from nuvlm.detector.geometry import Detector, fiducial_box_mm
from nuvlm.detector.voxels import Voxels, voxelize
from nuvlm.sources.larndsim import convert_larndsim
from nuvlm.sources.shard_writer import VoxelShardWriter

Segments = tuple[np.ndarray, np.ndarray, np.ndarray]


def plain_voxelize(detector: Detector, start: np.ndarray, end: np.ndarray, energy: np.ndarray) -> tuple[Voxels, float]:
    """Reference for `voxelize`: the algorithm of Amanatides and Woo (Eurographics 1987) in plain Python."""
    found: dict[tuple[int, ...], float] = {}
    outside = 0.0
    for a, b, deposit in zip(start.tolist(), end.tolist(), energy.tolist(), strict=True):
        enter, leave = 0.0, 1.0
        for first, last, (low, high) in zip(a, b, detector.box_mm, strict=True):
            if first != last:
                t = sorted([(low - first) / (last - first), (high - first) / (last - first)])
                enter, leave = max(enter, t[0]), min(leave, t[1])
            elif not low <= first < high:
                leave = -1.0
        if enter > leave:
            outside += deposit
            continue
        cell, step, t_next, t_voxel = [], [], [], []
        for first, last, low, size, n in zip(a, b, detector.origin_mm, detector.voxel_mm, detector.shape, strict=True):
            d = last - first
            index = min(max(math.floor((first + enter * d - low) / size), 0), n - 1)
            cell.append(index)
            step.append(1 if d > 0 else -1)
            t_next.append((low + size * (index + (d > 0)) - first) / d if d else math.inf)
            t_voxel.append(size / abs(d) if d else math.inf)
        t = enter
        while True:
            axis = t_next.index(min(t_next))
            until = min(t_next[axis], leave)
            voxel = tuple(cell)
            found[voxel] = found.get(voxel, 0.0) + deposit * (until - t)
            if t_next[axis] >= leave:
                break
            t = until
            cell[axis] += step[axis]
            t_next[axis] += t_voxel[axis]
            if not 0 <= cell[axis] < detector.shape[axis]:  # rounding at the wall
                break
        outside += deposit * (1 - (leave - enter))
    voxels = sorted((voxel, total) for voxel, total in found.items() if total > 0)
    index = np.array([voxel for voxel, _ in voxels], dtype=np.uint16).reshape(-1, 3).T
    return Voxels(*index, np.array([total for _, total in voxels], dtype=np.float32)), outside


def simulated_steps(detector: Detector, n: int) -> list[Segments]:
    """GEANT4's steps of `n` neutrino events: start and end (steps, 3) in mm, and energy (steps,) in MeV."""
    # GEANT4 takes memory that converting does not need, so it is loaded only here.
    from nuvlm.simulation.final_states import sample_final_state
    from nuvlm.simulation.transport import argon_box

    box = argon_box(detector)
    low, high = fiducial_box_mm(detector, 500, 1500)
    events = []
    for i in range(n):
        rng = np.random.default_rng([7, i])
        deposits = box.transport(rng.uniform(low, high), sample_final_state(rng).particles, rng)
        events.append((deposits.start_mm, deposits.end_mm, deposits.energy_mev))
    return events


def write_larndsim(path: Path, events: list[Segments], times: int) -> None:
    """Write `events`, `times` over under new ids, as the table of segments of a larnd-sim file."""
    columns = [("event_id", "u4"), ("vertex_id", "u8"), ("traj_id", "u4"), ("pdg_id", "i4"), ("dE", "f4")]
    columns += [(f"{axis}{end}", "f4") for end in ("_start", "_end", "") for axis in "xyz"]
    with h5py.File(path, "w") as file:
        table = file.create_dataset("segments", (0,), columns, maxshape=(None,), chunks=(10_000,))
        for i in range(times * len(events)):
            start, end, energy = events[i % len(events)]
            rows = np.zeros(len(energy), dtype=columns)
            rows["event_id"], rows["vertex_id"], rows["dE"] = i, i, energy
            for a, axis in enumerate("xyz"):
                rows[f"{axis}_start"], rows[f"{axis}_end"] = start[:, a] / 10, end[:, a] / 10
            table.resize((len(table) + len(rows),))
            table[-len(rows) :] = rows


def seconds(work: Callable[[Segments], object], events: list[Segments], repeats: int) -> float:
    """Total of the best of several times of each event."""
    total = 0.0
    for event in events:
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            work(event)
            times.append(time.perf_counter() - start)
        total += min(times)
    return total


def convert(path: Path) -> None:
    """Convert a file and print events, voxels, events per second and peak memory."""
    out = path.with_suffix(".voxels.h5")
    writer = VoxelShardWriter(shard=out, detector=Detector(), on_bad_event="skip")
    convert_larndsim(path, writer)  # loads, or compiles
    start = time.perf_counter()
    convert_larndsim(path, writer)
    wall = time.perf_counter() - start
    with h5py.File(out) as file:
        events, voxels = len(file["events"]), len(file["voxels/energy"])
    # Not ru_maxrss, which begins with the memory of the process that started this one.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak = int(status["VmHWM"].split()[0]) / 1024
    print(json.dumps({"events": events, "voxels": voxels, "events_per_second": events / wall, "peak_mb": peak}))


def in_its_own_process(path: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--convert", str(path)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=100)
    parser.add_argument("--convert", type=Path, help="only convert this file and print its cost")
    arguments = parser.parse_args()
    if arguments.convert:
        convert(arguments.convert)
        return
    detector = Detector()
    events = simulated_steps(detector, arguments.events)
    voxelize(detector, *events[0])  # compiles
    worst, n_voxels = 0.0, 0
    for event in events:
        (fast, _), (slow, _) = voxelize(detector, *event), plain_voxelize(detector, *event)
        found, expected = (
            dict(zip(zip(v.x.tolist(), v.y.tolist(), v.z.tolist(), strict=True), v.energy.tolist(), strict=True))
            for v in (fast, slow)
        )
        worst = max([worst, *(abs(found.get(v, 0) - expected.get(v, 0)) for v in found.keys() | expected.keys())])
        n_voxels += len(fast)
    kernel = seconds(lambda event: voxelize(detector, *event), events, 7)
    plain = seconds(lambda event: plain_voxelize(detector, *event), events, 2)
    with tempfile.TemporaryDirectory() as folder:
        paths = {times: Path(folder) / f"{times}.h5" for times in (1, 10)}
        for times, path in paths.items():
            write_larndsim(path, events, times)
        once, tenfold = (in_its_own_process(path) for path in paths.values())
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "events": len(events),
        "steps_per_event": float(np.mean([len(energy) for _, _, energy in events])),
        "voxels_per_event": n_voxels / len(events),
        "largest_difference_mev": worst,
        "voxelize_ms_per_event": 1e3 * kernel / len(events),
        "plain_python_ms_per_event": 1e3 * plain / len(events),
        "plain_over_voxelize": plain / kernel,
        "convert_larndsim": once,
        "convert_larndsim_ten_times_the_events": tenfold,
    }
    text = json.dumps(result, indent=1)
    print(text)
    (Path(__file__).parent / "results" / "voxelization.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
