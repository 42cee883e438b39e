"""The steps and tracks of a GEANT4 event, as arrays.

GEANT4 calls Python at every step. The bindings have no call that returns a whole step, and each quantity costs 100 to
500 ns, which took three quarters of the time of an event (benchmarks/simulation.py). :class:`PlainRecorder` reads the
quantities one by one and is the reference. :class:`Recorder` copies the step from memory: GEANT4 keeps one G4Step with
its two points for the lifetime of the process.
"""

import ctypes
import io
import logging
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np

from nuvlm.simulation.toolkit import g4

logger = logging.getLogger(__name__)

LAYOUT_OF = "0.1.3"
"""The version of geant4-pybind, hence of GEANT4, whose G4StepPoint and G4Step the next two types describe."""

# Only the fields used are named. Units are GEANT4's: mm, MeV, charge of the positron.
_POINT = np.dtype(
    {
        "names": ["position", "kinetic", "status", "mass", "charge"],
        "formats": [("f8", 3), "f8", "i4", "f8", "f8"],
        "offsets": [0, 72, 152, 168, 176],
        "itemsize": 200,
    }
)
_STEP = np.dtype({"names": ["energy", "length"], "formats": ["f8", "f8"], "offsets": [0, 32], "itemsize": 40})
STEP_DTYPE = np.dtype([("pre", _POINT), ("post", _POINT), ("step", _STEP)])
"""A step: the points before and after it; its energy deposit and true length."""
TRACK_DTYPE = np.dtype([("track", "i8"), ("parent", "i8"), ("steps", "i8")])
"""A track: its number, its parent's number (0: primary), and its number of steps."""


class Recorded(NamedTuple):
    """One event. Steps are in the order of `tracks`, parents before their children."""

    steps: np.ndarray
    """(steps,) of :data:`STEP_DTYPE`."""
    tracks: np.ndarray
    """(tracks,) of :data:`TRACK_DTYPE`."""


class _TrackRecorder(g4.G4UserTrackingAction):
    """Records the step after which each track ends: cheaper than reading the track at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, int, int]] = []
        self.position: Callable[[], int] = lambda: 0

    def PostUserTrackingAction(self, track: "g4.G4Track") -> None:
        self.rows.append((track.GetTrackID(), track.GetParentID(), self.position()))


class PlainRecorder(g4.G4UserSteppingAction):
    """Reads every quantity of every step from GEANT4: slow and obvious."""

    def __init__(self) -> None:
        super().__init__()
        self.tracking = _TrackRecorder()
        self._plain: list[tuple[Any, ...]] = []

    def begin(self) -> None:
        """Discard the previous event."""
        self._plain = []
        self.tracking.rows = []
        self.tracking.position = self._plain.__len__

    def UserSteppingAction(self, step: "g4.G4Step") -> None:
        self._plain.append(_ask(step))

    def end(self) -> Recorded:
        """The event since :meth:`begin`."""
        return Recorded(np.array(self._plain, dtype=STEP_DTYPE), _tracks(self.tracking.rows, 1))


class Recorder(PlainRecorder):
    """Copies every step from memory.

    The first step of every event is compared with GEANT4's answers. If they differ, or the bindings have another
    version, steps are read like in :class:`PlainRecorder`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._copies = version("geant4-pybind") == LAYOUT_OF
        self._buffer = io.BytesIO()

    def begin(self) -> None:
        super().begin()
        if self._copies:
            self._buffer = io.BytesIO()
            self.tracking.position = self._buffer.tell
            # An instance attribute instead of a method saves a look-up per step.
            self.UserSteppingAction = self._first_step  # type: ignore[method-assign]

    def _first_step(self, step: "g4.G4Step") -> None:
        # Kept alive so that the bindings return the same wrappers.
        self._wrappers = step, step.GetPreStepPoint(), step.GetPostStepPoint()
        own, pre, post = map(_memory, self._wrappers, (_STEP, _POINT, _POINT))
        write = self._buffer.write

        def copy(_: "g4.G4Step") -> None:
            write(pre)
            write(post)
            write(own)

        read: Callable[[g4.G4Step], None] = copy
        read(step)
        if np.frombuffer(self._buffer.getvalue(), dtype=STEP_DTYPE) != np.array([_ask(step)], dtype=STEP_DTYPE):
            logger.warning("unexpected memory layout of GEANT4 steps: reading them slowly")
            self._copies = False
            super().begin()
            read = super().UserSteppingAction
            read(step)
        self.UserSteppingAction = read  # type: ignore[method-assign, assignment]

    def end(self) -> Recorded:
        if not self._copies:
            return super().end()
        steps = np.frombuffer(self._buffer.getbuffer(), dtype=STEP_DTYPE)
        return Recorded(steps, _tracks(self.tracking.rows, STEP_DTYPE.itemsize))


def _ask(step: "g4.G4Step") -> tuple[Any, ...]:
    """One element of :data:`STEP_DTYPE`."""
    points = []
    for point in (step.GetPreStepPoint(), step.GetPostStepPoint()):
        position = point.GetPosition()
        where = position.x, position.y, position.z
        points.append((where, point.GetKineticEnergy(), int(point.GetStepStatus()), point.GetMass(), point.GetCharge()))
    return *points, (step.GetTotalEnergyDeposit(), step.GetStepLength())


def _memory(wrapper: object, dtype: np.dtype) -> memoryview:
    """The first bytes of the C++ object behind an object of the bindings."""
    # pybind11 instance: after the Python object header, a pointer to the pointer to the C++ object.
    pointer = ctypes.POINTER(ctypes.c_void_p).from_address(id(wrapper) + object.__basicsize__)
    return memoryview((ctypes.c_char * dtype.itemsize).from_address(pointer.contents.value or 0)).cast("B")


def _tracks(rows: list[tuple[int, int, int]], unit: int) -> np.ndarray:
    """Rows of (track, parent, position after its last step, in `unit` a step) -> (tracks,) of TRACK_DTYPE."""
    table = np.array(rows, dtype=np.int64).reshape(-1, 3)
    tracks = np.empty(len(table), dtype=TRACK_DTYPE)
    tracks["track"], tracks["parent"] = table[:, 0], table[:, 1]
    tracks["steps"] = np.diff(table[:, 2] // unit, prepend=0)
    return tracks
