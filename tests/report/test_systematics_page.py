"""The page of systematic uncertainties: its figure, and how nuisances are described."""

import re

import numpy as np
import pytest

from nuvlm.evaluation.nuisances import Nuisance
from nuvlm.evaluation.systematics import Varied, measure
from nuvlm.models.table import title
from nuvlm.report.systematics import about_nuisance, render_page

READOUT = {"display": {"readout": {"drift_velocity_mm_us": 1.7}}}
BIRKS = {"input": {"recombination": {"model": "birks"}}}


def nuisance(name: str, plus: dict | float, **weights: object) -> Nuisance:
    return Nuisance(name=name, title=name, source="here", plus=plus, one_sided=True, **weights)


def test_every_model_is_drawn_and_named():
    """More models than colours; the first nuisance has no interval, as no event is of its class."""
    models = [f"cnn_{i}" for i in range(14)]
    truth = np.array([1, 1, 1, 1, 2, 2])
    answers = {
        model: {name: Varied(truth, np.ones(6)) for name in ("nominal", "first_plus", "second_plus")}
        for model in models
    }
    nuisances = [nuisance("first", READOUT), nuisance("second", BIRKS)]
    found = measure(truth, answers, nuisances, seed=1, resamples=20)
    for model in models:
        found["models"][model]["shifts"]["first"]["shift"]["background_nue_cc"]["interval"] = None
    about = [about_nuisance(each, {"input": {"source": "simulate"}}, frozenset()) for each in nuisances]
    page = render_page({"run": "demo", "nuisances": about} | found)
    figure = re.search(r"<svg.*?</svg>", page, re.DOTALL)
    assert figure is not None
    for model in models:
        assert f">{title(model)}<" in figure[0]


@pytest.mark.parametrize(
    ("plus", "source", "own", "how"),
    [
        (READOUT, "simulate", False, "read out again"),
        # With cosmic muons, which drift with this velocity.
        (READOUT, "simulate", True, "simulated again"),
        (BIRKS, "simulate", True, "simulated again"),
        (BIRKS, "edepsim", True, "converted again"),
    ],
)
def test_how_events_are_made_again_is_said(plus, source, own, how):
    found = about_nuisance(nuisance("a", plus), {"input": {"source": source}}, frozenset({"a_plus"} if own else ()))
    assert found["how"] == how
