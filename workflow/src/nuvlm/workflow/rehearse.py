"""A rehearsal of a configuration on this machine: random weights, drawn events, a few steps of everything.

``python -m nuvlm.workflow.rehearse config/config.yaml config/paper.yaml --events 190000`` is what ``make rehearse``
starts. It needs no network, no licence and no data, and exits with status 1 if a stage does not fit in memory.
"""

import argparse
import logging
import shutil
import sys
from pathlib import Path
from typing import Any

from nuvlm.base.errors import InputError
from nuvlm.base.files import write_json
from nuvlm.base.logs import setup_logging
from nuvlm.models.table import conditions_of
from nuvlm.workflow.config import Config, parse_config
from nuvlm.workflow.plan import read_configuration

RESOURCES = Path("resources")
SAMPLE = 100_000
"""Events that hours are given for where the run's number is not known."""


def rehearse_run(
    config: Config,
    folder: Path,
    *,
    events: int | None = None,
    keep: bool = False,
    **extent: Any,
) -> str:
    """Rehearse the VLM of a configuration; ``rehearsal.json`` in `folder` holds all numbers.

    Args:
        config: the run's configuration.
        folder: for everything that is written; only rehearsal.json stays.
        events: of the whole run; None for those that it simulates, or if not known.
        keep: whether base model, adapter and predictions stay as well.
        extent: fields of :class:`nuvlm.models.vlm.rehearsal.Extent`.

    Returns:
        The summary, as text.

    Raises:
        InputError: an impossible setting, or a stage that does not fit in memory; the message says what to change.
    """
    # Heavy, and not needed to parse rules. Offline, before anything of Hugging Face is imported.
    import nuvlm.models.vlm.jobs  # noqa: F401
    from nuvlm.models.vlm.rehearsal import Extent, rehearse

    if config.input.source == "simulate":
        events = events or config.input.simulate.events
    folder.mkdir(parents=True, exist_ok=True)
    result = rehearse(
        config.vlm, folder, Extent(**extent), size=config.pixelmap.size, prompts=Path(config.vlm.prompts),
        vocabulary=Path(config.vlm.vocabulary), resources=RESOURCES,
    )  # fmt: skip
    result["hours"] = _hours(config, result, events or SAMPLE) | {"events": events or SAMPLE}
    write_json(folder / "rehearsal.json", result)
    if not keep:
        for path in folder.iterdir():
            if path.name != "rehearsal.json":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    text = render(config, result)
    failed = [stage["failed"] for stage in _stages(result) if "failed" in stage]
    if failed:
        raise InputError(f"{text}\n\n{failed[0]}")
    return text


def _stages(result: dict[str, Any]) -> list[dict[str, Any]]:
    found = [result["training"], *result.get("classifying", {}).values()]
    return found + [result["explaining"]] if "explaining" in result else found


def _hours(config: Config, result: dict[str, Any], events: int) -> dict[str, float]:
    from nuvlm.models.vlm.rehearsal import hours

    if any("failed" in stage for stage in _stages(result)):
        return {}
    share = 1 - config.dataset.validation - config.dataset.test
    return hours(
        result,
        train=events * share * config.vlm.finetune.epochs,
        classify=events * (1 - share) * len(conditions_of("vlm", config.conditions)),
        explain=min(events * (1 - share), config.report.explain),
    )


def render(config: Config, result: dict[str, Any]) -> str:
    """The summary as text."""
    training = result["training"]
    lines = [
        f"rehearsal of run {config.run} on {result['device']}: {result['tokens']} tokens an event, random weights",
        f"base model: {_gb(result['base']['bytes'])} on disk, {result['base']['seconds']:.0f} s to make",
    ]
    if "failed" not in training:
        lines += [
            f"training: {training['events_per_second']:.3g} events/s in {training['processes']} process(es), "
            f"{training['fraction_of_floor']:.0%} of the floor; peak {_gb(1e6 * training['peak_memory_mb'])} a process; "
            f"{training['trainable_parameters']:,} trainable parameters",
            f"checkpoint: {_gb(training['checkpoint_bytes'])}; "
            + (
                f"resumed from step {training['resumed_from_step']}"
                if training["resumed_from_step"]
                else "not resumed: the training ended before it could be interrupted"
            ),
        ]
    for method, cost in result.get("classifying", {}).items():
        if "failed" not in cost:
            lines.append(
                f"classifying by {method}: {1e3 * cost['seconds_per_event']:.3g} ms an event in batches of "
                f"{cost['batch_size']}, {cost['fraction_of_floor']:.0%} of the floor; peak "
                f"{_gb(1e6 * cost['peak_memory_mb'])}"
            )
    if "failed" not in result.get("explaining", {"failed": None}):
        cost = result["explaining"]
        lines.append(f"explaining: {cost['seconds_per_event']:.3g} s an event of {cost['pictures']} pictures in all")
    known = dict(result["hours"])
    events = known.pop("events")
    if known:
        each = ", ".join(f"{name} {hours:.3g} h" for name, hours in known.items())
        lines.append(f"{events:,} events: {each}, of one job each")
    return "\n".join(lines)


def _gb(size: float) -> str:
    return f"{size / 1e9:.3g} GB"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m nuvlm.workflow.rehearse", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, help="the configuration and overlays, later ones win")
    parser.add_argument("--events", type=int, help="of the whole run, where they are not simulated")
    parser.add_argument("--steps", type=int, default=5, help="of training, at least 3")
    parser.add_argument("--classify", type=int, default=64, help="events to classify")
    parser.add_argument("--explain", type=int, default=2, help="events to explain")
    parser.add_argument("--methods", nargs="+", choices=("score", "beam"), default=(), help="instead of the configured")
    parser.add_argument("--folder", type=Path, help="instead of results/{run}/rehearsal")
    parser.add_argument("--keep", action="store_true", help="base model, adapter and predictions")
    options = parser.parse_args(arguments)
    try:
        config = parse_config(read_configuration(options.files))
        folder = options.folder or Path("results", config.run, "rehearsal")
        setup_logging(folder.with_suffix(".log"))
        extent = {name: getattr(options, name) for name in ("steps", "classify", "explain")}
        print(
            rehearse_run(
                config, folder, events=options.events, keep=options.keep, methods=tuple(options.methods), **extent
            )
        )
    except InputError as error:
        logging.getLogger("nuvlm").error("%s", error)
        sys.exit(1)


if __name__ == "__main__":
    main()
