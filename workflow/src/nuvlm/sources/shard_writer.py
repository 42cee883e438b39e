"""From events to a voxel shard: common to all readers of deposits or read-out charge. Every event is accounted for."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, PrivateAttr

from nuvlm.base.conclusions import Conclusions, Record
from nuvlm.base.errors import InputError, OnBadEvent
from nuvlm.base.kernels import cached_njit
from nuvlm.base.logs import track
from nuvlm.base.settings import Settings
from nuvlm.detector.geometry import Detector
from nuvlm.detector.readout import Recombination
from nuvlm.detector.voxels import Event, Voxels, voxelize, voxelize_boxes, write_shard
from nuvlm.simulation.stdhep import NEUTRINOS
from nuvlm.sources.consistency import Axes, Consistency, Observed
from nuvlm.sources.interactions import DriftedEvent, Interaction
from nuvlm.sources.offsets import Extents

logger = logging.getLogger(__name__)

AnyEvent = Interaction | DriftedEvent
MOST_GEV = 1e6
"""Neutrino energies above this are not physical."""
MOST_MM = 1e8
"""Likewise coordinates of vertices: a hundred kilometres."""
LOOK_AHEAD = 1000
"""Events read after the first that cannot be used, to find out what is wrong with all."""
AxesName = Literal["xyz", "xzy", "yxz", "yzx", "zxy", "zyx"]


class VoxelShardWriter(Settings):
    """Writes the interactions of one file to one voxel shard."""

    shard: Path
    detector: Detector
    offset_mm: tuple[float, float, float] = (0, 0, 0)
    """Added to the file's coordinates, mm."""
    recombination: Recombination = Recombination()
    """Turns the energy of each segment into visible energy."""
    product: str | None = None
    """Data product to read, of files with several; None for the usual one."""
    mev_per_unit: float = 1
    """Energy of one unit of the product's values, MeV."""
    on_bad_event: OnBadEvent = "error"
    """``error`` stops at an event that cannot be used; ``skip`` leaves it out and counts it."""
    drifted: ClassVar[bool] = False
    """Whether the charge was read out, and has drifted already."""
    axes: AxesName | None = None
    """What the file calls x, y and z of the detector, such as ``zyx`` where x and z are exchanged; None to take them
    as they are called, unless the evidence is against it."""
    outside_limit: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Largest part of the energy that may lie outside the detector."""
    _conclusions: Conclusions = PrivateAttr(default_factory=Conclusions)

    @property
    def order(self) -> Axes:
        """Where x, y, z of the detector are in the file's coordinates, by :attr:`axes`."""
        x, y, z = ("xyz".index(name) for name in self.axes or "xyz")
        return x, y, z

    def conclude(self, path: Path, subject: str, value: str, evidence: str, doubt: bool = False) -> None:
        """Record what the reader concluded about `path`: logged, and kept in the shard's attributes."""
        self._conclusions.add(path, subject, value, evidence, doubt)

    def write(self, path: Path, interactions: Iterable[AnyEvent], total: int) -> None:
        """Write the shard, event by event.

        Interactions without segments (in a spill, those in the rock) are left out and counted. Energy outside the
        detector is left out and logged. Truth that cannot be is unknown, and counted.

        Args:
            path: the input file, for messages.
            interactions: `total` of them, read when they are needed.

        Raises:
            InputError: an interaction cannot be used, or none can; there is evidence against what the file says about
                itself (:mod:`nuvlm.sources.consistency`); more than :attr:`outside_limit` of the energy lies outside
                the detector.
        """
        account = _Account(path, self.on_bad_event, self.detector, self.offset_mm, self.outside_limit)
        consistency = Consistency(self.detector, self.offset_mm, has_paths=not self.drifted)
        events = self._events(path, interactions, total, account, consistency)
        # write_shard() refuses a shard without events too, but does not know the reasons.
        write_shard(self.shard, self.detector, account.at_least_one(events), self._attributes, self.drifted)
        account.log()

    def _attributes(self) -> dict[str, str]:
        return {"conclusions": self._conclusions.to_json()}

    def _voxelize(self, interaction: AnyEvent) -> tuple[np.ndarray, Voxels, float]:
        """Visible energies (MeV), voxels, and the energy outside the detector."""
        assert isinstance(interaction, Interaction)
        start, end = interaction.start_mm + self.offset_mm, interaction.end_mm + self.offset_mm
        if any(interaction.size_mm):
            boxes = voxelize_boxes(self.detector, start, interaction.size_mm, interaction.energy_mev)
            return interaction.energy_mev, *boxes
        energy = self.recombination.visible_energy(interaction.energy_mev, np.linalg.norm(end - start, axis=1))
        return energy, *voxelize(self.detector, start, end, energy)

    def _events(
        self,
        path: Path,
        interactions: Iterable[AnyEvent],
        total: int,
        account: "_Account",
        consistency: Consistency,
    ) -> Iterator[Event]:
        impossible = Counter[str]()
        left = LOOK_AHEAD
        for interaction in track(interactions, "events", total):
            if not len(interaction.energy_mev) and not interaction.defect:
                account.n_empty += 1
                continue
            low, high = np.full(3, np.inf), np.full(3, -np.inf)
            defect = interaction.defect or _defect(interaction, low, high)
            if defect:
                account.refuse(interaction, defect)
                continue
            interaction = possible(interaction, impossible)
            truth = interaction.truth
            consistency.add(
                Observed(
                    interaction.name,
                    np.array(truth.vertex_mm),
                    interaction.start_mm,
                    interaction.end_mm,
                    interaction.energy_mev,
                    truth.nu_pdg,
                    truth.is_cc,
                    truth.nu_energy,
                    truth.inelasticity,
                    truth.particles,
                    has_paths=not any(interaction.size_mm),
                )
            )
            if account.first_outside:
                left -= 1
                account.extents.add(low, high)
                if not left:
                    break
                continue
            energy, voxels, outside = self._voxelize(interaction)
            account.extents.add(low, high)
            if not len(voxels):
                account.refuse_outside(interaction, low + self.offset_mm, high + self.offset_mm, energy)
                continue
            account.use(interaction, energy, outside)
            yield _event(interaction, voxels, self.offset_mm)
        # Evidence about the whole file first: it explains why single events lie outside.
        consistency.conclude(path, self.conclude, axes_given=self.axes is not None)
        account.check_outside(self.conclude)
        account.conclude(self.conclude)
        for what, n in impossible.items():
            if not n:
                continue
            self.conclude(
                path, "impossible truth", f"{what}: unknown in {n} events", "values that cannot be", doubt=True
            )


def possible(interaction: AnyEvent, impossible: Counter[str]) -> AnyEvent:
    """`interaction` without truth that cannot be; counts what was removed by name."""
    truth = interaction.truth
    changes: dict[str, object] = {}
    if not (np.isnan(truth.nu_energy) or 0 < truth.nu_energy < MOST_GEV):
        changes["nu_energy"] = np.nan
        impossible["neutrino energy"] += 1
    if not (-1e-3 <= truth.inelasticity <= 1 + 1e-3):
        # A file writes NaN on purpose where it does not know.
        impossible["inelasticity"] += int(not np.isnan(truth.inelasticity))
        changes["inelasticity"] = np.nan
    vertex = np.array(truth.vertex_mm, dtype=np.float64)
    if not np.isnan(vertex).all() and not (np.abs(vertex) < MOST_MM).all():
        changes["vertex_mm"] = (np.nan,) * 3
        impossible["vertex"] += 1
    particles = truth.particles
    if len(particles):
        numbers = np.column_stack([particles["kinetic_mev"], particles["momentum_mev"]])
        good = np.isfinite(numbers).all(axis=1) & (np.abs(numbers) < 1e3 * MOST_GEV).all(axis=1)
        good &= particles["kinetic_mev"] > -1.0
        if not good.all():
            # Without some of them the final state would be another one.
            changes["particles"] = particles[:0]
            impossible["final state"] += 1
    if not changes:
        return interaction
    return replace(interaction, truth=replace(truth, **changes))  # type: ignore[arg-type]


class DriftedShardWriter(VoxelShardWriter):
    """Writes charge that was read out, one file to one voxel shard with the attribute ``drifted``.

    Its events are :class:`nuvlm.sources.interactions.DriftedEvent`; recombination is in their charge.
    """

    drifted: ClassVar[bool] = True

    def _voxelize(self, interaction: AnyEvent) -> tuple[np.ndarray, Voxels, float]:
        assert isinstance(interaction, DriftedEvent)
        centre = interaction.position_mm + self.offset_mm
        return interaction.energy_mev, *voxelize_boxes(
            self.detector, centre, interaction.size_mm, interaction.energy_mev
        )


def _defect(interaction: AnyEvent, low: np.ndarray, high: np.ndarray) -> str | None:
    """Reason why an event cannot be used. `low` and `high` become the corners of its deposits, mm."""
    pdg = interaction.truth.nu_pdg
    if pdg and abs(pdg) not in NEUTRINOS:
        return f"has PDG code {pdg} for its neutrino"
    finite, negative, positive = _survey(interaction.start_mm, interaction.end_mm, interaction.energy_mev, low, high)
    if not finite:
        return "has a coordinate or deposit that is not a number"
    if negative:
        return "has a negative deposit"
    if not positive:
        return "has segments but no energy in them"
    return None


@cached_njit()
def _survey(start, end, energy, low, high):  # type: ignore[no-untyped-def]
    """Whether all numbers are finite, whether an energy is negative, whether one is positive; and the corners.

    In one pass: NumPy reduces (segments, 3) along the first axis slowly.
    """
    finite, negative, positive = True, False, False
    for i in range(len(energy)):
        finite = finite and np.isfinite(energy[i])
        negative = negative or energy[i] < 0
        positive = positive or energy[i] > 0
        for a in range(3):
            one, other = np.float64(start[i, a]), np.float64(end[i, a])
            finite = finite and np.isfinite(one) and np.isfinite(other)
            low[a] = min(low[a], one, other)
            high[a] = max(high[a], one, other)
    return finite, negative, positive


def _event(interaction: AnyEvent, voxels: Voxels, offset_mm: tuple[float, float, float]) -> Event:
    truth = interaction.truth
    particles = truth.particles.copy()
    particles["event_id"] = interaction.event_id
    x, y, z = np.add(truth.vertex_mm, offset_mm).tolist()
    tables = {"particles": particles} if len(particles) else {}
    if interaction.numbers is not None:
        tables["numbers"] = interaction.numbers.row(interaction.event_id)
    return Event(
        interaction.event_id,
        voxels,
        nu_pdg=truth.nu_pdg,
        is_cc=truth.is_cc,
        nu_energy=truth.nu_energy,
        inelasticity=truth.inelasticity,
        vertex_mm=(x, y, z),
        mode=truth.mode,
        truth=tables,
    )


class _Account:
    """Counts which interactions are used or left out, and sums their energy."""

    def __init__(
        self,
        path: Path,
        on_bad_event: OnBadEvent,
        detector: Detector,
        offset_mm: tuple[float, float, float],
        outside_limit: float,
    ) -> None:
        self.n_empty = 0
        self.extents = Extents(detector, offset_mm)
        self.first_outside: str | None = None
        """Message of the first event outside, where such an event is an error."""
        self._path = path
        self._on_bad_event = on_bad_event
        self._outside_limit = outside_limit
        self._box = np.array(detector.box_mm, dtype=np.float64).T
        self._n_used = self._n_with_truth = self._n_outside = 0
        self._deposited = self._visible = self._outside = self._refused_outside = 0.0
        self._bad: dict[str, list[str]] = {}
        self._unknown: Counter[str] = Counter()

    def use(self, interaction: AnyEvent, energy: np.ndarray, outside: float) -> None:
        self._n_used += 1
        truth = interaction.truth
        self._unknown["neutrino"] += not truth.nu_pdg
        self._unknown["neutrino energy"] += bool(np.isnan(truth.nu_energy))
        self._unknown["inelasticity"] += bool(np.isnan(truth.inelasticity))
        self._unknown["mode"] += not truth.mode
        self._unknown["vertex"] += not np.isfinite(truth.vertex_mm).all()
        self._unknown["final state"] += not len(truth.particles)
        self._n_with_truth += interaction.truth.nu_pdg != 0
        self._deposited += float(interaction.energy_mev.sum())
        self._visible += float(energy.sum())
        self._outside += outside

    def refuse(self, interaction: AnyEvent, defect: str, remedy: str = "Correct the file") -> None:
        if self._on_bad_event == "error":
            raise InputError(
                f"{self._path}: {interaction.name} {defect}. {remedy}, or leave such events out with "
                "input.on_bad_event: skip."
            )
        self._bad.setdefault(defect, []).append(interaction.name)

    def refuse_outside(self, interaction: AnyEvent, low: np.ndarray, high: np.ndarray, energy: np.ndarray) -> None:
        self._n_outside += 1
        self._refused_outside += float(energy.sum())
        where = "lies outside the detector"
        if self._on_bad_event == "error":
            self.first_outside = f"{interaction.name} {where}: {self._span(low, high)}"
        else:
            self._bad.setdefault(where, []).append(interaction.name)

    def check_outside(self, record: Record) -> None:
        """Compare the energy outside the detector with the limit.

        Raises:
            InputError: too much; the message proposes an offset, if one would fit.
        """
        proposal = self.extents.proposal()
        if self.first_outside:
            raise InputError(
                f"{self._path}: {self.first_outside}. {proposal or 'Set input.offset_mm'} if the file's origin is not "
                "the detector's, or leave such events out with input.on_bad_event: skip."
            )
        whole, outside = self._visible + self._refused_outside, self._outside + self._refused_outside
        if self._n_used and (
            self._outside > self._outside_limit * self._visible
            or (outside > max(self._outside_limit, 0.5) * whole and proposal)
        ):
            raise InputError(
                f"{self._path}: {outside:.1f} of {whole:.1f} MeV lie outside the detector: "
                f"{self._span(*self.extents.span())}. {proposal or 'Set input.offset_mm, or detector'}; "
                f"if this is intended, set input.outside_limit above {self._outside_limit:g}."
            )
        if outside > 0.01 * whole:
            record(self._path, "energy outside", f"{outside:.1f} of {whole:.1f} MeV, left out",
                 self._span(*self.extents.span()), doubt=True)  # fmt: skip

    def at_least_one(self, events: Iterator[Event]) -> Iterator[Event]:
        """Yield `events`.

        Raises:
            InputError: there are none; the message gives the reasons.
        """
        yield from events
        if self._n_used:
            return
        n_bad = sum(map(len, self._bad.values()))
        if self._n_outside and self._n_outside == n_bad:
            raise InputError(
                f"{self._path}: all {n_bad} events lie outside the detector. {self._span(*self.extents.span())}. "
                f"{self.extents.proposal() or 'Set input.offset_mm'}."
            )
        reasons = [f"{len(names)}, first {names[0]}, {defect}" for defect, names in self._bad.items()]
        reasons += [f"{self.n_empty} have no segments"] if self.n_empty else []
        raise InputError(
            f"{self._path}: the file holds no event that can be used{': ' if reasons else ''}{'; '.join(reasons)}. "
            "Correct the file, or remove it from input.files."
        )

    def conclude(self, record: Record) -> None:
        """Record the events that are left out, and the truth that is unknown."""
        for what, unknown in self._unknown.items():
            if unknown:
                record(self._path, "unknown truth", what, f"in {unknown} of {self._n_used} events")
        n = self._n_used + self.n_empty + sum(map(len, self._bad.values()))
        for defect, names in self._bad.items():
            record(
                self._path, "events left out", f"{len(names)} of {n}", f"the first, {names[0]}, {defect}", doubt=True
            )
        if self.n_empty:
            record(self._path, "events left out", f"{self.n_empty} of {n}", "they have no segments", doubt=True)

    def log(self) -> None:
        if self._visible != self._deposited:
            logger.info("%s: recombination leaves %.1f of %.1f MeV", self._path, self._visible, self._deposited)
        logger.info("%s: %d events, %d of them with truth", self._path, self._n_used, self._n_with_truth)

    def _span(self, low: np.ndarray, high: np.ndarray) -> str:
        return (
            f"deposits span {np.round(low).tolist()} to {np.round(high).tolist()} mm, "
            f"the detector {self._box[0].tolist()} to {self._box[1].tolist()} mm"
        )
