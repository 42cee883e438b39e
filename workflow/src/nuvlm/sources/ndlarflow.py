"""Reader of the reconstructed hits of ndlar_flow HDF5 files (2x2, ND-LAr), of simulation and of real detectors.

Layout and units: https://github.com/DUNE/ndlar_flow (``CalibHitBuilder``, ``CalibHitMerger``, ``EventBuilder``), on top
of :mod:`nuvlm.sources.h5flow`. One event of ``charge/events``, a trigger or a gap in time, is one event. It has truth
if the file is of simulation and one neutrino made its charge. The simulated deposits in ``mc_truth`` are read by
:mod:`nuvlm.sources.larndsim`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from nuvlm.base.conclusions import Record
from nuvlm.base.errors import InputError
from nuvlm.base.hdf5 import check_dataset, hdf5_file, open_hdf5
from nuvlm.detector.ionisation import mev_per_electron
from nuvlm.sources.h5flow import References, damage_named, find_table
from nuvlm.sources.hit_frame import HitFrame, decide_frame
from nuvlm.sources.interactions import DriftedEvent
from nuvlm.sources.ndlarflow_truth import EventTruth, Seen
from nuvlm.sources.shard_writer import DriftedShardWriter

HITS = ("charge/calib_final_hits", "charge/calib_prompt_hits")
"""Tables of hits, the one to prefer first: hits of one pixel that are close in time are merged in it."""
EVENTS = ("charge/events", "charge/raw_events")
"""Tables that hits may refer to. Their rows correspond: early files have no references from ``charge/events``."""
COLUMNS = ("x", "y", "z", "Q")
KILO = 1000  # Q is in thousands of electrons
PLAUSIBLE_Q = (1.0, 300.0)
"""Limits on the median charge of a hit, ke-: the threshold is some 5 ke-, a muon leaves 20 to 30 in a pixel."""
MOST_NEGATIVE = 0.5
"""An event with more negative than this share of its positive charge is noise. Hits near threshold may be negative."""
MOST_LOST = 0.5
"""If more than this share of the hits belongs to no event, the references are of other tables."""
TICK_US = 0.1
"""Unit of drift times where the file does not say, us."""
FIELD_KV_CM = (0.1, 1.0)
KV_CM = 10.0
"""1 kV/mm, the unit of ``e_field``, in kV/cm."""
OTHER_ENERGIES = {23.6: "Q W, without recombination", 16.5: "Q W R, recombination twice", 0.0236: "Q W in GeV"}
"""E / Q (keV per ke-) of earlier versions of the program -> what they calculated."""
UNKNOWN_FORMULA = "an unknown formula"


def convert_ndlarflow(path: Path, out: DriftedShardWriter) -> None:
    """Write the events of the readout to a voxel shard of charge that has drifted.

    Hits are squares of one pixel, at a point along the drift. The visible energy follows from their charge, see
    :func:`nuvlm.detector.ionisation.mev_per_electron`. Memory holds one block of hits, whatever the length of the file.

    Raises:
        InputError: the file cannot be read or is not of this kind; evidence against its units, axes or references; an
            event cannot be used, or none can.
    """
    with open_hdf5(path) as file:
        with damage_named(path):
            name = _hits(path, file)
            references = References(path, file, EVENTS, name)
            ids = _event_ids(path, file, references.parent, out.conclude)
            _conclude_references(path, references, len(file[f"{name}/data"]), out.conclude)
            truth = EventTruth(path, file, len(ids))
            mev = KILO * mev_per_electron(_field(path, file, out.conclude))
            frame = _conclude_frame(path, file, name, references, truth, mev, out)
        pitch = [0.0 if axis == out.detector.drift else frame.pitch_mm for axis in range(3)]
        size_mm = (pitch[0], pitch[1], pitch[2])
        out.write(path, _events(references, frame, mev, size_mm, ids, truth), len(ids))


def recognise_ndlarflow(path: Path) -> str | None:
    """A description of an ndlar_flow file with reconstructed hits, or None."""
    try:
        with hdf5_file(path) as file:
            found = [name for name in HITS if (table := find_table(file, name)) and _has_columns(table)]
            if not found:
                return None
            simulated = ", simulated" if "mc_truth" in file else ""
            events = len(file["charge/events/data"]) if find_table(file, "charge/events") else "?"
            return f"ndlar_flow HDF5{simulated}: {events} events with hits in {' and '.join(found)}"
    except (OSError, RuntimeError, KeyError, ValueError, TypeError):
        return None


def _has_columns(table: h5py.Dataset) -> bool:
    return set(COLUMNS) <= set(table.dtype.names)


def _hits(path: Path, file: h5py.File) -> str:
    """Name of the table of hits.

    Raises:
        InputError: there is none, or it lacks columns or rows.
    """
    tables = {name: table for name in HITS if (table := find_table(file, name)) is not None}
    if not tables:
        remedy = (
            "It holds simulated deposits (mc_truth): set input.source to larndsim for those."
            if find_table(file, "mc_truth/segments")
            else "Run the stages of ndlar_flow up to prompt_calibration, or set input.source to the format of the file."
        )
        raise InputError(f"{path}: there are no reconstructed hits ({', '.join(HITS)}). {remedy}")
    filled = {name: table for name, table in tables.items() if len(table)}
    if not filled:
        raise InputError(f"{path}: {next(iter(tables))} is empty. Remove the file from input.files.")
    name, table = next(iter(filled.items()))
    wrong = [
        column
        for column in COLUMNS
        if column not in table.dtype.names or table.dtype[column].kind not in "fiu" or table.dtype[column].shape
    ]
    if wrong:
        raise InputError(f"{path}: {name} has no column of numbers {', '.join(wrong)}. Is this an ndlar_flow file?")
    check_dataset(path, table)
    return name


def _event_ids(path: Path, file: h5py.File, parent: str, conclude: Record) -> list[int]:
    """One unique id for each row of the events: the file's, or the place if those repeat, as in merged files."""
    events = file[f"{parent}/data"]
    check_dataset(path, events)
    n = len(events)
    names = events.dtype.names or ()
    found = events.fields("id")[:] if "id" in names else np.zeros(0, dtype=np.uint64)
    if len(found) == n and found.dtype.kind in "iu" and found.ndim == 1 and len(np.unique(found)) == n:
        conclude(path, "event ids", f"column id of {parent}", "unique in the file")
        return [int(number) for number in found.astype(np.uint64).tolist()]
    why = "they repeat, as in merged files" if len(found) else f"{parent} has no column id"
    conclude(path, "event ids", f"the place in {parent}, from 0", why)
    return list(range(n))


def _conclude_references(path: Path, references: References, n_hits: int, conclude: Record) -> None:
    if references.n_lost > MOST_LOST * n_hits:
        raise InputError(
            f"{path}: {references.n_lost} of {n_hits} hits belong to no event. The references are of other tables: "
            "make the file again."
        )
    n = int((references.counts > 0).sum())
    found = f"{n} of {len(references.counts)} events of {references.parent} have hits"
    if references.n_lost:
        found += f"; {references.n_lost} of {n_hits} hits belong to no event and are left out"
    if references.n_repeated:
        found += f"; {references.n_repeated} references repeat others and count once"
    doubt = bool(references.n_lost or references.n_repeated)
    conclude(path, "events", found, "references between the tables", doubt=doubt)


def _conclude_frame(
    path: Path,
    file: h5py.File,
    name: str,
    references: References,
    truth: EventTruth,
    mev: float,
    out: DriftedShardWriter,
) -> HitFrame:
    """Unit and axes, from the first hits, whose charge is checked too; and those of the vertices."""
    table = file[f"{name}/data"]
    more = [column for column in ("t_drift", "io_group", "E") if column in table.dtype.names]
    columns = [*COLUMNS, *(column for column in more if not table.dtype[column].shape)]
    hits: Any = ()
    event = np.zeros(0, dtype=np.int64)
    parents, begins = range(0), np.zeros(1, dtype=np.int64)
    for parents, begins, hits in references.blocks(columns):
        event = np.repeat(np.asarray(parents), np.diff(begins))
        if len(hits):
            break
    anode = hits["io_group"].astype(np.int64) if "io_group" in columns else np.zeros(len(hits), dtype=np.int64)
    order = np.lexsort((anode, event))
    unsorted = hits
    hits, group = hits[order], np.cumsum(np.diff(event[order], prepend=-1) + np.abs(np.diff(anode[order], prepend=-1)))
    tick_us = _number(file, "run_info", "crs_ticks") or TICK_US
    time = hits["t_drift"].astype(np.float64) * tick_us if "t_drift" in columns else None
    position = np.stack([hits[axis] for axis in "xyz"], axis=1).astype(np.float64)
    frame = decide_frame(path, position, time, group, out.detector.drift, _bounds(file))
    out.conclude(path, "hits", name, "merged hits are preferred" if name == HITS[0] else f"no hits in {HITS[0]}")
    out.conclude(path, "length unit of hits", *frame.unit)
    out.conclude(path, "axes of hits", *frame.axes)
    _conclude_charge(path, hits, mev, out.conclude)
    position_mm = frame.position_mm(unsorted)
    total = np.concatenate([[0], np.cumsum(mev * np.maximum(np.nan_to_num(unsorted["Q"]), 0), dtype=np.float64)])
    seen = [
        Seen(row, position_mm[begin:end], total[end] - total[begin])
        for row, begin, end in zip(parents, begins[:-1], begins[1:], strict=True)
    ]
    truth.meet(seen, frame.columns)
    out.conclude(path, "truth", truth.value, truth.evidence)
    return frame


def _conclude_charge(path: Path, hits: np.ndarray, mev: float, conclude: Record) -> None:
    charge = hits["Q"].astype(np.float64)
    positive = np.isfinite(charge) & (charge > 0)
    if not positive.any():
        raise InputError(f"{path}: no hit has a positive charge Q. Correct the file.")
    middle = float(np.median(charge[positive]))
    low, high = PLAUSIBLE_Q
    if not low <= middle <= high:
        raise InputError(
            f"{path}: half of the hits have a charge Q below {middle:.3g}; {low:g} to {high:g} thousand electrons "
            "(ke-) are expected. Q must be calibrated, in ke-: correct the file."
        )
    conclude(path, "charge unit", "ke-", f"a median of {middle:.3g} in a hit; a muon leaves 20 to 30 in a pixel")
    if "E" in (hits.dtype.names or ()):
        ratio = 1000 * float(np.median(hits["E"][positive].astype(np.float64) / charge[positive]))
        formulas = {1000 * mev: "Q W / R, as here", **OTHER_ENERGIES}
        what = next((what for known, what in formulas.items() if abs(ratio / known - 1) < 0.02), UNKNOWN_FORMULA)
        conclude(path, "column E", "not used: energies follow from Q", f"E / Q is {ratio:.3g} keV/ke-: {what}",
                 doubt=what == UNKNOWN_FORMULA)  # fmt: skip


def _field(path: Path, file: h5py.File, conclude: Record) -> float:
    """The drift field, kV/cm, for the recombination."""
    found = _number(file, "run_info", "e_field")
    low, high = FIELD_KV_CM
    known = found is not None and low <= KV_CM * found <= high
    field = KV_CM * found if found is not None and known else 0.5
    why = "run_info" if known else "run_info has no plausible e_field; the value of these detectors"
    mev = KILO * mev_per_electron(field)
    conclude(path, "energy", f"{mev:.4f} MeV per ke-", f"W / R at {field:g} kV/cm ({why}); capture not corrected")
    return field


def _number(file: h5py.File, name: str, attribute: str) -> float | None:
    """An attribute that is a number, or None."""
    holder = file.get(name)
    value = np.asarray(None if holder is None else holder.attrs.get(attribute))
    return float(value) if value.shape == () and value.dtype.kind in "fiu" and np.isfinite(value) else None


def _bounds(file: h5py.File) -> np.ndarray | None:
    """The detector, (2, 3), as the file states it, or None."""
    holder = file.get("geometry_info")
    bounds = np.asarray(() if holder is None else holder.attrs.get("lar_detector_bounds", ()))
    usable = bounds.shape == (2, 3) and bounds.dtype.kind in "fiu" and np.isfinite(bounds).all()
    return bounds.astype(np.float64) if usable and (bounds[1] > bounds[0]).all() else None


def _events(
    references: References,
    frame: HitFrame,
    mev: float,
    size_mm: tuple[float, float, float],
    ids: list[int],
    truth: EventTruth,
) -> Iterator[DriftedEvent]:
    for parents, begins, hits in references.blocks(COLUMNS):
        charge = hits["Q"].astype(np.float64)
        position = frame.position_mm(hits)
        used = ~(charge <= 0)  # a charge that is not a number is refused later
        energy = mev * charge
        finite = np.where(np.isfinite(charge), charge, 0)
        negative = np.concatenate([[0], np.cumsum(np.where(finite < 0, -finite, 0))])
        positive = np.concatenate([[0], np.cumsum(np.where(finite > 0, finite, 0))])
        for row, begin, end in zip(parents, begins[:-1].tolist(), begins[1:].tolist(), strict=True):
            chosen: Any = used[begin:end]
            defect = None
            if chosen.all():
                chosen = slice(None)
            elif not chosen.any():
                defect = "has no hit with a positive charge"
            elif negative[end] - negative[begin] > MOST_NEGATIVE * (positive[end] - positive[begin]):
                defect = "has mostly noise: its negative charge exceeds half of its positive one"
            yield DriftedEvent(
                ids[row],
                position[begin:end][chosen],
                energy[begin:end][chosen],
                f"event {ids[row]}",
                truth.of(row),
                defect,
                size_mm=size_mm,
            )
