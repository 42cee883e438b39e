"""Systematic uncertainties: shifts by hand, the covariance against numpy, pairing, reweighting, and who moves least."""

import numpy as np
import pytest

from nuvlm.evaluation.nuisances import Nuisance, Reweighting
from nuvlm.evaluation.systematics import (
    IN_COVARIANCE,
    LOST,
    QUANTITIES,
    Varied,
    covariance,
    factors,
    measure,
    symmetrise,
)

SCALE = Nuisance(name="scale", title="scale", source="here", plus={"a": 2}, minus={"a": 1})
NOISE = Nuisance(name="noise", title="noise", source="here", plus={"b": 1}, one_sided=True)
RATE = Nuisance(name="rate", title="rate", source="here", plus=2, minus=0.5, weights=Reweighting(where={"class": "nc"}))


def answered(*predicted: int, weights: list[float] | None = None) -> Varied:
    return Varied(np.array(predicted), np.ones(len(predicted)) if weights is None else np.array(weights))


def of_models(n: int, moving: dict[str, float], seed: int = 3) -> tuple[np.ndarray, dict[str, dict[str, Varied]]]:
    """Models that are right for 80 % of `n` events, of which nuisances make a fraction `moving` wrong."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(3, size=n)
    answers = {}
    for model, share in moving.items():
        nominal = np.where(rng.random(n) < 0.8, truth, (truth + 1) % 3)
        worse = np.where((rng.random(n) < share) & (nominal == truth), (truth + 1) % 3, nominal)
        answers[model] = {"nominal": answered(*nominal), "noise_plus": answered(*worse)}
    return truth, answers


def test_shifts_of_six_events_by_hand():
    truth = np.array([0, 0, 1, 1, 2, 2])
    answers = {
        "nominal": answered(0, 1, 1, 1, 0, 2),
        "scale_plus": answered(0, 0, 1, 1, 0, 0),
        "scale_minus": answered(1, 1, 1, 0, 0, 2),
        "noise_plus": answered(0, 1, 1, LOST, 0, 2),
    }
    found = measure(truth, {"bdt": answers}, [SCALE, NOISE], seed=1, resamples=50)
    assert found["events"] == {"nue_cc": 2, "numu_cc": 2, "nc": 2}
    of_model = found["models"]["bdt"]
    nominal = {name: of_model["nominal"][name]["value"] for name in QUANTITIES}
    assert nominal == pytest.approx(
        {"efficiency_nue_cc": 1 / 2, "efficiency_numu_cc": 1, "efficiency_nc": 1 / 2, "background_nue_cc": 1 / 4,
         "purity_nue_cc": 1 / 2, "purity_numu_cc": 2 / 3, "purity_nc": 1}
    )  # fmt: skip

    def moved(nuisance: str, side: str) -> list[float]:
        return [of_model["shifts"][nuisance][side][name]["value"] for name in IN_COVARIANCE]

    assert moved("scale", "plus") == pytest.approx([1 / 2, 0, -1 / 2, 1 / 4])
    assert moved("scale", "minus") == pytest.approx([-1 / 2, -1 / 2, 0, 1 / 4])
    assert moved("scale", "shift") == pytest.approx([1 / 2, 1 / 4, -1 / 4, 0])
    assert moved("noise", "shift") == moved("noise", "plus") == pytest.approx([0, -1 / 2, 0, 0])
    assert "minus" not in of_model["shifts"]["noise"]
    assert np.array(of_model["covariance"]) == pytest.approx(
        np.array([[4, 2, -2, 0], [2, 5, -1, 0], [-2, -1, 1, 0], [0, 0, 0, 0]]) / 16
    )
    assert of_model["total"]["efficiency_numu_cc"]["systematic"] == pytest.approx(np.sqrt(5) / 4)
    assert of_model["shifts"]["scale"]["plus"]["purity_nc"]["value"] is None, "no event is called NC"
    assert of_model["lost"] == {"scale_plus": 0, "scale_minus": 0, "noise_plus": 1}
    assert found["least"] is None


def test_the_covariance_is_that_of_independent_nuisances(rng):
    shifts = rng.normal(size=(5, 4))
    drawn = rng.normal(size=(200_000, 5)) @ shifts
    expected = np.cov(drawn.T)
    np.testing.assert_allclose(covariance(shifts), sum(np.outer(d, d) for d in shifts), rtol=1e-12)
    np.testing.assert_allclose(covariance(shifts), expected, atol=0.03 * np.abs(expected).max())
    assert (np.linalg.eigvalsh(covariance(shifts)) > -1e-12).all()
    up, down = shifts[:2]
    np.testing.assert_allclose(symmetrise(up, down), (up - down) / 2)
    assert symmetrise(up, None) is up


def test_errors_are_those_of_paired_differences():
    """The same events: a shift is far better known than the efficiency, by the binomial error of those that change."""
    n = 6000
    truth, answers = of_models(n, {"cnn": 0.02})
    found = measure(truth, answers, [NOISE], seed=1)["models"]["cnn"]
    moved = found["shifts"]["noise"]["shift"]["efficiency_nc"]
    change = (answers["cnn"]["noise_plus"].predicted == truth) * 1.0 - (answers["cnn"]["nominal"].predicted == truth)
    of_class = change[truth == 2]
    assert moved["value"] == pytest.approx(of_class.mean())
    assert moved["error"] == pytest.approx(of_class.std() / np.sqrt(len(of_class)), rel=0.06)
    assert moved["error"] < 0.5 * found["nominal"]["efficiency_nc"]["statistical"]
    assert moved["resolved"]
    assert moved["interval"][0] < moved["value"] < moved["interval"][1] < 0


def test_a_single_event_that_changes_is_within_its_error():
    truth, answers = of_models(300, {"cnn": 0.0})
    changed = answers["cnn"]["nominal"].predicted.copy()
    changed[np.flatnonzero(changed == truth)[0]] = LOST
    moved = measure(truth, {"cnn": answers["cnn"] | {"noise_plus": answered(*changed)}}, [NOISE], seed=1)
    of_class = f"efficiency_{('nue_cc', 'numu_cc', 'nc')[truth[np.flatnonzero(changed == LOST)[0]]]}"
    assert moved["models"]["cnn"]["shifts"]["noise"]["shift"][of_class]["value"] < 0
    assert not moved["models"]["cnn"]["shifts"]["noise"]["shift"][of_class]["resolved"]


def test_a_reweighting_of_a_class_moves_purities_and_background_and_no_efficiency():
    truth = np.array([0, 0, 1, 1, 2, 2])
    same = (0, 1, 1, 1, 0, 2)
    weight = factors({"class": np.array(["a"] * 4 + ["nc"] * 2, dtype=object)}, RATE.weights, 2)
    assert weight.tolist() == [1, 1, 1, 1, 2, 2]
    answers = {
        "nominal": answered(*same),
        "rate_plus": answered(*same, weights=weight.tolist()),
        "rate_minus": answered(*same, weights=(1 / weight).tolist()),
    }
    moved = measure(truth, {"vlm": answers}, [RATE], seed=1, resamples=20)["models"]["vlm"]["shifts"]["rate"]["plus"]
    assert [moved[name]["value"] for name in IN_COVARIANCE] == pytest.approx([0, 0, 0, 2 / 6 - 1 / 4])
    assert moved["purity_nue_cc"]["value"] == pytest.approx(1 / 3 - 1 / 2)


def test_a_factor_per_particle_makes_a_poisson_distribution_of_a_larger_mean(rng):
    counts = rng.poisson(0.8, 200_000).astype(float)
    weights = factors({"n_pion": counts}, Reweighting(per="n_pion"), 1.3)
    assert np.average(counts, weights=weights) == pytest.approx(1.3 * 0.8, rel=0.01)
    assert np.average(counts == 0, weights=weights) == pytest.approx(np.exp(-1.3 * 0.8), rel=0.01)


def test_events_of_unknown_truth_keep_their_weight():
    truth = {"nu_energy": np.array([0.5, np.nan, 2.0]), "n_pion": np.array([1.0, 1.0, np.nan])}
    low = Reweighting.model_validate({"where": {"nu_energy": {"high": 1.5}}})
    assert factors(truth, low, 2).tolist() == [2, 1, 1]
    assert factors(truth, Reweighting(per="n_pion"), 2).tolist() == [2, 2, 1]
    between = Reweighting.model_validate({"where": {"nu_energy": {"low": 0.5, "high": 2}}})
    assert factors(truth, between, 3).tolist() == [3, 1, 1]


def test_a_model_moves_least_only_beyond_the_errors_of_the_differences():
    truth, answers = of_models(4000, {"steady": 0.0, "shaky": 0.2, "shakier": 0.4})
    found = measure(truth, answers, [NOISE], seed=1, resamples=500)["least"]
    assert (found["model"], found["claimed"]) == ("steady", True)
    assert [found["others"][model][0] > 0 for model in ("shaky", "shakier")] == [True, True]
    # The same true movement: which is the least is a matter of chance.
    claims = []
    for seed in range(20):
        truth, answers = of_models(500, {"a": 0.03, "b": 0.03}, seed=seed)
        claims.append(measure(truth, answers, [NOISE], seed=1, resamples=200)["least"]["claimed"])
    assert sum(claims) <= 3


def test_statistical_noise_of_small_samples_is_said():
    """Answers that are drawn anew, without a true shift: all of the systematic uncertainty is noise."""
    rng = np.random.default_rng(2)
    truth = rng.integers(3, size=900)

    def drawn() -> np.ndarray:
        return np.where(rng.random(900) < 0.7, truth, (truth + rng.integers(1, 3, size=900)) % 3)

    nominal = drawn()
    nuisances = [NOISE.model_copy(update={"name": f"n{k}"}) for k in range(40)]
    varied = {f"n{k}_plus": answered(*np.where(rng.random(900) < 0.1, drawn(), nominal)) for k in range(40)}
    found = measure(truth, {"cnn": {"nominal": answered(*nominal)} | varied}, nuisances, seed=1, resamples=300)
    total = found["models"]["cnn"]["total"]
    for name in QUANTITIES:
        assert total[name]["noise"] == pytest.approx(total[name]["systematic"], rel=0.35), name
