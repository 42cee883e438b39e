"""What becomes of a file whose meaning was changed: identical, refused, marked, or silently different.

*Identical*: the same events with the same charge and truth; their numbers and order may differ if those were changed.
*Refused*: an InputError. *Marked*: a conclusion that the unchanged file does not have, in the log and in the attributes
of what was written (:mod:`nuvlm.base.conclusions`), which is a doubt or says which truth is unknown. Everything else
is *silent*.
"""

import copy
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from nuvlm.base.errors import InputError
from nuvlm.detector.geometry import Detector
from nuvlm.detector.voxels import open_shard

TOLERANCE = 2e-3


@dataclass(frozen=True)
class Mutation:
    """A change of the content of a file."""

    name: str
    change: Callable[[Any], Any]
    """Gets a deep copy of the content; changes it in place, or returns another."""
    invisible: str = ""
    """Reason why nothing in the file can show it; such mutations are not counted as passed."""


@dataclass(frozen=True)
class Outcome:
    verdict: str
    why: str = ""


def shard_events(path: Path, detector: Detector) -> list[dict[str, np.ndarray]]:
    """The events of a voxel shard in an order that does not depend on their numbers."""
    found = []
    with open_shard(path, detector) as shard, h5py.File(path) as file:
        particles = file["truth/particles"][:] if "truth/particles" in file else None
        for rows, block, ends in shard.blocks():
            for i, row in enumerate(rows):
                event, part = shard.events[row], slice(ends[i], ends[i + 1])
                voxels = np.column_stack([block.x[part], block.y[part], block.z[part]]).astype(np.int64)
                mine = np.zeros((0, 5))
                if particles is not None:
                    of = particles[particles["event_id"] == event["event_id"]]
                    mine = np.column_stack([of["pdg"], of["kinetic_mev"], of["momentum_mev"]]).astype(np.float64)
                    mine = mine[np.lexsort(mine.T[::-1])]
                truth = [event[n] for n in ("nu_pdg", "is_cc", "nu_energy", "inelasticity", "mode")]
                order = np.lexsort(voxels.T[::-1])
                found.append(
                    {
                        "voxels": voxels[order],
                        "energy": block.energy[part].astype(np.float64)[order],
                        "truth": np.array([*truth, *event["vertex_mm"]], dtype=np.float64),
                        "particles": mine,
                    }
                )
    return sorted(found, key=lambda event: tuple(event["voxels"].sum(axis=0)))


def is_same(one: list[dict[str, np.ndarray]], other: list[dict[str, np.ndarray]]) -> bool:
    if len(one) != len(other):
        return False
    return all(
        a[name].shape == b[name].shape and np.allclose(a[name], b[name], rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
        for a, b in zip(one, other, strict=True)
        for name in a
    )


def doubts(text: str) -> Counter[str]:
    """The marks in the attribute `conclusions`, each with its value, so that one that becomes worse is new."""
    found = [c for c in json.loads(text) if c.get("doubt") or c["subject"] == "unknown truth"]
    return Counter(f"{c['subject']}: {c['value']} ({c['evidence']})" for c in found)


def judge(
    content: Any,
    mutation: Mutation,
    convert: Callable[[Any], tuple[list[dict[str, np.ndarray]], Counter[str]]],
    expected: tuple[list[dict[str, np.ndarray]], Counter[str]],
) -> Outcome:
    """Convert the changed content and compare the result with that of the unchanged one."""
    changed = copy.deepcopy(content)
    returned = mutation.change(changed)
    try:
        events, found = convert(changed if returned is None else returned)
    except InputError as error:
        return Outcome("refused", str(error))
    if is_same(events, expected[0]):
        return Outcome("identical")
    new = found - expected[1]
    return Outcome("marked", next(iter(new))) if new else Outcome("silent")


def each(names: Iterator[str] | list[str], make: Callable[[str], Mutation]) -> list[Mutation]:
    return [make(name) for name in names]
