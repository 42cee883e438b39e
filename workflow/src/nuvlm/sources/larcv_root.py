"""LArCV 2 ROOT files, read with uproot: trees ``{type}_{producer}_tree`` of one split branch each.

Classes: EventSparseTensor3D and EventClusterVoxel3D (voxels and a Voxel3DMeta; an id counts along x first),
EventParticle and EventNeutrino, each with run, subrun and event (larcv/core/DataFormat of larcv2). Lengths are in cm.
uproot reads all columns but the voxels of clusters, which ROOT streams member-wise.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import uproot

from nuvlm.base.errors import InputError
from nuvlm.simulation.stdhep import NEUTRINOS
from nuvlm.sources.image_truth import (
    CURRENTS,
    NUANCE_MODES,
    NeutrinoRow,
    final_state,
    mode_names,
    neutrino_truth,
    primaries,
)
from nuvlm.sources.interactions import Truth
from nuvlm.sources.memberwise import VOXEL_MEMBERS, LayoutError, decode_voxels
from nuvlm.sources.rootfile import class_members, find_tree, read_branch
from nuvlm.sources.voxel_images import CM, Grid, ImageFile, VoxelImage, choose_product

LAYOUT = "LArCV 2 ROOT"
PRODUCTS = (
    "sparse3d|cluster3d|particle|neutrino|sparse2d|cluster2d|image2d|bbox3d|bbox2d|meta|trigger|opflash|crthit|chstatus|"
    "partroi|pixel2d|voxel3d"
)
TYPES = ("sparse3d", "cluster3d")
LARCV1 = ("partroi", "pixel2d", "voxel3d")
BLOCK_BYTES = 16e6  # of voxels
CM_UNITS = (0, 1)
"""Values of DistanceUnit_t: unknown, cm; 2 is wire and time."""


def all_products(keys: list[str]) -> list[str]:
    """The products among the keys of a ROOT file, such as ``sparse3d_pcluster``."""
    return [key.removesuffix("_tree") for key in keys if re.fullmatch(rf"({PRODUCTS})_\w+_tree", key)]


def read_larcv2(path: Path, file: Any, wanted: str | None, drifted: bool) -> ImageFile:
    """The images of a file; see :func:`nuvlm.sources.voxel_images.choose_product`."""
    names = all_products(file.keys(cycle=False))
    if any(name.startswith(LARCV1) for name in names):
        raise InputError(f"{path}: LArCV 1 ROOT; not read: {', '.join(names)}. Convert it to LArCV 2 or 3.")
    product = choose_product(path, LAYOUT, [name for name in names if name.startswith(TYPES)], wanted, drifted)
    images = _Product(path, file, product)
    numbers = images.numpy("_event", 0, images.n_entries).astype(np.uint64)
    truth = _find_truth(path, file, names, product)
    if truth:
        truth.check_events(images)
    found = truth.conclusions() if truth else ()
    events = _events(images, truth, numbers)
    return ImageFile(LAYOUT, product, numbers.tolist(), len(numbers), events, truth.product if truth else "", found)


def _events(images: "_Product", truth: "_Truth | None", numbers: np.ndarray) -> Iterator[VoxelImage]:
    for start, stop in images.blocks():
        ids, values = images.voxels(start, stop)
        grids = images.grids(start, stop)
        truths = truth.read(start, stop) if truth else [(Truth(), None)] * (stop - start)
        for i, (grid, (event_truth, defect)) in enumerate(zip(grids, truths, strict=True)):
            if isinstance(grid, str):
                defect, grid = grid, Grid((0, 0, 0), (1, 1, 1), (1, 1, 1), True)
            elif len(ids[i]):
                defect = defect or grid.defect(ids[i])
            centre = np.zeros((len(ids[i]), 3)) if defect else grid.centres_mm(ids[i])
            yield VoxelImage(f"event {numbers[start + i]}", centre, grid.voxel_mm, values[i], event_truth, defect)


class _Product:
    """The tree of a product; its columns by the last part of their names."""

    def __init__(self, path: Path, file: Any, product: str) -> None:
        self._path, self._file, self.product = path, file, product
        tree = find_tree(path, file, f"{product}_tree")
        self._branches = {branch.name.split("/")[-1]: branch for branch in tree.itervalues()}
        self.n_entries = int(tree.num_entries)

    def numpy(self, name: str, start: int, stop: int) -> np.ndarray:
        """A column with one number an entry."""
        return np.asarray(read_branch(self._path, self._branch(name), start, stop, "np"))

    def jagged(self, name: str, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """A column of several numbers an entry: the numbers, and how many each entry has."""
        array = read_branch(self._path, self._branch(name), start, stop, "ak")
        return np.asarray(ak.to_numpy(ak.flatten(array))), np.asarray(ak.to_numpy(ak.num(array, axis=1)))

    def blocks(self) -> Iterator[tuple[int, int]]:
        """First and one past the last entry of consecutive blocks of about :data:`BLOCK_BYTES`."""
        sparse = "_voxel_v._id" in self._branches
        voxels = self._branch("_voxel_v._id" if sparse else "_voxel_vv._voxel_v")
        step = max(int(BLOCK_BYTES * self.n_entries / max(voxels.uncompressed_bytes, 1)), 1)
        for start in range(0, self.n_entries, step):
            yield start, min(start + step, self.n_entries)

    def voxels(self, start: int, stop: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Ids and values of the voxels of each entry."""
        if "_voxel_v._id" in self._branches:
            ids, n = self.jagged("_voxel_v._id", start, stop)
            values, m = self.jagged("_voxel_v._value", start, stop)
            if (n != m).any():
                raise InputError(f"{self._path}: {self.product}: ids and values differ in number: the file is damaged.")
            ends = np.cumsum(n)[:-1]
            return np.split(ids, ends), np.split(values, ends)
        members = class_members(self._path, self._file, "larcv::Voxel")
        if members != VOXEL_MEMBERS:
            raise InputError(
                f"{self._path}: {LAYOUT}: larcv::Voxel has members {', '.join(members) or 'unknown'}; not read: "
                f"{self.product}. Set input.product to a sparse3d product if there is one."
            )
        name = "_voxel_vv._voxel_v"
        raw = read_branch(self._path, self._branch(name), start, stop, "ak", uproot.AsJagged(uproot.AsDtype("u1")))
        content, ends = np.asarray(ak.to_numpy(ak.flatten(raw))), np.cumsum(ak.to_numpy(ak.num(raw, axis=1)))
        try:
            pairs = [decode_voxels(data) for data in np.split(content, ends[:-1])]
        except LayoutError as error:
            raise InputError(
                f"{self._path}: {LAYOUT}: {self.product}, entries {start} to {stop - 1}: unexpected layout ({error}). "
                "The file is damaged, or of a version that is not read."
            ) from error
        return [ids for ids, _ in pairs], [values for _, values in pairs]

    def grids(self, start: int, stop: int) -> list[Grid | str]:
        """The grid of each entry, or why it has none that can be used."""
        low, high, n = (
            np.stack([self.numpy(f"_meta.{name}", start, stop) for name in names], axis=1)
            for names in (
                ("_p1.x", "_p1.y", "_p1.z"),
                ("_p2.x", "_p2.y", "_p2.z"),
                ("_xnum", "_ynum", "_znum"),
            )
        )
        unit = self.numpy("_meta._unit", start, stop) if "_meta._unit" in self._branches else np.ones(stop - start)
        with np.errstate(all="ignore"):
            side = CM * (high - low) / n.astype(np.float64)
        grids: list[Grid | str] = []
        for i in range(stop - start):
            if unit[i] not in CM_UNITS:
                grids.append(f"has an image whose unit is {unit[i]}, not cm")
            else:
                grids.append(Grid.of(CM * low[i], side[i], n[i], x_fastest=True))
        return grids

    def has(self, *names: str) -> bool:
        return all(name in self._branches for name in names)

    def _branch(self, name: str) -> Any:
        if name not in self._branches:
            raise InputError(f"{self._path}: {LAYOUT}: {self.product} has no column {name}: another version, not read.")
        return self._branches[name]


class _Truth(_Product):
    """A product of neutrinos or particles."""

    NAMES = ("pdg", "current_type", "interaction_type", "energy_init", "vtx._x", "vtx._y", "vtx._z")
    NEUTRINO = ("interaction_mode", "y", "lepton_pdg")
    PARTICLE = ("px", "py", "pz", "trackid", "ancestor_trackid")

    def __init__(self, path: Path, file: Any, product: str, particles: "_Truth | None" = None) -> None:
        super().__init__(path, file, product)
        self._particles = particles
        self._is_neutrino = product.startswith("neutrino")
        self._names = [*self.NAMES, *(self.NEUTRINO if self._is_neutrino else self.PARTICLE)]
        self._names = [name for name in self._names if name not in self.NEUTRINO or self.has(f"_part_v._{name}")]
        self._modes, self._evidence = self._mode_names() if self._is_neutrino else (NUANCE_MODES, "")

    def check_events(self, images: _Product) -> None:
        """Check that entries belong to the same events as those of `images`.

        Raises:
            InputError: they do not.
        """
        if self._particles:
            self._particles.check_events(images)
        for name in ("_run", "_subrun", "_event"):
            mine, other = (part.numpy(name, 0, part.n_entries) for part in (self, images))
            if len(mine) != len(other) or (mine != other).any():
                raise InputError(
                    f"{self._path}: the entries of {self.product} and {images.product} belong to different events (by "
                    f"{name[1:]}). Remove the truth, or create the file again."
                )

    def conclusions(self) -> tuple[tuple[str, str, str, bool], ...]:
        modes = ", ".join(sorted(set(self._modes.values())))
        return (("scattering modes", modes, self._evidence, False),) if self._evidence else ()

    def read(self, start: int, stop: int) -> list[tuple[Truth, str | None]]:
        """The truth of each entry, and its defect."""
        events = self._rows(start, stop)
        others = events if self._particles is None else self._particles._rows(start, stop)
        return [
            neutrino_truth(self._neutrinos(rows), self._modes, _final_state(other))
            for rows, other in zip(events, others, strict=True)
        ]

    def _rows(self, start: int, stop: int) -> list[dict[str, np.ndarray]]:
        columns = {name: self.jagged(f"_part_v._{name}", start, stop) for name in self._names}
        n = columns["pdg"][1]
        if any((count != n).any() for _, count in columns.values()):
            raise InputError(f"{self._path}: {self.product}: columns differ in length: the file is damaged.")
        return [
            {name: values[end - size : end] for name, (values, _) in columns.items()}
            for end, size in zip(np.cumsum(n).tolist(), n.tolist(), strict=True)
        ]

    def _neutrinos(self, rows: dict[str, np.ndarray]) -> list[NeutrinoRow]:
        modes = rows.get("interaction_mode", rows["interaction_type"])
        return [
            NeutrinoRow(
                int(rows["pdg"][i]),
                int(rows["current_type"][i]),
                int(modes[i]),
                float(rows["energy_init"][i]),
                float(rows["y"][i]) if "y" in rows else np.nan,
                (float(rows["vtx._x"][i]), float(rows["vtx._y"][i]), float(rows["vtx._z"][i])),
                int(rows["lepton_pdg"][i]) if "lepton_pdg" in rows else 0,
            )
            for i in np.flatnonzero(np.ones(len(modes), dtype=bool) if self._is_neutrino else _interacting(rows))
        ]

    def _mode_names(self) -> tuple[dict[int, str], str]:
        modes, types = (
            self.jagged(f"_part_v._{name}", 0, self.n_entries)[0].tolist() if self.has(f"_part_v._{name}") else []
            for name in ("interaction_mode", "interaction_type")
        )
        return mode_names(modes, types)


def _interacting(rows: dict[str, np.ndarray]) -> np.ndarray:
    """Which particles are neutrinos that interact: they have a current, those of a final state have none."""
    chosen: np.ndarray = np.isin(np.abs(rows["pdg"].astype(np.int64)), tuple(NEUTRINOS))
    return chosen & np.isin(rows["current_type"], tuple(CURRENTS))


def _final_state(rows: dict[str, np.ndarray]) -> np.ndarray | None:
    if "px" not in rows:
        return None
    momentum = np.column_stack([rows[name] for name in ("px", "py", "pz")])
    primary = primaries(rows["trackid"], rows["ancestor_trackid"], rows["energy_init"]) & ~_interacting(rows)
    return final_state(rows["pdg"], momentum, rows["energy_init"], primary)


def _find_truth(path: Path, file: Any, names: list[str], product: str) -> _Truth | None:
    """The neutrinos, with the particles of the same producer as the images, or the only ones; or these alone."""
    own = "particle_" + product.partition("_")[2]
    neutrinos = [name for name in names if name.startswith("neutrino_")]
    particles = [name for name in names if name.startswith("particle_")]
    ranked = [own] * (own in particles) + particles[: len(particles) == 1]
    final = _Truth(path, file, ranked[0]) if ranked else None
    return _Truth(path, file, neutrinos[0], final) if neutrinos else final
