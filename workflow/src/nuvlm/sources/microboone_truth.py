"""Truth of MicroBooNE's open data: what the table of events says of each neutrino, and whether it can be.

Sources: github.com/uboone/OpenSamples (file-content-hdf5.md, microboone_utils.py, "Sample Exploration.ipynb"),
github.com/uboone/hdf5maker (HDF5Maker_module.cc), and R. Acciarri et al., JINST 12 (2017) P02017, arXiv 1612.05824.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nuvlm.base.errors import InputError
from nuvlm.simulation.stdhep import NEUTRINOS
from nuvlm.sources.numl import Table
from nuvlm.sources.ready_maps import PixelMapWriter

ACTIVE_CM = ((0.0, 256.35), (-116.5, 116.5), (0.0, 1036.8))
"""Active volume of the time projection chamber: drift (x, from the anode), y, z along the beam."""
LARGEST_CM = 1e5
"""A vertex beyond this is no position."""
BEAM_GEV, BOOSTER_GEV = 120.0, 8.9
"""Energy of the protons of Fermilab's Main Injector, which no neutrino can exceed, and of the Booster, whose beam the
open samples simulate."""
FEW = 10
"""Events from which a median says something about a file."""
TAGS = {12: "nue", 14: "numu", 16: "nutau"}
OUTSIDE = "outside the TPC"
MUON_GEV = 0.1056
"""Mass of the muon, the least energy of one."""
USUAL_Y = (0.1, 0.8)
"""Mean inelasticity of charged currents; in MicroBooNE's beam about a third."""
PITCH_CM, FIRST_WIRE_CM = 0.3, 0.25
"""Distance of the wires, and z of the first wire of plane 2."""
WIRE_CM, SPACE_CHARGE_CM = 10.0, 50.0
"""How far the corrected vertex may be from its wire, and from the true vertex."""


@dataclass(frozen=True)
class Truth:
    """What is known of the neutrinos, one entry for each event."""

    label: list[str | None]
    """nue, numu or nutau for charged currents, nc; why an event has no class; None if the truth is unknown."""
    nu_pdg: np.ndarray
    is_cc: np.ndarray
    nu_energy: np.ndarray
    """GeV."""
    inelasticity: np.ndarray
    vertex_mm: np.ndarray
    """(events, 3)."""
    bad: list[str | None]
    """Why an event cannot be used."""


def read_truth(events: Table, out: PixelMapWriter) -> Truth:
    """Read and check the truth of all events.

    - `is_cc` other than 0 and 1 and PDG codes that stand for none (0, -1, -99 and below) mean that there is no
      neutrino, or that it is unknown.
    - Neutrinos that interact outside the active volume (the inclusive sample has them in the whole cryostat) may leave
      nothing in the picture: they have no class.
    - Energies and vertices that cannot be are NaN; they are counted in the log.

    Args:
        events: the table of events.
        out: gets the conclusions.

    Raises:
        InputError: a column has another shape; energies cannot be in GeV.
    """
    path, n = events.path, events.rows
    pdg, cc = (optional(events, name) for name in ("nu_pdg", "is_cc"))
    is_code = np.isin(np.abs(pdg), list(NEUTRINOS))
    none = np.isnan(pdg) | np.isin(pdg, [0, -1]) | (pdg <= -99)
    known = is_code & np.isin(cc, [0, 1])
    bad: list[str | None] = [None] * n
    for row in np.flatnonzero(~is_code & ~none):
        bad[row] = f"has PDG code {pdg[row]:g} for its neutrino"
    muon = known & (cc == 1) & (np.abs(pdg) == 14)
    energy, inelasticity = _energies(events, out, known, cc, muon)
    vertex_cm = _vertices(events, out, known)
    outside = known & _outside(vertex_cm)
    labels: list[str | None] = [None] * n
    for row in np.flatnonzero(known):
        labels[row] = OUTSIDE if outside[row] else TAGS[int(abs(pdg[row]))] if cc[row] else "nc"
    out.conclude(
        path,
        "truth",
        f"{known.sum()} of {n} events have a neutrino, {outside.sum()} of them outside the active volume",
        f"nu_pdg, is_cc and nu_vtx of '{events.name}'" if known.any() else f"no nu_pdg and is_cc in '{events.name}'",
    )
    return Truth(
        labels,
        np.where(known, pdg, 0).astype(np.int64),
        known & (cc == 1),
        np.where(known, energy, np.nan),
        np.where(known, inelasticity, np.nan),
        np.where(known[:, None], 10 * vertex_cm, np.nan),
        bad,
    )


def optional(events: Table, name: str, width: int = 1) -> np.ndarray:
    """A column as float64, NaN if there is none: (events,), or (events, width).

    Raises:
        InputError: it has another shape.
    """
    if not events.has(name):
        return np.full(events.rows if width == 1 else (events.rows, width), np.nan)
    events.require([name], width=width)
    return events.read(name).astype(np.float64)


def _energies(
    events: Table, out: PixelMapWriter, known: np.ndarray, cc: np.ndarray, muon: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Energy of the neutrinos (GeV), and inelasticity; NaN where they cannot be."""
    path = events.path
    energy, lepton = optional(events, "nu_energy"), optional(events, "lep_energy")
    of_neutrinos = energy[known & np.isfinite(energy)]
    median = float(np.median(of_neutrinos)) if len(of_neutrinos) else np.nan
    if median > (BOOSTER_GEV if len(of_neutrinos) >= FEW else BEAM_GEV):
        raise InputError(
            f"{path}: the neutrino energies of '{events.name}' (median {median:g}) cannot be in GeV: the protons of "
            f"the Booster have {BOOSTER_GEV:g} GeV. Convert nu_energy and lep_energy to GeV."
        )
    impossible = known & ~((energy > np.where(muon, MUON_GEV, 0)) & (energy <= BEAM_GEV))
    _count(path, out, impossible, "neutrino energies are unknown or cannot be", energy)
    energy = np.where(impossible, np.nan, energy)
    with np.errstate(invalid="ignore"):
        inelasticity = 1 - lepton / energy
        fine = (inelasticity >= 0) & (inelasticity <= 1) & (lepton > np.where(muon, MUON_GEV, 0))
    wrong = known & ~impossible & ~fine
    _count(path, out, wrong, "lepton energies are unknown, above the neutrino's or below the muon's mass", lepton)
    inelasticity[wrong] = np.nan
    charged = inelasticity[known & (cc == 1) & np.isfinite(inelasticity)]
    if len(of_neutrinos):
        mean = f", mean inelasticity of charged currents {charged.mean():.2g}" if len(charged) else ""
        out.conclude(path, "energy unit", "GeV", f"median neutrino energy {median:.2g}{mean}")
    if len(charged) >= FEW and not USUAL_Y[0] <= charged.mean() <= USUAL_Y[1]:
        out.conclude(
            path,
            "inelasticity",
            f"unknown: nu_energy and lep_energy of '{events.name}' may have different units",
            f"the mean inelasticity of the charged currents is {charged.mean():.2g}, about 0.35 is usual",
            doubt=True,
        )
        inelasticity[:] = np.nan
    return energy, inelasticity


def _vertices(events: Table, out: PixelMapWriter, known: np.ndarray) -> np.ndarray:
    """(events, 3) true vertices, cm; NaN where they cannot be."""
    path = events.path
    vertex, corrected = optional(events, "nu_vtx", 3), optional(events, "nu_vtx_corr", 3)
    wire = optional(events, "nu_vtx_wire_pos", 3)[:, 2]
    with np.errstate(invalid="ignore"):
        impossible = known & ~(np.abs(vertex) < LARGEST_CM).all(axis=1)
    _count(path, out, impossible, "vertices are unknown or cannot be", vertex[:, 2])
    vertex = np.where(impossible[:, None], np.nan, vertex)
    # Both are the position after the correction for space charge, one as z and one as a wire.
    on_wire = np.abs(corrected[:, 2] - (FIRST_WIRE_CM + PITCH_CM * wire))
    inside = known & ~_outside(corrected) & np.isfinite(on_wire)
    corrections = np.linalg.norm(vertex - corrected, axis=1)
    compared = {"nu_vtx_wire_pos": (on_wire[inside], WIRE_CM), "nu_vtx": (corrections[known], SPACE_CHARGE_CM)}
    for name, (off_cm, most) in compared.items():
        off_cm = off_cm[np.isfinite(off_cm)]
        if len(off_cm) < FEW:
            continue
        evidence = f"nu_vtx_corr is {np.median(off_cm):.2g} cm from {name} (median of {len(off_cm)} events)"
        if np.median(off_cm) > most:
            what = "unknown, and events outside the detector are scored too"
            out.conclude(path, "vertices", what, f"{evidence}: are they in cm, and of the same file?", doubt=True)
            return np.full(vertex.shape, np.nan)
        out.conclude(path, "vertices", "cm", evidence)
    return vertex


def _outside(vertex_cm: np.ndarray) -> np.ndarray:
    """(events,) whether a vertex is known to lie outside the active volume."""
    low, high = np.array(ACTIVE_CM).T
    with np.errstate(invalid="ignore"):
        outside: np.ndarray = ((vertex_cm < low) | (vertex_cm > high)).any(axis=1)
    return outside


def _count(path: Path, out: PixelMapWriter, which: np.ndarray, what: str, values: np.ndarray) -> None:
    if which.any():
        row = int(which.argmax())
        first = f"first: {values[row]:g} in row {row}"
        out.conclude(path, "unknown truth", f"{which.sum()} of {len(which)} {what}", first, doubt=True)
