"""The checkpoint of a training: one sealed file, written atomically."""

import io
from pathlib import Path
from typing import Any

import torch

from nuvlm.base.errors import InputError
from nuvlm.base.files import SEAL, atomic_path, seal, verify
from nuvlm.models.checkpoints import check_fingerprint


def write_checkpoint(path: Path, fingerprint: dict[str, Any], state: dict[str, Any]) -> None:
    """Write `state` (tensors and plain values) and the training's :func:`nuvlm.models.checkpoints.fingerprint`."""
    content = io.BytesIO()  # torch's error for a full disk names neither the file nor the reason
    torch.save({"fingerprint": fingerprint, **state}, content)
    with atomic_path(path) as partial:
        # torch does not verify what it loads, and ignores bytes after the end of its archive.
        partial.write_bytes(content.getvalue() + SEAL)
        seal(partial)


def read_checkpoint(path: Path, fingerprint: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Read the checkpoint of an interrupted training.

    Args:
        fingerprint: of the training to resume.

    Returns:
        What :func:`write_checkpoint` was given.

    Raises:
        InputError: the file is damaged, holds anything but tensors and plain values, or belongs to another training.
    """
    content = verify(path, "checkpoint", require_seal=True)[: -len(SEAL)]
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
        found = dict(state["fingerprint"])
    except Exception as error:
        raise InputError(
            f"{path}: no readable checkpoint ({error}). Remove it and rerun: training starts again."
        ) from error
    check_fingerprint(path, found, fingerprint, remove=path)
    return state
