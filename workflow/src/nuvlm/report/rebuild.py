"""Rebuild report.json from a published bundle: python -m nuvlm.report.rebuild <folder of the bundle>."""

import argparse
import logging
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nuvlm.base.errors import InputError
from nuvlm.base.files import read_json, write_json
from nuvlm.evaluation.metrics import evaluate
from nuvlm.report.page import report_numbers
from nuvlm.report.schema import check_report

INPUTS = "rebuild.json"
"""What of a bundle the report is computed from; paths are relative to the bundle."""


def rebuild(bundle: Path, out: Path) -> None:
    """Compute report.json again from the event table, the predictions and what else INPUTS names.

    Date, machine and versions are those of the run.

    Args:
        bundle: folder of a bundle (nuvlm.workflow.bundle).
        out: the file to write.

    Raises:
        InputError: a file of the bundle is missing or altered.
    """
    inputs = read_json(bundle / INPUTS)
    spectrum = inputs["spectrum"]
    predictions = {model: _within(bundle, conditions) for model, conditions in inputs["predictions"].items()}
    with tempfile.TemporaryDirectory() as folder:
        scores = Path(folder, "scores.json")
        evaluate(
            bundle / inputs["events"],
            predictions,
            scores,
            repeats={
                model: [_within(bundle, conditions) for conditions in trainings]
                for model, trainings in inputs["repeats"].items()
            },
            explanations=_within(bundle, inputs["explanations"]),
            saliency=_within(bundle, inputs["saliency"]),
            spectrum=bundle / spectrum["copy"] if spectrum else None,
            level=inputs["provenance"]["config"]["report"]["coverage"],
        )
        results = read_json(scores)
    if spectrum:
        # The report names the file of the run, not its copy.
        results["spectrum"]["file"] = spectrum["file"]
    numbers = report_numbers(
        results,
        read_json(bundle / inputs["browser"]),
        predictions,
        {model: bundle / path for model, path in inputs["training"].items()},
        bundle / inputs["published"],
        inputs["provenance"]["config"],
        inputs["provenance"],
    )
    check_report(numbers)
    write_json(out, numbers)


def differences(first: Any, second: Any, key: str = "") -> list[str]:
    """Keys of two JSON values where they differ, such as ``scores.cnn.nominal.accuracy``."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        names = dict.fromkeys([*first, *second])
        return [
            found
            for name in names
            for found in differences(first.get(name), second.get(name), f"{key}.{name}" if key else name)
        ]
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        pairs = enumerate(zip(first, second, strict=True))
        return [found for i, (a, b) in pairs for found in differences(a, b, f"{key}[{i}]")]
    return [] if first == second and type(first) is type(second) else [key]


def check(bundle: Path) -> None:
    """Rebuild report.json and compare it with the one in the bundle.

    Raises:
        InputError: they differ in any byte; names the first keys.
    """
    path = bundle / read_json(bundle / INPUTS)["report"]
    with tempfile.TemporaryDirectory() as folder:
        again = Path(folder, "report.json")
        rebuild(bundle, again)
        if again.read_bytes() == path.read_bytes():
            return
        found = differences(read_json(path), read_json(again)) or ["the order of keys"]
    raise InputError(
        f"{path}: computed again, {len(found)} numbers differ, first {', '.join(found[:5])}. Either the files beside "
        "it are of another run, or code and package versions are not those that wrote it (requirements.txt)."
    )


def _within(bundle: Path, files: Mapping[str, list[str]]) -> dict[str, list[str | Path]]:
    """Name -> files, in the bundle."""
    return {name: [bundle / path for path in paths] for name, paths in files.items()}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Rebuild report.json from a bundle, and compare it bit by bit.")
    parser.add_argument("bundle", type=Path, nargs="?", default=Path(), help="folder of the bundle")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        check(given.bundle)
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{os.path.relpath(given.bundle)}: report.json is the same, bit by bit.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
