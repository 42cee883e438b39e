"""What came out of ``make classify``, for a terminal: ``python -m nuvlm.report.classified results/mine``."""

import argparse
import re
import sys
from pathlib import Path

import pandas as pd

from nuvlm.base.classes import CLASSES
from nuvlm.base.errors import InputError
from nuvlm.dataset.event_table import read_events
from nuvlm.models.predictions import PROBABILITIES, part_tables, read_predictions
from nuvlm.models.table import title

WARNING = re.compile(r"^\S+ \S+ WARNING (?:\[rank \d+\] )?\S+: (.*)$")
"""A warning in the log of a job (nuvlm.base.logs.setup_logging)."""
STAGES = ("simulate_events", "convert", "smear_and_downsample", "crop_displays", "list_events")
"""Rules that may leave events out, or doubt them."""


def count_classes(run: Path) -> pd.DataFrame:
    """Events and mean confidence of every model and class, without degradation.

    Args:
        run: results folder of a finished run.

    Returns:
        Index model; for every class the columns (class, "events") and (class, "confidence"), the mean probability of
        that class over the events assigned to it, NaN if there is none.

    Raises:
        InputError: there are no predictions, or a table of them is missing.
    """
    folders = sorted(run.glob("predictions/*/nominal"))
    if not folders:
        raise InputError(f"{run}: there are no predictions in it. Finish the run, or give another folder.")
    rows = {}
    events = read_events(run / "events.parquet")
    for folder in folders:
        table = read_predictions(part_tables(folder, events))
        row: dict[tuple[str, str], float] = {}
        for name, column in zip(CLASSES, PROBABILITIES, strict=True):
            chosen = table.loc[table["predicted"] == name, column]
            row[name, "events"], row[name, "confidence"] = len(chosen), float(chosen.mean())
        rows[title(folder.parent.name)] = row
    return pd.DataFrame.from_dict(rows, orient="index")


def list_warnings(run: Path) -> list[str]:
    """What the stages before the models left out or doubted, from their logs, each once."""
    found: dict[str, None] = {}
    for stage in STAGES:
        for log in sorted([*run.glob(f"logs/{stage}.log"), *run.glob(f"logs/{stage}/**/*.log")]):
            for line in log.read_text(errors="replace").splitlines():
                if match := WARNING.match(line):
                    found[match[1]] = None
    return list(found)


def render(run: Path) -> str:
    """Counts, confidences and warnings as text."""
    counts = count_classes(run)
    lines = ["Events (and mean confidence) by class:", ""]
    width = max(len(name) for name in counts.index)
    lines.append(" " * width + "".join(f"{name:>18}" for name in CLASSES))
    for model, row in counts.iterrows():
        cells = [
            f"{row[name, 'events']:.0f}" + (f" ({row[name, 'confidence']:.2f})" if row[name, "events"] else "")
            for name in CLASSES
        ]
        lines.append(f"{model:<{width}}" + "".join(f"{cell:>18}" for cell in cells))
    warnings = list_warnings(run)
    if warnings:
        lines += ["", "Left out or doubted:", *(f"  {text}" for text in warnings)]
    lines += ["", f"Predictions: {run}/predictions/", f"Events, one by one: {run}/report/index.html"]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m nuvlm.report.classified", description=__doc__)
    parser.add_argument("run", type=Path, help="results folder of the run")
    try:
        print(render(parser.parse_args(arguments).run))
    except InputError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
