"""The voxel shard: energy shared by length, and every defect of a file named."""

import itertools
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nuvlm.base.errors import InputError
from nuvlm.detector.geometry import Detector
from nuvlm.detector.voxels import (
    EVENT_DTYPE,
    PARTICLE_DTYPE,
    Event,
    Voxels,
    open_shard,
    select_events,
    voxelize,
    voxelize_boxes,
    write_shard,
)

# Rounded: nearer to a wall of a voxel than the precision of a coordinate in the detector, either side is right.
COORDINATE = st.floats(-1500, 1500, width=32).map(lambda mm: round(mm, 6)) | st.sampled_from(
    [-1000.0, 0.0, 5.0, 1000.0]
)


def read(path, detector):
    with open_shard(path, detector) as shard:
        return shard.events, [(rows, block) for rows, block, _ in shard.blocks(300)]


@settings(deadline=None, max_examples=60)
@given(
    start=arrays(np.float64, (5, 3), elements=COORDINATE),
    end=arrays(np.float64, (5, 3), elements=COORDINATE),
    energy=arrays(np.float64, 5, elements=st.floats(0, 100)),
)
def test_energy_is_conserved_wherever_segments_go(start, end, energy):
    voxels, outside = voxelize(Detector(), start, end, energy)
    assert voxels.energy.sum(dtype=np.float64) + outside == pytest.approx(energy.sum(), rel=1e-6, abs=1e-9)


def as_dict(voxels):
    index = zip(voxels.x.tolist(), voxels.y.tolist(), voxels.z.tolist(), strict=True)
    return dict(zip(index, voxels.energy.tolist(), strict=True))


def assert_same(found, expected, energy):
    """Voxel by voxel, to the precision that they are kept in."""
    for voxel in found.keys() | expected.keys():
        assert found.get(voxel, 0) == pytest.approx(expected.get(voxel, 0), abs=1e-6 * (energy.sum() + 1))


# Coordinates that sums and products below are exact in, many of them on the edges of voxels.
EXACT = st.integers(-40 * 64, 40 * 64).map(lambda i: i / 64) | st.integers(-20, 20).map(lambda i: 5.0 * i)
SEGMENTS = {
    "start": arrays(np.float64, (4, 3), elements=COORDINATE),
    "end": arrays(np.float64, (4, 3), elements=COORDINATE),
    "energy": arrays(np.float64, 4, elements=st.floats(0, 100)),
}


@settings(deadline=None, max_examples=60)
@given(**SEGMENTS, order=st.permutations(range(4)))
def test_the_order_of_segments_and_their_direction_do_not_matter(start, end, energy, order):
    voxels, outside = voxelize(Detector(), start, end, energy)
    turned, turned_outside = voxelize(Detector(), end[order], start[order], energy[order])
    points = (start == end).all(axis=1)
    assume(not points.any() or not (np.abs(start[points]) == 1000).any())
    assert_same(as_dict(turned), as_dict(voxels), energy)
    assert turned_outside == pytest.approx(outside, abs=1e-6 * (energy.sum() + 1))


def boxes_reference(detector, centre, size, energy):
    """Every voxel near a box in turn: its energy is the common volume's share of the box."""
    found, outside = {}, 0.0
    for middle, mev in zip(centre, energy, strict=True):
        inside = 0.0
        axes = []
        for axis in range(3):
            edges = detector.origin_mm[axis] + np.arange(detector.shape[axis] + 1) * detector.voxel_mm[axis]
            low, high = middle[axis] - size[axis] / 2, middle[axis] + size[axis] / 2
            if size[axis]:
                share = np.clip(np.minimum(high, edges[1:]) - np.maximum(low, edges[:-1]), 0, None) / size[axis]
            else:
                share = ((edges[:-1] <= low) & (low < edges[1:])).astype(float)
            axes.append([(i, share[i]) for i in np.flatnonzero(share)])
        for (i, a), (j, b), (k, c) in itertools.product(*axes):
            found[i, j, k] = found.get((i, j, k), 0) + a * b * c * mev
            inside += a * b * c
        outside += mev * (1 - inside)
    return found, outside


@settings(deadline=None, max_examples=60)
@given(
    centre=arrays(np.float64, (4, 3), elements=EXACT | COORDINATE | st.sampled_from([1e30, -1e30])),
    size=st.tuples(*[st.sampled_from([0.0, 0.5, 3.0, 4.434, 5.0, 12.0])] * 3),
    energy=arrays(np.float64, 4, elements=st.floats(0, 100)),
)
def test_boxes_are_shared_by_volume(centre, size, energy):
    voxels, outside = voxelize_boxes(Detector(), centre, size, energy)
    expected, expected_outside = boxes_reference(Detector(), centre, size, energy)
    assert_same(as_dict(voxels), expected, energy)
    assert outside == pytest.approx(expected_outside, abs=1e-9)
    assert voxels.energy.sum(dtype=np.float64) + outside == pytest.approx(energy.sum(), rel=1e-6, abs=1e-9)


def test_boxes_on_the_grid_do_not_leak_by_rounding():
    index = np.stack(np.meshgrid(*[np.arange(0, 200, 7)] * 3), axis=-1).reshape(-1, 3)
    detector = Detector()
    centre = np.array([-1000, -1000, 0]) + 10 * ((index + 0.5) * (0.1, 0.5, 0.5) + 0.3) - 3
    voxels, outside = voxelize_boxes(detector, centre, detector.voxel_mm, np.ones(len(index)))
    assert len(voxels) == len(index)
    assert outside < 1e-9 * len(index)


@settings(deadline=None, max_examples=60)
@given(
    start=arrays(np.float64, (4, 3), elements=EXACT),
    end=arrays(np.float64, (4, 3), elements=EXACT),
    energy=arrays(np.float64, 4, elements=st.floats(0, 100)),
    share=st.integers(1, 63).map(lambda i: i / 64),
)
def test_a_segment_cut_in_two_is_the_same(start, end, energy, share):
    voxels, outside = voxelize(Detector(), start, end, energy)
    cut = start + share * (end - start)
    halves, halves_outside = voxelize(
        Detector(),
        np.concatenate([start, cut]),
        np.concatenate([cut, end]),
        np.r_[share * energy, (1 - share) * energy],
    )
    assert_same(as_dict(halves), as_dict(voxels), energy)
    assert halves_outside == pytest.approx(outside, abs=1e-6 * (energy.sum() + 1))


@settings(deadline=None, max_examples=60)
@given(
    start=arrays(np.float64, (4, 3), elements=EXACT),
    end=arrays(np.float64, (4, 3), elements=EXACT),
    energy=arrays(np.float64, 4, elements=st.floats(0, 100)),
    by=st.tuples(st.integers(-500, 500), st.integers(-100, 100), st.integers(0, 1000)),
)
def test_a_shift_by_whole_voxels_shifts_the_voxels(start, end, energy, by):
    start, end = start + np.array([0, 0, 500]), end + np.array([0, 0, 500])
    voxels, _ = voxelize(Detector(), start, end, energy)
    shift = np.array(by) * Detector().voxel_mm
    moved, outside = voxelize(Detector(), start + shift, end + shift, energy)
    assert outside == pytest.approx(0, abs=1e-6)
    back = {tuple(np.subtract(voxel, by)): e for voxel, e in as_dict(moved).items()}
    assert_same(back, as_dict(voxels), energy)


@settings(deadline=None, max_examples=60)
@given(**SEGMENTS)
def test_voxels_come_once_and_in_order(start, end, energy):
    voxels, _ = voxelize(Detector(), start, end, energy)
    flat = np.ravel_multi_index((voxels.x, voxels.y, voxels.z), Detector().shape)
    assert (np.diff(flat) > 0).all()
    assert (voxels.energy > 0).all()


def test_voxels_of_another_geometry(rng):
    detector = Detector(
        x_mm=(-10, 300), y_mm=(0, 77), z_mm=(5, 6), voxel_mm=(3.1, 7, 1), anodes_mm=(0,), cathodes_mm=(300,)
    )
    start, end = rng.uniform((-50, -10, 4), (400, 90, 7), (2, 200, 3))
    energy = rng.random(200)
    voxels, outside = voxelize(detector, start, end, energy)
    assert voxels.energy.sum(dtype=np.float64) + outside == pytest.approx(energy.sum())
    assert voxels.x.max() == 99
    assert voxels.y.max() == 10
    assert voxels.z.max() == 0


def test_energy_is_shared_by_length_like_many_small_points(detector, rng):
    start, end = rng.uniform(-900, 900, (2, 20, 3)) + np.array([0, 0, 2000])
    end = start + 0.05 * (end - start)
    energy = rng.random(20)
    voxels, outside = voxelize(detector, start, end, energy)
    n = 20_000
    t = (np.arange(n) + 0.5) / n
    points = start[:, None] + t[None, :, None] * (end - start)[:, None]  # (segments, n, 3)
    index = np.floor((points - detector.origin_mm) / detector.voxel_mm).astype(int).reshape(-1, 3)
    flat, inverse = np.unique(np.ravel_multi_index(index.T, detector.shape), return_inverse=True)
    expected = dict(zip(flat.tolist(), np.bincount(inverse, np.repeat(energy / n, n)), strict=True))
    found = dict(zip(np.ravel_multi_index((voxels.x, voxels.y, voxels.z), detector.shape), voxels.energy, strict=True))
    assert outside == 0
    for voxel in expected.keys() | found.keys():
        assert found.get(voxel, 0) == pytest.approx(expected.get(voxel, 0), abs=2e-3 * energy.max())


def test_segment_through_the_wall_leaves_the_outer_part_outside(detector):
    voxels, outside = voxelize(detector, np.array([[0, 0, -30.0]]), np.array([[0, 0, 10.0]]), np.array([4.0]))
    assert outside == pytest.approx(3.0)
    assert voxels.z.tolist() == [0, 1]
    np.testing.assert_allclose(voxels.energy, 0.5)


def test_points_on_the_edges_belong_to_the_upper_voxel_and_the_far_wall_is_outside(detector):
    points = np.array([[-1000, -1000, 0], [-999, -995, 5], [1000, 0, 100.0]])
    voxels, outside = voxelize(detector, points, points, np.array([1.0, 2.0, 4.0]))
    assert list(zip(voxels.x.tolist(), voxels.y.tolist(), voxels.z.tolist(), strict=True)) == [(0, 0, 0), (1, 1, 1)]
    assert outside == 4


def test_shard_round_trip_in_blocks(make_shard, make_voxels, detector):
    events, blocks = read(make_shard(n=5), detector)
    assert events["event_id"].tolist() == [0, 1, 2, 3, 4]
    assert blocks[0][0][0] == 0
    assert sum(len(block) for _, block in blocks) == events["n_voxels"].sum()
    energy = np.concatenate([block.energy for _, block in blocks])
    np.testing.assert_array_equal(energy[events["first_voxel"][3] :][: events["n_voxels"][3]], make_voxels(3).energy)


def test_selected_events_of_two_shards_are_those_of_both_with_their_truth(tmp_path, detector, make_voxels):
    files = {tmp_path / f"{name}.h5": range(first, first + 4) for name, first in (("a", 0), ("b", 10))}
    for path, ids in files.items():
        events = []
        for i in ids:
            rows = np.zeros(i % 3, dtype=PARTICLE_DTYPE)
            rows["event_id"], rows["pdg"] = i, 100 + i
            known = {"nu_pdg": 14, "is_cc": True, "nu_energy": i + 1.0, "vertex_mm": (1.0, 2.0, 3.0), "mode": 4}
            events.append(Event(i, make_voxels(i), **known, truth={"particles": rows}))
        write_shard(path, detector, events)
    out = tmp_path / "out.h5"
    chosen = {path: [ids[3], ids[1]] for path, ids in files.items()}
    select_events(chosen, out, detector)
    with open_shard(out, detector) as shard:
        assert shard.events["event_id"].tolist() == [1, 3, 11, 13]
        assert shard.events["nu_energy"].tolist() == [2, 4, 12, 14]
        (_, block, begins), *_ = shard.blocks()
        for k, i in enumerate((1, 3, 11, 13)):
            span, expected = slice(begins[k], begins[k + 1]), make_voxels(i)
            for name in ("x", "y", "z", "energy"):
                np.testing.assert_array_equal(getattr(block, name)[span], getattr(expected, name))
        assert shard.truth("particles")["pdg"].tolist() == [101, 111, 111, 113]
    with pytest.raises(InputError, match=r"b\.h5: has no event 99 \(1 of 2 missing\)"):
        select_events({tmp_path / "b.h5": [11, 99]}, out, detector)
    # A conversion with other settings may have left it out.
    select_events({tmp_path / "b.h5": [11, 99]}, out, detector, on_missing_event="skip")
    with open_shard(out, detector) as shard:
        assert shard.events["event_id"].tolist() == [11]
    with pytest.raises(InputError, match=r"b\.h5: has no event 98 \(2 of 2 missing\)\. The file has changed"):
        select_events({tmp_path / "b.h5": [98, 99]}, out, detector, on_missing_event="skip")
    write_shard(tmp_path / "b.h5", detector, [Event(11, make_voxels(11))], drifted=True)
    with pytest.raises(InputError, match=r"a\.h5: its charge has drifted, or not, unlike that of others"):
        select_events({tmp_path / "a.h5": [1], tmp_path / "b.h5": [11]}, out, detector)


def test_unknown_truth_is_written_as_the_format_says(make_shard, detector):
    events, _ = read(make_shard(truth=False), detector)
    assert (events["nu_pdg"] == 0).all()
    assert np.isnan(events["nu_energy"]).all()
    assert np.isnan(events["vertex_mm"]).all()


def foreign(path: Path, change) -> Path:
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def edit(name, row, value):
    def change(file):
        column = file[name][:]
        column[row] = value
        file[name][:] = column

    return change


def edit_event(field, row, value):
    def change(file):
        table = file["events"][:]
        table[field][row] = value
        file["events"][:] = table

    return change


def drop_last_voxel(file):
    for name in ("x", "y", "z", "energy"):
        file[f"voxels/{name}"].resize((len(file[f"voxels/{name}"]) - 1,))


def twin_voxel(file):
    first = int(file["events"]["first_voxel"][2])
    for name in ("x", "y", "z"):
        column = file[f"voxels/{name}"][:]
        column[first + 7] = column[first + 3]
        file[f"voxels/{name}"][:] = column


DEFECTS = {
    "energy NaN": (edit("voxels/energy", 0, np.nan), "event 0 has an energy that is not a number"),
    "energy infinite": (edit("voxels/energy", 0, np.inf), "event 0 has an energy that is not a number"),
    "energy negative": (edit("voxels/energy", -1, -1), "event 5 has a negative energy"),
    "x outside": (edit("voxels/x", -1, 2000), "event 5 has a voxel outside the detector along x"),
    "y outside": (edit("voxels/y", -1, 400), "event 5 has a voxel outside the detector along y"),
    "z outside": (edit("voxels/z", 0, 1400), "event 0 has a voxel outside the detector along z"),
    "voxel twice": (twin_voxel, "event 2 has a voxel twice"),
    "event without voxels": (edit_event("n_voxels", 3, 0), "event 3 has no voxels"),
    "event id twice": (edit_event("event_id", 4, 1), "event 1 occurs twice"),
    "rows and voxels apart": (edit_event("first_voxel", 2, 5), "at event 2, first_voxel and n_voxels"),
    "voxels cut short": (drop_last_voxel, "at event 5, first_voxel and n_voxels"),
    "drifted, perhaps": (lambda file: file.attrs.__setitem__("drifted", "maybe"), "'drifted' is 'maybe'"),
    "drifted, thrice": (lambda file: file.attrs.__setitem__("drifted", 3), "'drifted' is 3; true or false"),
    "other version": (lambda file: file.attrs.__setitem__("version", 2), "version 2"),
    "foreign format": (lambda file: file.attrs.__setitem__("format", "other"), "not a voxel shard"),
    "no format": (lambda file: file.attrs.__delitem__("format"), "not a voxel shard"),
    "other voxel size": (lambda file: file.attrs.__setitem__("voxel_mm", [1.0, 4, 4]), "voxel_mm is"),
    "table missing": (lambda file: file.__delitem__("voxels/y"), "no table /voxels/y"),
    "events missing": (lambda file: file.__delitem__("events"), "no table /events"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_defects_are_named_with_file_event_and_remedy(make_shard, detector, defect):
    change, message = DEFECTS[defect]
    path = foreign(make_shard(), change)
    with pytest.raises(InputError, match=message) as error:
        read(path, detector)
    assert str(path) in str(error.value)
    assert error.value.args[0].count(". ") >= 1, "a remedy follows the finding"


@pytest.mark.parametrize("defect", [name for name in DEFECTS if "event 5 has" in DEFECTS[name][1] or "twin" in name])
def test_a_bad_event_is_left_out_counted_and_named_where_that_is_asked_for(make_shard, detector, defect, caplog):
    path = foreign(make_shard(), DEFECTS[defect][0])
    with open_shard(path, detector, on_bad_event="skip") as shard:
        found = [(rows, block, begins) for rows, block, begins in shard.blocks(300)]
        events = shard.events
    assert np.concatenate([rows for rows, _, _ in found]).tolist() == [0, 1, 2, 3, 4]
    for rows, block, begins in found:
        assert np.diff(begins).tolist() == events["n_voxels"][rows].tolist()
        assert len(block) == begins[-1]
        assert np.isfinite(block.energy).all()
    assert f"{path}: 1 of 6 events left out; the first: {DEFECTS[defect][1]}" in caplog.text


def test_an_event_without_voxels_may_be_skipped_but_not_all_events(make_shard, detector, caplog):
    def without_voxels(file):
        # The voxels of event 3 become event 4's.
        table = file["events"][:]
        table["n_voxels"][4] += table["n_voxels"][3]
        table["first_voxel"][4] = table["first_voxel"][3]
        table["n_voxels"][3] = 0
        file["events"][:] = table
        file["voxels/energy"][:] = 1.0

    def negative(file):
        file["voxels/energy"][:] = -1.0

    path = foreign(make_shard(), without_voxels)
    with open_shard(path, detector, on_bad_event="skip") as shard:
        rows = np.concatenate([rows for rows, _, _ in shard.blocks()])
    assert 3 not in rows
    assert "event 3 has no voxels" in caplog.text
    path = foreign(path, negative)
    with (
        open_shard(path, detector, on_bad_event="skip") as shard,
        pytest.raises(InputError, match="none of its 6 events can be used; event 0 has a negative energy"),
    ):
        list(shard.blocks())


def test_missing_empty_foreign_and_truncated_files(make_shard, detector, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read(tmp_path / "none.h5", detector)
    (tmp_path / "empty.h5").touch()
    with pytest.raises(InputError, match="empty"):
        read(tmp_path / "empty.h5", detector)
    (tmp_path / "text.h5").write_text("not HDF5 at all")
    with pytest.raises(InputError, match="not HDF5, or cut short"):
        read(tmp_path / "text.h5", detector)
    whole = make_shard().read_bytes()
    for share in (0.2, 0.5, 0.9, 0.999):
        (tmp_path / "cut.h5").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(InputError, match=r"cut\.h5"):
            read(tmp_path / "cut.h5", detector)


def test_flipped_byte_in_the_voxels_is_noticed(make_shard, detector):
    path = make_shard()
    with h5py.File(path) as file:
        chunk = file["voxels/energy"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + chunk.size // 2] ^= 4
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        read(path, detector)


def test_format_written_as_bytes_is_read(make_shard, detector):
    read(foreign(make_shard(), lambda file: file.attrs.__setitem__("format", np.bytes_("nuvlm-voxels"))), detector)


def test_plain_columns_without_filters_are_read(make_shard, detector, tmp_path):
    path = tmp_path / "plain.h5"
    with h5py.File(make_shard()) as source, h5py.File(path, "w") as file:
        file.attrs.update(source.attrs)
        for name in ("events", "voxels/x", "voxels/y", "voxels/z", "voxels/energy"):
            file[name] = source[name][:]
    events, _ = read(path, detector)
    assert events.dtype == EVENT_DTYPE


def test_writing_refuses_what_reading_would(tmp_path, detector, make_voxels):
    nothing = Voxels(*(np.zeros(0, kind) for kind in ("u2", "u2", "u2", "f4")))
    path = tmp_path / "new.h5"
    for events, message in (
        ([Event(1, nothing)], "event 1 has no voxels"),
        ([Event(2, make_voxels(1)), Event(2, make_voxels(2))], "2 occurs twice"),
        ([], "no event"),
    ):
        with pytest.raises(InputError, match=message):
            write_shard(path, detector, events)
    assert not list(tmp_path.iterdir()), "nothing half-written stays behind"
