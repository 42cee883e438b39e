"""Conversion of files of every source that has a writer here: events per CPU second, and memory.

    python benchmarks/conversion.py [--events 100] [--sources larndsim ndlarflow]

GEANT4's steps of simulated neutrino events are written in the format of each source, over and over under new ids, and
converted in a separate process on one core, and so is a file with ten times the events: memory must not grow. CPU time
grows with the load of the machine, which is recorded. Prints a table and writes results/conversion.json beside this
file, where sources that are not named keep their results.

A source is added by a function that writes its files, in WRITERS.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import h5py
import numpy as np
from voxelization import Segments, simulated_steps, write_larndsim

from nuvlm.detector.geometry import Detector
from nuvlm.detector.voxels import voxelize
from nuvlm.sources.table import SOURCES

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))
RESULTS = Path(__file__).parent / "results" / "conversion.json"
DETECTOR = Detector()
REPEATS = 5


def write_ndlarflow(path: Path, events: list[Segments], times: int) -> None:
    """Hits on pixels, one for what arrives within 3 us."""
    from ndlarflow_file import FINAL, MEV_PER_KE, PITCH_MM, PROMPT, make_flow, read_out, write_flow

    low, high = np.array(DETECTOR.box_mm).T
    hits = []
    for start, end, energy in events:
        middle = (start + end) / 2
        middle = middle[
            ((middle > np.array(DETECTOR.box_mm)[:, 0]) & (middle < np.array(DETECTOR.box_mm)[:, 1])).all(1)
        ]
        energy = energy[: len(middle)]
        cell = np.floor(middle / (4.8, PITCH_MM, PITCH_MM)).astype(np.int64)
        _, first, cell_of = np.unique(cell, axis=0, return_index=True, return_inverse=True)
        hit = read_out(0, middle[first], np.bincount(cell_of.ravel(), energy), DETECTOR)
        chosen = hit.charge_ke * MEV_PER_KE > 0.1  # the threshold, some 3 ke-
        for name in ("position_mm", "charge_ke", "ticks", "anode"):
            setattr(hit, name, getattr(hit, name)[chosen])
        hits.append(hit)
    repeated = [type(hits[0])(**{**vars(hits[i % len(hits)]), "number": i}) for i in range(times * len(hits))]
    flow = make_flow(repeated, DETECTOR)
    # Only what is read: the writer of the tests is slow.
    del flow.tables[PROMPT]
    flow.pairs = {pair: rows for pair, rows in flow.pairs.items() if pair == ("charge/events", FINAL)}
    flow.attributes["geometry_info"]["lar_detector_bounds"] = np.array([low, high]) / 10
    write_flow(path, flow)


def sparse_images(events: list[Segments], times: int) -> list[Any]:
    """The energy in voxels of 3 mm, in a cube of 2.3 m, times over."""
    from image_files import ImageEvent

    fine = Detector(x_mm=(-1152, 1152), y_mm=(-1152, 1152), z_mm=(0, 6999), voxel_mm=(3, 3, 3))
    images = []
    for start, end, energy in events:
        voxels, _ = voxelize(fine, start, end, energy)
        index = np.stack([voxels.x, voxels.y, voxels.z], axis=1).astype(np.int64)
        images.append((index, voxels.energy))
    return [
        ImageEvent(i, *images[i % len(images)], n_muon=len(images[i % len(images)][1]) // 2)
        for i in range(times * len(images))
    ]


def write_larcv(path: Path, events: list[Segments], times: int) -> None:
    """LArCV 3, compressed as its writer does."""
    from image_files import write_larcv3

    grid = {"low_cm": np.array([-115.2, -115.2, 0.0]), "voxel_cm": 0.3, "shape": np.array([768, 768, 2333])}
    write_larcv3(path, sparse_images(events, times), {"sparse3d_pcluster": 1.0}, truth=False, **grid)


def write_larcv_charge(path: Path, events: list[Segments], times: int) -> None:
    """SPINE, layout 1."""
    from image_files import write_spine

    images = sparse_images(events, times)
    grid = {"low_cm": np.array([-115.2, -115.2, 0.0]), "shape": np.array([768, 768, 2333])}
    write_spine(path, images, neutrinos=False, **grid)


def write_pilarnet(path: Path, events: list[Segments], times: int) -> None:
    """The 2.3 m in z from the beginning of the event on."""
    import image_files

    images = sparse_images(events, times)
    for image in images:
        image.index[:, 2] -= image.index[:, 2].min()
        kept = image.index[:, 2] < 768
        image.index, image.value = image.index[kept], image.value[kept]
        image.n_muon = min(image.n_muon, len(image.value))
    image_files.write_pilarnet(path, images)


def write_microboone_hits(hits: int, compress: bool = True) -> Callable[[Path, list[Segments], int], None]:
    """A writer of MicroBooNE's open data with so many hits an event, gzip as ph5concat has it, or none."""

    def write(path: Path, events: list[Segments], times: int) -> None:
        from microboone_file import make_events, write_microboone

        few, repeats = make_events(len(events), hits=hits), times
        tables = {
            table: {name: np.concatenate([values] * repeats) for name, values in columns.items()}
            for table, columns in few.items()
        }
        for table in tables.values():
            table["event_id"][:, 0] += np.repeat(np.arange(repeats), len(table["event_id"]) // repeats).astype(np.int32)
        write_microboone(path, tables, compress=compress)

    return write


WRITERS: dict[str, Callable[[Path, list[Segments], int], None]] = {
    "larndsim": write_larndsim,
    "ndlarflow": write_ndlarflow,
    "larcv": write_larcv,
    "larcv_charge": write_larcv_charge,
    "pilarnet": write_pilarnet,
    "microboone": write_microboone_hits(2000),
    "microboone 16000 hits": write_microboone_hits(16000),
    "microboone 16000 hits no gzip": write_microboone_hits(16000, compress=False),
}
"""Source, and what the file has -> writes events, so many times over, to a file of that source. A readout of MicroBooNE
with its cosmic rays has some 16,000 hits (github.com/uboone/OpenSamples)."""
SETTINGS: dict[str, dict[str, Any]] = {"pilarnet": {"offset_mm": (-1152, -1152, 0)}}
"""Source -> settings that its files need."""


def convert(name: str, path: Path) -> None:
    """Convert a file several times; print events, voxels, events per CPU second at best, and peak memory."""
    source = name.split()[0]
    row = SOURCES[source]
    assert row.reader is not None
    read, writer, maps = resolve_name(row.reader), resolve_name(row.writer), row.kind == "maps"
    seconds = np.inf
    for _ in range(REPEATS):  # the first compiles
        settings = {"on_bad_event": "skip"} | SETTINGS.get(source, {})
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder) / "made.h5"
            where = {"store": made, "truth": Path(folder) / "truth"} if maps else {"shard": made, "detector": DETECTOR}
            begin = time.process_time()
            read(path, writer(**where, **settings))
            seconds = min(seconds, time.process_time() - begin)
            if maps:
                with h5py.File(path) as file:
                    events, unit, units = len(file["event_table/event_id"]), "hits", len(file["hit_table/event_id"])
            else:
                with h5py.File(made) as file:
                    events, unit, units = len(file["events"]), "voxels", len(file["voxels/energy"])
    # Not ru_maxrss, which begins with the memory of the process that started this one.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    result = {"events": events, "unit": unit, "units_per_event": units / events, "load": os.getloadavg()[0]}
    result |= {"cpu_seconds_per_event": seconds / events, "events_per_cpu_second": events / seconds}
    result |= {"million_units_per_cpu_second": units / seconds / 1e6}
    print(json.dumps(result | {"peak_mb": int(status["VmHWM"].split()[0]) / 1024}))


def in_its_own_process(source: str, path: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--convert", source, str(path)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=100)
    parser.add_argument("--sources", nargs="+", choices=WRITERS, default=list(WRITERS))
    parser.add_argument("--convert", nargs=2, help="only convert a file: source, path")
    arguments = parser.parse_args()
    if arguments.convert:
        convert(arguments.convert[0], Path(arguments.convert[1]))
        return
    events = simulated_steps(DETECTOR, arguments.events)
    result = json.loads(RESULTS.read_text())["sources"] if RESULTS.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        for source in arguments.sources:
            paths = {times: Path(folder) / f"{times}.h5" for times in (2, 20)}
            for times, path in paths.items():
                WRITERS[source](path, events, times)
            few, many = (in_its_own_process(source, path) for path in paths.values())
            result[source] = many | {"peak_mb_of_a_tenth": few["peak_mb"]}
            print(
                f"{source:32} {many['events_per_cpu_second']:8.0f} events/s of {many['units_per_event']:.0f} "
                f"{many['unit']}, {many['million_units_per_cpu_second']:.2f} million/s; {many['peak_mb']:.0f} MB, "
                f"{few['peak_mb']:.0f} MB for a tenth of the events"
            )
    head = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "python": platform.python_version()}
    RESULTS.write_text(json.dumps(head | {"numpy": np.__version__, "sources": result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
