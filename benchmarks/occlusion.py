"""Share of the energy that occluding the shower or the track removes: of the shower, the track and the rest.

    python benchmarks/occlusion.py [--events 800] [--pixel 50]

Voxels do not know their particle, but GEANT4 does: events are simulated with a separate seed, and the energy of shower,
track and rest is counted in the pixels that nuvlm.models.vlm.occlusion sets to black.
Prints a table and writes results/occlusion.json beside this file.
"""

import argparse
import json
import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from nuvlm.dataset.topology import find_topology
from nuvlm.detector.geometry import Detector, fiducial_box_mm
from nuvlm.models.vlm.occlusion import occlude
from nuvlm.simulation.events import deposit_rows, particle_rows, sampled
from nuvlm.simulation.final_states import ELECTRON, MUON, PION_PLUS, PION_ZERO, PROTON
from nuvlm.simulation.transport import Deposits, argon_box

DETECTOR = Detector()
SEED = 20251122
WINDOW_MM = 5600
LIT_MEV = 0.05
PARTS = ("shower", "track", "rest")
NAMES = {MUON: "muon", PION_PLUS: "pion", PROTON: "proton", ELECTRON: "electron", PION_ZERO: "pi0"}


class Simulated(NamedTuple):
    """An event with its energy in the two views of a pixel map, by origin."""

    row: pd.DataFrame
    energy: np.ndarray
    """(PARTS, views, size, size), MeV."""
    corner_mm: np.ndarray
    kinds: dict[str, int]
    """|PDG code| of the shower's and the track's particle."""


def simulated(events: int, pixel_mm: float) -> Iterator[Simulated]:
    box, size = argon_box(DETECTOR), int(WINDOW_MM / pixel_mm)
    for interaction in sampled(range(events), SEED, fiducial_box_mm(DETECTOR, 500, 1500)):
        state, vertex = interaction.draw()
        particles = [particle for particle in state.particles if box.knows(particle.pdg)]
        deposits = box.transport(vertex, particles, interaction.rng)
        rows, beside = particle_rows(0, particles), deposit_rows(0, particles, deposits)
        row = find_topology(np.array([0]), rows, beside)
        row = row.assign(shard="simulated", event_id=interaction.event_id)
        row[["vertex_x_mm", "vertex_y_mm", "vertex_z_mm"]] = vertex
        pdg, kinds = np.abs(beside["pdg"]), {}
        part = np.full(len(deposits.particle), PARTS.index("rest"))
        for what, size_of in (("track", beside["length_mm"]), ("shower", beside["electromagnetic_mev"])):
            if row[f"{what}_direction_z"].notna().all():
                truth = float(row["track_mm" if what == "track" else "shower_mev"].iloc[0])
                particle = int(np.flatnonzero(size_of == np.float32(truth))[0])
                part[deposits.particle == particle] = PARTS.index(what)
                kinds[what] = int(pdg[particle])
        origin = np.array(DETECTOR.origin_mm)
        corner = origin + (np.floor((vertex - origin) / pixel_mm) - size // 2) * pixel_mm
        yield Simulated(row, _views(deposits, part, corner, size, pixel_mm), corner, kinds)


def _views(deposits: Deposits, part: np.ndarray, corner_mm: np.ndarray, size: int, pixel_mm: float) -> np.ndarray:
    """Energy of each part in both views."""
    pixel = (((deposits.start_mm + deposits.end_mm) / 2 - corner_mm) // pixel_mm).astype(int)
    energy = np.zeros((len(PARTS), 2, size, size))
    for view, axes in enumerate(([0, 2], [1, 2])):
        row, column = pixel[:, axes].T
        inside = (np.minimum(row, column) >= 0) & (np.maximum(row, column) < size)
        np.add.at(energy, (part[inside], view, row[inside], column[inside]), deposits.energy_mev[inside])
    return energy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=800)
    parser.add_argument("--pixel", type=float, default=50.0, help="side of a pixel, mm")
    arguments = parser.parse_args()

    rows = []
    for event in simulated(arguments.events, arguments.pixel):
        image = np.where(event.energy.sum(axis=0) >= LIT_MEV, 255, 0).astype(np.uint8)[None]
        total = event.energy.sum(axis=(1, 2, 3))
        for what, pdg in event.kinds.items():
            after = occlude(image, what, event.row, corner_mm=event.corner_mm[None], pixel_mm=arguments.pixel)[0]
            gone = (event.energy * (after == 0)).sum(axis=(1, 2, 3))
            shares = {part: gone[i] / total[i] if total[i] > 0 else np.nan for i, part in enumerate(PARTS)}
            rows.append({"taken_out": what, "kind": NAMES.get(pdg, "other"), **shares})
    table = pd.DataFrame(rows)
    groups = {(what, "all"): found for what, found in table.groupby("taken_out")}
    groups |= {(what, kind): found for (what, kind), found in table.groupby(["taken_out", "kind"]) if len(found) >= 20}
    result = {
        "versions": {name: version(name) for name in ("geant4-pybind", "numpy", "nuvlm")},
        "python": platform.python_version(),
        "events": arguments.events,
        "pixel_mm": arguments.pixel,
        "share_of_energy_taken_out": [
            {"taken_out": what, "kind": kind, "events": len(found)}
            | {
                part: dict(zip(("p16", "median", "p84"), found[part].quantile([0.16, 0.5, 0.84]).round(3), strict=True))
                for part in PARTS
            }
            for (what, kind), found in groups.items()
        ],
    }
    print(f"{'taken out':16s} {'events':>6s}   " + "   ".join(f"{'of the ' + part:22s}" for part in PARTS))
    for row in result["share_of_energy_taken_out"]:
        shares = [
            f"{row[part]['median']:.2f} ({row[part]['p16']:.2f} to {row[part]['p84']:.2f})".ljust(22) for part in PARTS
        ]
        print(f"{row['taken_out']} {row['kind']:9s} {row['events']:6d}   " + "   ".join(shares))
    path = Path(__file__).parent / "results" / "occlusion.json"
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
