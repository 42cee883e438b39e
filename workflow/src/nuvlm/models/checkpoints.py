"""What the trainings of all networks share: stopping on SIGTERM, and the training that a checkpoint belongs to."""

import hashlib
import signal
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from nuvlm.base.errors import InputError
from nuvlm.base.files import sha256
from nuvlm.base.manifest import MANIFEST

LONGEST_VALUE = 40
"""Of a text in a message; digests are longer."""


class SigtermFlag:
    """Records SIGTERM instead of ending the process, within its ``with`` block."""

    def __init__(self) -> None:
        self.received = False

    def __enter__(self) -> "SigtermFlag":
        self._previous = signal.signal(signal.SIGTERM, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, self._previous)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = True


def fingerprint(settings: Mapping[str, Any], events: Path, stores: Mapping[str, Path]) -> dict[str, Any]:
    """Identifies a training: its settings, and digests of the event table and the pixel maps.

    Args:
        settings: name -> plain value; those that cannot change the result are left out.
        events: the event table.
        stores: shard name -> pixel-map store.
    """
    images = hashlib.sha256()
    for shard, store in sorted(stores.items()):
        images.update(f"{shard}\n{sha256(store / MANIFEST)}\n".encode())
    return {**settings, "events": sha256(events), "pixel maps": images.hexdigest()}


def check_fingerprint(checkpoint: Path, found: Mapping[str, Any], expected: Mapping[str, Any], remove: Path) -> None:
    """Refuse to resume from the checkpoint of another training.

    Args:
        checkpoint: for the message.
        found: fingerprint in the checkpoint.
        expected: fingerprint of the training to resume.
        remove: file or folder to remove to start again.

    Raises:
        InputError: the fingerprints differ; the message names the keys, and both values where they are no digests.
    """
    differ = [
        _difference(key, found.get(key), expected.get(key))
        for key in sorted({*found, *expected})
        if found.get(key) != expected.get(key)
    ]
    if differ:
        raise InputError(
            f"{checkpoint}: the checkpoint was made with other settings or data ({'; '.join(differ)}). Remove "
            f"{remove} to start again, or restore the configuration that it was made with."
        )


def _difference(key: str, found: object, expected: object) -> str:
    if all(isinstance(value, bool | int | float) or len(str(value)) < LONGEST_VALUE for value in (found, expected)):
        return f"{key} {found}, now {expected}"
    return key
