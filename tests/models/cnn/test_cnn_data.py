"""The CNN's images: the same from memory, from disk and from any number of processes; and what these leave behind."""

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from nuvlm.base.errors import InputError
from nuvlm.models.classifier.data import LONGEST, SparseImages, StoredImages, batches, open_images, sparse_bytes
from stores import read_pixel_maps, write_pixel_maps

MEMORY, DISK = 1000, 0  # MB


def few_lit(rng, shape, share=0.02):
    """Random images, all but `share` of whose pixels are black."""
    return rng.integers(1, 256, shape, dtype=np.uint8) * (rng.random(shape) < share)


def awkward(rng, views, size):
    """Images, each an edge case."""
    images = np.zeros((7, views, size, size), dtype=np.uint8)
    images[1] = 255
    images[2, 0, 0, 0] = 1
    images[3, -1, -1, -1] = 1
    images[4:] = few_lit(rng, images[4:].shape)
    for i, first in enumerate((LONGEST - 1, LONGEST, LONGEST + 1)):  # how far the first pixel is from the begin
        flat = images[4 + i].reshape(-1)
        if flat.size > 2 * LONGEST + 2:
            flat[:] = 0
            flat[[first, first + LONGEST + i, -1]] = 1, 2, 3
    return images


@pytest.fixture
def two_shards(tmp_path, rng):
    """Stores of two shards, an event table in another order, and its images as one plain array."""
    images = np.concatenate([awkward(rng, 2, 32), few_lit(rng, (20, 2, 32, 32))])
    stores = {name: tmp_path / f"{name}.zarr" for name in "ab"}
    ids = np.concatenate(
        [write_pixel_maps(stores["a"], images[:10]), write_pixel_maps(stores["b"], images[10:], first_event=10)]
    )
    table = pd.DataFrame({"shard": ["a"] * 10 + ["b"] * 17, "row": [*range(10), *range(17)], "event_id": ids})
    chosen = rng.permutation(len(table))[:22]
    return stores, table.iloc[chosen], images[chosen]


def one_store(folder, images):
    ids = write_pixel_maps(folder / "a.zarr", images, views=[f"view {i}" for i in range(images.shape[1])])
    return {"a": folder / "a.zarr"}, pd.DataFrame({"shard": "a", "row": np.arange(len(ids)), "event_id": ids})


def synthetic(events, coordinates):
    """Small images of many coordinates, all at pixel 0: what matters is what they take."""
    ends = np.arange(events + 1) * coordinates
    value = np.ones(events * coordinates, dtype=np.uint8)
    return SparseImages((2, 8, 8), np.stack([ends[:-1], ends[1:]], axis=1), np.zeros(len(value), np.uint16), value)


@pytest.mark.parametrize(("views", "size"), [(1, 33), (2, 32), (3, 75), (2, 512)])
def test_from_memory_and_from_disk_images_are_what_was_written(tmp_path, rng, views, size):
    images = awkward(rng, views, size)
    stores, table = one_store(tmp_path, images)
    np.testing.assert_array_equal(read_pixel_maps(stores, table), images)
    for memory_mb, kind in ((MEMORY, SparseImages), (DISK, StoredImages)):
        opened = open_images(stores, table, memory_mb)
        assert isinstance(opened, kind)
        assert (opened.shape, len(opened)) == ((views, size, size), 7)
        for rows in (np.arange(7), np.array([6, 0, 0, 3, 6]), np.array([2]), np.empty(0, dtype=np.int64)):
            found = opened.dense(rows)
            assert found.dtype == np.uint8
            np.testing.assert_array_equal(found, images[rows])


def test_black_images_and_a_table_without_events(tmp_path):
    stores, table = one_store(tmp_path, np.zeros((3, 2, 32, 32), dtype=np.uint8))
    for memory_mb in (MEMORY, DISK):
        assert not open_images(stores, table, memory_mb).dense(np.arange(3)).any()
        nothing = open_images(stores, table[:0], memory_mb)
        assert len(nothing) == 0
        assert list(batches(nothing, [], 0)) == []


@pytest.mark.parametrize("memory_mb", [MEMORY, DISK])
def test_an_array_to_write_to_is_overwritten_or_refused(two_shards, memory_mb):
    stores, table, images = two_shards
    opened = open_images(stores, table, memory_mb)
    out = np.full((3, 2, 32, 32), 77, dtype=np.uint8)
    assert opened.dense(np.array([4, 0, 4]), out) is out
    np.testing.assert_array_equal(out, images[[4, 0, 4]])
    for wrong in (out[:2], out.astype(np.int8), np.asfortranarray(out), np.zeros((6, 2, 32, 32), np.uint8)[::2]):
        with pytest.raises(ValueError, match="C-contiguous"):
            opened.dense(np.array([4, 0, 4]), wrong)
    for rows in ([22], [-1]):
        with pytest.raises(IndexError, match="of 22 events"):
            opened.dense(np.array(rows))


@pytest.mark.parametrize("memory_mb", [MEMORY, DISK])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_are_those_asked_for_whoever_makes_them(two_shards, rng, workers, memory_mb):
    stores, table, images = two_shards
    opened = open_images(stores, table, memory_mb)
    drawn = rng.integers(0, len(images), 50)  # with repetition
    order = [drawn[begin : begin + 8] for begin in range(0, 50, 8)]  # the last one has two
    order.insert(2, drawn[:0])
    torch.manual_seed(3)
    before = torch.get_rng_state()
    expected = iter(order)
    for rows, batch in batches(opened, iter(order), workers):
        np.testing.assert_array_equal(rows, next(expected))
        np.testing.assert_array_equal(batch, images[rows])
    assert next(expected, None) is None
    assert torch.equal(torch.get_rng_state(), before), "training would depend on how its data is read"
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_that_is_kept_stays_as_it_is(two_shards, workers):
    stores, table, images = two_shards
    opened = open_images(stores, table, MEMORY)
    order = [np.array([i, 21 - i]) for i in range(22)]
    kept = [batch for _, batch in batches(opened, order, workers)]
    for rows, batch in zip(order, kept, strict=True):
        np.testing.assert_array_equal(batch, images[rows])
    # the same of what is made from a batch
    tensors = [torch.from_numpy(batch)[1:] for _, batch in batches(opened, order, workers)]
    for rows, tensor in zip(order, tensors, strict=True):
        np.testing.assert_array_equal(tensor.numpy(), images[rows[1:]])


def test_an_order_is_drawn_before_the_first_batch(two_shards):
    stores, table, _ = two_shards
    opened = open_images(stores, table, MEMORY)
    drawn = []

    def order():
        for i in range(4):
            drawn.append(i)
            yield np.array([i])

    next(iter(batches(opened, order(), 0)))
    assert drawn == [0, 1, 2, 3]


def test_images_that_do_not_fit_are_read_as_needed_and_the_log_says_why(tmp_path, rng, caplog):
    # events of very different size; all but some of them are only estimated
    images = np.stack([few_lit(rng, (2, 64, 64), share) for share in rng.gamma(0.5, 0.1, 1000)])
    stores, table = one_store(tmp_path, images)
    estimate = sparse_bytes(StoredImages(stores, table))
    caplog.set_level(logging.INFO, logger="nuvlm")
    inside = open_images(stores, table, 3)
    assert isinstance(inside, SparseImages)
    assert inside.nbytes == 16 * 1000 + 3 * np.count_nonzero(images)
    assert 1e6 < inside.nbytes <= estimate < 1.4 * inside.nbytes
    assert f"1000 pixel maps in memory: {inside.nbytes / 1e6:.1f} MB of at most 3 MB" in caplog.text
    assert isinstance(open_images(stores, table, 1), StoredImages)
    assert f"1000 pixel maps need up to {estimate / 1e6:.1f} MB of memory, the limit is 1 MB" in caplog.text


def test_an_event_or_a_store_that_is_not_there_is_refused(two_shards, tmp_path):
    stores, table, _ = two_shards
    with pytest.raises(InputError, match="does not hold the events"):
        open_images(stores, table.assign(event_id=table["event_id"] + np.uint64(1)), MEMORY)
    with pytest.raises(InputError, match="does not hold the events"):
        open_images(stores, table.assign(row=table["row"] + 100), DISK)
    write_pixel_maps(tmp_path / "c.zarr", np.zeros((2, 2, 48, 48), dtype=np.uint8))
    other = pd.DataFrame({"shard": "c", "row": [0], "event_id": np.array([0], dtype=np.uint64)})
    with pytest.raises(InputError, match="those of other shards"):
        open_images({**stores, "c": tmp_path / "c.zarr"}, pd.concat([table, other]), MEMORY)
    file = stores["b"] / "images/c/0/0/0/0"
    content = bytearray(file.read_bytes())
    content[40] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match="have changed"):
        open_images(stores, table, DISK)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_store_that_is_damaged_while_it_is_read_ends_the_training_with_its_name(two_shards, workers):
    stores, table, images = two_shards
    opened = open_images(stores, table, DISK)
    file = stores["a"] / "images/c/0/0/0/0"
    content = bytearray(file.read_bytes())
    offset, size = np.frombuffer(content, "<u8", 2 * 10, len(content) - 4 - 16 * 10).reshape(10, 2)[5]
    content[offset + size // 2] ^= 1
    file.write_bytes(content)
    hit = int(np.flatnonzero((table["shard"] == "a") & (table["row"] == 5))[0])
    sound = int(np.flatnonzero(table["shard"] == "b")[0])
    made = batches(opened, [np.array([sound]), np.array([hit])], workers)
    rows, batch = next(made)
    np.testing.assert_array_equal(batch, images[rows])
    with pytest.raises(InputError) as error:
        next(made)
    assert "a.zarr: event 5 is no longer readable" in str(error.value)
    assert "\n" not in str(error.value), "a traceback is for mistakes of the program"
    assert not multiprocessing.active_children()


def test_a_mistake_in_a_worker_reaches_the_caller(two_shards):
    stores, table, _ = two_shards
    opened = open_images(stores, table, MEMORY)
    with pytest.raises(IndexError, match="rows 99 to 99 of 22 events"):
        list(batches(opened, [np.array([0]), np.array([99])], 1))
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("memory_mb", [MEMORY, DISK])
def test_a_loop_that_is_left_early_leaves_no_process(two_shards, memory_mb):
    stores, table, _ = two_shards
    opened = open_images(stores, table, memory_mb)
    for _ in batches(opened, [np.arange(8)] * 40, 2):
        assert len(multiprocessing.active_children()) == 2
        break
    assert not multiprocessing.active_children()


def test_a_worker_that_is_killed_ends_the_training(two_shards):
    stores, table, _ = two_shards
    opened = open_images(stores, table, MEMORY)
    made = batches(opened, [np.arange(8)] * 400, 1)
    next(made)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        list(made)


@pytest.mark.slow
def test_sigterm_ends_the_workers_too():
    program = """
import multiprocessing, numpy as np, time
from nuvlm.models.classifier.data import SparseImages, batches
images = SparseImages((1, 8, 8), np.zeros((4, 2), np.int64), np.empty(0, np.uint16), np.empty(0, np.uint8))
for _ in batches(images, [np.arange(4)] * 100, 2):
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        workers = [int(pid) for pid in process.stdout.readline().split()]
        assert len(workers) == 2
        process.terminate()
        assert process.wait(timeout=10) == -signal.SIGTERM
        end = time.monotonic() + 20
        while any(is_running(pid) for pid in workers):
            assert time.monotonic() < end, "a worker has outlived its training"
            time.sleep(0.1)


def is_running(pid):
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_workers_share_the_memory_of_the_images():
    images = synthetic(events=64, coordinates=1_000_000)
    assert images.nbytes > 192e6
    order = [np.array([row]) for row in range(64)] * 2  # each worker reads half of them, and starts anew
    made = batches(images, order, 2)
    for _ in range(len(order) - 1):
        next(made)
    for worker in multiprocessing.active_children():
        sizes = Path(f"/proc/{worker.pid}/smaps_rollup").read_text().split("\n")
        kilobytes = {line.split()[0]: int(line.split()[1]) for line in sizes if line.endswith("kB")}
        assert kilobytes["Rss:"] > 90_000, "it has read them"
        assert kilobytes["Private_Dirty:"] + kilobytes["Private_Clean:"] < 60_000, "a copy of the images"
    made.close()


def test_a_process_that_has_decoded_with_zarrs_may_fork_readers(two_shards):
    # zarrs' threads are gone in the fork: a reader that used it would never answer
    stores, table, images = two_shards
    read_pixel_maps(stores, table)
    opened = open_images(stores, table, DISK)
    ((rows, batch),) = batches(opened, [np.arange(22)], 1)
    np.testing.assert_array_equal(batch, images[rows])


def test_more_stores_than_files_may_be_open(tmp_path, rng, monkeypatch):
    monkeypatch.setattr("nuvlm.models.classifier.data.OPEN_FILES", 2)
    images = few_lit(rng, (4, 2, 32, 32))
    stores = {f"s{i}": tmp_path / f"s{i}.zarr" for i in range(4)}
    for i, store in enumerate(stores.values()):
        write_pixel_maps(store, images[i : i + 1], first_event=i)
    ids = np.arange(4, dtype=np.uint64)
    opened = open_images(stores, pd.DataFrame({"shard": list(stores), "row": 0, "event_id": ids}), DISK)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        np.testing.assert_array_equal(opened.dense(np.arange(4)), images)
    assert len(os.listdir("/proc/self/fd")) <= before + 2
