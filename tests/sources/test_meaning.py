"""Files whose meaning was changed are read as before, refused or marked, never silently different.

Every mutation runs with the marker `long`; a sample of them in the fast tests. The counts are in docs/formats.md. See
:mod:`mutations` for the words.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import larndsim_mutations
import map_mutations
import mutations
import numpy as np
import pytest
import table_mutations
import voxel_mutations
from made_events import made_events
from mutations import Mutation, doubts, judge, shard_events
from table_formats import FORMATS as TABLES

from nuvlm.detector.geometry import Detector
from nuvlm.sources.edepsim import convert_edepsim
from nuvlm.sources.larndsim import convert_larndsim
from nuvlm.sources.shard_writer import VoxelShardWriter
from nuvlm.sources.voxel_shards import check_voxel_shard
from paths import SHARED

N_EVENTS = 16
SAMPLE = 12
"""Mutations of each format in the fast tests."""
LEAST = 200
"""Mutations of each format that are counted as passed or failed."""
FORMATS = ["larndsim", "edepsim", "voxels", "png", "cvn", *TABLES]
Convert = Callable[[Any], tuple[list[dict[str, np.ndarray]], Counter[str]]]


def _steps(reader: Callable[[Path, VoxelShardWriter], None], write: Callable[[Path, Any], Path], path: Path) -> Convert:
    def convert(content: Any) -> tuple[list[dict[str, np.ndarray]], Counter[str]]:
        out = path.with_suffix(".voxels.h5")
        reader(write(path, content), VoxelShardWriter(shard=out, detector=Detector()))
        with h5py.File(out) as file:
            found = doubts(file.attrs["conclusions"])
        return shard_events(out, Detector()), found

    return convert


def _format(name: str, folder: Path) -> tuple[Any, list[Mutation], Convert]:
    """Content of a valid file, its mutations, and the conversion of a content."""
    if name in TABLES:
        content, form, convert = TABLES[name](folder, made_events(N_EVENTS))
        return content, table_mutations.mutations(form), convert
    if name == "larndsim":
        convert = _steps(convert_larndsim, larndsim_mutations.write, folder / "a.h5")
        return larndsim_mutations.tables(made_events(N_EVENTS)), larndsim_mutations.mutations(), convert
    if name == "edepsim":
        if not SHARED.exists():
            pytest.skip("needs the sample file that edep-sim files are made from")
        import edepsim_mutations

        convert = _steps(convert_edepsim, edepsim_mutations.write, folder / "a.root")
        return edepsim_mutations.content(made_events(N_EVENTS)), edepsim_mutations.mutations(), convert
    if name == "voxels":

        def check(content: Any) -> tuple[list[dict[str, np.ndarray]], Counter[str]]:
            path = voxel_mutations.write(folder / "a.h5", content)
            found = check_voxel_shard(path, Detector())
            return shard_events(path, Detector()), doubts(found.to_json())

        return voxel_mutations.content(folder, made_events(N_EVENTS)), voxel_mutations.mutations(), check
    if name == "cvn":
        return map_mutations.cvn_content(), map_mutations.cvn_mutations(), map_mutations.convert_cvn_content(folder)
    if name == "png":
        return map_mutations.png_content(), map_mutations.png_mutations(), map_mutations.convert_png_content(folder)
    raise ValueError(name)


def _outcomes(name: str, folder: Path, n: int | None = None) -> Counter[str]:
    """What became of `n` of the mutations; None for all."""
    content, changes, convert = _format(name, folder)
    assert len({change.name for change in changes}) == len(changes)
    expected = convert(content)
    found: Counter[str] = Counter()
    silent = []
    with np.errstate(all="ignore"):
        for change in changes[:: len(changes) // n if n else 1]:
            outcome = judge(content, change, convert, expected)
            found["invisible" if change.invisible else outcome.verdict] += 1
            if outcome.verdict == "silent" and not change.invisible:
                silent.append(change.name)
    assert not silent
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FORMATS)
def test_a_sample_of_changed_files_is_never_silently_different(tmp_path, name):
    assert _outcomes(name, tmp_path, SAMPLE)["refused"]


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FORMATS)
def test_no_changed_file_is_silently_different(tmp_path, name, capsys):
    found = _outcomes(name, tmp_path)
    assert found.total() - found["invisible"] >= LEAST
    with capsys.disabled():
        print(f"\n{name}: {dict(found)}")


def test_an_unchanged_file_has_no_doubt(tmp_path):
    content, _, convert = _format("larndsim", tmp_path)
    events, found = convert(content)
    assert len(events) == N_EVENTS
    assert not found
    assert mutations.is_same(events, events)
