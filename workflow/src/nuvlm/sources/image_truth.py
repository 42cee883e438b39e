"""Truth in LArCV and SPINE files: neutrinos and final-state particles, as the programs number their properties.

larcv::Neutrino and larcv::Particle take current and mode from LArSoft (simb::MCNeutrino), or the mode from GENIE
(genie::EScatteringType); both number them differently. Lengths are in cm, momenta of particles in MeV.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from nuvlm.detector.voxels import MODES, PARTICLE_DTYPE
from nuvlm.simulation.final_states import MASS_MEV
from nuvlm.simulation.stdhep import NEUTRINOS
from nuvlm.sources.interactions import UNKNOWN, Truth, particle_rows
from nuvlm.sources.voxel_images import CM

CURRENTS = {0: True, 1: False}
"""Current type of LArSoft -> charged."""
LARSOFT_MODES = {0: "QE", 1: "RES", 2: "DIS", 3: "COH", 4: "COH", 10: "MEC"}
GENIE_MODES = {1: "QE", 3: "DIS", 4: "RES", 5: "COH", 10: "MEC", 11: "COH"}
NUANCE_MODES = dict.fromkeys(range(1003, 1091), "RES") | {
    1001: "QE", 1002: "QE", 1091: "DIS", 1092: "DIS", 1096: "COH", 1097: "COH", 1100: "MEC"
}  # fmt: skip
"""LArSoft's interaction types (simb::int_type_), which larcv::Particle has in place of a mode."""
LEPTONS = range(11, 17)
SAME_ENERGY = 1.001
UNSET = np.iinfo(np.uint32).max
"""A track id that is not set."""
FARTHEST_CM, LARGEST_ENERGY = 1e6, 1e7
"""Beyond these, values are the programs' marks for unknown."""


@dataclass(frozen=True)
class NeutrinoRow:
    """A neutrino as a file has it."""

    pdg: int
    current: int
    """Current type; other than 0 and 1: unknown."""
    mode: int
    energy: float
    inelasticity: float = float("nan")
    vertex_cm: tuple[float, float, float] = UNKNOWN
    lepton_pdg: int = 0


def mode_names(modes: Iterable[int], types: Iterable[int]) -> tuple[dict[int, str], str]:
    """What the modes of a file's neutrinos mean, as far as it can be known, and the evidence.

    Args:
        modes: interaction modes of all neutrinos of the file.
        types: their interaction types.
    """
    seen, types = set(modes), list(types)
    if any(1000 <= value < 1200 for value in types):
        return LARSOFT_MODES, "LArSoft's numbers: interaction types are 1000 and above"
    if 0 in seen and not seen & {4, 5}:
        return LARSOFT_MODES, "LArSoft's numbers: 0 occurs, which GENIE does not give"
    if seen & {4, 5} and 0 not in seen:
        return GENIE_MODES, "GENIE's numbers: 4 or 5 occurs, and 0, LArSoft's quasi-elastic, does not"
    common = {mode: name for mode, name in LARSOFT_MODES.items() if GENIE_MODES.get(mode) == name}
    return common, "only those that LArSoft and GENIE number alike: nothing tells which numbers these are"


def neutrino_truth(
    rows: list[NeutrinoRow], names: dict[int, str], particles: np.ndarray | None = None
) -> tuple[Truth, str | None]:
    """The truth of an event, energies in the file's unit, and its defect.

    It is unknown with several neutrinos: an image of all of them is of no class. Without a neutrino, as of single
    particles, there is only the final state.
    """
    rows = [row for row in rows if abs(row.pdg) in NEUTRINOS]
    final = np.zeros(0, dtype=PARTICLE_DTYPE) if particles is None else particles
    if len(rows) != 1:
        return Truth() if rows else Truth(particles=final), None
    row = rows[0]
    named = CURRENTS.get(row.current)
    by_lepton = None
    if abs(row.lepton_pdg) in LEPTONS:
        charged = int(np.sign(row.pdg)) * (abs(row.pdg) - 1)
        if row.lepton_pdg not in (row.pdg, charged):
            return Truth(), f"has a neutrino of PDG code {row.pdg} and a lepton of {row.lepton_pdg}: they contradict"
        by_lepton = row.lepton_pdg == charged
    if named is not None and by_lepton is not None and named != by_lepton:
        return Truth(), f"has current type {row.current} and a lepton of PDG code {row.lepton_pdg}: they contradict"
    is_cc = by_lepton if named is None else named
    vertex = np.array(row.vertex_cm)
    good = np.isfinite(vertex).all() and (np.abs(vertex) < FARTHEST_CM).all()
    x, y, z = (CM * vertex).tolist() if good else UNKNOWN
    if is_cc is None:
        return Truth(vertex_mm=(x, y, z)), None
    truth = Truth(
        nu_pdg=row.pdg,
        is_cc=is_cc,
        nu_energy=row.energy if 0 < row.energy < LARGEST_ENERGY else np.nan,
        inelasticity=row.inelasticity if 0 <= row.inelasticity <= 1 else np.nan,
        vertex_mm=(x, y, z),
        mode=MODES[names.get(row.mode, "unknown")],
        particles=final,
    )
    return truth, None


def primaries(track: np.ndarray, ancestor: np.ndarray, energy: np.ndarray) -> np.ndarray:
    """Which particles are primary, (particles,) bool: those that are their own ancestor.

    None if ids are not set, or if an ancestor is not among the particles or has less energy than its descendant: the
    final state is not complete then.

    Args:
        track, ancestor: (particles,), ids.
        energy: (particles,), total.
    """
    known = (track < UNSET) & (ancestor < UNSET)
    primary: np.ndarray = (track == ancestor) & known
    unique = len(np.unique(track[primary])) == primary.sum()
    most = {int(i): float(e) for i, e in zip(track[primary], energy[primary], strict=True)}
    complete = all(
        e <= SAME_ENERGY * most.get(int(i), -1.0) for i, e in zip(ancestor[known], energy[known], strict=True)
    )
    return primary if unique and complete else np.zeros(len(track), dtype=bool)


def final_state(pdg: np.ndarray, momentum: np.ndarray, energy: np.ndarray, primary: np.ndarray) -> np.ndarray:
    """Primary particles as rows of /truth/particles; none if momenta and energies are not in MeV.

    Args:
        pdg: (particles,).
        momentum: (particles, 3).
        energy: (particles,), total.
        primary: (particles,) bool.
    """
    four = np.column_stack([momentum, energy]).astype(np.float64)
    chosen = primary & np.isfinite(four).all(axis=1) & (np.abs(four) < LARGEST_ENERGY).all(axis=1)
    mass = np.array([MASS_MEV.get(abs(code), 0.0) for code in pdg[chosen].tolist()])
    square = four[chosen, 3] ** 2 - (four[chosen, :3] ** 2).sum(axis=1)
    ratio = np.sqrt(np.maximum(square[mass > 100], 0)) / mass[mass > 100]
    if len(ratio) and not 0.9 < np.median(ratio) < 1.1:
        return np.zeros(0, dtype=PARTICLE_DTYPE)
    return particle_rows(pdg[chosen], four[chosen])
