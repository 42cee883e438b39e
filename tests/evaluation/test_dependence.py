"""Efficiency and purity against truth, and pions taken for electrons: samples counted by hand."""

import numpy as np
import pandas as pd
import pytest

from nuvlm.evaluation.dependence import (
    bins_for,
    dependence,
    energy_edges,
    pion_axis,
    pions_mistaken,
    quantile_edges,
    truth_axes,
)
from nuvlm.evaluation.intervals import binomial_interval
from nuvlm.evaluation.samples import Sample
from run_on_disk import sample_of


def table(**columns: list) -> pd.DataFrame:
    n = len(next(iter(columns.values())))
    unknown = {
        name: np.full(n, np.nan)
        for name in ("nu_energy", "inelasticity", "visible_energy", "edge_energy", "pi0_energy")
    }
    return pd.DataFrame(unknown | {"mode": np.zeros(n, dtype=np.int8), "class": ["nc"] * n} | columns)


def of(truth: list[int], predicted: list[int]) -> Sample:
    return sample_of(np.array(truth), np.array(predicted), np.eye(3)[predicted])


def test_by_mode_counted_by_hand() -> None:
    axis = truth_axes(table(mode=[1, 1, 1, 4, 4, 0]))["mode"]
    found = dependence(of([0, 0, 1, 0, 2, 0], [0, 1, 0, 0, 0, 0]), 0, axis)
    # QE: two true, one of them found, two selected. DIS: one true and found, two selected. The last has no mode.
    assert found == {
        "categories": ["QE", "DIS"],
        "efficiency": [0.5, 1.0],
        "efficiency_interval": [binomial_interval(1, 2), binomial_interval(1, 1)],
        "efficiency_n": [2, 1],
        "purity": [0.5, 0.5],
        "purity_interval": [binomial_interval(1, 2)] * 2,
        "purity_n": [2, 2],
    }
    assert found["efficiency_interval"][1] == pytest.approx([0.025, 1]), "0.025 ^ (1 / 1), by Clopper and Pearson"


def test_containment_is_a_cut_on_the_energy_at_the_edge() -> None:
    axis = truth_axes(table(edge_energy=[0, 4.99, 5, 80, np.nan]))["containment"]
    found = dependence(of([1] * 5, [1, 0, 1, 1, 1]), 1, axis)
    assert (found["categories"], found["efficiency"]) == (["contained", "leaving"], [0.5, 1.0])
    assert found["efficiency_n"] == [2, 2]


def test_numbers_fall_into_their_bins() -> None:
    axes = truth_axes(table(nu_energy=[0.0, 4.9, 5.0, 10.0, np.nan], inelasticity=[0, 0.5, 0.49, 1, np.nan]))
    assert axes["energy"].bins["edges"] == [0, 5, 10]
    assert axes["energy"].where.tolist() == [0, 0, 1, 1, -1]
    assert axes["inelasticity"].where.tolist() == [0, 1, 0, 1, -1]
    everything = np.ones(5, dtype=bool)
    assert axes["energy"].count(everything).tolist() == [2, 2]


def test_visible_energy_is_in_gev_with_equally_many_events_a_bin() -> None:
    visible = np.random.default_rng(0).exponential(900, 600)
    axis = truth_axes(table(visible_energy=visible))["visible_energy"]
    assert axis.bins["edges"][0] == pytest.approx(visible.min() / 1000)
    assert axis.count(np.ones(600, dtype=bool)).tolist() == [60] * 10


def test_what_is_not_known_has_no_axis() -> None:
    axes = truth_axes(table(nu_energy=[np.nan, np.nan]))
    assert set(axes) == {"energy", "inelasticity", "visible_energy", "containment", "mode"}
    assert all(axis is None for axis in axes.values())
    assert dependence(of([0, 1], [0, 0]), 0, axes["mode"]) is None
    assert pion_axis(table(nu_energy=[1, 2])) is None
    assert pions_mistaken(of([2, 2], [0, 0]), None, np.full(2, np.nan)) is None


def test_pions_taken_for_electrons_counted_by_hand() -> None:
    pi0 = [0.2, 0.4, 0.3, 0.6, 0.9, 0.0, 0.0, np.nan, 0.5]
    truth = [2, 2, 2, 2, 2, 2, 2, 2, 0]  # the last one is no neutral current
    predicted = [0, 2, 1, 0, 0, 0, 2, 0, 0]
    events = table(pi0_energy=pi0).assign(**{"class": ["nc"] * 8 + ["nue_cc"]})
    axis = pion_axis(events)
    found = pions_mistaken(of(truth, predicted), axis, np.array(pi0))
    assert found["edges"] == pytest.approx([0.2, 0.4, 0.9]), "the median of five pions"
    # 0.2 (mistaken) and 0.3 below 0.4; 0.4, 0.6 and 0.9 (two of them mistaken) from there on
    assert found["mistaken"] == pytest.approx([1 / 2, 2 / 3])
    assert found["mistaken_n"] == [2, 3]
    assert found["without"] == {"mistaken": 0.5, "mistaken_interval": binomial_interval(1, 2), "mistaken_n": 2}


def test_energy_bins_hold_every_energy() -> None:
    edges = energy_edges(np.array([0.2, 9.99, np.nan, *np.linspace(1, 9, 298)]))
    assert edges[0] == 0
    assert edges[-1] == 10
    assert len(edges) == 6
    assert len(energy_edges(np.full(3, np.nan))) == 3


def test_equal_values_share_a_bin() -> None:
    assert quantile_edges(np.full(500, 2.5)).tolist() == [2.5, 3.5]
    assert len(quantile_edges(np.full(5, np.nan))) == 0
    assert [bins_for(np.zeros(n)) for n in (0, 130, 200, 5000)] == [2, 2, 3, 10]
