"""What a run will take, before anything is submitted: jobs, hours, disk, files and memory, from measured rates.

``python -m nuvlm.workflow.plan config/config.yaml config/paper.yaml --events 190000 --events-per-shard 1000`` is what
``make plan`` starts.
"""

import argparse
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from nuvlm.base.errors import InputError
from nuvlm.base.settings import Settings
from nuvlm.dataset.validation import kept_validation
from nuvlm.models.jobs import Request
from nuvlm.models.table import FAMILIES, conditions_of, family_name
from nuvlm.models.vlm.settings import OWN_BASES
from nuvlm.report.names import figure_names
from nuvlm.sources.table import SOURCES
from nuvlm.workflow import paths, shards
from nuvlm.workflow.config import Config, parse_config, read_overlays

RESOURCES = Path("resources")
RATES = RESOURCES / "throughput.yaml"
CORES_PER_NODE, GPUS_PER_NODE = 64, 4
"""Of the nodes that node-hours are counted in, if all of a node is in use."""

BUILDERS = {"scratch": "build_base_model", "smollm": "build_grafted_base", "random": "build_random_base"}
"""vlm.base -> rule that makes the base model."""


class Rate(Settings):
    """What an event, a step or a job costs, as measured once."""

    of: str
    """A rule, or what is stored."""
    value: float
    unit: str
    """Begins with ``GPU-s`` where it is time on a GPU."""
    at: Mapping[str, float] = Field(default_factory=dict)
    """Sizes that it was measured at: pixel_mm, size."""
    source: str | None = None
    """Value of input.source, if the rate holds for one source only."""
    machine: str
    command: str
    """What measured it; of a published rate, what was published."""
    published: bool = False
    file: str | None = None
    key: str | None = None
    """Where in `file` the value stands in full, in seconds, milliseconds or bytes."""


@dataclass(frozen=True)
class Stage:
    """Jobs of a rule."""

    rule: str
    jobs: int
    hours: float | None
    """Of one job; None where nobody has measured it."""
    threads: int
    gpus: int
    published: bool
    """The hours follow from a published rate."""

    @property
    def core_hours(self) -> float:
        return self.jobs * (self.hours or 0) * self.threads

    @property
    def gpu_hours(self) -> float:
        return self.jobs * (self.hours or 0) * self.gpus


WITH_COUNTERFACTUALS = 3.35
"""Events with their counterfactuals for each event, of the sampler's final states."""


@dataclass(frozen=True)
class Plan:
    config: Config
    events: int
    shards: int
    stages: tuple[Stage, ...]
    disk: Mapping[str, tuple[float, int]]
    """Folder or file of the run -> bytes and number of files."""
    memory: Mapping[str, float]
    """What a job keeps of all events -> bytes."""

    @property
    def node_hours(self) -> float:
        """Hours of full nodes; a job with GPUs takes its share of a node's GPUs, whatever its threads."""
        cpu = sum(stage.core_hours for stage in self.stages if not stage.gpus)
        return cpu / CORES_PER_NODE + sum(stage.gpu_hours for stage in self.stages) / GPUS_PER_NODE


def read_rates(path: str | Path = RATES) -> list[Rate]:
    """Read the table of rates.

    Raises:
        InputError: it is missing, or not a table of rates.
    """
    try:
        return TypeAdapter(list[Rate]).validate_python(yaml.safe_load(Path(path).read_text()))
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise InputError(f"{path}: no table of rates ({error}). Restore it from the repository.") from error


def jobs_by_rule(config: Config, shards: int) -> dict[str, int]:
    """Rule -> number of jobs of the whole workflow, in the order of the stages."""
    jobs: dict[str, int] = {}
    if config.events_from is not None:
        jobs["take_events"] = 1
    else:
        if config.input.source == "simulate":
            jobs["simulate_events"] = shards
        elif SOURCES[config.input.source].reader is not None:
            jobs["convert"] = shards
        if config.input.has_voxels:
            jobs |= {"smear_and_downsample": shards, "crop_displays": shards}
        jobs["list_events"] = 1
    if config.uses_base and config.vlm.base == "hub":
        jobs["fetch_base_model"] = 1
    elif config.uses_base and config.models_from is None:
        jobs[BUILDERS[config.vlm.base]] = 1
    for name, section in config.families.items():
        models = section.training_names(name)
        if config.models_from is None:
            jobs[FAMILIES[name].training_rule] = len(models)
            if name == "cnn" and config.cnn.classify_backend == "onnx":
                jobs["export_cnn"] = len(models)
        conditions = 1 if config.conditions_in_one_job else len(conditions_of(name, config.conditions))
        jobs[f"classify_{name}"] = len(models) * conditions * config.dataset.parts
    for model in config.explained_models:
        jobs[f"explain_{family_name(model)}"] = jobs.get(f"explain_{family_name(model)}", 0) + config.dataset.parts
    return jobs | {"evaluate": 1, "draw_figures": 1, "collect_events": 1, "write_report": 1}


def requests(config: Config) -> dict[str, Request]:
    """Rule -> what its jobs ask for, for the rules of the model families; the first model stands for its family."""
    found: dict[str, Request] = {}
    for name, section in config.families.items():
        found[FAMILIES[name].training_rule] = section.training(section.model_names(name)[0])
        found[f"classify_{name}"] = section.classification()
        explanation = section.explanation()
        if explanation is not None:
            found[f"explain_{name}"] = explanation
    return found


def make_plan(config: Config, events: int, shards: int, rates: Iterable[Rate]) -> Plan:
    """Reckon what a run over `events` events in `shards` shards takes.

    Hours of a job are its events times the rate, over the GPUs that it asks for, plus what starting a job costs. The
    epochs of a CNN are counted in full, although it may stop early; where recipes have different numbers of them, a
    job's hours are the mean.
    """
    if config.input.simulate.counterfactuals:
        events = round(events * WITH_COUNTERFACTUALS)
    table = list(rates)
    start = _nearest(table, "start", config, gpus=False)
    asked = requests(config)
    stages = []
    for rule, jobs in jobs_by_rule(config, shards).items():
        gpus = asked[rule].gpus if rule in asked else 0
        work = _work(config, rule, events, jobs)
        # The tiny model's rates do not hold for one a hundred times larger.
        measured = not (rule.endswith(("_vlm", "_vlm_head")) and config.vlm.base == "smollm")
        rate = _nearest(table, rule, config, gpus=_on_gpus(config, rule)) if measured else None
        hours = None
        if work == 0 or rate is not None:
            seconds = 0.0 if rate is None else work * rate.value / max(gpus, 1)
            hours = (seconds + (start.value if start else 0)) / 3600
        published = rate is not None and rate.published
        stages.append(Stage(rule, jobs, hours, asked[rule].threads if rule in asked else 1, gpus, published))
    disk, memory = _disk(table, config, events, shards), _memory(table, config, events)
    return Plan(config, events, shards, tuple(stages), disk, memory)


def expected_seconds(config: Config, shards: int, rates: str | Path = RATES) -> dict[str, float]:
    """Rule -> seconds of one of its jobs, from the measured rates, for the console's time left.

    Empty where the number of events is not known before the files are read. Rules without a rate are left out.
    """
    if config.input.source != "simulate" or config.systematics is not None:
        return {}
    plan = make_plan(config, config.input.simulate.events, shards, read_rates(rates))
    return {stage.rule: 3600 * stage.hours for stage in plan.stages if stage.hours is not None}


def _on_gpus(config: Config, rule: str) -> bool:
    """Whether a rule's model is of the size that was measured on GPUs alone."""
    family = _family(rule)
    if family is not None and FAMILIES[family].on_base:
        return config.vlm.base not in OWN_BASES
    return family == "cnn" and config.cnn.gpus > 0


def _family(rule: str) -> str | None:
    """The family of models that a rule is of."""
    rules = {f"{job}_{name}": name for name in FAMILIES for job in ("classify", "explain")}
    return (rules | {row.training_rule: name for name, row in FAMILIES.items()}).get(rule)


def _nearest(rates: list[Rate], of: str, config: Config, gpus: bool) -> Rate | None:
    """The rate measured at the sizes that are nearest in ratio."""
    wanted = {"pixel_mm": config.display.pixel_mm, "size": config.pixelmap.size}
    found = [
        rate
        for rate in rates
        if rate.of == of and rate.unit.startswith("GPU") == gpus and rate.source in (None, config.input.source)
    ]
    return min(
        found, key=lambda rate: sum(abs(math.log(wanted[name] / size)) for name, size in rate.at.items()), default=None
    )


def _numbers(config: Config, events: int) -> tuple[float, float]:
    """Events that are trained on, and those that are classified, of all `events`."""
    if config.models_from:
        return 0.0, events
    dataset = config.dataset
    validation, test = events * dataset.validation, events * dataset.test
    train = events - validation - test
    if dataset.train_events is not None and dataset.train_events < train:
        validation = kept_validation(validation, train, dataset.train_events)
        train = float(dataset.train_events)
    return train, validation + test


def _work(config: Config, rule: str, events: int, jobs: int) -> float:
    """Units of a rule's rate in one of its jobs; 0 for jobs that take no longer than their start."""
    train, classified = _numbers(config, events)
    if rule in ("simulate_events", "convert", "smear_and_downsample"):
        return events / jobs
    if rule.startswith("classify_"):
        tables = len(conditions_of(rule.removeprefix("classify_"), config.conditions))
        return classified / config.dataset.parts * (tables if config.conditions_in_one_job else 1)
    if rule.startswith("explain_"):
        section = config.families[rule.removeprefix("explain_")]
        return min(classified, config.report.explain) / config.dataset.parts * section.explanations_per_event
    for name, section in config.families.items():
        if rule == FAMILIES[name].training_rule:
            factors = [section.training(model).events_factor for model in section.model_names(name)]
            return train * sum(factors) / len(factors)
    return {
        "list_events": float(events),
        "build_base_model": float(config.vlm.scratch.steps),
        "build_grafted_base": float(config.vlm.smollm.steps),
        "build_random_base": 1.0,
        **dict.fromkeys(("export_cnn", "evaluate", "draw_figures", "collect_events"), 1.0),
    }.get(rule, 0.0)


def _disk(rates: list[Rate], config: Config, events: int, shards: int) -> dict[str, tuple[float, int]]:
    def size(of: str) -> float:
        rate = _nearest(rates, of, config, gpus=False)
        return rate.value if rate else math.nan

    _, classified = _numbers(config, events)
    jobs = jobs_by_rule(config, shards)
    trained = [name for names in config.trainings.values() for name in names]
    tables = sum(len(conditions_of(name, config.conditions)) for name in trained) * config.dataset.parts
    maps = len(paths.store_files("", paths.PIXEL_MAP_ARRAYS))
    disk: dict[str, tuple[float, int]] = {}
    if config.input.has_voxels and config.events_from is None:
        if config.input.source != "voxels":
            disk["voxels"] = (events * size("voxels"), shards)
        displays = len(paths.store_files("", paths.DISPLAY_ARRAYS))
        disk["displays"] = (events * size("displays"), shards * displays)
    if config.events_from is None:
        disk["pixelmaps"] = (events * size("pixelmaps"), shards * maps)
    disk["events.parquet"] = (events * size("events.parquet"), 1)
    predicted = classified / config.dataset.parts * tables
    disk["predictions"] = (predicted * size("predictions"), 2 * tables)
    figures = len(figure_names(config.models, config.conditions))
    # of a megabyte each whatever the events: not worth a rate
    disk["figures, report"] = (2e6, figures + 4)
    # A file of a few hundred bytes for each output.
    outputs = sum(files for _, files in disk.values())
    disk[".snakemake/metadata"] = (1e3 * outputs, outputs)
    disk["logs, benchmarks"] = (1e4 * sum(jobs.values()), 2 * sum(jobs.values()))
    return disk


def _memory(rates: list[Rate], config: Config, events: int) -> dict[str, float]:
    memory = {}
    train, classified = _numbers(config, events)
    for of, number in (("event table", events), ("training images", train + classified - events * config.dataset.test)):
        rate = _nearest(rates, of, config, gpus=False)
        if rate and (of == "event table" or config.models_from is None):
            memory[of] = number * rate.value
    return memory


def render(plan: Plan) -> str:
    """The plan as text, for a terminal."""
    lines = [f"run '{plan.config.run}': {plan.events:,} events in {plan.shards:,} shards", ""]
    lines.append(f"{'rule':22}{'jobs':>9}{'h a job':>11}{'core-hours':>13}{'GPU-hours':>12}")
    for stage in plan.stages:
        mark = "*" if stage.published else ""
        hours = "?" if stage.hours is None else _hours(stage.hours) + mark
        core = "?" if stage.hours is None else _hours(stage.core_hours) + mark
        gpu = _hours(stage.gpu_hours) + mark if stage.gpus else ""
        lines.append(f"{stage.rule:22}{stage.jobs:>9,}{hours:>11}{core:>13}{gpu:>12}")
    total = sum(stage.jobs for stage in plan.stages)
    core_hours, gpu_hours = (sum(getattr(stage, of) for stage in plan.stages) for of in ("core_hours", "gpu_hours"))
    lines.append(f"{'total':22}{total:>9,}{'':>11}{_hours(core_hours):>13}{_hours(gpu_hours):>12}")
    lines.append(f"{_hours(plan.node_hours)} node-hours, of nodes with {CORES_PER_NODE} cores and {GPUS_PER_NODE} GPUs")
    if any(stage.published for stage in plan.stages):
        lines.append("* from a rate that arXiv 2509.08461 publishes: not measured here")
    unknown = [stage.rule for stage in plan.stages if stage.hours is None]
    if unknown:
        lines.append(f"? not measured on such a machine: {', '.join(unknown)}; totals leave them out")
    lines += ["", f"{'on disk':22}{'files':>9}"]
    for name, (size, files) in plan.disk.items():
        lines.append(f"{name:22}{files:>9,}{_bytes(size):>11}")
    sizes, counts = zip(*plan.disk.values(), strict=True)
    lines.append(f"{'total':22}{sum(counts):>9,}{_bytes(sum(sizes)):>11}")
    lines += ["", "in the memory of one job"]
    lines += [f"{name:22}{_bytes(size):>20}" for name, size in plan.memory.items()]
    if "vlm" in plan.config.families and plan.config.models_from is None:
        lines += ["", *plan.config.vlm.finetune.cautions] if plan.config.vlm.finetune.cautions else []
    return "\n".join(lines)


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.2g}"


def _bytes(size: float) -> str:
    """Decimal units, three digits; what nobody has measured is NaN."""
    if math.isnan(size):
        return "?"
    power = min(int(math.log10(max(size, 1)) // 3), 4)
    return f"{size / 1000**power:,.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m nuvlm.workflow.plan", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, help="the configuration and overlays, later ones win")
    parser.add_argument("--events", type=int, help="how many; needed where they are not simulated here")
    parser.add_argument("--events-per-shard", type=int, help="instead of counting the files of input.files")
    options = parser.parse_args(arguments)
    try:
        plan = plan_of(read_overlays(options.files), options.events, options.events_per_shard, read_rates())
        print(render(plan))
        memory = gpu_memory(plan.config)
        if memory:
            print(memory)
    except InputError as error:
        sys.exit(str(error))


def gpu_memory(config: Config) -> str:
    """Memory of a GPU in fine-tuning and classifying with the VLM, reckoned from the model's shape, as text.

    That of other models on the base is not reckoned, which the text says of the VLM head.

    Raises:
        InputError: it does not fit the card that vlm.gpu_memory_gib states; the message says what would.
    """
    vlm, head = config.vlm, config.vlm_head
    if vlm.base in OWN_BASES:
        return ""
    text = _memory_of_vlm(config) if vlm.enabled and vlm.finetune.gpus else ""
    return text + "\nmemory of a GPU, vlm_head: not reckoned" * (head.enabled and head.gpus > 0)


def _memory_of_vlm(config: Config) -> str:
    vlm = config.vlm
    # Heavy: only where it is asked for.
    import nuvlm.models.vlm.jobs  # noqa: F401
    from nuvlm.models.vlm.footprint import GIB, on_gpu
    from nuvlm.models.vlm.random_base import shape_folder
    from nuvlm.models.vlm.rehearsal import reckon, what_fits

    sources: dict[str, Any] = {"size": config.pixelmap.size, "zoom": config.pixelmap.zoom}
    sources |= {"prompts": Path(config.vlm.prompts), "vocabulary": Path(config.vlm.vocabulary), "resources": RESOURCES}
    try:
        shape_folder(vlm.hub.model, RESOURCES / "shapes")
    except InputError as error:
        return f"\nmemory of a GPU: not reckoned. {error}"
    found, classifying = reckon(vlm, **sources)
    lines = ["", "in the memory of a GPU, reckoned (docs/vlm.md)"]
    card = vlm.gpu_memory_gib
    of = "" if card is None else f" of {card:g}"
    for name, size in found.parts().items():
        lines.append(f"{f'training: {name}':22}{size / GIB:>14.1f} GiB")
    lines.append(f"{'training: all':22}{found.on_gpu() / GIB:>14.1f} GiB{of}")
    lines.append(f"{'classifying: weights':22}{on_gpu(classifying) / GIB:>14.1f} GiB{of}")
    text = "\n".join(lines)
    if card is None:
        return text
    if found.on_gpu() > card * GIB:
        raise InputError(
            f"{text}\nfinetune_vlm does not fit a GPU of {card:g} GiB (vlm.gpu_memory_gib). "
            f"{what_fits(vlm, card * GIB, **sources)}"
        )
    if on_gpu(classifying) > card * GIB:
        raise InputError(
            f"{text}\nclassify_vlm does not fit a GPU of {card:g} GiB (vlm.gpu_memory_gib). Set vlm.classify."
            "merge_adapter to false, and vlm.finetune.quantization to nf4."
        )
    return text


def plan_of(values: Mapping[str, Any], events: int | None, events_per_shard: int | None, rates: Iterable[Rate]) -> Plan:
    """The plan of a configuration.

    Args:
        values: the merged YAML.
        events: how many; None for those that the configuration simulates.
        events_per_shard: None for those of simulated shards, or as many shards as there are files.
        rates: what an event costs.

    Raises:
        InputError: an impossible configuration, or an unknown number of events or files.
    """
    config = parse_config(values)
    if config.systematics is not None:
        raise InputError(
            "systematics: a run of make systematics is not planned. List its jobs with a dry run: snakemake -n "
            "--configfile results/<run>_systematics/systematics.yaml"
        )
    simulate = config.input.simulate
    if config.input.source == "simulate":
        events, events_per_shard = events or simulate.events, events_per_shard or simulate.events_per_shard
    if events is None:
        raise InputError(
            f"how many events source '{config.input.source}' has is not known before its files are read: add "
            "EVENTS=190000, say."
        )
    n = -(-events // events_per_shard) if events_per_shard else len(shards.list_shards(config))
    return make_plan(config, events, n, rates)


if __name__ == "__main__":
    main()
