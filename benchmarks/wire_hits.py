"""Hits on wires to pixel maps, disk to disk, beside merely reading the hits: events per CPU second, and memory.

    python benchmarks/wire_hits.py

Files of source `microboone` with few hits in an event, with 2,000, and with 16,000, as a readout of MicroBooNE with its
cosmic rays has (github.com/uboone/OpenSamples); compressed with gzip, as ph5concat does, and not. On one core, the best
of several times; beside it what h5py takes to read the columns that are needed, what the kernel takes, and the peak
memory for a file and for one with a quarter of its events. Prints a table and writes results/wire_hits.json beside this
file.
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

import h5py
import numpy as np

from nuvlm.sources.microboone import HITS, INTEGERS, NUMBERS, PLANES, convert_microboone
from nuvlm.sources.numl import BLOCK_ROWS, CHUNK_CACHE
from nuvlm.sources.ready_maps import PixelMapWriter
from nuvlm.sources.wire_maps import WireMaps

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))
from microboone_file import make_events, write_microboone

RESULTS = Path(__file__).parent / "results" / "wire_hits.json"
CASES = ((400, 2000), (2000, 2000), (16000, 600))
"""Hits of an event, and events."""
DIFFERENT = 100
"""Events that are made; more are the same under other numbers."""
REPEATS = 5


def write(path: Path, hits: int, events: int, compress: bool) -> None:
    """Write `events` events, those of `DIFFERENT` over and over in other runs."""
    few = make_events(min(DIFFERENT, events), hits=hits)
    times = -(-events // DIFFERENT)
    tables = {
        table: {name: np.concatenate([values] * times) for name, values in columns.items()}
        for table, columns in few.items()
    }
    for table in tables.values():
        table["event_id"][:, 0] += np.repeat(np.arange(times), len(table["event_id"]) // times).astype(np.int32)
    write_microboone(path, tables, compress=compress)


def cpu_seconds(work: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):  # the first compiles
        begin = time.process_time()
        work()
        times.append(time.process_time() - begin)
    return min(times)


def read_columns(path: Path) -> None:
    with h5py.File(path, rdcc_nbytes=CHUNK_CACHE) as file:
        for name in ("event_id", "tpc", *INTEGERS, *NUMBERS):
            column = file[HITS][name]
            for begin in range(0, len(column), BLOCK_ROWS):
                column[begin : begin + BLOCK_ROWS]


def seconds_of_drawing(path: Path, hits: int) -> float:
    """CPU seconds that the kernel takes for the first event."""
    with h5py.File(path) as file:
        columns = [file[HITS][name][:hits, 0] for name in (*INTEGERS, *NUMBERS)]
    maps = WireMaps(PLANES, PLANES.views, PixelMapWriter(store=path, truth=path).wires)

    def draw() -> None:
        for _ in range(100):
            maps.draw(*columns)

    return cpu_seconds(draw) / 100


def measure(path: Path) -> dict[str, float]:
    """Convert a file in this process."""
    with tempfile.TemporaryDirectory() as name, h5py.File(path) as file:
        folder, rows, events = Path(name), len(file[HITS]["integral"]), len(file["event_table"]["event_id"])

        def convert() -> None:
            fresh = Path(tempfile.mkdtemp(dir=folder))
            convert_microboone(path, PixelMapWriter(store=fresh / "maps.zarr", truth=fresh / "truth.parquet"))

        seconds = cpu_seconds(convert)
        # Not ru_maxrss, which begins with the memory of the process that started this one.
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return {
            "events": events,
            "hits_per_event": rows / events,
            "mb": path.stat().st_size / 1e6,
            "events_per_cpu_second": events / seconds,
            "million_hits_per_cpu_second": rows / seconds / 1e6,
            "conversion_ms_per_event": 1e3 * seconds / events,
            "reading_ms_per_event": 1e3 * cpu_seconds(lambda: read_columns(path)) / events,
            "drawing_ms_per_event": 1e3 * seconds_of_drawing(path, rows // events),
            "peak_mb": int(status["VmHWM"].split()[0]) / 1024,
        }


def in_its_own_process(path: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", str(path)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", type=Path, help="only convert this file")
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))
        return
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        for hits, events in CASES:
            for compress in (True, False):
                path = Path(folder) / "hits.h5"
                write(path, hits, events // 4, compress)
                quarter = in_its_own_process(path)
                write(path, hits, events, compress)
                case = {"gzip": compress} | in_its_own_process(path) | {"peak_mb_of_a_quarter": quarter["peak_mb"]}
                cases.append(case)
                print(
                    f"{hits:6} hits{', gzip' if compress else '':6} {case['events_per_cpu_second']:6.0f} events/s, "
                    f"{case['conversion_ms_per_event']:.2f} ms: reading {case['reading_ms_per_event']:.2f}, drawing "
                    f"{case['drawing_ms_per_event']:.2f}; {case['peak_mb']:.0f} MB, "
                    f"{case['peak_mb_of_a_quarter']:.0f} MB for a quarter of the events"
                )
    head = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "python": platform.python_version()}
    RESULTS.write_text(json.dumps(head | {"numpy": np.__version__, "cases": cases}, indent=1) + "\n")


if __name__ == "__main__":
    main()
