"""Systematic uncertainties of a run: a page, their numbers as JSON, and the shifts and covariances as CSV."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from nuvlm.base.classes import CLASSES, class_codes
from nuvlm.base.errors import InputError
from nuvlm.base.files import atomic_path, write_csv, write_json
from nuvlm.base.settings import flatten
from nuvlm.dataset.event_table import read_events
from nuvlm.detector.geometry import Detector
from nuvlm.evaluation.metrics import SEED, rounded
from nuvlm.evaluation.nuisances import NOMINAL, Nuisance, Systematics, split_variation
from nuvlm.evaluation.samples import KEY, labelled_events, read_sample
from nuvlm.evaluation.systematics import IN_COVARIANCE, LOST, QUANTITIES, Varied, measure, weights_of
from nuvlm.models.table import title
from nuvlm.report.page import environment
from nuvlm.report.style import MODEL_COLOURS, arrange, new_figure, to_svg
from nuvlm.report.wording import PLAIN, number

FORMAT, VERSION = "nuvlm-systematics", 1


def write_systematics(
    events: Path,
    predictions: Mapping[str, Sequence[Path]],
    voxels: Sequence[Path],
    detector: Detector,
    config: Mapping[str, Any],
    with_own_voxels: frozenset[str],
    *,
    page: Path,
    data: Path,
    shifts: Path,
    covariance: Path,
) -> None:
    """Measure the systematic uncertainties, and write a page, all numbers as JSON, and two tables as CSV.

    Args:
        events: event table of all variations.
        predictions: model -> its prediction tables.
        voxels: the nominal voxel shards, of which the final states are read.
        detector: their geometry.
        config: the complete configuration, with the nuisances.
        with_own_voxels: variations that act before the voxels.

    Raises:
        InputError: an input is missing or damaged, or see :func:`weights_of` and :func:`check_neutrinos`.
    """
    systematics = Systematics.model_validate(config["systematics"])
    table = labelled_events(read_events(events), "test")
    names = table["shard"].map(split_variation)
    table["variation"], table["of"] = names.str[0], names.str[1]
    nominal = table[table["variation"] == NOMINAL].reset_index(drop=True)
    check_neutrinos(table, nominal, str(systematics.run))
    weights = weights_of(nominal, {path.stem: path for path in voxels}, detector, systematics.nuisances)
    answers = {model: _answers(table, nominal, parts, weights) for model, parts in predictions.items()}
    found = {
        "format": FORMAT,
        "version": VERSION,
        "run": systematics.run,
        "nuisances": [about_nuisance(nuisance, config, with_own_voxels) for nuisance in systematics.nuisances],
    } | measure(class_codes(nominal["class"]), answers, systematics.nuisances, SEED)
    found = rounded(found)
    write_json(data, found)
    write_csv(shifts, pd.DataFrame(_shift_rows(found)))
    write_csv(covariance, pd.DataFrame(_covariance_rows(found)))
    with atomic_path(page) as partial:
        partial.write_text(render_page(found), encoding="utf-8")


def check_neutrinos(events: pd.DataFrame, nominal: pd.DataFrame, run: str) -> None:
    """Check that events that were simulated again have the neutrinos of the nominal ones, which another run has made.

    Args:
        events: of all variations, with `variation` and `of`, the name of the shard without it.
        nominal: those as they were.
        run: the other run.

    Raises:
        InputError: an event has another neutrino; names it.
    """
    key, truth = ["of", "event_id"], ["nu_pdg", "is_cc", "nu_energy"]
    joined = events[[*key, "variation", *truth]].merge(nominal[[*key, *truth]], on=key, suffixes=("", "_nominal"))
    differs = np.zeros(len(joined), dtype=bool)
    for name in truth:
        found, known = joined[name], joined[f"{name}_nominal"]
        differs |= ~((found == known) | (found.isna() & known.isna())).to_numpy()
    if differs.any():
        other = joined[differs].iloc[0]
        raise InputError(
            f"event {other['event_id']} has a neutrino of {other['nu_energy']:.6g} GeV with {other['variation']}, and "
            f"of {other['nu_energy_nominal']:.6g} GeV in run {run}: its events are from another version of the "
            "simulation. Make that run again, with its voxels, and then this one."
        )


def _answers(
    table: pd.DataFrame, nominal: pd.DataFrame, parts: Sequence[Path], weights: Mapping[str, np.ndarray]
) -> dict[str, Varied]:
    """Variation -> answers of a model for the nominal events."""
    rows = table[[*KEY, "of", "variation"]].assign(predicted=read_sample(table, parts).predicted)
    answers = {}
    for variation, answered in rows.groupby("variation", sort=False):
        joined = nominal[["of", "event_id"]].merge(answered, on=["of", "event_id"], how="left", validate="one_to_one")
        predicted = joined["predicted"].fillna(LOST).to_numpy(np.int64)
        answers[str(variation)] = Varied(predicted, np.ones(len(nominal)))
    same = answers[NOMINAL].predicted
    return answers | {name: Varied(same, weight) for name, weight in weights.items()}


def about_nuisance(nuisance: Nuisance, config: Mapping[str, Any], with_own_voxels: frozenset[str]) -> dict[str, Any]:
    """A nuisance for people: what is varied, from what to what, how, and why so much."""
    if nuisance.weights is not None:
        how, what = "reweighted", [_of_weights(nuisance)]
        values = {sign: f"× {value:g}" for sign, value in _signs(nuisance)}
        nominal = "× 1"
    else:
        flat = {sign: dict(flatten(value)) for sign, value in _signs(nuisance)}
        keys = list(dict.fromkeys(key for settings in flat.values() for key in settings))
        values = {sign: ", ".join(str(settings.get(key, "nominal")) for key in keys) for sign, settings in flat.items()}
        nominal = ", ".join(_value(config, key) for key in keys)
        what = [".".join(key.split(".")[-2:]) for key in keys]
        made = "simulated again" if config["input"]["source"] == "simulate" else "converted again"
        how = "read out again" if with_own_voxels.isdisjoint(nuisance.variations) else made
    return {
        "name": nuisance.name, "title": nuisance.title, "source": nuisance.source, "what": what, "how": how,
        "nominal": nominal, "plus": values["plus"], "minus": values.get("minus"),
    }  # fmt: skip


def _signs(nuisance: Nuisance) -> Iterator[tuple[str, Any]]:
    for variation, value in nuisance.variations.items():
        yield variation.removeprefix(f"{nuisance.name}_"), value


def _of_weights(nuisance: Nuisance) -> str:
    assert nuisance.weights is not None
    conditions = []
    for column, wanted in nuisance.weights.where.items():
        if isinstance(wanted, str | float):
            conditions.append(f"{column} = {wanted if isinstance(wanted, str) else f'{wanted:g}'}")
        else:
            low = "" if wanted.low is None else f"{wanted.low:g} ≤ "
            conditions.append(f"{low}{column}" + ("" if wanted.high is None else f" < {wanted.high:g}"))
    per = [f"to the power of {nuisance.weights.per}"] if nuisance.weights.per else []
    return ", ".join([*conditions, *per]) or "all events"


def _value(config: Mapping[str, Any], key: str) -> str:
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return "off" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _shift_rows(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for each model, nuisance, side and quantity."""
    for model, of_model in found["models"].items():
        for nuisance, sides in of_model["shifts"].items():
            for side, quantities in sides.items():
                for quantity, moved in quantities.items():
                    low, high = moved["interval"] or (None, None)
                    yield {
                        "model": model, "nuisance": nuisance, "side": side, "quantity": quantity,
                        "nominal": of_model["nominal"][quantity]["value"], "shift": moved["value"],
                        "error": moved["error"], "low": low, "high": high, "resolved": moved["resolved"],
                    }  # fmt: skip


def _covariance_rows(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for each model and row of its matrix."""
    for model, of_model in found["models"].items():
        for quantity, row in zip(found["quantities"], of_model["covariance"], strict=True):
            yield {"model": model, "quantity": quantity} | dict(zip(found["quantities"], row, strict=True))


def quantity_words(name: str) -> str:
    """A quantity in words."""
    kind, _, of = name.partition("_")
    return f"{PLAIN[of]} {kind}"


def points(value: float | None) -> str:
    """A fraction in hundredths."""
    return number(None if value is None else 100 * value, 2)


def render_page(found: Mapping[str, Any]) -> str:
    """One self-contained HTML page."""
    templates = environment()
    templates.filters |= {"quantity": quantity_words, "points": points}
    return templates.get_template("systematics.html.j2").render(
        found,
        total_events=sum(found["events"].values()),
        all_quantities=QUANTITIES,
        classes=CLASSES,
        figure=Markup(_draw(found)),
        conclusion=conclude(found),
    )


def conclude(found: Mapping[str, Any]) -> str:
    """Which model moves least, if that can be said."""
    least = found["least"]
    if least is None:
        return "There is one model, so there is nothing to compare."
    name = title(least["model"])
    if least["claimed"]:
        return f"{name} moves least: all others move more, beyond the statistical errors of the differences."
    within = [title(model) for model, interval in least["others"].items() if interval is None or interval[0] <= 0]
    return (
        f"No model can be said to move least: {name} has the smallest movement, but that of {', '.join(within)} is not "
        "larger beyond the statistical error of the difference."
    )


def _draw(found: Mapping[str, Any]) -> str:
    """The shifts of nu_e CC efficiency and background of each model with each nuisance, with 95 % intervals."""
    shown, models = (IN_COVARIANCE[0], IN_COVARIANCE[-1]), list(found["models"])
    names = [nuisance["title"] for nuisance in found["nuisances"]]
    step = 0.8 / len(models)
    with new_figure(9, 1 + 0.16 * len(names) * (len(models) + 1), 1, 2, sharey=True) as (figure, axes):
        for ax, quantity in zip(axes, shown, strict=True):
            ax.axvline(0, color="#888888", linewidth=1, linestyle=":")
            for i, model in enumerate(models):
                colour = MODEL_COLOURS[i % len(MODEL_COLOURS)]
                label: str | None = title(model)
                for k, sides in enumerate(found["models"][model]["shifts"].values()):
                    moved = sides["shift"][quantity]
                    y = k + (i - (len(models) - 1) / 2) * step
                    if moved["interval"] is not None:
                        ax.plot([100 * end for end in moved["interval"]], [y, y], color=colour)
                        ax.plot(100 * moved["value"], y, "o", color=colour, label=label)
                        label = None
            ax.set(xlabel=f"shift of the {quantity_words(quantity)}, points")
        axes[0].set(yticks=range(len(names)), ylim=(len(names) - 0.5, -0.5))
        axes[0].set_yticklabels(names)
        axes[1].legend(loc="best")
        arrange(figure)
        return to_svg(figure, "shifts")
