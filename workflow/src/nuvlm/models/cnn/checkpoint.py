"""The checkpoint of a CNN's training: all that is needed to go on, in one file that is whole or not there."""

import io
import json
from pathlib import Path
from typing import Any

import torch

from nuvlm.base.errors import InputError
from nuvlm.base.files import SEAL, atomic_path, seal, verify


def write_checkpoint(path: Path, fingerprint: str, state: dict[str, Any]) -> None:
    """Write `state`, tensors and plain values, with the `fingerprint` of what it belongs to."""
    content = io.BytesIO()  # what torch says of a full disk names neither the file nor the reason
    torch.save({"fingerprint": fingerprint, **state}, content)
    with atomic_path(path) as partial:
        # Behind the last byte that torch reads: it does not check what it loads.
        partial.write_bytes(content.getvalue() + SEAL)
        seal(partial)


def read_checkpoint(path: Path, fingerprint: str, device: torch.device) -> dict[str, Any]:
    """What a stopped training has left.

    Args:
        fingerprint: JSON of what the training that goes on depends on, as :func:`write_checkpoint` was given it.

    Returns:
        ``network``, ``optimizer`` and ``best``, states as torch has them; ``history`` and ``progress``, JSON.

    Raises:
        InputError: it is damaged, holds anything but tensors and plain values, or belongs to another training; the
            message names what differs.
    """
    content = verify(path, "checkpoint", require_seal=True)[: -len(SEAL)]
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
        found = json.loads(state["fingerprint"])
    except Exception as error:
        raise InputError(
            f"{path}: no readable checkpoint ({error}). Remove it and rerun: training starts anew."
        ) from error
    expected = json.loads(fingerprint)
    if differ := sorted(key for key in {*found, *expected} if found.get(key) != expected.get(key)):
        raise InputError(
            f"{path}: the checkpoint was made with other settings or data ({', '.join(differ)}). Remove it to train "
            "anew, or restore the configuration it was made with."
        )
    return state
