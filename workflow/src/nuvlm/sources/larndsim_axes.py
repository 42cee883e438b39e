"""Which axes a larnd-sim file has. Its writers exchanged x and z of the segments until April 2023.

The attribute ``zbeam`` later says whether z is along the beam; for a short period it says so and they are exchanged all
the same. Vertices were never exchanged, so charge that touches its vertex decides. Without vertices it is the direction
that charge goes in; without a direction, the file's own words.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nuvlm.base.errors import InputError
from nuvlm.sources.consistency import Axes, Direction, Observed
from nuvlm.sources.larndsim_keys import Key
from nuvlm.sources.larndsim_segments import AS_NAMED, SegmentTable
from nuvlm.sources.larndsim_truth import EXCHANGED, TruthTables
from nuvlm.sources.shard_writer import VoxelShardWriter

if TYPE_CHECKING:
    from collections.abc import Iterable

logger = logging.getLogger(__name__)

OLD_TABLE = "tracks"
"""Name of the segments in files that may have x and z exchanged."""


def decide_axes(
    path: Path,
    segments: SegmentTable,
    truth: TruthTables,
    sample: Sequence[tuple[Key, Observed]],
    out: VoxelShardWriter,
) -> tuple[Axes, Axes]:
    """Where x, y, z of the detector are in the columns of the segments, and in those of the truth.

    Raises:
        InputError: the vertices or the direction of the charge contradict the file.
    """
    zbeam = segments.zbeam
    says = {True: "attribute zbeam says that z is along the beam", False: "attribute zbeam says that it is not"}
    named = says[zbeam] if zbeam is not None else "no attribute zbeam"
    if out.axes is not None:
        given: Axes = out.order
        out.conclude(path, "axes of the segments", out.axes, "input.axes")
        # The truth may have the axes of the segments, or others, as its vertices tell.
        meets = truth.vertex_axes or AS_NAMED
        return given, (meets[given[0]], meets[given[1]], meets[given[2]])
    goes = _direction(sample, truth)
    against, evidence = goes.against_z(), goes.evidence() if goes.mean is not None else "no direction"
    along_z = goes.mean is not None and against is None and float(goes.mean[2]) > 0.3
    remedy = "Correct the file, or set input.axes (zyx for x and z exchanged, xyz for axes as they are called)."
    if truth.vertex_axes == EXCHANGED:
        found = "vertices lie at the charge only with x and z exchanged"
        if zbeam or along_z:
            raise InputError(f"{path}: {found}, but {named}; {evidence}. {remedy}")
        out.conclude(path, "axes of the segments", "x and z are exchanged", f"{found}; {named}; {evidence}", doubt=True)
        return EXCHANGED, AS_NAMED
    if truth.vertex_axes == AS_NAMED:
        if zbeam is False:
            raise InputError(f"{path}: {named}, but vertices lie at the charge as it is; {evidence}. {remedy}")
        return AS_NAMED, AS_NAMED
    if zbeam is False and along_z:
        raise InputError(f"{path}: {named}, but {evidence}. {remedy}")
    if zbeam and against == 0:
        raise InputError(f"{path}: {named}, but {evidence}. {remedy}")
    if zbeam is False:
        out.conclude(path, "axes of the segments", "x and z are exchanged", f"{named}; {evidence}", doubt=True)
        return EXCHANGED, AS_NAMED
    if zbeam is None and segments.name_of_table == OLD_TABLE:
        if against == 0:
            what = f"{named}, and old versions of larnd-sim exchange them; {evidence}"
            out.conclude(path, "axes of the segments", "assumed that x and z are exchanged", what, doubt=True)
            return EXCHANGED, AS_NAMED
        if not along_z:
            what = f"{named}, and old versions of larnd-sim exchange x and z; no vertices at the charge; {evidence}"
            out.conclude(path, "axes of the segments", "assumed to be as they are called", what, doubt=True)
            return AS_NAMED, AS_NAMED
    out.conclude(path, "axes of the segments", "as they are called", f"{named}; {evidence}")
    return AS_NAMED, AS_NAMED


def _direction(sample: "Iterable[tuple[Key, Observed]]", truth: TruthTables) -> Direction:
    """Where the charge of the sample goes, in the axes of the segments."""
    direction = Direction()
    for key, event in sample:
        vertex = np.array(truth.of(key).vertex_mm)[list(truth.vertex_axes or AS_NAMED)]
        near = truth.vertex_axes is not None and np.isfinite(vertex).all()
        unknown = np.full(3, np.nan)
        direction.add(Observed(event.name, vertex if near else unknown, event.start_mm, event.end_mm, event.energy_mev))
    return direction
