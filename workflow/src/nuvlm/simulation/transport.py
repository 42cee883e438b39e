"""Transport of particles in liquid argon with GEANT4.

Importing this module loads GEANT4. A process can have one GEANT4 and one detector (:func:`argon_box`).
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

MATERIAL = "G4_lAr"
PRODUCTION_CUT_MM = 0.7
"""Production cut: secondaries of shorter range are deposited locally."""
LIGHT_NUCLEI = frozenset({1000010020, 1000010030, 1000020030, 1000020040})
"""Deuteron, triton, 3He and alpha: they lose energy by ionisation until they stop. Their nuclear reactions are not
simulated. Heavier nuclei stop within micrometres; they are left out and counted."""
MASS_TOLERANCE_MEV = 0.01
"""Tolerance for identifying electrons and photons by mass."""


class Deposits(NamedTuple):
    """Energy deposits of one event in detector coordinates, and quantities of its primary particles."""

    start_mm: np.ndarray
    """(steps, 3)."""
    end_mm: np.ndarray
    """(steps, 3); equal to the start for deposits of neutral particles."""
    energy_mev: np.ndarray
    """(steps,), positive."""
    particle: np.ndarray
    """(steps,): index of the primary particle that it descends from."""
    electromagnetic: np.ndarray
    """(steps,): whether an electron, a positron or a photon deposits it."""
    length_mm: np.ndarray
    """(particles,): path of the particle itself (not its descendants) in the detector."""
    leaves: np.ndarray
    """(particles,): whether the particle itself leaves the detector."""
    photon_gap_mm: np.ndarray
    """(particles,): distance from the vertex to the nearest first interaction of a photon (Compton scattering, pair
    production, absorption). The photon is the particle or descends from it, and its parent is no electron, positron or
    photon. NaN without one, as for every electron."""
    conversion_mm: np.ndarray
    """(particles, 3): where that interaction is; NaN without one."""


class ArgonBox:
    """The active volume, filled with ``G4_lAr``; particles that leave it are not tracked."""

    def __init__(self, detector: Detector) -> None:
        self._centre = np.array([(low + high) / 2 for low, high in detector.box_mm])
        half = [(high - low) / 2 for low, high in detector.box_mm]
        with _quiet():
            self._manager = g4.G4RunManagerFactory.CreateRunManager(g4.G4RunManagerType.SerialOnly)
            g4.G4EmParameters.Instance().SetVerbose(0)
            g4.G4HadronicParameters.Instance().SetVerboseLevel(0)
            # GEANT4 keeps raw pointers, so these objects must live as long as the box. It requires geometry and
            # physics before user actions.
            self._geometry, self._physics = _Geometry(half, max(detector.voxel_mm)), _PhysicsList()
            self._manager.SetUserInitialization(self._geometry)
            self._manager.SetUserInitialization(self._physics)
            self._gun = _Gun()
            self._manager.SetUserAction(self._gun)
            self.record_with(Recorder())
            self._manager.Initialize()
            self._manager.BeamOn(0)  # builds and prints the physics tables

    def record_with(self, recorder: PlainRecorder) -> None:
        """Read steps with `recorder` from now on. All recorders give the same result, at different speeds."""
        self._recorder = recorder
        self._manager.SetUserAction(recorder)
        self._manager.SetUserAction(recorder.tracking)

    def knows(self, pdg: int) -> bool:
        """Whether GEANT4 can track a particle: not nuclei above 4He and generator pseudo-particles."""
        definition = self._gun.find(pdg)
        return definition is not None and (definition.GetParticleType() != "nucleus" or pdg in LIGHT_NUCLEI)

    def transport(self, vertex_mm: np.ndarray, particles: Sequence[Particle], rng: np.random.Generator) -> Deposits:
        """Transport `particles` from `vertex_mm` (3,), with all secondaries.

        GEANT4's random engine is seeded from `rng`, so the result is independent of earlier events. All particles share
        its random numbers: without one of them, the others would deposit differently.
        """
        # Neutrinos deposit nothing and are not tracked.
        tracked = np.array([abs(particle.pdg) not in NEUTRINOS for particle in particles], dtype=bool)
        followed = [particle for particle, follow in zip(particles, tracked, strict=True) if follow]
        return _deposits(self.record(vertex_mm, followed, rng), self._centre, vertex_mm, tracked)

    def record(self, vertex_mm: np.ndarray, particles: Sequence[Particle], rng: np.random.Generator) -> Recorded:
        """Like :meth:`transport`, returning steps and tracks, with positions relative to the centre of the box."""
        # The engine takes 64 bits, as a list that ends with a zero.
        seeds = [*rng.integers(1, 2**32, 2).tolist(), 0]
        self._gun.load(vertex_mm - self._centre, particles)
        while True:
            g4.G4Random.setTheSeeds(seeds)
            self._recorder.begin()
            self._manager.BeamOn(1)
            if self._recorder.fits():
                return self._recorder.end()


def _deposits(recorded: Recorded, centre_mm: np.ndarray, vertex_mm: np.ndarray, tracked: np.ndarray) -> Deposits:
    """Deposits from the steps and tracks of an event; `tracked` (particles,) marks those that were transported."""
    steps, tracks = recorded
    n = len(tracked)
    # GEANT4 numbers the primary particles from 1 in order, and secondaries after them.
    particle_of = dict(enumerate(np.flatnonzero(tracked).tolist(), start=1))
    n_tracked = len(particle_of)
    for number, parent in tracks[["track", "parent"]].tolist():
        if parent:
            particle_of[number] = particle_of[parent]
    # (steps,): the row of each step's track in `tracks`
    row = np.repeat(np.arange(len(tracks)), tracks["steps"])
    particle = np.array([particle_of[number] for number in tracks["track"].tolist()], dtype=np.int64)[row]
    pre, post = steps["pre"], steps["post"]
    # Charge and mass before the step are those of the track. Decay photons have a mass of some eV, by rounding.
    charged = pre["charge"] != 0
    photon = ~charged & (pre["mass"] < MASS_TOLERANCE_MEV)
    electromagnetic = photon | (charged & (np.abs(pre["mass"] - MASS_MEV[ELECTRON]) < MASS_TOLERANCE_MEV))
    end = post["position"] + centre_mm
    start = np.where(charged[:, None], pre["position"] + centre_mm, end)

    primary = tracks["track"][row] <= n_tracked
    length = np.bincount(particle[primary], weights=steps["length"][primary], minlength=n)
    leaves = np.zeros(n, dtype=bool)
    leaves[particle[primary & (post["status"] == int(g4.G4StepStatus.fWorldBoundary))]] = True

    # A photon starts a shower if its parent is no electron, positron or photon.
    in_shower = np.zeros(int(tracks["track"].max(initial=0)) + 1, dtype=bool)
    in_shower[tracks["track"][row[electromagnetic]]] = True
    begins = photon & ~in_shower[tracks["parent"][row]]
    # Decay neutrinos are massless too but never interact; coherent scattering does not change the energy.
    interacts = begins & (post["status"] == int(g4.G4StepStatus.fPostStepDoItProc)) & (post["kinetic"] < pre["kinetic"])
    _, first = np.unique(row[interacts], return_index=True)
    converts = np.flatnonzero(interacts)[first]
    # The nearest of a particle is the last one that is assigned.
    converts = converts[np.argsort(-np.linalg.norm(end[converts] - vertex_mm, axis=1), kind="stable")]
    conversion = np.full((n, 3), np.nan)
    conversion[particle[converts]] = end[converts]

    kept = steps["energy"] > 0
    return Deposits(
        start[kept],
        end[kept],
        steps["energy"][kept],
        particle[kept],
        electromagnetic[kept],
        length,
        leaves,
        np.linalg.norm(conversion - vertex_mm, axis=1),
        conversion,
    )


_boxes: dict[Detector, ArgonBox] = {}
"""The only box of the process, once created."""


def argon_box(detector: Detector) -> ArgonBox:
    """The :class:`ArgonBox` of the process, created on first use.

    Raises:
        RuntimeError: another detector than before.
    """
    if _boxes and detector not in _boxes:
        raise RuntimeError("GEANT4 already has another detector; a process can have only one")
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
        # GEANT4 samples one energy loss per step: steps longer than a voxel would smooth the fluctuations.
        self._limits = g4.G4UserLimits(step_mm)

    def Construct(self) -> object:
        argon = g4.G4NistManager.Instance().FindOrBuildMaterial(MATERIAL)
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
    """Generates the primary particles of an event."""

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
    """Discard what C++ prints to standard output. Errors go to standard error and stay visible."""
    saved = os.dup(1)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    try:
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
