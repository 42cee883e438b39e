"""larnd-sim / 2x2_sim files: old and new names, several neutrinos a spill, units, and what is refused."""

import h5py
import numpy as np
import pytest

from nuvlm.errors import InputError
from nuvlm.sources.larndsim import convert_larndsim
from nuvlm.voxels import open_shard
from paths import SHARED

OLD = {"event": "eventID", "vertex": None}
NEW = {"event": "event_id", "vertex": "vertex_id"}


def write_file(path, names=NEW, keys=((7, 1), (7, 2), (9, 3)), truth="MeV", segments=10, table="mc_hdr", **changes):
    """A file with `segments` segments of 2 MeV, along z from the vertex (10, 20, 300 + key) cm, for each key."""
    columns = [(names["event"], "u4")] + ([(names["vertex"], "u8")] if names["vertex"] else [])
    columns += [(f"{axis}_{end}", "f4") for end in ("start", "end") for axis in "xyz"] + [("dE", "f4")]
    rows = np.zeros(len(keys) * segments, dtype=columns)
    for i, (event, vertex) in enumerate(keys):
        part = rows[i * segments : (i + 1) * segments]
        part[names["event"]] = event
        if names["vertex"]:
            part[names["vertex"]] = vertex
        for end, shift in (("start", 0), ("end", 1)):
            part[f"x_{end}"], part[f"y_{end}"] = 10, 20
            part[f"z_{end}"] = 300 + vertex + np.arange(segments) + shift
        part["dE"] = 2
    for name, (at, value) in changes.items():
        rows[name][at] = value
    np.random.default_rng(0).shuffle(rows)
    with h5py.File(path, "w") as file:
        file["segments"] = rows
        if truth:
            header = [(names["event"], "u4")] + ([(names["vertex"], "u8")] if names["vertex"] else [])
            header += [(f"{axis}_vert", "f8") for axis in "xyz"] + [
                ("nu_pdg", "i4"),
                ("isCC", "?"),
                ("Enu", "f4"),
                ("y", "f4"),
            ]
            header += [(f"is{mode}", "?") for mode in ("QES", "MEC", "RES", "DIS", "COH")]
            if truth != "GeV without 4-momentum":
                header.append(("nu_4mom", "f4", (4,)))
            hdr = np.zeros(len(keys), dtype=header)
            for row, (event, vertex) in zip(hdr, keys, strict=True):
                row[names["event"]] = event
                if names["vertex"]:
                    row[names["vertex"]] = vertex
                row["x_vert"], row["y_vert"], row["z_vert"] = 10, 20, 300 + vertex
                row["nu_pdg"], row["isCC"], row["y"], row["isRES"] = 14, True, 0.25, True
                row["Enu"] = 2500 if truth == "MeV" else 2.5
                if truth != "GeV without 4-momentum":
                    row["nu_4mom"] = (0, 0, 2500, 2500)
            file[table] = hdr
    return path


def convert(path, detector, offset=(0, 0, 0)):
    out = path.with_suffix(".voxels.h5")
    convert_larndsim(path, out, detector=detector, offset_mm=offset)
    with open_shard(out, detector) as shard:
        return shard.events, [block for _, block in shard.blocks(1)]


@pytest.mark.parametrize("truth", ["MeV", "GeV", "GeV without 4-momentum"])
def test_several_neutrinos_a_spill_become_events_with_truth_in_gev_and_mm(tmp_path, detector, truth):
    events, voxels = convert(write_file(tmp_path / "a.h5", truth=truth), detector)
    assert events["event_id"].tolist() == [1, 2, 3]
    np.testing.assert_allclose(events["nu_energy"], 2.5)
    np.testing.assert_allclose(events["vertex_mm"][1], [100, 200, 3020])
    assert events["nu_pdg"].tolist() == [14] * 3
    assert events["is_cc"].all()
    assert (events["mode"] == 3).all()
    np.testing.assert_allclose(events["inelasticity"], 0.25)
    for block in voxels:
        assert block.energy.sum() == pytest.approx(20)
    assert (voxels[0].x[0], voxels[0].y[0], voxels[0].z[0]) == (1100, 240, 602)


def test_old_names_without_truth(tmp_path, detector):
    events, _ = convert(write_file(tmp_path / "a.h5", OLD, keys=((4, 0), (2, 0)), truth=None), detector)
    assert events["event_id"].tolist() == [2, 4]
    assert (events["nu_pdg"] == 0).all()
    assert np.isnan(events["vertex_mm"]).all()


def test_old_names_with_truth(tmp_path, detector):
    events, _ = convert(write_file(tmp_path / "a.h5", OLD, keys=((4, 0), (2, 0)), table="genie_hdr"), detector)
    assert events["nu_pdg"].tolist() == [14, 14]


def test_one_neutrino_an_event_keeps_the_event_id_and_vertices_numbered_anew_do_not_collide(tmp_path, detector):
    events, _ = convert(write_file(tmp_path / "a.h5", keys=((5, 1), (6, 1))), detector)
    assert events["event_id"].tolist() == [5, 6]
    events, _ = convert(write_file(tmp_path / "b.h5", keys=((5, 1), (5, 2), (6, 1))), detector)
    assert events["event_id"].tolist() == [5 * 2**32 + 1, 5 * 2**32 + 2, 6 * 2**32 + 1]


def test_offset_moves_deposits_and_vertices(tmp_path, detector):
    path = write_file(tmp_path / "a.h5")
    plain, before = convert(path, detector)
    moved, after = convert(path, detector, (10, -20, 500))
    np.testing.assert_allclose(moved["vertex_mm"] - plain["vertex_mm"], [[10, -20, 500]] * 3)
    assert int(after[0].z[0]) - int(before[0].z[0]) == 100


def test_events_outside_the_detector_are_left_out_and_counted(tmp_path, detector, caplog):
    events, _ = convert(write_file(tmp_path / "a.h5", keys=((1, 1), (2, 900))), detector)
    assert events["event_id"].tolist() == [1]
    assert "1 of 2 events lie outside the detector" in caplog.text
    with pytest.raises(InputError, match=r"(?s)all 3 events lie outside.*set input\.offset_mm"):
        convert(write_file(tmp_path / "b.h5"), detector, (5000, 0, 0))
    assert not (tmp_path / "b.voxels.h5").exists()


def test_bad_files_are_named_with_the_event(tmp_path, detector):
    path = tmp_path / "a.h5"
    with pytest.raises(InputError, match="no such file"):
        convert(path, detector)
    for content in (b"", b"text"):
        path.write_bytes(content)
        with pytest.raises(InputError, match="not HDF5, empty or cut short"):
            convert(path, detector)
    whole = write_file(path).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cut short"):
        convert(path, detector)
    with pytest.raises(InputError, match=r"event 9 has a coordinate or deposit that is not a number"):
        convert(write_file(path, x_start=(25, np.nan)), detector)
    with pytest.raises(InputError, match=r"event 7 has a negative deposit"):
        convert(write_file(path, dE=(5, -1)), detector)
    with pytest.raises(InputError, match="'segments' is empty"):
        convert(write_file(path, keys=(), truth=None), detector)
    with h5py.File(path, "w") as file:
        file["hits"] = np.zeros(3)
    with pytest.raises(InputError, match=r"no table 'segments' \(found: hits\)"):
        convert(path, detector)
    with h5py.File(path, "w") as file:
        file["segments"] = np.zeros(3, dtype=[("event_id", "u4"), ("dE", "f4")])
    with pytest.raises(InputError, match="no column x_start"):
        convert(path, detector)


def test_energies_that_contradict_each_other_are_refused(tmp_path, detector):
    path = write_file(tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        header = file["mc_hdr"][:]
        header["Enu"] *= 3
        file["mc_hdr"][:] = header
    with pytest.raises(InputError, match="Enu and nu_4mom disagree"):
        convert(path, detector)


@pytest.mark.skipif(not SHARED.exists(), reason="needs the sample files")
def test_real_edepsim_events_keep_their_energy(detector, tmp_path):
    with h5py.File(SHARED / "larndsim" / "edepsim_mixed.h5") as file:
        segments = file["segments"][:]
    out = tmp_path / "a.h5"
    convert_larndsim(SHARED / "larndsim" / "edepsim_mixed.h5", out, detector=detector, offset_mm=(0, 0, 3500))
    with open_shard(out, detector) as shard:
        assert shard.events["event_id"].tolist() == list(range(100))
        energy = [block.energy.sum(dtype=np.float64) for _, block in shard.blocks(1)]
    expected = np.bincount(segments["eventID"], segments["dE"].astype(np.float64))
    np.testing.assert_allclose(energy, expected, rtol=1e-5)
