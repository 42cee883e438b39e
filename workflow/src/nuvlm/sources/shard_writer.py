"""From events to a voxel shard: common to all readers of deposits or read-out charge. Every event is accounted for."""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import PrivateAttr

from nuvlm.base.errors import InputError, OnBadEvent
from nuvlm.base.logs import track
from nuvlm.base.settings import Settings
from nuvlm.detector.geometry import Detector
from nuvlm.detector.readout import Recombination
from nuvlm.detector.voxels import Event, Voxels, voxelize, voxelize_boxes, write_shard
from nuvlm.simulation.stdhep import NEUTRINOS
from nuvlm.sources.conclusions import Conclusions
from nuvlm.sources.interactions import DriftedEvent, Interaction

logger = logging.getLogger(__name__)

AnyEvent = Interaction | DriftedEvent


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
    _conclusions: Conclusions = PrivateAttr(default_factory=Conclusions)

    def conclude(self, path: Path, subject: str, value: str, evidence: str) -> None:
        """Record what the reader concluded about `path`: logged, and kept in the shard's attributes."""
        self._conclusions.add(path, subject, value, evidence)

    def write(self, path: Path, interactions: Iterable[AnyEvent], total: int) -> None:
        """Write the shard, event by event.

        Interactions without segments (in a spill, those in the rock) are left out and counted. Energy outside the
        detector is left out and logged.

        Args:
            path: the input file, for messages.
            interactions: `total` of them, read when they are needed.

        Raises:
            InputError: an interaction cannot be used, or none can.
        """
        account = _Account(path, self.on_bad_event, self.detector)
        events = self._events(interactions, total, account)
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

    def _events(self, interactions: Iterable[AnyEvent], total: int, account: "_Account") -> Iterator[Event]:
        for interaction in track(interactions, "events", total):
            if not len(interaction.energy_mev) and not interaction.defect:
                account.n_empty += 1
                continue
            defect = interaction.defect or _defect(interaction)
            if defect:
                account.refuse(interaction, defect)
                continue
            energy, voxels, outside = self._voxelize(interaction)
            if not len(voxels):
                account.refuse_outside(interaction, interaction.start_mm + self.offset_mm)
                continue
            account.use(interaction, energy, outside)
            yield _event(interaction, voxels, self.offset_mm)


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


def _defect(interaction: AnyEvent) -> str | None:
    pdg = interaction.truth.nu_pdg
    if pdg and abs(pdg) not in NEUTRINOS:
        return f"has PDG code {pdg} for its neutrino"
    coordinates = np.isfinite(interaction.start_mm).all() and np.isfinite(interaction.end_mm).all()
    if not coordinates or not np.isfinite(interaction.energy_mev).all():
        return "has a coordinate or deposit that is not a number"
    if (interaction.energy_mev < 0).any():
        return "has a negative deposit"
    if not (interaction.energy_mev > 0).any():
        return "has segments but no energy in them"
    return None


def _event(interaction: AnyEvent, voxels: Voxels, offset_mm: tuple[float, float, float]) -> Event:
    truth = interaction.truth
    particles = truth.particles.copy()
    particles["event_id"] = interaction.event_id
    x, y, z = np.add(truth.vertex_mm, offset_mm).tolist()
    return Event(
        interaction.event_id,
        voxels,
        nu_pdg=truth.nu_pdg,
        is_cc=truth.is_cc,
        nu_energy=truth.nu_energy,
        inelasticity=truth.inelasticity,
        vertex_mm=(x, y, z),
        mode=truth.mode,
        truth={"particles": particles} if len(particles) else {},
    )


class _Account:
    """Counts which interactions are used or left out, and sums their energy."""

    def __init__(self, path: Path, on_bad_event: OnBadEvent, detector: Detector) -> None:
        self.n_empty = 0
        self._path = path
        self._on_bad_event = on_bad_event
        self._box = np.array(detector.box_mm, dtype=np.float64).T
        self._low, self._high = np.full(3, np.inf), np.full(3, -np.inf)
        self._n_used = self._n_with_truth = self._n_outside = 0
        self._deposited = self._visible = self._outside = 0.0
        self._bad: dict[str, list[str]] = {}

    def use(self, interaction: AnyEvent, energy: np.ndarray, outside: float) -> None:
        self._n_used += 1
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

    def refuse_outside(self, interaction: AnyEvent, start: np.ndarray) -> None:
        self._n_outside += 1
        low, high = start.min(axis=0), start.max(axis=0)
        self._low, self._high = np.minimum(self._low, low), np.maximum(self._high, high)
        where = "lies outside the detector"
        if self._on_bad_event == "error":
            where += f": {self._span(low, high)}"
        self.refuse(interaction, where, "Set input.offset_mm if the file's origin is not the detector's")

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
                f"{self._path}: all {n_bad} events lie outside the detector. {self._span(self._low, self._high)}. "
                "Set input.offset_mm."
            )
        reasons = [f"{len(names)}, first {names[0]}, {defect}" for defect, names in self._bad.items()]
        reasons += [f"{self.n_empty} have no segments"] if self.n_empty else []
        raise InputError(
            f"{self._path}: the file holds no event that can be used{': ' if reasons else ''}{'; '.join(reasons)}. "
            "Correct the file, or remove it from input.files."
        )

    def log(self) -> None:
        n = self._n_used + self.n_empty + sum(map(len, self._bad.values()))
        for defect, names in self._bad.items():
            logger.warning("%s: %d of %d events left out; the first, %s, %s",
                           self._path, len(names), n, names[0], defect)  # fmt: skip
        if self.n_empty:
            logger.warning("%s: %d of %d events left out: they have no segments", self._path, self.n_empty, n)
        if self._outside > 1e-9 * self._visible:
            logger.warning("%s: %.1f of %.1f MeV lie outside the detector and were left out",
                           self._path, self._outside, self._visible)  # fmt: skip
        if self._visible != self._deposited:
            logger.info("%s: recombination leaves %.1f of %.1f MeV", self._path, self._visible, self._deposited)
        logger.info("%s: %d events, %d of them with truth", self._path, self._n_used, self._n_with_truth)

    def _span(self, low: np.ndarray, high: np.ndarray) -> str:
        return (
            f"deposits span {np.round(low).tolist()} to {np.round(high).tolist()} mm, "
            f"the detector {self._box[0].tolist()} to {self._box[1].tolist()} mm"
        )
