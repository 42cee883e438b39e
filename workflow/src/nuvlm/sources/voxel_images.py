"""Sparse 3D images of LArCV, SPINE and PILArNet files: which product is read, its units, and how it is written.

A voxel of such an image is a box, 3 mm or so a side, and is written as a box of uniform charge: a point at its centre
would alias with the pixels (docs/formats.md has numbers).
"""

import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nuvlm.base.errors import InputError
from nuvlm.detector.voxels import MOST_EVENTS, MOST_VOXELS
from nuvlm.sources.interactions import DriftedEvent, Interaction, Truth
from nuvlm.sources.shapes import count_cells
from nuvlm.sources.shard_writer import VoxelShardWriter

logger = logging.getLogger(__name__)

CM = 10.0  # mm
UNKNOWN_TRUTH = Truth()
SAMPLE_EVENTS, SAMPLE_VOXELS = 100, 1_000_000
"""What units and positions are judged by: the first events, up to either number."""
DENSITY_MEV_CM = (0.3, 60.0)
"""Limits on the energy-weighted median of a voxel's energy over its side. Minimum-ionising particles have 2.1 MeV/cm;
electrons, ADC counts or GeV lie orders of magnitude outside."""
USUAL_MEV_CM = (0.6, 12.0)
"""Outside of these, units may be wrong by a factor of ten."""
TYPICAL_MEV_CM = 2.5
FEWEST_SHAPES = 16
"""Events whose shapes are judged."""
MOST_REPEATED, LEAST_CONNECTED = 0.05, 0.4
"""Part of the voxels of an image that may occur twice, and that have another one beside them at least: tracks and
showers are connected, in images of deposits more than nine tenths."""
NEAR_MM = 50.0
"""A vertex within this distance of a voxel touches the charge. One from which only neutral particles come does not."""
FEWEST_VERTICES, SHARE_NEAR = 10, 0.3
LABELS = frozenset(
    {"semantic", "semantics", "sem", "index", "label", "labels", "group", "type", "types", "fivetypes", "ghost", "chi2"}
    | {"nhits", "occupancy", "time", "rms", "amp", "id", "key", "keys", "cov", "pid"}
)
"""Words in the names of products, digits apart, whose values are no energies."""
CHARGE = ("reco", "packet", "hit", "charge", "calib")
"""Words in the names of products that hold charge as it was read out; others hold true deposits."""
PREFERRED = ("pcluster", "mcst", "data", "reco", "packets")


@dataclass(frozen=True)
class Grid:
    """The voxels of an image."""

    origin_mm: tuple[float, float, float]
    """Low corner of voxel (0, 0, 0)."""
    voxel_mm: tuple[float, float, float]
    shape: tuple[int, int, int]
    x_fastest: bool
    """Whether an id counts along x first (LArCV 2), or along z first (LArCV 3)."""

    @classmethod
    def of(cls, origin_mm: np.ndarray, voxel_mm: np.ndarray, shape: np.ndarray, x_fastest: bool) -> "Grid":
        """A grid from arrays (3,) of a file; :meth:`defect` says whether it makes sense."""
        counts = np.where(np.isfinite(shape) & (shape < 2**31), shape, 0).astype(np.int64)
        (a, b, c), (d, e, f), (g, h, i) = (values.tolist() for values in (origin_mm, voxel_mm, counts))
        return cls((a, b, c), (d, e, f), (g, h, i), x_fastest)

    def centres_mm(self, ids: np.ndarray) -> np.ndarray:
        """Centres (voxels, 3) of the voxels `ids`; not defined for ids of no voxel, see :meth:`defect`."""
        order = (0, 1, 2) if self.x_fastest else (2, 1, 0)
        index = np.empty((len(ids), 3))
        rest = ids.astype(np.uint64)
        for axis in order:
            rest, index[:, axis] = np.divmod(rest, np.uint64(self.shape[axis]))
        return np.array(self.origin_mm) + (index + 0.5) * self.voxel_mm

    def defect(self, ids: np.ndarray) -> str | None:
        """Reason why `ids` or the grid cannot be used, or None."""
        values = [*self.origin_mm, *self.voxel_mm]
        if not np.isfinite(values).all() or min(self.voxel_mm) <= 0 or min(self.shape) < 1:
            return f"has an image of {self.shape} voxels of {self.voxel_mm} mm"
        n = int(np.prod([int(size) for size in self.shape], dtype=object))
        if len(ids) and int(ids.max()) >= n:
            return f"has voxel {ids.max()} in an image of {n} voxels"
        return None


@dataclass(frozen=True)
class VoxelImage:
    """One event of a file, in the file's coordinates."""

    name: str
    """Name for messages, such as "event 7"."""
    centre_mm: np.ndarray
    """(voxels, 3)."""
    voxel_mm: tuple[float, float, float]
    value: np.ndarray
    """(voxels,), MeV, or what ``mev_per_unit`` turns into MeV."""
    truth: Truth = UNKNOWN_TRUTH
    """``nu_energy`` in the file's unit, GeV or MeV."""
    defect: str | None = None


@dataclass(frozen=True)
class ImageFile:
    """An open file, and the product of it that is read."""

    layout: str
    """Such as "LArCV 3 HDF5"."""
    product: str
    numbers: Sequence[int] | None
    """Event number of each event, if the file has them."""
    n_events: int
    images: Iterator[VoxelImage]
    truth: str = ""
    """Where the truth comes from; empty without truth."""
    found: tuple[tuple[str, str, str, bool], ...] = ()
    """What the reader of the layout concluded: subject, value, evidence, and whether it is a doubt."""


def choose_product(path: Path, layout: str, found: Sequence[str], wanted: str | None, drifted: bool) -> str:
    """The product to read.

    Args:
        found: names of all sparse 3D products of the file.
        wanted: the user's choice, or None.
        drifted: whether charge that was read out is wanted, or true deposits.

    Raises:
        InputError: there is none, or several; or `wanted` is not in the file, or of the other kind.
    """
    names = ", ".join(found) or "no sparse 3D product"
    if wanted is not None:
        if wanted not in found:
            raise InputError(f"{path}: {layout} without {wanted!r}; it has {names}. Set input.product to one of these.")
        if is_charge(wanted) != drifted:
            what = "charge that was read out" if not drifted else "energy deposits, which have not drifted"
            other = "larcv" if drifted else "larcv_charge"
            raise InputError(f"{path}: {wanted} holds {what}, by its name. Set input.source to {other}.")
        return wanted
    fitting = [name for name in found if is_charge(name) == drifted and not is_label(name)]
    ranked = sorted(fitting, key=lambda name: (_rank(name), not name.startswith("sparse3d")))
    if not ranked:
        what, other = ("charge that was read out", "larcv") if drifted else ("energy deposits", "larcv_charge")
        remedy = f"Set input.source to {other}, or input.product to the product that holds them."
        raise InputError(
            f"{path}: {layout} without a product of {what}; it has {names}. "
            f"{remedy if found else 'Only sparse 3D images are read.'}"
        )
    if len(ranked) > 1 and _rank(ranked[0]) == len(PREFERRED):
        raise InputError(f"{path}: {layout} with {', '.join(ranked)}. Set input.product to one of these.")
    return ranked[0]


def is_charge(product: str) -> bool:
    """Whether a product holds charge that was read out, by its name."""
    return product == "depositions" or any(word in product for word in CHARGE)


def is_label(product: str) -> bool:
    """Whether the values of a product are labels or features, by its name."""
    words = [word.rstrip("0123456789") for word in product.split("_")[1:]]
    return not product.startswith("depositions") and not LABELS.isdisjoint(words)


def _rank(name: str) -> int:
    producer = name.partition("_")[2]
    return PREFERRED.index(producer) if producer in PREFERRED else len(PREFERRED)


def write_images(path: Path, out: VoxelShardWriter, file: ImageFile) -> None:
    """Write the events of an image file to a voxel shard.

    Raises:
        InputError: values that are not MeV; vertices that do not touch the charge; energies of neutrinos in no known
            unit; too many events; an event cannot be used, or none can.
    """
    if not 0 < file.n_events <= MOST_EVENTS:
        raise InputError(f"{path}: {file.layout} with {file.n_events} events; 1 to {MOST_EVENTS} are expected.")
    kind = "charge that was read out: not drifted again" if out.drifted else "energy deposits, which have yet to drift"
    out.conclude(path, "product", f"{file.product}: {kind}", f"{file.layout}, and the name of the product")
    ids = _event_ids(path, out, file)
    sample = _sample(file.images)
    good = [image for image in sample if not image.defect and len(image.value)]
    for image in good[:1]:
        sides = " x ".join(f"{side:g}" for side in image.voxel_mm)
        out.conclude(path, "voxels", f"{sides} mm, each spread over its box", file.layout)
    _check_values(path, out, file, good)
    _check_shapes(path, out, good[:FEWEST_SHAPES])
    _check_vertices(path, out, good)
    gev = _neutrino_unit(path, out, good)
    if file.truth:
        out.conclude(path, "truth", file.truth, file.layout)
    for conclusion in file.found:
        out.conclude(path, *conclusion)
    images = itertools.chain(sample, file.images)
    events = (
        _event(out.drifted, number, image, out.mev_per_unit, gev) for number, image in zip(ids, images, strict=True)
    )
    out.write(path, events, file.n_events)


def _event(drifted: bool, number: int, image: VoxelImage, mev: float, gev: float) -> Interaction | DriftedEvent:
    defect = image.defect
    if not defect and len(image.value) > MOST_VOXELS:
        defect = f"has {len(image.value)} voxels; the maximum is {MOST_VOXELS}"
    truth = replace(image.truth, nu_energy=gev * image.truth.nu_energy)
    energy = mev * image.value.astype(np.float64)
    if drifted:
        return DriftedEvent(number, image.centre_mm, energy, image.name, truth, defect, size_mm=image.voxel_mm)
    return Interaction(
        number, image.centre_mm, image.centre_mm, energy, image.name, truth, defect, size_mm=image.voxel_mm
    )


def _event_ids(path: Path, out: VoxelShardWriter, file: ImageFile) -> list[int]:
    numbers = None if file.numbers is None else [int(number) for number in file.numbers]
    if numbers and len(set(numbers)) == len(numbers) and min(numbers) >= 0 and max(numbers) < 2**63:
        out.conclude(path, "event ids", "the event numbers of the file", "they are unique")
        return numbers
    why = "the file has no event numbers" if numbers is None else "its event numbers repeat or are not set"
    out.conclude(path, "event ids", "the place in the file, from 0", why)
    return list(range(file.n_events))


def _sample(images: Iterator[VoxelImage]) -> list[VoxelImage]:
    sample: list[VoxelImage] = []
    voxels = 0
    while len(sample) < SAMPLE_EVENTS and voxels < SAMPLE_VOXELS:
        image = next(images, None)
        if image is None:
            break
        sample.append(image)
        voxels += len(image.value)
    return sample


def _check_values(path: Path, out: VoxelShardWriter, file: ImageFile, sample: list[VoxelImage]) -> None:
    if not sample:
        return
    side_cm = np.cbrt(np.prod([image.voxel_mm for image in sample], axis=1)) / CM
    density = np.concatenate([image.value / side for image, side in zip(sample, side_cm, strict=True)])
    density = np.sort(density[np.isfinite(density) & (density > 0)].astype(np.float64))
    if not len(density):
        return
    half = np.cumsum(density)
    median = float(density[np.searchsorted(half, half[-1] / 2)])
    low, high = DENSITY_MEV_CM
    found = f"half of the sum is in voxels below {median * out.mev_per_unit:.3g} MeV a cm of their side"
    if not low <= median * out.mev_per_unit <= high:
        raise InputError(
            f"{path}: the values of {file.product} are not MeV: {found}; about {TYPICAL_MEV_CM:g} is expected in "
            "liquid argon. Set input.mev_per_unit to the energy of one unit; if the values are linear in energy, it is "
            f"about {TYPICAL_MEV_CM / median:.2g}."
        )
    unit = "MeV" if out.mev_per_unit == 1 else f"{out.mev_per_unit:g} MeV (input.mev_per_unit)"
    usual = USUAL_MEV_CM[0] <= median * out.mev_per_unit <= USUAL_MEV_CM[1]
    evidence = found if usual else f"{found}; {USUAL_MEV_CM[0]:g} to {USUAL_MEV_CM[1]:g} are usual"
    out.conclude(path, "energy unit", unit, evidence, doubt=not usual)
    for what, strange in (
        (
            "all are whole numbers, as those of counts or labels are",
            [(i.value == np.rint(i.value)).all() for i in sample],
        ),
        ("all are the same", [(i.value == sample[0].value[0]).all() for i in sample]),
    ):
        if all(strange):
            out.conclude(path, "values", what, f"the first {len(sample)} events", doubt=True)


def _check_shapes(path: Path, out: VoxelShardWriter, sample: list[VoxelImage]) -> None:
    """Record voxels that occur twice, and voxels that are not connected, whose coordinates cannot be right."""
    with np.errstate(all="ignore"):
        counts = [count_cells(np.round((image.centre_mm - image.centre_mm[0]) / image.voxel_mm)) for image in sample]
    n, n_repeated, n_connected = np.array([(0, 0, 0), *map(tuple, counts)]).sum(axis=0).tolist()
    if not n:
        return
    repeated, connected = n_repeated / (n + n_repeated), n_connected / n
    evidence = f"the first {len(sample)} events"
    if repeated > MOST_REPEATED:
        out.conclude(path, "voxels", f"{repeated:.0%} occur more than once in an event", evidence, doubt=True)
    value = f"{connected:.0%} of the voxels have another one beside them"
    out.conclude(path, "shapes", value, evidence, doubt=connected < LEAST_CONNECTED)


def _check_vertices(path: Path, out: VoxelShardWriter, sample: list[VoxelImage]) -> None:
    near = []
    for image in sample:
        vertex = np.array(image.truth.vertex_mm)
        low, high = image.centre_mm.min(axis=0) - NEAR_MM, image.centre_mm.max(axis=0) + NEAR_MM
        if np.isfinite(vertex).all():
            inside = bool(((vertex > low) & (vertex < high)).all())
            distance = np.linalg.norm(image.centre_mm - vertex, axis=1).min() if inside else np.inf
            near.append(bool(distance < NEAR_MM))
    axes = "x along the drift, y up, z along the beam; origin and cm of the file"
    if len(near) < FEWEST_VERTICES:
        out.conclude(path, "axes of the image", axes, f"assumed: {len(near)} events have a vertex to test it with")
        return
    share = float(np.mean(near))
    if share < SHARE_NEAR:
        raise InputError(
            f"{path}: {share:.0%} of {len(near)} vertices lie within {NEAR_MM:g} mm of a voxel of their event: axes, "
            "origin or unit of images and truth differ, or the truth belongs to other events. Correct the file, or "
            "remove the truth."
        )
    out.conclude(
        path, "axes of the image", axes, f"{share:.0%} of {len(near)} vertices lie within {NEAR_MM:g} mm of a voxel"
    )


def _neutrino_unit(path: Path, out: VoxelShardWriter, sample: list[VoxelImage]) -> float:
    """The unit of the neutrinos' energies in GeV: a neutrino deposits no more than it has."""
    pairs = [(image.truth.nu_energy, out.mev_per_unit * float(image.value.sum())) for image in sample]
    energy, deposit = np.array([pair for pair in pairs if pair[0] > 0] or np.zeros((0, 2))).T
    if not len(energy):
        return 1.0
    share, typical = float(np.quantile(deposit / energy, 0.9)), float(np.median(energy))
    found = f"median {typical:.3g}; 90 % of the events deposit less than {share:.3g} MeV a unit"
    if share <= 2 or typical > 100:
        out.conclude(path, "unit of neutrino energies", "MeV", found)
        return 1e-3
    if share > 2000:
        raise InputError(
            f"{path}: energies of neutrinos are in neither GeV nor MeV, or belong to other events: {found}. Correct "
            "the file, or remove the truth."
        )
    out.conclude(path, "unit of neutrino energies", "GeV", found)
    return 1.0
