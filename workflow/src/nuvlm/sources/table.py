"""The table of sources: every value of ``input.source``, and who reads it.

A new source is a reader and a row here. The configuration, its schema, the rule ``convert``, the plan and the tests
follow from the table. Readers are named as text and imported only by the job that runs one, so that parsing the rules
stays cheap and an edited table reruns nothing.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["steps", "drifted", "maps"]
"""``steps``: energy deposits, whose charge has yet to drift to the anodes. ``drifted``: charge that was read out, which
is not smeared again. ``maps``: ready pixel maps."""

WRITERS: dict[Kind, str] = {
    "steps": "nuvlm.sources.shard_writer:VoxelShardWriter",
    "drifted": "nuvlm.sources.shard_writer:DriftedShardWriter",
    "maps": "nuvlm.sources.ready_maps:PixelMapWriter",
}
"""Kind -> what a reader of this kind writes with, as ``module:class``."""


@dataclass(frozen=True)
class Source:
    """A row of the table."""

    kind: Kind
    files: str
    """What ``input.files`` lists, for people."""
    reader: str | None = None
    """``module:function``, called with a file and a writer; None where no file needs conversion."""
    recognise: str | None = None
    """``module:function``, called with a path: a description of the file if it is of this source, judged by its
    content, else None. It never raises for a file of another kind."""
    settings: frozenset[str] = frozenset()
    """Settings of ``input`` that have an effect, beside those of all sources."""

    @property
    def writer(self) -> str:
        """What the reader writes with, as ``module:class``."""
        return WRITERS[self.kind]


STEPS = frozenset({"offset_mm", "recombination"})
FOREIGN_STEPS = STEPS | {"axes", "outside_limit"}
IMAGES = frozenset({"offset_mm", "outside_limit", "product", "mev_per_unit"})

SOURCES = {
    # offset_mm has an effect only with vertices from GENIE's files, which the configuration checks.
    "simulate": Source(
        "steps",
        "none (GEANT4), or ROOT files of GENIE, NEUT or NuWro final states",
        recognise="nuvlm.sources.recognition:recognise_genie",
        settings=STEPS,
    ),
    "voxels": Source("steps", "voxel shards, used in place", recognise="nuvlm.sources.recognition:recognise_voxels"),
    "edepsim": Source(
        "steps",
        "edep-sim ROOT files",
        "nuvlm.sources.edepsim:convert_edepsim",
        "nuvlm.sources.recognition:recognise_edepsim",
        settings=FOREIGN_STEPS,
    ),
    "larndsim": Source(
        "steps",
        "larnd-sim or 2x2_sim HDF5 files, or the copy of their tables in ndlar_flow files",
        "nuvlm.sources.larndsim:convert_larndsim",
        "nuvlm.sources.recognition:recognise_larndsim",
        settings=FOREIGN_STEPS,
    ),
    "ndlarflow": Source(
        "drifted",
        "ndlar_flow HDF5 files, of which the reconstructed hits are read",
        "nuvlm.sources.ndlarflow:convert_ndlarflow",
        "nuvlm.sources.ndlarflow:recognise_ndlarflow",
        settings=frozenset({"offset_mm", "outside_limit"}),
    ),
    "png": Source(
        "maps",
        "folders of PNG images",
        "nuvlm.sources.png:convert_png",
        "nuvlm.sources.recognition:recognise_png",
        settings=frozenset({"views"}),
    ),
    "larcv": Source(
        "steps",
        "LArCV 2 ROOT, LArCV 3 or SPINE HDF5 files, their true energy deposits",
        "nuvlm.sources.larcv:convert_larcv",
        "nuvlm.sources.larcv:recognise_larcv",
        IMAGES,
    ),
    "larcv_charge": Source(
        "drifted",
        "the same files, their reconstructed charge",
        "nuvlm.sources.larcv_charge:convert_larcv_charge",
        "nuvlm.sources.larcv_charge:recognise_larcv_charge",
        IMAGES,
    ),
    "pilarnet": Source(
        "steps",
        "PILArNet-M HDF5 files",
        "nuvlm.sources.pilarnet:convert_pilarnet",
        "nuvlm.sources.pilarnet:recognise_pilarnet",
        frozenset({"offset_mm", "outside_limit", "mev_per_unit"}),
    ),
    "cvn": Source(
        "maps",
        "DUNE CVN pixel maps, HDF5 files or folders of zlib maps",
        "nuvlm.sources.cvn:convert_cvn",
        "nuvlm.sources.recognition:recognise_cvn",
        settings=frozenset({"views"}),
    ),
    "microboone": Source(
        "maps",
        "MicroBooNE open data, HDF5 files with hits on wires",
        "nuvlm.sources.microboone:convert_microboone",
        "nuvlm.sources.microboone:recognise_microboone",
        settings=frozenset({"views", "wires"}),
    ),
}
