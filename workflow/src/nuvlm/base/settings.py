"""The base of all settings models."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Frozen, and strict about unknown keys: a misspelt setting is an error, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
