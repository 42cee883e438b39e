"""Errors that a user can mend, told apart from bugs."""

from typing import Literal


class InputError(Exception):
    """A file, an event or a setting that the workflow cannot use.

    The message names the file, the event where there is one, and the remedy; it is printed without a
    traceback (see :mod:`nuvlm.base.logs`).
    """


OnBadEvent = Literal["error", "skip"]
"""What a reader does with an event that cannot be used: stop with its name, or leave it out and count it."""
