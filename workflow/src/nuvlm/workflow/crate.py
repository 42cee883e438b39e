"""Metadata of a bundle as a Provenance Run Crate, version 0.5 (https://w3id.org/ro/wfrun/provenance).

RO-Crate 1.1 with the profiles of workflow runs: what the workflow is, which job made what from what, and when.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from mimetypes import guess_type
from pathlib import Path
from typing import Any

from nuvlm.base.files import sha256
from nuvlm.workflow.records import Job

PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": "Process Run Crate",
    "https://w3id.org/ro/wfrun/workflow/0.5": "Workflow Run Crate",
    "https://w3id.org/ro/wfrun/provenance/0.5": "Provenance Run Crate",
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": "Workflow RO-Crate",
}
CONTEXT = ["https://w3id.org/ro/crate/1.1/context", "https://w3id.org/ro/terms/workflow-run/context"]
FORMATS = {".parquet": "application/vnd.apache.parquet", ".yaml": "application/yaml", ".md": "text/markdown"}
"""Suffix -> media type, where Python knows none in all its versions."""
WORKFLOW = "code/workflow/Snakefile"


@dataclass(frozen=True)
class Description:
    """What a person says of the bundle."""

    name: str
    text: str
    licence: str
    """SPDX identifier."""
    author: str
    person: bool
    """Whether the author is one; otherwise an organization."""
    version: str
    """Of the workflow."""
    snakemake: str | None
    """Version of Snakemake."""
    date: str
    """ISO 8601."""


def crate(bundle: Path, about: Description, jobs: Sequence[Job], config: str, results: Iterable[str]) -> dict[str, Any]:
    """Content of ro-crate-metadata.json.

    Files of the run that are not in the bundle are named by their path in the run, after a #.

    Args:
        bundle: folder of the bundle, with all its files.
        about: the description.
        jobs: of the run, earliest first.
        config: the file with the configuration, relative to the bundle.
        results: the files that the run is for, relative to the bundle.
    """
    graph = _Graph(bundle)
    licence = graph.add(f"https://spdx.org/licenses/{about.licence}", "CreativeWork", name=about.licence)
    author = graph.add("#author", "Person" if about.person else "Organization", name=about.author)
    engine = graph.add(
        "https://snakemake.github.io", "SoftwareApplication", name="Snakemake", url="https://snakemake.github.io",
        softwareVersion=about.snakemake or "unknown",
    )  # fmt: skip
    language = graph.add(
        "https://w3id.org/workflowhub/workflow-ro-crate#snakemake", "ComputerLanguage", name="Snakemake",
        identifier={"@id": "https://snakemake.github.io"}, url={"@id": "https://snakemake.github.io"},
    )  # fmt: skip
    for path in sorted(file.relative_to(bundle).as_posix() for file in bundle.rglob("*") if file.is_file()):
        graph.file(path)
    graph.add("README.md", "File", about={"@id": "./"})
    given = graph.parameter("configuration", "The configuration of the run", config)
    made = [graph.parameter(f"result-{i}", Path(path).name, path) for i, path in enumerate(results)]
    rules = list(dict.fromkeys(job.rule for job in jobs))
    for position, rule in enumerate(rules):
        graph.add(
            f"#tool-{rule}", "SoftwareApplication", name=rule, description=f"Rule {rule} of the workflow",
            softwareVersion=about.version,
        )  # fmt: skip
        graph.add(f"#step-{rule}", "HowToStep", position=str(position), name=rule, workExample={"@id": f"#tool-{rule}"})
    graph.add(
        WORKFLOW,
        ["File", "SoftwareSourceCode", "ComputationalWorkflow", "HowTo"],
        name="NuVLM",
        programmingLanguage=language,
        license=licence,
        creator=author,
        version=about.version,
        conformsTo={"@id": "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"},
        hasPart=[{"@id": f"#tool-{rule}"} for rule in rules],
        step=[{"@id": f"#step-{rule}"} for rule in rules],
        input=[given],
        output=made,
    )
    controls = [_job(graph, i, job, author) for i, job in enumerate(jobs)]
    times = {"startTime": min(job.started for job in jobs), "endTime": max(job.ended for job in jobs)}
    span = {key: value.isoformat(timespec="seconds") for key, value in times.items()}
    run = graph.add(
        "#run", "CreateAction", name=about.name, description=about.text, instrument={"@id": WORKFLOW}, agent=author,
        object=[{"@id": config}], result=[{"@id": path} for path in results], **span,
    )  # fmt: skip
    graph.add(
        "#orchestration", "OrganizeAction", name=f"Snakemake of {about.name}", instrument=engine, agent=author,
        object=controls, result=run, **span,
    )  # fmt: skip
    graph.add(
        "./", "Dataset", name=about.name, description=about.text, datePublished=about.date, license=licence,
        author=author, mainEntity={"@id": WORKFLOW},
        mentions=[run, *({"@id": f"#job-{i}"} for i in range(len(jobs)))],
        hasPart=[{"@id": name} for name in graph.files], conformsTo=[
            graph.add(profile, "CreativeWork", name=name, version=profile.rpartition("/")[2])
            for profile, name in PROFILES.items()
        ],
    )  # fmt: skip
    graph.add(
        "ro-crate-metadata.json", "CreativeWork", about={"@id": "./"},
        conformsTo=[{"@id": "https://w3id.org/ro/crate/1.1"}, {"@id": "https://w3id.org/workflowhub/workflow-ro-crate/1.0"}],
    )  # fmt: skip
    return {"@context": CONTEXT, "@graph": list(graph.entities.values())}


def _job(graph: "_Graph", index: int, job: Job, author: Mapping[str, str]) -> dict[str, str]:
    """Add the execution of a job; returns the action that started it."""
    action = graph.add(
        f"#job-{index}", "CreateAction", name=f"{job.rule}: {job.outputs[0]}",
        description=f"A job of rule {job.rule}; log: {', '.join(job.logs) or 'none'}",
        instrument={"@id": f"#tool-{job.rule}"}, agent=author,
        object=graph.products(job.inputs), result=graph.products(job.outputs),
        startTime=job.started.isoformat(timespec="seconds"), endTime=job.ended.isoformat(timespec="seconds"),
    )  # fmt: skip
    return graph.add(
        f"#start-{index}", "ControlAction", name=f"start of {job.rule}", instrument={"@id": f"#step-{job.rule}"},
        object=action,
    )  # fmt: skip


class _Graph:
    """The entities of a crate, by identifier."""

    def __init__(self, bundle: Path) -> None:
        self._bundle = bundle
        self.entities: dict[str, dict[str, Any]] = {}
        self.files: list[str] = []
        """Paths in the bundle."""

    def add(self, identifier: str, kind: str | list[str], /, **properties: Any) -> dict[str, str]:
        """Add an entity, or properties of one; returns a reference to it."""
        single = {
            key: value[0] if isinstance(value, list) and len(value) == 1 else value for key, value in properties.items()
        }
        self.entities[identifier] = {**self.entities.get(identifier, {}), "@id": identifier, "@type": kind, **single}
        return {"@id": identifier}

    def file(self, path: str) -> None:
        """A file of the bundle, relative to it."""
        absolute = self._bundle / path
        self.add(
            path, "File", name=absolute.name, contentSize=str(absolute.stat().st_size), sha256=sha256(absolute),
            encodingFormat=FORMATS.get(absolute.suffix) or guess_type(path)[0] or _guess(absolute),
        )  # fmt: skip
        self.files.append(path)

    def parameter(self, name: str, text: str, path: str) -> dict[str, str]:
        """A parameter of the workflow, with the file that it has in this run."""
        reference = self.add(
            f"#{name}", "FormalParameter", name=name, description=text, additionalType="File",
            conformsTo={"@id": "https://bioschemas.org/profiles/FormalParameter/1.0-RELEASE"},
        )  # fmt: skip
        self.entities[path]["exampleOfWork"] = reference
        return reference

    def products(self, paths: Iterable[str]) -> list[dict[str, str]]:
        """Files of a job: as they are in the bundle, or a name only; of a Zarr store, the store."""
        found: dict[str, None] = {}
        for path in paths:
            store, zarr, _ = path.partition(".zarr/")
            name = next((name for name in (path, f"code/{path}") if name in self.entities), None)
            if name is None:
                product = store + ".zarr" if zarr else path
                name = f"#{product}"
                self.add(name, "CreativeWork", name=product, description="A file of the run that is not in this bundle")
            found[name] = None
        return [{"@id": name} for name in found]


def _guess(path: Path) -> str:
    """Media type of a file of unknown suffix."""
    with open(path, "rb") as file:
        return "application/octet-stream" if b"\0" in file.read(1024) else "text/plain"
