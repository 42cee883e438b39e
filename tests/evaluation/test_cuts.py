"""Cuts on a class's probability: counted by hand, chosen on one split and measured on the other."""

import numpy as np
import pytest

from nuvlm.evaluation.cuts import CUTS, scan_cuts
from nuvlm.evaluation.samples import Sample
from run_on_disk import sample_of


def of(truth: list[int], p_nue: list[float]) -> Sample:
    p = np.array(p_nue)
    probabilities = np.stack([p, (1 - p) / 2, (1 - p) / 2], axis=1)
    return sample_of(np.array(truth), probabilities.argmax(axis=1), probabilities)


SIX = of([0, 0, 0, 1, 2, 1], [0.9, 0.7, 0.3, 0.7, 0.5, 0.1])


def at(scan: dict, cut: float) -> dict:
    i = int(np.argmin(np.abs(CUTS - cut)))
    return {name: scan[name][i] for name in ("cut", "efficiency", "purity", "significance", "product")}


def test_scores_at_a_cut_by_hand() -> None:
    scan = scan_cuts(SIX, SIX, np.ones(6), np.ones(6))["nue_cc"]
    # An event at the cut is selected: 0.7 takes two of three signal events and one of background.
    assert at(scan, 0.7) == pytest.approx(
        {"cut": 0.7, "efficiency": 2 / 3, "purity": 2 / 3, "significance": 2 / np.sqrt(3), "product": 4 / 9}
    )
    assert at(scan, 0.8) == pytest.approx(
        {"cut": 0.8, "efficiency": 1 / 3, "purity": 1, "significance": 1, "product": 1 / 3}
    )
    assert at(scan, 0) == pytest.approx(
        {"cut": 0, "efficiency": 1, "purity": 0.5, "significance": 3 / np.sqrt(6), "product": 0.5}
    )
    assert at(scan, 0.95) == {"cut": 0.95, "efficiency": 0, "purity": None, "significance": None, "product": None}


def test_the_best_cut_is_chosen_on_validation_and_told_of_test() -> None:
    validation = of([0, 0, 1, 2], [0.9, 0.8, 0.6, 0.2])  # from above 0.6 to 0.8 everything is right
    best = scan_cuts(validation, SIX, np.ones(4), np.ones(6))["nue_cc"]["best"]
    for merit in ("significance", "product"):
        assert best[merit]["cut"] == pytest.approx(0.61), "the first of equally good ones"
        assert best[merit]["chosen_on"] == 4
        assert best[merit]["efficiency"] == pytest.approx(2 / 3)
        assert best[merit]["significance"] == pytest.approx(2 / np.sqrt(3))


def test_weights_count_events_and_their_unit_does_not_matter() -> None:
    weights = np.array([2.0, 1, 0, 1, 1, 1])  # sum 6: as many as there are
    scan = scan_cuts(SIX, SIX, weights, weights)["nue_cc"]
    assert at(scan, 0.7)["efficiency"] == pytest.approx(1)
    assert at(scan, 0.7)["purity"] == pytest.approx(3 / 4)
    assert at(scan, 0.7)["significance"] == pytest.approx(3 / np.sqrt(4))
    again = scan_cuts(SIX, SIX, 7 * weights, 7 * weights)["nue_cc"]
    assert again["significance"] == pytest.approx(scan["significance"], nan_ok=True)


def test_without_events_of_a_class_nothing_is_chosen() -> None:
    nothing = of([], [])
    scans = scan_cuts(nothing, SIX, np.ones(0), np.ones(6))
    assert scans["nue_cc"]["best"] == {"significance": None, "product": None}
    assert at(scans["nue_cc"], 0.7)["purity"] == pytest.approx(2 / 3)
    scans = scan_cuts(SIX, nothing, np.ones(6), np.ones(0))
    assert scans["nue_cc"]["best"]["product"]["product"] is None
    no_nc = scan_cuts(SIX, of([0, 1], [0.9, 0.1]), np.ones(6), np.ones(2))["nc"]
    assert set(no_nc["efficiency"]) == set(no_nc["purity"]) == {None}
