"""Files of predictions: a line per test event, as JSON, with its name, a text and, if there is one, a class."""

import json
from pathlib import Path
from typing import Annotated

import pandas as pd
from pydantic import Field, ValidationError

from nuvlm.base.classes import CLASSES
from nuvlm.base.errors import InputError
from nuvlm.base.files import atomic_path
from nuvlm.base.settings import Settings
from nuvlm.evaluation.benchmark.definition import Definition

LONGEST = 10_000
"""Characters of a text, at most."""
EXAMPLE = '{"event": "v2-00017", "class": "nc", "text": "A track of 30 cm stops in the detector."}'


class Prediction(Settings):
    """A line of the file."""

    event: str
    text: Annotated[str, Field(max_length=LONGEST)]
    answer: str | None = Field(default=None, alias="class")


def read_predictions(path: Path, truth: pd.DataFrame, definition: Definition) -> pd.DataFrame:
    """Read predictions for all test events.

    Args:
        truth: the table of truth (:func:`nuvlm.evaluation.benchmark.events.read_truth`).

    Returns:
        Columns `event`, `text`, `class`, in the order of `truth`; `class` is None if none is given.

    Raises:
        InputError: names the line, and what to do: no JSON, a missing or unknown key, another type, an event that is
            unknown, of another version, for practice, repeated or missing, a class for some events only.
    """
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise InputError(f"{path}: no readable file ({error}). Give a file of lines such as {EXAMPLE}") from error
    splits = dict(zip(truth["event"], truth["split"], strict=True))
    found: dict[str, tuple[int, Prediction]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        one = _parse(where, line)
        _check_event(where, one.event, splits, definition)
        if one.event in found:
            raise InputError(f"{where}: event {one.event} was in line {found[one.event][0]}. Leave one of them out.")
        if found and (one.answer is None) != (next(iter(found.values()))[1].answer is None):
            raise InputError(f'{where}: a "class" is given for some events only. Give it for all, or for none.')
        found[one.event] = number, one
    tested = [event for event, split in splits.items() if split == "test"]
    if not found:
        raise InputError(f"{path}: is empty. Give a line for each of the {len(tested)} test events, such as {EXAMPLE}")
    if missing := [event for event in tested if event not in found]:
        raise InputError(
            f"{path}: {len(missing)} of {len(tested)} test events are missing, the first is {missing[0]}. Add them, "
            'with an empty text ("") where nothing is said.'
        )
    rows = [found[event][1] for event in tested]
    return pd.DataFrame(
        {
            "event": tested,
            "text": [row.text for row in rows],
            "class": pd.Series([row.answer for row in rows], dtype=object),
        }
    )


def write_predictions(path: Path, predictions: pd.DataFrame) -> None:
    """Write a file of predictions, whole or not at all, from a table such as :func:`read_predictions` returns."""
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in predictions.to_dict("records")]
    with atomic_path(path) as partial:
        partial.write_text("".join(lines), encoding="utf-8")


def _parse(where: str, line: bytes) -> Prediction:
    try:
        value = json.loads(line.decode(), object_pairs_hook=_without_repeats)
    except ValueError as error:  # of UTF-8 and of JSON
        raise InputError(f"{where}: not JSON ({error}). Each line is one object, such as {EXAMPLE}") from None
    if not isinstance(value, dict):
        raise InputError(f"{where}: not a JSON object. Each line is one, such as {EXAMPLE}")
    try:
        one = Prediction.model_validate(value, strict=True)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
        raise InputError(f'{where}: "{key}": {problem["msg"]}. A line is such as {EXAMPLE}') from None
    if one.answer is not None and one.answer not in CLASSES:
        raise InputError(f'{where}: "class": {one.answer!r} is none of {", ".join(CLASSES)}. Use one of these names.')
    return one


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"a key is given twice: {', '.join(names)}")
    return dict(pairs)


def _check_event(where: str, event: str, splits: dict[str, str], definition: Definition) -> None:
    kind = definition.judge_name(event)
    if kind == "other version":
        raise InputError(
            f"{where}: event {event!r} is of another version of the benchmark; this is version {definition.version}. "
            "Use the events of this version, or the release that scores the other."
        )
    if kind == "no event" or event not in splits:
        raise InputError(
            f"{where}: event {event!r} is unknown. The names are those of the maps, {definition.name(0)} and so on."
        )
    if splits[event] != "test":
        raise InputError(f"{where}: event {event!r} is for practice and is not scored. Leave it out.")
