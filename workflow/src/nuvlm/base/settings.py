"""Base class of all settings models, and paths in settings."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict


def _expand(path: str) -> str:
    """Replace ``~`` and environment variables, as a shell does.

    Raises:
        ValueError: a variable is not set.
    """
    expanded = os.path.expandvars(os.path.expanduser(path))
    # expandvars leaves unknown variables as they are.
    unknown = None if Path(expanded).exists() else re.search(r"\$(\w+|\{\w+\})", expanded)
    if unknown:
        raise ValueError(f"'{path}': the environment has no variable {unknown[0]}. Set it, or write the path")
    return expanded


def flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Key, with dots, and value of all settings in sections; an empty section is a value."""
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


FilePath = Annotated[str, AfterValidator(_expand)]
"""Path of a file, or a pattern of paths."""


class Settings(BaseModel):
    """Immutable, and strict about unknown keys: a misspelt setting is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
