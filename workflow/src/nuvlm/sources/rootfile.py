"""ROOT files read with uproot; every failure becomes an error that names the file and the remedy."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uproot

from nuvlm.base.errors import InputError
from nuvlm.sources.recognition import of_another_kind

MAGIC = b"root"


@contextmanager
def open_root(path: Path) -> Iterator[Any]:
    """Open a ROOT file for reading.

    Raises:
        InputError: the file is missing or not a ROOT file.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file. Check the path in input.files.")
    with open(path, "rb") as content:
        if content.read(len(MAGIC)) != MAGIC:
            raise InputError(
                f"{path}: not ROOT, empty or truncated. Copy or create it again, or check input.source."
                f"{of_another_kind(path)}"
            )
    with _explained(f"{path}: not ROOT, empty or truncated"):
        file = uproot.open(path, array_cache=None)  # nothing is read twice
    with file:
        yield file


def find_tree(path: Path, file: Any, name: str) -> Any:
    """The tree `name`, or None.

    Raises:
        InputError: the tree cannot be read.
    """
    with _explained(f"{path}: tree {name} cannot be read"):
        return file.get(name)


def class_members(path: Path, file: Any, name: str) -> tuple[str, ...]:
    """The members of a class, base classes first, as described in the file; empty without a description.

    Raises:
        InputError: the description cannot be read.
    """
    with _explained(f"{path}: the description of {name} cannot be read"):
        streamer = file.file.streamer_named(name)
        return tuple(element.name for element in streamer.elements) if streamer else ()


def read_branch(path: Path, branch: Any, first: int, stop: int, library: str, interpretation: Any = None) -> Any:
    """Entries `first` to `stop` of a branch, as numpy ("np") or awkward ("ak") arrays.

    Raises:
        InputError: the branch cannot be read.
    """
    with _explained(f"{path}: branch {branch.name} of {branch.tree.name} cannot be read"):
        return branch.array(interpretation, entry_start=first, entry_stop=stop, library=library)


@contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # damaged bytes make uproot raise any exception
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"{what} ({reason}). The file is damaged, or of another kind: copy or create it again."
        ) from error
