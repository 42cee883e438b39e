"""Time, memory and electric energy of classification and training, as the jobs measured them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nuvlm.base.files import read_json
from nuvlm.models.predictions import read_costs

TRAINING_KEYS = (
    "network", "seconds", "events", "epochs", "parameters", "trainable_parameters", "peak_memory_mb", "device",
)  # fmt: skip


def summarise_cost(parts: Sequence[str | Path], training: Path) -> dict[str, Any]:
    """Summarise the cost of one model.

    Args:
        parts: prediction tables under one condition; each has a cost file beside it.
        training: training.json; missing keys become None.

    Returns:
        `ms_per_sample` (all parts together, model loaded and warm), `joules_per_sample` (None if a part has no value),
        `energy_measured` (in all parts; otherwise an estimate) and `energy_how`, `peak_memory_mb` (of the
        largest part), `load_seconds` (mean of the parts), `events`, `device`, `batch_size`, and `training`.
    """
    costs = read_costs(parts)
    events = sum(cost.events for cost in costs)
    measured = read_json(training)
    joules = [cost.energy_j for cost in costs if cost.energy_j is not None]
    return {
        "events": events,
        "ms_per_sample": 1000 * sum(cost.seconds for cost in costs) / events if events else None,
        "joules_per_sample": sum(joules) / events if events and len(joules) == len(costs) else None,
        "energy_measured": all(cost.energy_measured for cost in costs),
        "energy_how": ", or ".join(sorted({cost.energy_how for cost in costs})),
        "peak_memory_mb": max(cost.peak_memory_mb for cost in costs),
        "load_seconds": sum(cost.load_seconds for cost in costs) / len(costs),
        "device": ", ".join(sorted({cost.device for cost in costs})),
        "batch_size": max(cost.batch_size for cost in costs),
        "training": {key: measured.get(key) for key in TRAINING_KEYS},
    }
