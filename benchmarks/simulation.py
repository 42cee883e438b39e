"""What the simulated argon does to known particles, and how long an event takes, beside what is to be expected.

    python benchmarks/simulation.py [--events 200]

Prints a table and writes results/simulation.json beside this file.
"""

import argparse
import json
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

from nuvlm.detector import Detector
from nuvlm.simulation.final_states import ELECTRON, MASS_MEV, MUON, Particle
from nuvlm.simulation.geant4 import simulate
from nuvlm.simulation.transport import DATA, Deposits, argon_box
from nuvlm.voxels import voxelize

PHOTON = 22
VERTEX = np.array([0.0, 0.0, 100.0])
DETECTOR = Detector()

ELECTRON_MEV = MASS_MEV[ELECTRON]
DENSITY = 1.396


def bethe_mev_per_cm(kinetic_mev: float) -> float:
    """Mean ionisation loss of a muon in liquid argon: Bethe with Sternheimer's density effect (PDG review, 34.2)."""
    mass = MASS_MEV[MUON]
    gamma = 1 + kinetic_mev / mass
    beta2 = 1 - 1 / gamma**2
    ratio = ELECTRON_MEV / mass
    largest = 2 * ELECTRON_MEV * beta2 * gamma**2 / (1 + 2 * gamma * ratio + ratio**2)
    x = np.log10(np.sqrt(beta2) * gamma)
    # Sternheimer, Berger and Seltzer (1984): a, k, x0, x1, C of liquid argon; mean excitation energy 188 eV.
    density_effect = max(0.0, 2 * np.log(10) * x - 5.2146 + 0.19559 * max(0.0, 3.0 - x) ** 3) if x > 0.2 else 0.0
    log = 0.5 * np.log(2 * ELECTRON_MEV * beta2 * gamma**2 * largest / 188e-6**2)
    return float(DENSITY * 0.307075 * 18 / 39.948 / beta2 * (log - beta2 - density_effect / 2))


def bethe_over(kinetic_mev: float, length_cm: float) -> float:
    """Mean of :func:`bethe_mev_per_cm` along the first `length_cm` of a muon's path."""
    left = kinetic_mev
    for _ in range(1000):
        left -= bethe_mev_per_cm(left) * length_cm / 1000
    return (kinetic_mev - left) / length_cm


def bethe_range_cm(kinetic_mev: float) -> float:
    """Range of a muon that loses energy at the mean rate. Below 2 MeV, 0.5 mm are left."""
    energy = np.geomspace(2, kinetic_mev, 2000)
    return float(np.trapezoid([1 / bethe_mev_per_cm(e) for e in energy], energy)) + 0.05


def shoot(pdg: int, kinetic_mev: float, n: int) -> list[Deposits]:
    """`n` particles along +z from :data:`VERTEX`."""
    momentum = np.array([0, 0, np.sqrt(kinetic_mev * (kinetic_mev + 2 * MASS_MEV[pdg]))])
    box = argon_box(DETECTOR)
    return [box.transport(VERTEX, [Particle.of(pdg, momentum)], np.random.default_rng([1, i])) for i in range(n)]


def mean_and_error(values: list[float]) -> dict[str, float]:
    return {"value": float(np.mean(values)), "error": float(np.std(values, ddof=1) / np.sqrt(len(values)))}


def muon_loss(muons: list[Deposits]) -> list[float]:
    """MeV/cm over the first metre, with what its electrons and photons leave there."""
    return [float(muon.energy_mev[muon.end_mm[:, 2] < VERTEX[2] + 1000].sum() / 100) for muon in muons]


def shower_shape(showers: list[Deposits]) -> tuple[list[float], list[float]]:
    """Energy-weighted mean depth of each shower, and the radius that holds 90 % of its energy, cm."""
    depths, radii = [], []
    for shower in showers:
        middle = ((shower.start_mm + shower.end_mm) / 2 - VERTEX) / 10
        depths.append(float(np.average(middle[:, 2], weights=shower.energy_mev)))
        radius = np.hypot(middle[:, 0], middle[:, 1])
        order = np.argsort(radius)
        held = np.cumsum(shower.energy_mev[order])
        radii.append(float(radius[order][np.searchsorted(held, 0.9 * held[-1])]))
    return depths, radii


def voxel_balance(showers: list[Deposits]) -> float:
    """Largest relative difference between the energy of the steps and that of voxels and outside together."""
    worst = 0.0
    for shower in showers:
        voxels, outside = voxelize(DETECTOR, shower.start_mm, shower.end_mm, shower.energy_mev)
        total = shower.energy_mev.sum()
        worst = max(worst, abs(voxels.energy.sum(dtype=np.float64) + outside - total) / total)
    return float(worst)


def seconds_an_event(n: int) -> dict[str, float]:
    list(simulate(DETECTOR, range(2), seed=1))  # compiles and loads
    wall, cpu = time.perf_counter(), time.process_time()
    voxels = [len(event.voxels) for event in simulate(DETECTOR, range(n), seed=7)]
    return {
        "events": n,
        "cpu_seconds": (time.process_time() - cpu) / n,
        "wall_seconds": (time.perf_counter() - wall) / n,
        "voxels": float(np.mean(voxels)),
    }


def machine() -> dict[str, object]:
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    return {"cpu": cpu, "cores": os.cpu_count(), "system": platform.system(), "python": platform.python_version()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=200, help="neutrino events to time")
    events = parser.parse_args().events

    muons = shoot(MUON, 1000, 400)
    ranges = [float(muon.length_mm[0] / 10) for muon in muons if not muon.leaves[0]]
    showers = shoot(ELECTRON, 1000, 200)
    depths, radii = shower_shape(showers)
    conversions = [float(photon.length_mm[0] / 10) for photon in shoot(PHOTON, 1000, 500)]
    contained = [float(shower.energy_mev.sum() / 1000) for shower in showers]
    quantities = [
        ("muon_1gev_mev_per_cm", muon_loss(muons), f"{bethe_over(1000, 100):.3f} (Bethe, first metre)"),
        ("muon_1gev_range_cm", ranges, f"{bethe_range_cm(1000):.0f} (Bethe; no radiation, decay or scattering)"),
        ("electron_1gev_mean_depth_cm", depths, "60-70 (4.7 X0 by Longo and Sestili; X0 = 14.0)"),
        ("electron_1gev_radius_90_cm", radii, "9 and more (Moliere radius 9.04; MeV photons go farther)"),
        ("photon_1gev_conversion_cm", conversions, "18.0 (9/7 X0, limit of high energy)"),
        ("electron_1gev_deposited_fraction", contained, "at most 1; the rest leaves the box"),
    ]
    result: dict[str, object] = {
        "machine": machine(),
        "versions": {name: version(name) for name in ("geant4-pybind", "numpy", "nuvlm")} | {"data": DATA},
    }
    for name, values, expected in quantities:
        measured = mean_and_error(values)
        result[name] = measured | {"expected": expected}
        print(f"{name:34s} {measured['value']:8.3f} +- {measured['error']:.3f}   expected {expected}")
    result["voxels_energy_difference"] = voxel_balance(showers)
    print(f"{'voxels_energy_difference':34s} {result['voxels_energy_difference']:.1e}   expected below 1e-6 (float32)")
    timing = seconds_an_event(events)
    result["event"] = timing
    print(f"{'seconds an event, one core':34s} {timing['cpu_seconds']:8.4f} ({timing['voxels']:.0f} voxels)")

    path = Path(__file__).parent / "results" / "simulation.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
