"""Reader of larnd-sim / 2x2_sim HDF5 files (table ``segments``), with old and new field names.

Lengths in these files are in cm and deposits in MeV, z is along the beam; versions of the programs differ, so that all
of it is decided from evidence (:mod:`nuvlm.sources.units`, :mod:`nuvlm.sources.larndsim_axes`). One neutrino is one
event. A spill holds several neutrinos, distinguished by their vertex.
"""

from collections.abc import Iterator
from pathlib import Path

import hdf5plugin  # noqa: F401  registers filters that such files may use
import numpy as np

from nuvlm.base.errors import InputError
from nuvlm.base.hdf5 import hdf5_file
from nuvlm.sources.consistency import Axes
from nuvlm.sources.interactions import Interaction, Numbers, event_ids
from nuvlm.sources.larndsim_axes import decide_axes
from nuvlm.sources.larndsim_segments import AS_NAMED, Groups, SegmentTable
from nuvlm.sources.larndsim_truth import TruthTables
from nuvlm.sources.recognition import of_another_kind
from nuvlm.sources.shard_writer import VoxelShardWriter


def convert_larndsim(path: Path, out: VoxelShardWriter) -> None:
    """Write the events of a larnd-sim file to a voxel shard.

    Event ids follow :func:`nuvlm.sources.interactions.event_ids`. Without a truth table (``mc_hdr`` or
    ``genie_hdr``) the truth is unknown. Memory holds one block of rows, whatever the length of the file.

    Raises:
        InputError: the file cannot be read or is not of this kind; evidence against its units, axes or ids; an event
            cannot be used, or none can.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file. Check the path in input.files.")
    try:
        file = hdf5_file(path)
    except OSError as error:
        raise InputError(
            f"{path}: not HDF5, empty or truncated ({error}). Copy or create it again.{of_another_kind(path)}"
        ) from error
    with file:
        segments = SegmentTable(path, file)
        truth = TruthTables(path, file, segments.has_vertex)
        groups, sample = segments.index(truth.n_passes, truth.repeated)
        box_mm = np.array([high - low for low, high in out.detector.box_mm], dtype=np.float64)
        segments.decide_units(sample, box_mm, out.conclude)
        observed = list(segments.observed(sample))
        deposits = [segments.units.energy_mev * energy for energy in groups.energy]
        truth.meet(groups.keys, deposits, observed, out.conclude)
        segments.axes, order = decide_axes(path, segments, truth, observed, out)
        del sample, observed
        interactions = _interactions(segments, groups, truth, order, event_ids(path, groups.keys, out.conclude))
        out.write(path, interactions, len(groups.keys) + len(truth.without_segments))


def _interactions(
    segments: SegmentTable, groups: Groups, truth: TruthTables, order: Axes, ids: list[int]
) -> Iterator[Interaction]:
    """The neutrinos; `order` is where x, y, z of the detector are in the truth."""
    for i, rows in segments.by_group(groups):
        start, end = segments.ends_mm(rows)
        key = groups.keys[i]
        known = truth.of(key)
        if order != AS_NAMED:
            known = known.permuted(order)
        numbers = Numbers(event=key[0], vertex=key[1], file=key[2])
        yield Interaction(ids[i], start, end, segments.energy_mev(rows), segments.name(key), known, numbers=numbers)
    nothing = np.zeros((0, 3))
    for key in truth.without_segments:
        yield Interaction(0, nothing, nothing, np.zeros(0), segments.name(key))
