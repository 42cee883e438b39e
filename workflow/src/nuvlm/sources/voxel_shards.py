"""Voxel shards of other programs, used in place: whether their charge and truth agree with physics.

A voxel has no path length, so that its energy is compared with that of a minimum-ionising particle on the mean chord
of a voxel, four times its volume over its surface. Everything else is :mod:`nuvlm.sources.consistency`, with voxels as
points, for the events without cosmic muons: in others not all charge is that of the truth.
"""

from pathlib import Path

import numpy as np

from nuvlm.base.conclusions import Conclusions, Record
from nuvlm.base.errors import InputError, OnBadEvent
from nuvlm.detector.geometry import Detector
from nuvlm.detector.visible_energy import cosmic_energy
from nuvlm.detector.voxels import PARTICLE_DTYPE, open_shard
from nuvlm.sources.consistency import CM, MIP_MEV_CM, Consistency, Observed

PLAUSIBLE_CHORDS = (0.2, 5.0)
"""Limits on the mean energy of a voxel, in terms of a minimum-ionising particle on the mean chord."""


def check_voxel_shard(path: Path, detector: Detector, on_bad_event: OnBadEvent = "error") -> Conclusions:
    """Check a shard, and return what was concluded, which is logged too.

    Raises:
        InputError: the shard cannot be read, or there is evidence against what it says about itself.
    """
    conclusions = Conclusions()
    consistency = Consistency(detector, (0, 0, 0), has_paths=False)
    energy, n_voxels, n_zero = 0.0, 0, 0
    with open_shard(path, detector, on_bad_event) as shard:
        particles = _particles(shard.truth("particles"))
        _check_particles(path, shard.events, particles, conclusions.add)
        with_muons = cosmic_energy(shard)[:, 0] > 0
        size, origin = np.array(detector.voxel_mm), np.array(detector.origin_mm)
        for rows, block, ends in shard.blocks():
            for i, row in enumerate(shard.events[rows]):
                part = slice(ends[i], ends[i + 1])
                place = origin + size * (0.5 + np.column_stack([block.x[part], block.y[part], block.z[part]]))
                deposits = block.energy[part].astype(np.float64)
                energy, n_voxels = energy + float(deposits.sum()), n_voxels + len(deposits)
                n_zero += int((deposits == 0).sum())
                if with_muons[rows[i]]:
                    continue
                consistency.add(
                    Observed(
                        f"event {row['event_id']}",
                        row["vertex_mm"].astype(np.float64),
                        place,
                        place,
                        deposits,
                        int(row["nu_pdg"]),
                        bool(row["is_cc"]),
                        float(row["nu_energy"]),
                        float(row["inelasticity"]),
                        particles.get(int(row["event_id"]), np.zeros(0, dtype=PARTICLE_DTYPE)),
                    )
                )
        _check_truth(path, shard.events, conclusions.add)
    _check_energy(path, detector, energy / max(n_voxels, 1), conclusions.add)
    if n_zero:
        conclusions.add(path, "energies", f"{n_zero} of {n_voxels} voxels have none", "voxels without charge are left "
                        "out by programs that write them whole", doubt=True)  # fmt: skip
    if with_muons.any():
        conclusions.add(path, "cosmic muons", f"in {with_muons.sum()} of {len(with_muons)} events",
                        "table /truth/cosmics; their charge is not compared with the truth")  # fmt: skip
    consistency.conclude(path, conclusions.add)
    return conclusions


def _particles(table: np.ndarray | None) -> dict[int, np.ndarray]:
    """The final state of each event."""
    if table is None or not set(PARTICLE_DTYPE.names or ()) <= set(table.dtype.names or ()) or not len(table):
        return {}
    table = table[np.argsort(table["event_id"], kind="stable")]
    begins = np.flatnonzero(np.r_[True, np.diff(table["event_id"]) > 0])
    ids = table["event_id"][begins].tolist()
    return dict(zip(ids, np.split(table, begins[1:]), strict=True))


def _check_particles(path: Path, events: np.ndarray, particles: dict[int, np.ndarray], record: Record) -> None:
    """Check that the final states are those of events.

    Raises:
        InputError: they have other numbers.
    """
    ids = set(events["event_id"].tolist())
    foreign = sorted(set(particles) - ids)
    if foreign:
        raise InputError(
            f"{path}: /truth/particles has event {foreign[0]}, which is not in /events ({len(foreign)} such events). "
            "Correct its event_id, or remove the table."
        )
    if without := len(ids - set(particles)):
        record(path, "unknown truth", "final state", f"in {without} of {len(ids)} events")


def _check_energy(path: Path, detector: Detector, mean_mev: float, record: Record) -> None:
    x, y, z = detector.voxel_mm
    chord = 4 * x * y * z / (2 * (x * y + y * z + z * x)) / CM
    ratio = mean_mev / (MIP_MEV_CM * chord)
    evidence = f"{mean_mev:.3g} MeV a voxel, {ratio:.2g} times that of a minimum-ionising particle on its mean chord"
    low, high = PLAUSIBLE_CHORDS
    if not low <= ratio <= high:
        raise InputError(f"{path}: {evidence}. Energies must be in MeV: correct the program that wrote the file.")
    record(path, "energies", "in MeV, as the format has them", evidence)


def _check_truth(path: Path, events: np.ndarray, record: Record) -> None:
    """Record truth that cannot be; the file is used as it is."""
    known = events[events["nu_pdg"] != 0]
    for name, bad in (
        ("nu_energy", ~np.isnan(known["nu_energy"]) & ~((known["nu_energy"] > 0) & (known["nu_energy"] < 1e6))),
        ("inelasticity", ~np.isnan(known["inelasticity"]) & ~(np.abs(known["inelasticity"] - 0.5) <= 0.501)),
        ("is_cc", known["is_cc"] > 1),
        ("nu_pdg", ~np.isin(np.abs(known["nu_pdg"]), (12, 14, 16))),
        ("mode", (known["mode"] < 0) | (known["mode"] > 5)),
    ):
        if bad.any():
            raise InputError(
                f"{path}: {name} of event {known['event_id'][bad][0]} is {known[name][bad][0]}, which cannot be "
                f"({bad.sum()} such events). Correct the table /events; NaN or 0 stand for unknown."
            )
    for name, unknown in (
        ("neutrino", events["nu_pdg"] == 0),
        ("neutrino energy", np.isnan(events["nu_energy"])),
        ("inelasticity", np.isnan(events["inelasticity"])),
        ("vertex", ~np.isfinite(events["vertex_mm"]).all(axis=1)),
    ):
        if unknown.any():
            record(path, "unknown truth", name, f"in {unknown.sum()} of {len(events)} events")
