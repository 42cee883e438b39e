"""GENIE's summary trees (gst): the same final states as in rootracker files."""

from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot

from nuvlm.base.errors import InputError
from nuvlm.detector.voxels import MODES
from nuvlm.simulation.genie import read_genie

FLAGS = ("cc", "nc", "qel", "mec", "res", "dis", "coh", "nuel", "amnugamma", "em")
MUON, PROTON, PION = 0.105658, 0.938272, 0.139570


def gst_row(nu=14, lepton=13, flags=("cc", "qel"), hadrons=((2212, (0.1, 0.0, 0.4), PROTON),), scale=1.0):
    """One interaction of a 2 GeV neutrino with a lepton of 1.2 GeV."""
    row = {"neu": nu, "fspl": lepton, "Ev": 2.0, "pxv": 0.0, "pyv": 0.0, "pzv": 2.0}
    row |= {"El": np.hypot(1.2, MUON if abs(lepton) == 13 else 0), "pxl": 0.0, "pyl": 0.72, "pzl": 0.96}
    row |= {"vtxx": 0.1, "vtxy": -0.2, "vtxz": 3.0}
    row |= {flag: flag in flags for flag in FLAGS}
    row |= {"nf": len(hadrons), "pdgf": [pdg for pdg, _, _ in hadrons]}
    row["Ef"] = [float(np.hypot(np.linalg.norm(p), mass)) for _, p, mass in hadrons]
    row |= {f"p{axis}f": [p[i] for _, p, _ in hadrons] for i, axis in enumerate("xyz")}
    for name in [name for name in row if name[0] in "Ep" and name != "pdgf" and name not in FLAGS]:
        row[name] = [scale * value for value in row[name]] if name.endswith("f") else scale * row[name]
    return row


def write_gst(path: Path, rows, without=()):
    columns, types = {}, {}
    for name in rows[0]:
        if name in without:
            continue
        values = [row[name] for row in rows]
        if isinstance(values[0], list):
            kind = "int32" if name == "pdgf" else "float64"
            columns[name], types[name] = ak.values_astype(ak.Array(values), kind), f"var * {kind}"
        else:
            columns[name] = np.array(values, dtype=("i4" if isinstance(values[0], int) else None))
            if name in FLAGS:
                columns[name] = np.array(values, dtype=bool)
            types[name] = columns[name].dtype
    with uproot.recreate(path) as file:
        file.mktree("gst", types).extend(columns)
    return path


def test_lepton_and_hadrons_are_the_final_state(tmp_path):
    rows = [
        gst_row(),
        gst_row(12, 12, ("nc", "res"), ((2112, (0.0, 0.0, 0.2), 0.939565), (111, (0.1, 0.2, 0.3), 0.134977))),
        gst_row(hadrons=(), flags=("cc", "coh")),
    ]
    one, two, three = read_genie([write_gst(tmp_path / "a.root", rows)], 0, 3)
    assert (one.state.nu_pdg, one.state.is_cc, one.state.mode, one.state.nu_energy) == (14, True, MODES["QE"], 2.0)
    assert one.state.inelasticity == pytest.approx(1 - np.hypot(1.2, MUON) / 2)
    assert [particle.pdg for particle in one.state.particles] == [13, 2212]
    np.testing.assert_allclose(one.state.particles[0][1:4], (0, 720, 960))
    np.testing.assert_allclose(one.vertex_mm, (100, -200, 3000))
    assert [particle.pdg for particle in two.state.particles] == [12, 2112, 111]
    assert (two.state.is_cc, two.state.mode) == (False, MODES["RES"])
    assert two.state.inelasticity == pytest.approx(0.4)
    assert [particle.pdg for particle in three.state.particles] == [13]


def test_interactions_whose_particles_are_in_no_column_are_defects(tmp_path):
    rows = [
        gst_row(14, 14, ("nc", "nuel"), ()),
        gst_row(flags=("qel",)),
        gst_row(flags=("cc", "nc")),
        gst_row(hadrons=((2212, (0, 0, 0.4), 2.0),)),
        gst_row(11, 11, ("em",)),
    ]
    rows[3]["nf"] = 2
    defects = [event.defect for event in read_genie([write_gst(tmp_path / "a.root", rows)], 0, 5)]
    assert "scattering (nuel)" in defects[0]
    assert "neither charged nor neutral current, or both" in defects[1]
    assert defects[2] == defects[1]
    assert "do not hold the number of particles" in defects[3]
    assert "no incoming neutrino" in defects[4]


def test_other_units_and_missing_branches_are_errors(tmp_path):
    with pytest.raises(InputError, match="momenta are not in GeV: masses are 1000 times too large"):
        list(read_genie([write_gst(tmp_path / "a.root", [gst_row(scale=1000)])], 0, 1))
    with pytest.raises(InputError, match=r"'gst' has no branch mec, pdgf\. .* gntpc -f gst"):
        read_genie([write_gst(tmp_path / "b.root", [gst_row()], without=("mec", "pdgf"))], 0, 1)
    path = write_gst(tmp_path / "c.root", [gst_row()], without=("vtxx", "nuel"))
    (event,) = read_genie([path], 0, 1)
    assert event.defect is None
    assert np.isnan(event.vertex_mm[0])
