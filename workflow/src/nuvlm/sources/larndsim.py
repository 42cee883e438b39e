"""larnd-sim / 2x2_sim HDF5 (table ``segments``) to a voxel shard, with the old and the new field names.

Lengths in these files are cm and deposits MeV, which is checked. One neutrino is one event: a spill holds several,
told apart by their vertex.
"""

from collections.abc import Iterator
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401  registers filters that such files may use
import numpy as np

from nuvlm.base.errors import InputError, OnBadEvent
from nuvlm.detector.geometry import Detector
from nuvlm.detector.readout import Recombination
from nuvlm.sources.larndsim_segments import Groups, SegmentTable
from nuvlm.sources.larndsim_truth import TruthTables
from nuvlm.sources.segments import Interaction, event_ids, write_interactions


def convert_larndsim(
    path: Path,
    out: Path,
    *,
    detector: Detector,
    offset_mm: tuple[float, float, float],
    on_bad_event: OnBadEvent,
    recombination: Recombination,
) -> None:
    """Write the events of a larnd-sim file to a voxel shard.

    The event id is the file's, or that of the vertex where events hold several neutrinos (with vertices
    numbered anew in each event: event id * 2**32 + vertex id). Without a truth table (``mc_hdr`` or
    ``genie_hdr``) the truth stays unknown. Memory holds one block of rows, however long the file.

    Args:
        offset_mm: added to the file's coordinates.
        on_bad_event: what to do with an event that cannot be used.
        recombination: what becomes of the charge of each segment.

    Raises:
        InputError: no readable file of this kind; other units; truth that contradicts itself; an event that cannot
            be used, or none that can.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file. Check the path in input.files.")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{path}: not HDF5, empty or cut short ({error}). Copy or make it again.") from error
    with file:
        segments = SegmentTable(path, file)
        groups, sample = segments.index()
        segments.check_units(sample)
        truth = TruthTables(path, file, groups.keys, groups.energy_mev, segments.has_vertex)
        truth.check_vertices(segments.starts_mm(sample))
        del sample
        interactions = _interactions(segments, groups, truth, event_ids(path, groups.keys))
        write_interactions(
            path,
            out,
            interactions,
            len(groups.keys) + len(truth.without_segments),
            detector=detector,
            offset_mm=offset_mm,
            on_bad_event=on_bad_event,
            recombination=recombination,
        )


def _interactions(segments: SegmentTable, groups: Groups, truth: TruthTables, ids: list[int]) -> Iterator[Interaction]:
    for i, rows in segments.by_group(groups):
        start, end = segments.ends_mm(rows)
        key = groups.keys[i]
        yield Interaction(ids[i], start, end, rows["dE"].astype(np.float64), segments.name(key), truth.of(key))
    nothing = np.zeros((0, 3))
    for key in truth.without_segments:
        yield Interaction(key[0], nothing, nothing, np.zeros(0), segments.name(key))
