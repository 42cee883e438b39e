"""The steps and tracks of a GEANT4 event, as arrays.

Where GEANT4 calls Python at every step, and Python asks for each quantity, that takes three quarters of the time of an
event (benchmarks/simulation.py). :class:`PlainRecorder` does it and is the reference. :class:`Recorder` has the steps
written by compiled functions.
"""

import logging
import os
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np

from nuvlm.simulation.native_actions import STEP_DTYPE, TRACK_DTYPE, NativeRecord
from nuvlm.simulation.toolkit import g4

logger = logging.getLogger(__name__)

LAYOUT_OF = "0.1.3"
"""The version of geant4-pybind, hence of GEANT4, whose memory layout :mod:`nuvlm.simulation.native_actions` knows."""


class Recorded(NamedTuple):
    """One event. Steps are in the order of `tracks`, parents before their children."""

    steps: np.ndarray
    """(steps,) of :data:`STEP_DTYPE`."""
    tracks: np.ndarray
    """(tracks,) of :data:`TRACK_DTYPE`, with the number of steps of each."""


class _TrackRecorder(g4.G4UserTrackingAction):
    """Records the step after which each track ends: cheaper than reading the track at every step."""

    def __init__(self, recorder: "PlainRecorder") -> None:
        super().__init__()
        self._recorder = recorder

    def PostUserTrackingAction(self, track: "g4.G4Track") -> None:
        self._recorder.end_track(track)


class PlainRecorder(g4.G4UserSteppingAction):
    """Reads every quantity of every step from GEANT4: slow and obvious."""

    def __init__(self) -> None:
        super().__init__()
        self.tracking = _TrackRecorder(self)
        self.begin()

    def begin(self) -> None:
        """Discard the previous event."""
        self._rows: list[tuple[Any, ...]] = []
        self._track_rows: list[tuple[int, int, int]] = []

    def UserSteppingAction(self, step: "g4.G4Step") -> None:
        self._rows.append(_ask(step))

    def end_track(self, track: "g4.G4Track") -> None:
        self._track_rows.append((track.GetTrackID(), track.GetParentID(), len(self._rows)))

    def fits(self) -> bool:
        """Whether all of the event is recorded; otherwise it has to be simulated again."""
        return True

    def end(self) -> Recorded:
        """The event since :meth:`begin`."""
        return _recorded(np.array(self._rows, dtype=STEP_DTYPE), np.array(self._track_rows, dtype=TRACK_DTYPE))


class Recorder(PlainRecorder):
    """Has the steps written by compiled functions.

    The first event is recorded in both ways. If they differ, or the bindings have another version, steps are read like
    in :class:`PlainRecorder`.
    """

    _native: NativeRecord | None = None

    def __init__(self) -> None:
        super().__init__()
        known = os.name == "posix" and version("geant4-pybind") == LAYOUT_OF
        if known:
            self._native = NativeRecord(self, self.tracking)
        self._compared = False

    def begin(self) -> None:
        super().begin()
        if self._native:
            self._native.begin()

    def UserSteppingAction(self, step: "g4.G4Step") -> None:
        super().UserSteppingAction(step)
        if self._native:
            self._native.add_step(step)

    def end_track(self, track: "g4.G4Track") -> None:
        super().end_track(track)
        if self._native:
            self._native.add_track(track)

    def fits(self) -> bool:
        return self._native is None or self._native.fits()

    def end(self) -> Recorded:
        if self._native is None:
            return super().end()
        native = _recorded(*self._native.arrays())
        if not self._compared and len(native.steps):
            plain = super().end()
            if not all(np.array_equal(*pair) for pair in zip(plain, native, strict=True)):
                logger.warning("unexpected memory layout of GEANT4 steps: reading them slowly")
                self._native = None
                return plain
            self._native.install()
            self._compared = True
        return native


def _recorded(steps: np.ndarray, tracks: np.ndarray) -> Recorded:
    """The event; of each track, `tracks` has the number of steps up to its end."""
    tracks["steps"] = np.diff(tracks["steps"], prepend=0)
    return Recorded(steps, tracks)


def _ask(step: "g4.G4Step") -> tuple[Any, ...]:
    """One element of :data:`STEP_DTYPE`."""
    points = []
    for point in (step.GetPreStepPoint(), step.GetPostStepPoint()):
        position = point.GetPosition()
        where = position.x, position.y, position.z
        points.append((where, point.GetKineticEnergy(), point.GetMass(), point.GetCharge(), int(point.GetStepStatus())))
    return *points, step.GetTotalEnergyDeposit(), step.GetStepLength()
