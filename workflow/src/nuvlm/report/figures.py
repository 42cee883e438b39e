"""Figures of the report, drawn from the scores of ``evaluate``; nothing is evaluated here."""

import gc
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from nuvlm.base.files import read_json
from nuvlm.base.logs import track
from nuvlm.evaluation.cuts import FIGURES_OF_MERIT
from nuvlm.evaluation.faithfulness import STATEMENTS
from nuvlm.models.conditions import shown_in_full
from nuvlm.models.table import title
from nuvlm.models.vlm.agreement import TOLERANCE
from nuvlm.report.explained import CHANGES
from nuvlm.report.names import COUNTERFACTUALS, KINDS, figure_name, words
from nuvlm.report.style import COLOURS, INK, LABELS, MARKERS, MODEL_COLOURS, new_figure, save_figure, use_reduced_fonts
from nuvlm.report.wording import STATEMENTS as STATEMENT_TITLES

logger = logging.getLogger(__name__)

Score = Mapping[str, Any]
NO_TRUTH = "no test event with known truth"
RATIOS = ("efficiency", "purity")
QUANTITIES = {
    "energy": "true neutrino energy (GeV)",
    "inelasticity": "inelasticity y",
    "visible_energy": "visible energy (GeV)",
    "containment": "energy at the detector's edge",
    "mode": "interaction mode",
}
"""Quantities on the x axis of efficiency and purity, with axis labels."""


def draw_figures(scores: Path, training: Mapping[str, Path], out: Path) -> None:
    """Draw every figure of :func:`nuvlm.report.names.figure_names` into the folder `out`.

    Args:
        scores: scores.json of ``evaluate``.
        training: training.json of each model; without `history` and `losses` its panel stays empty.
        out: folder to write to.
    """
    use_reduced_fonts()
    # Closed figures are reference cycles; collecting them rarely saves a tenth of the time.
    gc.set_threshold(100_000)
    results = read_json(scores)
    by_model = results["scores"]
    cells = [
        (kind, model, condition, score)
        for kind in KINDS
        for model, conditions in by_model.items()
        for condition, score in conditions.items()
        if condition in shown_in_full(conditions)
    ]
    for kind, model, condition, score in track(cells, "figures"):
        path = out / figure_name(kind, model, condition)
        if score["n"]:
            _DRAW[kind](score, path)
        else:
            _draw_message(path)
    main = {model: next(iter(conditions.items())) for model, conditions in by_model.items()}
    for model, (_, score) in main.items():
        for kind, draw, measured in (
            ("reliability", _reliability, results["calibration"][model]["temperatures"]),
            ("cuts", _cuts, results["cuts"][model]),
            ("sets", _sets, {"level": results["sets"]["level"], **results["sets"]["models"][model]}),
        ):
            path = out / figure_name(kind, model)
            if score["n"]:
                draw(measured, path)
            else:
                _draw_message(path)
    _robustness(results["robustness"], list(by_model), out / figure_name("robustness"))
    _pions({model: score.get("pi0") for model, (_, score) in main.items()}, out / figure_name("pi0"))
    first_of = {model: condition for model, (condition, _) in main.items()}
    pairs = [c for c in results["comparisons"] if c["condition"] == first_of[c["first"]] and c["n"]]
    _disagreement(pairs, list(by_model), out / figure_name("disagreement"))
    for model, measured in results["explanations"].items():
        _claims(measured["claims"], out / figure_name("claims", model))
        _rationales(measured["errors"], out / figure_name("rationales", model))
    if results["counterfactuals"]:
        _counterfactuals(results["counterfactuals"]["answers"], out / figure_name(COUNTERFACTUALS))
    cards = {model: read_json(path) for model, path in training.items()}
    _training(cards, out / figure_name("training"))


def _confusion(score: Score, path: Path) -> None:
    """Confusion matrices normalised to the true class (recall) and to the predicted one (precision), with counts."""
    counts = np.array(score["confusion"])
    names = [LABELS[name] for name in score["by_class"]]
    with new_figure(6.4, 3.1, columns=2) as (figure, axes):
        for ax, title, axis in zip(axes, ("Recall: each row is 1", "Precision: each column is 1"), (1, 0), strict=True):
            total = counts.sum(axis=axis, keepdims=True)
            share = np.divide(counts, total, out=np.zeros(counts.shape), where=total > 0)
            # One colour of varying opacity: the page shows through where the share is low, light or dark.
            colour = np.full((*counts.shape, 3), (0, 114 / 255, 178 / 255))
            ax.imshow(np.dstack([colour, 0.06 + 0.94 * share]), interpolation="none")
            for (row, column), value in np.ndenumerate(share):
                style = {"color": "white"} if value > 0.55 else {}
                text = f"{value:.2f}" if total.ravel()[row if axis == 1 else column] else "none"
                ax.text(column, row - 0.08, text, ha="center", va="center", fontsize=12, fontweight="bold", **style)
                ax.text(column, row + 0.24, f"{counts[row, column]}", ha="center", va="center", fontsize=8, **style)
            ax.set(xticks=range(len(names)), yticks=range(len(names)), xlabel="predicted", title=title)
            ax.set_xticklabels(names)
            ax.set_yticklabels(names)
            ax.grid(False)
            ax.tick_params(length=0)
            ax.spines[:].set_visible(False)
        axes[0].set_ylabel("true")
        save_figure(figure, path)


def _roc(score: Score, path: Path) -> None:
    """One-vs-rest ROC curve of each class."""
    with new_figure(4.0, 3.7) as (figure, ax):
        ax.plot([0, 1], [0, 1], color="#888888", linewidth=1, linestyle=":", label="chance")
        for name, of_class in score["by_class"].items():
            if of_class["roc"] is None:
                continue
            low, high = of_class["auc_interval"]
            label = f"{LABELS[name]}: AUC {of_class['auc']:.3f} [{low:.3f}, {high:.3f}]"
            ax.plot(of_class["roc"]["fpr"], of_class["roc"]["tpr"], color=COLOURS[name], label=label)
        ax.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
        ax.set(xlabel="background efficiency (false positive rate)", ylabel="signal efficiency (true positive rate)")
        ax.legend(loc="lower right")
        save_figure(figure, path)


def _energy(score: Score, path: Path) -> None:
    """Efficiency and purity of each class against true neutrino energy."""
    _against(score, ("energy",), path, rows=1)


def _dependence(score: Score, path: Path) -> None:
    """The same against other true quantities."""
    _against(score, ("inelasticity", "visible_energy", "containment", "mode"), path, rows=2)


def _against(score: Score, quantities: Sequence[str], path: Path, rows: int) -> None:
    """Efficiency and purity of each class; side by side for one row of panels, one above the other for two."""
    columns = max(len(quantities), 3 - rows)
    size = (6.4, 3.2) if rows == 1 else (2.7 * columns, 4.8)
    with new_figure(*size, rows=rows, columns=columns, sharey=True, squeeze=False) as (figure, axes):
        panels = [(axes[0][i], quantities[0], ratio) for i, ratio in enumerate(RATIOS)] if rows == 1 else []
        panels = panels or [
            (axes[row][column], quantity, ratio)
            for row, ratio in enumerate(RATIOS)
            for column, quantity in enumerate(quantities)
        ]
        for ax, quantity, ratio in panels:
            ax.set(xlabel=QUANTITIES[quantity], ylim=(-0.02, 1.02))
            if rows == 1 or ax is axes[RATIOS.index(ratio)][0]:
                ax.set_ylabel(ratio)
            for offset, (name, of_class) in zip((-1, 0, 1), score["by_class"].items(), strict=True):
                bins = of_class["dependence"][quantity]
                if bins is None:
                    ax.plot([], [], MARKERS[name], color=COLOURS[name], label=LABELS[name])
                    continue
                # The classes are offset within a bin, so that their intervals do not overlap.
                centre, width = _centres(ax, bins)
                _points(ax, centre + offset * 0.12 * width, bins[ratio], bins[f"{ratio}_interval"], name)
            if score["by_class"][name]["dependence"][quantity] is None:
                _write(ax, "unknown for these events")
        figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
        for ax, *_ in panels:
            ax.yaxis.set_tick_params(labelleft=rows == 1 or ax in axes[:, 0])
        save_figure(figure, path)


def _scores(score: Score, path: Path) -> None:
    """Distribution of the probability of each class, by true class."""
    edges = np.array(score["score_edges"])
    with new_figure(6.4, 2.8, columns=3, sharey=True) as (figure, axes):
        for ax, (name, of_class) in zip(axes, score["by_class"].items(), strict=True):
            for other, counts in of_class["scores"].items():
                ax.stairs(counts, edges, color=COLOURS[other], linewidth=1.5, label=f"true {LABELS[other]}")
            ax.set(xlabel=f"P({LABELS[name]})", xlim=(0, 1), xticks=(0, 0.5, 1))
        axes[0].set_ylabel(f"events / {edges[1] - edges[0]:g}")
        axes[0].set_ylim(0, None)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
        save_figure(figure, path)


def _reliability(temperatures: Mapping[str, Any], path: Path) -> None:
    """Accuracy against confidence at each temperature; on the diagonal a model is calibrated."""
    names = {"plain": "T = 1", "published": "T = {:g}, published", "fitted": "T = {:.3g}, fitted"}
    with new_figure(8.4, 3.6, rows=2, columns=3, sharex=True, sharey="row", height_ratios=(3, 1)) as (figure, axes):
        for (ax, below), (name, text) in zip(axes.T, names.items(), strict=True):
            fit = temperatures[name]
            bins = fit["reliability"]
            ax.plot([0, 1], [0, 1], color="#888888", linewidth=1, linestyle=":", label="perfectly calibrated")
            ax.set(xlim=(0.3, 1.01), ylim=(-0.02, 1.02))
            below.set(xlabel="confidence")
            if bins is None:
                ax.set_title("T fitted")
                _write(ax, "no temperature fits")
                continue
            ax.set_title(text.format(fit["temperature"]))
            confidence = np.array([np.nan if value is None else value for value in bins["confidence"]])
            _points(ax, confidence, bins["accuracy"], bins["accuracy_interval"], None, label=f"ECE {fit['ece']:.3f}")
            ax.legend(loc="upper left")
            below.stairs(bins["accuracy_n"], bins["edges"], fill=True, color="#0072b2", alpha=0.6)
        axes[0][0].set_ylabel("accuracy")
        axes[1][0].set_ylabel("events")
        save_figure(figure, path)


def _cuts(cuts: Mapping[str, Any], path: Path) -> None:
    """Both figures of merit against the cut on each class's probability; dashed: the cut chosen on validation."""
    labels = {"significance": r"$s\,/\sqrt{s + b}$", "product": "efficiency x purity"}
    with new_figure(8.4, 4.4, rows=2, columns=3, sharex=True, sharey="row") as (figure, axes):
        for column, (name, of_class) in zip(axes.T, cuts.items(), strict=True):
            for ax, merit in zip(column, FIGURES_OF_MERIT, strict=True):
                values = np.array([np.nan if value is None else value for value in of_class[merit]])
                ax.plot(of_class["cut"], values, color=COLOURS[name])
                if best := of_class["best"][merit]:
                    label = f"{best['cut']:.2f}: {'–' if best[merit] is None else format(best[merit], '.3g')}"
                    ax.axvline(best["cut"], color="#888888", linewidth=1, linestyle="--", label=label)
                    ax.legend(loc="lower center")
                ax.set_xlim(0, 1)
            column[0].set_title(LABELS[name])
            column[1].set_xlabel(f"cut on P({LABELS[name]})")
        for ax, merit in zip(axes[:, 0], FIGURES_OF_MERIT, strict=True):
            ax.set(ylabel=labels[merit], ylim=(0, None))  # of the row, when all of it is drawn
        save_figure(figure, path)


def _sets(sets: Mapping[str, Any], path: Path) -> None:
    """Coverage and mean size of the prediction sets of each class against neutrino energy; dashed: the promise."""
    by_class = next(iter(sets["conditions"].values()))["by_class"]
    along = {name: of_class["dependence"]["energy"] for name, of_class in by_class.items()}
    if not all(along.values()):
        _draw_message(path, "energy unknown for these events")
        return
    with new_figure(6.4, 3.2, columns=2) as (figure, (left, right)):
        for offset, (name, bins) in zip((-1, 0, 1), along.items(), strict=True):
            centre, width = _centres(left, bins)
            _points(left, centre + offset * 0.12 * width, bins["coverage"], bins["coverage_interval"], name)
            sizes = np.array([np.nan if value is None else value for value in bins["mean_size"]])
            right.stairs(sizes, bins["edges"], baseline=None, color=COLOURS[name], linewidth=1.5)
        left.axhline(sets["level"], color="#888888", linewidth=1, linestyle="--", label="promised")
        left.set(ylabel="coverage", ylim=(-0.02, 1.02), xlabel=QUANTITIES["energy"])
        right.set(ylabel="mean number of classes", ylim=(0, len(along)), xlabel=QUANTITIES["energy"])
        right.set_xlim(left.get_xlim())
        figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=4)
        save_figure(figure, path)


def _robustness(curves: Mapping[str, Any], models: Sequence[str], path: Path) -> None:
    """Accuracy of every model against the level of each kind of degradation."""
    known = {kind: curve for kind, curve in curves.items() if any(p["n"] for c in curve["models"].values() for p in c)}
    if not known:
        _draw_message(path, "no degraded condition" if not curves else NO_TRUTH)
        return
    columns = min(len(known), 3)
    rows = -(-len(known) // columns)
    size = (max(2.8 * columns + 0.3, 5.6), 2.5 * rows + 0.4)
    with new_figure(*size, rows=rows, columns=columns, sharey=True, squeeze=False) as (figure, axes):
        for ax, curve in zip(axes.flat, known.values(), strict=False):
            levels = sorted({point["level"] for points in curve["models"].values() for point in points})
            for model, points in curve["models"].items():
                i = models.index(model)
                values = [point["accuracy"] for point in points]
                # Models are offset so that their intervals do not overlap; levels are equidistant.
                x = [levels.index(point["level"]) + 0.08 * (i - (len(models) - 1) / 2) for point in points]
                arms = _arms(values, [point["accuracy_interval"] for point in points])
                colour = MODEL_COLOURS[i % len(MODEL_COLOURS)]
                ax.errorbar(x, values, yerr=arms, fmt="o-", color=colour, linewidth=1.2, label=title(model))
            ax.set(xlabel=curve["axis"], xticks=range(len(levels)), xlim=(-0.4, len(levels) - 0.6), ylim=(0, 1))
            ax.set_xticklabels([f"{level:g}" for level in levels])
            ax.yaxis.set_tick_params(labelleft=True)
        for ax in list(axes.flat)[len(known) :]:
            ax.axis("off")
        for row in axes:
            row[0].set_ylabel("accuracy")
        figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=len(models))
        save_figure(figure, path)


def _pions(mistaken: Mapping[str, Any], path: Path) -> None:
    """Share of neutral-current events taken for nu_e CC, against the energy of their neutral pion, and without one."""
    if not any(mistaken.values()):
        _draw_message(path, "no neutral-current event with a known neutral pion")
        return
    with new_figure(5.4, 3.4) as (figure, ax):
        for i, (model, bins) in enumerate(mistaken.items()):
            colour = MODEL_COLOURS[i % len(MODEL_COLOURS)]
            # Models are offset so that their intervals do not overlap; events without a pion are left of 0.
            edges = np.array(bins["edges"])
            centre, width = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
            shift = i - (len(mistaken) - 1) / 2
            none = -0.1 * edges[-1]
            without = bins["without"]
            x = np.concatenate([[none + 0.015 * edges[-1] * shift], centre + 0.06 * shift * width])
            values = [without["mistaken"], *bins["mistaken"]]
            intervals = [without["mistaken_interval"], *bins["mistaken_interval"]]
            _points(ax, x, values, intervals, None, label=title(model), colour=colour)
        ax.axvline(0, color="#888888", linewidth=1, linestyle=":")
        ticks = [tick for tick in ax.get_xticks() if 0 <= tick <= edges[-1]]
        ax.set_xticks([none, *ticks], ["no π⁰", *(f"{tick:g}" for tick in ticks)])
        ax.set(xlabel="energy of the leading π⁰ (GeV)", ylabel=f"NC classified as {LABELS['nue_cc']}", ylim=(0, None))
        figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=len(mistaken))
        save_figure(figure, path)


def _disagreement(pairs: Sequence[Mapping[str, Any]], models: Sequence[str], path: Path) -> None:
    """For each pair of models: share of events that only one of them, or neither, classifies correctly."""
    if not pairs:
        _draw_message(path, NO_TRUTH if len(models) > 1 else "only one model")
        return
    size = (7.6, 1.3 * len(pairs) + 0.9)
    with new_figure(*size, rows=len(pairs), columns=2, sharex="col", squeeze=False) as (figure, axes):
        for (left, right), pair in zip(axes, pairs, strict=True):
            parts = {"only_first": _colour(pair["first"], models), "only_second": _colour(pair["second"], models)}
            parts["neither"] = "#888888"
            names = list(pair["by_class"])
            totals = np.array([sum(pair["by_class"][name].values()) for name in names])
            begin = np.zeros(len(names))
            for which, colour in parts.items():
                counts = np.array([pair["by_class"][name][which] for name in names])
                share = np.divide(counts, totals, out=np.zeros(len(names)), where=totals > 0)
                label = "neither right" if which == "neither" else f"only {title(pair[which[5:]])} right"
                left.barh(range(len(names)), share, left=begin, color=colour, label=label)
                begin += share
                if pair["by_energy"]:
                    _steps(right, pair["by_energy"], which, colour)
            left.set(yticks=range(len(names)), ylim=(len(names) - 0.5, -0.5))
            left.set_yticklabels([LABELS[name] for name in names])
            left.grid(axis="y", visible=False)
            left.set_title(" ")  # room for the legend, which may be wider than the panel
            legend = left.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.1, handlelength=1)
            legend.set_in_layout(False)
            if pair["by_energy"]:
                right.set(ylim=(0, None), xlim=(0, pair["by_energy"]["edges"][-1]), ylabel="share")
            else:
                _write(right, "energy unknown for these events")
        axes[-1][0].set_xlabel("share of the events of a class")
        axes[-1][1].set_xlabel(QUANTITIES["energy"])
        save_figure(figure, path)


def _steps(ax: Axes, bins: Mapping[str, Any], which: str, colour: str) -> None:
    total = np.sum([bins[name] for name in ("both", "only_first", "only_second", "neither")], axis=0)
    share = np.divide(bins[which], total, out=np.full(len(total), np.nan), where=total > 0)
    ax.stairs(share, bins["edges"], color=colour, linewidth=1.5)


def _colour(model: str, models: Sequence[str]) -> str:
    return MODEL_COLOURS[models.index(model) % len(MODEL_COLOURS)]


def _claims(claims: Mapping[str, Any], path: Path) -> None:
    """By statement: how often it is made, how often that is right, and right of another event with the same answer."""
    places = np.arange(len(STATEMENTS))[::-1]
    with new_figure(6.4, 3.4) as (figure, ax):
        made = [claims[name]["made"]["nominal"]["value"] or 0 for name in STATEMENTS]
        ax.barh(places, made, height=0.7, color="#888888", alpha=0.25, label="made")
        for place, name in zip(places, STATEMENTS, strict=True):
            right = claims[name]["right"]
            first = place == places[0]
            if right["nominal"]["value"] is not None:
                value, ends = right["nominal"]["value"], right["nominal"]["interval"]
                arms = _arms([value], [ends]) if ends else None
                ax.errorbar(
                    value, place, xerr=arms, fmt="o", color="#0072b2", label="right, of those made" if first else None
                )
            if right["same_label"] is not None:
                label = "right of another event with the same answer" if first else None
                ax.plot(right["same_label"], place, "|", color="#d55e00", markersize=14, markeredgewidth=2, label=label)
        ax.set_yticks(places, [STATEMENT_TITLES[name] for name in STATEMENTS])
        ax.set(xlim=(0, 1), xlabel="fraction of the rationales")
        figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=3)
        save_figure(figure, path)


def _counterfactuals(answers: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Fraction of the answers that follow each change, of each model, with Clopper-Pearson intervals; the control."""
    rows = next(iter(answers.values()))
    places = np.arange(len(rows), dtype=np.float64)[::-1]
    with new_figure(7.6, 1 + 0.16 * len(rows) * (len(answers) + 1)) as (figure, ax):
        for i, (model, of_model) in enumerate(answers.items()):
            offset = 0.7 * (0.5 - (i + 0.5) / len(answers))
            known = [
                (place, row["follows"]) for place, row in zip(places, of_model, strict=True) if row["follows"]["n"]
            ]
            values = [share["value"] for _, share in known]
            ax.errorbar(
                values,
                [place + offset for place, _ in known],
                xerr=_arms(values, [share["interval"] for _, share in known]),
                fmt="o",
                color=MODEL_COLOURS[i % len(MODEL_COLOURS)],
                label=title(model),
            )
            controls = [
                (row["control"]["value"], place + offset)
                for place, row in zip(places, of_model, strict=True)
                if row["control"]["n"]
            ]
            label = "control: its shower drawn again" if i == 0 and controls else None
            ax.plot(*np.array(controls).reshape(-1, 2).T, "|", color=INK, markersize=7, label=label)
        names = [
            f"{LABELS[row['truth']]} {CHANGES[row['kind']]}:\n"
            f"{'to' if row['rises'] else 'from'} {LABELS[row['tracked']]}"
            for row in rows
        ]
        ax.set_yticks(places, names)
        ax.set(xlim=(0, 1), xlabel="fraction of the answers that follow the change")
        figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=3)
        save_figure(figure, path)


def _rationales(errors: Mapping[str, Any], path: Path) -> None:
    """Claimed against true lengths and energies; within the dashed lines a claim is right."""
    panels = (("track_cm", "length of the track (cm)"), ("shower_mev", "energy of the shower (MeV)"))
    with new_figure(6.4, 3.1, columns=2) as (figure, axes):
        for ax, (name, label) in zip(axes, panels, strict=True):
            pairs = np.array(errors[name]["points"]).reshape(-1, 2)
            ends = np.array([pairs.min(initial=100) / 1.5, pairs.max(initial=100) * 1.5])
            # Rationales state rounded numbers: a little noise separates coincident points.
            spread = np.random.default_rng(0).uniform(0.94, 1.06, pairs.shape)
            ax.plot(*(pairs * spread).T, ".", color="#0072b2", alpha=0.45, markeredgewidth=0)
            ax.plot(ends, ends, color="#888888", linewidth=1)
            for factor in (1 - TOLERANCE, 1 + TOLERANCE):
                ax.plot(ends, factor * ends, color="#888888", linewidth=1, linestyle="--")
            ax.set(xscale="log", yscale="log", xlim=ends, ylim=ends, aspect="equal")
            ax.set(xlabel=f"true {label}", ylabel="claimed")
        save_figure(figure, path)


def _training(cards: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Training history of each model: losses and accuracies."""
    columns = len(cards) if len(cards) < 4 else 2
    rows = -(-len(cards) // columns)
    with new_figure(3.4 * columns, 2.8 * rows, rows=rows, columns=columns, squeeze=False) as (figure, axes):
        for ax in axes.flat[len(cards) :]:
            ax.axis("off")
        for ax, (model, card) in zip(axes.flat, cards.items(), strict=False):
            unit, curves = _curves(card)
            for i, (name, points) in enumerate(curves.items()):
                style = "--" if "accuracy" in name else "-"
                colour = MODEL_COLOURS[i % len(MODEL_COLOURS)]
                ax.plot(*zip(*points, strict=True), style, color=colour, label=name)
            ax.set(title=title(model), xlabel=unit, ylim=(0, None))
            if curves:
                ax.legend(loc="best")
            else:
                _write(ax, "no history recorded")
        for row in axes:
            row[0].set_ylabel("loss (solid), accuracy (dashed)")
        save_figure(figure, path)


def _curves(card: Mapping[str, Any]) -> tuple[str, dict[str, list[tuple[float, float]]]]:
    """Unit of the x axis and the curves: `history` has one record per epoch, `losses` (step, loss) pairs, and
    `evaluations` (step, loss, accuracy) of validation events."""
    if card.get("losses"):
        curves = {"train loss": card["losses"]}
        for column, name in enumerate(("validation loss", "validation accuracy"), start=1):
            curves[name] = [(row[0], row[column]) for row in card.get("evaluations", [])]
        return "step", {name: points for name, points in curves.items() if points}
    history = card.get("history") or []
    names = dict.fromkeys(name for record in history for name in record if "loss" in name or "accuracy" in name)
    return card.get("unit", "epoch"), {
        words(name): [(epoch, record[name]) for epoch, record in enumerate(history, 1) if name in record]
        for name in names
    }


def _centres(ax: Axes, bins: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Centre and width of each bin; labels the axis if the bins are categories."""
    if "categories" in bins:
        n = len(bins["categories"])
        ax.set_xticks(range(n), bins["categories"])
        ax.set_xlim(-0.5, n - 0.5)
        return np.arange(n, dtype=np.float64), np.ones(n)
    edges = np.array(bins["edges"])
    ax.set_xlim(min(edges[0], 0), edges[-1])
    return (edges[1:] + edges[:-1]) / 2, np.diff(edges)


def _points(
    ax: Axes,
    x: np.ndarray,
    values: Sequence[float | None],
    intervals: Sequence[Sequence[float] | None],
    name: str | None,
    label: str | None = None,
    colour: str = "#0072b2",
) -> None:
    """Points with intervals, in the colour of class `name`; bins without events are left out."""
    known = [i for i, value in enumerate(values) if value is not None]
    y = [value for value in values if value is not None]
    ax.errorbar(
        x[known],
        y,
        yerr=_arms(y, [interval for interval in intervals if interval is not None]),
        fmt=MARKERS.get(name or "", "o"),
        color=COLOURS.get(name or "", colour),
        linewidth=1.2,
        label=LABELS.get(name or "", label),
    )


def _arms(values: Sequence[float], intervals: Sequence[Sequence[float]]) -> np.ndarray:
    """(2, n) distances of each value to the lower and upper end of its interval."""
    ends = np.array(intervals, dtype=np.float64).reshape(-1, 2)
    centre = np.array(values, dtype=np.float64)
    return np.maximum(np.stack([centre - ends[:, 0], ends[:, 1] - centre]), 0)


def _draw_message(path: Path, message: str = NO_TRUTH) -> None:
    """Draw the reason instead of an empty figure: every declared output must exist."""
    with new_figure(4.0, 1.0) as (figure, ax):
        ax.axis("off")
        _write(ax, message)
        save_figure(figure, path)


def _write(ax: Axes, text: str) -> None:
    ax.text(0.5, 0.5, text, ha="center", va="center", transform=ax.transAxes)


_DRAW: Mapping[str, Callable[[Score, Path], None]] = {
    "confusion": _confusion,
    "roc": _roc,
    "energy": _energy,
    "dependence": _dependence,
    "scores": _scores,
}
