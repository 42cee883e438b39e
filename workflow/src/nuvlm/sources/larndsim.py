"""larnd-sim / 2x2_sim HDF5 (table ``segments``) to a voxel shard, with the old and the new field names.

Lengths in these files are cm and deposits MeV. One neutrino is one event: a spill holds several, told apart by
their vertex.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  registers filters that such files may use
import numpy as np

from nuvlm.detector import Detector
from nuvlm.errors import InputError
from nuvlm.logs import track
from nuvlm.voxels import MODES, Event, voxelize, write_shard

logger = logging.getLogger(__name__)

CM = 10.0  # mm
# What each column has been called, newest first.
EVENT = ("event_id", "eventID", "spillID", "spill_id")
VERTEX = ("vertex_id", "vertexID")
TRUTH = ("mc_hdr", "genie_hdr")
VERTICES = ("vertices",)
INTERACTIONS = {"QE": "isQES", "MEC": "isMEC", "RES": "isRES", "DIS": "isDIS", "COH": "isCOH"}


def convert_larndsim(path: Path, out: Path, *, detector: Detector, offset_mm: tuple[float, float, float]) -> None:
    """Write the events of a larnd-sim file to a voxel shard.

    The event id is the file's, or that of the vertex where events hold several neutrinos (with vertices
    numbered anew in each event: event id * 2**32 + vertex id). Without a truth table (``mc_hdr`` or
    ``genie_hdr``) the truth stays unknown. Deposits outside the detector are left out and their energy is
    logged; so are events that have no other.

    Args:
        offset_mm: added to the file's coordinates.

    Raises:
        InputError: no readable file of this kind; a deposit or coordinate that is not a number, or a negative
            deposit; no event inside the detector.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file. Check the path in input.files.")
    try:
        with h5py.File(path, "r") as file:
            segments = _segments(path, file)
            truth = _truth(path, file)
    except OSError as error:
        raise InputError(f"{path}: not HDF5, empty or cut short ({error}). Copy or make it again.") from error

    event, vertex = segments["event"], segments["vertex"]
    order = np.lexsort((vertex, event))
    begin = np.flatnonzero(np.r_[True, np.diff(event[order]) != 0] | np.r_[True, np.diff(vertex[order]) != 0])
    groups = np.split(order, begin[1:])
    keys = [(int(event[group[0]]), int(vertex[group[0]])) for group in groups]
    ids = _event_ids(keys)
    unit = _neutrino_energy_unit(path, truth, keys, [float(segments["energy"][group].sum()) for group in groups])
    skipped: list[int] = []
    lost = 0.0

    def events() -> Iterator[Event]:
        nonlocal lost
        for key, number, group in track(zip(keys, ids, groups, strict=True), "events", len(keys)):
            voxels, outside = voxelize(
                detector,
                segments["start"][group] + offset_mm,
                segments["end"][group] + offset_mm,
                segments["energy"][group],
            )
            lost += outside
            if not len(voxels):
                skipped.append(number)
                continue
            known = truth.get(key, {})
            at = known.get("vertex")
            yield Event(
                number,
                voxels,
                nu_pdg=int(known.get("nu_pdg", 0)),
                is_cc=bool(known.get("is_cc", False)),
                nu_energy=float(known.get("energy", np.nan)) * unit,
                inelasticity=float(known.get("inelasticity", np.nan)),
                vertex_mm=tuple((at + offset_mm).tolist()) if at is not None else (np.nan,) * 3,
                mode=int(known.get("mode", 0)),
            )

    try:
        n = write_shard(out, detector, events())
    except InputError:
        if len(skipped) == len(keys):
            extent = segments["start"].min(axis=0) + offset_mm, segments["start"].max(axis=0) + offset_mm
            raise InputError(
                f"{path}: all {len(keys)} events lie outside the detector. Deposits span "
                f"{np.round(extent[0])} to {np.round(extent[1])} mm, the detector {detector.origin_mm} to "
                f"{tuple(high for _, high in detector.box_mm)} mm: set input.offset_mm."
            ) from None
        raise
    total = float(segments["energy"].sum())
    if skipped:
        logger.warning("%s: %d of %d events lie outside the detector and were left out (first: %d)",
                       path, len(skipped), len(keys), skipped[0])  # fmt: skip
    if lost > 0:
        logger.warning("%s: %.1f of %.1f MeV lie outside the detector and were left out", path, lost, total)
    logger.info("%s: %d events, %d of them with truth", path, n, sum(key in truth for key in keys))


def _column(path: Path, table: h5py.Dataset, names: tuple[str, ...]) -> str | None:
    present = table.dtype.names
    if present is None:
        raise InputError(f"{path}: {table.name} is no table with named columns. Is this a larnd-sim file?")
    return next((name for name in names if name in present), None)


def _segments(path: Path, file: h5py.File) -> dict[str, np.ndarray]:
    table = file.get("segments")
    if not isinstance(table, h5py.Dataset):
        raise InputError(
            f"{path}: there is no table 'segments' (found: {', '.join(file) or 'nothing'}). Is this a larnd-sim file?"
        )
    needed = ["dE", *(f"{axis}_{end}" for end in ("start", "end") for axis in "xyz")]
    event = _column(path, table, EVENT)
    missing = [name for name in needed if name not in table.dtype.names]
    if event is None:
        missing.append(" or ".join(EVENT))
    if missing:
        raise InputError(f"{path}: 'segments' has no column {', '.join(missing)}. Is this a larnd-sim file?")
    rows = table[:]
    if not len(rows):
        raise InputError(f"{path}: 'segments' is empty. Take the file out of input.files.")
    vertex = _column(path, table, VERTEX)
    result = {
        "event": rows[event].astype(np.int64),
        "vertex": rows[vertex].astype(np.int64) if vertex else np.zeros(len(rows), dtype=np.int64),
        "energy": rows["dE"].astype(np.float64),
    }
    for end in ("start", "end"):
        result[end] = CM * np.stack([rows[f"{axis}_{end}"] for axis in "xyz"], axis=1).astype(np.float64)
    bad = ~np.isfinite(result["start"]).all(axis=1) | ~np.isfinite(result["end"]).all(axis=1)
    bad |= ~np.isfinite(result["energy"])
    for mask, what in (
        (bad, "a coordinate or deposit that is not a number"),
        (result["energy"] < 0, "a negative deposit"),
    ):
        if mask.any():
            at = int(np.argmax(mask))
            raise InputError(
                f"{path}: event {result['event'][at]} has {what} (segment {at}). Mend the file, or leave the event out."
            )
    return result


def _truth(path: Path, file: h5py.File) -> dict[tuple[int, int], dict[str, Any]]:
    """(event, vertex) -> what the file says of the neutrino; energies in the file's unit, lengths in mm."""
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for name in (*VERTICES, *TRUTH):
        table = file.get(name)
        if not isinstance(table, h5py.Dataset):
            continue
        event = _column(path, table, EVENT)
        if event is None:
            raise InputError(f"{path}: '{name}' has no column {' or '.join(EVENT)}. Is this a larnd-sim file?")
        vertex = _column(path, table, VERTEX)
        columns = table.dtype.names
        for row in table[:]:
            entry = found.setdefault((int(row[event]), int(row[vertex]) if vertex else 0), {})
            if all(f"{axis}_vert" in columns for axis in "xyz"):
                entry["vertex"] = CM * np.array([row[f"{axis}_vert"] for axis in "xyz"], dtype=np.float64)
            if name in VERTICES:
                continue
            if "nu_pdg" in columns and "isCC" in columns:
                entry["nu_pdg"], entry["is_cc"] = row["nu_pdg"], row["isCC"]
            if "Enu" in columns:
                entry["energy"] = row["Enu"]
            if "nu_4mom" in columns:
                entry["energy_4mom"] = row["nu_4mom"][3]
            if "y" in columns:
                entry["inelasticity"] = row["y"]
            modes = [mode for mode, column in INTERACTIONS.items() if column in columns and row[column]]
            entry["mode"] = MODES[modes[0]] if modes else 0
    return found


def _event_ids(keys: list[tuple[int, int]]) -> list[int]:
    events, vertices = [key[0] for key in keys], [key[1] for key in keys]
    if len(set(events)) == len(keys):
        return events
    if len(set(vertices)) == len(keys):
        return vertices
    return [event * 2**32 + vertex for event, vertex in keys]


def _neutrino_energy_unit(
    path: Path,
    truth: dict[tuple[int, int], dict[str, Any]],
    keys: list[tuple[int, int]],
    deposits: list[float],
) -> float:
    """GeV in the unit of ``Enu``: files differ, so it is read off the file.

    Recent files have MeV in both ``Enu`` and ``nu_4mom``, older ones GeV in ``Enu``. Without ``nu_4mom`` the deposits
    tell: in MeV, a neutrino cannot leave more than its energy (and some 10 MeV of nuclear energy).
    """
    energies, others, visible = [], [], []
    for key, deposit in zip(keys, deposits, strict=True):
        known = truth.get(key, {})
        if "energy" in known:
            energies.append(float(known["energy"]))
            others.append(float(known.get("energy_4mom", np.nan)))
            visible.append(deposit)
    if not energies:
        return 1.0
    energy, four_momentum = np.array(energies), np.array(others)
    if np.isfinite(four_momentum).all():
        ratio = float(np.median(four_momentum / energy))
        if 0.99 < ratio < 1.01:
            is_mev = float(np.median(energy)) > 50 or bool((energy < np.array(visible) / 1000).any())
        elif 990 < ratio < 1010:
            is_mev = False
        else:
            raise InputError(
                f"{path}: Enu and nu_4mom disagree (their ratio is {ratio:.3g}, neither 1 nor 1000). "
                "Mend the truth table."
            )
    else:
        is_mev = float(np.mean(energy + 10 >= np.array(visible))) > 0.5 and float(np.median(energy)) > 50
    unit = 1e-3 if is_mev else 1.0
    logger.info("%s: Enu is taken to be in %s", path, "MeV" if is_mev else "GeV")
    return unit
