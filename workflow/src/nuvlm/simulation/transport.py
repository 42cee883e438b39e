"""Particles through liquid argon, with GEANT4.

Importing this module sets GEANT4's data sets up and loads it, so it is imported where a simulation starts and
nowhere else. GEANT4 exists once in a process; so does :func:`argon_box`'s detector.
"""

import contextlib
import logging
import os
from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from nuvlm.detector import Detector
from nuvlm.simulation.final_states import Particle
from nuvlm.simulation.geant4_tables import provide_data

DATA = provide_data()
"""``"official"`` or ``"formula"``: the data sets that GEANT4 reads in this process."""

import geant4_pybind as g4  # noqa: E402  (it looks for its data sets when it is imported)

logger = logging.getLogger(__name__)

PRODUCTION_CUT_MM = 0.7
"""Range below which secondary electrons and photons are not produced but deposited at once."""


class Deposits(NamedTuple):
    """Energy deposits of one event, in the detector's coordinates."""

    start_mm: np.ndarray
    """(steps, 3)."""
    end_mm: np.ndarray
    """(steps, 3); equal to the start for what a neutral particle leaves where it interacts."""
    energy_mev: np.ndarray
    """(steps,)."""
    particle: np.ndarray
    """(steps,): which of the particles put in it descends from."""
    length_mm: np.ndarray
    """(particles,): path of the particle itself (not its descendants) in the detector."""
    leaves: np.ndarray
    """(particles,): whether the particle itself leaves the detector."""


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
            self._geometry, self._physics = _Geometry(half), _PhysicsList()
            self._manager.SetUserInitialization(self._geometry)
            self._manager.SetUserInitialization(self._physics)
            self._gun, self._recorder = _Gun(), _Recorder()
            self._tracker = _Tracker(self._recorder)
            for action in (self._gun, self._recorder, self._tracker):
                self._manager.SetUserAction(action)
            self._manager.Initialize()
            self._manager.BeamOn(0)  # builds the physics tables, and prints about them

    def transport(self, vertex_mm: np.ndarray, particles: Sequence[Particle], rng: np.random.Generator) -> Deposits:
        """Follow `particles` from `vertex_mm` (3,) and all that they produce.

        GEANT4's engine is seeded from `rng`, so the result depends on nothing that went before.
        """
        # The engine takes 64 bits, as a list that ends with a zero.
        g4.G4Random.setTheSeeds([*rng.integers(1, 2**32, 2).tolist(), 0])
        self._gun.load(vertex_mm - self._centre, particles)
        self._tracker.begin(len(particles))
        self._recorder.steps = array("d")
        self._manager.BeamOn(1)
        # (steps, 8): start, end, energy, particle
        steps = np.array(self._recorder.steps).reshape(-1, 8)
        return Deposits(
            steps[:, 0:3] + self._centre,
            steps[:, 3:6] + self._centre,
            steps[:, 6],
            steps[:, 7].astype(np.int64),
            np.array(self._tracker.length_mm),
            np.array(self._tracker.leaves, dtype=bool),
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
    def __init__(self, half_mm: Sequence[float]) -> None:
        super().__init__()
        self._half_mm = half_mm

    def Construct(self) -> object:
        argon = g4.G4NistManager.Instance().FindOrBuildMaterial("G4_lAr")
        self._box = g4.G4Box("argon", *self._half_mm)
        self._volume = g4.G4LogicalVolume(self._box, argon, "argon")
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
        ):
            self.RegisterPhysics(constructor())


class _Gun(g4.G4VUserPrimaryGeneratorAction):
    """Puts the particles of an event in."""

    def __init__(self) -> None:
        super().__init__()
        self._gun = g4.G4ParticleGun(1)
        self._table = g4.G4ParticleTable.GetParticleTable()
        self._particles: Sequence[Particle] = ()

    def load(self, vertex_mm: np.ndarray, particles: Sequence[Particle]) -> None:
        self._particles = particles
        self._gun.SetParticlePosition(g4.G4ThreeVector(*vertex_mm.tolist()))

    def GeneratePrimaries(self, event: object) -> None:
        for particle in self._particles:
            self._gun.SetParticleDefinition(self._table.FindParticle(particle.pdg))
            self._gun.SetParticleMomentumDirection(g4.G4ThreeVector(particle.px, particle.py, particle.pz))
            self._gun.SetParticleEnergy(particle.kinetic)
            self._gun.GeneratePrimaryVertex(event)


class _Recorder(g4.G4UserSteppingAction):
    """Keeps the steps that deposit energy. It is called some thousand times an event: keep it short."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = array("d")
        self.particle = 0
        self.charged = True

    def UserSteppingAction(self, step: "g4.G4Step") -> None:
        energy = step.GetTotalEnergyDeposit()
        if energy == 0.0:
            return
        end = step.GetPostStepPoint().GetPosition()
        x, y, z = end.x, end.y, end.z
        if self.charged:
            start = step.GetPreStepPoint().GetPosition()
            self.steps.extend((start.x, start.y, start.z, x, y, z, energy, self.particle))
        else:
            self.steps.extend((x, y, z, x, y, z, energy, self.particle))


class _Tracker(g4.G4UserTrackingAction):
    """Knows which particle of the event each track descends from."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self._recorder = recorder
        self.begin(0)

    def begin(self, n_particles: int) -> None:
        # GEANT4 numbers the particles put in from 1, in their order, and everything else after them.
        self._particle = {0: 0}
        self._particle.update({track: track - 1 for track in range(1, n_particles + 1)})
        self._n = n_particles
        self.length_mm = [0.0] * n_particles
        self.leaves = [False] * n_particles

    def PreUserTrackingAction(self, track: "g4.G4Track") -> None:
        number = track.GetTrackID()
        if number > self._n:
            self._particle[number] = self._particle[track.GetParentID()]
        self._recorder.particle = self._particle[number]
        self._recorder.charged = track.GetDynamicParticle().GetCharge() != 0.0

    def PostUserTrackingAction(self, track: "g4.G4Track") -> None:
        number = track.GetTrackID()
        if number <= self._n:
            self.length_mm[number - 1] = track.GetTrackLength()
            self.leaves[number - 1] = (
                track.GetStep().GetPostStepPoint().GetStepStatus() == g4.G4StepStatus.fWorldBoundary
            )


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
