"""ndlar_flow files for tests: tables, references and attributes as h5flow and ndlar_flow write them, in their versions.

Dtypes, units and names follow https://github.com/DUNE/ndlar_flow (src/proto_nd_flow/reco/charge) and
https://github.com/lbl-neutrino/h5flow (h5flow/data/h5flow_data_manager.py).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from nuvlm.detector.geometry import Detector, drift_distance_mm

PITCH_MM = 4.434
VELOCITY_MM_US = 1.6
TICK_US = 0.1
MEV_PER_KE = 0.0338
"""As the latest version: 23.6 eV / 0.698."""
PROMPT, FINAL = "charge/calib_prompt_hits", "charge/calib_final_hits"


@dataclass(frozen=True)
class Version:
    """What a version of the program wrote."""

    mm: float = 10.0
    """Unit of the hits, mm."""
    drift: str = "x"
    """The column along the drift."""
    has_anodes: bool = True
    """Columns io_group and io_channel."""
    mev: float = MEV_PER_KE
    """E / Q, MeV per ke-."""
    parent: str = "charge/events"
    """The table that has references to hits, beside raw_events."""
    has_merged: bool = True
    """calib_final_hits."""


VERSIONS = {
    "early 2023": Version(1.0, "z", False, 23.6e-6, "charge/raw_events", False),
    "February 2023": Version(1.0, "x", False, 23.6e-6),
    "May 2023": Version(10.0, "x", False, 23.6e-3),
    "February 2024": Version(mev=23.6e-3 * 0.7),
    "May 2024": Version(),
}


@dataclass
class FlowEvent:
    """Hits of one event."""

    number: int
    position_mm: np.ndarray
    """(hits, 3), x along the drift, from the origin of the file."""
    charge_ke: np.ndarray
    ticks: np.ndarray
    """Drift time."""
    anode: np.ndarray
    vertex_mm: np.ndarray = field(default_factory=lambda: np.full(3, np.nan))


@dataclass
class Flow:
    """What goes into a file; tests edit it before it is written."""

    tables: dict[str, np.ndarray]
    pairs: dict[tuple[str, str], np.ndarray]
    """(parent, child) -> references."""
    attributes: dict[str, dict[str, Any]] = field(default_factory=dict)


def read_out(
    number: int, position_mm: np.ndarray, energy_mev: np.ndarray, detector: Detector, pitch_mm: float = PITCH_MM
) -> FlowEvent:
    """Hits of charge at `position_mm`: on a grid of pixels, at the place that a whole number of ticks gives.

    Drift is along x; the detector's cathodes and anodes say to where.
    """
    distance, _ = drift_distance_mm(detector, position_mm[:, 0])
    anodes = np.array(detector.anodes_mm)
    # The anode at this distance: on the low or on the high side.
    which = np.abs(np.abs(position_mm[:, :1] - anodes) - distance[:, None]).argmin(axis=1)
    side = np.sign(position_mm[:, 0] - anodes[which])
    ticks = np.round(distance / VELOCITY_MM_US / TICK_US)
    x = anodes[which] + side * ticks * TICK_US * VELOCITY_MM_US
    across = (np.floor(position_mm[:, 1:] / pitch_mm) + 0.5) * pitch_mm
    return FlowEvent(number, np.column_stack([x, across]), energy_mev / MEV_PER_KE, ticks, 2 * which + (side > 0) + 1)


def track(start_mm: np.ndarray, direction: np.ndarray, length_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Points along a straight muon, and their energies."""
    steps = np.arange(0, length_mm, 4.0)
    unit = np.asarray(direction) / np.linalg.norm(direction)
    return np.asarray(start_mm) + steps[:, None] * unit, np.full(len(steps), 0.4 * 2.1)


def muon_events(n: int, detector: Detector, rng: np.random.Generator, tracks: int = 3) -> list[FlowEvent]:
    """Events of several tracks from one vertex, in a file whose z begins in the middle of the detector."""
    low, high = np.array(detector.box_mm).T
    events = []
    for number in range(n):
        vertex = rng.uniform(low + 0.3 * (high - low), high - 0.3 * (high - low))
        parts = [track(vertex, rng.normal((0, 0, 1), 0.4), rng.uniform(300, 800)) for _ in range(tracks)]
        position, energy = (np.concatenate(values) for values in zip(*parts, strict=True))
        inside = ((position > low) & (position < high)).all(axis=1)
        event = read_out(10 + number, position[inside], energy[inside], detector)
        event.position_mm[:, 2] -= (low[2] + high[2]) / 2
        event.vertex_mm = vertex - [0, 0, (low[2] + high[2]) / 2]
        events.append(event)
    return events


def hit_rows(events: Iterable[FlowEvent], version: Version, detector: Detector) -> np.ndarray:
    events = list(events)
    columns = [("id", "u4"), ("x", "f8"), ("y", "f8"), ("z", "f8"), ("t_drift", "f8"), ("ts_pps", "u8")]
    columns += [("io_group", "u8"), ("io_channel", "u8")] if version.has_anodes else []
    rows = np.zeros(sum(len(event.charge_ke) for event in events), dtype=[*columns, ("Q", "f8"), ("E", "f8")])
    if len(rows):
        position = np.concatenate([event.position_mm for event in events]) / version.mm
        order = "zyx" if version.drift == "z" else "xyz"
        for axis, values in zip(order, position.T, strict=True):
            rows[axis] = values
        rows["t_drift"] = np.concatenate([event.ticks for event in events])
        rows["Q"] = np.concatenate([event.charge_ke for event in events])
        rows["E"] = version.mev * rows["Q"]
        rows["id"] = np.arange(len(rows))
        rows["ts_pps"] = 1000 + rows["t_drift"]
        if version.has_anodes:
            rows["io_group"] = np.concatenate([event.anode for event in events])
    return rows


def make_flow(events: list[FlowEvent], detector: Detector, version: Version = VERSIONS["May 2024"]) -> Flow:
    """The contents of a file of `version`."""
    halves = [
        FlowEvent(
            event.number, *(np.repeat(values, 2, axis=0) for values in (event.position_mm, event.charge_ke / 2,
                                                                        event.ticks, event.anode))
        )
        for event in events
    ]  # fmt: skip
    tables = {PROMPT: hit_rows(halves if version.has_merged else events, version, detector)}
    if version.has_merged:
        tables[FINAL] = hit_rows(events, version, detector)
    numbers = [event.number for event in events]
    summary = np.zeros(len(events), dtype=[("id", "u8"), ("nhit", "u4"), ("ADC", "f8"), ("ts_start", "f8"),
                                           ("ts_end", "f8"), ("n_ext_trigs", "u4"), ("unix_ts", "u8")])  # fmt: skip
    raw = np.zeros(len(events), dtype=[("id", "u8"), ("unix_ts", "u8")])
    summary["id"] = raw["id"] = numbers
    tables |= {"charge/events": summary, "charge/raw_events": raw}
    pairs = {}
    for name in (PROMPT, FINAL)[: 1 + version.has_merged]:
        each = len(tables[name]) // max(1, sum(len(event.charge_ke) for event in events))
        parent = np.repeat(np.arange(len(events)), [each * len(event.charge_ke) for event in events])
        for holder in {"charge/raw_events", version.parent}:
            pairs[holder, name] = np.column_stack([parent, np.arange(len(parent))]).astype("u4")
    low, high = np.array(detector.box_mm).T
    middle = np.array([0, 0, (low[2] + high[2]) / 2])
    attributes = {
        "run_info": {"e_field": 0.05, "crs_ticks": TICK_US, "is_mc": False, "classname": "RunData"},
        "lar_info": {"v_drift": VELOCITY_MM_US, "classname": "LArData"},
        "geometry_info": {
            "drift_direction": "x",
            "beam_direction": "z",
            "lar_detector_bounds": np.array([low - middle, high - middle]) / version.mm,
        },
    }
    if version.drift == "z":
        del attributes["geometry_info"]
    return Flow(tables, pairs, attributes)


def add_truth(flow: Flow, vertices_mm: np.ndarray, **columns: Any) -> None:
    """One neutrino for each event, in the columns of larnd-sim's mc_hdr (cm, MeV)."""
    names = [("event_id", "u4"), ("vertex_id", "u8"), ("x_vert", "f4"), ("y_vert", "f4"), ("z_vert", "f4")]
    names += [("isCC", "?"), ("isQES", "?"), ("isMEC", "?"), ("isRES", "?"), ("isDIS", "?"), ("isCOH", "?")]
    names += [("Enu", "f4"), ("nu_pdg", "i4"), ("y", "f4")]
    rows = np.zeros(len(vertices_mm), dtype=np.dtype(names, align=True))
    rows["vertex_id"] = np.arange(len(rows))
    for axis, values in zip("xyz", vertices_mm.T / 10, strict=True):
        rows[f"{axis}_vert"] = values
    rows["nu_pdg"], rows["isCC"], rows["isRES"], rows["Enu"], rows["y"] = 14, True, True, 2500, 0.25
    for name, value in columns.items():
        rows[name] = value
    flow.tables["mc_truth/interactions"] = rows
    flow.pairs["charge/raw_events", "mc_truth/interactions"] = np.column_stack(2 * [np.arange(len(rows))]).astype("u4")


def write_flow(path: Path, flow: Flow) -> Path:
    """Write the file: growing tables, references of row numbers, and lookup tables for both directions."""
    with h5py.File(path, "w") as file:
        for name, rows in flow.tables.items():
            _grow(file, f"{name}/data", rows)
        for (parent, child), pairs in flow.pairs.items():
            references = _grow(file, f"{parent}/ref/{child}/ref", pairs)
            references.attrs["dset0"], references.attrs["dset1"] = f"/{parent}/data", f"/{child}/data"
            for one, other, column in ((parent, child, 0), (child, parent, 1)):
                n = len(flow.tables.get(one, ()))
                region = np.zeros(n, dtype=[("start", "i4"), ("stop", "i4")])
                for row in np.unique(pairs[:, column][pairs[:, column] < n]):
                    at = np.flatnonzero(pairs[:, column] == row) if column == 0 else np.array([row])
                    region["start"][row], region["stop"][row] = at.min(), at.max() + 1
                _grow(file, f"{one}/ref/{other}/ref_region", region).attrs["ref"] = references.name
        for name, attributes in flow.attributes.items():
            file.require_group(name).attrs.update(attributes)
    return path


def _grow(file: h5py.File, name: str, rows: np.ndarray) -> h5py.Dataset:
    table = file.create_dataset(name, (0, *rows.shape[1:]), rows.dtype, maxshape=(None, *rows.shape[1:]))
    table.resize(len(rows), axis=0)
    table[:] = rows
    return table


Edit = Callable[[Flow], None]
