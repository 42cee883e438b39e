"""Truth in ``partition.p`` of DUNE CVN's public examples, for folders of zlib maps without ``.info`` files.

A pickle of ``(ids, labels)`` or of ``labels`` alone, where ``labels`` has seven numbers for each id: whether it is an
antineutrino, flavour (0 numu, 1 nue, 2 nutau, 3 neutral current), interaction (0 QE, 1 RES, 2 DIS, 3 other), and the
numbers of protons, charged pions, neutral pions and neutrons. Maps are ``<id>.gz`` or ``event<id>.gz``. Source: test.py
of github.com/DUNE/dune-cvn and cvn_utils.py of its fork nitish-nayak/dune-cvn.

A pickle can run any code when it is loaded. This one is loaded without any class or function, so that it can hold
nothing but numbers, texts and their containers.
"""

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from nuvlm.base.errors import InputError

LARGEST = 2**28
"""Bytes of a partition file that is read."""
N_LABELS = 7
NEUTRAL_CURRENT = 3
NC_LABEL = 13
"""Interaction label of neutral currents in .info files."""
PDG = (14, 12, 16)
REMEDY = "Remove it, or write an .info file for each map (docs/pixelmaps.md)."


class _PlainUnpickler(pickle.Unpickler):
    """Loads numbers, texts and containers only."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it refers to {module}.{name}, and could run code")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError("it refers to other objects")


def find_partition(folder: Path) -> Path | None:
    """The partition file of a folder of maps, or None."""
    files = sorted(folder.glob("partition*.p"))
    if len(files) > 1:
        raise InputError(f"{folder}: holds several partition files ({files[0].name}, {files[1].name}). Keep one.")
    return files[0] if files else None


def read_partition(path: Path) -> dict[str, dict[str, float]]:
    """Name of each map (without ``.gz``) -> label and neutrino as in an .info file.

    Raises:
        InputError: the file needs more than plain data to be loaded, or holds something else.
    """
    if path.stat().st_size > LARGEST:
        raise InputError(f"{path}: {path.stat().st_size} bytes; at most {LARGEST} are read. {REMEDY}")
    try:
        content = _PlainUnpickler(io.BytesIO(path.read_bytes()), encoding="latin-1").load()
    except Exception as error:  # damaged bytes can raise any exception
        raise InputError(f"{path}: not loaded ({error}). {REMEDY}") from error
    labels = content[-1] if isinstance(content, tuple | list) and len(content) == 2 else content
    if not isinstance(labels, Mapping) or not labels:
        raise InputError(f"{path}: holds no labels by event. {REMEDY}")
    found = {}
    for name, values in labels.items():
        if not isinstance(values, tuple | list) or len(values) != N_LABELS or not all(map(_is_number, values)):
            raise InputError(f"{path}: event {name} has {str(values)[:80]}, not {N_LABELS} numbers. {REMEDY}")
        antineutrino, flavour, interaction, *_ = map(int, values)
        if flavour not in range(4) or antineutrino not in (0, 1) or interaction not in range(4):
            raise InputError(f"{path}: event {name} has impossible labels {list(values)}. {REMEDY}")
        is_nc = flavour == NEUTRAL_CURRENT
        label = NC_LABEL if is_nc else 4 * flavour + interaction
        pdg = 1 if is_nc else PDG[flavour] * (-1 if antineutrino else 1)
        found[str(name)] = {"label": float(label), "nu_pdg": float(pdg)}
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == int(value)
