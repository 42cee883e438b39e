"""A writer of files like MicroBooNE's open data: tables, types, chunks and compression of HDF5Maker and ph5concat."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

WIRES, TICKS = (2400, 2400, 3456), 6400
TICK_CM, TRIGGER = 0.0548965, 800
# (is_cc, nu_pdg) in turn
NEUTRINOS = ((1, 12), (1, 14), (0, 14), (1, -14), (0, 12), (1, -12))
TYPES = {
    "hit_table": {
        "hit_id": np.int32, "integral": np.float32, "rms": np.float32, "tpc": np.int32,
        "local_plane": np.int32, "local_wire": np.int32, "local_time": np.float32,
    },
    "event_table": {
        "is_cc": np.int32, "nu_pdg": np.int32, "nu_energy": np.float32, "lep_energy": np.float32,
        "nu_dir": np.float32, "nu_vtx": np.float32, "nu_vtx_corr": np.float32, "nu_vtx_wire_pos": np.int32,
        "nu_vtx_wire_time": np.float32,
    },
}  # fmt: skip


def make_events(n: int = 12, *, hits: int = 400, seed: int = 3) -> dict[str, dict[str, np.ndarray]]:
    """Tables of `n` events: a shape that depends on the class at the vertex, and cosmic rays across all planes.

    Args:
        hits: hits of an event, of all planes.
    """
    rng = np.random.default_rng(seed)
    kinds = [NEUTRINOS[i % len(NEUTRINOS)] for i in range(n)]
    vertex = np.column_stack([rng.uniform(20, 230, n), rng.uniform(-90, 90, n), rng.uniform(20, 900, n)])
    # z' along the wires' normal in the planes at 60 degrees; see microboone_utils.py of OpenSamples
    across = [(vertex[:, 2] * 0.5 + sign * vertex[:, 1] * 3**0.5 / 2 + 100.7) / 0.3 for sign in (1, -1)]
    wire = np.column_stack([*across, (vertex[:, 2] - 0.25) / 0.3]).round()
    wire = np.clip(wire, 0, np.array(WIRES) - 1).astype(np.int32)
    energy = rng.uniform(0.4, 3, n)
    events = {
        "event_id": np.column_stack([np.full(n, 7003), 1300 + np.arange(n) // 4, 67260 + np.arange(n)]).astype(
            np.int32
        ),
        "is_cc": np.array([kind[0] for kind in kinds]),
        "nu_pdg": np.array([kind[1] for kind in kinds]),
        "nu_energy": energy,
        "lep_energy": energy * rng.uniform(0.2, 0.9, n),
        "nu_dir": np.tile([0.0, 0.0, 1.0], (n, 1)),
        "nu_vtx": vertex,
        "nu_vtx_corr": vertex,
        "nu_vtx_wire_pos": wire,
        # nanoseconds, as in the public files
        "nu_vtx_wire_time": rng.uniform(3125, 4725, n),
    }
    tables = [_hits(kinds[i], wire[i], TRIGGER + vertex[i, 0] / TICK_CM, hits, rng) for i in range(n)]
    table = {name: np.concatenate([hits[name] for hits in tables]) for name in tables[0]}
    table["event_id"] = np.repeat(events["event_id"], [len(hits["hit_id"]) for hits in tables], axis=0)
    return {"event_table": events, "hit_table": table}


def _hits(
    kind: tuple[int, int], wire: np.ndarray, tick: float, hits: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Hits of one event, sorted by plane and wire."""
    planes: dict[str, list[np.ndarray]] = {"local_plane": [], "local_wire": [], "local_time": [], "integral": []}
    of_neutrino = hits // 6
    for plane, wires in enumerate(WIRES):
        along = np.arange(of_neutrino) * (1 if kind[0] else 0.3)
        # a cone for an electron, a line for a muon, something short for a neutral current
        spread = 0.5 * along if kind[0] and abs(kind[1]) == 12 else np.full(of_neutrino, 1.0)
        w = [np.clip(wire[plane] + along, 0, wires - 1)]
        t = [np.clip(tick + 3 * along + rng.normal(0, 1, of_neutrino) * 5.5 * spread, 0, TICKS - 1)]
        cosmic = np.linspace(0, 1, hits // 3 - of_neutrino, endpoint=False)
        w.append(rng.uniform(0, wires) + (rng.uniform(0, wires) - rng.uniform(0, wires)) * 0.1 * cosmic)
        t.append(TICKS * cosmic)
        w_all = np.clip(np.concatenate(w), 0, wires - 1).astype(np.int64)
        order = np.argsort(w_all, kind="stable")
        planes["local_plane"].append(np.full(len(order), plane))
        planes["local_wire"].append(w_all[order])
        planes["local_time"].append(np.concatenate(t)[order])
        planes["integral"].append(rng.gamma(4, 40, len(order)))
    table = {name: np.concatenate(values) for name, values in planes.items()}
    n = len(table["integral"])
    return table | {"hit_id": np.arange(n), "rms": rng.uniform(2, 5, n), "tpc": np.zeros(n)}


def write_microboone(
    path: Path, tables: Mapping[str, Mapping[str, Any]], *, sequence: str | None = "seq_cnt", compress: bool = True
) -> Path:
    """Write tables; a column or table that is None is left out.

    Args:
        sequence: `seq_cnt` or `seq`, as ph5concat's utility add_key writes them, or None.
        compress: gzip, as ph5concat does by default.
    """
    keys = (tables["event_table"] or {}).get("event_id")
    order = {tuple(key): i for i, key in reversed(list(enumerate(np.asarray([] if keys is None else keys).tolist())))}
    with h5py.File(path, "w") as file:
        for name, columns in tables.items():
            if columns is None:
                continue
            group = file.create_group(name)
            columns = {column: values for column, values in columns.items() if values is not None}
            if sequence and "event_id" in columns and f"event_id.{sequence}" not in columns:
                numbers = np.array([order.get(tuple(key), -1) for key in columns["event_id"].tolist()], dtype=np.int64)
                if sequence == "seq":
                    columns["event_id.seq"] = numbers
                else:
                    starts = np.flatnonzero(np.diff(numbers, prepend=-2))
                    counts = np.diff(np.append(starts, len(numbers)))
                    columns["event_id.seq_cnt"] = np.column_stack([numbers[starts], counts])
            for column, values in columns.items():
                dtype = TYPES.get(name, {}).get(column)
                values = np.asarray(values)
                # Other types are kept: they are a test's.
                if dtype is not None and values.dtype in (np.int64, np.float64):
                    values = values.astype(dtype)
                values = values[:, None] if values.ndim == 1 else values
                chunks = (max(1, min(len(values), 2**18 // values.shape[1])), values.shape[1])
                filters = {"compression": "gzip", "compression_opts": 6} if compress else {}
                group.create_dataset(column, data=values, chunks=chunks, maxshape=(None, values.shape[1]), **filters)
    return path
