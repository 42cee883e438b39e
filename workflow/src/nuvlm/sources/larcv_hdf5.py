"""LArCV 3 HDF5 files: sparse tensors and clusters of voxels, and particles.

Layout (schema.md and src/larcv3/core/dataformat of larcv3): ``Events/event_id``, and a group
``Data/{type}_{producer}_group`` a product. Its tables point to the rows of the next with `first` and `n`: ``extents``,
a row an event; ``voxel_extents``, or ``projection_extents`` and ``cluster_extents``; ``voxels`` (`id`, `value`).
``image_meta`` has a row a projection, of which a 3D image is one. Lengths are in cm; an id counts along z first.
"""

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from nuvlm.base.errors import InputError
from nuvlm.detector.voxels import MOST_VOXELS
from nuvlm.simulation.stdhep import NEUTRINOS
from nuvlm.sources.hdf5_rows import Rows, blocks
from nuvlm.sources.image_truth import CURRENTS, NUANCE_MODES, NeutrinoRow, final_state, neutrino_truth, primaries
from nuvlm.sources.interactions import Truth
from nuvlm.sources.voxel_images import CM, Grid, ImageFile, VoxelImage, choose_product

LAYOUT = "LArCV 3 HDF5"
TYPES = ("sparse3d", "cluster3d")
SPAN = ("first", "n")
TRACKS = ("trackid", "ancestor_trackid")


def is_larcv3(file: h5py.File) -> bool:
    return isinstance(file.get("Data"), h5py.Group) and isinstance(file.get("Events/event_id"), h5py.Dataset)


def all_products(file: h5py.File) -> list[str]:
    """Such as ``sparse3d_pcluster`` or ``particle_pcluster``."""
    return [name.removesuffix("_group") for name in file["Data"] if name.endswith("_group")]


def read_larcv3(path: Path, file: h5py.File, wanted: str | None, drifted: bool) -> ImageFile:
    """The images of a file; see :func:`nuvlm.sources.voxel_images.choose_product`."""
    names = all_products(file)
    product = choose_product(path, LAYOUT, [name for name in names if name.startswith(TYPES)], wanted, drifted)
    images = _Images(path, file, product)
    numbers = Rows(path, file["Events"], "event_id", ("event",)).all("event").tolist()
    if len(numbers) != len(images.extents):
        raise InputError(
            f"{path}: {len(numbers)} event ids and {len(images.extents)} entries of {product}: the file is incomplete. "
            "Copy or create it again."
        )
    particles = _Particles.find(path, file, names, product, len(numbers))
    events = _events(images, particles, numbers)
    return ImageFile(LAYOUT, product, numbers, len(numbers), events, particles.name if particles else "")


def _events(images: "_Images", particles: "_Particles | None", numbers: list[int]) -> Iterator[VoxelImage]:
    begin, count, metas = images.voxels_of_events()
    for block in blocks(np.minimum(count, MOST_VOXELS)):
        too_many = count[block] > MOST_VOXELS
        voxels = images.voxels.spans(begin[block], np.where(too_many, 0, count[block]))
        truths = particles.truths(block) if particles else [(Truth(), None)] * len(voxels)
        for i, (rows, (truth, defect)) in enumerate(zip(voxels, truths, strict=True), start=block.start):
            if count[i] > MOST_VOXELS:
                defect = f"has {count[i]} voxels; the maximum is {MOST_VOXELS}"
            grid = _grid(metas[i])
            defect = defect or (grid.defect(rows["id"]) if len(rows) else None)
            centre = np.zeros((len(rows), 3)) if defect else grid.centres_mm(rows["id"])
            yield VoxelImage(f"event {numbers[i]}", centre, grid.voxel_mm, rows["value"], truth, defect)


def _grid(meta: np.void) -> Grid:
    origin, sizes, shape = (meta[name].astype(np.float64) for name in ("origin", "image_sizes", "number_of_voxels"))
    with np.errstate(divide="ignore", invalid="ignore"):
        side = CM * sizes / shape
    return Grid.of(CM * origin, side, shape, x_fastest=False)


class _Images:
    """The tables of a product."""

    def __init__(self, path: Path, file: h5py.File, product: str) -> None:
        group = file[f"Data/{product}_group"]
        clusters = product.startswith("cluster3d")
        self._path, self._product = path, product
        self.extents = Rows(path, group, "extents", SPAN)
        self._projections = Rows(path, group, "projection_extents" if clusters else "voxel_extents", SPAN)
        self._clusters = Rows(path, group, "cluster_extents", SPAN) if clusters else None
        self._metas = Rows(path, group, "image_meta", ("image_sizes", "number_of_voxels", "origin"))
        self.voxels = Rows(path, group, "voxels", ("id", "value"), whole=("id",))

    def voxels_of_events(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """First voxel and number of voxels of each event, and the description of its image.

        Raises:
            InputError: the tables cannot be read, or do not match; an event has several images.
        """
        extents, projections, metas = self.extents.all(), self._projections.all(), self._metas.all()
        n, at = extents["n"].astype(np.int64), extents["first"].astype(np.int64)
        if (
            (n > 1).any()
            or (at[n > 0] < 0).any()
            or (at[n > 0] >= min(len(projections), len(metas))).any()
            or not len(metas)
        ):
            raise InputError(
                f"{self._path}: {self._product} has events with several images, or without the one they name: not read."
            )
        at = np.where(n > 0, at, 0)
        begin = np.where(n > 0, projections["first"][at], 0).astype(np.int64)
        count = np.where(n > 0, projections["n"][at], 0).astype(np.int64)
        if self._clusters is not None:
            clusters = self._clusters.all()
            total = np.concatenate([[0], np.cumsum(clusters["n"], dtype=np.int64)])
            if (begin + count > len(clusters)).any():
                raise InputError(f"{self._path}: {self._product} lacks clusters: the file is incomplete.")
            first = np.append(clusters["first"], 0).astype(np.int64)  # that of no cluster is not used
            begin, count = np.where(count > 0, first[begin], 0), total[begin + count] - total[begin]
        return begin, count, metas[at]


class _Particles:
    """The particles of each event: of the same producer as the image, or the only ones."""

    def __init__(self, path: Path, file: h5py.File, name: str, n_events: int) -> None:
        group = file[f"Data/{name}_group"]
        columns = ("pdg", "current_type", "interaction_type", "px", "py", "pz", "vtx", "energy_init", *TRACKS)
        self.name = name
        self._extents = Rows(path, group, "extents", SPAN).all()
        self._rows = Rows(path, group, "particles", columns)
        if len(self._extents) != n_events:
            raise InputError(f"{path}: {len(self._extents)} entries of {name} for {n_events} events: it is incomplete.")

    @classmethod
    def find(cls, path: Path, file: h5py.File, names: list[str], product: str, n_events: int) -> "_Particles | None":
        own = "particle_" + product.partition("_")[2]
        found = [name for name in names if name.startswith("particle_")]
        # A product of neutrinos only is the better truth.
        ranked = [name for name in found if "neutrino" in name] + [own] * (own in found) + found[: len(found) == 1]
        return cls(path, file, ranked[0], n_events) if ranked else None

    def truths(self, block: slice) -> list[tuple[Truth, str | None]]:
        spans = self._extents[block]
        return [_truth(rows) for rows in self._rows.spans(spans["first"], spans["n"])]


def _truth(rows: np.ndarray) -> tuple[Truth, str | None]:
    # The current is set for neutrinos that interact, not for those of a final state.
    is_neutrino = np.isin(np.abs(rows["pdg"]), tuple(NEUTRINOS)) & np.isin(rows["current_type"], tuple(CURRENTS))
    neutrinos = [
        NeutrinoRow(
            int(row["pdg"]),
            int(row["current_type"]),
            int(row["interaction_type"]),
            float(row["energy_init"]),
            vertex_cm=(float(row["vtx"]["x"]), float(row["vtx"]["y"]), float(row["vtx"]["z"])),
        )
        for row in rows[is_neutrino]
    ]
    primary = primaries(rows["trackid"], rows["ancestor_trackid"], rows["energy_init"])
    momentum = np.column_stack([rows[name] for name in ("px", "py", "pz")])
    particles = final_state(rows["pdg"], momentum, rows["energy_init"], primary & ~is_neutrino)
    return neutrino_truth(neutrinos, NUANCE_MODES, particles)
