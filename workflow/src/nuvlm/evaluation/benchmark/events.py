"""Events of the benchmark: their truth as a table, their maps as PNG.

``python -m nuvlm.evaluation.benchmark.events``, of `make faithfulness-events`, writes both from a run that has
simulated them.
"""

import argparse
import csv
import hashlib
import io
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from nuvlm.base.errors import InputError
from nuvlm.base.files import atomic_path
from nuvlm.dataset.event_table import read_events
from nuvlm.dataset.pixelmaps import image_settings, read_blocks
from nuvlm.dataset.store_list import read_store_list
from nuvlm.evaluation.benchmark.definition import FILE, RUN, VOCABULARY, Definition, load_definition
from nuvlm.evaluation.faithfulness import STATEMENTS
from nuvlm.models.vlm.rationales import Claims, Rationales, load_rationales

TRUTH = "truth.csv"
COLUMNS = ("event", "split", "class", *STATEMENTS)
"""Columns of the table of truth; empty where there is no such thing."""


def default_folder(run: Path = RUN) -> Path:
    """Folder of the table of truth and, in `maps`, of the PNG."""
    return run / "benchmark"


def truth_table(events: pd.DataFrame, definition: Definition, words: Rationales) -> pd.DataFrame:
    """The truth of simulated events, in the order of their ids.

    Args:
        events: rows of an event table; the ids of a simulation start at 0.

    Returns:
        COLUMNS, and `event_id`; numbers have three digits, so that the last bits of the simulation do not matter.
    """
    ordered = events[events["class"].notna()].sort_values("event_id").reset_index(drop=True)
    rank = ordered.groupby("class").cumcount()
    table = pd.DataFrame({"event_id": ordered["event_id"].astype(np.int64)})
    table["event"] = [definition.name(number) for number in table["event_id"]]
    table["split"] = np.where(rank < definition.events.per_class, "test", "practice")
    table["class"] = ordered["class"].astype(str)
    stated = [vars(words.state(event, rounded=False)) for event in ordered.to_dict("records")]
    for name in STATEMENTS:
        values = [np.nan if claims[name] is None else float(claims[name]) for claims in stated]
        table[name] = [float(f"{value:.3g}") for value in values]
    return table


def write_events(run: Path, out: Path, definition: Definition, words: Rationales) -> str:
    """Write the table of truth and the maps of all events; returns the digest of the table.

    Raises:
        InputError: the run has other events or maps than the definition says.
    """
    events = read_events(run / "events.parquet")
    if len(events) != definition.events.simulated:
        raise InputError(
            f"{run}/events.parquet: has {len(events)} events, the benchmark has {definition.events.simulated}. "
            f"Simulate them with config/config.yaml and {definition.events.configuration}, and nothing else."
        )
    stores = read_store_list(run / "pixelmaps.json")
    settings = image_settings(stores)
    if different := [key for key, value in definition.maps.items() if settings.get(key) != value]:
        raise InputError(
            f"{run}: pixel maps with {different[0]} {settings.get(different[0])}, the benchmark has "
            f"{definition.maps[different[0]]}. Simulate them with {definition.events.configuration}, the last overlay."
        )
    table = truth_table(events, definition, words)
    text = _to_csv(table)
    digest = hashlib.sha256(text).hexdigest()
    _check_digest(f"{run}: the truth of its events", digest, definition)
    lacking = [name for name, count in _test_counts(table).items() if count < definition.events.per_class]
    if lacking:
        raise InputError(f"{run}: too few events of class {', '.join(lacking)}. Simulate more: events.simulated.")
    with atomic_path(out) as partial:
        (partial / "maps").mkdir(parents=True)
        for positions, images in read_blocks(stores, events):
            for position, views in zip(positions, images, strict=True):
                name = definition.name(int(events["event_id"].iloc[position]))
                for view, pixels in zip(settings["views"], views, strict=True):
                    Image.fromarray(pixels).save(partial / "maps" / f"{name}_{view}.png")
        (partial / TRUTH).write_bytes(text)
    return digest


def read_truth(folder: Path, definition: Definition) -> pd.DataFrame:
    """The table of truth: COLUMNS, with claims as float64, NaN where there is no such thing.

    Raises:
        InputError: it is missing, or it is not that of this version.
    """
    path = folder / TRUTH
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: no readable table of truth ({error}). Run make faithfulness-events.") from error
    if definition.events.truth_sha256 is None:
        raise InputError(
            f"{FILE}: events.truth_sha256 is null, so version {definition.version} is not finished. Set it to "
            f"{hashlib.sha256(content).hexdigest()}, the digest of {path}."
        )
    _check_digest(str(path), hashlib.sha256(content).hexdigest(), definition)
    return pd.read_csv(io.BytesIO(content), dtype={name: float for name in STATEMENTS})


def true_claims(row: Mapping[Any, Any], words: Rationales) -> Claims:
    """The true claims of a row of the table of truth, rounded as texts state them."""
    stated: dict[str, Any] = {name: row[name] for name in STATEMENTS if not np.isnan(row[name])}
    for name, value in stated.items():
        if name == "charged":
            stated[name] = int(value)
        elif name in ("track_cm", "shower_mev", "gap_cm"):
            stated[name] = words.round(value)
        else:
            stated[name] = bool(value)
    return Claims(**stated)


def _check_digest(what: str, digest: str, definition: Definition) -> None:
    expected = definition.events.truth_sha256
    if expected is not None and digest != expected:
        raise InputError(
            f"{what} is not that of version {definition.version} of the benchmark (SHA-256 {digest[:12]}..., not "
            f"{expected[:12]}...): the simulation, its settings or the file have changed. Use the release that made "
            f"this version and remake the events with make faithfulness-events, or make a new version of {FILE}."
        )


def _test_counts(table: pd.DataFrame) -> dict[str, int]:
    return {str(name): int((rows["split"] == "test").sum()) for name, rows in table.groupby("class")}


def _to_csv(table: pd.DataFrame) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in table.to_dict("records"):
        writer.writerow(row[name] if isinstance(row[name], str) else _cell(row[name]) for name in COLUMNS)
    return out.getvalue().encode()


def _cell(value: float) -> str:
    return "" if np.isnan(value) else np.format_float_positional(value, trim="-")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m nuvlm.evaluation.benchmark.events", description=__doc__)
    parser.add_argument("run", type=Path, nargs="?", default=RUN, help="run that has simulated the events")
    parser.add_argument("--definition", type=Path, default=FILE)
    parser.add_argument("--vocabulary", type=Path, default=VOCABULARY)
    options = parser.parse_args(arguments)
    out = default_folder(options.run)
    try:
        definition = load_definition(options.definition)
        digest = write_events(options.run, out, definition, load_rationales(options.vocabulary))
    except InputError as error:
        sys.exit(str(error))
    print(f"truth: {out / TRUTH} (SHA-256 {digest})\nmaps:  {out / 'maps'}/{definition.name(0)}_xz.png ...")


if __name__ == "__main__":
    main()
