"""The spectrum of a beam: files read or refused by name and line, and weights that give a sample its energies."""

from pathlib import Path

import numpy as np
import pytest

from nuvlm.base.errors import InputError
from nuvlm.base.files import read_json
from nuvlm.evaluation.metrics import evaluate
from nuvlm.evaluation.spectrum import read_spectrum, weigh
from run_on_disk import write_run


def write(folder: Path, text: str) -> Path:
    path = folder / "beam.csv"
    path.write_text(text)
    return path


def test_a_spectrum_is_straight_between_its_points_and_zero_outside(tmp_path: Path) -> None:
    beam = read_spectrum(write(tmp_path, "# a beam\nenergy_gev, weight\n1, 2\n\n3, 6\n"))
    np.testing.assert_allclose(beam.at(None, np.array([0.5, 1, 2, 3, 3.1])), [0, 2, 4, 6, 0])


def test_a_flux_is_multiplied_by_the_energy(tmp_path: Path) -> None:
    beam = read_spectrum(write(tmp_path, "flux,energy_gev\n2,1\n2,3\n"))
    np.testing.assert_allclose(beam.at(None, np.array([1, 2, 3.0])), [2, 4, 6])


def test_weights_give_the_sample_the_spectrum(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    energy = np.concatenate([rng.uniform(0, 10, 20_000), 10 * rng.beta(2, 5, 20_000), [np.nan, 30]])
    beam = read_spectrum(write(tmp_path, "energy_gev,weight\n0,0\n2,1\n6,0\n"))
    weights = weigh(beam, np.full(len(energy), 14), energy)
    assert (weights[-2:] == 0).all(), "an energy that is not known, and one outside the spectrum"
    assert (weights[energy > 6] == 0).all()
    found, _ = np.histogram(energy[:-2], np.linspace(0, 6, 7), weights=weights[:-2])
    # The triangle's area in each GeV, in twelfths of the whole.
    np.testing.assert_allclose(found / found.sum(), np.array([1, 3, 3.5, 2.5, 1.5, 0.5]) / 12, atol=0.01)


def test_flavours_have_spectra_of_their_own(tmp_path: Path) -> None:
    beam = read_spectrum(write(tmp_path, "energy_gev,weight,nu_pdg\n0,3,14\n10,3,14\n0,1,12\n10,1,12\n"))
    rng = np.random.default_rng(5)
    energy, pdg = rng.uniform(0, 10, 9000), np.repeat([12, 14, -14], (2000, 4000, 3000))
    weights = weigh(beam, pdg, energy)
    assert weights[pdg == 14].sum() / weights[pdg == 12].sum() == pytest.approx(3, rel=0.02)
    assert (weights[pdg == -14] == 0).all(), "a flavour that the beam does not have"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty.*first line must name"),
        ("1,2\n3,4\n", "line 1: the columns are 1, 2. Name them"),
        ("energy_gev,weight,flux\n1,2,3\n", "line 1: the columns are"),
        ("energy_gev,weight\n1,2\n2\n", "line 3: has 1 values for 2 columns"),
        ("energy_gev,weight\n1,2\n\n2,many\n", "line 4: weight is 'many', not a number"),
        ("energy_gev,weight\n1,nan\n2,1\n", "line 2: weight is 'nan'"),
        ("energy_gev,weight\n1,2\n2,-1\n", "line 3: weight is '-1', not a number that is not negative"),
        ("energy_gev,weight\n2,2\n1,1\n", "line 3: energy_gev is 1 after 2. Sort"),
        ("energy_gev,weight\n1,2\n", "line 2: fewer than two energies"),
        ("energy_gev,weight\n", "line 1: fewer than two energies"),
        ("energy_gev,weight,nu_pdg\n1,2,14\n2,2,14\n1,1,12\n", "fewer than two energies for nu_pdg 12"),
        ("energy_gev,weight,nu_pdg\n1,2,13\n2,2,13\n", "line 2: nu_pdg is '13', not 12"),
        ("energy_gev,weight\n1,0\n2,0\n", "every weight is 0"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InputError, match=f"{path}.*{message}"):
        read_spectrum(path)


def test_a_missing_file_and_one_that_is_no_text_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.csv: cannot be read .*report.spectrum"):
        read_spectrum(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"\x89\xff\xfe")
    with pytest.raises(InputError, match=r"binary.csv: cannot be read"):
        read_spectrum(tmp_path / "binary.csv")


def test_cuts_are_weighted_and_everything_else_is_not(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    beam = write(tmp_path, "energy_gev,weight\n0,0\n2,1\n5,0\n")
    for name, spectrum in (("plain", None), ("beam", beam)):
        evaluate(run.events, run.predictions, tmp_path / f"{name}.json", resamples=20, spectrum=spectrum, level=0.5)
    plain, weighted = (read_json(tmp_path / f"{name}.json") for name in ("plain", "beam"))
    assert plain["spectrum"] is None
    result = weighted["spectrum"]
    assert result["file"] == str(beam)
    n = weighted["scores"]["cnn"]["nominal"]["n"]
    assert 0 < result["left_out"] < n
    assert 1 < result["effective_events"] < n - result["left_out"]
    assert plain["scores"] == weighted["scores"]
    assert plain["cuts"]["cnn"]["nc"]["efficiency"] != weighted["cuts"]["cnn"]["nc"]["efficiency"]
    sets, of_beam = plain["sets"]["models"]["cnn"], weighted["sets"]["models"]["cnn"]
    for selection, answers in sets.pop("answers").items():
        assert answers["kept"] > 0
        assert answers["accuracy"] != of_beam["answers"][selection]["accuracy"]
    assert of_beam == {**sets, "answers": of_beam["answers"]}
    beam.write_text("energy_gev,weight\n1000,1\n2000,1\n")
    with pytest.raises(InputError, match=r"beam.csv: no test event lies within the spectrum. Check that its energies"):
        evaluate(run.events, run.predictions, tmp_path / "no.json", resamples=20, spectrum=beam)
