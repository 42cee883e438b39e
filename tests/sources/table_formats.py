"""Files of the formats that are tables, made from simulated neutrinos, and what their columns mean.

Each function returns a content, the meaning of its columns, and the conversion of a content.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import uproot
from made_events import MadeEvent
from mutations import doubts, shard_events
from table_mutations import Column, Content, Format, read_content, write_content

from image_files import ImageEvent, write_larcv3, write_pilarnet, write_spine
from microboone_file import make_events, write_microboone
from ndlarflow_file import FINAL, PROMPT, add_truth, make_flow, read_out, write_flow
from nuvlm.base.conclusions import Conclusions
from nuvlm.base.errors import InputError
from nuvlm.detector.geometry import Detector
from nuvlm.detector.voxels import voxelize
from nuvlm.simulation.events import from_genie
from nuvlm.simulation.generator_evidence import GeneratorEvidence
from nuvlm.simulation.genie import read_genie
from nuvlm.sources.larcv import convert_larcv
from nuvlm.sources.microboone import convert_microboone
from nuvlm.sources.ndlarflow import convert_ndlarflow
from nuvlm.sources.pilarnet import convert_pilarnet
from nuvlm.sources.shard_writer import DriftedShardWriter, VoxelShardWriter
from nuvlm.sources.wire_pixels import WirePixels

Result = tuple[list[dict[str, Any]], Counter[str]]
Made = tuple[Content, Format, Callable[[Content], Result]]
DETECTOR = Detector()
LOW_CM, SHAPE, VOXEL_CM = np.array([-100.0, -100.0, 0.0]), np.array([667, 667, 2334]), 0.3
MODES = {1: 0, 3: 1, 4: 2, 5: 3, 2: 10}
"""Our modes -> LArSoft's."""
MODE_ONLY = "the mode is only in its column"
TURNED = "a file turned about the beam or mirrored, all of whose tables agree"
LABELS = "a picture does not tell"
OTHERS = "each voxel or hit has the energy of another"
SMALL = "a shift by less than 5 cm, or of single voxels or hits"
ROUNDED = "rounding to whole numbers"


def _shard(writer: type[VoxelShardWriter], reader: Callable[..., None], path: Path, **settings: Any) -> Result:
    out = path.with_suffix(".voxels.h5")
    reader(path, writer(shard=out, detector=DETECTOR, **settings))
    with h5py.File(out) as file:
        found = doubts(file.attrs["conclusions"])
    return shard_events(out, DETECTOR), found


def ndlarflow(folder: Path, events: list[MadeEvent]) -> Made:
    low, high = np.array(DETECTOR.box_mm).T
    made, vertices = [], []
    for number, event in enumerate(events):
        middle = (event.start + event.end) / 2
        inside = ((middle > low) & (middle < high)).all(axis=1)
        cell, of = np.unique(np.floor(middle[inside] / (4.8, 4.434, 4.434)), axis=0, return_inverse=True)
        position = (cell + 0.5) * (4.8, 4.434, 4.434)
        hits = read_out(100 + 7 * number, position, np.bincount(of.ravel(), event.energy[inside]), DETECTOR)
        hits.position_mm[:, 2] -= (low[2] + high[2]) / 2
        made.append(hits)
        vertices.append(event.vertex - [0, 0, (low[2] + high[2]) / 2])
    flow = make_flow(made, DETECTOR)
    states = [event.state for event in events]
    truth = {
        "nu_pdg": [s.nu_pdg for s in states],
        "isCC": [s.is_cc for s in states],
        "Enu": [1000 * s.nu_energy for s in states],
        "y": [s.inelasticity for s in states],
        "isRES": [s.mode == 3 for s in states],
        "isQES": [s.mode == 1 for s in states],
        "isDIS": [s.mode == 4 for s in states],
    }
    add_truth(flow, np.array(vertices), **truth)
    flow.tables["mc_truth/stack"] = _stack(events)
    content = read_content(write_flow(folder / "a.h5", flow))
    content.tables = {name: rows for name, rows in content.tables.items() if not name.endswith("ref_region")}

    def convert(changed: Content) -> Result:
        path = write_content(folder / "a.h5", changed)
        return _shard(DriftedShardWriter, convert_ndlarflow, path, offset_mm=(0, 0, (low[2] + high[2]) / 2))

    hit_table, true_table = f"{FINAL}/data", "mc_truth/interactions/data"
    stack = lambda name, i=None: Column("mc_truth/stack/data", name, i)  # noqa: E731
    to_hits, to_truth = f"charge/events/ref/{FINAL}/ref", "charge/raw_events/ref/mc_truth/interactions/ref"
    hit, true = (lambda name: Column(hit_table, name)), (lambda name: Column(true_table, name))
    form = Format(
        places={"hits": [[hit(a) for a in "xyz"]], "vertices": [[true(f"{a}_vert") for a in "xyz"]],
                "momenta": [[stack("part_4mom", i) for i in range(3)]]},
        directions=frozenset({"momenta"}),
        half=(100, 100, 350),
        numbers=[hit("Q"), hit("E"), hit("t_drift"), true("Enu"), true("y")],
        together={"Q and E": [hit("Q"), hit("E")], "y and Enu": [true("y"), true("Enu")]},
        ids=[Column("charge/events/data", "id"), hit("io_group"),
             Column(to_hits, None, 0), *(Column(to_truth, None, i) for i in (0, 1)), stack("vertex_id"),
             true("vertex_id")],
        codes={stack("part_pdg"): (13, 2212),
               true("nu_pdg"): (12, 14, 16, -14, 13), true("isCC"): (0, 1), true("isRES"): (0, 1),
               true("isDIS"): (0, 1)},
        retyped=[hit("x"), hit("Q"), true("nu_pdg"), true("x_vert"), true("Enu"), true("isCC"),
                 Column("charge/events/data", "id")],
        tables=[(hit_table,), ("mc_truth/stack/data",), (f"{PROMPT}/data",),
                ("charge/events/data",), ("charge/raw_events/data",), (true_table,),
                (to_hits,), (to_truth,)],
        invisible={"interactions/data.isRES": MODE_ONLY, "interactions/data.isDIS": MODE_ONLY,
                   f"{hit_table} one row on": SMALL, "interactions/data.x_vert as i": ROUNDED},
    )  # fmt: skip
    return content, form, convert


def _stack(events: list[MadeEvent]) -> np.ndarray:
    kind = [
        ("event_id", "u4"),
        ("vertex_id", "u8"),
        ("part_4mom", "f4", (4,)),
        ("part_pdg", "i4"),
        ("part_status", "i4"),
    ]
    rows = [
        (0, i, (p.px, p.py, p.pz, p.energy), p.pdg, 1) for i, event in enumerate(events) for p in event.state.particles
    ]
    return np.array(rows, dtype=kind)


def _images(events: list[MadeEvent]) -> list[ImageEvent]:
    fine = Detector(x_mm=(-1000, 1001), y_mm=(-1000, 1001), z_mm=(0, 7002), voxel_mm=(3, 3, 3))
    images = []
    for number, event in enumerate(events):
        voxels, _ = voxelize(fine, event.start, event.end, event.energy)
        index = np.stack([voxels.x, voxels.y, voxels.z], axis=1).astype(np.int64)
        state = event.state
        images.append(
            ImageEvent(40 + 3 * number, index, voxels.energy, state.nu_pdg, state.is_cc, MODES[state.mode],
                       1000 * state.nu_energy, n_muon=len(index) // 2, extra={"event": event})
        )  # fmt: skip
    return images


def _vertex_cm(image: ImageEvent) -> np.ndarray:
    return image.extra["event"].vertex / 10


def larcv3(folder: Path, events: list[MadeEvent]) -> Made:
    images = _images(events)
    path = write_larcv3(folder / "a.h5", images, low_cm=LOW_CM, voxel_cm=VOXEL_CM, shape=SHAPE, compression=None)
    content = read_content(path)
    name = "Data/particle_pcluster_group/particles"
    rows, extents = _particles(events, content.tables[name].dtype)
    content.tables[name] = rows
    content.tables["Data/particle_pcluster_group/extents"]["n"] = extents
    content.tables["Data/particle_pcluster_group/extents"]["first"] = np.cumsum(extents) - extents
    group = "Data/sparse3d_pcluster_group"
    voxel, meta = (lambda n: Column(f"{group}/voxels", n)), (lambda n, i=None: Column(f"{group}/image_meta", n, i))
    part = lambda n, i=None: Column(name, n, i)  # noqa: E731
    form = Format(
        places={"origin": [[meta("origin", i) for i in range(3)]], "vertices": [[part("vtx", a) for a in "xyz"]],
                "momenta": [[part(f"p{a}") for a in "xyz"]]},
        directions=frozenset({"momenta"}),
        half=(100, 100, 350),
        numbers=[voxel("value"), part("energy_init"), *(meta("image_sizes", i) for i in range(3))],
        together={"image_sizes": [meta("image_sizes", i) for i in range(3)],
                  "image": [meta(n, i) for n in ("image_sizes", "origin") for i in range(3)],
                  "four-momenta": [part(n) for n in ("px", "py", "pz", "energy_init")],
                  "all energies": [voxel("value"), *(part(n) for n in ("px", "py", "pz", "energy_init"))]},
        ids=[voxel("id"), Column("Events/event_id", "event"), Column(f"{group}/extents", "first"),
             Column(f"{group}/voxel_extents", "first"), Column(f"{group}/voxel_extents", "n"),
             Column("Data/particle_pcluster_group/extents", "first"), part("trackid"), part("ancestor_trackid")],
        codes={part("pdg"): (12, 14, 13, -14, 2212), part("current_type"): (0, 1, -1),
               part("interaction_type"): (1001, 1091, 0)},
        retyped=[voxel("value"), voxel("id"), part("pdg"), part("energy_init"), part("current_type"), part("px")],
        tables=[(f"{group}/voxels",), (f"{group}/image_meta",), (f"{group}/voxel_extents",), (f"{group}/extents",),
                (name,), ("Data/particle_pcluster_group/extents",), ("Events/event_id",)],
        invisible={"particle_pcluster_group/particles.interaction_type": MODE_ONLY,
                   "sparse3d_pcluster_group/voxels.id + ": SMALL, "sparse3d_pcluster_group/voxels.id: first": SMALL,
                   f"{group}/voxels one row on": SMALL}
        | {f"particle_pcluster_group/particles.{n} as {k}": ROUNDED for n in ("energy_init", "px")
           for k in ("i8", "i4", "u2")},
    )  # fmt: skip
    return (
        content,
        form,
        lambda changed: _shard(VoxelShardWriter, convert_larcv, write_content(folder / "a.h5", changed)),
    )


def _particles(events: list[MadeEvent], dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the neutrino and of the final state of each event (MeV, cm), and their number an event."""
    parts = []
    for event in events:
        state = event.state
        rows = np.zeros(1 + len(state.particles), dtype=dtype)
        for i, axis in enumerate("xyz"):
            rows["vtx"][axis] = event.vertex[i] / 10
        rows["current_type"] = rows["interaction_type"] = 32767
        rows["trackid"] = rows["ancestor_trackid"] = np.arange(len(rows)) + 1
        rows["pdg"] = [state.nu_pdg, *(p.pdg for p in state.particles)]
        rows["energy_init"] = [1000 * state.nu_energy, *(p.energy for p in state.particles)]
        rows["pz"][0] = 1000 * state.nu_energy
        for axis in "xyz":
            rows[f"p{axis}"][1:] = [getattr(p, f"p{axis}") for p in state.particles]
        rows["current_type"][0] = 0 if state.is_cc else 1
        rows["interaction_type"][0] = {0: 1001, 1: 1010, 2: 1091, 3: 1096, 10: 1100}[MODES[state.mode]]
        parts.append(rows)
    return np.concatenate(parts), np.array([len(part) for part in parts])


def larcv_root(folder: Path, events: list[MadeEvent]) -> Made:
    """The columns of LArCV 2, one branch each: uproot cannot write the classes that ROOT streams them from."""
    images = _images(events)
    content = Content({})
    image, part, neutrino = "sparse3d_pcluster", "particle_pcluster", "neutrino_mpv"
    counts = {image: np.array([len(i.value) for i in images])}
    ids = [i.index[:, 0] + SHAPE[0] * (i.index[:, 1] + SHAPE[1] * i.index[:, 2]) for i in images]
    columns = {
        "_voxel_v._id": np.concatenate(ids).astype("u8"),
        "_voxel_v._value": np.concatenate([i.value for i in images]),
    }
    n = len(images)
    for i, axis in enumerate("xyz"):
        columns[f"_meta._p1.{axis}"] = np.full(n, LOW_CM[i])
        columns[f"_meta._p2.{axis}"] = np.full(n, LOW_CM[i] + VOXEL_CM * SHAPE[i])
        columns[f"_meta._{axis}num"] = np.full(n, SHAPE[i], "u8")
    columns["_meta._unit"] = np.ones(n, "i4")
    content.tables |= {f"{image}/{name}": values for name, values in columns.items()}
    kind = np.dtype([(c, t) for c, t in [("pdg", "i4"), ("energy_init", "f8"), ("px", "f8"), ("py", "f8"),
            ("pz", "f8"), ("trackid", "u4"), ("ancestor_trackid", "u4"), ("current_type", "i2"),
            ("interaction_type", "i2"), ("vtx", [(a, "f8") for a in "xyz"])]])  # fmt: skip
    rows, numbers = _particles(events, kind)
    first = np.cumsum(numbers) - numbers
    is_neutrino = np.isin(np.arange(len(rows)), first)
    for product, chosen, of in ((part, ~is_neutrino, numbers - 1), (neutrino, is_neutrino, np.ones(n, int))):
        counts[product] = of
        for name in ("pdg", "energy_init", "current_type", "interaction_type", "px", "py", "pz", "trackid",
                     "ancestor_trackid"):  # fmt: skip
            content.tables[f"{product}/_part_v._{name}"] = rows[name][chosen]
        content.tables |= {f"{product}/_part_v._vtx._{a}": rows["vtx"][a][chosen] for a in "xyz"}
    content.tables[f"{neutrino}/_part_v._interaction_mode"] = np.array([MODES[e.state.mode] for e in events], "i4")
    content.tables[f"{neutrino}/_part_v._y"] = np.array([e.state.inelasticity for e in events])
    content.tables[f"{neutrino}/_part_v._lepton_pdg"] = np.array(
        [e.state.nu_pdg - np.sign(e.state.nu_pdg) * e.state.is_cc for e in events], "i4"
    )
    for product in (image, part, neutrino):
        for name, value in {"_run": 1, "_subrun": 2}.items():
            content.tables[f"{product}/{name}"] = np.full(n, value, "i4")
        content.tables[f"{product}/_event"] = np.array([i.number for i in images], "i4")
    content.tables |= {f"counts/{name}": values for name, values in counts.items()}

    def convert(changed: Content) -> Result:
        path = _write_trees(folder / "a.root", changed, (image, part, neutrino))
        return _shard(VoxelShardWriter, convert_larcv, path)

    true = lambda name: Column(f"{neutrino}/_part_v._{name}")  # noqa: E731
    particle = lambda name: Column(f"{part}/_part_v._{name}")  # noqa: E731
    own = lambda name: Column(f"{image}/{name}")  # noqa: E731
    form = Format(
        places={"images": [[own(f"_meta._p{i}.{a}") for a in "xyz"] for i in (1, 2)],
                "vertices": [[true(f"vtx._{a}") for a in "xyz"]],
                "momenta": [[particle(f"p{a}") for a in "xyz"]]},
        directions=frozenset({"momenta"}),
        half=(100, 100, 350),
        numbers=[own("_voxel_v._value"), true("energy_init"), true("y"), particle("energy_init")],
        together={"four-momenta": [particle(x) for x in ("px", "py", "pz", "energy_init")],
                  "all energies": [own("_voxel_v._value"), true("energy_init"),
                                   *(particle(x) for x in ("px", "py", "pz", "energy_init"))]},
        ids=[own("_voxel_v._id"), own("_event"), Column(f"{neutrino}/_event"), Column(f"{part}/_event"),
             particle("trackid"), particle("ancestor_trackid"), own("_meta._unit"), own("_meta._xnum"),
             own("_meta._znum")],
        codes={true("pdg"): (12, 14, 13, -14, 16), true("current_type"): (0, 1, -1), true("lepton_pdg"): (11, 13, 14),
               true("interaction_mode"): (0, 1, 4), particle("pdg"): (13, 2212)},
        retyped=[own("_voxel_v._value"), own("_voxel_v._id"), true("pdg"), true("energy_init"), true("current_type")],
        tables=[(f"{neutrino}/_part_v._{x}",) for x in ("pdg", "energy_init", "current_type", "vtx._x", "y")]
        + [(own("_voxel_v._id").table, own("_voxel_v._value").table), (own("_voxel_v._value").table,),
           (f"{part}/_part_v._pdg",), (f"{part}/_part_v._px",), (f"counts/{image}",)],
        invisible={"neutrino_mpv/_part_v._interaction_mode": MODE_ONLY, "sparse3d_pcluster/_voxel_v._id + ": SMALL,
                   "sparse3d_pcluster/_voxel_v._id: first": SMALL, "sparse3d_pcluster/_meta._znum + 1": SMALL,
                   "sparse3d_pcluster/_meta._znum + 7": SMALL, "sparse3d_pcluster/_voxel_v._id and 1 more one": SMALL,
                   "sparse3d_pcluster/_voxel_v._value in any": OTHERS,
                   "sparse3d_pcluster/_voxel_v._value one row": OTHERS},
    )  # fmt: skip
    return content, form, convert


def _write_trees(path: Path, content: Content, products: tuple[str, ...]) -> Path:
    import awkward as ak

    with uproot.recreate(path) as file:
        for product in products:
            tables = {n.split("/")[1]: v for n, v in content.tables.items() if n.startswith(f"{product}/")}
            counts = content.tables.get(f"counts/{product}")
            arrays: dict[str, Any] = {}
            for name, values in tables.items():
                jagged = "_v._" in name
                if jagged and (counts is None or counts.sum() != len(values)):
                    # A file has as many values of an entry as it says: here the entries are cut anew.
                    of = np.zeros(len(tables["_event"]), dtype=np.int64) if counts is None else counts.copy()
                    of = np.diff(np.minimum(np.append(0, np.cumsum(of)), len(values)))
                    arrays[name] = ak.unflatten(values[: of.sum()], of)
                elif values.dtype.kind == "S":
                    raise InputError(f"{path}: {name} is text")
                else:
                    arrays[name] = ak.unflatten(values, counts) if jagged else values
            if len({len(array) for array in arrays.values()}) != 1:
                raise InputError(f"{path}: the columns of a tree have one length")
            file.mktree(f"{product}_tree", {n: ak.type(v).content if isinstance(v, ak.Array) else v.dtype
                                            for n, v in arrays.items()}).extend(arrays)  # fmt: skip
    return path


def spine(folder: Path, events: list[MadeEvent]) -> Made:
    images = [replace(i, value=2 * i.value) for i in _images(events)]  # its labels are half of it
    content = read_content(write_spine(folder / "a.h5", images, layout=2, low_cm=LOW_CM, shape=SHAPE, neutrinos=True))
    group = "products"
    neutrinos = content.tables[f"{group}/neutrinos/fixed"]
    neutrinos["position"] = [_vertex_cm(i) for i in images]
    neutrinos["inelasticity"] = [i.extra["event"].state.inelasticity for i in images]
    values, points = f"{group}/depositions_label/values", f"{group}/points_label/values"
    meta, true = (lambda n, i=None: Column(f"{group}/meta/fixed", n, i)), (
        lambda n, i=None: Column(f"{group}/neutrinos/fixed", n, i))  # fmt: skip
    form = Format(
        places={"points": [[Column(points, None, i) for i in range(3)]],
                "images": [[meta(n, i) for i in range(3)] for n in ("lower", "upper")],
                "vertices": [[true("position", i) for i in range(3)]]},
        half=(100, 100, 350),
        numbers=[Column(values), true("energy_init"), true("inelasticity"), *(meta("size", i) for i in range(3))],
        together={"points and images": [Column(points), *(meta(n) for n in ("lower", "upper", "size"))],
                  "all lengths": [Column(points), true("position"), *(meta(n) for n in ("lower", "upper", "size"))],
                  "sizes": [meta("size")]},
        ids=[Column("products/run_info/fixed", "event"), Column("products/points_label/event_offsets"),
             Column("products/depositions_label/event_offsets"), Column("products/neutrinos/event_offsets")],
        codes={true("pdg_code"): (12, 14, 13, -14), true("current_type"): (0, 1, -1), true("lepton_pdg_code"): (11, 13),
               true("interaction_mode"): (0, 1), true("interaction_scheme"): (0, 1)},
        retyped=[Column(values), Column(points), true("pdg_code"), true("energy_init"), true("current_type"),
                 true("inelasticity"), true("lepton_pdg_code")],
        tables=[(values,), (points,), (f"{group}/meta/fixed",), (f"{group}/neutrinos/fixed",), 
                (f"{group}/run_info/fixed",), ("products/points_label/event_offsets",)],
        invisible={"neutrinos/fixed.interaction_mode": MODE_ONLY, "neutrinos/fixed.interaction_scheme": MODE_ONLY,
                   f"{values} in any": OTHERS, f"{values} one row": OTHERS, f"{points} one row": OTHERS,
                   "points_label/values as i": SMALL, "neutrinos/fixed.inelasticity of other rows": "no final state",
                   "points + vertices as y,x,z": TURNED, "points + vertices mirrored in x": TURNED,
                   "points + vertices mirrored in y": TURNED, "points + images + vertices as y,x,z": TURNED},
    )  # fmt: skip
    return (
        content,
        form,
        lambda changed: _shard(VoxelShardWriter, convert_larcv, write_content(folder / "a.h5", changed)),
    )


def pilarnet(folder: Path, events: list[MadeEvent]) -> Made:
    images = _images(events)
    for image in images:
        image.index[:, 2] -= image.index[:, 2].min()
        kept = image.index[:, 2] < 768
        image.index, image.value = image.index[kept], image.value[kept]
        image.n_muon = len(image.value) // 2
    whole = read_content(write_pilarnet(folder / "a.h5", images))
    counts = np.array([len(i.value) for i in images])
    content = Content({
        "point": np.concatenate([row.reshape(-1, 8) for row in whole.tables["point"]]),
        "cluster": np.stack([row.reshape(-1, 6) for row in whole.tables["cluster"]]),
        "counts": counts,
    })  # fmt: skip

    def convert(changed: Content) -> Result:
        tables, written = changed.tables, Content({})
        if "point" in tables:
            ends = np.cumsum(tables.get("counts", counts))[:-1]
            written.tables["point"] = _rows(np.split(tables["point"], ends))
        if "cluster" in tables:
            written.tables["cluster"] = _rows(list(tables["cluster"]))
        path = write_content(folder / "a.h5", written)
        return _shard(VoxelShardWriter, convert_pilarnet, path, offset_mm=(-1000, -1000, 0))

    axes, energy = [Column("point", None, i) for i in range(3)], Column("point", None, 3)
    form = Format(
        places={"voxels": [axes]},
        half=(384, 384, 384),
        numbers=[energy, *(Column("point", None, i) for i in (4, 5, 6)),
                 *(Column("cluster", None, i) for i in range(6))],
        together={"voxels and energy": [*axes, energy], "everything": [Column("point")]},
        ids=[Column("cluster", None, 0), Column("counts"), Column("point", None, 6), Column("point", None, 7)],
        codes={energy: (1.0, 0.5), Column("cluster", None, 0): (0, 1, 100), Column("point", None, 6): (0, 1),
               **{axis: (0, 100, 700) for axis in axes}},
        retyped=[Column("cluster")],
        tables=[("cluster",), ("counts",)],
        invisible={"voxels as y,x,z": TURNED, "point one row on": SMALL, "point[3] of other rows": OTHERS},
    )  # fmt: skip
    return content, form, convert


def _rows(parts: list[np.ndarray]) -> np.ndarray:
    rows = np.empty(len(parts), dtype=object)
    for i, part in enumerate(parts):
        rows[i] = part.astype(np.float32).ravel()
    return rows


def microboone(folder: Path, _: list[MadeEvent], sequence: str | None = "seq_cnt") -> Made:
    from map_mutations import converted

    content = read_content(
        write_microboone(folder / "a.h5", make_events(24, hits=600), sequence=sequence, compress=False)
    )
    pixels = WirePixels(pixel_wires=54, pixel_ticks=160, white_adc=9000)

    def convert(changed: Content) -> Result:
        return converted(convert_microboone, write_content(folder / "a.h5", changed), wires=pixels)

    hit, true = (lambda n, i=None: Column(f"hit_table/{n}", None, i)), (lambda n, i=None: Column(f"event_table/{n}", None, i))  # fmt: skip # noqa: E501
    numbers = ("local_plane", "local_wire", "local_time", "integral")
    form = Format(
        places={"vertices": [[true("nu_vtx", i) for i in range(3)]],
                "corrected": [[true("nu_vtx_corr", i) for i in range(3)]],
                "wires": [[true("nu_vtx_wire_pos", i) for i in range(3)]]},
        half=(128, 116, 518),
        numbers=[*(hit(n) for n in numbers), true("nu_energy"), true("lep_energy")],
        together={"energies": [true("nu_energy"), true("lep_energy")]},
        ids=[*(hit("event_id", i) for i in range(3)), *(true("event_id", i) for i in range(3)),
             *([hit("event_id.seq_cnt", i) for i in range(2)] if sequence else [])],
        codes={true("is_cc"): (0, 1, -1), true("nu_pdg"): (12, 14, -14, 13), hit("local_plane"): (0, 1, 2)},
        retyped=[hit("local_plane"), hit("local_wire"), hit("integral"), true("is_cc"), true("nu_pdg"),
                 true("nu_energy")],
        tables=[tuple(n for n in content.tables if n.startswith("hit_table/") and not n.endswith("seq_cnt")),
                tuple(n for n in content.tables if n.startswith("event_table/") and not n.endswith("seq_cnt")),
                (hit("local_time").table,), (hit("event_id").table,), (true("nu_pdg").table,)],
        invisible={"event_table/nu_pdg": LABELS, "event_table/is_cc": LABELS, "hit_table/integral of other": OTHERS,
                   "hit_table/local_time one row on": SMALL,
                   **{f"hit_table/integral as {k}": ROUNDED for k in ("i8", "i4", "u2")}},
    )  # fmt: skip
    return content, form, convert


def genie(folder: Path, events: list[MadeEvent]) -> Made:
    """gRooTracker, with momenta as flat arrays."""
    pdg, status, p4, codes, counts = [], [], [], [], []
    for event in events:
        state = event.state
        left = state.nu_energy * (1 - state.inelasticity)
        # The sampler leaves out the outgoing neutrino.
        out = [] if state.is_cc else [(0.0, 0.0, left, left)]
        counts.append(1 + len(state.particles) + len(out))
        pdg += [state.nu_pdg, *(p.pdg for p in state.particles)] + [state.nu_pdg] * len(out)
        status += [0] + [1] * (counts[-1] - 1)
        p4 += [(0.0, 0.0, state.nu_energy, state.nu_energy)]
        p4 += [tuple(x / 1000 for x in (p.px, p.py, p.pz, p.energy)) for p in state.particles] + out
        mode = {1: "QES", 2: "MEC", 3: "RES", 4: "DIS", 5: "COH"}[state.mode]
        codes.append(f"nu:{state.nu_pdg};tgt:1000180400;proc:Weak[{'CC' if state.is_cc else 'NC'}],{mode};")
    content = Content({
        "StdHepN": np.array(counts, "i4"), "StdHepPdg": np.array(pdg, "i4"), "StdHepStatus": np.array(status, "i4"),
        "StdHepP4": np.array(p4), "EvtCode": np.array(codes, "S80"),
        "EvtVtx": np.array([[*event.vertex / 1000, 0.0] for event in events]),
    })  # fmt: skip
    ends = np.cumsum(counts)[:-1]

    def convert(changed: Content) -> Result:
        path = folder / "a.gtrac.root"
        import awkward as ak

        arrays: dict[str, Any] = {}
        for name, values in changed.tables.items():
            if values.dtype.kind == "S" and name != "EvtCode":
                raise InputError(f"{path}: {name} is text")
            if name in ("StdHepPdg", "StdHepStatus", "StdHepP4"):
                parts = [part.ravel() for part in np.split(values, ends)]
                arrays[name] = ak.unflatten(np.concatenate(parts), [len(part) for part in parts])
            else:
                arrays[name] = [code.decode() for code in values] if name == "EvtCode" else values
        if len({len(values) for values in arrays.values()}) > 1:
            raise InputError(f"{path}: the columns of a tree have one length")
        with uproot.recreate(path) as file:
            types = {
                n: "string" if n == "EvtCode" else ak.type(v).content if isinstance(v, ak.Array) else np.dtype(
                    (v.dtype, v.shape[1:])) for n, v in arrays.items()
            }  # fmt: skip
            file.mktree("gRooTracker", types).extend(arrays)
        conclusions = Conclusions()
        evidence = GeneratorEvidence(DETECTOR, np.zeros(3), uses_vertices=True)
        entries = len(next(iter(arrays.values()))) if arrays else 0
        read = evidence.watch(read_genie([path], 0, max(entries, 1)), path, conclusions.add)
        found = []
        for interaction in from_genie(read, DETECTOR, 0, 1, None, np.zeros(3)):
            if interaction.defect:
                raise InputError(f"{interaction.name} {interaction.defect}")
            state, vertex = interaction.draw()
            particles = sorted((p.pdg, p.px, p.py, p.pz, p.energy) for p in state.particles)
            found.append({
                "voxels": np.array([[round(1e6 * state.nu_energy)]]), "energy": np.array([state.nu_energy]),
                "truth": np.array([state.nu_pdg, state.is_cc, state.mode, *vertex]), "particles": np.array(particles),
            })  # fmt: skip
        return sorted(found, key=lambda e: int(e["voxels"][0, 0])), doubts(conclusions.to_json())

    p4 = [Column("StdHepP4", None, i) for i in range(4)]
    form = Format(
        places={"momenta": [p4[:3]], "vertices": [[Column("EvtVtx", None, i) for i in range(3)]]},
        directions=frozenset({"momenta"}),
        half=(1, 1, 3.5),
        numbers=p4,
        together={"four-momenta": p4, "everything": [*p4, *(Column("EvtVtx", None, i) for i in range(3))]},
        ids=[Column("StdHepN"), Column("StdHepPdg"), Column("StdHepStatus")],
        codes={Column("StdHepPdg"): (13, 14, 2212, 22), Column("StdHepStatus"): (0, 1)},
        retyped=[Column(name) for name in ("StdHepN", "StdHepPdg", "StdHepStatus", "StdHepP4", "EvtVtx")],
        tables=[*((name,) for name in content.tables), ("StdHepPdg", "StdHepP4"), ("StdHepN", "EvtCode", "EvtVtx")],
        invisible={name: "nothing else is at the vertex" for name in (
            "EvtVtx in any order", "EvtVtx backwards", "EvtVtx one row on", "EvtVtx of other rows", "vertices as y,x,z",
            "vertices mirrored in x", "vertices mirrored in y", "x of vertices x -1", "y of vertices x -1")}
        | {name: TURNED for name in ("momenta as y,x,z", "momenta mirrored in x", "momenta mirrored in y",
                                     "momenta + vertices as y,x,z", "x of momenta x -1", "y of momenta x -1",
                                     "StdHepP4[0] x -1", "StdHepP4[1] x -1")},
    )  # fmt: skip
    return content, form, convert


FORMATS: dict[str, Callable[[Path, list[MadeEvent]], Made]] = {
    "genie": genie,
    "ndlarflow": ndlarflow,
    "larcv_root": larcv_root,
    "larcv3": larcv3,
    "spine": spine,
    "pilarnet": pilarnet,
    "microboone": microboone,
}
