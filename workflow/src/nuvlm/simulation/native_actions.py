"""GEANT4's user actions as compiled functions, so that it need not call Python at every step.

The bindings let a Python class override a virtual function of GEANT4: C++ finds the override in the object's table of
virtual functions. :class:`NativeRecord` gives the two objects that record an event a copy of their table, in which that
entry leads to a function that numba has compiled. It needs no C++ compiler and no headers of GEANT4, but the memory
layout of its classes and the Itanium C++ ABI, which all platforms but Windows use.
:class:`nuvlm.simulation.recorder.Recorder` decides whether it can be used.
"""

import ctypes
from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from nuvlm.base.kernels import cached_cfunc

# Where the fields lie in memory: of G4StepPoint and G4Step in words of 8 bytes, of G4Track in words of 4.
POSITION, KINETIC, STATUS, MASS, CHARGE = 0, 9, 19, 21, 22
DEPOSIT, LENGTH = 0, 4
PARENT_NUMBER, TRACK_NUMBER = 65, 66
# Places of the overridden functions in the tables of G4UserSteppingAction and G4UserTrackingAction, and their lengths.
STEPPING_ACTION, STEPPING_FUNCTIONS = 3, 4
POST_TRACKING_ACTION, TRACKING_FUNCTIONS = 4, 5

_POINT = np.dtype([("position", "f8", 3), ("kinetic", "f8"), ("mass", "f8"), ("charge", "f8"), ("status", "i8")])
STEP_DTYPE = np.dtype([("pre", _POINT), ("post", _POINT), ("energy", "f8"), ("length", "f8")])
"""A step: the points before and after it; its energy deposit and true length. Units are GEANT4's: mm, MeV, charge of
the positron."""
TRACK_DTYPE = np.dtype([("track", "i8"), ("parent", "i8"), ("steps", "i8")])
"""A track: its number, its parent's number (0: primary), and the number of steps up to its last one."""

# What the compiled functions write to: (words) of int64. The address of these words precedes each table.
STEPS, STEP_CAPACITY, STEP_ROWS, TRACKS, TRACK_CAPACITY, TRACK_ROWS, PRE, POST = range(8)
BEFORE_TABLE = 3
"""Words before the first function: the address of the words above, the offset to the top of the object, its type."""

_STEP_BYTES, _TRACK_BYTES, _POINT_WORDS = STEP_DTYPE.itemsize, TRACK_DTYPE.itemsize, _POINT.itemsize // 8
_WORDS = types.CPointer(types.int64)


@intrinsic  # type: ignore[untyped-decorator]
def _words(context: Any, address: Any) -> Any:
    """The memory at an address, as words."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return _WORDS(types.int64), generate


@cached_cfunc(types.void(_WORDS, _WORDS))
def _copy_step(action, step):  # type: ignore[no-untyped-def]
    """G4UserSteppingAction::UserSteppingAction."""
    state = _words(_words(action[0])[-BEFORE_TABLE])
    n = state[STEPS]
    state[STEPS] = n + 1
    if n >= state[STEP_CAPACITY]:
        return
    row = _words(state[STEP_ROWS] + n * _STEP_BYTES)
    for i in range(2):
        point, at = _words(state[PRE + i]), i * _POINT_WORDS
        for axis in range(3):
            row[at + axis] = point[POSITION + axis]
        row[at + 3] = point[KINETIC]
        row[at + 4] = point[MASS]
        row[at + 5] = point[CHARGE]
        row[at + 6] = point[STATUS] & 0xFFFFFFFF
    row[2 * _POINT_WORDS] = step[DEPOSIT]
    row[2 * _POINT_WORDS + 1] = step[LENGTH]


@cached_cfunc(types.void(_WORDS, types.CPointer(types.int32)))
def _copy_track(action, track):  # type: ignore[no-untyped-def]
    """G4UserTrackingAction::PostUserTrackingAction."""
    state = _words(_words(action[0])[-BEFORE_TABLE])
    n = state[TRACKS]
    state[TRACKS] = n + 1
    if n >= state[TRACK_CAPACITY]:
        return
    row = _words(state[TRACK_ROWS] + n * _TRACK_BYTES)
    row[0] = track[TRACK_NUMBER]
    row[1] = track[PARENT_NUMBER]
    row[2] = state[STEPS]


class NativeRecord:
    """An event's steps and tracks, written by compiled functions.

    Args:
        stepping: G4UserSteppingAction whose calls are recorded.
        tracking: G4UserTrackingAction, likewise.
    """

    def __init__(self, stepping: object, tracking: object) -> None:
        self._state = np.zeros(8, dtype=np.int64)
        self._reserve(2**14, 2**12)
        self._actions = {
            stepping: self._table(stepping, STEPPING_FUNCTIONS, STEPPING_ACTION, _copy_step.address),
            tracking: self._table(tracking, TRACKING_FUNCTIONS, POST_TRACKING_ACTION, _copy_track.address),
        }
        self._stepping, self._tracking = stepping, tracking
        # C++ destroys the objects after Python has released what belongs to them.
        _alive.append(self)

    def begin(self) -> None:
        """Discard the previous event."""
        self._state[STEPS] = self._state[TRACKS] = 0

    def add_step(self, step: Any) -> None:
        """Record a step as GEANT4 would after :meth:`install`."""
        self._state[PRE : POST + 1] = _address(step.GetPreStepPoint()), _address(step.GetPostStepPoint())
        _call(_copy_step, self._actions[self._stepping], _address(step))

    def add_track(self, track: Any) -> None:
        """Record the end of a track, likewise."""
        _call(_copy_track, self._actions[self._tracking], _address(track))

    def install(self) -> None:
        """Make GEANT4 call the compiled functions from now on.

        The two points of :meth:`add_step` are those of all steps: GEANT4 keeps one G4Step for the whole process.
        """
        for action, table in self._actions.items():
            ctypes.c_uint64.from_address(_address(action)).value = _first_function(table)

    def fits(self) -> bool:
        """Whether all of the event was recorded; if not, there is room for it when it is simulated again."""
        steps, tracks = int(self._state[STEPS]), int(self._state[TRACKS])
        if steps <= len(self._steps) and tracks <= len(self._tracks):
            return True
        self._reserve(2 * steps, 2 * tracks)
        return False

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Copies of (steps,) of :data:`STEP_DTYPE` and (tracks,) of :data:`TRACK_DTYPE`."""
        return self._steps[: self._state[STEPS]].copy(), self._tracks[: self._state[TRACKS]].copy()

    def _reserve(self, steps: int, tracks: int) -> None:
        self._steps, self._tracks = np.empty(steps, dtype=STEP_DTYPE), np.empty(tracks, dtype=TRACK_DTYPE)
        self._state[[STEP_CAPACITY, STEP_ROWS]] = steps, self._steps.ctypes.data
        self._state[[TRACK_CAPACITY, TRACK_ROWS]] = tracks, self._tracks.ctypes.data

    def _table(self, action: object, functions: int, replaced: int, function: int) -> np.ndarray:
        """A copy of an object's table, (words,) uint64, with one function replaced."""
        present = ctypes.c_uint64.from_address(_address(action)).value
        words = BEFORE_TABLE - 1 + functions
        table = np.empty(words + 1, dtype=np.uint64)
        table[0] = self._state.ctypes.data
        table[1:] = (ctypes.c_uint64 * words).from_address(present - 8 * (BEFORE_TABLE - 1))
        table[BEFORE_TABLE + replaced] = function
        return table


_alive: list[NativeRecord] = []


def _first_function(table: np.ndarray) -> int:
    return int(table.ctypes.data) + 8 * BEFORE_TABLE


def _address(wrapper: object) -> int:
    """Address of the C++ object behind an object of the bindings."""
    # pybind11 instance: after the Python object header, a pointer to the pointer to the C++ object.
    pointer = ctypes.POINTER(ctypes.c_void_p).from_address(id(wrapper) + object.__basicsize__)
    return pointer.contents.value or 0


def _call(function: Any, table: np.ndarray, argument: int) -> None:
    """Call one of the compiled functions with an object that has nothing but its table."""
    action = np.array([_first_function(table)], dtype=np.uint64)
    ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(function.address)(action.ctypes.data, argument)
