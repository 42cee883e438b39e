"""HDF5 files that are written as they grow, and a disk that fills up on the way."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from disk import full_disk
from nuvlm.base.errors import InputError
from nuvlm.base.hdf5 import Table, create_hdf5


def test_rows_come_back_in_order_however_they_were_cut(tmp_path, rng):
    rows = rng.random(5000)
    with create_hdf5(tmp_path / "a.h5") as (file, _):
        table = Table(file, "x", "f8", chunk=100)
        for piece in np.split(rows, np.sort(rng.integers(0, 5000, 300))):
            table.append(piece)
        table.flush()
    with h5py.File(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(file["x"][:], rows)


def test_a_loop_ends_soon_after_the_disk_is_full(tmp_path, rng):
    written = 0
    noise = rng.random(1000)

    def write():
        nonlocal written
        with create_hdf5(tmp_path / "a.h5") as (file, disk):
            table = Table(file, "x", "f8", chunk=1000)
            for _ in range(10_000):
                table.append(noise)
                disk.check()
                written += 1

    with full_disk(), pytest.raises(InputError, match="no space left"):
        write()
    assert written < 5000  # HDF5 keeps some MB to itself
    assert not list(tmp_path.iterdir())


def test_an_error_on_the_way_is_the_one_that_is_raised(tmp_path, rng):
    def write():
        with create_hdf5(tmp_path / "a.h5") as (file, _):
            Table(file, "x", "f8", chunk=1000).append(rng.random(10_000))
            raise KeyError("from the caller")

    with full_disk(), pytest.raises(KeyError, match="from the caller"):
        write()
    assert not list(tmp_path.iterdir())


REFUSING = """
#include <errno.h>
#include <stdlib.h>
int flock(int descriptor, int operation) { errno = atoi(getenv("REFUSED_WITH")); return -1; }
"""


@pytest.fixture(scope="module")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that makes every lock of a process fail, as a file system without locks does."""
    folder = tmp_path_factory.mktemp("refusing")
    (folder / "refusing.c").write_text(REFUSING)
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "refusing.so", folder / "refusing.c"], check=True)
    return folder / "refusing.so"


@pytest.mark.slow
@pytest.mark.parametrize(("number", "opens"), [(37, True), (22, True), (524, True), (11, False)])
def test_a_file_system_without_locks_is_read_and_a_lock_of_another_process_is_respected(
    tmp_path: Path, refusing: Path, number: int, opens: bool
) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.arange(3)
    program = "import sys; from nuvlm.base.hdf5 import hdf5_file; print(hdf5_file(sys.argv[1])['x'][:].tolist())"
    result = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "a.h5"], capture_output=True, text=True,
        env={**os.environ, "LD_PRELOAD": str(refusing), "REFUSED_WITH": str(number)},
    )  # fmt: skip
    assert (result.stdout.strip() == "[0, 1, 2]") == opens, result.stderr
    assert opens or f"errno = {number}" in result.stderr
