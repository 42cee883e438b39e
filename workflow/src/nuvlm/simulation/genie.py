"""Reader of neutrino interactions from GENIE gRooTracker files.

Each entry of the tree `gRooTracker` is one interaction: particles and EvtCode (:mod:`nuvlm.simulation.stdhep`), and
EvtVtx (x, y, z, t; m). The beam is along z.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import uproot

from nuvlm.base.errors import InputError
from nuvlm.simulation.final_states import MASS_MEV, FinalState, Particle
from nuvlm.simulation.stdhep import FINAL, GEV, INITIAL, METRE, NEUTRINOS, StdHep, scattering_mode

TREE = "gRooTracker"
BRANCHES = ("StdHepN", "StdHepPdg", "StdHepStatus", "StdHepP4", "EvtVtx")
CODE_BRANCHES = ("EvtCode/fString", "EvtCode")
"""EvtCode is a TObjString, which ROOT writes as one branch or split."""
ENTRIES_AT_ONCE = 1000
_Entry = tuple[StdHep, np.ndarray]
UNITS_OFF = 30
"""If masses are more than this factor too large, the file is in MeV."""
SHELL = 1e-3
"""Tolerance on the mass shell, relative, plus 1 MeV: GENIE and GEANT4 differ in some masses."""


@dataclass(frozen=True)
class GenieEvent:
    """One entry of a gRooTracker file."""

    name: str
    """File and entry."""
    state: FinalState | None
    vertex_mm: np.ndarray
    """(3,), in the file's coordinates."""
    defect: str | None = None
    """Reason why the entry cannot be used, such as "has ..."; `state` is None then."""


def read_genie(files: Sequence[str | Path], first: int, n: int) -> Iterator[GenieEvent]:
    """The `n` interactions from number `first` on, counted through all `files` in order.

    Only these entries are read, in blocks.

    Raises:
        InputError: a file is damaged, not a gRooTracker file, or in other units; or there are too few entries, which is
            checked before reading.
    """
    pieces: list[tuple[Path, int, int]] = []
    available = 0
    for path in map(Path, files):
        with _open(path) as (tree, _):
            entries = tree.num_entries
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


@contextmanager
def _open(path: Path) -> Iterator[tuple[Any, str | None]]:
    """The tree, and the name of its EvtCode branch, if that can be read."""
    if not path.is_file():
        raise InputError(f"{path}: no such file. Check the path in input.files.")
    with ExitStack() as stack:
        try:
            file = stack.enter_context(uproot.open(path))
            # edep-sim keeps GENIE's tree in a folder.
            keys = [key for key in file.keys(recursive=True, cycle=False) if key.split("/")[-1] == TREE]
            tree = file[keys[0]] if keys else None
        except Exception as error:  # damaged bytes make uproot raise any exception
            raise InputError(f"{path}: not a ROOT file, or truncated ({error}). Copy or create it again.") from error
        if tree is None:
            raise InputError(
                f"{path}: there is no tree '{TREE}'. Convert GENIE's output with gntpc -f rootracker and list that."
            )
        names = set(tree.keys(recursive=True))
        missing = [name for name in BRANCHES if name not in names]
        if missing:
            raise InputError(
                f"{path}: the tree '{TREE}' has no branch {', '.join(missing)}. Create the file with gntpc again."
            )
        # A branch with sub-branches holds no data.
        yield tree, next((name for name in CODE_BRANCHES if name in names and not tree[name].branches), None)


def _read(pieces: list[tuple[Path, int, int]]) -> Iterator[GenieEvent]:
    for path, begin, end in pieces:
        with _open(path) as (tree, code):
            checked = False
            for start in range(begin, end, ENTRIES_AT_ONCE):
                stop = min(start + ENTRIES_AT_ONCE, end)
                entries, codes = _arrays(path, tree, code, start, stop)
                checked = checked or _check_units(path, [entry[0] for entry in entries if entry is not None])
                for number, (entry, text) in enumerate(zip(entries, codes, strict=True), start=start):
                    yield _event(f"{path}: entry {number}", entry, text)


def _arrays(path: Path, tree: Any, code: str | None, start: int, stop: int) -> tuple[list[_Entry | None], list[str]]:
    """Entries `start` to `stop` - 1, and their EvtCode."""
    try:
        arrays = [tree[name].array(entry_start=start, entry_stop=stop) for name in BRANCHES]
        codes = tree[code].array(library="np", entry_start=start, entry_stop=stop) if code else [""] * (stop - start)
    except Exception as error:  # damaged bytes make uproot raise any exception
        raise InputError(
            f"{path}: entries {start} to {stop - 1} cannot be read ({error}). The file is damaged: copy or create it "
            "again."
        ) from error
    return [_entry(*values) for values in zip(*arrays, strict=True)], [str(text) for text in codes]


def _entry(n: int, pdg: Any, status: Any, p4: Any, vertex: Any) -> _Entry | None:
    """Particles and vertex (3,), m, of one entry; None if its arrays are too short."""
    particles = StdHep.of(int(n), pdg, status, p4)
    where = np.asarray(vertex, dtype=np.float64).reshape(-1)[:3]
    return None if particles is None or len(where) != 3 else (particles, where)


def _check_units(path: Path, entries: list[StdHep]) -> bool:
    """Compare the masses in `entries` with the known ones in GeV; return whether there were any.

    Raises:
        InputError: the masses are a thousand times too large.
    """
    ratios = []
    for entry in entries:
        mass = np.array([MASS_MEV.get(abs(pdg), 0.0) / 1000 for pdg in entry.pdg.tolist()])
        heavy = (mass > 0.1) & np.isin(entry.status, (INITIAL, FINAL)) & np.isfinite(entry.p4).all(axis=1)
        square = entry.p4[heavy, 3] ** 2 - (entry.p4[heavy, :3] ** 2).sum(axis=1)
        ratios.extend(np.sqrt(np.maximum(square, 0)) / mass[heavy])
    if ratios and np.median(ratios) > UNITS_OFF:
        raise InputError(
            f"{path}: StdHepP4 is not in GeV: masses are {np.median(ratios):.0f} times too large. "
            "GENIE writes GeV: use the file as written by gntpc."
        )
    return bool(ratios)


def _event(name: str, entry: _Entry | None, code: str) -> GenieEvent:
    if entry is None:
        return GenieEvent(name, None, np.full(3, np.nan), "has arrays that do not hold StdHepN particles")
    particles, vertex_m = entry
    vertex_mm = METRE * vertex_m
    neutrino = particles.neutrino
    defect = _defect(particles, neutrino)
    if defect or neutrino is None:
        return GenieEvent(name, None, vertex_mm, defect)
    nu_pdg, energy = int(particles.pdg[neutrino]), float(particles.p4[neutrino, 3])
    has_charged_lepton = bool(np.isfinite(particles.lepton_energy(nu_pdg, True)))
    # From EvtCode; if it does not name the current, from the presence of the charged lepton.
    is_cc = "[CC]" in code or ("[NC]" not in code and has_charged_lepton)
    y = 1 - particles.lepton_energy(nu_pdg, is_cc) / energy
    final = tuple(
        Particle(pdg, *p4)
        for pdg, p4 in zip(
            particles.pdg[particles.final].tolist(), (GEV * particles.p4[particles.final]).tolist(), strict=True
        )
    )
    return GenieEvent(name, FinalState(nu_pdg, is_cc, energy, y, scattering_mode(code), final), vertex_mm)


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
