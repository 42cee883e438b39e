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
from nuvlm.workflow.config import Config, parse_config, read_overlays

RESOURCES = Path("resources")
SAMPLE = 100_000
"""Events that hours are given for where the run's number is not known."""


def rehearse_run(
    config: Config,
    folder: Path,
    *,
    events: int | None = None,
    keep: bool = False,
    prompts: Path | None = None,
    vocabulary: Path | None = None,
    resources: Path = RESOURCES,
    **extent: Any,
) -> str:
    """Rehearse the VLM of a configuration; ``rehearsal.json`` in `folder` holds all numbers.

    Args:
        config: the run's configuration.
        folder: for everything that is written; only rehearsal.json stays.
        events: of the whole run; None for those that it simulates, or if not known.
        keep: whether base model, adapter and predictions stay as well.
        prompts: texts of the prompts; None for the file that the configuration names.
        vocabulary: phrasings of rationales; None for the file that the configuration names.
        resources: folder of shapes, chat templates and settings of DeepSpeed.
        extent: fields of :class:`nuvlm.models.vlm.rehearsal.Extent`.

    Returns:
        The summary, as text.

    Raises:
        InputError: an impossible setting, or a stage that does not fit in memory; the message says what to change.
    """
    if not config.vlm.enabled:
        raise InputError(
            f"run {config.run}: vlm.enabled is false, and a rehearsal is of the VLM alone. Set vlm.enabled to true, or "
            "train without a rehearsal."
        )
    # Heavy, and not needed to parse rules. Offline, before anything of Hugging Face is imported.
    import nuvlm.models.vlm.jobs  # noqa: F401
    from nuvlm.models.vlm.rehearsal import Extent, rehearse

    if config.input.source == "simulate":
        events = events or config.input.simulate.events
    folder.mkdir(parents=True, exist_ok=True)
    result = rehearse(
        config.vlm,
        folder,
        Extent(**extent),
        size=config.pixelmap.size,
        zoom=config.pixelmap.zoom,
        prompts=prompts or Path(config.vlm.prompts),
        vocabulary=vocabulary or Path(config.vlm.vocabulary),
        resources=resources,
    )
    result |= _conclusions(config, result, events or SAMPLE)
    write_json(folder / "rehearsal.json", result)
    (folder / "stages.json").unlink()  # the next rehearsal measures again
    if not keep:
        for path in folder.iterdir():
            if path.name != "rehearsal.json":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    text = render(config, result)
    if not result["complete"]:
        raise InputError(text)
    return text


def _conclusions(config: Config, result: dict[str, Any], events: int) -> dict[str, Any]:
    from nuvlm.models.vlm.rehearsal import fractions_of_floor, hours

    share = 1 - config.dataset.validation - config.dataset.test
    return {
        "events": events,
        "fraction_of_floor": fractions_of_floor(result),
        "hours": hours(
            result,
            train=events * share * config.vlm.finetune.epochs,
            classify=events * (1 - share) * len(conditions_of("vlm", config.conditions)),
            explain=min(events * (1 - share), config.report.explain),
        ),
    }


def render(config: Config, result: dict[str, Any]) -> str:
    """The summary as text."""
    floor, base = result["floor"], result["base"]
    lines = [
        f"rehearsal of run {config.run} on {result['device']}: random weights, events of {floor['tokens']} tokens",
        f"base model: {_gb(base['bytes'])} on disk, made in {base['seconds']:.0f} s",
    ]
    for stage, cost in result.items():
        if isinstance(cost, dict) and "failed" in cost:
            lines.append(f"{stage}: does not fit in memory: {cost['failed']}. {cost.get('remedy', '')}".rstrip())
        elif stage == "reckoned":
            lines.append(f"training, reckoned: {_gb(cost['allocated'])} in tensors, {_gb(cost['on_gpu'])} of a GPU")
        elif stage == "training":
            lines += _training_lines(cost, result["fraction_of_floor"][stage])
        elif stage.startswith("classifying"):
            lines.append(
                f"{stage}: {1e3 * cost['seconds_per_event']:.3g} ms an event in batches of {cost['batch_size']}, "
                f"{result['fraction_of_floor'][stage]:.0%} of the floor; peak {_gb(1e6 * cost['peak_memory_mb'])}"
            )
        elif stage == "explaining":
            lines.append(
                f"{stage}: {cost['seconds_per_event']:.3g} s an event, {cost['pictures']} pictures; peak "
                f"{_gb(1e6 * cost['peak_memory_mb'])}"
            )
    if result["hours"]:
        each = ", ".join(f"{stage} {hours:.3g} h" for stage, hours in result["hours"].items())
        lines.append(f"the run of {result['events']:,} events, each stage in one job: {each}")
    return "\n".join(lines)


def _training_lines(cost: dict[str, Any], fraction: float) -> list[str]:
    resumed = cost["resumed_from_step"]
    return [
        f"training: {cost['events_per_second']:.3g} events/s in {cost['processes']} process(es), batches of "
        f"{cost['device_batch_size']}, {fraction:.0%} of the floor; peak {_gb(1e6 * cost['peak_memory_mb'])} a "
        f"process; {cost['trainable_parameters']:,} parameters trained",
        f"checkpoint: {_gb(cost['checkpoint_bytes'])}, adapter: {_gb(cost['adapter_bytes'])}; "
        + (f"resumed from step {resumed}" if resumed else "not resumed: it ended before it could be interrupted"),
    ]


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
        config = parse_config(read_overlays(options.files))
        folder = options.folder or Path("results", config.run, "rehearsal")
        setup_logging(folder.with_name(f"{folder.name}.log"))
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
