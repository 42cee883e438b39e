"""The StdHep record of an interaction, as in the trees gRooTracker (GENIE, edep-sim) and nRooTracker (NEUT, NuWro).

For each particle StdHepPdg, StdHepStatus (0 initial, 1 final) and StdHepP4 (px, py, pz, E in GeV); for the interaction
EvtCode: GENIE's text ("nu:14;tgt:1000180400;N:2112;proc:Weak[CC],QES;"; see gntpc in GENIE's user manual), or a NEUT
mode, which NuWro's converter writes too.
"""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from nuvlm.detector.voxels import MODES

GEV = 1000.0  # MeV
METRE = 1000.0  # mm
INITIAL, FINAL = 0, 1
NEUTRINOS = frozenset({12, 14, 16})
SCATTERING = {"QES": "QE", "MEC": "MEC", "RES": "RES", "DIS": "DIS"} | dict.fromkeys(("COH", "COHPi", "COHEl"), "COH")
"""GENIE's names of scattering types -> :data:`nuvlm.detector.voxels.MODES`, others (IMD, NuEEL, ...) are
unknown."""
# NEUT modes, negative for antineutrinos, as NEUT's nemodsel.F lists them (copied in nuisance.hepforge.org/tutorials/
# interaction_modes.html; 53 only in InteractionModes.h of NUISANCEMC/nuisance). In the resonance region the final
# states with a pion, a photon, an eta or a kaon have their own; 15 and 35, diffractive, and 18 to 20, single kaons
# without a resonance, have no mode here.
NEUT_MODES = (
    dict.fromkeys((1, 51, 52), "QE")
    | {2: "MEC", 53: "MEC"}
    | dict.fromkeys((11, 12, 13, 17, 22, 23, 31, 32, 33, 34, 38, 39, 42, 43, 44, 45), "RES")
    | dict.fromkeys((21, 26, 41, 46), "DIS")
    | dict.fromkeys((16, 36), "COH")
)
NEUT_CC, NEUT_NC = range(1, 31), range(31, 54)
EITHER_CURRENT = 2
"""NuWro's converter gives this mode to neutral currents too."""


@dataclass(frozen=True)
class Process:
    """What EvtCode says of an interaction."""

    is_cc: bool | None = None
    """None if it does not name the current."""
    mode: int = MODES["unknown"]
    """A value of :data:`nuvlm.detector.voxels.MODES`."""
    code: str = ""
    """A NEUT mode, for messages; empty for other codes."""


@dataclass(frozen=True)
class StdHep:
    """The particles of one interaction."""

    pdg: np.ndarray
    """(particles,)."""
    status: np.ndarray
    """(particles,)."""
    p4: np.ndarray
    """(particles, 4): px, py, pz, E in the unit of the file, normally GeV."""

    @classmethod
    def of(cls, n: int, pdg: Any, status: Any, p4: Any) -> "StdHep | None":
        """The first `n` particles of the arrays of a file; None if they hold fewer.

        Arrays may be longer than the event; `p4` may be flat.
        """
        columns = np.asarray(pdg)[:n], np.asarray(status)[:n], np.asarray(p4, dtype=np.float64).reshape(-1)[: 4 * n]
        if n < 1 or [len(column) for column in columns] != [n, n, 4 * n]:
            return None
        return cls(columns[0].astype(np.int64), columns[1].astype(np.int64), columns[2].reshape(n, 4))

    @property
    def final(self) -> np.ndarray:
        """(particles,) bool: those that leave the nucleus."""
        final: np.ndarray = self.status == FINAL
        return final

    @property
    def neutrino(self) -> int | None:
        """Row of the incoming neutrino, or None."""
        rows = np.flatnonzero((self.status == INITIAL) & np.isin(np.abs(self.pdg), tuple(NEUTRINOS)))
        return int(rows[0]) if len(rows) else None

    def lepton_energy(self, nu_pdg: int, is_cc: bool) -> float:
        """Energy of the outgoing lepton in the file's unit; NaN without one.

        The most energetic of its PDG code: a Dalitz pair or a decay may add soft ones.
        """
        lepton = np.sign(nu_pdg) * (abs(nu_pdg) - is_cc)
        energies = self.p4[self.final & (self.pdg == lepton), 3]
        return float(energies.max()) if len(energies) else float("nan")


def scattering_mode(code: str) -> int:
    """The mode (:data:`nuvlm.detector.voxels.MODES`) in GENIE's EvtCode."""
    found = re.search(r"proc:[^;]*?,([^;,]+)", code)
    return MODES[SCATTERING.get(found[1].strip(), "unknown")] if found else MODES["unknown"]


def process_of_code(code: str) -> Process:
    """Current and mode in an EvtCode, GENIE's text or a NEUT mode."""
    number = re.fullmatch(r"\s*(-?\d{1,4})(\.0*)?\s*", code)
    if not number:
        return Process(True if "[CC]" in code else False if "[NC]" in code else None, scattering_mode(code))
    neut = abs(int(number[1]))
    is_cc = True if neut in NEUT_CC else False if neut in NEUT_NC else None
    return Process(None if neut == EITHER_CURRENT else is_cc, MODES[NEUT_MODES.get(neut, "unknown")], number[1])
