"""Particles through liquid argon, with GEANT4.

Importing this module loads GEANT4, which exists once in a process; so does :func:`argon_box`'s detector.
"""

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from nuvlm.detector.geometry import Detector
from nuvlm.simulation.final_states import ELECTRON, MASS_MEV, Particle
from nuvlm.simulation.recorder import PlainRecorder, Recorded, Recorder
from nuvlm.simulation.stdhep import NEUTRINOS
from nuvlm.simulation.toolkit import g4

logger = logging.getLogger(__name__)

PRODUCTION_CUT_MM = 0.7
"""Range below which secondary electrons and photons are not produced but deposited at once."""
MASS_TOLERANCE_MEV = 0.01
"""For telling electrons and photons by their mass."""


class Deposits(NamedTuple):
    """Energy deposits of one event, in the detector's coordinates, and what each of its particles does."""

    start_mm: np.ndarray
    """(steps, 3)."""
    end_mm: np.ndarray
    """(steps, 3); equal to the start for what a neutral particle leaves where it interacts."""
    energy_mev: np.ndarray
    """(steps,), positive."""
    particle: np.ndarray
    """(steps,): which of the particles put in it descends from."""
    electromagnetic: np.ndarray
    """(steps,): whether an electron, a positron or a photon leaves it."""
    length_mm: np.ndarray
    """(particles,): path of the particle itself (not its descendants) in the detector."""
    leaves: np.ndarray
    """(particles,): whether the particle itself leaves the detector."""
    photon_gap_mm: np.ndarray
    """(particles,): from the vertex to the nearest point at which a photon begins a shower: its first interaction
    (Compton scattering, a pair, absorption). The photon is the particle or descends from it, and does not come from an
    electron, a positron or another photon; NaN where there is none, as for every electron."""


class ArgonBox:
    """The active volume, filled with ``G4_lAr``; what leaves it is gone."""

    def __init__(self, detector: Detector) -> None:
        self._centre = np.array([(low + high) / 2 for low, high in detector.box_mm])
        half = [(high - low) / 2 for low, high in detector.box_mm]
        with _quiet():
            self._manager = g4.G4RunManagerFactory.CreateRunManager(g4.G4RunManagerType.SerialOnly)
            g4.G4EmParameters.Instance().SetVerbose(0)
            g4.G4HadronicParameters.Instance().SetVerboseLevel(0)
            # GEANT4 keeps plain pointers to what it is given: all of it must live as long as the box. It insists
            # on geometry and physics before the user actions are made.
            self._geometry, self._physics = _Geometry(half, max(detector.voxel_mm)), _PhysicsList()
            self._manager.SetUserInitialization(self._geometry)
            self._manager.SetUserInitialization(self._physics)
            self._gun = _Gun()
            self._manager.SetUserAction(self._gun)
            self.record_with(Recorder())
            self._manager.Initialize()
            self._manager.BeamOn(0)  # builds the physics tables, and prints about them

    def record_with(self, recorder: PlainRecorder) -> None:
        """Read steps with `recorder` from now on: all of them give the same, at different speeds."""
        self._recorder = recorder
        self._manager.SetUserAction(recorder)
        self._manager.SetUserAction(recorder.tracking)

    def knows(self, pdg: int) -> bool:
        """Whether GEANT4 can follow a particle: it does not know nuclei and generators' pseudo-particles by number."""
        definition = self._gun.find(pdg)
        return definition is not None and definition.GetParticleType() != "nucleus"

    def transport(self, vertex_mm: np.ndarray, particles: Sequence[Particle], rng: np.random.Generator) -> Deposits:
        """Follow `particles` from `vertex_mm` (3,) and all that they produce.

        GEANT4's engine is seeded from `rng`, so the result depends on nothing that went before.
        """
        # Neutrinos leave nothing and are not worth a track.
        tracked = np.array([abs(particle.pdg) not in NEUTRINOS for particle in particles], dtype=bool)
        followed = [particle for particle, follow in zip(particles, tracked, strict=True) if follow]
        return _deposits(self.record(vertex_mm, followed, rng), self._centre, vertex_mm, tracked)

    def record(self, vertex_mm: np.ndarray, particles: Sequence[Particle], rng: np.random.Generator) -> Recorded:
        """The same, as GEANT4's steps and tracks (their positions in its own coordinates, from the box's centre)."""
        # The engine takes 64 bits, as a list that ends with a zero.
        g4.G4Random.setTheSeeds([*rng.integers(1, 2**32, 2).tolist(), 0])
        self._gun.load(vertex_mm - self._centre, particles)
        self._recorder.begin()
        self._manager.BeamOn(1)
        return self._recorder.end()


def _deposits(recorded: Recorded, centre_mm: np.ndarray, vertex_mm: np.ndarray, tracked: np.ndarray) -> Deposits:
    """What an event's steps and tracks say about the particles put in, of which those `tracked` were followed."""
    steps, tracks = recorded
    n = len(tracked)
    # GEANT4 numbers the particles put in from 1, in their order, and everything else after them.
    particle_of = dict(enumerate(np.flatnonzero(tracked).tolist(), start=1))
    n_tracked = len(particle_of)
    for number, parent in tracks[["track", "parent"]].tolist():
        if parent:
            particle_of[number] = particle_of[parent]
    # (steps,): the row of each step's track in `tracks`
    row = np.repeat(np.arange(len(tracks)), tracks["steps"])
    particle = np.array([particle_of[number] for number in tracks["track"].tolist()], dtype=np.int64)[row]
    pre, post = steps["pre"], steps["post"]
    # The charge and mass before the step are the track's own. Photons of decays have a mass of some eV, by rounding.
    charged = pre["charge"] != 0
    photon = ~charged & (pre["mass"] < MASS_TOLERANCE_MEV)
    electromagnetic = photon | (charged & (np.abs(pre["mass"] - MASS_MEV[ELECTRON]) < MASS_TOLERANCE_MEV))
    end = post["position"] + centre_mm
    start = np.where(charged[:, None], pre["position"] + centre_mm, end)

    own = tracks["track"][row] <= n_tracked
    length = np.bincount(particle[own], weights=steps["step"]["length"][own], minlength=n)
    leaves = np.zeros(n, dtype=bool)
    leaves[particle[own & (post["status"] == int(g4.G4StepStatus.fWorldBoundary))]] = True

    # A photon begins a shower if no electron, positron or photon made it.
    in_shower = np.zeros(int(tracks["track"].max(initial=0)) + 1, dtype=bool)
    in_shower[tracks["track"][row[electromagnetic]]] = True
    begins = photon & ~in_shower[tracks["parent"][row]]
    # Neutrinos of decays are without mass too, and never interact; coherent scattering changes no energy.
    interacts = begins & (post["status"] == int(g4.G4StepStatus.fPostStepDoItProc)) & (post["kinetic"] < pre["kinetic"])
    _, first = np.unique(row[interacts], return_index=True)
    converts = np.flatnonzero(interacts)[first]
    gap = np.full(n, np.inf)
    np.minimum.at(gap, particle[converts], np.linalg.norm(end[converts] - vertex_mm, axis=1))

    kept = steps["step"]["energy"] > 0
    return Deposits(
        start[kept],
        end[kept],
        steps["step"]["energy"][kept],
        particle[kept],
        electromagnetic[kept],
        length,
        leaves,
        np.where(np.isfinite(gap), gap, np.nan),
    )


_boxes: dict[Detector, ArgonBox] = {}
"""The one box, once it is made."""


def argon_box(detector: Detector) -> ArgonBox:
    """The process's :class:`ArgonBox`, made when first asked for.

    Raises:
        RuntimeError: for another detector than before.
    """
    if _boxes and detector not in _boxes:
        raise RuntimeError("GEANT4 already has another detector: one a process")
    if not _boxes:
        _boxes[detector] = ArgonBox(detector)
        logger.info(
            "%s, physics FTFP_BERT with EM option 1, cut %g mm",
            g4.G4RunManager.GetRunManager().GetVersionString().strip(),
            PRODUCTION_CUT_MM,
        )
    return _boxes[detector]


class _Geometry(g4.G4VUserDetectorConstruction):
    def __init__(self, half_mm: Sequence[float], step_mm: float) -> None:
        super().__init__()
        self._half_mm = half_mm
        # GEANT4 draws the energy loss of a step as a whole: steps longer than a voxel would even out what it shows.
        self._limits = g4.G4UserLimits(step_mm)

    def Construct(self) -> object:
        argon = g4.G4NistManager.Instance().FindOrBuildMaterial("G4_lAr")
        self._box = g4.G4Box("argon", *self._half_mm)
        self._volume = g4.G4LogicalVolume(self._box, argon, "argon")
        self._volume.SetUserLimits(self._limits)
        self._world = g4.G4PVPlacement(None, g4.G4ThreeVector(), self._volume, "argon", None, False, 0)
        return self._world


class _PhysicsList(g4.G4VModularPhysicsList):
    """FTFP_BERT with the fast electromagnetic option, without photo- and muon-nuclear reactions and ion inelastics."""

    def __init__(self) -> None:
        super().__init__()
        self.SetVerboseLevel(0)
        self.SetDefaultCutValue(PRODUCTION_CUT_MM)
        for constructor in (
            g4.G4EmStandardPhysics_option1,
            g4.G4DecayPhysics,
            g4.G4HadronElasticPhysics,
            g4.G4HadronPhysicsFTFP_BERT,
            g4.G4StoppingPhysics,
            g4.G4NeutronTrackingCut,
            g4.G4StepLimiterPhysics,
        ):
            self.RegisterPhysics(constructor())


class _Gun(g4.G4VUserPrimaryGeneratorAction):
    """Puts the particles of an event in."""

    def __init__(self) -> None:
        super().__init__()
        self._gun = g4.G4ParticleGun(1)
        self._table = g4.G4ParticleTable.GetParticleTable()
        self._particles: Sequence[Particle] = ()

    def find(self, pdg: int) -> "g4.G4ParticleDefinition | None":
        return self._table.FindParticle(pdg)

    def load(self, vertex_mm: np.ndarray, particles: Sequence[Particle]) -> None:
        self._particles = particles
        self._gun.SetParticlePosition(g4.G4ThreeVector(*vertex_mm.tolist()))

    def GeneratePrimaries(self, event: object) -> None:
        for particle in self._particles:
            self._gun.SetParticleDefinition(self.find(particle.pdg))
            self._gun.SetParticleMomentumDirection(g4.G4ThreeVector(particle.px, particle.py, particle.pz))
            # GENIE's masses may be a little larger than GEANT4's.
            self._gun.SetParticleEnergy(max(particle.kinetic, 0.0))
            self._gun.GeneratePrimaryVertex(event)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what C++ prints to standard output away; errors go to standard error and are still seen."""
    saved = os.dup(1)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    try:
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
