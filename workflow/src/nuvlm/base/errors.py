"""Errors that a user can fix, as opposed to bugs."""

from pathlib import Path
from typing import Literal


class InputError(Exception):
    """A file, an event or a setting that the workflow cannot use.

    The message names the file, the event if there is one, and the remedy. It is printed without a traceback
    (see :mod:`nuvlm.base.logs`).
    """


OnBadEvent = Literal["error", "skip"]
"""What a reader does with an event that cannot be used: stop with an error, or leave it out and count it."""


def remake(path: str | Path) -> str:
    """The remedy for a damaged file or folder that a rule of the workflow writes."""
    return f"Remove {path} and rerun: the workflow makes it again."
