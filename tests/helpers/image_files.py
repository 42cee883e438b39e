"""LArCV 3, SPINE and PILArNet-M files for tests, with the public types of their columns."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

VOXEL_CM = 0.3
LOW_CM, COUNT = np.array([-30.0, -15.0, 300.0]), np.array([200, 100, 300])
# Written by ROOT 6.40 with classes of the members of larcv2: the events of `events(12)`, in six trees.
LARCV2 = Path(__file__).parents[1] / "sources" / "larcv2.root"

EXTENTS = np.dtype([("first", "u8"), ("n", "u4")])
ID_EXTENTS = np.dtype([("first", "u8"), ("n", "u4"), ("id", "u4")])
VOXEL3 = np.dtype([("id", "u8"), ("value", "f4")])
TRIPLES = [("image_sizes", "f8", 3), ("number_of_voxels", "u8", 3), ("origin", "f8", 3)]
META3 = np.dtype([("valid", "?"), ("projection_id", "u8"), *TRIPLES])
VERTEX3 = np.dtype([(name, "f8") for name in "xyzt"])
PARTICLE3 = np.dtype(
    [("id", "u2"), ("mcst_index", "u2"), ("mct_index", "u2"), ("shape", "i4"), ("current_type", "i2")]
    + [("interaction_type", "i2"), ("trackid", "u4"), ("pdg", "i4"), ("px", "f8"), ("py", "f8"), ("pz", "f8")]
    + [(name, VERTEX3) for name in ("vtx", "end_pt", "first_step", "last_step")]
    + [(name, "f8") for name in ("dist_travel", "energy_init", "energy_deposit")]
    + [("process", "S64"), ("parent_trackid", "u4"), ("parent_pdg", "i4"), ("parent_vtx", VERTEX3)]
    + [("ancestor_trackid", "u4"), ("ancestor_pdg", "i4"), ("ancestor_vtx", VERTEX3)]
)
MASS_MEV = {11: 0.511, 13: 105.658, 211: 139.570}
SPINE_META = np.dtype([("lower", "f4", 3), ("upper", "f4", 3), ("size", "f4", 3), ("count", "i8", 3)])
SPINE_RUN = np.dtype([("run", "i8"), ("subrun", "i8"), ("event", "i8")])
SPINE_NEUTRINO = np.dtype(
    [(name, "i8") for name in ("id", "interaction_id", "current_type", "interaction_scheme", "interaction_mode")]
    + [(name, "i8") for name in ("interaction_type", "pdg_code", "lepton_pdg_code")]
    + [("energy_init", "f4"), ("inelasticity", "f4"), ("position", "f4", 3), ("momentum", "f4", 3)]
)


@dataclass
class ImageEvent:
    """A track of 100 voxels along z and a proton of 10 along x, from one voxel.

    The track is the charged lepton, or a pion of a neutral current.
    """

    number: int
    index: np.ndarray
    """(voxels, 3)."""
    value: np.ndarray
    nu_pdg: int = 14
    is_cc: bool = True
    mode: int = 0
    """LArSoft's."""
    energy: float = 1500.0
    """MeV."""
    n_muon: int = 100
    neutrinos: int = 1
    extra: dict = field(default_factory=dict)

    @property
    def vertex_cm(self) -> np.ndarray:
        return LOW_CM + VOXEL_CM * (self.index[0] + 0.5)

    @property
    def lepton_pdg(self) -> int:
        return self.nu_pdg - self.is_cc


def events(n: int, first: int = 40) -> list[ImageEvent]:
    """The events of :data:`LARCV2`, and more like them."""
    made = []
    for i in range(n):
        start = np.array([100 + i % 50, 50 - i % 50, 20])
        along, across = np.arange(100)[:, None] * [0, 0, 1], np.arange(1, 11)[:, None] * [1, 0, 0]
        value = np.concatenate([np.full(100, 0.625), np.full(10, 2.0)]).astype(np.float32)
        made.append(
            ImageEvent(first + i, start + np.concatenate([along, across]), value, 12 if i % 2 else 14, i % 3 != 0,
                       (0, 1, 2, 10)[i % 4])
        )  # fmt: skip
    return made


def write_larcv3(
    path: Path,
    made: Sequence[ImageEvent],
    products: dict[str, float] | None = None,
    truth: bool = True,
    compression: int | None = 1,
    low_cm: np.ndarray = LOW_CM,
    voxel_cm: float | np.ndarray = VOXEL_CM,
    shape: np.ndarray = COUNT,
) -> Path:
    """Write the events as LArCV 3 does.

    Args:
        products: name -> factor on the values.
        truth: whether there is a product ``particle_pcluster``, with neutrinos.
    """
    with h5py.File(path, "w") as file:
        rows = [(1, 2, event.number) for event in made]
        kind = np.dtype([("run", "i8"), ("subrun", "i8"), ("event", "i8")])
        file["Events/event_id"] = np.array(rows, dtype=kind)
        for name, factor in (products or {"sparse3d_pcluster": 1.0}).items():
            group = file.create_group(f"Data/{name}_group")
            count = np.array([len(event.value) for event in made])
            group["extents"] = extents(np.ones(len(made)), EXTENTS)
            meta = np.zeros(len(made), dtype=META3)
            meta["valid"], meta["origin"], meta["number_of_voxels"] = True, low_cm, shape
            meta["image_sizes"] = voxel_cm * shape
            group["image_meta"] = meta
            voxels = np.zeros(count.sum(), dtype=VOXEL3)
            index = np.concatenate([event.index for event in made])
            voxels["id"] = (index[:, 0] * shape[1] + index[:, 1]) * shape[2] + index[:, 2]
            voxels["value"] = factor * np.concatenate([event.value for event in made])
            group.create_dataset("voxels", data=voxels, maxshape=(None,), chunks=(1000,), compression=compression)
            if name.startswith("sparse3d"):
                group["voxel_extents"] = extents(count, ID_EXTENTS)
            else:  # two clusters an event
                group["projection_extents"] = extents(np.full(len(made), 2), ID_EXTENTS)
                parts = [(event.n_muon, len(event.value) - event.n_muon) for event in made]
                group["cluster_extents"] = extents(np.ravel(parts), ID_EXTENTS)
        if truth:
            group = file.create_group("Data/particle_pcluster_group")
            parts = [particle_rows(event) for event in made]
            group["extents"] = extents([len(part) for part in parts], EXTENTS)
            group["particles"] = np.concatenate(parts)
    return path


def extents(count: Sequence[int] | np.ndarray, dtype: np.dtype) -> np.ndarray:
    rows = np.zeros(len(count), dtype=dtype)
    rows["n"] = count
    rows["first"] = np.concatenate([[0], np.cumsum(count)[:-1]]) if len(count) else []
    return rows


def particle_rows(event: ImageEvent) -> np.ndarray:
    """Neutrinos, then muon, proton and a delta ray; MeV and cm."""
    rows = np.zeros(event.neutrinos + 3, dtype=PARTICLE3)
    for name, value in zip("xyz", event.vertex_cm, strict=True):
        rows["vtx"][name] = value
    rows["current_type"] = rows["interaction_type"] = 32767
    for i in range(event.neutrinos):
        rows["pdg"][i], rows["energy_init"][i], rows["pz"][i] = event.nu_pdg, event.energy, event.energy
        rows["current_type"][i] = 0 if event.is_cc else 1
        rows["interaction_type"][i] = {0: 1001, 1: 1010, 2: 1091, 10: 1100}[event.mode]
    rows["trackid"] = np.arange(len(rows)) + 1
    rows["ancestor_trackid"] = rows["trackid"]
    rows["ancestor_trackid"][-1] = rows["trackid"][-3]
    track = event.lepton_pdg if event.is_cc else 211
    for i, (pdg, momentum, mass) in enumerate(
        [(track, 300, MASS_MEV[track]), (2212, 200, 938.272), (11, 1, 0.511)], start=-3
    ):
        rows["pdg"][i], rows["px" if pdg == 2212 else "pz"][i] = pdg, momentum
        rows["energy_init"][i] = np.hypot(momentum, mass)
    return rows


def write_spine(
    path: Path,
    made: Sequence[ImageEvent],
    layout: int = 1,
    in_cm: bool = True,
    gev: bool = True,
    scheme: int = 0,
    neutrinos: bool = True,
    low_cm: np.ndarray = LOW_CM,
    shape: np.ndarray = COUNT,
) -> Path:
    """Write points and depositions (reconstructed, and true with half of the energy) as SPINE does."""
    points = [np.asarray(event.index, dtype=np.float32) for event in made]
    if in_cm:
        points = [(low_cm + VOXEL_CM * (part + 0.5)).astype(np.float32) for part in points]
    values = [event.value for event in made]
    meta = np.zeros(1, dtype=SPINE_META)
    meta["lower"], meta["upper"], meta["size"], meta["count"] = low_cm, low_cm + VOXEL_CM * shape, VOXEL_CM, shape
    truth = []
    for event in made:
        row = np.zeros(event.neutrinos, dtype=SPINE_NEUTRINO)
        row["pdg_code"], row["lepton_pdg_code"], row["current_type"] = event.nu_pdg, event.lepton_pdg, not event.is_cc
        row["interaction_scheme"], row["interaction_mode"] = scheme, event.mode
        row["energy_init"], row["inelasticity"] = event.energy / 1000 if gev else event.energy, 0.25
        row["position"] = event.vertex_cm
        truth.append(row)
    products = {
        "points": points,
        "depositions": values,
        "points_label": points,
        "depositions_label": [part / 2 for part in values],
        "meta": [meta] * len(made),
        "run_info": [np.array([(1, 2, event.number)], dtype=SPINE_RUN) for event in made],
        "neutrinos": truth,
    }
    if not neutrinos:
        del products["neutrinos"]
    with h5py.File(path, "w") as file:
        file.create_group("info").attrs.update(version="0.9.2", format="spine_hdf5", format_version=layout)
        file["info"].attrs["complete"] = True
        if layout == 1:
            reference = h5py.special_dtype(ref=h5py.RegionReference)
            table = np.empty(len(made), dtype=[(name, reference) for name in products])
        for name, parts in products.items():
            ends = np.cumsum([0, *map(len, parts)])
            if layout == 1:
                dataset = file.create_dataset(name, data=np.concatenate(parts))
                for i in range(len(made)):
                    table[name][i] = dataset.regionref[ends[i] : ends[i + 1]]
            else:
                group = file.create_group(f"products/{name}")
                group["fixed" if parts[0].dtype.names else "values"] = np.concatenate(parts)
                group["event_offsets"] = ends
        file["events"] = table if layout == 1 else np.arange(len(made))
    return path


def write_pilarnet(path: Path, made: Sequence[ImageEvent], width: int = 6, origin: int = 0) -> Path:
    """Write the events as PILArNet-M has them, with `width` numbers a cluster."""
    with h5py.File(path, "w") as file:
        kind = h5py.vlen_dtype(np.float32)
        point, cluster, extra = (
            file.create_dataset(name, (len(made),), dtype=kind) for name in ("point", "cluster", "cluster_extra")
        )
        for i, event in enumerate(made):
            rows = np.zeros((len(event.value), 8), dtype=np.float32)
            rows[:, :3], rows[:, 3] = event.index + origin, event.value
            point[i] = rows.ravel()
            groups = np.zeros((2, width), dtype=np.float32)
            groups[:, 0] = event.n_muon, len(event.value) - event.n_muon
            cluster[i], extra[i] = groups.ravel(), np.zeros(10, dtype=np.float32)
    return path
