"""Learning curves: accuracy of finished runs against their training events, as tables, a figure and a page's tables.

``python -m nuvlm.report.study docs/study docs/study.md --add results/study/curves`` adds the points of a study to those
in docs/study, fits the curves of all, draws the figure and writes the tables to the page, between its two marks. So the
points of one study may be made on several machines.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import inf, isnan, nan
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from nuvlm.base.errors import InputError
from nuvlm.base.files import atomic_path, read_json, write_csv
from nuvlm.evaluation.intervals import Interval, binomial_interval
from nuvlm.evaluation.learning_curve import fit_power_law
from nuvlm.evaluation.metrics import SEED
from nuvlm.evaluation.samples import KEY, read_sample
from nuvlm.models.predictions import part_tables
from nuvlm.models.table import title
from nuvlm.models.trainings import split_training, training_name
from nuvlm.report.compare import read_run, settings_that_differ
from nuvlm.report.style import MODEL_COLOURS, arrange, new_figure, to_svg

BEGIN, END = "<!-- study: begin -->", "<!-- study: end -->"
"""Marks in the page; what is between them is generated."""
PUBLISHED_EVENTS = 171_000
"""Training events of arXiv 2509.08461: of 190,000, those that are in neither other split."""
CURVES, ANSWERS, FITS, FIGURE = "curves.csv", "answers.parquet", "fits.csv", "curves.svg"
TRUTH = [*KEY, "class", "nu_energy"]
"""Columns of a test event: its name, and truth that tells it from an event of the same name in another simulation."""


@dataclass(frozen=True)
class Accuracy:
    """A training of a model in a run, on nominal test events."""

    run: str
    pixel_mm: float
    model: str
    training: int
    """Number of the training, from 1."""
    train_events: int
    test_events: int
    accuracy: float
    low: float
    """Clopper-Pearson interval, 95 %: test events only."""
    high: float
    train_seconds: float


@dataclass(frozen=True)
class Fit:
    """The power law of a model (nuvlm.evaluation.learning_curve), with 95 % intervals."""

    model: str
    pixel_mm: float
    sizes: int
    between_trainings: float
    """Standard deviation of the accuracy; NaN if no size was trained on more than once."""
    exponent: float
    exponent_low: float
    exponent_high: float
    at_published: float
    """Accuracy with PUBLISHED_EVENTS."""
    at_published_low: float
    at_published_high: float
    limit: float
    """Accuracy with any number of events."""
    limit_low: float
    limit_high: float
    unit: int
    b: float
    """1 - accuracy = 1 - limit + b (events / unit)^-exponent."""

    def accuracy(self, events: np.ndarray) -> np.ndarray:
        """Of the curve."""
        return self.limit - self.b * (events / self.unit) ** -self.exponent


Row = TypeVar("Row", Accuracy, Fit)


def _read(path: Path, kind: type[Row]) -> list[Row]:
    """The rows of a CSV table, whose columns are the fields of `kind`.

    Raises:
        InputError: it is missing or has other columns.
    """
    names = [field.name for field in fields(kind)]
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: no readable table ({error}). Make it with: make study") from error
    if table.columns.tolist() != names:
        raise InputError(f"{path}: its columns must be {', '.join(names)}. Make it with: make study")
    return [kind(*row) for row in table.itertuples(index=False)]


def _write(path: Path, kind: type[Row], rows: Sequence[Row]) -> None:
    write_csv(path, pd.DataFrame([asdict(row) for row in rows], columns=[field.name for field in fields(kind)]))


@dataclass(frozen=True)
class FinishedPoint:
    """What the curves need of a finished run."""

    folder: Path
    tested: pd.DataFrame
    """TRUTH of the test events."""
    accuracies: list[Accuracy]
    correct: list[np.ndarray]
    """For each of `accuracies`, whether each test event was classified correctly."""


def read_point(folder: Path, config: Mapping[str, Any] | None = None) -> FinishedPoint:
    """The accuracy of every training of a finished run.

    Args:
        folder: of the run, results/{run}.
        config: the whole configuration that it must have been made with, as plain values; None for any.

    Raises:
        InputError: the run is not finished, a file of it cannot be read, or it was made with another configuration.
    """
    run = read_run(folder)
    made_with = run.report["provenance"]["config"]
    if config is not None and (differing := settings_that_differ(made_with, config)):
        changes = "; ".join(f"{item['key']} was {item['first']}, is {item['second']}" for item in differing)
        raise InputError(f"{folder}: made with other settings ({changes}). Run it again, or set them as they were.")
    pixel = float(made_with["display"]["pixel_mm"])
    count = int((run.table["split"] == "train").sum())
    point = FinishedPoint(folder, run.events[TRUTH].reset_index(drop=True), [], [])
    for training in _trainings(run.report):
        model, number = split_training(training)
        parts = part_tables(folder / "predictions" / training / "nominal", run.table)
        right = read_sample(run.events, parts).correct
        interval = binomial_interval(int(right.sum()), len(right))
        assert interval is not None
        seconds = read_json(folder / "models" / training / "training.json")["seconds"]
        low, high = interval
        about = (folder.name, pixel, model, number, count, len(right))
        point.accuracies.append(Accuracy(*about, float(right.mean()), low, high, seconds))
        point.correct.append(right)
    return point


def read_points(folder: Path) -> list[FinishedPoint]:
    """The points that :func:`write_points` wrote into a folder; none if it has no tables.

    Raises:
        InputError: a table cannot be read, or the two are not of the same trainings and test events.
    """
    if not (folder / CURVES).exists() and not (folder / ANSWERS).exists():
        return []
    rows = _read(folder / CURVES, Accuracy)
    where = folder / ANSWERS
    try:
        answers = pd.read_parquet(where)
    except (OSError, ValueError) as error:
        raise InputError(f"{where}: no readable table ({error}). Make it with: make study") from error
    columns = [_column(row) for row in rows]
    if sorted([*TRUTH, "pixel_mm", *columns]) != sorted(answers.columns):
        raise InputError(f"{where}: has other trainings than {CURVES}. Both are written by: make study")
    points: dict[str, FinishedPoint] = {}
    for row, column in zip(rows, columns, strict=True):
        here = answers[answers["pixel_mm"] == row.pixel_mm]
        right = here[column].to_numpy(dtype=bool, na_value=False)
        if here[column].isna().any() or len(here) != row.test_events or not np.isclose(right.mean(), row.accuracy):
            raise InputError(
                f"{where}: {column} does not have the accuracy of {CURVES}. Both are written by: make study"
            )
        point = points.setdefault(row.run, FinishedPoint(folder / row.run, here[TRUTH].reset_index(drop=True), [], []))
        point.accuracies.append(row)
        point.correct.append(right)
    return list(points.values())


def write_points(folder: Path, points: Sequence[FinishedPoint]) -> None:
    """Write the points with the curves, the fits and the figure into a folder.

    Beside the accuracies stands which test events each training classified correctly: fits of more points, and pairs of
    trainings, need it.

    Raises:
        InputError: points with pixels of one size have different test events.
    """
    rows, fits = make_curves(points)
    answers: dict[float, pd.DataFrame] = {}
    for point in points:
        for row, right in zip(point.accuracies, point.correct, strict=True):
            table = answers.setdefault(row.pixel_mm, point.tested.assign(pixel_mm=row.pixel_mm))
            table[_column(row)] = right
    with atomic_path(folder / ANSWERS) as partial:
        joined = (
            pd.concat(answers.values(), ignore_index=True) if answers else pd.DataFrame(columns=[*TRUTH, "pixel_mm"])
        )
        trainings = [_column(row) for row in rows]
        joined.astype(dict.fromkeys(trainings, "boolean")).to_parquet(partial, compression="zstd")
    write_study(folder, rows, fits)


def _column(row: Accuracy) -> str:
    """Name of a training in the table of answers."""
    return f"{row.run}/{training_name(row.model, row.training)}"


def join_points(earlier: Sequence[FinishedPoint], later: Sequence[FinishedPoint]) -> list[FinishedPoint]:
    """The points of two studies by pixel and training events; one that both have is taken from `later`.

    Raises:
        InputError: two of them with the same pixel and training events have other names: they are of other studies.
    """
    points = {point.folder.name: point for point in [*earlier, *later]}
    places: dict[tuple[float, int], FinishedPoint] = {}
    for point in points.values():
        row = point.accuracies[0]
        other = places.setdefault((-row.pixel_mm, row.train_events), point)
        if other is not point:
            raise InputError(
                f"{other.folder} and {point.folder}: have the same size, so they are of different studies."
            )
    return [places[place] for place in sorted(places)]


def make_curves(points: Sequence[FinishedPoint]) -> tuple[list[Accuracy], list[Fit]]:
    """The accuracy of every training of the points, and a fit for each model and pixel with enough sizes.

    Raises:
        InputError: points with pixels of one size have different test events.
    """
    correct: dict[tuple[str, float], dict[int, list[np.ndarray]]] = {}
    tested: dict[float, FinishedPoint] = {}
    for point in points:
        for row, right in zip(point.accuracies, point.correct, strict=True):
            first = tested.setdefault(row.pixel_mm, point)
            if not first.tested.equals(point.tested):
                raise InputError(
                    f"{first.folder} and {point.folder}: have other test events, so they are not points of one curve."
                )
            correct.setdefault((row.model, row.pixel_mm), {}).setdefault(row.train_events, []).append(right)
    fits = [_fit(model, pixel, sizes) for (model, pixel), sizes in correct.items()]
    return [row for point in points for row in point.accuracies], [fit for fit in fits if fit is not None]


def _trainings(report: Mapping[str, Any]) -> list[str]:
    """Names of all trainings of the models of a report."""
    numbers = {model: report["trainings"].get(model, {"n": 1})["n"] for model in report["scores"]}
    return [training_name(model, i + 1) for model, n in numbers.items() for i in range(n)]


def _fit(model: str, pixel_mm: float, correct: Mapping[int, Sequence[np.ndarray]]) -> Fit | None:
    law = fit_power_law(correct, SEED)
    if law is None:
        return None

    spread = nan if law.deviation is None else law.deviation

    def with_ends(value: float, ends: Interval) -> tuple[float, float, float]:
        assert ends is not None
        return value, ends[0], ends[1]

    return Fit(
        model, pixel_mm, len(correct), spread, *with_ends(law.c, law.exponent()),
        *with_ends(*law.accuracy(PUBLISHED_EVENTS)), *with_ends(*law.accuracy(inf)), law.unit, law.b,
    )  # fmt: skip


def write_study(folder: Path, rows: Sequence[Accuracy], fits: Sequence[Fit]) -> None:
    """Write the tables and the figure into a folder."""
    _write(folder / CURVES, Accuracy, rows)
    _write(folder / FITS, Fit, fits)
    with atomic_path(folder / FIGURE) as partial:
        partial.write_text(draw(rows, fits), encoding="utf-8")


def draw(rows: Sequence[Accuracy], fits: Sequence[Fit]) -> str:
    """Accuracy against training events as SVG: each training a point with its interval from test events, each fit a
    line; other pixels are open points."""
    models = list(dict.fromkeys(row.model for row in rows))
    usual = max((row.pixel_mm for row in rows), default=0.0)
    with new_figure(6.4, 4.2) as (figure, ax):
        for model, colour in zip(models, [*MODEL_COLOURS, *MODEL_COLOURS], strict=False):
            for pixel, marker in zip(sorted({row.pixel_mm for row in rows}, reverse=True), "osD^v<>", strict=False):
                here = [row for row in rows if (row.model, row.pixel_mm) == (model, pixel)]
                label = title(model) if pixel == usual else None
                filled = colour if pixel == usual else "none"
                values = np.array([(row.train_events, row.accuracy, row.low, row.high) for row in here]).reshape(-1, 4)
                events, accuracy, low, high = values.T
                interval = [accuracy - low, high - accuracy]
                ax.errorbar(events, accuracy, interval, fmt=marker, color=colour, markerfacecolor=filled, label=label)
            for fit in fits:
                if fit.model == model:
                    sizes = [row.train_events for row in rows if (row.model, row.pixel_mm) == (model, fit.pixel_mm)]
                    x = np.geomspace(min(sizes), max(*sizes, PUBLISHED_EVENTS), 100)
                    ax.plot(x, fit.accuracy(x), color=colour)
        ax.set(xscale="log", xlabel="training events", ylabel="accuracy, nominal test events")
        if models:
            ax.legend(loc="lower right")
        arrange(figure)
        svg = to_svg(figure, "study")
    # Shown as a separate page: the colour of the page's text is unknown, so the figure has a background.
    return svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" style="color: black; background: white" ', 1)


def tables(rows: Sequence[Accuracy], fits: Sequence[Fit]) -> str:
    """Both tables in Markdown: mean and standard deviation of several trainings, or accuracy and interval of one."""
    if not rows:
        return "No point has been run yet.\n"
    models = list(dict.fromkeys(row.model for row in rows))
    lines = [f"| training events | pixel | {' | '.join(map(title, models))} |", "|---" * (len(models) + 2) + "|"]
    for pixel, size in sorted({(row.pixel_mm, row.train_events) for row in rows}, key=lambda pair: (-pair[0], pair[1])):
        cells = [
            _cell([row for row in rows if (row.model, row.pixel_mm, row.train_events) == (model, pixel, size)])
            for model in models
        ]
        lines.append(f"| {size:,} | {pixel / 10:g} cm | {' | '.join(cells)} |")
    if fits:
        lines.append("")
        lines += _fit_table(fits)
    return "\n".join(lines) + "\n"


def _fit_table(fits: Sequence[Fit]) -> list[str]:
    lines = [
        f"| model | pixel | exponent | with {PUBLISHED_EVENTS:,} events | limit | between trainings |",
        "|---|---|---|---|---|---|",
    ]
    for fit in fits:
        spread = "" if isnan(fit.between_trainings) else f"{fit.between_trainings:.3f}"
        lines.append(
            f"| {title(fit.model)} | {fit.pixel_mm / 10:g} cm "
            f"| {fit.exponent:.2f} ({fit.exponent_low:.2f} to {fit.exponent_high:.2f}) "
            f"| {fit.at_published:.3f} ({fit.at_published_low:.3f} to {fit.at_published_high:.3f}) "
            f"| {fit.limit:.3f} ({fit.limit_low:.3f} to {fit.limit_high:.3f}) | {spread} |"
        )
    return lines


def _cell(rows: Sequence[Accuracy]) -> str:
    if not rows:
        return ""
    values = [row.accuracy for row in rows]
    if len(rows) > 1:
        return f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f} (n = {len(rows)})"
    return f"{values[0]:.3f} ({rows[0].low:.3f} to {rows[0].high:.3f})"


def write_page(folder: Path, page: Path, added: Sequence[Path] = ()) -> None:
    """Write the tables of a folder between the marks of a page, and draw the figure beside the tables.

    Args:
        folder: with the tables of write_points.
        page: Markdown page.
        added: folders of further points, which are first joined to those of `folder`.

    Raises:
        InputError: a table cannot be read, points have different test events, or the page has no marks.
    """
    if added:
        points = read_points(folder)
        for further in added:
            if not (later := read_points(further)):
                raise InputError(f"{further}: has no {CURVES}. Make it with: make study")
            points = join_points(points, later)
        write_points(folder, points)
    rows, fits = _read(folder / CURVES, Accuracy), _read(folder / FITS, Fit)
    before, found, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not (found and ended):
        raise InputError(f"{page}: has no lines '{BEGIN}' and '{END}' to write the tables between")
    write_study(folder, rows, fits)
    with atomic_path(page) as partial:
        partial.write_text(f"{before}{BEGIN}\n{tables(rows, fits)}{END}{after}", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m nuvlm.report.study", description=__doc__)
    parser.add_argument("folder", type=Path, help=f"with {CURVES} and {FITS}")
    parser.add_argument("page", type=Path, help="Markdown page with the two marks")
    parser.add_argument(
        "--add", type=Path, nargs="*", default=[], help="folders of further points, added to the folder"
    )
    options = parser.parse_args(arguments)
    try:
        write_page(options.folder, options.page, options.add)
    except InputError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
