"""Reader of larnd-sim / 2x2_sim HDF5 files (table ``segments``), with old and new field names.

Lengths in these files are in cm and deposits in MeV, which is checked. One neutrino is one event. A spill holds several
neutrinos, distinguished by their vertex.
"""

from collections.abc import Iterator
from pathlib import Path

import hdf5plugin  # noqa: F401  registers filters that such files may use
import numpy as np

from nuvlm.base.errors import InputError
from nuvlm.base.hdf5 import open_hdf5
from nuvlm.sources.interactions import Interaction, event_ids
from nuvlm.sources.larndsim_segments import Groups, SegmentTable
from nuvlm.sources.larndsim_truth import TruthTables
from nuvlm.sources.shard_writer import VoxelShardWriter


def convert_larndsim(path: Path, out: VoxelShardWriter) -> None:
    """Write the events of a larnd-sim file to a voxel shard.

    Event ids follow :func:`nuvlm.sources.interactions.event_ids`. Without a truth table (``mc_hdr`` or
    ``genie_hdr``) the truth is unknown. Memory holds one block of rows, whatever the length of the file.

    Raises:
        InputError: the file cannot be read or is not of this kind; units other than cm and MeV; inconsistent truth; an
            event cannot be used, or none can.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file. Check the path in input.files.")
    try:
        file = open_hdf5(path)
    except OSError as error:
        raise InputError(f"{path}: not HDF5, empty or truncated ({error}). Copy or create it again.") from error
    with file:
        segments = SegmentTable(path, file)
        groups, sample = segments.index()
        segments.check_units(sample)
        truth = TruthTables(path, file, groups.keys, groups.energy_mev, segments.has_vertex)
        truth.check_vertices(segments.starts_mm(sample))
        del sample
        interactions = _interactions(segments, groups, truth, event_ids(path, groups.keys))
        out.write(path, interactions, len(groups.keys) + len(truth.without_segments))


def _interactions(segments: SegmentTable, groups: Groups, truth: TruthTables, ids: list[int]) -> Iterator[Interaction]:
    for i, rows in segments.by_group(groups):
        start, end = segments.ends_mm(rows)
        key = groups.keys[i]
        yield Interaction(ids[i], start, end, rows["dE"].astype(np.float64), segments.name(key), truth.of(key))
    nothing = np.zeros((0, 3))
    for key in truth.without_segments:
        yield Interaction(key[0], nothing, nothing, np.zeros(0), segments.name(key))
