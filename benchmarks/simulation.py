"""CPU time of the parts of a simulated event, and reading GEANT4's steps compared with a plain stepping action.

    python benchmarks/simulation.py [--events 150] [--rounds 3]

All parts are measured in one run, in turns, on the same events. Prints a table and writes results/simulation.json
beside this file. `make validate` checks the results of the simulation.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np

from nuvlm.detector.geometry import Detector, fiducial_box_mm
from nuvlm.detector.voxels import voxelize
from nuvlm.simulation.events import simulate_shard
from nuvlm.simulation.final_states import FinalState, sample_final_state
from nuvlm.simulation.native_actions import STEP_DTYPE, TRACK_DTYPE
from nuvlm.simulation.recorder import PlainRecorder, Recorded, Recorder
from nuvlm.simulation.toolkit import DATA, g4
from nuvlm.simulation.transport import Deposits, argon_box

DETECTOR = Detector()
SEED = 7
MARGINS = {"margin_mm": 500.0, "margin_downstream_mm": 1500.0}


class PlainAction(PlainRecorder):
    """The reference: a plain stepping action that reads the deposit, then the positions."""

    def __init__(self) -> None:
        super().__init__()
        self.tracking = PlainTracking(self)

    def begin(self) -> None:
        self.steps: list[tuple[float, ...]] = []
        self.tracking.rows = []
        self.charge = 0.0

    def UserSteppingAction(self, step: "g4.G4Step") -> None:
        energy = step.GetTotalEnergyDeposit()
        if energy == 0.0:
            return
        end = step.GetPostStepPoint().GetPosition()
        x, y, z = end.x, end.y, end.z
        if self.charge:
            start = step.GetPreStepPoint().GetPosition()
            self.steps.append((start.x, start.y, start.z, x, y, z, energy, self.charge))
        else:
            self.steps.append((x, y, z, x, y, z, energy, 0.0))

    def end(self) -> Recorded:
        rows = np.array(self.steps).reshape(-1, 8)
        steps = np.zeros(len(rows), dtype=STEP_DTYPE)
        steps["pre"]["position"], steps["post"]["position"] = rows[:, 0:3], rows[:, 3:6]
        steps["energy"], steps["pre"]["charge"] = rows[:, 6], rows[:, 7]
        tracks = np.array(self.tracking.rows, dtype=TRACK_DTYPE)
        tracks["steps"] = np.diff(tracks["steps"], prepend=0)
        return Recorded(steps, tracks)


class PlainTracking(g4.G4UserTrackingAction):
    def __init__(self, recorder: PlainAction) -> None:
        super().__init__()
        self._recorder = recorder
        self.rows: list[tuple[int, int, int]] = []

    def PreUserTrackingAction(self, track: "g4.G4Track") -> None:
        self._recorder.charge = track.GetDynamicParticle().GetCharge()

    def PostUserTrackingAction(self, track: "g4.G4Track") -> None:
        self.rows.append((track.GetTrackID(), track.GetParentID(), len(self._recorder.steps)))


class Nothing(PlainRecorder):
    """Empty callbacks: the cost of calling Python."""

    def UserSteppingAction(self, step: "g4.G4Step") -> None:
        pass


class NoAction(g4.G4UserSteppingAction):
    """No callbacks: the cost of GEANT4."""

    def __init__(self) -> None:
        super().__init__()
        self.tracking = NoTracking()

    def begin(self) -> None:
        pass

    def fits(self) -> bool:
        return True

    def end(self) -> Recorded:
        return Recorded(np.zeros(0, dtype=STEP_DTYPE), np.zeros(0, dtype=TRACK_DTYPE))


class NoTracking(g4.G4UserTrackingAction):
    pass


def draw(event: int) -> tuple[FinalState, np.ndarray, np.random.Generator]:
    """Primary particles, vertex and random generator of an event, as in simulate_events."""
    rng = np.random.default_rng([SEED, event])
    state = sample_final_state(rng)
    return state, rng.uniform(*fiducial_box_mm(DETECTOR, **MARGINS)), rng


def timed(work: Callable[[], object]) -> float:
    """CPU seconds."""
    start = time.process_time()
    work()
    return time.process_time() - start


def transported(recorder: PlainRecorder | NoAction, events: int) -> Iterator[tuple[float, Deposits]]:
    """CPU seconds and deposits of each event, read with `recorder`."""
    box = argon_box(DETECTOR)
    box.record_with(recorder)
    for event in range(events):
        state, vertex, rng = draw(event)
        start = time.process_time()
        deposits = box.transport(vertex, state.particles, rng)
        yield time.process_time() - start, deposits


def breakdown(events: int, rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """CPU seconds an event of each part, least of `rounds`; and numbers an event."""
    argon_box(DETECTOR)  # GEANT4 wants its physics before any action
    ways = {"geant4": NoAction(), "empty_callbacks": Nothing(), "recorder": Recorder(), "plain_action": PlainAction()}
    for way in ways.values():
        list(transported(way, 3))  # compiles, loads, and fills GEANT4's caches
    seconds = {name: float("inf") for name in (*ways, "final_states", "voxels")}
    for _ in range(rounds):
        deposits: dict[str, list[Deposits]] = {}
        for name, way in ways.items():
            pairs = list(transported(way, events))
            seconds[name] = min(seconds[name], sum(spent for spent, _ in pairs) / events)
            deposits[name] = [found for _, found in pairs]
        for copied, plain in zip(deposits["recorder"], deposits["plain_action"], strict=True):
            for field in ("start_mm", "end_mm", "energy_mev", "particle"):
                np.testing.assert_array_equal(getattr(copied, field), getattr(plain, field))
        drawn = timed(lambda: [draw(event) for event in range(events)])
        shared = timed(
            lambda found=deposits["recorder"]: [voxelize(DETECTOR, d.start_mm, d.end_mm, d.energy_mev) for d in found]
        )
        seconds["final_states"] = min(seconds["final_states"], drawn / events)
        seconds["voxels"] = min(seconds["voxels"], shared / events)
    box, recorder = argon_box(DETECTOR), PlainRecorder()
    box.record_with(recorder)
    steps, tracks = 0, 0
    for event in range(events):
        state, vertex, rng = draw(event)
        box.transport(vertex, state.particles, rng)
        recorded = recorder.end()
        steps, tracks = steps + len(recorded.steps), tracks + len(recorded.tracks)
    deposited = np.mean([len(d.energy_mev) for d in deposits["recorder"]])
    return seconds, {"steps": steps / events, "steps_with_deposit": float(deposited), "tracks": tracks / events}


def whole(events: int) -> dict[str, float]:
    """CPU and wall seconds an event of simulate_events, from the seed to the shard on disk."""
    argon_box(DETECTOR).record_with(Recorder())
    with tempfile.TemporaryDirectory() as folder:
        wall = time.perf_counter()
        cpu = timed(
            lambda: simulate_shard(
                Path(folder) / "shard.h5", DETECTOR, first_event=0, n_events=events, seed=SEED, **MARGINS
            )
        )
        return {"cpu_seconds": cpu / events, "wall_seconds": (time.perf_counter() - wall) / events}


def machine() -> dict[str, object]:
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    return {"cpu": cpu, "cores": os.cpu_count(), "system": platform.system(), "python": platform.python_version()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=150, help="neutrino events a round")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, of which the fastest counts")
    arguments = parser.parse_args()

    seconds, numbers = breakdown(arguments.events, arguments.rounds)
    parts = seconds["final_states"] + seconds["voxels"]
    ratios = {
        "callbacks_plain_over_recorder": (seconds["plain_action"] - seconds["geant4"])
        / (seconds["recorder"] - seconds["geant4"]),
        "transport_plain_over_recorder": seconds["plain_action"] / seconds["recorder"],
        "event_plain_over_recorder": (seconds["plain_action"] + parts) / (seconds["recorder"] + parts),
    }
    result = {
        "machine": machine(),
        "versions": {name: version(name) for name in ("geant4-pybind", "numpy", "nuvlm")} | {"data": DATA},
        "events": arguments.events,
        "rounds": arguments.rounds,
        "an_event": numbers,
        "cpu_seconds_an_event": seconds,
        "ratios": ratios,
        "shard": min(
            (whole(arguments.events) for _ in range(arguments.rounds)), key=lambda found: found["cpu_seconds"]
        ),
    }
    for name, value in seconds.items():
        print(f"{name:32s} {1e3 * value:8.2f} ms an event")
    for name, value in result["shard"].items():
        print(f"{'shard ' + name:32s} {1e3 * value:8.2f} ms an event")
    for name, value in numbers.items():
        print(f"{name:32s} {value:8.0f} an event")
    for name, value in ratios.items():
        print(f"{name:32s} {value:8.2f}")
    path = Path(__file__).parent / "results" / "simulation.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
