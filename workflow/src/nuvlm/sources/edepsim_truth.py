"""Truth in edep-sim files: the reaction of each vertex, and GENIE's record if the file has it."""

import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nuvlm.base.errors import InputError
from nuvlm.simulation.stdhep import GEV, METRE, StdHep, scattering_mode
from nuvlm.sources.interactions import Truth, particle_rows
from nuvlm.sources.memberwise import Particles
from nuvlm.sources.rootfile import find_tree, read_branch

logger = logging.getLogger(__name__)

RECORD = "DetSimPassThru/gRooTracker"


def reaction_truth(reaction: str, position_mm: np.ndarray, particles: Particles) -> Truth:
    """The truth in a primary vertex.

    Args:
        reaction: GENIE's summary, as in "nu:14;tgt:1000180400;N:2112;proc:Weak[CC],QES;". With any other
            text the neutrino is unknown.
        position_mm: (3,).
        particles: the primary particles of the vertex.
    """
    x, y, z = position_mm.tolist()
    truth = Truth(vertex_mm=(x, y, z), particles=particle_rows(particles.pdg, particles.momentum_mev))
    neutrino = re.search(r"\bnu:(-?\d+);", reaction)
    current = re.search(r"\bproc:Weak\[(CC|NC)\],", reaction)
    if not neutrino or not current:
        return truth
    return replace(truth, nu_pdg=int(neutrino[1]), is_cc=current[1] == "CC", mode=scattering_mode(reaction))


class GenieRecord:
    """GENIE's events (tree ``DetSimPassThru/gRooTracker``, GeV and m), matched to the vertices of the file."""

    def __init__(self, path: Path, tree: Any) -> None:
        self._path = path
        self._tree = tree
        missing = [name for name in ("StdHepPdg", "StdHepStatus", "StdHepP4") if name not in tree]
        if missing:
            raise InputError(
                f"{path}: tree {RECORD} has no branch {', '.join(missing)}. Correct the tree or remove it."
            )

    @classmethod
    def find(cls, path: Path, file: Any) -> "GenieRecord | None":
        tree = find_tree(path, file, RECORD)
        return None if tree is None else cls(path, tree)

    def match(self, interaction: np.ndarray, position_mm: np.ndarray, one_vertex_an_event: bool) -> None:
        """Find the entry of each vertex.

        edep-sim writes the number of the entry to ``InteractionNumber``. Programs that merge files may not update it,
        but keep one entry per event, in order. If both are possible, the vertex positions decide.

        Args:
            interaction: (vertices,), ``InteractionNumber``.
            position_mm: (vertices, 3).

        Raises:
            InputError: neither is possible.
        """
        n = self._tree.num_entries
        candidates = []
        if ((interaction >= 0) & (interaction < n)).all() and len(np.unique(interaction)) == len(interaction):
            candidates.append(interaction.astype(np.int64))
        if one_vertex_an_event and n == len(interaction):
            candidates.append(np.arange(n))
        if not candidates:
            raise InputError(
                f"{self._path}: the {n} entries of {RECORD} cannot be matched to the {len(interaction)} vertices: "
                "InteractionNumber is not unique, and there is not one entry per event. Remove the tree."
            )
        self._entry = candidates[0]
        if len(candidates) > 1 and "EvtVtx" in self._tree:
            vertex_mm = METRE * np.asarray(read_branch(self._path, self._tree["EvtVtx"], 0, n, "np"))[:, :3]
            self._entry = min(candidates, key=lambda entry: np.abs(vertex_mm[entry] - position_mm).sum())

    def read(self, first: int, stop: int) -> None:
        """Read the entries of vertices `first` to `stop`, for :meth:`complete`."""
        wanted = self._entry[first:stop]
        self._low, high = (int(wanted.min()), int(wanted.max()) + 1) if len(wanted) else (0, 0)
        self._arrays = {
            name: read_branch(self._path, self._tree[name], self._low, high, "ak")
            for name in ("StdHepN", "StdHepPdg", "StdHepStatus", "StdHepP4")
            if name in self._tree
        }

    def complete(self, truth: Truth, vertex: int, name: str) -> Truth:
        """Add the neutrino's energy, the inelasticity and the final state of one vertex to `truth`.

        Raises:
            InputError: the record belongs to another interaction, or is not in GeV.
        """
        record = self._particles(int(self._entry[vertex]) - self._low, name)
        pdg, p4 = record.pdg[record.final], record.p4[record.final]
        self._check(truth, pdg, p4, name)
        truth = replace(truth, particles=particle_rows(pdg, GEV * p4))
        neutrino = record.neutrino
        if neutrino is None or truth.nu_pdg not in (0, record.pdg[neutrino]):
            return truth
        if truth.nu_pdg == 0:  # no flavour in the reaction
            nu_pdg = int(record.pdg[neutrino])
            truth = replace(truth, nu_pdg=nu_pdg, is_cc=bool(np.isfinite(record.lepton_energy(nu_pdg, True))))
        energy = float(record.p4[neutrino, 3])
        y = 1 - record.lepton_energy(truth.nu_pdg, truth.is_cc) / energy if energy > 0 else np.nan
        return replace(truth, nu_energy=energy, inelasticity=y)

    def _particles(self, entry: int, name: str) -> StdHep:
        pdg, status, p4 = (self._arrays[key][entry] for key in ("StdHepPdg", "StdHepStatus", "StdHepP4"))
        n = int(self._arrays["StdHepN"][entry]) if "StdHepN" in self._arrays else len(pdg)
        record = StdHep.of(n, pdg, status, p4)
        if record is None:
            raise InputError(
                f"{self._path}: {name}: its entry of {RECORD} does not hold {n} particles. Remove the tree."
            )
        return record

    def _check(self, truth: Truth, pdg: np.ndarray, momentum: np.ndarray, name: str) -> None:
        """Compare the fastest particle of vertex and record: a wrong entry or unit makes them differ."""
        if not len(truth.particles):
            return
        fastest = np.linalg.norm(truth.particles["momentum_mev"], axis=1).max()
        of_its_kind = momentum[np.isin(pdg, truth.particles["pdg"]), :3]
        found = GEV * np.linalg.norm(of_its_kind, axis=1).max(initial=0)
        if abs(found - fastest) > 0.02 * fastest:
            raise InputError(
                f"{self._path}: the fastest particle of {name} has {fastest:.5g} MeV, in {RECORD} "
                f"{found:.5g} MeV. The tree belongs to other events or is not in GeV: remove it."
            )
