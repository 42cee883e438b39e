"""A run that can be published: python -m nuvlm.workflow.bundle results/<run>

The bundle is a folder with everything that the report is computed from, the code, an RO-Crate description of every
job, cards of models and data, and tables for HEPData. Paths in it are those of the run. Before it is finished,
report.json is computed from it again and compared.
"""

import argparse
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from nuvlm import __version__
from nuvlm.base.errors import InputError
from nuvlm.base.files import atomic_path, read_json, write_json
from nuvlm.models.table import SUFFIXES, family_of
from nuvlm.report.cards import data_card, model_card
from nuvlm.report.hepdata import write_submission
from nuvlm.report.rebuild import INPUTS
from nuvlm.workflow.config import Config, parse_config
from nuvlm.workflow.crate import WORKFLOW, Description, crate
from nuvlm.workflow.records import read_jobs

REPOSITORY = Path(__file__).parents[4]
CODE = (
    "Snakefile", "workflow", "config", "profiles", "resources", "docs", "README.md", "CHANGELOG.md", "Makefile",
    "LICENSE", "CITATION.cff", "codemeta.json", "pyproject.toml", "requirements.lock",
)  # fmt: skip
"""Of the checkout: what the workflow needs, and what says whose it is."""
SPDX = re.compile(r"[A-Za-z0-9.+-]+")
NOT_CODE = shutil.ignore_patterns("__pycache__", ".*", "*.egg-info", "*.sif")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A finished run; paths are relative to the working directory."""

    folder: Path
    report: dict[str, Any]
    config: Config

    @property
    def models(self) -> Path:
        """Where its models are: in its folder, or in that of the run that trained them."""
        return self.folder.parent / (self.config.models_from or self.config.run) / "models"


def read_run(folder: Path) -> Run:
    """Read a finished run.

    Args:
        folder: results/{run}, relative to the working directory of Snakemake.

    Raises:
        InputError: there is no such run, it is not finished, it is of another version, or has counterfactual events.
    """
    if not folder.is_dir():
        there = sorted(path.parents[1].name for path in folder.parent.glob("*/report/report.json"))
        raise InputError(f"{folder}: there is no such run. Finished runs: {', '.join(there) or 'none'}.")
    path = folder / "report" / "report.json"
    if not path.is_file():
        raise InputError(f"{folder}: the run is not finished (no report/report.json). Finish it first: snakemake all")
    report = read_json(path)
    if report.get("format") != "nuvlm-report":
        raise InputError(f"{path}: not a NuVLM report. Remove it and rerun.")
    try:
        config = parse_config(report["provenance"]["config"])
    except (InputError, KeyError) as error:
        raise InputError(
            f"{path}: written by another version ({error}). Run the workflow again, or use the version that wrote it."
        ) from error
    if config.input.simulate.counterfactuals:
        # Its report depends on pixel maps, which a bundle does not have; its events have ids of versions, which no
        # simulation of single events repeats.
        raise InputError(
            f"{folder}: a run with counterfactual events, which can be neither published nor varied. Name the run of "
            f"its models, '{config.models_from}'."
        )
    return Run(folder, report, config)


def rebuild_inputs(run: Run) -> dict[str, Any]:
    """What the report of a run is computed from: the content of rebuild.json."""
    parts = range(run.config.dataset.parts)
    explained: dict[str, dict[str, list[str]]] = {"saliency": {}, "rationales": {}}
    for model in run.config.explained_models:
        kind = family_of(model).explains
        assert kind is not None
        explained[kind][model] = [f"{run.folder}/explanations/{model}/{part}{SUFFIXES[kind]}" for part in parts]

    def predictions(model: str, training: str) -> dict[str, list[str]]:
        return {
            condition: [f"{run.folder}/predictions/{training}/{condition}/{part}.parquet" for part in parts]
            for condition in run.report["scores"][model]
        }

    spectrum = run.config.report.spectrum
    return {
        "report": f"{run.folder}/report/report.json",
        "events": f"{run.folder}/events.parquet",
        "browser": f"{run.folder}/figures/events.json",
        "published": "code/resources/published.yaml",
        "spectrum": spectrum and {"file": str(spectrum), "copy": "inputs/spectrum.csv"},
        "predictions": {model: predictions(model, model) for model in run.report["scores"]},
        "repeats": {
            model: [predictions(model, training) for training in run.config.trainings[model][1:]]
            for model in run.report["scores"]
        },
        "training": {model: f"{run.models}/{model}/training.json" for model in run.report["scores"]},
        "explanations": explained["rationales"],
        "saliency": explained["saliency"],
        "provenance": run.report["provenance"],
    }


def write_bundle(run: Run, out: Path, licence: str | None, author: str | None) -> None:
    """Write the bundle of a run, whole or not at all.

    Args:
        run: the run.
        out: folder to write; an old one is replaced.
        licence: SPDX identifier for the events and results; None: the code's, if the events were simulated here.
        author: who publishes the run; None: the authors of the code.

    Raises:
        InputError: a file of the run is missing, the licence is not known, or the report is not what the files of the
            bundle give.
    """
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    if licence is None:
        if run.config.input.source != "simulate":
            raise InputError(
                "The events are from files of yours: say under which licence they are published, as an SPDX "
                "identifier, such as LICENSE=CC-BY-4.0"
            )
        licence = str(citation["license"])
    if not SPDX.fullmatch(licence):
        raise InputError(f"{licence!r} is not an SPDX identifier, such as CC-BY-4.0 (https://spdx.org/licenses).")
    inputs = rebuild_inputs(run)
    finished = [inputs["report"], *inputs["training"].values()]
    jobs = read_jobs([path for path in finished if run.config.models_from is None or path == inputs["report"]])
    if out.exists() and not (out / "ro-crate-metadata.json").is_file():
        raise InputError(f"{out}: is in the way, and not a bundle. Move it, or give another folder.")
    with atomic_path(out) as bundle:
        for path in _files(run, inputs):
            _copy(path, bundle / path)
        if run.config.report.spectrum is not None:
            _copy(Path(run.config.report.spectrum), bundle / "inputs" / "spectrum.csv")
        _copy_code(bundle / "code")
        write_json(bundle / INPUTS, inputs)
        (bundle / "config.yaml").write_text(
            _yaml(inputs["provenance"]["config"] | {"events_from": None}), encoding="utf-8"
        )
        (bundle / "requirements.txt").write_text(_requirements(), encoding="utf-8")
        trained_on = run.config.models_from or run.config.run
        for model in run.report["scores"]:
            _write(bundle / "cards" / f"{model}.md", model_card(run.report, model, licence, trained_on))
        _write(bundle / "cards" / "data.md", data_card(run.report, licence))
        if all(score["n"] for of_model in run.report["scores"].values() for score in of_model.values()):
            write_submission(bundle / "hepdata", run.report, licence)
            _check_hepdata(bundle / "hepdata")
        name = f"NuVLM run {run.config.run}"
        _write(bundle / "README.md", _readme(run, licence))
        about = Description(
            name, run.report["headline"], licence, author or citation["authors"][0]["name"], author is not None,
            __version__,
            run.report["provenance"]["versions"]["snakemake"], datetime.now(UTC).isoformat(timespec="seconds"),
        )  # fmt: skip
        results = [inputs["report"], f"{run.folder}/report/index.html", f"{run.folder}/report/tables.tex"]
        write_json(bundle / "ro-crate-metadata.json", crate(bundle, about, jobs, "config.yaml", results))
        _check_report(bundle)


def _files(run: Run, inputs: Mapping[str, Any]) -> Iterator[Path]:
    """Files of the run that belong in its bundle."""
    for name in ("report", "events", "browser"):
        yield Path(inputs[name])
    repeated = [conditions for trainings in inputs["repeats"].values() for conditions in trainings]
    for conditions in (*inputs["predictions"].values(), *repeated):
        for parts in conditions.values():
            for part in parts:
                yield Path(part)
                yield Path(part).with_suffix(".json")  # what it cost
    yield from (run.folder / "report" / name for name in ("index.html", "tables.tex"))
    yield from sorted((run.folder / "figures").glob("*.svg"))
    yield from sorted((run.folder / "figures").glob("*.pdf"))
    yield from sorted((run.folder / "logs").rglob("*.log"))
    if (frozen := run.folder / "frozen.json").is_file():
        yield frozen
    for stores in (*inputs["explanations"].values(), *inputs["saliency"].values()):
        for store in map(Path, stores):
            yield from sorted(file for file in store.rglob("*") if file.is_file()) if store.is_dir() else [store]
    for model in run.report["scores"]:
        for training in run.config.trainings[model]:
            yield from sorted(file for file in (run.models / training).rglob("*") if file.is_file())
    # The model that adapters belong to, if it was made here and not fetched.
    base = Path(run.config.vlm.base_folder.replace("<models>", str(run.models)))
    if run.config.vlm.base != "hub" and any(family_of(model).on_base for model in run.report["scores"]):
        yield from sorted(file for file in base.rglob("*") if file.is_file())


def _copy(source: Path, to: Path) -> None:
    if not source.is_file():
        raise InputError(f"{source}: missing. The run is not complete: run the workflow again.")
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, to)


def _copy_code(to: Path) -> None:
    """The code of this checkout."""
    to.mkdir(parents=True)
    for name in CODE:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, to / name, ignore=NOT_CODE)
        elif source.is_file():
            shutil.copy(source, to / name)
    missing = [
        name for name in ("LICENSE", "CITATION.cff", "requirements.lock", "workflow") if not (to / name).exists()
    ]
    if missing or not (to.parent / WORKFLOW).exists():
        raise InputError(f"{REPOSITORY}: has no {', '.join(missing) or WORKFLOW}. Use a whole checkout of NuVLM.")


def _requirements() -> str:
    """The packages that the report is computed with; torch and Snakemake are not among them."""
    environment = yaml.safe_load((REPOSITORY / "workflow" / "envs" / "report.yaml").read_text())
    (pins,) = (entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    return "".join(f"{pin}\n" for pin in pins)


def _check_hepdata(folder: Path) -> None:
    """Have HEPData's validator check a submission."""
    from hepdata_validator.full_submission_validator import FullSubmissionValidator

    validator = FullSubmissionValidator(autoload_remote_schemas=False)
    if not validator.validate(directory=str(folder)):
        found = [message for messages in validator.get_messages().values() for message in messages]
        raise RuntimeError(f"{len(found)} faults in the tables for HEPData, first {found[0].message}")


def _check_report(bundle: Path) -> None:
    """Compute report.json from the bundle, by the code in it, in a process that knows nothing else."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    with tempfile.TemporaryDirectory() as cache:
        # No compiled code is left in the bundle.
        environment |= {"PYTHONPATH": "code/workflow/src", "PYTHONDONTWRITEBYTECODE": "1", "NUMBA_CACHE_DIR": cache}
        done = subprocess.run(
            [sys.executable, "-m", "nuvlm.report.rebuild", "."],
            cwd=bundle, capture_output=True, text=True, env=environment,
        )  # fmt: skip
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise InputError(
            f"The report is not what the bundle gives: {lines[-1]} Run the workflow again with this version, then make "
            "the bundle."
        )


def _readme(run: Run, licence: str) -> str:
    provenance = run.report["provenance"]
    changed = " with uncommitted changes" if provenance["uncommitted_changes"] else ""
    return f"""# NuVLM, run {run.config.run}

{run.report["headline"]}

| file | content |
|---|---|
| `{run.folder}/report/` | the report: `index.html`, every number (`report.json`), LaTeX tables |
| `{run.folder}/` | event table, predictions, explanations, figures, logs |
| `{run.models}/` | the trained models |
| `cards/` | a card of each model, and of the data |
| `hepdata/` | tables as a HEPData submission, if the events have truth |
| `config.yaml` | the complete configuration |
| `code/` | the workflow, with `requirements.lock` |
| `ro-crate-metadata.json` | which job made what from what, and when (Provenance Run Crate) |

## The report again
On any machine with Python 3.11 to 3.13, without a GPU:

```
python3 -m venv venv
venv/bin/pip install --requirement requirements.txt
PYTHONPATH=code/workflow/src venv/bin/python -m nuvlm.report.rebuild .
```

It computes `report.json` from the event table, the predictions and the explanations, and compares it bit by bit.
Voxels, displays and pixel maps are not in the bundle: `snakemake` in `code/` with `--configfile ../config.yaml` makes
all of the run again, on your machine and with its rounding.

The report was written on {provenance["date"]} by commit {provenance["commit"] or "unknown"}{changed}.
Licence of events and results: {licence}. Licence of the code: `code/LICENSE`. Citation: `code/CITATION.cff`.
"""


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _yaml(value: Any) -> str:
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write the bundle of a finished run.")
    parser.add_argument("run", type=Path, help="folder of the run, results/<run>, from where Snakemake ran")
    parser.add_argument("--out", type=Path, help="folder to write (default: bundle, in the run)")
    parser.add_argument("--license", dest="licence", help="SPDX identifier for events and results")
    parser.add_argument("--author", help="who publishes the run")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        # As the rules name it.
        folder = Path(os.path.relpath(given.run))
        if folder.parts[:1] != ("results",) or len(folder.parts) != 2:
            raise InputError(f"{given.run}: not results/<run> of the working directory. Give make bundle RUN=<run>")
        out = given.out or folder / "bundle"
        write_bundle(read_run(folder), out, given.licence, given.author)
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{out}: the bundle. report.json was computed from it again and is the same, bit by bit.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
