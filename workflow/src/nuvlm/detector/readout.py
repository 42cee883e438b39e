"""Effects on charge other than diffusion: recombination, space charge, electron lifetime, dead channels, noise,
threshold, calibration.

All are off by default: the published system has only diffusion (arXiv 2509.08461). They are for studies of a
classifier's robustness to a real detector; docs/physics.md describes each effect.
"""

from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from nuvlm.base.settings import FilePath, Settings
from nuvlm.detector.geometry import Detector, drift_distance_mm

ARGON_DENSITY = 1.396
"""Liquid argon, g/cm3 (PDG)."""
MIP_MEV_PER_CM = 2.1
"""Energy loss of a minimum-ionising particle, for which visible and deposited energy are equal."""

NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Recombination(Settings):
    """Recombination of electrons with ions, which increases with the density of ionisation.

    Sources: `birks`: ICARUS, S. Amoruso et al., NIM A 523 (2004) 275. `modified_box`: ArgoNeuT, R. Acciarri et al.,
    JINST 8 (2013) P08005.
    """

    model: Literal["none", "birks", "modified_box"] = "none"
    field_kv_cm: Positive = 0.5
    """Drift field, kV/cm."""

    def survival(self, dedx_mev_cm: np.ndarray) -> np.ndarray:
        """Fraction of the electrons that escape recombination, for each energy loss (MeV/cm, positive)."""
        density = dedx_mev_cm / (ARGON_DENSITY * self.field_kv_cm)
        if self.model == "birks":
            return 0.800 / (1 + 0.0486 * density)
        if self.model == "modified_box":
            # Fitted above 1.7 MeV/cm. Below its maximum, where x / (0.93 + x) = ln(0.93 + x), the form falls to zero:
            # keep the maximum instead.
            density = np.maximum(0.212 * density, 0.4668356674856)
            return np.log(0.93 + density) / density
        return np.ones_like(density)

    def visible_energy(self, energy_mev: np.ndarray, length_mm: np.ndarray) -> np.ndarray:
        """Visible energy of each step: its charge, calibrated with minimum-ionising particles.

        Args:
            energy_mev: (steps,), MeV.
            length_mm: (steps,), mm. A deposit without length keeps its energy, because its density is unknown.

        Returns:
            (steps,), MeV: E R(dE/dx) / R(2.1 MeV/cm).
        """
        if self.model == "none":
            return energy_mev
        known = (length_mm > 0) & (energy_mev > 0)
        dedx = np.divide(10 * energy_mev, length_mm, out=np.full(len(energy_mev), MIP_MEV_PER_CM), where=known)
        return energy_mev * self.survival(dedx) / self.survival(np.array([MIP_MEV_PER_CM]))


class SpaceCharge(Settings):
    """Displacement of charge by the field of slow positive ions (:mod:`nuvlm.detector.space_charge`)."""

    map: FilePath | None = None
    """HDF5 file of the displacements (docs/physics.md); null: none."""
    scale: Annotated[float, Field(allow_inf_nan=False)] = 1
    """Factor for all displacements of the map."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.map is None and self.scale != 1:
            raise ValueError("scale has no effect without a map: name the file of the map, or leave scale at 1")
        return self

    @property
    def has_effects(self) -> bool:
        """Whether any charge is displaced."""
        return self.map is not None and self.scale != 0


class Readout(Settings):
    """Effects on charge on its way to an anode and in the electronics, per voxel.

    A channel is a pixel of the anode, one voxel wide across the drift. A voxel is the charge of its channel during the
    time in which charge drifts by one voxel.
    """

    # Made when it is needed: jobs that import only Recombination do not depend on it.
    space_charge: SpaceCharge = Field(default_factory=SpaceCharge)
    electron_lifetime_us: Positive | None = None
    """Impurities capture electrons: exp(-t / lifetime) arrive after the drift time t. Null: all arrive."""
    drift_velocity_mm_us: Positive = 1.6
    """At 0.5 kV/cm and 87 K (W. Walkowiak, NIM A 449 (2000) 288)."""
    dead_channels: Annotated[float, Field(ge=0, lt=1)] = 0
    """Fraction of channels that are never read out, the same ones in all events."""
    noise_mev: NotNegative = 0
    """Standard deviation of Gaussian noise on each voxel with charge, MeV; other channels are not triggered."""
    threshold_mev: NotNegative = 0
    """A voxel with less energy, after noise, is not read out, MeV."""
    energy_scale: Positive = 1
    """Factor on all energy that was read out: an error of the calibration."""
    seed: Annotated[int, Field(ge=0)] = 7
    """Seed of the dead channels and, with the event's id, of the noise."""

    @property
    def has_effects(self) -> bool:
        """Whether any charge is changed."""
        return self.space_charge.has_effects or self.has_electronics

    @property
    def has_electronics(self) -> bool:
        """Whether the charge of a voxel is changed, where it is."""
        without = {"seed", "drift_velocity_mm_us", "space_charge"}
        return self.model_dump(exclude=without) != Readout().model_dump(exclude=without)


class Electronics:
    """Applies a :class:`Readout` to voxels, in the physical order: drift, noise, threshold, dead channels, calibration.

    It acts before diffusion, which moves charge by a tenth of a channel at most.

    Args:
        detector: geometry of the voxels.
        readout: what to apply.
    """

    def __init__(self, detector: Detector, readout: Readout) -> None:
        self._readout = readout
        self._drift = along = detector.drift
        middle = detector.origin_mm[along] + (np.arange(detector.shape[along]) + 0.5) * detector.voxel_mm[along]
        distance, _ = drift_distance_mm(detector, middle)
        time_us = distance / readout.drift_velocity_mm_us
        lifetime = readout.electron_lifetime_us
        self._arrives = np.ones(len(time_us)) if lifetime is None else np.exp(-time_us / lifetime)
        # A channel is on one face of an anode, that is in one drift volume.
        self._volume = np.searchsorted(np.sort([*detector.anodes_mm, *detector.cathodes_mm]), middle)
        across = tuple(n for axis, n in enumerate(detector.shape) if axis != along)
        shape = (int(self._volume.max()) + 1, *across)
        self._dead = np.random.default_rng(readout.seed).random(shape) < readout.dead_channels

    def __call__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        z: np.ndarray,
        energy_mev: np.ndarray,
        begins: np.ndarray,
        event_ids: np.ndarray,
    ) -> np.ndarray:
        """Energy (float32, MeV) that is read out of each voxel; 0 for one that is not.

        Args:
            x, y, z: (voxels,) index of each voxel, of several events one after the other.
            energy_mev: (voxels,).
            begins: (events + 1,), the first voxel of each event, and the end of the last one.
            event_ids: (events,); the noise of an event depends only on its id and the seed.
        """
        indices = [x, y, z]
        drift = indices.pop(self._drift)
        energy = energy_mev * self._arrives[drift]
        if self._readout.noise_mev:
            for begin, end, event in zip(begins[:-1], begins[1:], event_ids.tolist(), strict=True):
                rng = np.random.default_rng([self._readout.seed, event])
                energy[begin:end] += rng.normal(0, self._readout.noise_mev, end - begin)
        read_out = (energy >= self._readout.threshold_mev) & ~self._dead[self._volume[drift], *indices]
        return np.where(read_out, energy * self._readout.energy_scale, 0).astype(np.float32)
