"""HDF5 files that are written as they grow, and a disk that fills up on the way."""

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
