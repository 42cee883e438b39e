"""The event table: every event of a run with its class, its split and the piece of inference it belongs to."""

import logging
from pathlib import Path

import pandas as pd

from nuvlm.base.files import read_table

logger = logging.getLogger(__name__)


SPLITS = ("train", "validation", "test")


TRUTH_COLUMNS = ["nu_pdg", "is_cc", "nu_energy", "inelasticity", "mode", "n_voxels"]


TRUTH_COLUMNS += ["vertex_x_mm", "vertex_y_mm", "vertex_z_mm", "visible_energy"]
"""What the event table says of an event beyond its class."""


DEPOSIT_COLUMNS = ["edge_energy", "pi0_energy"]
"""What it says where there are voxels, and tables of truth with them; else null."""


def read_events(path: str | Path) -> pd.DataFrame:
    """The event table; its columns are listed in docs/formats.md.

    Raises:
        InputError: missing or damaged.
    """
    return read_table(path, "event table")


def read_part(path: str | Path, part: int) -> pd.DataFrame:
    """The rows of the event table in one part of inference, numbered from 0.

    Raises:
        InputError: missing or damaged.
    """
    table = read_events(path)
    return table[table["part"] == part].reset_index(drop=True)
