"""Events without their zeros: as zstd frames that any decoder reads, and back."""

from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import Zstd

from nuvlm.base.errors import InputError
from nuvlm.base.sparse import CRC_BYTES, SparseEvents, SparseFile
from nuvlm.base.stores import EventFile, create_store, open_store, write_store

PLAIN = "zarr.core.codec_pipeline.BatchedCodecPipeline"


def random_events(events: int, rows: int, columns: int, lit: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 100, (events, rows, columns)).astype(np.float32)
    return np.where(rng.random(values.shape) < lit, values, np.float32(0))


def write(path: Path, *pieces: np.ndarray) -> Path:
    with create_store(path, {"format": "f"}) as store:
        for dense in pieces:
            store.append_sparse("xz", SparseEvents.of(dense))
    return path


def assert_equal(found: SparseEvents, expected: SparseEvents) -> None:
    assert found.shape == expected.shape
    for name in ("begins", "index", "value"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


@given(
    shape=st.sampled_from([(1, 1), (1, 2), (3, 5), (40, 140), (200, 300), (400, 1400)]),
    lit=st.sampled_from([0, 1e-4, 0.02, 0.3, 0.7, 1]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_every_decoder_of_zstd_gives_the_dense_event(shape, lit, seed):
    dense = random_events(2, *shape, lit, seed)
    for chunk, event in zip(SparseEvents.of(dense).chunks(), dense, strict=True):
        assert Zstd().decode(chunk[:-CRC_BYTES]) == event.tobytes()


@pytest.mark.parametrize("pipeline", [PLAIN, "zarrs.ZarrsCodecPipeline"])
@pytest.mark.parametrize("shape", [(40, 140), (400, 1400)])
def test_zarr_reads_the_dense_array(pipeline, shape, tmp_path: Path):
    dense = random_events(5, *shape, 0.02)
    dense[1], dense[3, 100:, :] = 0, 1
    store = open_store(write(tmp_path / "a", dense[:2], dense[2:]), "f")
    with zarr.config.set({"codec_pipeline.path": pipeline}):
        array = zarr.open_group(tmp_path / "a", mode="r")["xz"]
        np.testing.assert_array_equal(array[:], dense)
        np.testing.assert_array_equal(array[3, 5], dense[3, 5])
    file = SparseFile(tmp_path / "a", store["xz"])
    for begin, end in ((0, 5), (1, 2), (2, 5)):
        assert_equal(file.events(begin, end), SparseEvents.of(dense[begin:end]))
        np.testing.assert_array_equal(file.events(begin, end).dense(), dense[begin:end])


def test_arrays_that_were_written_dense_are_read_too(tmp_path: Path):
    dense = random_events(4, 40, 140, 0.1)
    write_store(tmp_path / "a", {"xz": dense}, {"format": "f"})
    file = SparseFile(tmp_path / "a", open_store(tmp_path / "a", "f")["xz"])
    assert_equal(file.events(1, 4), SparseEvents.of(dense[1:]))


def test_negative_zeros_and_values_that_are_no_numbers_survive_or_are_zero(tmp_path: Path):
    dense = np.array([[[0.0, -0.0, np.nan, np.inf, 1e-45, -2.0]]], dtype=np.float32)
    file = SparseFile(write(tmp_path / "a", dense), open_store(tmp_path / "a", "f")["xz"])
    assert file.events(0, 1).index.tolist() == [2, 3, 4, 5]
    np.testing.assert_array_equal(file.events(0, 1).dense(), dense)


@pytest.mark.parametrize("byte", [0, 4, 6, 9, 12, 40, -70, -30])
def test_a_byte_that_changes_after_the_store_was_opened_is_noticed(byte, tmp_path: Path):
    write(tmp_path / "a", random_events(1, 40, 140, 0.1))
    file = SparseFile(tmp_path / "a", open_store(tmp_path / "a", "f")["xz"])
    path = tmp_path / "a/xz/c/0/0/0"
    content = bytearray(path.read_bytes())
    content[byte] ^= 0x10  # of the frame, its CRC (from -24), or the index of the shard
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a: events 0 to 0 are no longer readable"):
        file.events(0, 1)


def test_a_reader_of_dense_events_refuses_them(tmp_path: Path):
    file = EventFile(tmp_path / "a", open_store(write(tmp_path / "a", random_events(2, 40, 140, 0.1)), "f")["xz"])
    with pytest.raises(InputError, match="event 1 is no longer readable"):
        file.read(1, np.empty((40, 140), dtype=np.float32))


def test_sparse_and_dense_events_do_not_mix(tmp_path: Path):
    def write_both() -> None:
        with create_store(tmp_path / "a", {}) as store:
            store.append("xz", random_events(1, 4, 5, 1))
            store.append_sparse("xz", SparseEvents.of(random_events(1, 4, 5, 1)))

    with pytest.raises(ValueError, match=r"float32 \(4, 5\); those before were float32 \(4, 5\)"):
        write_both()


def test_some_of_the_events():
    dense = random_events(6, 7, 9, 0.2)
    dense[2] = 0
    for chosen in ([], [2], [0, 2, 5], list(range(6))):
        np.testing.assert_array_equal(SparseEvents.of(dense).select(np.array(chosen, dtype=int)).dense(), dense[chosen])
    events = SparseEvents.of(dense)
    for event in (3, -1, -6):
        np.testing.assert_array_equal(events[event], dense[event])
    np.testing.assert_array_equal(np.stack(list(events)), dense)
    for beyond in (6, -7):
        with pytest.raises(IndexError):
            events[beyond]
    for chosen in ([2, 1], [1, 1], [5, 4, 3, 2, 1, 0], [0] * 6, [-1], [4, 6]):
        with pytest.raises(ValueError, match="must increase from 0 to at most 5"):
            events.select(np.array(chosen))
