"""Trees of final states that neutrino generators and their converters write, read in blocks of entries.

- ``gRooTracker``: GENIE's ``gntpc -f rootracker``; edep-sim keeps it in a folder.
- ``nRooTracker``: the same arrays from NEUT (in MeV or GeV) and NuWro (``nuwro2rootracker``, GeV). EvtCode is a NEUT
  mode in place of GENIE's text; some NEUT files have no EvtVtx.
- ``gst``: GENIE's summary tree, ``gntpc -f gst``: the lepton and the hadronic system in columns, GeV and m.
"""

import gzip
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import uproot

from nuvlm.base.errors import InputError
from nuvlm.detector.voxels import MODES
from nuvlm.simulation.stdhep import FINAL, INITIAL, Process, StdHep, process_of_code

UNKNOWN = (float("nan"),) * 3
# A TObjString, which ROOT writes as one branch or split; else NEUT's mode as a number, which some files have beside it.
CODE_BRANCHES = ("EvtCode/fString", "EvtCode", "NEneutmode")
GST_MODES = {"qel": "QE", "mec": "MEC", "res": "RES", "dis": "DIS", "coh": "COH"}
OTHER_TREES = {
    "gtree": "GENIE's own event records. Convert them with gntpc -f rootracker",
    "treeout": "NuWro's own events. Convert them with nuwro2rootracker",
    "neuttree": "NEUT's own events. Convert them with NeutToRooTracker",
    "FlatTree_VARS": "NUISANCE's flat tree. List the generator's rootracker file",
    "hepmc3_tree": "NuHepMC events in ROOT, which are not read. List the generator's rootracker file",
}
HEPMC = b"HepMC::Version"


@dataclass(frozen=True)
class Entry:
    """One interaction as a tree has it."""

    particles: StdHep | None
    """None if the arrays do not hold them."""
    process: Process = field(default_factory=Process)
    vertex_m: tuple[float, float, float] = UNKNOWN
    defect: str | None = None
    """Reason why it cannot be used, found while reading; None if there is none so far."""


class FinalStateTree(ABC):
    """A tree of interactions in an open file."""

    branches: tuple[str, ...]
    """Those that must be there."""
    generator: str
    """Whose interactions they are."""
    program: str
    """What writes such a tree."""
    may_be_mev = False
    """Whether programs write this tree in MeV as well as in GeV."""

    def __init__(self, path: Path, tree: Any, columns: set[str]) -> None:
        self._path = path
        self._tree = tree
        self._columns = columns

    def __len__(self) -> int:
        return int(self._tree.num_entries)

    @abstractmethod
    def entries(self, start: int, stop: int) -> list[Entry]:
        """Entries `start` to `stop` - 1, in the unit of the file.

        Raises:
            InputError: they cannot be read.
        """

    def _arrays(self, names: tuple[str, ...], start: int, stop: int, library: str) -> list[Any]:
        try:
            return [self._tree[name].array(entry_start=start, entry_stop=stop, library=library) for name in names]
        except Exception as error:  # damaged bytes make uproot raise any exception
            raise InputError(
                f"{self._path}: entries {start} to {stop - 1} cannot be read ({error}). The file is damaged: copy or "
                "create it again."
            ) from error


@contextmanager
def open_final_states(path: Path) -> Iterator[FinalStateTree]:
    """Open the tree of final states of a file, by its content.

    Raises:
        InputError: the file is missing, not ROOT, or has no such tree; what other generator output it is, if known.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file. Check the path in input.files.")
    if _is_hepmc(path):
        raise InputError(f"{path}: NuHepMC text, which is not read. List the generator's rootracker file.")
    with ExitStack() as stack:
        try:
            file = stack.enter_context(uproot.open(path))
            keys = {key.split("/")[-1]: key for key in reversed(file.keys(recursive=True, cycle=False))}
            name = next((name for name in TREES if name in keys), None)
            tree = file[keys[name]] if name else None
            columns = set(tree.keys(recursive=True)) if tree is not None else set()
        except Exception as error:  # damaged bytes make uproot raise any exception
            raise InputError(f"{path}: not a ROOT file, or truncated ({error}). Copy or create it again.") from error
        if name is None:
            other = next((what for other, what in OTHER_TREES.items() if other in keys), None)
            if other:
                raise InputError(f"{path}: {other} and list that.")
            raise InputError(
                f"{path}: there is no tree {' or '.join(repr(name) for name in TREES)}. Convert GENIE's output with "
                "gntpc -f rootracker and list that."
            )
        reader = TREES[name]
        missing = [branch for branch in reader.branches if branch not in columns]
        if missing:
            raise InputError(
                f"{path}: the tree '{name}' has no branch {', '.join(missing)}. Create the file again, with "
                f"{reader.program}."
            )
        yield reader(path, tree, columns)


class GRooTracker(FinalStateTree):
    """GENIE's arrays of particles."""

    branches: tuple[str, ...] = ("StdHepN", "StdHepPdg", "StdHepStatus", "StdHepP4", "EvtVtx")
    generator = "GENIE"
    program = "gntpc -f rootracker"

    def __init__(self, path: Path, tree: Any, columns: set[str]) -> None:
        super().__init__(path, tree, columns)
        # A branch with sub-branches holds no data.
        self._code = next((name for name in CODE_BRANCHES if name in columns and not tree[name].branches), None)
        # Arrays of a fixed length have rests of other events beyond the last particle, others end with it.
        self._exact = isinstance(tree["StdHepPdg"].interpretation, uproot.AsJagged)

    def entries(self, start: int, stop: int) -> list[Entry]:
        n, pdg, status, p4 = self._arrays(GRooTracker.branches[:4], start, stop, "ak")
        codes = self._arrays((self._code,), start, stop, "np")[0] if self._code else [""] * (stop - start)
        if "EvtVtx" in self._columns:
            vertices = self._arrays(("EvtVtx",), start, stop, "ak")[0]
        else:
            vertices = [UNKNOWN] * (stop - start)
        return [
            _entry(int(count), process_of_code(str(code)), *arrays)
            if not self._exact or len(arrays[0]) == count
            else Entry(None)
            for count, code, *arrays in zip(n, codes, pdg, status, p4, vertices, strict=True)
        ]


class NRooTracker(GRooTracker):
    """The same arrays from NEUT and NuWro."""

    branches = GRooTracker.branches[:4]
    generator = "NEUT or NuWro"
    program = "NEUT's or NuWro's converter"
    may_be_mev = True


class Gst(FinalStateTree):
    """GENIE's summary tree."""

    branches = (
        "neu", "fspl", "cc", "nc", *GST_MODES, "Ev", "pxv", "pyv", "pzv", "El", "pxl", "pyl", "pzl",
        "nf", "pdgf", "Ef", "pxf", "pyf", "pzf",
    )  # fmt: skip
    generator = "GENIE"
    program = "gntpc -f gst of GENIE 2.8 or later"
    # Scatterings whose other particles, such as the struck electron, are in no column.
    incomplete = ("nuel", "amnugamma", "em")
    vertex = ("vtxx", "vtxy", "vtxz")

    def entries(self, start: int, stop: int) -> list[Entry]:
        optional = tuple(name for name in (*self.incomplete, *self.vertex) if name in self._columns)
        names = (*self.branches, *optional)
        columns = dict(zip(names, self._arrays(names, start, stop, "np"), strict=True))
        return [self._entry({name: column[i] for name, column in columns.items()}) for i in range(stop - start)]

    def _entry(self, row: dict[str, Any]) -> Entry:
        n = int(row["nf"])
        hadrons = np.array([np.asarray(row[name], dtype=np.float64)[:n] for name in ("pxf", "pyf", "pzf", "Ef")]).T
        if hadrons.shape != (n, 4) or len(row["pdgf"]) < n:
            return Entry(None)
        ends = [[row[f"{name}{end}"] for name in ("px", "py", "pz")] + [row[f"E{end}"]] for end in "vl"]
        particles = StdHep(
            np.array([row["neu"], row["fspl"], *row["pdgf"][:n]], dtype=np.int64),
            np.array([INITIAL, FINAL] + [FINAL] * n),
            np.concatenate([np.array(ends, dtype=np.float64), hadrons]),
        )
        x, y, z = (float(row.get(name, np.nan)) for name in self.vertex)
        lost = [name for name in self.incomplete if row.get(name)]
        defect = f"is a scattering ({lost[0]}) whose particles gst does not hold" if lost else None
        if not defect and bool(row["cc"]) == bool(row["nc"]):
            defect = "is neither charged nor neutral current, or both"
        mode = next((mode for name, mode in GST_MODES.items() if row[name]), "unknown")
        return Entry(particles, Process(bool(row["cc"]), MODES[mode]), (x, y, z), defect)


TREES: dict[str, type[FinalStateTree]] = {"gRooTracker": GRooTracker, "nRooTracker": NRooTracker, "gst": Gst}


def _entry(n: int, process: Process, pdg: Any, status: Any, p4: Any, vertex: Any) -> Entry:
    where = np.asarray(vertex, dtype=np.float64).reshape(-1)[:3].tolist()
    if len(where) != 3:
        return Entry(None)
    x, y, z = where
    return Entry(StdHep.of(n, pdg, status, p4), process, (x, y, z))


def _is_hepmc(path: Path) -> bool:
    try:
        with gzip.open(path) as packed:
            start = packed.read(100)
    except (OSError, EOFError):
        with open(path, "rb") as file:
            start = file.read(100)
    return HEPMC in start
