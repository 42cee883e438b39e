"""Whether the deposits and the truth of a file agree with physics: common to all readers of energy deposits.

Names, attributes and unit labels of files are sometimes wrong. What cannot be wrong is physics: charge begins at its
vertex, argon takes about 2.1 MeV/cm from a minimum-ionising particle in every direction, no neutrino deposits more than
its energy, and the products of a beam along z go along z. :class:`Consistency` collects this evidence interaction by
interaction, in the file's coordinates, and refuses a file with evidence against its own words. Weaker evidence is
recorded as a doubt (:mod:`nuvlm.base.conclusions`).
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nuvlm.base.conclusions import Record
from nuvlm.base.errors import InputError
from nuvlm.detector.geometry import Detector
from nuvlm.detector.voxels import PARTICLE_DTYPE
from nuvlm.simulation.agreement import Agreement

CM = 10.0  # mm
NEAR_MM = 50.0
"""Charge within this distance of the vertex touches it: more than the walls between the modules of a detector."""
EXACT_MM = 5.0
"""Vertices under a wrong assumption do not come this near to charge by chance, so that few events suffice."""
MIP_MEV_CM = 2.1
PLAUSIBLE_MEV_CM = (0.7, 10.0)
"""Limits on the length-weighted median of dE/dx. Minimum-ionising particles have 2.1 MeV/cm, protons of 100 MeV
7 MeV/cm. Recombination, if the file has it, leaves about 60 %."""
STOPPING_MEV_CM = 60.0
"""Upper limit for events shorter than :data:`LONG_MM`, such as those of slow protons."""
LONG_MM = 300.0
"""No proton that goes this far loses more than 9 MeV/cm on average."""
ANISOTROPY = 4.0
"""Largest ratio of dE/dx along one axis and along the others, if there is enough path to compare: a few slow protons
have a high one."""
MOST_WITHOUT = 0.05
"""Part of the segments that may have no energy."""
ENOUGH_MM, ENOUGH_EVENTS = 1000.0, 5
"""Path along an axis, and events with some."""
FEW = 3
"""Events that a statement about the whole file needs, unless each one is exact."""
MOST_KEPT = 200
"""Events kept to find out what is wrong; and :data:`MOST_ROWS` segments of them."""
MOST_ROWS = 10**6
LENGTHS_MM = {"mm": 1.0, "cm": 10.0, "m": 1000.0, "um": 1e-3}
ENERGIES_MEV = {"MeV": 1.0, "GeV": 1000.0, "keV": 1e-3, "eV": 1e-6}
"""Units that files may have."""
USUAL_Y, MANY = (0.1, 0.8), 10
"""Mean inelasticity of charged currents, if there are many: 0.3 to 0.5 in the beams of accelerators."""
LEAST_VISIBLE = 0.1
"""Share of the neutrino's energy that the best contained tenth of many events deposits at least."""
ALONG = 0.5
"""Mean component of the unit vectors from vertex to charge above which a file has a direction."""
Axes = tuple[int, int, int]


@dataclass(frozen=True)
class Observed:
    """An interaction in the file's coordinates, as far as the evidence needs it."""

    name: str
    vertex_mm: np.ndarray
    """(3,); NaN where unknown."""
    start_mm: np.ndarray
    """(segments, 3); likewise the ends and the energies."""
    end_mm: np.ndarray
    energy_mev: np.ndarray
    nu_pdg: int = 0
    is_cc: bool = False
    nu_energy: float = np.nan
    """GeV."""
    inelasticity: float = np.nan
    particles: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=PARTICLE_DTYPE))
    """The final state."""
    has_paths: bool = True
    """Whether deposits are along segments; else they are boxes."""


@dataclass
class _Touching:
    """How many vertices have charge near them, and the events where it is not."""

    n_inside: int = 0
    """Vertices in the detector; only these are expected to have charge."""
    n_outside: int = 0
    near: int = 0
    """Of those inside."""
    cc: int = 0
    cc_far: list[str] = field(default_factory=list)
    """Names of the charged currents, and of events of unknown current, without charge at their vertex."""
    far: list[Observed] = field(default_factory=list)
    n_far: int = 0
    rows: int = 0


class Consistency:
    """Evidence from all interactions of a file."""

    def __init__(self, detector: Detector, offset_mm: tuple[float, float, float], has_paths: bool = True) -> None:
        """Collect nothing yet.

        Args:
            offset_mm: what is added to the file's coordinates.
            has_paths: whether deposits are along segments; else they are points, such as voxels.
        """
        low, high = np.array(detector.box_mm, dtype=np.float64).T
        self._low, self._high = low - offset_mm, high - offset_mm
        self._loss = EnergyLoss() if has_paths else None
        self._has_paths = False
        self._touching = _Touching()
        self._direction = Direction()
        self._agreement = Agreement()
        self._n_with_energy = 0
        self._shares: list[float] = []
        self._too_much: list[str] = []
        self._inelasticity: list[float] = []
        self._seen: set[tuple[object, ...]] = set()
        self._n, self._repeated = 0, list[str]()

    def add(self, event: Observed) -> None:
        """Add an interaction with segments."""
        if self._loss and event.has_paths:
            self._has_paths = True
            self._loss.add(event.start_mm, event.end_mm, event.energy_mev)
        self._add_repeated(event)
        self._add_vertex(event)
        # The first of several voxels is the one with the lowest index, not where the event begins.
        known = bool(np.isfinite(event.vertex_mm).all())
        away = self._direction.add(event) if known or (self._loss and event.has_paths) else None
        self._agreement.add(
            event.name,
            event.nu_pdg,
            event.is_cc,
            event.nu_energy,
            event.inelasticity,
            event.particles,
            away if known else None,
        )
        if np.isfinite(event.nu_energy) and event.nu_energy > 0:
            if not known or self._is_inside(event.vertex_mm):
                self._shares.append(float(event.energy_mev.sum()) / (1000 * event.nu_energy))
            self._n_with_energy += 1
            if event.energy_mev.sum() > 1200 * event.nu_energy + 100:
                self._too_much.append(event.name)
        if event.is_cc and np.isfinite(event.inelasticity):
            self._inelasticity.append(event.inelasticity)

    def conclude(self, path: Path, record: Record, axes_given: bool = False) -> None:
        """Log and record what follows.

        Args:
            path: the file.
            record: takes the conclusions.
            axes_given: whether the user has said what the axes are, so that a direction is no evidence against them.

        Raises:
            InputError: evidence against what the file says about itself.
        """
        if self._loss and self._has_paths:
            self._loss.conclude(path, record)
        self._conclude_vertices(path, record)
        self._direction.conclude(path, record, axes_given)
        self._agreement.conclude(path, record)
        self._conclude_numbers(path, record)
        if self._too_much:
            n, of = len(self._too_much), self._n_with_energy
            what = f"{n} of {of} neutrinos deposit more than their energy (first: {self._too_much[0]})"
            if (n >= FEW and n > 0.2 * of) or n == of > 1:
                raise InputError(
                    f"{path}: {what}. Energies are in another unit than they are said to be, or the ids of deposits "
                    "and truth do not belong together: correct the file."
                )
            record(path, "neutrino energy", what, "deposits and neutrino energies", doubt=True)

    def _add_repeated(self, event: Observed) -> None:
        self._n += 1
        some = slice(None, 100)
        key = len(event.energy_mev), event.energy_mev[some].tobytes(), event.start_mm[some].tobytes()
        if key in self._seen:
            self._repeated.append(event.name)
        self._seen.add(key)

    def _conclude_numbers(self, path: Path, record: Record) -> None:
        """Record what the numbers of many events show together."""
        if self._repeated:
            value = f"{len(self._repeated)} of {self._n} have the deposits of another one"
            record(path, "repeated events", value, f"the first is {self._repeated[0]}", doubt=True)
        low, high = USUAL_Y
        if len(self._inelasticity) >= MANY and not low <= (mean := float(np.mean(self._inelasticity))) <= high:
            value = f"mean of {mean:.2g} in {len(self._inelasticity)} charged currents"
            record(path, "inelasticity", value, f"{low:g} to {high:g} is usual", doubt=True)
        if len(self._shares) >= MANY and (best := float(np.quantile(self._shares, 0.9))) < LEAST_VISIBLE:
            value = f"90 % of the events deposit less than {best:.2g} of it"
            record(path, "neutrino energy", value, "of contained events half is visible", doubt=True)

    def _add_vertex(self, event: Observed) -> None:
        if not np.isfinite(event.vertex_mm).all():
            return
        found = self._touching
        inside = self._is_inside(event.vertex_mm)
        near = distance_mm(event.vertex_mm, event.start_mm, event.end_mm) <= NEAR_MM
        found.n_inside += inside
        found.n_outside += not inside
        found.near += near and inside
        certain = event.is_cc or event.nu_pdg == 0
        found.cc += certain and inside
        if near:
            return
        if certain and inside:
            found.cc_far.append(event.name)
        found.n_far += 1
        if len(found.far) < MOST_KEPT and found.rows < MOST_ROWS:
            found.far.append(event)
            found.rows += len(event.energy_mev)

    def _conclude_vertices(self, path: Path, record: Record) -> None:
        found = self._touching
        n = found.n_inside + found.n_outside
        if not n:
            return
        if found.n_far > 0.1 * n:
            self._explain(path, found)
        n_far = found.n_inside - found.near
        if n_far:
            at = f"at {found.near} of {found.n_inside} vertices in the detector there is charge within {NEAR_MM:g} mm"
            too_many = len(found.cc_far) >= FEW and len(found.cc_far) > 0.2 * found.cc
            if too_many or (found.n_inside >= FEW and found.near < 0.5 * found.n_inside):
                raise InputError(
                    f"{path}: only {at}; the first without is {(found.cc_far or [found.far[0].name])[0]}. Deposits "
                    "and vertices do not belong together: their ids, units or origins differ. Correct the file, or "
                    "remove its truth."
                )
            if found.cc_far:
                first = f"{len(found.cc_far)} charged or unknown currents have none, first {found.cc_far[0]}"
                record(path, "vertices", at, first, doubt=True)
            else:
                record(path, "vertices", at, "the others are neutral currents")
        elif found.n_inside:
            record(path, "vertices", "at the charge", f"all {found.n_inside} in the detector have charge within "
                   f"{NEAR_MM:g} mm")  # fmt: skip
        if found.n_outside:
            record(path, "vertices outside", f"{found.n_outside} of {n} lie outside the detector",
                 "such as interactions in the rock; their charge is kept where it is", doubt=True)  # fmt: skip

    def _explain(self, path: Path, found: _Touching) -> None:
        """Raise InputError if another assumption puts the vertices at the charge."""
        for what, assume in alternatives():
            gaps = np.array([self._gap(event, assume(event.vertex_mm)) for event in found.far])
            exact, very = np.count_nonzero(gaps <= EXACT_MM), np.count_nonzero(gaps <= 1.0)
            if exact > 0.5 * len(gaps) and (exact >= 2 or very):
                raise InputError(
                    f"{path}: the charge of {found.n_far} of {found.n_inside + found.n_outside} events is not at their "
                    f"vertex, but that of {exact} of {len(gaps)} tried is if {what}. Deposits and vertices contradict "
                    "each other: correct the file, or say which axes it has with input.axes."
                )
        far = [event for event in found.far if self._is_inside(event.vertex_mm)]
        if len(far) < FEW:
            return
        # Vertices of other events of the file, then the same displacement in all events.
        of_another = [
            any(distance_mm(e.vertex_mm, other.start_mm, other.end_mm) <= 1.0 for other in far if other is not e)
            for e in far[:50]
        ]
        if np.mean(of_another) > 0.8:
            raise InputError(
                f"{path}: the charge of {len(far)} events is not at their vertex, but at that of another event "
                f"(first: {far[0].name}). The ids of deposits and truth are exchanged: correct the file."
            )
        shift = np.array([event.start_mm[0] - event.vertex_mm for event in far])
        middle = np.median(shift, axis=0)
        if (np.linalg.norm(shift - middle, axis=1) < EXACT_MM).mean() > 0.8:
            raise InputError(
                f"{path}: the charge of {len(far)} events begins at {np.round(middle, 1).tolist()} mm from their "
                "vertex, the same in all. Deposits and vertices have different origins: correct the file."
            )

    def _gap(self, event: Observed, vertex_mm: np.ndarray) -> float:
        """Distance from the charge of `event` to where its vertex may be instead."""
        # A vertex in the rock is not explained by one at the wall, where the charge of all such events begins.
        if not self._is_inside(event.vertex_mm) and not self._is_inside(vertex_mm, margin_mm=NEAR_MM):
            return np.inf
        return distance_mm(vertex_mm, event.start_mm, event.end_mm)

    def _is_inside(self, point: np.ndarray, margin_mm: float = 0.0) -> bool:
        return bool(((point >= self._low + margin_mm) & (point <= self._high - margin_mm)).all())


def alternatives() -> Iterator[tuple[str, Callable[[np.ndarray], np.ndarray]]]:
    """Yield what vertices may be instead of what they are said to be, the likely first: a statement and a function."""

    def times(scale: float) -> Callable[[np.ndarray], np.ndarray]:
        return lambda vertex: scale * vertex

    def exchanged(order: Axes, signs: tuple[int, ...] = (1, 1, 1)) -> Callable[[np.ndarray], np.ndarray]:
        return lambda vertex: np.array(signs) * vertex[list(order)]

    orders: list[Axes] = [(2, 1, 0), (1, 0, 2), (0, 2, 1), (1, 2, 0), (2, 0, 1)]
    for order in orders:
        yield f"x, y, z of the deposits are {', '.join('xyz'[i] for i in order)} of the vertices", exchanged(order)
    for scale in (0.1, 10.0, 0.01, 100.0, 1e-3, 1e3, 1e-4, 1e4):
        yield f"vertices are multiplied by {scale:g}: another unit", times(scale)
    for signs in itertools.product((1, -1), repeat=3):
        if min(signs) < 0:
            flipped = ", ".join(axis for axis, sign in zip("xyz", signs, strict=True) if sign < 0)
            yield f"{flipped} of the vertices is negated", exchanged((0, 1, 2), signs)
    for scale, order in itertools.product((0.1, 10.0), orders[:1]):
        yield (
            f"x and z are exchanged and vertices are multiplied by {scale:g}",
            lambda vertex, scale=scale, order=order: scale * vertex[list(order)],  # type: ignore[misc]
        )
    for axis, scale in itertools.product(range(3), (0.1, 10.0, 1e-3, 1e3, 0.01, 100.0)):
        factors = np.where(np.arange(3) == axis, scale, 1.0)
        yield f"{'xyz'[axis]} of the vertices is multiplied by {scale:g}", lambda vertex, f=factors: f * vertex  # type: ignore[misc]


def distance_mm(point: np.ndarray, start: np.ndarray, end: np.ndarray) -> float:
    """Distance of a point (3,) from the nearest of straight segments (segments, 3); infinite without segments."""
    if not len(start):
        return np.inf
    along, to = end - start, point - start
    square = (along**2).sum(axis=1)
    with np.errstate(all="ignore"):  # coordinates that are not numbers are refused elsewhere
        t = np.clip((along * to).sum(axis=1) / np.where(square > 0, square, 1), 0, 1)
        gap = np.sqrt(((to - t[:, None] * along) ** 2).sum(axis=1))
    return float(np.nanmin(gap, initial=np.inf))


class EnergyLoss:
    """dE/dx over the path length, along all directions and along each axis."""

    _EDGES = np.linspace(-7, 7, 701)  # of log10 (MeV/cm)

    def __init__(self) -> None:
        self.length_mm = 0.0
        self._n_long = self._n = self._n_segments = self._n_without = 0
        # (axis or rest, bins): path length; the last row is for directions along none of the axes
        self._histogram = np.zeros((4, len(self._EDGES) - 1))
        self._events = np.zeros(4, dtype=np.int64)
        """Events with path along the axis."""

    def add(self, start_mm: np.ndarray, end_mm: np.ndarray, energy_mev: np.ndarray) -> None:
        """Add the segments of an event."""
        step = end_mm - start_mm
        with np.errstate(all="ignore"):
            length = np.sqrt((step**2).sum(axis=1))
            good = (length > 0) & (energy_mev > 0) & np.isfinite(length) & np.isfinite(energy_mev)
        self._n_segments += int(np.count_nonzero(length > 0))
        self._n_without += int(np.count_nonzero((length > 0) & (energy_mev == 0)))
        if not good.any():
            return
        step, length, energy = step[good], length[good], energy_mev[good]
        self._n += 1
        self._n_long += bool(np.ptp(start_mm[good], axis=0).max() > LONG_MM)
        self.length_mm += float(length.sum())
        cosine = np.abs(step) / length[:, None]
        axis = np.where(cosine.max(axis=1) > 0.9, cosine.argmax(axis=1), 3)
        bins = np.clip(((np.log10(energy / (length / CM)) + 7) * 50).astype(np.int64), 0, self._histogram.shape[1] - 1)
        n = self._histogram.shape[1]
        self._histogram += np.bincount(axis * n + bins, length, 4 * n).reshape(4, n)
        self._events += np.bincount(axis, minlength=4) > 0

    def median(self, rows: list[int] | None = None) -> float:
        """Length-weighted median of dE/dx in MeV/cm, of all segments or of those along axes; NaN without path."""
        histogram = self._histogram.sum(axis=0) if rows is None else self._histogram[rows].sum(axis=0)
        if not histogram.sum():
            return np.nan
        half = np.searchsorted(np.cumsum(histogram), histogram.sum() / 2)
        return float(10 ** ((self._EDGES[half] + self._EDGES[half + 1]) / 2))

    @property
    def limits(self) -> tuple[float, float]:
        """The plausible range of :meth:`median`."""
        low, high = PLAUSIBLE_MEV_CM
        return low, high if self._n_long > 0.5 * self._n else STOPPING_MEV_CM

    def conclude(self, path: Path, record: Record) -> None:
        """Record the median.

        Raises:
            InputError: it is implausible, or it differs between directions.
        """
        median = self.median()
        if np.isnan(median):
            record(path, "energy loss", "not checked", "no segment has both a length and an energy", doubt=True)
            return
        low, high = self.limits
        evidence = f"dE/dx of {median:.3g} MeV/cm (median over {self.length_mm / 1000:.3g} m of path)"
        if not low <= median <= high:
            raise InputError(
                f"{path}: {evidence}, as the units are said to be; about {MIP_MEV_CM} is expected in liquid argon. "
                "Lengths or energies are in another unit: convert the file."
            )
        for axis in range(3):
            along, others = self.median([axis]), self.median([i for i in range(4) if i != axis])
            paths = self._histogram.sum(axis=1)
            enough = min(paths[axis], paths.sum() - paths[axis]) > ENOUGH_MM and self._events[axis] >= ENOUGH_EVENTS
            ratio = along / others
            if enough and not 1 / ANISOTROPY < ratio < ANISOTROPY:
                raise InputError(
                    f"{path}: along {'xyz'[axis]} dE/dx is {along:.3g} MeV/cm, along other directions {others:.3g}. "
                    f"The columns of {'xyz'[axis]} have another unit than the others, or are damaged: correct the file."
                )
        if self._n_without > MOST_WITHOUT * self._n_segments:
            value = f"{self._n_without} of {self._n_segments} segments have none"
            record(path, "deposits", value, "charged particles lose energy along every segment", doubt=True)
        weak = not 1.2 <= median <= PLAUSIBLE_MEV_CM[1]
        if weak and self.length_mm > 1000:
            record(path, "energy loss", "unusual", evidence, doubt=True)
        else:
            record(path, "energy loss", "as expected in liquid argon", evidence)


class Direction:
    """Where charge goes, seen from the vertex or, without one, from the first segment."""

    def __init__(self) -> None:
        self._sum = np.zeros(3)
        self._n = self._n_neutrino = 0

    def add(self, event: Observed) -> np.ndarray | None:
        """Add an event, and return its direction, (3,); None if it is small or has a distant vertex."""
        energy = np.where(np.isfinite(event.energy_mev) & (event.energy_mev > 0), event.energy_mev, 0)
        if not energy.sum() or not len(energy):
            return None
        origin = event.vertex_mm if np.isfinite(event.vertex_mm).all() else event.start_mm[0]
        if distance_mm(origin, event.start_mm, event.end_mm) > NEAR_MM:
            return None
        away = energy @ (0.5 * (event.start_mm + event.end_mm)) / energy.sum() - origin
        size = float(np.linalg.norm(away))
        if not np.isfinite(size) or size <= NEAR_MM:
            return None
        self._sum += away / size
        self._n += 1
        self._n_neutrino += event.nu_pdg != 0
        direction: np.ndarray = away / size
        return direction

    @property
    def mean(self) -> np.ndarray | None:
        """(3,), the mean unit vector; None with fewer than :data:`FEW` events."""
        return self._sum / self._n if self._n >= FEW else None

    def against_z(self) -> int | None:
        """The axis that charge goes along instead of z (2: against it), or None."""
        mean = self.mean
        # The mean of n isotropic unit vectors has a width of sqrt(1 / 3n) along each axis: four of them are enough, and
        # three events that agree.
        if mean is None or np.abs(mean).max() < max(ALONG, min(0.9, 4 / np.sqrt(3 * self._n))):
            return None
        axis = int(np.abs(mean).argmax())
        if axis == 2:
            return 2 if mean[2] < 0 else None
        return axis if abs(mean[axis]) > 2 * mean[2] else None

    def evidence(self) -> str:
        mean = self.mean
        assert mean is not None
        return (
            f"the mean direction from vertex to charge is ({mean[0]:.2f}, {mean[1]:.2f}, {mean[2]:.2f}) in "
            f"{self._n} events"
        )

    def conclude(self, path: Path, record: Record, axes_given: bool) -> None:
        """Record the direction.

        Raises:
            InputError: neutrinos do not go along z.
        """
        if self.mean is None:
            return
        axis = self.against_z()
        if axis is None:
            record(path, "axes", "z along the beam", self.evidence())
            return
        sign = "-" if self.mean[axis] < 0 else "+"
        what = f"charge goes along {sign}{'xyz'[axis]}"
        if self._n_neutrino > 0.5 * self._n and not axes_given:
            remedy = "" if axis == 2 else f", or set input.axes ({_exchange(axis)} for {'xyz'[axis]} and z exchanged)"
            raise InputError(
                f"{path}: {what}, not along the beam, which is z: {self.evidence()}. The axes are not what they are "
                f"called: correct the file{remedy}."
            )
        # Without neutrinos, single particles and cosmic muons may go anywhere; but an exchange of x and z looks like
        # this too.
        value = f"as they are called, although {what}"
        record(path, "axes", value, self.evidence(), doubt=axis == 0 and not axes_given)


def _exchange(axis: int) -> str:
    order = [0, 1, 2]
    order[axis], order[2] = 2, axis
    return "".join("xyz"[i] for i in order)
