"""The page of systematic uncertainties: its figure, and how nuisances are described."""

import re

import numpy as np
import pandas as pd
import pytest

from nuvlm.base.errors import InputError
from nuvlm.evaluation.nuisances import Nuisance
from nuvlm.evaluation.systematics import Varied, measure
from nuvlm.models.table import title
from nuvlm.report.systematics import about_nuisance, check_neutrinos, render_page

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


def test_events_of_another_simulation_are_refused():
    """Shards of a finished run and those simulated again share ids, whatever version made them."""
    columns = {"of": "block00000", "event_id": [1, 2], "nu_pdg": 12, "is_cc": 1, "nu_energy": [1.5, np.nan]}
    nominal = pd.DataFrame(columns)
    again = nominal.assign(variation="birks_plus")
    check_neutrinos(again, nominal, "demo")
    with pytest.raises(InputError, match=r"event 1 has a neutrino of 1.25 GeV with birks_plus.*1.5 GeV in run demo"):
        check_neutrinos(again.assign(nu_energy=[1.25, np.nan]), nominal, "demo")
    with pytest.raises(InputError, match="event 1 "):
        check_neutrinos(again.assign(nu_pdg=[14, 12]), nominal, "demo")


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
