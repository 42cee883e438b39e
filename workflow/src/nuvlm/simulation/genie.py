"""Reader of neutrino interactions from the files of GENIE, NEUT and NuWro.

Each entry of a tree (:mod:`nuvlm.simulation.generator_trees`) is one interaction: particles, process and vertex. The
beam is along z.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nuvlm.base.errors import InputError
from nuvlm.simulation.final_states import ELECTRON, MASS_MEV, MUON, FinalState, Particle
from nuvlm.simulation.generator_trees import Entry, FinalStateTree, open_final_states
from nuvlm.simulation.stdhep import FINAL, GEV, INITIAL, METRE, NEUTRINOS, StdHep

logger = logging.getLogger(__name__)

ENTRIES_AT_ONCE = 1000
UNITS_OFF = 30
"""If masses are more than this factor too large, the file is not in GeV."""
MEV_IN_GEV = (900.0, 1100.0)
"""Masses too large by a factor between these are in MeV."""
SHELL = 1e-3
"""Tolerance on the mass shell, relative, plus 1 MeV: generators and GEANT4 differ in some masses."""


@dataclass(frozen=True)
class GenieEvent:
    """One entry of a file."""

    name: str
    """File and entry."""
    state: FinalState | None
    vertex_mm: np.ndarray
    """(3,), in the file's coordinates."""
    defect: str | None = None
    """Reason why the entry cannot be used, such as "has ..."; `state` is None then."""
    direction: np.ndarray = field(default_factory=lambda: np.full(3, np.nan))
    """(3,), unit vector along the neutrino's momentum."""


def read_genie(files: Sequence[str | Path], first: int, n: int) -> Iterator[GenieEvent]:
    """The `n` interactions from number `first` on, counted through all `files` in order.

    Only these entries are read, in blocks.

    Raises:
        InputError: a file is damaged, of another kind, or in other units; or there are too few entries, which is
            checked before reading.
    """
    pieces: list[tuple[Path, int, int]] = []
    available = 0
    for path in map(Path, files):
        with open_final_states(path) as tree:
            entries = len(tree)
        begin, end = max(first - available, 0), min(first + n - available, entries)
        if begin < end:
            pieces.append((path, begin, end))
        available += entries
        if available >= first + n:
            return _read(pieces)
    raise InputError(
        f"input.files: the GENIE files ({len(files)}) hold {available} interactions, but {first + n} are needed. "
        f"Set input.simulate.events to at most {available}, or list more files."
    )


def _read(pieces: list[tuple[Path, int, int]]) -> Iterator[GenieEvent]:
    for path, begin, end in pieces:
        with open_final_states(path) as tree:
            gev = None
            for start in range(begin, end, ENTRIES_AT_ONCE):
                entries = tree.entries(start, min(start + ENTRIES_AT_ONCE, end))
                gev = gev or _unit(path, tree, entries)
                for number, entry in enumerate(entries, start=start):
                    yield _event(f"{path}: entry {number}", entry, gev or 1.0)


def _unit(path: Path, tree: FinalStateTree, entries: list[Entry]) -> float | None:
    """The unit of the momenta in GeV, from the known masses of particles in `entries`; None without any.

    Raises:
        InputError: it is not GeV, or MeV where programs write that.
    """
    ratios = []
    for entry in (entry.particles for entry in entries if entry.particles is not None):
        mass = np.array([MASS_MEV.get(abs(pdg), 0.0) / 1000 for pdg in entry.pdg.tolist()])
        heavy = (mass > 0.1) & np.isin(entry.status, (INITIAL, FINAL)) & np.isfinite(entry.p4).all(axis=1)
        square = entry.p4[heavy, 3] ** 2 - (entry.p4[heavy, :3] ** 2).sum(axis=1)
        ratios.extend(np.sqrt(np.maximum(square, 0)) / mass[heavy])
    if not ratios:
        return None
    ratio = float(np.median(ratios))
    low, high = MEV_IN_GEV
    if tree.may_be_mev and low < ratio < high:
        logger.info("%s: momentum unit: MeV (masses are %.0f times those in GeV)", path, ratio)
        return 1e-3
    if ratio > UNITS_OFF:
        raise InputError(
            f"{path}: momenta are not in GeV: masses are {ratio:.0f} times too large. "
            "GENIE writes GeV: use the file as written by gntpc."
        )
    return 1.0


def _event(name: str, entry: Entry, gev: float) -> GenieEvent:
    if entry.particles is None:
        return GenieEvent(
            name, None, np.full(3, np.nan), "has arrays that do not hold the number of particles it names"
        )
    particles = StdHep(entry.particles.pdg, entry.particles.status, gev * entry.particles.p4)
    vertex_mm = METRE * np.array(entry.vertex_m)
    neutrino = particles.neutrino
    defect = (entry.defect if neutrino is not None else None) or _defect(particles, neutrino)
    if defect or neutrino is None:
        return GenieEvent(name, None, vertex_mm, defect)
    nu_pdg, energy = int(particles.pdg[neutrino]), float(particles.p4[neutrino, 3])
    process = entry.process
    has_charged_lepton = bool(np.isfinite(particles.lepton_energy(nu_pdg, True)))
    # From the code; if it does not name the current, from the presence of the charged lepton.
    is_cc = has_charged_lepton if process.is_cc is None else process.is_cc
    if process.code and is_cc and not has_charged_lepton and abs(nu_pdg) - 1 in (ELECTRON, MUON):
        defect = f"has EvtCode {process.code}, a charged current, and no charged lepton: its codes are not NEUT modes"
        return GenieEvent(name, None, vertex_mm, defect)
    y = 1 - particles.lepton_energy(nu_pdg, is_cc) / energy
    final = tuple(
        Particle(pdg, *p4)
        for pdg, p4 in zip(
            particles.pdg[particles.final].tolist(), (GEV * particles.p4[particles.final]).tolist(), strict=True
        )
    )
    momentum = particles.p4[neutrino, :3]
    state = FinalState(nu_pdg, is_cc, energy, y, process.mode, final)
    return GenieEvent(name, state, vertex_mm, direction=momentum / np.linalg.norm(momentum))


def _defect(entry: StdHep, neutrino: int | None) -> str | None:
    if neutrino is None:
        return "has no incoming neutrino (a particle of status 0 and PDG code 12, 14 or 16)"
    used = entry.final.copy()
    if not used.any():
        return "has no final state (no particle of status 1)"
    used[neutrino] = True
    if not np.isfinite(entry.p4[used]).all():
        return "has a momentum or an energy that is not a number"
    if entry.p4[neutrino, 3] <= 0:
        return f"has a neutrino of {entry.p4[neutrino, 3]:g} GeV"
    for pdg, (*momentum, energy) in zip(entry.pdg[used].tolist(), entry.p4[used].tolist(), strict=True):
        size = float(np.linalg.norm(momentum))
        mass = MASS_MEV.get(abs(pdg), 0.0 if abs(pdg) in NEUTRINOS else None)
        # For other particles only |p| <= E is required. Nuclei and pseudo-particles are not checked.
        shell = np.hypot(size, mass / 1e3) if mass is not None else max(size, energy)
        if abs(pdg) < 1_000_000_000 and abs(energy - shell) > SHELL * shell + 1e-3:
            return f"has a particle {pdg} off its mass shell (|p| = {size:g}, E = {energy:g} GeV)"
    return None
