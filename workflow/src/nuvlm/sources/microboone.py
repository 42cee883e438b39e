"""Reader of MicroBooNE's open data: hits on three wire planes, of simulated neutrinos over real cosmic rays.

The samples (arXiv 2309.15362) are HDF5 files of numl, with and without waveforms; the waveforms are not used. Columns
and geometry: github.com/uboone/OpenSamples (file-content-hdf5.md, microboone_utils.py) and github.com/uboone/hdf5maker
(HDF5Maker_module.cc); docs/formats.md.
"""

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from nuvlm.base.errors import InputError
from nuvlm.sources.microboone_truth import FEW, PITCH_CM, Truth, optional, read_truth
from nuvlm.sources.numl import Places, Table, find_rows, open_numl, read_keys
from nuvlm.sources.ready_maps import WIRES_AND_TIME, BadEvent, MapAxes, PixelMap, PixelMapWriter
from nuvlm.sources.shapes import count_cells
from nuvlm.sources.wire_maps import REASONS, Planes, WireMaps

PLANES = Planes(views=("u", "v", "y"), wires=(2400, 2400, 3456), ticks=6400)
"""Two planes of induction, wires at +60 and -60 degrees to the vertical, and the collection plane, vertical wires. The
numbers grow along the beam."""
TICK_CM, TRIGGER_TICK = 0.0548965, 800
"""Drift in a tick, and the tick of charge that was at the anode when the beam came."""
EVENTS, HITS = "event_table", "hit_table"
INTEGERS, NUMBERS = ("local_plane", "local_wire"), ("local_time", "integral")
MOST_LEFT_OUT = 0.01
"""Fraction of an event's hits that may be left out."""
NEAR_CM, TOUCHING_CM, TRIED = 5.0, 50.0, 50
"""Distance of a vertex to the nearest hit that is unusual, and beyond which they cannot be of one event; number of
events that are tried."""
SHAPES = 16
"""Events whose shapes are judged."""
CELL_WIRES, CELL_TICKS, LEAST_CONNECTED = 8, 64, 0.7
"""Hits within some wires and ticks are one group; part of the groups that have another one beside them."""
USUAL_ADC = (40.0, 600.0)
"""Median integral of the hits of plane y: most are of cosmic muons, 100 to 200 (OpenSamples, "WireImage.ipynb")."""


def recognise_microboone(path: Path) -> str | None:
    """Describe a file of MicroBooNE's open data, judged by its tables, columns and wires; None for other files."""
    try:
        with open_numl(path) as file:
            events, hits = Table(path, file, EVENTS), Table(path, file, HITS)
            hits.require([*INTEGERS, *NUMBERS])
            plane, wire = (hits.read(name, 0, 4096) for name in INTEGERS)
            wires = np.array(PLANES.wires)
            if ((plane < 0) | (plane >= len(wires))).any() or (wire >= wires[plane.astype(np.int64)]).any():
                return None
            if hits.has("tpc"):
                hits.require(["tpc"])
                if hits.read("tpc", 0, 4096).any():
                    return None
            waveforms = ", with waveforms" if isinstance(file.get("wire_table"), h5py.Group) else ""
            return f"MicroBooNE open data (HDF5 of numl): {events.rows} events, {hits.rows} hits on wires{waveforms}"
    except (InputError, OSError, RuntimeError, ValueError):
        return None


def convert_microboone(path: Path, out: PixelMapWriter) -> None:
    """Write the events of a file to a pixel-map store and a truth table.

    The maps hold the whole planes and the whole readout, with all cosmic rays: no window is chosen.

    Args:
        path: HDF5 with `event_table` and `hit_table`.
        out: its views are some of u, v and y; its `wires` give the pixels.

    Raises:
        InputError: the file is missing, truncated or of another kind; its tables, or charge and vertices, do not belong
            together; energies cannot be in GeV; an event cannot be used.
    """
    chosen = out.choose_views(path, PLANES.views)
    with open_numl(path) as file:
        events, hits = Table(path, file, EVENTS), Table(path, file, HITS)
        hits.require([*INTEGERS, *NUMBERS, *(["tpc"] if hits.has("tpc") else [])])
        keys = read_keys(events)
        places = find_rows(events, keys, hits)
        with_hits = int((places.count > 0).sum())
        out.conclude(path, "events", f"{len(keys)}, {with_hits} of them with {hits.rows} hits", places.evidence)
        truth = read_truth(events, out)
        _check_hits(events, hits, places, truth, out)
        ids = _event_ids(path, keys, out)
        pixels = out.wires
        out.write(
            path,
            _read(out, hits, places, keys, ids, truth, WireMaps(PLANES, chosen, pixels)),
            len(keys),
            source="microboone",
            views=chosen,
            axes=MapAxes(
                WIRES_AND_TIME.columns, WIRES_AND_TIME.rows, pixels.pixel_wires, pixels.pixel_ticks, WIRES_AND_TIME.up
            ),
            geometry=pixels.model_dump()
            | {"pixel_mm": [round(10 * PITCH_CM * pixels.pixel_wires, 3), round(10 * TICK_CM * pixels.pixel_ticks, 3)]},
        )


def _event_ids(path: Path, keys: np.ndarray, out: PixelMapWriter) -> np.ndarray:
    """(events,) ids: run, subrun and event as one number that can be read, or the row if that is not unique."""
    run, subrun, event = keys.T
    if run.max() < 10**6 and subrun.max() < 10**5 and event.max() < 10**7:
        ids = run * 10**12 + subrun * 10**7 + event
        if len(np.unique(ids)) == len(ids):
            out.conclude(path, "event ids", "run x 10^12 + subrun x 10^7 + event", "unique in the file")
            return ids
        reason = "run, subrun and event occur more than once, as in merged files"
    else:
        reason = "run, subrun or event are too large for one number"
    what = "events are numbered by their row; the file's numbers are in the names"
    out.conclude(path, "event ids", what, reason, doubt=True)
    return np.arange(len(keys))


def _read(
    out: PixelMapWriter,
    hits: Table,
    places: Places,
    keys: np.ndarray,
    ids: np.ndarray,
    truth: Truth,
    maps: WireMaps,
) -> Iterator[PixelMap | BadEvent]:
    """The events in the order of their hits, then those without any."""
    left_out, total = np.zeros(len(REASONS), dtype=np.int64), 0
    for begin, end, rows in places.blocks():
        columns = _columns(hits, begin, end)
        for row in rows:
            first = int(places.begin[row]) - begin
            span = slice(first, first + int(places.count[row]))
            name = "/".join(map(str, keys[row].tolist()))
            of_event = {column: values[span] for column, values in columns.items()}
            images, counts = maps.draw(*(of_event[column] for column in (*INTEGERS, *NUMBERS)))
            defect = truth.bad[row] or _defect(of_event, counts)
            if defect:
                yield BadEvent(name, defect)
                continue
            left_out += counts
            total += len(of_event["integral"])
            x, y, z = truth.vertex_mm[row].tolist()
            yield PixelMap(
                name,
                int(ids[row]),
                images,
                truth.label[row],
                nu_pdg=int(truth.nu_pdg[row]),
                is_cc=bool(truth.is_cc[row]),
                nu_energy=float(truth.nu_energy[row]),
                inelasticity=float(truth.inelasticity[row]),
                vertex_mm=(x, y, z),
            )
    for row in np.flatnonzero(places.count == 0):
        yield BadEvent("/".join(map(str, keys[row].tolist())), f"has no hits in '{hits.name}'")
    for count, reason in zip(left_out.tolist(), REASONS, strict=True):
        if count:
            out.conclude(
                hits.path, "hits left out", f"{count} of {total} hits {reason}", "values that cannot be", doubt=True
            )


def _columns(hits: Table, begin: int, end: int) -> dict[str, np.ndarray]:
    """Columns of the hits in rows `begin` to `end`, in the types that the maps are drawn from."""
    columns = {name: _integers(hits.read(name, begin, end)) for name in INTEGERS}
    columns |= {name: np.ascontiguousarray(hits.read(name, begin, end), dtype=np.float32) for name in NUMBERS}
    return columns | ({"tpc": hits.read("tpc", begin, end)} if hits.has("tpc") else {})


def _integers(values: np.ndarray) -> np.ndarray:
    """int32; -1 for what is not a whole number, or too large."""
    if values.dtype == np.int32:
        return np.ascontiguousarray(values)
    with np.errstate(invalid="ignore"):
        whole = (values == np.rint(values)) & (values >= 0) & (values < 2**31)
    return np.where(whole, values, -1).astype(np.int32)


def _defect(hits: dict[str, np.ndarray], left_out: np.ndarray) -> str | None:
    """Reason why the hits of an event cannot be used."""
    total, without = len(hits["integral"]), int(left_out.sum())
    if "tpc" in hits and hits["tpc"].any():
        tpc = hits["tpc"][hits["tpc"] != 0][0]
        return f"has hits in TPC {tpc}: MicroBooNE has one, TPC 0. Is the file of another experiment?"
    if without > MOST_LEFT_OUT * total:
        worst = int(left_out.argmax())
        return f"has {left_out[worst]} of {total} hits {REASONS[worst]}"
    if not (hits["integral"] > 0).any():
        return "has hits, but no charge in them"
    if _repeated(hits):
        return "has its hits more than once: were rows repeated?"
    return None


def _repeated(hits: dict[str, np.ndarray]) -> bool:
    """Whether the hits begin again after some of them."""
    columns = [hits[name] for name in (*NUMBERS, *INTEGERS)]
    time, charge = columns[:2]
    for again in np.flatnonzero((charge[1:] == charge[0]) & (time[1:] == time[0])) + 1:
        n = min(again, len(charge) - again)
        if all(np.array_equal(of[again : again + n], of[:n]) for of in columns):
            return bool(n > 1)
    return False


def _check_hits(events: Table, hits: Table, places: Places, truth: Truth, out: PixelMapWriter) -> None:
    """Check the first events' hits against MicroBooNE's geometry and readout, and against the true vertices.

    Charge must touch its vertex, on each plane, which needs planes, wires and times to be right. A vertex is at
    `nu_vtx_wire_pos`, and along the drift at `nu_vtx_corr`, or at `nu_vtx_wire_time` if that is nearer: its name says
    tick, and the public files have nanoseconds. As cosmic rays cross the planes everywhere, only what is far off is
    refused; what is further off than in good files is a warning.

    Raises:
        InputError: half of the vertices are further than `TOUCHING_CM` from any hit of a plane.
    """
    corrected, wire = (optional(events, name, 3) for name in ("nu_vtx_corr", "nu_vtx_wire_pos"))
    ticks = np.stack([TRIGGER_TICK + corrected[:, 0] / TICK_CM, optional(events, "nu_vtx_wire_time")])
    charged = np.array([label in ("nue", "numu") for label in truth.label], dtype=bool)
    placed = charged & np.isfinite(wire).all(axis=1) & np.isfinite(ticks).any(axis=0)
    tried = np.flatnonzero((placed if placed.any() else True) & (places.count > 0))[:TRIED]
    charges, distances = [], np.full((len(tried), len(PLANES.views)), np.nan)
    cells, on_plane = np.zeros(3, dtype=np.int64), np.zeros(len(PLANES.views), dtype=np.int64)
    for i, row in enumerate(tried):
        columns = _columns(hits, int(places.begin[row]), int(places.begin[row] + places.count[row]))
        plane, wires, times, charge = (columns[name] for name in (*INTEGERS, *NUMBERS))
        charges.append(charge[plane == len(PLANES.views) - 1])
        if i < SHAPES:
            cells += count_cells(np.column_stack([3 * plane, wires // CELL_WIRES, times // CELL_TICKS]))
        on_plane += [(plane == p).sum() for p in range(len(PLANES.views))]
        for p in range(len(PLANES.views)):
            on = plane == p
            if on.any() and placed[row]:
                across, along = PITCH_CM * (wires[on] - wire[row, p]), TICK_CM * (times[on] - ticks[:, row, None])
                distances[i, p] = np.fmin.reduce(np.hypot(across, along), axis=None)
    _check_shapes(hits.path, cells, on_plane, out)
    charge = np.concatenate(charges) if charges else np.zeros(0)
    if len(charge):
        median = float(np.median(charge))
        evidence = f"median {median:.3g} ADC x tick on plane y in the first events"
        unusual = not USUAL_ADC[0] <= median <= USUAL_ADC[1]
        if unusual:
            evidence += "; in MicroBooNE about 150: check the unit, or set input.wires.white_adc"
        out.conclude(hits.path, "charge unit", "ADC x tick", evidence, doubt=unusual)
    near = np.array([np.median(of[np.isfinite(of)]) for of in distances.T if np.isfinite(of).sum() >= FEW])
    if not len(near):
        return
    worst = float(near.max())
    evidence = f"the nearest hit is {worst:.2g} cm from the true vertex (median of {len(tried)} events, worst plane)"
    if not worst <= TOUCHING_CM:
        raise InputError(
            f"{hits.path}: {evidence}, but charge must touch its vertex. Either the vertices of '{events.name}' are of "
            f"other events than the hits of '{hits.name}', or local_time is not in ticks of 0.5 us, or local_wire not "
            "the number of the wire."
        )
    far = worst > NEAR_CM
    if far:
        evidence += ": planes, wires or times may be exchanged or shifted, or the truth be of other events"
    out.conclude(hits.path, "hits", "wire numbers and ticks of 0.5 us", evidence, doubt=far)


def _check_shapes(path: Path, cells: np.ndarray, on_plane: np.ndarray, out: PixelMapWriter) -> None:
    """Record planes without hits, and hits that do not form tracks.

    Args:
        cells: see :class:`nuvlm.sources.shapes.Cells`.
        on_plane: (planes,), number of hits.
    """
    n, _, connected = cells.tolist()
    if not n:
        return
    for view in np.array(PLANES.views)[on_plane == 0]:
        out.conclude(path, "planes", f"plane {view} has no hits", "the first events", doubt=True)
    value = f"{connected / n:.0%} of {n} groups of hits have another one beside them"
    out.conclude(path, "shapes", value, "the first events", doubt=connected < LEAST_CONNECTED * n)
