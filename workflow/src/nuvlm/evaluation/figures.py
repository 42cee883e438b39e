"""The figures of the report, drawn from the scores: nothing is computed here.

Every figure is an SVG whose text and axes take the colour of the page it is put in.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from nuvlm.evaluation.faithfulness import TOLERANCE
from nuvlm.evaluation.names import KINDS, RATIONALES, figure_name, title, without_controls, words
from nuvlm.evaluation.style import COLOURS, LABELS, MARKERS, MODEL_COLOURS, new_figure, save_svg
from nuvlm.logs import track
from nuvlm.storage import read_json

logger = logging.getLogger(__name__)

Score = Mapping[str, Any]


def draw_figures(scores: Path, training: Mapping[str, Path], out: Path) -> None:
    """Draw every figure of :func:`nuvlm.evaluation.names.figure_names` into the folder `out`.

    Args:
        scores: what ``evaluate`` wrote.
        training: training.json of each model; one without `history` or `losses` leaves its panel empty.
        out: the folder.
    """
    results = read_json(scores)
    by_model = results["scores"]
    cells = [
        (kind, model, condition, score)
        for kind in KINDS
        for model, conditions in by_model.items()
        for condition, score in conditions.items()
        if condition in without_controls(conditions)
    ]
    for kind, model, condition, score in track(cells, "figures"):
        path = out / figure_name(kind, model, condition)
        if score["n"]:
            _DRAW[kind](score, path)
        else:
            _nothing_to_draw(path)
    _robustness(by_model, out / figure_name("robustness"))
    for model, told in results["explanations"].items():
        _rationales(told["errors"], out / figure_name(RATIONALES, model))
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
            ax.imshow(np.full((*counts.shape, 3), (0, 114, 178), dtype=np.uint8), alpha=0.06 + 0.94 * share)
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
        save_svg(figure, path)


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
        save_svg(figure, path)


def _energy(score: Score, path: Path) -> None:
    """Efficiency and purity of each class against true neutrino energy."""
    with new_figure(6.4, 3.2, columns=2, sharey=True) as (figure, axes):
        for ax, quantity in zip(axes, ("efficiency", "purity"), strict=True):
            for offset, (name, of_class) in zip((-1, 0, 1), score["by_class"].items(), strict=True):
                energy = of_class["energy"]
                edges = np.array(energy["edges_gev"])
                # The three classes side by side within a bin, so that their intervals can be told apart.
                centre = (edges[1:] + edges[:-1]) / 2 + offset * 0.12 * np.diff(edges)
                _points(ax, centre, energy[quantity], energy[f"{quantity}_interval"], name)
            ax.set(xlabel="true neutrino energy (GeV)", ylabel=quantity, ylim=(-0.02, 1.02), xlim=(0, None))
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
        axes[1].yaxis.set_tick_params(labelleft=True)
        save_svg(figure, path)


def _scores(score: Score, path: Path) -> None:
    """Distribution of each class's probability, by the true class."""
    edges = np.array(score["score_edges"])
    with new_figure(6.4, 2.8, columns=3, sharey=True) as (figure, axes):
        for ax, (name, of_class) in zip(axes, score["by_class"].items(), strict=True):
            for other, counts in of_class["scores"].items():
                ax.stairs(counts, edges, color=COLOURS[other], linewidth=1.5, label=f"true {LABELS[other]}")
            ax.set(xlabel=f"P({LABELS[name]})", xlim=(0, 1), xticks=(0, 0.5, 1))
        axes[0].set_ylabel(f"events / {edges[1] - edges[0]:g}")
        axes[0].set_ylim(0, None)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
        save_svg(figure, path)


def _reliability(score: Score, path: Path) -> None:
    """Accuracy against confidence: on the diagonal a probability means what it says."""
    bins = score["reliability"]
    edges = np.array(bins["edges"])
    with new_figure(4.0, 3.9, rows=2, sharex=True, height_ratios=(3, 1)) as (figure, (ax, below)):
        ax.plot([0, 1], [0, 1], color="#888888", linewidth=1, linestyle=":", label="perfectly calibrated")
        confidence = np.array([np.nan if value is None else value for value in bins["confidence"]])
        _points(ax, confidence, bins["accuracy"], bins["accuracy_interval"], None, label=f"ECE {score['ece']:.3f}")
        ax.set(ylabel="accuracy", xlim=(0.3, 1.01), ylim=(-0.02, 1.02))
        ax.legend(loc="upper left")
        below.stairs(bins["accuracy_n"], edges, fill=True, color="#0072b2", alpha=0.6)
        below.set(xlabel="confidence (probability of the predicted class)", ylabel="events")
        save_svg(figure, path)


def _robustness(scores: Mapping[str, Mapping[str, Score]], path: Path) -> None:
    """Accuracy of every model under every condition."""
    conditions = list(dict.fromkeys(condition for of_model in scores.values() for condition in of_model))
    with new_figure(6.4, 1.1 + 0.22 * len(conditions) * len(scores)) as (figure, ax):
        for i, (model, of_model) in enumerate(scores.items()):
            shift = 0.18 * (i - (len(scores) - 1) / 2)
            known = [(conditions.index(name), s) for name, s in of_model.items() if s["n"]]
            values = [s["accuracy"] for _, s in known]
            ax.errorbar(
                values,
                [row + shift for row, _ in known],
                xerr=_arms(values, [s["accuracy_interval"] for _, s in known]),
                fmt="o",
                color=MODEL_COLOURS[i % len(MODEL_COLOURS)],
                capsize=2,
                label=title(model),
            )
        ax.set(yticks=range(len(conditions)), yticklabels=[words(name) for name in conditions])
        ax.set(xlim=(0, 1), ylim=(len(conditions) - 0.5, -0.5), xlabel="accuracy")
        figure.legend(loc="outside upper center", ncols=len(scores))
        save_svg(figure, path)


def _rationales(errors: Mapping[str, Any], path: Path) -> None:
    """Claimed against true lengths and energies; within the dashed lines a claim is right."""
    panels = (("track_cm", "length of the track (cm)"), ("shower_mev", "energy of the shower (MeV)"))
    with new_figure(6.4, 3.1, columns=2) as (figure, axes):
        for ax, (name, label) in zip(axes, panels, strict=True):
            pairs = np.array(errors[name]["points"]).reshape(-1, 2)
            ends = np.array([pairs.min(initial=100) / 1.5, pairs.max(initial=100) * 1.5])
            # Rationales round, so that many points are one: a little noise tells them apart.
            spread = np.random.default_rng(0).uniform(0.94, 1.06, pairs.shape)
            ax.plot(*(pairs * spread).T, ".", color="#0072b2", alpha=0.45, markeredgewidth=0)
            ax.plot(ends, ends, color="#888888", linewidth=1)
            for factor in (1 - TOLERANCE, 1 + TOLERANCE):
                ax.plot(ends, factor * ends, color="#888888", linewidth=1, linestyle="--")
            ax.set(xscale="log", yscale="log", xlim=ends, ylim=ends, aspect="equal")
            ax.set(xlabel=f"true {label}", ylabel="claimed")
        save_svg(figure, path)


def _training(cards: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Losses and accuracies of each model as its training went on."""
    with new_figure(3.4 * len(cards), 2.8, columns=len(cards), squeeze=False) as (figure, axes):
        for ax, (model, card) in zip(axes[0], cards.items(), strict=True):
            unit, curves = _curves(card)
            for i, (name, points) in enumerate(curves.items()):
                style = "--" if "accuracy" in name else "-"
                colour = MODEL_COLOURS[i % len(MODEL_COLOURS)]
                ax.plot(*zip(*points, strict=True), style, color=colour, label=name)
            ax.set(title=title(model), xlabel=unit, ylim=(0, None))
            if curves:
                ax.legend(loc="best")
            else:
                ax.text(0.5, 0.5, "no history recorded", ha="center", va="center", transform=ax.transAxes)
        axes[0][0].set_ylabel("loss (solid), accuracy (dashed)")
        save_svg(figure, path)


def _curves(card: Mapping[str, Any]) -> tuple[str, dict[str, list[tuple[float, float]]]]:
    """What training.json tells of the way: `history` has a record an epoch, `losses` a (step, loss) a log line."""
    if card.get("losses"):
        return "step", {"train loss": card["losses"]}
    history = card.get("history") or []
    names = dict.fromkeys(name for record in history for name in record if "loss" in name or "accuracy" in name)
    return card.get("unit", "epoch"), {
        words(name): [(epoch, record[name]) for epoch, record in enumerate(history, 1) if name in record]
        for name in names
    }


def _points(
    ax: Axes,
    x: np.ndarray,
    values: Sequence[float | None],
    intervals: Sequence[Sequence[float] | None],
    name: str | None,
    label: str | None = None,
) -> None:
    """Points with their intervals, in the colour of class `name`; bins without an event are left out."""
    known = [i for i, value in enumerate(values) if value is not None]
    y = [value for value in values if value is not None]
    ax.errorbar(
        x[known],
        y,
        yerr=_arms(y, [interval for interval in intervals if interval is not None]),
        fmt=MARKERS.get(name or "", "o"),
        color=COLOURS.get(name or "", "#0072b2"),
        linewidth=1.2,
        label=LABELS.get(name or "", label),
    )


def _arms(values: Sequence[float], intervals: Sequence[Sequence[float]]) -> np.ndarray:
    """(2, n) distances from each value down and up to the ends of its interval."""
    ends = np.array(intervals, dtype=np.float64).reshape(-1, 2)
    centre = np.array(values, dtype=np.float64)
    return np.maximum(np.stack([centre - ends[:, 0], ends[:, 1] - centre]), 0)


def _nothing_to_draw(path: Path) -> None:
    """A figure that was promised is written in any case, and says why it is empty."""
    with new_figure(4.0, 1.0) as (figure, ax):
        ax.axis("off")
        ax.text(0.5, 0.5, "no test event with known truth", ha="center", va="center", transform=ax.transAxes)
        save_svg(figure, path)


_DRAW: Mapping[str, Callable[[Score, Path], None]] = {
    "confusion": _confusion,
    "roc": _roc,
    "energy": _energy,
    "scores": _scores,
    "reliability": _reliability,
}
