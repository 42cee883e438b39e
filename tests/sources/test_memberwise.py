"""The bytes of edep-sim's lists: what was encoded comes back, and nothing else is taken for it."""

import struct

import numpy as np
import pytest
from edepsim_file import HitList, Particle, hits_bytes, member_wise, particles_bytes
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nuvlm.sources.memberwise import LayoutError, decode_hits, decode_particles

ID = st.integers(-(2**31), 2**31 - 1)


@st.composite
def hit_lists(draw):
    n = draw(st.integers(0, 6))
    start, stop = (draw(arrays(np.float64, (n, 3), elements=st.floats(allow_nan=False))) for _ in range(2))
    energy = draw(arrays(np.float32, n, elements=st.floats(0, 100, width=32))).astype(np.float64)
    primary = np.array(draw(st.lists(ID, min_size=n, max_size=n)), dtype=np.int64)
    contributors = draw(st.lists(st.lists(ID, max_size=5), min_size=n, max_size=n))
    return HitList(start, stop, energy, primary, contributors)


def as_bytes(data):
    return np.frombuffer(data, dtype=np.uint8)


@settings(deadline=None, max_examples=100)
@given(st.lists(hit_lists(), max_size=4))
def test_hits_come_back_whatever_they_are(lists):
    detectors = decode_hits(as_bytes(hits_bytes(lists)))
    assert len(detectors) == len(lists)
    for found, given_ in zip(detectors, lists, strict=True):
        np.testing.assert_array_equal(found.start_mm, given_.start)
        np.testing.assert_array_equal(found.stop_mm, given_.stop)
        np.testing.assert_array_equal(found.energy_mev, given_.energy)
        np.testing.assert_array_equal(found.primary_id, given_.primary)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.lists(st.builds(Particle, ID, ID, st.tuples(*[st.floats(-1e6, 1e6)] * 4), st.text("ab+-0", max_size=9)))
    )
)
def test_particles_come_back(lists):
    vertices = decode_particles(as_bytes(particles_bytes(lists)))
    assert [part.track_id.tolist() for part in vertices] == [[p.track for p in part] for part in lists]
    assert [part.pdg.tolist() for part in vertices] == [[p.pdg for p in part] for part in lists]
    assert [part.momentum_mev.tolist() for part in vertices] == [[list(p.momentum) for p in part] for part in lists]


def test_one_header_a_list_and_a_checksum_are_read_too():
    part = HitList(np.zeros((2, 3)), np.ones((2, 3)), np.ones(2), np.zeros(2, dtype=int), [[], [1, 2]])
    each = hits_bytes([part]) * 3
    assert [len(detector.energy_mev) for detector in decode_hits(as_bytes(each))] == [2, 2, 2]
    with_checksum = member_wise([hits_bytes([part])[8:]], class_version=struct.pack(">HI", 0, 0xFD2F2F0F))
    assert len(decode_hits(as_bytes(with_checksum))) == 1


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_other_layouts_are_refused_and_never_crash(data):
    part = HitList(np.zeros((3, 3)), np.ones((3, 3)), np.ones(3), np.zeros(3, dtype=int), [[1], [2, 3], []])
    whole = bytearray(hits_bytes([part, part]))
    cut = data.draw(st.integers(1, len(whole) - 1))
    with pytest.raises(LayoutError):
        decode_hits(as_bytes(bytes(whole[:cut])))
    at = data.draw(st.integers(0, 23))  # head, number of hits, their first TObject up to its bits
    bits = data.draw(st.integers(1, 255))
    whole[at] ^= bits
    # these say nothing about the layout: the version of the streamer, of the class, the id of a TObject
    if at not in (5, 6, 7, *range(14, 18)) and not (at == 4 and not bits & 0x40) and not 18 <= at <= 21:
        with pytest.raises(LayoutError):
            decode_hits(as_bytes(bytes(whole)))


def test_objects_not_streamed_member_wise_are_refused():
    with pytest.raises(LayoutError, match="member-wise"):
        decode_hits(as_bytes(struct.pack(">IHHI", 0x40000000 | 8, 10, 1, 0)))
