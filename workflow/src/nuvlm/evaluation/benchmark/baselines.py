"""Baselines of the benchmark, each a file of predictions: ``make faithfulness-baseline BASELINE=template``.

`constant` has one text for all events, `prior` one for each class, `exchanged` the true claims of another event of the
class. `template` fills the sentences of the vocabulary with what boosted trees estimate from quantities
measured in the maps; it learns from the practice events. `vlm` takes the texts of a model of a run. The class is the
true one, but for `template` and `vlm`, which answer for themselves, and where `--classes` names another file.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from nuvlm.base.errors import InputError
from nuvlm.dataset.event_table import read_events
from nuvlm.dataset.pixelmaps import image_settings, read_blocks
from nuvlm.dataset.store_list import read_store_list
from nuvlm.evaluation.benchmark.definition import FILE, RUN, SEED, VOCABULARY, Definition, load_definition
from nuvlm.evaluation.benchmark.events import COLUMNS, default_folder, read_truth, true_claims, truth_table
from nuvlm.evaluation.benchmark.predictions import read_predictions, write_predictions
from nuvlm.evaluation.faithfulness import STATEMENTS, read_explanations
from nuvlm.models.bdt.features import Scale, features
from nuvlm.models.vlm.agreement import NUMBERS, is_right
from nuvlm.models.vlm.rationales import Claims, Rationales, load_rationales

BASELINES = ("constant", "prior", "exchanged", "template", "vlm")
OPTIONS: dict[str, Any] = {"learning_rate": 0.05, "max_leaf_nodes": 8, "max_iter": 120, "early_stopping": False}
OPTIONS |= {"random_state": SEED}
"""Of the boosted trees of `template`: leaves and rate as the BDT's."""
REQUIRES = {"track_cm": "track", "leaves": "track", "shower_mev": "shower", "gap": "shower", "gap_cm": "gap"}
"""The thing that must be there for each claim."""


def typical_claims(truth: pd.DataFrame, words: Rationales) -> Claims:
    """The claims that are right most often for the events of `truth`, whose classes count alike.

    A detail is that of the events that have the thing; it is stated if the thing is.
    """
    weight = (1 / truth.groupby("class")["event"].transform("count")).to_numpy()
    found: dict[str, float] = {}
    for name in STATEMENTS:
        if name in REQUIRES and found.get(REQUIRES[name]) != 1:
            continue
        true = truth[name].to_numpy()
        # Any number within the tolerance of some events: those that are stated, from 1 cm or 1 MeV to 100,000.
        stated = (
            [n * 10.0**p for p in range(-1, 4) for n in words.numbers]
            if name in NUMBERS
            else np.unique(true[true >= 0])
        )
        shares = [float(weight @ is_right(name, np.full(len(true), value), true)) for value in stated]
        found[name] = float(stated[int(np.argmax(shares))])
    return _claims(found)


def exchanged_rows(classes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(n,) for each event the row of another of its class; of the only one of its class, its own."""
    source = np.arange(len(classes))
    for name in np.unique(classes):
        order = rng.permutation(np.flatnonzero(classes == name))
        source[order] = np.roll(order, 1)
    return source


class Template:
    """Boosted trees from the BDT's features of the maps to claims and classes; fitted to events with truth."""

    def __init__(self, measured: np.ndarray, truth: pd.DataFrame) -> None:
        """Fit to `measured`, (n, features), and the truth of the same events."""
        self._class = _fit_classifier(measured, truth["class"].to_numpy())
        self._models: dict[str, ClassifierMixin | RegressorMixin] = {}
        for name in STATEMENTS:
            true = truth[name].to_numpy()
            known = np.isfinite(true)
            if name in NUMBERS:
                self._models[name] = HistGradientBoostingRegressor(**OPTIONS).fit(measured[known], np.log(true[known]))
            else:
                self._models[name] = _fit_classifier(measured[known], true[known])

    def describe(self, measured: np.ndarray) -> tuple[list[Claims], list[str]]:
        """Claims and classes of events from `measured`, (n, features), and nothing else."""
        values = {name: model.predict(measured) for name, model in self._models.items()}
        values |= {name: np.exp(values[name]) for name in NUMBERS}
        claims = []
        for i in range(len(measured)):
            found: dict[str, float] = {}
            for name in STATEMENTS:
                if name not in REQUIRES or found.get(REQUIRES[name]) == 1:
                    found[name] = float(values[name][i])
            claims.append(_claims(found))
        return claims, [str(name) for name in self._class.predict(measured)]


def measure_maps(run: Path, truth: pd.DataFrame, definition: Definition) -> np.ndarray:
    """(n, features) the BDT's features of the maps of the events of `truth`."""
    stores = read_store_list(run / "pixelmaps.json")
    scale = Scale.of(image_settings(stores))
    events = read_events(run / "events.parquet")
    names = [definition.name(int(number)) for number in events["event_id"]]
    rows = {names[position]: row
            for positions, images in read_blocks(stores, events)
            for position, row in zip(positions, features(images, scale), strict=True)}  # fmt: skip
    return np.stack([rows[event] for event in truth["event"]])


def texts_of_run(run: Path, model: str, truth: pd.DataFrame, definition: Definition, words: Rationales) -> pd.DataFrame:
    """Texts and answers of a model of a run about the test events: columns `event`, `text`, `class`.

    Raises:
        InputError: the run has other events, or lacks the explanation of one.
    """
    remedy = (
        f"Make them with snakemake explanations --configfile config/config.yaml {definition.events.configuration} "
        f"--config run={run.name} models_from=... 'report={{explain: {definition.events.simulated}}}'"
    )
    tables = sorted((run / "explanations" / model).glob("*.parquet"))
    if not tables:
        raise InputError(f"{run}/explanations/{model}: no explanations. {remedy}")
    tested = truth[truth["split"] == "test"].reset_index(drop=True)
    there = (
        truth_table(read_events(run / "events.parquet"), definition, words).set_index("event").reindex(tested["event"])
    )
    same = (there.reset_index()[list(COLUMNS)].fillna(-1) == tested[list(COLUMNS)].fillna(-1)).all(axis=1)
    if not same.all():
        raise InputError(f"{run}: event {tested['event'][~same].iloc[0]} is not that of the benchmark. {remedy}")
    table = read_explanations(tables)
    table = table[table["picture"] == "nominal"]
    table.index = pd.Index([definition.name(int(number)) for number in table["event_id"]])
    if missing := [event for event in tested["event"] if event not in table.index]:
        raise InputError(f"{run}/explanations/{model}: has no explanation of {missing[0]}. {remedy}")
    rows = table.loc[tested["event"]]
    return pd.DataFrame({"event": rows.index, "text": rows["rationale"], "class": rows["predicted"]}, dtype=object)


def make_baseline(
    baseline: str,
    truth: pd.DataFrame,
    definition: Definition,
    words: Rationales,
    *,
    run: Path,
    model: str = "vlm",
    classes: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Texts and classes of a baseline for the test events: columns `event`, `text`, `class`.

    Args:
        baseline: one of BASELINES.
        truth: of :func:`nuvlm.evaluation.benchmark.events.read_truth`.
        run: the run that simulated the events; for `vlm` the one with the explanations of `model`.
        classes: the answers of `constant`, `prior` and `exchanged`; None for the true classes.

    Raises:
        InputError: the run lacks something.
    """
    if baseline == "vlm":
        return texts_of_run(run, model, truth, definition, words)
    tested, practice = (truth[truth["split"] == split].reset_index(drop=True) for split in ("test", "practice"))
    answers = list(tested["class"] if classes is None else classes)
    if baseline == "template":
        measured = measure_maps(run, truth, definition)
        is_test = (truth["split"] == "test").to_numpy()
        claims, answers = Template(measured[~is_test], practice).describe(measured[is_test])
    elif baseline == "constant":
        claims = [typical_claims(practice, words)] * len(tested)
    elif baseline == "prior":
        typical = {str(name): typical_claims(rows, words) for name, rows in practice.groupby("class")}
        claims = [typical[answer] for answer in answers]
    else:
        source = exchanged_rows(np.array(answers), np.random.default_rng(SEED))
        claims = [true_claims(row, words) for row in tested.iloc[source].to_dict("records")]
    texts = [words.write(_stated(one, words), np.random.default_rng(SEED)) for one in claims]
    return pd.DataFrame({"event": tested["event"], "text": texts, "class": answers}, dtype=object)


def _claims(found: dict[str, float]) -> Claims:
    kinds: dict[str, Callable[[float], Any]] = {"charged": round} | dict.fromkeys(NUMBERS, float)
    return Claims(**{name: kinds.get(name, bool)(value) for name, value in found.items()})


def _stated(claims: Claims, words: Rationales) -> Claims:
    """The claims as they are written: lengths and energies rounded."""
    rounded = {name: words.round(value) for name in NUMBERS if (value := getattr(claims, name)) is not None}
    return Claims(**(vars(claims) | rounded))


def _fit_classifier(measured: np.ndarray, true: np.ndarray) -> ClassifierMixin:
    """Boosted trees; of events that are all alike, that one value."""
    alike = len(np.unique(true)) == 1
    model = DummyClassifier() if alike else HistGradientBoostingClassifier(**OPTIONS)
    return model.fit(measured, true)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m nuvlm.evaluation.benchmark.baselines", description=__doc__)
    parser.add_argument("baseline", choices=BASELINES)
    parser.add_argument(
        "--run", type=Path, default=RUN, help="run of the events; for vlm, run with explanations of them"
    )
    parser.add_argument("--model", default="vlm", help="the model of that run")
    parser.add_argument("--classes", type=Path, help="file of predictions whose classes are the answers")
    parser.add_argument("--events", type=Path, default=default_folder(RUN), help="folder of the truth and the maps")
    parser.add_argument("--definition", type=Path, default=FILE)
    parser.add_argument("--vocabulary", type=Path, default=VOCABULARY)
    parser.add_argument("--out", type=Path, help="file to write (default: baselines/NAME.jsonl beside the events)")
    options = parser.parse_args(arguments)
    out = options.out or options.events / "baselines" / f"{options.baseline}.jsonl"
    try:
        definition, words = load_definition(options.definition), load_rationales(options.vocabulary)
        truth = read_truth(options.events, definition)
        classes = None
        if options.classes is not None:
            answers = read_predictions(options.classes, truth, definition)["class"]
            if answers.isna().any():
                raise InputError(f'{options.classes}: has no "class" of the events. Give a file that has.')
            classes = list(answers)
        made = make_baseline(
            options.baseline, truth, definition, words, run=options.run, model=options.model, classes=classes
        )
        write_predictions(out, made)
    except InputError as error:
        sys.exit(str(error))
    print(out)


if __name__ == "__main__":
    main()
